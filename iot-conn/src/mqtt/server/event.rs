//! What a connection tells its caller.

use std::{fmt, ops::Deref, sync::Arc, time::Duration};

use bytes::Bytes;
use iot_core::{
    message::{Properties, QoS},
    secret::Secret,
};

use crate::mqtt::{
    packet::{RetainHandling, Version},
    reason::ReasonCode,
};

/// Names a packet of the client until it is answered. Of one connection; never the same twice.
#[derive(Copy, Clone, Eq, PartialEq, Debug, Hash)]
pub struct Ticket(pub(super) u64);

/// What happened, in the order of the wire.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_enums, reason = "a caller that leaves one out breaks the protocol")]
pub enum Event {
    /// The client asks to be connected. Nothing more is read until the answer.
    Connect(Box<ConnectRequest>),
    /// A message from the client; a QoS 2 message once, however often it is sent.
    Publish(PublishRequest),
    /// QoS 2: the client will not send this packet identifier for the same message again (PUBREL).
    Release {
        /// For [`Connection::released`](super::Connection::released).
        ticket: Ticket,
        /// The message.
        packet_id: u16,
    },
    /// The client subscribes.
    Subscribe {
        /// For [`Connection::subscribed`](super::Connection::subscribed).
        ticket: Ticket,
        /// At least one; well-formed filters with their options, in order.
        filters: Vec<(String, SubscribeOptions)>,
        /// To be sent with every message by these subscriptions; MQTT 5 only.
        identifier: Option<u32>,
    },
    /// The client unsubscribes.
    Unsubscribe {
        /// For [`Connection::unsubscribed`](super::Connection::unsubscribed).
        ticket: Ticket,
        /// At least one; well-formed filters, in order.
        filters: Vec<String>,
    },
    /// Outbound QoS 2: the client has the message (PUBREC). [`Connection::release`](super::Connection::release) is
    /// next, in the order of these events.
    Received {
        /// As in the [`Delivery`](super::Delivery).
        tag: u64,
        /// The message's.
        packet_id: u16,
    },
    /// An outbound message is over and its packet identifier free: PUBACK, PUBCOMP, or a PUBREC with an error.
    Finished {
        /// As in the [`Delivery`](super::Delivery).
        tag: u64,
        /// What the client said; success in 3.1.1.
        reason: ReasonCode,
    },
    /// The connection has ended. Exactly once, and the last event.
    Closed(Cause),
}

/// A CONNECT (MQTT 5 §3.1). Debug output shows no password.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "the fields are those of the packet")]
pub struct ConnectRequest {
    /// The version the client speaks.
    pub version: Version,
    /// Empty if the server is to choose one.
    pub client_id: String,
    /// Clean Start; Clean Session in 3.1.1.
    pub clean_start: bool,
    /// In seconds, 0 for none.
    pub keep_alive_s: u16,
    /// The user name.
    pub username: Option<String>,
    /// The password. One that is not UTF-8 was refused before.
    pub password: Option<Secret>,
    /// What to publish when the client is lost.
    pub will: Option<WillRequest>,
    /// How long the session is to outlive the connection, not above the limit; [`u32::MAX`] is for ever. In 3.1.1, 0
    /// with Clean Session and else for ever.
    pub session_expiry_s: u32,
    /// Whether reason strings and user properties may be with any packet (MQTT 5 §3.1.2.11.7).
    pub request_problem_information: bool,
}

/// The message to publish when the client is lost (MQTT 5 §3.1.2.5).
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the fields are those of the packet")]
pub struct WillRequest {
    /// A topic name without wildcards.
    pub topic: String,
    /// The application's bytes.
    pub payload: Bytes,
    /// The quality of service to publish with.
    pub qos: QoS,
    /// Whether it becomes the topic's retained message.
    pub retain: bool,
    /// How long to wait for the client, in seconds; 0 in 3.1.1.
    pub delay_s: u32,
    /// The message's lifetime in seconds.
    pub expiry_s: Option<u32>,
    /// What goes with the message.
    pub properties: Properties,
}

/// A message from the client (MQTT 5 §3.3).
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "the fields are those of the packet")]
pub struct PublishRequest {
    /// For [`Connection::published`](super::Connection::published); none with QoS 0.
    pub ticket: Option<Ticket>,
    /// None with QoS 0.
    pub packet_id: Option<u16>,
    /// A topic name without wildcards; an alias is resolved.
    pub topic: Text,
    /// The application's bytes, shared with the input.
    pub payload: Bytes,
    /// The quality of service.
    pub qos: QoS,
    /// Whether it becomes the topic's retained message.
    pub retain: bool,
    /// Whether the client may have sent it before.
    pub dup: bool,
    /// The message's lifetime in seconds.
    pub expiry_s: Option<u32>,
    /// What goes with the message.
    pub properties: Properties,
}

/// How a subscription is to be served (MQTT 5 §3.8.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "the fields are those of the packet")]
pub struct SubscribeOptions {
    /// The highest quality of service to send with.
    pub qos: QoS,
    /// Do not send what this client publishes; false in 3.1.1.
    pub no_local: bool,
    /// Keep the publisher's RETAIN flag; false in 3.1.1.
    pub retain_as_published: bool,
    /// What retained messages do.
    pub retain_handling: RetainHandling,
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The client said goodbye.
    Disconnected {
        /// Whether its will is to be published all the same (MQTT 5 §3.14.4).
        with_will: bool,
        /// A new session expiry interval in seconds, not above the limit.
        session_expiry_s: Option<u32>,
    },
    /// No packet came for one and a half keep-alive intervals.
    KeepAliveTimeout,
    /// No CONNECT came in time.
    ConnectTimeout,
    /// The client broke the protocol: the reason code and the statement.
    Protocol(ReasonCode, &'static str),
    /// The caller refused or ended the connection.
    ServerDisconnect(ReasonCode),
    /// The stream broke. A connection never says this; it is there for its caller to say.
    Lost,
}

impl Cause {
    /// A stable name for logs and metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Disconnected { with_will: false, .. } => "disconnected",
            Self::Disconnected { with_will: true, .. } => "disconnected_with_will",
            Self::KeepAliveTimeout => "keep_alive_timeout",
            Self::ConnectTimeout => "connect_timeout",
            Self::Protocol(..) => "protocol_error",
            Self::ServerDisconnect(ReasonCode::SessionTakenOver) => "taken_over",
            Self::ServerDisconnect(ReasonCode::NotAuthorized) => "revoked",
            Self::ServerDisconnect(ReasonCode::ServerShuttingDown | ReasonCode::UseAnotherServer) => "shutting_down",
            Self::ServerDisconnect(ReasonCode::QuotaExceeded) => "too_slow",
            Self::ServerDisconnect(_) => "server",
            Self::Lost => "connection_lost",
        }
    }

    /// Whether the client's will is to be published: always, unless the client disconnected without it
    /// [MQTT-3.1.2-8] [MQTT-3.1.2-10], or the server ends, which says nothing about the client (MQTT 5 §3.1.2.5 lets it wait).
    #[must_use]
    pub const fn with_will(&self) -> bool {
        match self {
            Self::Disconnected { with_will, .. } => *with_will,
            Self::ServerDisconnect(ReasonCode::ServerShuttingDown | ReasonCode::UseAnotherServer) => false,
            _ => true,
        }
    }
}

/// What a client that is sent away is told beside the reason, where the protocol can (MQTT 5). Left out if the client's packets
/// are too small for it [MQTT-3.2.2-19] [MQTT-3.14.2-3].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "made by the caller")]
pub struct Farewell {
    /// How long to stay away, as the user property [`RETRY_AFTER`](crate::mqtt::RETRY_AFTER).
    pub retry_after: Option<Duration>,
    /// Where to go instead, as the property Server Reference (MQTT 5 §4.13).
    pub server_reference: Option<Arc<str>>,
}

/// Text that shares the bytes it came in. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Text(Bytes);

impl Text {
    /// The part `text` of `frame`, without a copy.
    pub(super) fn of_frame(frame: &Bytes, text: &str) -> Self {
        Self(frame.slice_ref(text.as_bytes()))
    }

    /// The text. Checked each time it is asked for, as bytes cannot prove what they are.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Only made from text, so the default is never seen.
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        self
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        self == *other
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}
