//! Properties (MQTT 5 §2.2.2): one table of what they are and where they may stand.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use iot_core::message;

use super::packet::PacketKind::*;
use super::packet::{Item, List, QoS};
use super::reason::ReasonCode;
use super::wire::{DecodeError, EncodeError, Put, Reader, put_variable_integer};

/// The properties of a packet, in its order. Empty in 3.1.1.
///
/// ```
/// use iot_conn::mqtt::{Properties, Property};
///
/// let list = [Property::ReceiveMaximum(10), Property::UserProperty("a", "b")];
/// let properties = Properties::from(&list);
/// assert_eq!(properties.receive_maximum(), Some(10));
/// assert_eq!(properties.user_properties().next(), Some(("a", "b")));
/// ```
pub type Properties<'a> = List<'a, Property<'a>>;

/// The bit of the table for the properties of a will; packet type 0 is reserved.
pub(super) const WILL: u16 = 1;

macro_rules! properties {
    ($(
        $(#[$doc:meta])+
        $name:ident($type:ty) = $id:literal, $read:expr, $getter:ident, $places:expr;
    )+) => {
        /// A property (MQTT 5 §2.2.2.2). A decoded one has a value the standard allows.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(clippy::exhaustive_enums, reason = "MQTT 5 §2.2.2.2 is a closed list")]
        pub enum Property<'a> {
            $($(#[$doc])+ $name($type),)+
            /// A name and a value that the application gives meaning to; the only property that
            /// may be anywhere and any number of times.
            UserProperty(&'a str, &'a str),
        }

        impl Property<'_> {
            /// The property's identifier.
            #[must_use]
            pub const fn id(&self) -> u8 {
                match self {
                    $(Self::$name(_) => $id,)+
                    Self::UserProperty(..) => USER_PROPERTY,
                }
            }

            /// The packets the property may be in, as bits of their kinds, or [`WILL`].
            pub(super) const fn places(&self) -> u16 {
                match self {
                    $(Self::$name(_) => $places,)+
                    Self::UserProperty(..) => !(PingReq.bit() | PingResp.bit()),
                }
            }
        }

        impl<'a> Item<'a> for Property<'a> {
            fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
                let id = reader.variable_integer()?;
                match id {
                    $($id => {
                        let read: fn(&mut Reader<'a>) -> Result<$type, DecodeError> = $read;
                        read(reader).map(Self::$name)
                    })+
                    0x26 => Ok(Self::UserProperty(reader.string()?, reader.string()?)),
                    _ => Err(DecodeError::malformed(
                        "a property identifier is one of the standard's (MQTT 5 §2.2.2.2)",
                    )),
                }
            }
        }

        impl Put for Property<'_> {
            fn put(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
                out.put_u8(self.id());
                if let Self::SubscriptionIdentifier(id) = self {
                    put_variable_integer(out, *id);
                    return Ok(());
                }
                match self {
                    $(Self::$name(value) => value.put(out)?,)+
                    Self::UserProperty(name, value) => {
                        name.put(out)?;
                        value.put(out)?;
                    }
                }
                Ok(())
            }
        }

        impl<'a> List<'a, Property<'a>> {
            $(
                $(#[$doc])+
                ///
                /// The first of this name; reads through the list.
                #[must_use]
                pub fn $getter(&self) -> Option<$type> {
                    self.iter().find_map(|property| match property {
                        Property::$name(value) => Some(value),
                        _ => None,
                    })
                }
            )+
        }
    };
}

properties! {
    /// Whether the payload is UTF-8 text.
    PayloadFormatIndicator(bool) = 0x01, Reader::flag, payload_format_indicator, Publish.bit() | WILL;
    /// How long the message is worth delivering, in seconds.
    MessageExpiryInterval(u32) = 0x02, Reader::u32, message_expiry_interval, Publish.bit() | WILL;
    /// What the payload is, for example a MIME type.
    ContentType(&'a str) = 0x03, Reader::string, content_type, Publish.bit() | WILL;
    /// The topic for the answer to a request.
    ResponseTopic(&'a str) = 0x08, Reader::response_topic, response_topic, Publish.bit() | WILL;
    /// Tells the requester which request is answered.
    CorrelationData(&'a [u8]) = 0x09, Reader::binary, correlation_data, Publish.bit() | WILL;
    /// Tells the subscriber which subscription a message came by; the only property beside the
    /// user property that a PUBLISH may hold more than once.
    SubscriptionIdentifier(u32) = 0x0b, Reader::subscription_identifier, subscription_identifier, Publish.bit() | Subscribe.bit();
    /// How long the session outlives the connection, in seconds; `u32::MAX` is for ever.
    SessionExpiryInterval(u32) = 0x11, Reader::u32, session_expiry_interval, Connect.bit() | ConnAck.bit() | Disconnect.bit();
    /// The client identifier the server chose.
    AssignedClientIdentifier(&'a str) = 0x12, Reader::string, assigned_client_identifier, ConnAck.bit();
    /// The keep alive in seconds that the client uses instead of its own.
    ServerKeepAlive(u16) = 0x13, Reader::u16, server_keep_alive, ConnAck.bit();
    /// The name of the authentication method.
    AuthenticationMethod(&'a str) = 0x15, Reader::string, authentication_method, Connect.bit() | ConnAck.bit() | Auth.bit();
    /// A step of the authentication method.
    AuthenticationData(&'a [u8]) = 0x16, Reader::binary, authentication_data, Connect.bit() | ConnAck.bit() | Auth.bit();
    /// Whether reason strings and user properties may be anywhere; if not, only in PUBLISH,
    /// CONNACK and DISCONNECT. Absent means yes.
    RequestProblemInformation(bool) = 0x17, Reader::flag, request_problem_information, Connect.bit();
    /// How long the server waits before it publishes the will, in seconds.
    WillDelayInterval(u32) = 0x18, Reader::u32, will_delay_interval, WILL;
    /// Whether the CONNACK should hold response information. Absent means no.
    RequestResponseInformation(bool) = 0x19, Reader::flag, request_response_information, Connect.bit();
    /// A base for response topics.
    ResponseInformation(&'a str) = 0x1a, Reader::string, response_information, ConnAck.bit();
    /// Another server to use.
    ServerReference(&'a str) = 0x1c, Reader::string, server_reference, ConnAck.bit() | Disconnect.bit();
    /// A text for people who look for the cause.
    ReasonString(&'a str) = 0x1f, Reader::string, reason_string, ACKNOWLEDGEMENTS;
    /// How many unacknowledged QoS 1 and 2 messages may be under way; not 0. Absent means 65,535.
    ReceiveMaximum(u16) = 0x21, Reader::receive_maximum, receive_maximum, Connect.bit() | ConnAck.bit();
    /// The highest topic alias that may be used. Absent means 0: none.
    TopicAliasMaximum(u16) = 0x22, Reader::u16, topic_alias_maximum, Connect.bit() | ConnAck.bit();
    /// Stands for the topic name; not 0.
    TopicAlias(u16) = 0x23, Reader::topic_alias, topic_alias, Publish.bit();
    /// The highest quality of service the server takes, 0 or 1. Absent means 2.
    MaximumQoS(QoS) = 0x24, Reader::maximum_qos, maximum_qos, ConnAck.bit();
    /// Whether the server keeps retained messages. Absent means yes.
    RetainAvailable(bool) = 0x25, Reader::flag, retain_available, ConnAck.bit();
    /// The largest packet in bytes that may be sent; not 0. Absent means no limit.
    MaximumPacketSize(u32) = 0x27, Reader::maximum_packet_size, maximum_packet_size, Connect.bit() | ConnAck.bit();
    /// Whether the server knows wildcards. Absent means yes.
    WildcardSubscriptionAvailable(bool) = 0x28, Reader::flag, wildcard_subscription_available, ConnAck.bit();
    /// Whether the server knows subscription identifiers. Absent means yes.
    SubscriptionIdentifierAvailable(bool) = 0x29, Reader::flag, subscription_identifier_available, ConnAck.bit();
    /// Whether the server knows shared subscriptions. Absent means yes.
    SharedSubscriptionAvailable(bool) = 0x2a, Reader::flag, shared_subscription_available, ConnAck.bit();
}

const USER_PROPERTY: u8 = 0x26;

/// The user property with which our server tells a client that it sends away for how many milliseconds to stay away: each gets
/// a time of its own, so that they do not come back all at once.
pub const RETRY_AFTER: &str = "retry-after-ms";

const ACKNOWLEDGEMENTS: u16 = ConnAck.bit()
    | PubAck.bit()
    | PubRec.bit()
    | PubRel.bit()
    | PubComp.bit()
    | SubAck.bit()
    | UnsubAck.bit()
    | Disconnect.bit()
    | Auth.bit();

impl<'a> List<'a, Property<'a>> {
    /// The user properties, in order.
    pub fn user_properties(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.iter().filter_map(|property| match property {
            Property::UserProperty(name, value) => Some((name, value)),
            _ => None,
        })
    }

    /// How long a client that is sent away is to stay away, if the server says so; see [`RETRY_AFTER`].
    pub fn retry_after(&self) -> Option<Duration> {
        let told = self.user_properties().find(|(name, _)| *name == RETRY_AFTER);
        told.and_then(|(_, millis)| millis.parse().ok()).map(Duration::from_millis)
    }

    /// The subscription identifiers, in order.
    pub fn subscription_identifiers(&self) -> impl Iterator<Item = u32> + use<'a> {
        self.iter().filter_map(|property| match property {
            Property::SubscriptionIdentifier(id) => Some(id),
            _ => None,
        })
    }
}

impl<'a> List<'a, Property<'a>> {
    /// Those that travel with a message through a server (MQTT 5 §3.3.2.3), owned.
    ///
    /// Not the message expiry interval, which a server counts down, nor the topic alias and the subscription
    /// identifiers, which belong to one connection.
    #[must_use]
    pub fn to_message(&self) -> message::Properties {
        let mut kept = message::Properties::default();
        for property in self.iter() {
            match property {
                Property::PayloadFormatIndicator(is_utf8) => kept.utf8_payload = is_utf8,
                Property::ContentType(content_type) => kept.content_type = Some(content_type.to_owned()),
                Property::ResponseTopic(topic) => kept.response_topic = Some(topic.to_owned()),
                Property::CorrelationData(data) => kept.correlation_data = Some(Bytes::copy_from_slice(data)),
                Property::UserProperty(name, value) => kept.user.push((name.to_owned(), value.to_owned())),
                _ => {}
            }
        }
        kept
    }
}

impl<'a> Property<'a> {
    /// The properties of a message, to be sent with it; the reverse of [`Properties::to_message`](List::to_message).
    pub fn of_message(kept: &'a message::Properties) -> impl Iterator<Item = Self> {
        let user = kept.user.iter().map(|(name, value)| Self::UserProperty(name, value));
        let single = [
            kept.utf8_payload.then_some(Self::PayloadFormatIndicator(true)),
            kept.content_type.as_deref().map(Self::ContentType),
            kept.response_topic.as_deref().map(Self::ResponseTopic),
            kept.correlation_data.as_deref().map(Self::CorrelationData),
        ];
        single.into_iter().flatten().chain(user)
    }
}

impl<'a> List<'a, Property<'a>> {
    /// Reads a list from end to end once, for the packet (or [`WILL`]) it stands in.
    pub(super) fn check(wire: &'a [u8], place: u16) -> Result<Self, DecodeError> {
        let mut reader = Reader(wire);
        let mut seen = 0_u64;
        while !reader.is_empty() {
            let property = Property::read(&mut reader)?;
            if property.places() & place == 0 {
                return Err(DecodeError::malformed(
                    "a property stands only in packets that it is for (MQTT 5 §2.2.2.2)",
                ));
            }
            let bit = 1 << property.id();
            if seen & bit != 0 && !property.is_repeatable(place) {
                return Err(DecodeError::protocol("a property is not included more than once (MQTT 5 §3)"));
            }
            seen |= bit;
        }
        Ok(Self::checked(wire))
    }
}

impl Property<'_> {
    fn is_repeatable(&self, place: u16) -> bool {
        match self {
            Self::UserProperty(..) => true,
            Self::SubscriptionIdentifier(_) => place == Publish.bit(),
            _ => false,
        }
    }
}

impl<'a> Reader<'a> {
    fn flag(&mut self) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::protocol("a property that is a flag is 0 or 1 (MQTT 5 §3)")),
        }
    }

    fn response_topic(&mut self) -> Result<&'a str, DecodeError> {
        let topic = self.string()?;
        if topic.is_empty() || topic.contains(['+', '#']) {
            return Err(DecodeError::protocol("a response topic is a topic name without wildcards [MQTT-3.3.2-14]"));
        }
        Ok(topic)
    }

    fn subscription_identifier(&mut self) -> Result<u32, DecodeError> {
        match self.variable_integer()? {
            0 => Err(DecodeError::protocol("a subscription identifier is not 0 (MQTT 5 §3.8.2.1.2)")),
            id => Ok(id),
        }
    }

    fn receive_maximum(&mut self) -> Result<u16, DecodeError> {
        match self.u16()? {
            0 => Err(DecodeError::protocol("receive maximum is not 0 (MQTT 5 §3.1.2.11.3)")),
            maximum => Ok(maximum),
        }
    }

    fn topic_alias(&mut self) -> Result<u16, DecodeError> {
        match self.u16()? {
            0 => Err(DecodeError::new(ReasonCode::TopicAliasInvalid, "a topic alias is not 0 [MQTT-3.3.2-8]")),
            alias => Ok(alias),
        }
    }

    fn maximum_qos(&mut self) -> Result<QoS, DecodeError> {
        match self.u8()? {
            0 => Ok(QoS::AtMostOnce),
            1 => Ok(QoS::AtLeastOnce),
            _ => Err(DecodeError::protocol("maximum QoS is 0 or 1 (MQTT 5 §3.2.2.3.4)")),
        }
    }

    fn maximum_packet_size(&mut self) -> Result<u32, DecodeError> {
        match self.u32()? {
            0 => Err(DecodeError::protocol("maximum packet size is not 0 (MQTT 5 §3.1.2.11.4)")),
            maximum => Ok(maximum),
        }
    }
}
