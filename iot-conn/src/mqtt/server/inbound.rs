use std::collections::{BTreeSet, VecDeque};

use super::event::Ticket;
use crate::mqtt::{packet::QoS, reason::ReasonCode};

/// What the client has sent and the node has not answered. Answers leave in the order of what they answer (MQTT 5 §4.6).
#[derive(Debug, Default)]
pub(super) struct Inbound {
    /// QoS 1 without PUBACK.
    acks: VecDeque<Pending>,
    /// QoS 2 without PUBREC.
    receipts: VecDeque<Pending>,
    /// QoS 2 from PUBLISH until PUBCOMP.
    held: BTreeSet<u16>,
    /// PUBREL without PUBCOMP.
    releases: VecDeque<Pending>,
}

#[derive(Debug)]
struct Pending {
    ticket: Ticket,
    packet_id: u16,
    answer: Option<ReasonCode>,
}

/// What a QoS 2 PUBLISH is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    New,
    /// The node has it and has not answered.
    Unanswered,
    /// It was answered.
    Answered,
}

/// An answer that may leave.
pub(super) struct Answer {
    pub(super) packet_id: u16,
    pub(super) reason: ReasonCode,
}

impl Inbound {
    pub(super) fn resume(&mut self, received: Vec<u16>) {
        self.held = received.into_iter().collect();
    }

    /// How many messages count against the Receive Maximum (MQTT 5 §4.9).
    pub(super) fn unfinished(&self) -> usize {
        self.acks.len() + self.held.len()
    }

    pub(super) fn arrival(&self, packet_id: u16) -> Arrival {
        match self.held.contains(&packet_id) {
            false => Arrival::New,
            true if self.receipts.iter().any(|pending| pending.packet_id == packet_id) => Arrival::Unanswered,
            true => Arrival::Answered,
        }
    }

    pub(super) fn publish(&mut self, ticket: Ticket, packet_id: u16, qos: QoS) {
        let pending = Pending { ticket, packet_id, answer: None };
        if qos == QoS::ExactlyOnce {
            self.held.insert(packet_id);
            self.receipts.push_back(pending);
        } else {
            self.acks.push_back(pending);
        }
    }

    /// The QoS of the message that a ticket stands for, and its answer noted.
    pub(super) fn answer(&mut self, ticket: Ticket, reason: ReasonCode) -> Option<QoS> {
        if note(&mut self.acks, ticket, reason) {
            return Some(QoS::AtLeastOnce);
        }
        note(&mut self.receipts, ticket, reason).then_some(QoS::ExactlyOnce)
    }

    /// The next PUBACK or PUBREC that may leave.
    pub(super) fn next_answer(&mut self, qos: QoS) -> Option<Answer> {
        if qos == QoS::AtLeastOnce {
            return next(&mut self.acks);
        }
        let answer = next(&mut self.receipts)?;
        if answer.reason.is_error() {
            self.held.remove(&answer.packet_id);
        }
        Some(answer)
    }

    /// A PUBREL came; `false` if no such message is held.
    pub(super) fn release(&mut self, ticket: Ticket, packet_id: u16) -> bool {
        let known = self.held.contains(&packet_id);
        let repeated = self.releases.iter().any(|pending| pending.packet_id == packet_id);
        if known && !repeated {
            self.releases.push_back(Pending { ticket, packet_id, answer: None });
        }
        known
    }

    /// Whether a PUBREL for this message waits for its answer.
    pub(super) fn is_releasing(&self, packet_id: u16) -> bool {
        self.releases.iter().any(|pending| pending.packet_id == packet_id)
    }

    pub(super) fn released(&mut self, ticket: Ticket) {
        note(&mut self.releases, ticket, ReasonCode::Success);
    }

    /// The next PUBCOMP that may leave.
    pub(super) fn next_completion(&mut self) -> Option<Answer> {
        let answer = next(&mut self.releases)?;
        self.held.remove(&answer.packet_id);
        Some(answer)
    }
}

fn note(queue: &mut VecDeque<Pending>, ticket: Ticket, reason: ReasonCode) -> bool {
    // Tickets grow, and so does the queue.
    let Ok(at) = queue.binary_search_by_key(&ticket.0, |pending| pending.ticket.0) else { return false };
    queue[at].answer.get_or_insert(reason);
    true
}

fn next(queue: &mut VecDeque<Pending>) -> Option<Answer> {
    let reason = queue.front()?.answer?;
    queue.pop_front().map(|pending| Answer { packet_id: pending.packet_id, reason })
}
