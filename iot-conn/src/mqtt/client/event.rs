//! What happened, for the application.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use iot_core::message;

use crate::mqtt::{packet::QoS, reason::ReasonCode, wire::DecodeError};

/// Names a message or request of a [`Client`](super::Client), in the order they were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub(super) u64);

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The server took the connection.
    Connected(Connected),
    /// The server did not take the connection; the transport is to be closed.
    Refused(Refused),
    /// A message arrived. It is acknowledged already.
    Message(Received),
    /// The server answered a SUBSCRIBE: one reason per subscription, in order.
    Subscribed {
        /// What [`subscribe`](super::Client::subscribe) returned.
        token: Token,
        /// Granted quality of service, or why not.
        reasons: Vec<ReasonCode>,
    },
    /// The server answered an UNSUBSCRIBE: one reason per filter, in order; none in 3.1.1.
    Unsubscribed {
        /// What [`unsubscribe`](super::Client::unsubscribe) returned.
        token: Token,
        /// Whether there was such a subscription, or why not.
        reasons: Vec<ReasonCode>,
    },
    /// The server answered a message of QoS 1 or 2; nothing more will happen with it. It has the message unless the
    /// reason is an error.
    Published {
        /// What [`publish`](super::Client::publish) returned.
        token: Token,
        /// The server's; always success in 3.1.1.
        reason: ReasonCode,
    },
    /// A message was given up without an answer of the server.
    NotPublished {
        /// What [`publish`](super::Client::publish) returned.
        token: Token,
        /// Why.
        why: NotPublished,
    },
    /// The connection ended; the transport is to be closed after [`output`](super::Client::output) is written.
    /// Requests without an answer get none.
    Disconnected(Cause),
}

/// What the server said when it took a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Connected {
    /// Whether the server still has the session: subscriptions are there if it is true, and must be made anew if not.
    pub session_present: bool,
    /// The client identifier that the server chose; it is used for later connections.
    pub assigned_client_id: Option<String>,
    /// The keep alive in use, in seconds.
    pub keep_alive_s: u16,
    /// How long the server keeps the session after the connection, in seconds; in 3.1.1 what was asked for.
    pub session_expiry_s: u32,
}

/// Why a server did not take a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refused {
    /// The server's reason.
    pub reason: ReasonCode,
    /// A text for people.
    pub reason_string: Option<String>,
    /// Another server to use.
    pub server_reference: Option<String>,
    /// How long to stay away; what our server tells, see [`RETRY_AFTER`](crate::mqtt::RETRY_AFTER).
    pub retry_after: Option<Duration>,
}

/// A message from the server.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Received {
    /// The topic name.
    pub topic: Arc<str>,
    /// The payload, a slice of the packet's bytes.
    pub payload: Bytes,
    /// The quality of service it was sent with. At QoS 1 the message may be here for the second time.
    pub qos: QoS,
    /// Whether it is the topic's retained message.
    pub retain: bool,
    /// Content type, response topic, correlation data, user properties.
    pub properties: message::Properties,
    /// The identifiers of the subscriptions that it came by.
    pub subscription_ids: Vec<u32>,
}

/// Why a message was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotPublished {
    /// It is larger than the packets this server takes.
    TooLarge,
    /// Its quality of service is higher than this server's.
    QoSNotSupported,
    /// It is to be retained and this server keeps none.
    RetainNotSupported,
    /// The server lost the session while it had QoS 2 under way: it may have arrived or not, and sending it again
    /// could make it arrive twice.
    SessionLost,
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// [`disconnect`](super::Client::disconnect) was called.
    Client,
    /// The server sent a DISCONNECT.
    Server {
        /// The server's reason.
        reason: ReasonCode,
        /// A text for people.
        reason_string: Option<String>,
        /// Another server to use.
        server_reference: Option<String>,
        /// How long to stay away, as in [`Refused`].
        retry_after: Option<Duration>,
    },
    /// The server broke the standard; it was told if the version allows it.
    Violation(DecodeError),
    /// The server did not answer a CONNECT or PINGREQ in time.
    TimedOut,
    /// The transport closed.
    Transport,
}
