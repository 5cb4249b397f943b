use std::{collections::HashMap, num::NonZeroU16};

use super::event::PacketId;
use crate::mqtt::{packet::QoS, reason::ReasonCode};

/// What the client was sent at QoS 1 and 2 and has not finished.
#[derive(Debug)]
pub(super) struct Outbound {
    flights: HashMap<u16, Flight>,
    max: usize,
    last_assigned: u16,
}

#[derive(Debug)]
struct Flight {
    tag: u64,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// QoS 1, waiting for PUBACK.
    Acknowledge,
    /// QoS 2, waiting for PUBREC.
    Receive,
    /// QoS 2, PUBREC has come, the node has yet to say `release`.
    Hold,
    /// QoS 2, waiting for PUBCOMP.
    Complete,
}

/// What an acknowledgement of the client means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Acknowledged {
    Finished {
        tag: u64,
    },
    Received {
        tag: u64,
    },
    /// PUBREC again for a message that was released.
    ReleaseAgain,
    /// PUBREC again for a message that the node holds.
    Held,
    Unknown,
}

impl Outbound {
    pub(super) fn new(max: u16) -> Self {
        Self { flights: HashMap::new(), max: usize::from(max.max(1)), last_assigned: 0 }
    }

    pub(super) fn window(&self) -> usize {
        self.max.saturating_sub(self.flights.len())
    }

    /// A packet identifier for a message; `None` if there is no window or the identifier is in use.
    pub(super) fn identify(&self, wanted: PacketId) -> Option<NonZeroU16> {
        if self.window() == 0 {
            return None;
        }
        match wanted {
            PacketId::Use(id) => (!self.flights.contains_key(&id.get())).then_some(id),
            PacketId::Assign => {
                let following = (1..=u16::MAX).map(|step| self.last_assigned.wrapping_add(step));
                following.filter_map(NonZeroU16::new).find(|id| !self.flights.contains_key(&id.get()))
            }
        }
    }

    pub(super) fn sent(&mut self, id: NonZeroU16, tag: u64, qos: QoS) {
        let stage = if qos == QoS::ExactlyOnce { Stage::Receive } else { Stage::Acknowledge };
        self.flights.insert(id.get(), Flight { tag, stage });
        self.last_assigned = id.get();
    }

    pub(super) fn released(&mut self, id: u16, tag: u64) {
        self.flights.insert(id, Flight { tag, stage: Stage::Complete });
    }

    pub(super) fn acknowledged(&mut self, id: u16) -> Acknowledged {
        self.finish(id, Stage::Acknowledge)
    }

    pub(super) fn completed(&mut self, id: u16) -> Acknowledged {
        self.finish(id, Stage::Complete)
    }

    fn finish(&mut self, id: u16, stage: Stage) -> Acknowledged {
        if self.flights.get(&id).is_none_or(|flight| flight.stage != stage) {
            return Acknowledged::Unknown;
        }
        self.flights.remove(&id).map_or(Acknowledged::Unknown, |flight| Acknowledged::Finished { tag: flight.tag })
    }

    pub(super) fn received(&mut self, id: u16, reason: ReasonCode) -> Acknowledged {
        let Some(flight) = self.flights.get_mut(&id) else { return Acknowledged::Unknown };
        match flight.stage {
            Stage::Receive if reason.is_error() => {
                let tag = flight.tag;
                self.flights.remove(&id);
                Acknowledged::Finished { tag }
            }
            Stage::Receive => {
                flight.stage = Stage::Hold;
                Acknowledged::Received { tag: flight.tag }
            }
            Stage::Hold => Acknowledged::Held,
            Stage::Complete => Acknowledged::ReleaseAgain,
            Stage::Acknowledge => Acknowledged::Unknown,
        }
    }
}
