//! What a client knows of one connection.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use iot_core::time::Monotonic;

use super::event::Token;
use super::options::ClientOptions;
use super::outbound::ServerLimits;
use crate::mqtt::{
    packet::{ConnAck, PacketId, Publish, QoS},
    reason::ReasonCode,
    wire::DecodeError,
};

/// What lives as long as a connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) server: ServerLimits,
    /// Silence after which the client pings; `None` if keep alive is off.
    ping_after: Option<Duration>,
    pub(super) ping_deadline: Option<Monotonic>,
    pub(super) last_sent: Monotonic,
    pub(super) last_received: Monotonic,
    pub(super) requests: Vec<Request>,
    /// How many of the bytes that wait for the transport may be messages and requests.
    pub(super) own_bytes: usize,
    /// QoS 2 messages of this connection without a PUBREL: what receive maximum bounds. Those of earlier connections
    /// do not count (MQTT 5 §4.9).
    pub(super) unreleased: BTreeSet<PacketId>,
    /// Topic names by alias; index 0 is alias 1.
    pub(super) aliases: Vec<Option<Arc<str>>>,
}

#[derive(Debug)]
pub(super) struct Request {
    pub(super) packet_id: PacketId,
    pub(super) token: Token,
    pub(super) kind: RequestKind,
    pub(super) filters: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestKind {
    Subscribe,
    Unsubscribe,
}

impl Link {
    pub(super) fn new(ack: ConnAck<'_>, options: &ClientOptions, keep_alive_s: u16, now: Monotonic) -> Self {
        let properties = ack.properties;
        let receive_maximum = properties.receive_maximum().unwrap_or(u16::MAX);
        let packet_bytes_max = properties.maximum_packet_size().unwrap_or(u32::MAX);
        Self {
            server: ServerLimits {
                in_flight_max: usize::from(receive_maximum.min(options.in_flight_max)),
                packet_bytes_max: packet_bytes_max as usize,
                maximum_qos: properties.maximum_qos().unwrap_or(QoS::ExactlyOnce),
                retain_available: properties.retain_available().unwrap_or(true),
            },
            ping_after: (keep_alive_s > 0).then(|| Duration::from_secs(keep_alive_s.into()) * 3 / 4),
            ping_deadline: None,
            last_sent: now,
            last_received: now,
            requests: Vec::new(),
            own_bytes: 0,
            unreleased: BTreeSet::new(),
            aliases: vec![None; usize::from(options.topic_alias_maximum)],
        }
    }

    /// Three quarters of the keep alive after the last packet in either direction: the server must hear the client
    /// [MQTT-3.1.2-20], and a client that only sends would not learn that nobody listens.
    pub(super) fn ping_due(&self) -> Option<Monotonic> {
        let silent_since = self.last_sent.min(self.last_received);
        self.ping_after.map(|ping_after| silent_since.plus(ping_after))
    }

    /// The topic name of a message, by its alias if it has one (MQTT 5 §3.3.2.3.4).
    pub(super) fn topic(&mut self, publish: &Publish<'_>) -> Result<Arc<str>, DecodeError> {
        let Some(alias) = publish.properties.topic_alias() else { return Ok(publish.topic.into()) };
        let Some(known) = self.aliases.get_mut(usize::from(alias) - 1) else {
            return Err(DecodeError::new(
                ReasonCode::TopicAliasInvalid,
                "a topic alias is not above the receiver's maximum [MQTT-3.1.2-26]",
            ));
        };
        if !publish.topic.is_empty() {
            *known = Some(publish.topic.into());
        }
        known.clone().ok_or(DecodeError::protocol("a topic alias was set before it is used (MQTT 5 §3.3.2.3.4)"))
    }
}
