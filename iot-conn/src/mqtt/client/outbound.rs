//! Messages on their way to the server.

use std::collections::{BTreeSet, VecDeque};

use bytes::BytesMut;

use super::event::{Event, NotPublished, Token};
use super::options::Publication;
use crate::mqtt::{
    codec::encode,
    packet::{Ack, Packet, PacketId, QoS, Version},
    reason::ReasonCode,
    wire::DecodeError,
};

/// While so many bytes wait for the transport, messages stay in their queue.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;

/// What a server takes, as its CONNACK said.
#[derive(Debug)]
pub(super) struct ServerLimits {
    pub(super) in_flight_max: usize,
    pub(super) packet_bytes_max: usize,
    pub(super) maximum_qos: QoS,
    pub(super) retain_available: bool,
}

impl ServerLimits {
    fn refusal(&self, publication: &Publication) -> Option<NotPublished> {
        if publication.qos > self.maximum_qos {
            return Some(NotPublished::QoSNotSupported);
        }
        (publication.retain && !self.retain_available).then_some(NotPublished::RetainNotSupported)
    }
}

/// The packet identifiers in use.
#[derive(Debug, Default)]
pub(super) struct PacketIds {
    last: u16,
    used: BTreeSet<PacketId>,
}

impl PacketIds {
    /// A free identifier, `None` if all 65,535 are in use.
    pub(super) fn allocate(&mut self) -> Option<PacketId> {
        for _ in 0..=u16::MAX {
            self.last = self.last.wrapping_add(1);
            if let Some(id) = PacketId::new(self.last)
                && self.used.insert(id)
            {
                return Some(id);
            }
        }
        None
    }

    pub(super) fn release(&mut self, id: PacketId) {
        self.used.remove(&id);
    }
}

/// A message that the server has not answered completely.
#[derive(Debug)]
struct InFlight {
    packet_id: PacketId,
    token: Token,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Waits for PUBACK or PUBREC; `dup` if it was sent before.
    Publish { publication: Publication, dup: bool },
    /// Waits for PUBCOMP.
    Release,
}

/// Messages that wait, and those in flight.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    queue: VecDeque<(Token, Publication)>,
    /// In the order of their first sending, which is kept when they are sent again [MQTT-4.6.0-1].
    in_flight: VecDeque<InFlight>,
    /// How many of `in_flight`, from its front, were sent on this connection.
    sent: usize,
}

impl Outbound {
    pub(super) fn push(&mut self, token: Token, publication: Publication) {
        self.queue.push_back((token, publication));
    }

    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// A new connection: everything in flight is to be sent again.
    pub(super) fn resume(&mut self) {
        self.sent = 0;
    }

    /// A new session: what may be sent twice, or was never sent, becomes a new message in its old place.
    pub(super) fn restart(&mut self, ids: &mut PacketIds, events: &mut VecDeque<Event>) {
        self.sent = 0;
        let mut lost = VecDeque::new();
        while let Some(InFlight { packet_id, token, state }) = self.in_flight.pop_back() {
            ids.release(packet_id);
            match state {
                State::Publish { publication, dup } if publication.qos == QoS::AtLeastOnce || !dup => {
                    self.queue.push_front((token, publication));
                }
                _ => lost.push_front(Event::NotPublished { token, why: NotPublished::SessionLost }),
            }
        }
        events.extend(lost);
    }

    /// Writes what the server takes now.
    pub(super) fn write(
        &mut self,
        server: &ServerLimits,
        version: Version,
        ids: &mut PacketIds,
        out: &mut BytesMut,
        events: &mut VecDeque<Event>,
    ) {
        while out.len() < OUTPUT_BYTES_MAX {
            if self.sent < self.in_flight.len() {
                if self.sent >= server.in_flight_max {
                    return;
                }
                self.write_in_flight(server, version, ids, out, events);
                continue;
            }
            let Some((token, publication)) = self.queue.pop_front() else { return };
            if publication.qos == QoS::AtMostOnce {
                if let Err(why) = write(&publication, None, false, server, version, out) {
                    events.push_back(Event::NotPublished { token, why });
                }
                continue;
            }
            let packet_id = if self.in_flight.len() < server.in_flight_max { ids.allocate() } else { None };
            let Some(packet_id) = packet_id else {
                self.queue.push_front((token, publication));
                return;
            };
            let state = State::Publish { publication, dup: false };
            self.in_flight.push_back(InFlight { packet_id, token, state });
        }
    }

    /// Writes the first in flight that was not sent on this connection.
    fn write_in_flight(
        &mut self,
        server: &ServerLimits,
        version: Version,
        ids: &mut PacketIds,
        out: &mut BytesMut,
        events: &mut VecDeque<Event>,
    ) {
        let Some(InFlight { packet_id, token, state }) = self.in_flight.get_mut(self.sent) else { return };
        let written = match state {
            State::Publish { publication, dup } => {
                let dup = std::mem::replace(dup, true);
                write(publication, Some(*packet_id), dup, server, version, out)
            }
            State::Release => {
                let release = Packet::PubRel(Ack::new(*packet_id, ReasonCode::Success));
                encode(&release, version, out).map_err(|_| NotPublished::TooLarge)
            }
        };
        match written {
            Ok(()) => self.sent += 1,
            Err(why) => {
                events.push_back(Event::NotPublished { token: *token, why });
                self.remove(self.sent, ids);
            }
        }
    }

    /// PUBACK (MQTT 5 §3.4). One that answers nothing is ignored.
    pub(super) fn acknowledge(&mut self, ack: Ack<'_>, ids: &mut PacketIds) -> Result<Option<Event>, DecodeError> {
        match self.find(ack.packet_id) {
            None => Ok(None),
            Some((index, State::Publish { publication, .. })) if publication.qos == QoS::AtLeastOnce => {
                Ok(self.published(index, ack.reason, ids))
            }
            Some(_) => Err(DecodeError::protocol("a PUBACK answers a message of QoS 1 (MQTT 5 §3.4)")),
        }
    }

    /// PUBREC (MQTT 5 §3.5): what is over, or the PUBREL to answer.
    pub(super) fn receive(&mut self, ack: Ack<'_>, ids: &mut PacketIds) -> Result<Recorded, DecodeError> {
        match self.find(ack.packet_id) {
            None => Ok(Recorded::Release(ReasonCode::PacketIdentifierNotFound)),
            Some((_, State::Publish { publication, .. })) if publication.qos != QoS::ExactlyOnce => {
                Err(DecodeError::protocol("a PUBREC answers a message of QoS 2 (MQTT 5 §3.5)"))
            }
            Some((index, State::Publish { .. })) if ack.reason.is_error() => {
                Ok(Recorded::Over(self.published(index, ack.reason, ids)))
            }
            Some((_, state)) => {
                *state = State::Release;
                Ok(Recorded::Release(ReasonCode::Success))
            }
        }
    }

    /// PUBCOMP (MQTT 5 §3.7). One that answers nothing is ignored.
    pub(super) fn complete(&mut self, ack: Ack<'_>, ids: &mut PacketIds) -> Result<Option<Event>, DecodeError> {
        match self.find(ack.packet_id) {
            None => Ok(None),
            // The server does not know the message any more after a recovery: it is done with it (MQTT 5 §3.7.2.1).
            Some((index, State::Release)) if ack.reason == ReasonCode::PacketIdentifierNotFound => {
                Ok(self.published(index, ReasonCode::Success, ids))
            }
            Some((index, State::Release)) => Ok(self.published(index, ack.reason, ids)),
            Some(_) => Err(DecodeError::protocol("a PUBCOMP answers a PUBREL (MQTT 5 §3.7)")),
        }
    }

    fn find(&mut self, packet_id: PacketId) -> Option<(usize, &mut State)> {
        let mut entries = self.in_flight.iter_mut().enumerate();
        entries.find(|(_, entry)| entry.packet_id == packet_id).map(|(index, entry)| (index, &mut entry.state))
    }

    fn published(&mut self, index: usize, reason: ReasonCode, ids: &mut PacketIds) -> Option<Event> {
        let token = self.remove(index, ids)?.token;
        Some(Event::Published { token, reason })
    }

    fn remove(&mut self, index: usize, ids: &mut PacketIds) -> Option<InFlight> {
        let entry = self.in_flight.remove(index)?;
        ids.release(entry.packet_id);
        if index < self.sent {
            self.sent -= 1;
        }
        Some(entry)
    }
}

/// What follows a PUBREC.
#[derive(Debug)]
pub(super) enum Recorded {
    Over(Option<Event>),
    Release(ReasonCode),
}

fn write(
    publication: &Publication,
    packet_id: Option<PacketId>,
    dup: bool,
    server: &ServerLimits,
    version: Version,
    out: &mut BytesMut,
) -> Result<(), NotPublished> {
    if let Some(why) = server.refusal(publication) {
        return Err(why);
    }
    let start = out.len();
    publication.write(packet_id, dup, version, out).map_err(|_| NotPublished::TooLarge)?;
    if out.len() - start > server.packet_bytes_max {
        out.truncate(start);
        return Err(NotPublished::TooLarge);
    }
    Ok(())
}
