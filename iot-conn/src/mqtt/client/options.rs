//! What the application gives to the engine.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use iot_core::{message, secret::Secret};

use crate::mqtt::{
    codec::{decode, encode},
    packet::{Connect, List, Packet, PacketId, Publish, QoS, Sender, Version, Will},
    property::Property,
    wire::{DecodeError, EncodeError},
};

/// How a client presents itself, and its bounds.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// The version to speak; MQTT 5 by default.
    pub version: Version,
    /// The client identifier; if it is empty, the server chooses one.
    pub client_id: String,
    /// Whether the first connection discards a session that the server may have; false by default. In MQTT 5 later
    /// connections continue the session; in 3.1.1 a clean session ends with its connection, so all are clean.
    pub clean_start: bool,
    /// How long the session is to outlive the connection, in seconds; one hour by default. Not sent in 3.1.1. A client that comes
    /// back when the server may have let it go, or shortly before, asks for a clean start, and learns it by
    /// [`Connected::session_present`](super::Connected::session_present).
    pub session_expiry_s: u32,
    /// The longest silence before the client says that it is there, in seconds; 0 turns it off, 60 by default.
    pub keep_alive_s: u16,
    /// The user name.
    pub username: Option<String>,
    /// The password; in 3.1.1 only with a user name.
    pub password: Option<Secret>,
    /// What the server publishes if it loses the client.
    pub will: Option<LastWill>,
    /// The most QoS 2 messages that may arrive before they are complete; 64 by default, not 0. Not sent in 3.1.1.
    pub receive_maximum: u16,
    /// The most topic aliases the server may set; 16 by default. Not sent in 3.1.1.
    pub topic_alias_maximum: u16,
    /// The largest packet to take, in bytes; 256 KiB by default, not 0. The server is told in MQTT 5; a larger packet
    /// ends the connection.
    pub packet_bytes_max: u32,
    /// The most unacknowledged QoS 1 and 2 messages on their way to the server, if it allows as many; 32 by default.
    pub in_flight_max: u16,
    /// The most messages that wait to be sent; 1,000 by default. A further one is refused with
    /// [`PublishError::Full`].
    pub queue_messages_max: usize,
    /// How long the server may take to answer a CONNECT or PINGREQ; 10 seconds by default.
    pub response_timeout: Duration,
}

impl ClientOptions {
    /// The defaults with this client identifier.
    #[must_use]
    pub fn new(client_id: impl Into<String>) -> Self {
        Self {
            version: Version::V5,
            client_id: client_id.into(),
            clean_start: false,
            session_expiry_s: 3_600,
            keep_alive_s: 60,
            username: None,
            password: None,
            will: None,
            receive_maximum: 64,
            topic_alias_maximum: 16,
            packet_bytes_max: 256 * 1024,
            in_flight_max: 32,
            queue_messages_max: 1_000,
            response_timeout: Duration::from_secs(10),
        }
    }

    pub(super) fn check(&self) -> Result<(), InvalidOptions> {
        let mut frame = BytesMut::new();
        self.write_connect(&self.client_id, self.clean_start, &mut frame)?;
        decode(&frame, self.version, Sender::Client)?;
        Ok(())
    }

    /// Writes the CONNECT.
    pub(super) fn write_connect(
        &self,
        client_id: &str,
        clean_start: bool,
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        let properties = [
            Property::SessionExpiryInterval(self.session_expiry_s),
            Property::ReceiveMaximum(self.receive_maximum),
            Property::MaximumPacketSize(self.packet_bytes_max),
            Property::TopicAliasMaximum(self.topic_alias_maximum),
        ];
        let will_properties = self.will.as_ref().map(LastWill::wire_properties).unwrap_or_default();
        let will = self.will.as_ref().map(|will| Will {
            topic: &will.topic,
            payload: &will.payload,
            qos: will.qos,
            retain: will.retain,
            properties: List::from(&will_properties[..]),
        });
        let connect = Connect {
            version: self.version,
            client_id,
            clean_start,
            keep_alive_s: self.keep_alive_s,
            will,
            username: self.username.as_deref(),
            password: self.password.as_ref().map(|password| password.expose().as_bytes()),
            properties: List::from(&properties),
        };
        encode(&Packet::Connect(connect), self.version, out)
    }
}

/// What the server publishes if it loses the client (MQTT 5 §3.1.2.5).
#[derive(Clone, Debug, PartialEq)]
pub struct LastWill {
    /// A topic name.
    pub topic: String,
    /// The payload, at most 65,535 bytes.
    pub payload: Bytes,
    /// The quality of service.
    pub qos: QoS,
    /// Whether it becomes the topic's retained message.
    pub retain: bool,
    /// How long the server waits for the client to be back, in seconds. Not sent in 3.1.1.
    pub delay_s: u32,
    /// Not sent in 3.1.1.
    pub properties: message::Properties,
}

impl LastWill {
    fn wire_properties(&self) -> Vec<Property<'_>> {
        let delay = (self.delay_s > 0).then_some(Property::WillDelayInterval(self.delay_s));
        delay.into_iter().chain(Property::of_message(&self.properties)).collect()
    }
}

/// A message to be published.
#[derive(Clone, Debug, PartialEq)]
pub struct Publication {
    /// A topic name.
    pub topic: String,
    /// The payload.
    pub payload: Bytes,
    /// The quality of service. QoS 0 is forgotten when it is written; nobody learns whether it arrived.
    pub qos: QoS,
    /// Whether it becomes the topic's retained message.
    pub retain: bool,
    /// How long it is worth delivering after it was sent, in seconds. Not sent in 3.1.1.
    pub expiry_s: Option<u32>,
    /// Not sent in 3.1.1.
    pub properties: message::Properties,
}

impl Publication {
    /// A message that is not retained, without properties.
    #[must_use]
    pub fn new(topic: impl Into<String>, payload: impl Into<Bytes>, qos: QoS) -> Self {
        Self {
            topic: topic.into(),
            payload: payload.into(),
            qos,
            retain: false,
            expiry_s: None,
            properties: message::Properties::default(),
        }
    }

    /// Everything but the payload is judged as the server's decoder would.
    pub(super) fn check(&self, version: Version) -> Result<(), PublishError> {
        let mut frame = BytesMut::new();
        let packet_id = (self.qos != QoS::AtMostOnce).then_some(PacketId::MIN);
        self.write_with(packet_id, false, &[], version, &mut frame)?;
        decode(&frame, version, Sender::Client)?;
        Ok(())
    }

    pub(super) fn write(
        &self,
        packet_id: Option<PacketId>,
        dup: bool,
        version: Version,
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        self.write_with(packet_id, dup, &self.payload, version, out)
    }

    fn write_with(
        &self,
        packet_id: Option<PacketId>,
        dup: bool,
        payload: &[u8],
        version: Version,
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        let expiry = self.expiry_s.map(Property::MessageExpiryInterval);
        let properties: Vec<_> = expiry.into_iter().chain(Property::of_message(&self.properties)).collect();
        let publish = Publish {
            dup,
            qos: self.qos,
            retain: self.retain,
            topic: &self.topic,
            packet_id,
            properties: List::from(&properties[..]),
            payload,
        };
        encode(&Packet::Publish(publish), version, out)
    }
}

/// Options from which no valid CONNECT can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidOptions {
    /// Something is too long.
    #[error("the options do not fit a CONNECT packet")]
    TooLong(#[from] EncodeError),
    /// The standard forbids it.
    #[error("the options break the standard")]
    Forbidden(#[from] DecodeError),
}

/// A message that cannot be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// As many messages as allowed wait already; try again after an [`Event::Published`](super::Event::Published), or
    /// drop the message.
    #[error("the queue of messages is full")]
    Full,
    /// Topic or properties are too long.
    #[error("the message does not fit a packet")]
    TooLong(#[from] EncodeError),
    /// Topic or properties are not allowed.
    #[error("the message breaks the standard")]
    Forbidden(#[from] DecodeError),
}

/// A SUBSCRIBE or UNSUBSCRIBE that cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// There is no connection.
    #[error("the client is not connected")]
    NotConnected,
    /// Too many requests wait for their answer.
    #[error("too many requests wait for their answer")]
    Full,
    /// It is larger than the format or the server allows.
    #[error("the request is too large for a packet")]
    TooLong,
    /// A filter or an option is not allowed.
    #[error("the request breaks the standard")]
    Forbidden(#[from] DecodeError),
}
