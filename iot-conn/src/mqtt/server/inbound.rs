//! What the client has sent and waits to have answered.

use std::collections::VecDeque;

use crate::mqtt::{
    packet::{PacketId, PacketKind, QoS, Version},
    reason::ReasonCode,
    wire::DecodeError,
};

use super::event::{Text, Ticket};
use super::limits::ConnectionLimits;

/// The client's PUBLISH, PUBREL, SUBSCRIBE and UNSUBSCRIBE packets without an answer, and the topic aliases.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    tickets: u64,
    receive_maximum: u16,
    /// How many more messages an MQTT 5 client may send: its send quota, mirrored (MQTT 5 §4.9).
    quota: u16,
    /// Most clients are idle most of the time: these have none.
    open: Option<Box<Open>>,
}

#[derive(Debug, Default)]
struct Open {
    /// QoS 1, oldest first: PUBACKs leave in this order (MQTT 5 §4.6).
    acks: VecDeque<Pending>,
    /// QoS 2, oldest first, with those that were sent again: PUBRECs leave in this order (MQTT 5 §4.6).
    recs: VecDeque<Pending>,
    duplicates: usize,
    /// QoS 2 messages until their PUBCOMP, ordered by packet identifier.
    exchanges: Vec<Exchange>,
    releasing: usize,
    requests: Vec<Request>,
    /// Topic names by alias; index 0 is alias 1.
    aliases: Vec<Option<Text>>,
}

impl Open {
    fn is_empty(&self) -> bool {
        let is_answered = self.acks.is_empty() && self.recs.is_empty() && self.requests.is_empty();
        is_answered && self.exchanges.is_empty() && self.aliases.is_empty()
    }

    fn find(&self, packet_id: PacketId) -> Result<usize, usize> {
        self.exchanges.binary_search_by_key(&packet_id, |exchange| exchange.packet_id)
    }
}

#[derive(Debug)]
struct Pending {
    ticket: u64,
    packet_id: PacketId,
    is_duplicate: bool,
    answer: Option<ReasonCode>,
}

#[derive(Debug)]
struct Exchange {
    packet_id: PacketId,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The PUBLISH has not been answered.
    Unfinished,
    /// The PUBREC has been sent.
    Received,
    /// The PUBREL has not been answered.
    Releasing(u64),
}

/// A SUBSCRIBE or UNSUBSCRIBE without its answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    pub(super) ticket: Ticket,
    pub(super) kind: PacketKind,
    pub(super) packet_id: PacketId,
    pub(super) filters: usize,
}

/// What a PUBLISH with QoS 1 or 2 is.
pub(super) enum Arrival {
    New(Ticket),
    Duplicate,
}

/// What a PUBREL is.
pub(super) enum ReleaseArrival {
    New(Ticket),
    Duplicate,
    Unknown,
}

impl Inbound {
    pub(super) fn new(receive_maximum: u16, received: Vec<u16>) -> Self {
        let mut exchanges: Vec<_> = received
            .into_iter()
            .filter_map(PacketId::new)
            .map(|packet_id| Exchange { packet_id, stage: Stage::Received })
            .collect();
        exchanges.sort_unstable_by_key(|exchange| exchange.packet_id);
        exchanges.dedup_by_key(|exchange| exchange.packet_id);
        let open = (!exchanges.is_empty()).then(|| Box::new(Open { exchanges, ..Open::default() }));
        Self { tickets: 0, receive_maximum, quota: receive_maximum.max(1), open }
    }

    fn open(&mut self) -> &mut Open {
        self.open.get_or_insert_default()
    }

    /// Gives back memory that nothing is in.
    pub(super) fn rest(&mut self) {
        if self.open.as_ref().is_some_and(|open| open.is_empty()) {
            self.open = None;
        }
    }

    /// How many messages may be unanswered.
    pub(super) fn receive_maximum(&self) -> u16 {
        self.receive_maximum.max(1)
    }

    /// What the caller has to answer before more is taken: all of it for 3.1.1, and for MQTT 5 what its send quota
    /// does not bound.
    pub(super) fn load(&self, version: Version) -> usize {
        let Some(open) = &self.open else { return 0 };
        let unbounded = open.requests.len() + open.releasing;
        match version {
            Version::V311 => unbounded + open.acks.len() + open.recs.len(),
            Version::V5 => unbounded + open.duplicates,
        }
    }

    fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    // === Messages ===

    /// A PUBLISH with this packet identifier.
    pub(super) fn publish(
        &mut self,
        qos: QoS,
        packet_id: PacketId,
        version: Version,
        limits: &ConnectionLimits,
    ) -> Result<Arrival, DecodeError> {
        if qos == QoS::AtLeastOnce {
            self.take_quota(version)?;
            let ticket = self.ticket();
            self.open().acks.push_back(Pending { ticket, packet_id, is_duplicate: false, answer: None });
            return Ok(Arrival::New(Ticket(ticket)));
        }
        match self.open().find(packet_id) {
            Ok(at) => self.publish_again(at, packet_id),
            Err(at) => {
                if version == Version::V311 && self.open().exchanges.len() >= usize::from(limits.unreleased_max.max(1))
                {
                    return Err(DecodeError::new(
                        ReasonCode::QuotaExceeded,
                        "a client releases QoS 2 messages before it sends more of them than the server keeps",
                    ));
                }
                self.take_quota(version)?;
                let ticket = self.ticket();
                let open = self.open();
                open.exchanges.insert(at, Exchange { packet_id, stage: Stage::Unfinished });
                open.recs.push_back(Pending { ticket, packet_id, is_duplicate: false, answer: None });
                Ok(Arrival::New(Ticket(ticket)))
            }
        }
    }

    /// A QoS 2 message that is known. Its answer stands behind that of the first, which decides whether it holds an
    /// error.
    fn publish_again(&mut self, at: usize, packet_id: PacketId) -> Result<Arrival, DecodeError> {
        let ticket = self.ticket();
        let open = self.open();
        if matches!(open.exchanges[at].stage, Stage::Releasing(_)) {
            return Err(DecodeError::protocol(
                "a PUBLISH is not sent again after its PUBREL, nor its packet identifier used before the PUBCOMP \
                 [MQTT-4.3.3-6] [MQTT-2.2.1-3]",
            ));
        }
        let failed = open.recs.iter().rev().find(|pending| pending.packet_id == packet_id).and_then(|p| p.answer);
        let answer = Some(failed.unwrap_or(ReasonCode::Success));
        open.recs.push_back(Pending { ticket, packet_id, is_duplicate: true, answer });
        open.duplicates += 1;
        Ok(Arrival::Duplicate)
    }

    fn take_quota(&mut self, version: Version) -> Result<(), DecodeError> {
        if version == Version::V5 {
            self.quota = self.quota.checked_sub(1).ok_or(DecodeError::new(
                ReasonCode::ReceiveMaximumExceeded,
                "a client has no more messages unacknowledged than receive maximum [MQTT-3.3.4-7]",
            ))?;
        }
        Ok(())
    }

    fn give_quota(&mut self) {
        self.quota = self.quota.saturating_add(1).min(self.receive_maximum());
    }

    /// The caller's answer to a message.
    pub(super) fn answer(&mut self, ticket: Ticket, reason: ReasonCode) {
        let Some(open) = &mut self.open else { return };
        if let Ok(at) = open.acks.binary_search_by_key(&ticket.0, |pending| pending.ticket) {
            open.acks[at].answer.get_or_insert(reason);
            return;
        }
        let Ok(at) = open.recs.binary_search_by_key(&ticket.0, |pending| pending.ticket) else { return };
        let packet_id = open.recs[at].packet_id;
        if open.recs[at].answer.is_some() {
            return;
        }
        for pending in open.recs.range_mut(at..).filter(|pending| pending.packet_id == packet_id) {
            pending.answer = Some(reason);
        }
    }

    /// The next PUBACK or PUBREC whose turn it is.
    pub(super) fn next_answer(&mut self) -> Option<(PacketKind, PacketId, ReasonCode)> {
        let open = self.open.as_mut()?;
        if let Some(reason) = open.acks.front().and_then(|pending| pending.answer) {
            let pending = open.acks.pop_front()?;
            self.give_quota();
            return Some((PacketKind::PubAck, pending.packet_id, reason));
        }
        let reason = open.recs.front().and_then(|pending| pending.answer)?;
        let pending = open.recs.pop_front()?;
        if pending.is_duplicate {
            open.duplicates -= 1;
        } else if let Ok(at) = open.find(pending.packet_id) {
            if reason.is_error() {
                open.exchanges.remove(at);
                self.give_quota();
            } else {
                open.exchanges[at].stage = Stage::Received;
            }
        }
        Some((PacketKind::PubRec, pending.packet_id, reason))
    }

    /// A PUBREL with this packet identifier.
    pub(super) fn release(&mut self, packet_id: PacketId) -> Result<ReleaseArrival, DecodeError> {
        let ticket = self.ticket();
        let Some(open) = &mut self.open else { return Ok(ReleaseArrival::Unknown) };
        let Ok(at) = open.find(packet_id) else { return Ok(ReleaseArrival::Unknown) };
        match open.exchanges[at].stage {
            Stage::Unfinished => Err(DecodeError::protocol("a PUBREL answers a PUBREC [MQTT-4.3.3-4]")),
            Stage::Releasing(_) => Ok(ReleaseArrival::Duplicate),
            Stage::Received => {
                open.exchanges[at].stage = Stage::Releasing(ticket);
                open.releasing += 1;
                Ok(ReleaseArrival::New(Ticket(ticket)))
            }
        }
    }

    /// The caller's answer to a PUBREL: the packet identifier to send the PUBCOMP for.
    pub(super) fn released(&mut self, ticket: Ticket) -> Option<PacketId> {
        let open = self.open.as_mut()?;
        let at = open.exchanges.iter().position(|exchange| exchange.stage == Stage::Releasing(ticket.0))?;
        open.releasing -= 1;
        let packet_id = open.exchanges.remove(at).packet_id;
        self.give_quota();
        Some(packet_id)
    }

    // === Requests ===

    pub(super) fn request(&mut self, kind: PacketKind, packet_id: PacketId, filters: usize) -> Ticket {
        let ticket = Ticket(self.ticket());
        self.open().requests.push(Request { ticket, kind, packet_id, filters });
        ticket
    }

    /// Takes out the request of this ticket, if it is of this kind.
    pub(super) fn answer_request(&mut self, ticket: Ticket, kind: PacketKind) -> Option<Request> {
        let open = self.open.as_mut()?;
        let at = open.requests.iter().position(|request| request.ticket == ticket && request.kind == kind)?;
        Some(open.requests.remove(at))
    }

    // === Topic aliases ===

    /// Lets `alias` stand for `topic`. The topic is copied: an alias outlives the packet that set it, whose payload
    /// must not stay in memory.
    pub(super) fn set_alias(&mut self, alias: u16, topic: &str, limits: &ConnectionLimits) -> Result<(), DecodeError> {
        let at = alias_index(alias, limits)?;
        let aliases = &mut self.open().aliases;
        if at >= aliases.len() {
            aliases.resize_with(at + 1, || None);
        }
        let slot = &mut aliases[at];
        if slot.as_ref().is_none_or(|known| *known != *topic) {
            *slot = Some(Text::from(topic));
        }
        Ok(())
    }

    /// What `alias` stands for.
    pub(super) fn alias(&self, alias: u16, limits: &ConnectionLimits) -> Result<Text, DecodeError> {
        let at = alias_index(alias, limits)?;
        self.open.as_ref().and_then(|open| open.aliases.get(at).cloned().flatten()).ok_or(DecodeError::new(
            ReasonCode::TopicAliasInvalid,
            "a topic alias is set before it is used (MQTT 5 §3.3.2.3.4)",
        ))
    }
}

fn alias_index(alias: u16, limits: &ConnectionLimits) -> Result<usize, DecodeError> {
    if alias == 0 || alias > limits.topic_alias_maximum {
        return Err(DecodeError::new(
            ReasonCode::TopicAliasInvalid,
            "a topic alias is not above topic alias maximum [MQTT-3.3.2-9]",
        ));
    }
    Ok(usize::from(alias) - 1)
}
