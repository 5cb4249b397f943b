//! What is on its way to the client.

use std::num::NonZeroU16;

use bytes::Bytes;
use iot_core::message::{Properties, QoS};

use crate::mqtt::{reason::ReasonCode, wire::DecodeError};

/// A message for the client.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::exhaustive_structs, reason = "made by the caller")]
pub struct Delivery<'a> {
    /// A topic name.
    pub topic: &'a str,
    /// The application's bytes.
    pub payload: &'a Bytes,
    /// The quality of service to send with.
    pub qos: QoS,
    /// The RETAIN flag (MQTT 5 §3.3.1.3).
    pub retain: bool,
    /// Whether it may have been sent on an earlier connection; ignored with QoS 0.
    pub dup: bool,
    /// Ignored with QoS 0.
    pub packet_id: PacketId,
    /// The caller's name for the message; comes back with its events. Ignored with QoS 0.
    pub tag: u64,
    /// The identifiers of the subscriptions it is sent for; MQTT 5 only.
    pub identifiers: &'a [u32],
    /// What goes with the message; MQTT 5 only.
    pub properties: Option<&'a Properties>,
    /// What is left of the message's lifetime in seconds; MQTT 5 only.
    pub expiry_s: Option<u32>,
}

/// The packet identifier to send a message with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a message was sent before or was not")]
pub enum PacketId {
    /// Any that is free.
    Assign,
    /// This one: the message was sent with it on an earlier connection [MQTT-4.4.0-1].
    Use(NonZeroU16),
}

/// What became of a [`Delivery`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
#[expect(clippy::exhaustive_enums, reason = "a caller that leaves one out loses messages")]
pub enum Delivered {
    /// It is in the output.
    Written,
    /// Not now: the window is used up, the packet identifier is in use, the output is at its bound, or there is no
    /// connection.
    Full,
    /// Never: the packet would be larger than the client's Maximum Packet Size, or a field longer than 65,535 bytes.
    TooLarge,
}

/// Messages of QoS 1 and 2 that the client has not acknowledged.
#[derive(Debug)]
pub(super) struct Outbound {
    window_max: u16,
    /// Ordered by packet identifier.
    flights: Vec<Flight>,
    last_id: NonZeroU16,
}

#[derive(Debug)]
struct Flight {
    packet_id: NonZeroU16,
    tag: u64,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// QoS 1: a PUBACK is to come.
    AtLeastOnce,
    /// QoS 2: a PUBREC is to come.
    ExactlyOnce,
    /// QoS 2: the PUBREC came, the caller has not released the message.
    Received,
    /// QoS 2: the PUBREL was sent, a PUBCOMP is to come.
    Released,
}

/// What a PUBREC asks for.
pub(super) enum Recorded {
    Received {
        tag: u64,
    },
    Finished {
        tag: u64,
    },
    /// PUBREL with this reason.
    Release(ReasonCode),
    Nothing,
}

impl Outbound {
    pub(super) fn new(window_max: u16) -> Self {
        Self { window_max, flights: Vec::new(), last_id: NonZeroU16::MAX }
    }

    /// Gives back memory that nothing is in.
    pub(super) fn rest(&mut self) {
        if self.flights.is_empty() {
            self.flights = Vec::new();
        }
    }

    pub(super) fn window(&self) -> usize {
        usize::from(self.window_max).saturating_sub(self.flights.len())
    }

    /// The packet identifier to use, if the window and the identifier are free.
    pub(super) fn free_id(&self, wanted: PacketId) -> Option<NonZeroU16> {
        if self.window() == 0 {
            return None;
        }
        match wanted {
            PacketId::Use(packet_id) => self.find(packet_id).is_err().then_some(packet_id),
            PacketId::Assign => {
                let mut packet_id = self.last_id;
                for _ in 0..=self.flights.len() {
                    packet_id = packet_id.checked_add(1).unwrap_or(NonZeroU16::MIN);
                    if self.find(packet_id).is_err() {
                        return Some(packet_id);
                    }
                }
                None
            }
        }
    }

    /// A PUBLISH was written with what [`Outbound::free_id`] gave.
    pub(super) fn sent(&mut self, delivery: &Delivery<'_>, packet_id: NonZeroU16) {
        if delivery.packet_id == PacketId::Assign {
            self.last_id = packet_id;
        }
        let stage = if delivery.qos == QoS::ExactlyOnce { Stage::ExactlyOnce } else { Stage::AtLeastOnce };
        self.insert(Flight { packet_id, tag: delivery.tag, stage });
    }

    /// A PUBACK: the tag of what it ends.
    pub(super) fn acknowledged(&mut self, packet_id: NonZeroU16) -> Result<Option<u64>, DecodeError> {
        let Ok(at) = self.find(packet_id) else { return Ok(None) };
        match self.flights[at].stage {
            Stage::AtLeastOnce => Ok(Some(self.flights.remove(at).tag)),
            _ => Err(DecodeError::protocol("a PUBACK answers a PUBLISH with QoS 1 (MQTT 5 §3.4)")),
        }
    }

    /// A PUBREC. One that comes again is answered again, once the caller has released the message.
    pub(super) fn recorded(&mut self, packet_id: NonZeroU16, reason: ReasonCode) -> Result<Recorded, DecodeError> {
        let Ok(at) = self.find(packet_id) else {
            return Ok(match reason.is_error() {
                true => Recorded::Nothing,
                false => Recorded::Release(ReasonCode::PacketIdentifierNotFound),
            });
        };
        let flight = &mut self.flights[at];
        match flight.stage {
            Stage::AtLeastOnce => Err(DecodeError::protocol("a PUBREC answers a PUBLISH with QoS 2 (MQTT 5 §3.5)")),
            Stage::ExactlyOnce if reason.is_error() => Ok(Recorded::Finished { tag: self.flights.remove(at).tag }),
            Stage::ExactlyOnce => {
                flight.stage = Stage::Received;
                Ok(Recorded::Received { tag: flight.tag })
            }
            Stage::Released if !reason.is_error() => Ok(Recorded::Release(ReasonCode::Success)),
            Stage::Received | Stage::Released => Ok(Recorded::Nothing),
        }
    }

    /// The caller releases a message; whether a PUBREL is to be sent.
    pub(super) fn release(&mut self, packet_id: NonZeroU16, tag: u64) -> bool {
        match self.find(packet_id) {
            Ok(at) => {
                let flight = &mut self.flights[at];
                let releases = flight.stage == Stage::Received;
                if releases {
                    *flight = Flight { packet_id, tag, stage: Stage::Released };
                }
                releases
            }
            Err(_) => {
                self.insert(Flight { packet_id, tag, stage: Stage::Released });
                true
            }
        }
    }

    /// A PUBCOMP: the tag of what it ends. One that comes again, for an identifier that is in use anew, ends nothing.
    pub(super) fn completed(&mut self, packet_id: NonZeroU16) -> Option<u64> {
        let at = self.find(packet_id).ok()?;
        (self.flights[at].stage == Stage::Released).then(|| self.flights.remove(at).tag)
    }

    fn find(&self, packet_id: NonZeroU16) -> Result<usize, usize> {
        self.flights.binary_search_by_key(&packet_id, |flight| flight.packet_id)
    }

    fn insert(&mut self, flight: Flight) {
        if let Err(at) = self.find(flight.packet_id) {
            self.flights.insert(at, flight);
        }
    }
}
