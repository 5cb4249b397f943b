//! Choices from bytes.

use std::time::Duration;

use iot_conn::mqtt::{PacketId, QoS, ReasonCode};

/// The bytes that decide. When they are used up, every choice is 0.
pub(super) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn u8(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    /// As many bytes as the next one says, or what is left.
    pub(super) fn bytes(&mut self) -> &'a [u8] {
        let count = usize::from(self.u8());
        self.take(count)
    }

    pub(super) fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub(super) fn flag(&mut self) -> bool {
        self.u8() & 1 == 1
    }

    pub(super) fn qos(&mut self) -> QoS {
        match self.u8() % 3 {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        }
    }

    /// One of a few, so that packets meet.
    pub(super) fn packet_id(&mut self) -> PacketId {
        PacketId::new(u16::from(self.u8() % 6) + 1).unwrap_or(PacketId::MIN)
    }

    pub(super) fn reason(&mut self) -> ReasonCode {
        ReasonCode::ALL[usize::from(self.u8()) % ReasonCode::ALL.len()]
    }

    pub(super) fn seconds(&mut self) -> Duration {
        Duration::from_secs(u64::from(self.u8()))
    }
}
