use std::{fmt, num::NonZeroU16};

use bytes::Bytes;
use bytestring::ByteString;
use iot_core::{
    message::{Properties, QoS},
    secret::Secret,
};

use crate::mqtt::{packet::RetainHandling, packet::Version, reason::ReasonCode};

/// Names something that the node has yet to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(pub(super) u64);

/// What the client wants, or what became of what it was sent.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// It asks to be let in: answer with `accept` or `refuse`.
    Connect(Box<ConnectRequest>),
    /// It publishes: answer with `published`, if there is a ticket.
    Publish(PublishRequest),
    /// It releases a QoS 2 message of its own (PUBREL): answer with `released`.
    Release {
        /// For the answer.
        ticket: Ticket,
        /// Of the message.
        packet_id: u16,
    },
    /// It subscribes: answer with `subscribed`.
    Subscribe {
        /// For the answer.
        ticket: Ticket,
        /// In its order, well formed.
        filters: Vec<(String, SubscribeOptions)>,
        /// The subscription identifier (MQTT 5 §3.8.2.1.2).
        identifier: Option<u32>,
    },
    /// It unsubscribes: answer with `unsubscribed`.
    Unsubscribe {
        /// For the answer.
        ticket: Ticket,
        /// In its order, well formed.
        filters: Vec<String>,
    },
    /// It has received a QoS 2 message (PUBREC): answer with `release` once that is durable.
    Received {
        /// As given with the delivery.
        tag: u64,
        /// Of the message.
        packet_id: u16,
    },
    /// It has a message (PUBACK, PUBCOMP), or does not want it (an error in PUBACK or PUBREC).
    Finished {
        /// As given with the delivery.
        tag: u64,
        /// What it said.
        reason: ReasonCode,
    },
    /// The connection is over; the last event.
    Closed(Cause),
}

/// A CONNECT.
pub struct ConnectRequest {
    /// Which MQTT it speaks.
    pub version: Version,
    /// Empty asks for one to be assigned.
    pub client_id: String,
    /// Begin a new session.
    pub clean_start: bool,
    /// 0 turns it off.
    pub keep_alive_s: u16,
    /// As sent.
    pub username: Option<String>,
    /// As sent.
    pub password: Option<Secret>,
    /// What to publish when it is lost.
    pub will: Option<WillRequest>,
    /// How long it wants its session to outlive the connection, in seconds; `u32::MAX` for ever. In 3.1.1 that, or 0 with a
    /// clean session.
    pub session_expiry_s: u32,
}

impl fmt::Debug for ConnectRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectRequest")
            .field("version", &self.version)
            .field("client_id", &self.client_id)
            .field("clean_start", &self.clean_start)
            .finish_non_exhaustive()
    }
}

/// A will.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WillRequest {
    /// A topic name.
    pub topic: String,
    /// The application's bytes.
    pub payload: Bytes,
    /// To publish with.
    pub qos: QoS,
    /// To publish with.
    pub retain: bool,
    /// How long to wait after the connection is lost, in seconds.
    pub delay_s: u32,
    /// How long it is worth delivering, in seconds.
    pub expiry_s: Option<u32>,
    /// What travels with it.
    pub properties: Properties,
}

/// A PUBLISH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishRequest {
    /// For the answer; `None` with QoS 0.
    pub ticket: Option<Ticket>,
    /// `None` with QoS 0.
    pub packet_id: Option<u16>,
    /// The topic name, its alias resolved.
    pub topic: ByteString,
    /// The application's bytes, a slice of the packet.
    pub payload: Bytes,
    /// As sent.
    pub qos: QoS,
    /// As sent.
    pub retain: bool,
    /// As sent.
    pub dup: bool,
    /// How long it is worth delivering, in seconds.
    pub expiry_s: Option<u32>,
    /// What travels with it.
    pub properties: Properties,
}

/// What a client asks of one subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubscribeOptions {
    /// The highest that is delivered.
    pub qos: QoS,
    /// Not what it publishes itself.
    pub no_local: bool,
    /// Keep the retain flag as published.
    pub retain_as_published: bool,
    /// What to do with retained messages.
    pub retain_handling: RetainHandling,
}

/// What the node wants to tell the client when it lets it in.
#[derive(Debug, Clone, Default)]
pub struct Accepted {
    /// Whether there was a session to go on with.
    pub session_present: bool,
    /// The expiry that is granted, in seconds.
    pub session_expiry_s: u32,
    /// The client identifier, if the client left it to the node.
    pub assigned_client_id: Option<String>,
    /// Another keep alive than the client's, in seconds. Only MQTT 5 clients can be told; it holds for them only.
    pub server_keep_alive_s: Option<u16>,
    /// Packet ids of QoS 2 messages that an earlier connection has sent and not released.
    pub received: Vec<u16>,
}

/// A message for the client.
#[derive(Debug, Clone, Copy)]
pub struct Delivery<'a> {
    /// As the client is to see it.
    pub topic: &'a str,
    /// The application's bytes.
    pub payload: &'a Bytes,
    /// To deliver with.
    pub qos: QoS,
    /// To deliver with.
    pub retain: bool,
    /// Whether an earlier connection may have delivered it.
    pub dup: bool,
    /// Not read with QoS 0.
    pub packet_id: PacketId,
    /// Comes back in events about this message.
    pub tag: u64,
    /// Of the subscriptions that it is delivered for.
    pub identifiers: &'a [u32],
    /// What travels with it.
    pub properties: &'a Properties,
    /// For how much longer it is worth delivering, in seconds.
    pub expiry_s: Option<u32>,
}

/// Which packet identifier a message is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PacketId {
    /// One that is free.
    Assign,
    /// This one, which it also had on an earlier connection.
    Use(NonZeroU16),
}

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Delivered {
    /// It is in the output.
    Written,
    /// The client has as many unacknowledged as it takes, or the packet identifier is in use; try again later.
    Full,
    /// It is larger than the client takes, or than MQTT can say; it must not be tried again.
    TooLarge,
}

/// Why a connection is over.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The client said goodbye.
    Disconnected {
        /// Whether it wants its will published all the same.
        with_will: bool,
        /// Another session expiry than in CONNECT, in seconds.
        session_expiry_s: Option<u32>,
    },
    /// Nothing came for one and a half times the keep alive.
    KeepAliveTimeout,
    /// No CONNECT came in time.
    ConnectTimeout,
    /// The client broke the protocol, in this way.
    Protocol(ReasonCode, &'static str),
    /// The node ended it.
    ServerDisconnect(ReasonCode),
    /// The stream broke. Never said by the engine, which sees no stream.
    Lost,
}

impl Cause {
    /// Stable, `snake_case`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Disconnected { with_will: false, .. } => "disconnected",
            Self::Disconnected { with_will: true, .. } => "disconnected_with_will",
            Self::KeepAliveTimeout => "keep_alive_timeout",
            Self::ConnectTimeout => "connect_timeout",
            Self::Protocol(..) => "protocol_error",
            Self::ServerDisconnect(ReasonCode::SessionTakenOver) => "taken_over",
            Self::ServerDisconnect(ReasonCode::NotAuthorized) => "revoked",
            Self::ServerDisconnect(ReasonCode::ServerShuttingDown) => "shutting_down",
            Self::ServerDisconnect(ReasonCode::QuotaExceeded) => "too_slow",
            Self::ServerDisconnect(_) => "server",
            Self::Lost => "connection_lost",
        }
    }

    /// Whether the client's will is to be published (MQTT 5 §3.1.2.5).
    pub fn with_will(&self) -> bool {
        !matches!(self, Self::Disconnected { with_will: false, .. })
    }
}
