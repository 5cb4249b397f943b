//! The crate `mqtt-protocol-core`. It leaves more to its caller than the others: what a field means is hardly looked at.

mod v311;

use mqtt_protocol_core::mqtt::{
    Arc,
    packet::{self as core, FixedHeader, SubEntry, SubOpts, VariableByteInteger, v5_0},
    prelude::PropertyValueAccess,
    result_code::{self, MqttError},
};

use super::{Oracle, Refusal};
use crate::mqtt::codec::tests::generator::leak;
use crate::mqtt::packet::*;
use crate::mqtt::property::{Properties, Property};
use crate::mqtt::reason::ReasonCode;

pub(super) struct ProtocolCore;

impl Oracle for ProtocolCore {
    const NAME: &'static str = "mqtt-protocol-core";

    fn decode(&self, frame: &[u8], version: Version) -> Result<Packet<'static>, Refusal> {
        let (first, rest) = frame.split_first().ok_or(Refusal::Refused("empty".to_owned()))?;
        let core::DecodeResult::Ok(length, size) = VariableByteInteger::decode_stream(rest) else {
            return Err(Refusal::Refused("remaining length".to_owned()));
        };
        let body = &rest[size..];
        if length.to_u32() as usize != body.len() {
            return Err(Refusal::Refused("incomplete".to_owned()));
        }
        let header = if first >> 4 == 3 { 0x30 } else { *first };
        let header = FixedHeader::try_from(header).map_err(|_| Refusal::Refused("header".to_owned()))?;
        match version {
            Version::V311 => v311::decode(header, first & 0x0f, body),
            Version::V5 => decode_v5(header, first & 0x0f, body),
        }
    }

    fn encode(&self, packet: &Packet<'static>, version: Version) -> Result<Vec<u8>, String> {
        match version {
            Version::V311 => v311::encode(packet),
            Version::V5 => encode_v5(packet),
        }
        .map_err(|error| format!("{error:?}"))
    }
}

impl From<MqttError> for Refusal {
    fn from(error: MqttError) -> Self {
        Self::Refused(format!("{error:?}"))
    }
}

type Read = Result<Packet<'static>, Refusal>;
type Bytes = Result<Vec<u8>, MqttError>;

fn text(theirs: &str) -> &'static str {
    String::leak(theirs.to_owned())
}

fn data(theirs: &[u8]) -> &'static [u8] {
    leak(theirs.to_vec())
}

fn id(theirs: u16) -> Result<PacketId, Refusal> {
    PacketId::new(theirs).ok_or(Refusal::PacketIdZero)
}

fn reason(code: u8) -> ReasonCode {
    ReasonCode::from_u8(code).unwrap()
}

fn qos(theirs: core::Qos) -> QoS {
    QoS::from_bits(theirs as u8).unwrap()
}

fn their_qos(ours: QoS) -> core::Qos {
    core::Qos::try_from(ours as u8).unwrap()
}

/// Their code with the value of ours.
macro_rules! code {
    ($kind:ident, $ours:expr) => {
        result_code::$kind::try_from($ours.value()).map_err(|_| MqttError::ProtocolError)?
    };
}

macro_rules! codes {
    ($ack:expr, $kind:ident) => {
        $ack.reasons.iter().map(|code| Ok(code!($kind, code))).collect::<Result<_, MqttError>>()?
    };
}

use {code, codes};

// === Properties ===

macro_rules! properties {
    (
        numbers: $($number:ident),+;
        flags: $($flag:ident),+;
        texts: $($text:ident),+;
        binaries: $($binary:ident),+;
    ) => {
        fn our_property(theirs: &core::Property) -> Property<'static> {
            match theirs {
                $(core::Property::$number(value) => Property::$number(value.val()),)+
                $(core::Property::$flag(value) => Property::$flag(value.val() == 1),)+
                $(core::Property::$text(value) => Property::$text(text(value.val())),)+
                $(core::Property::$binary(value) => Property::$binary(data(value.val())),)+
                core::Property::PayloadFormatIndicator(_) => Property::PayloadFormatIndicator(theirs.as_u8() == Some(1)),
                core::Property::MaximumQos(value) => Property::MaximumQoS(QoS::from_bits(value.val()).unwrap()),
                core::Property::UserProperty(pair) => Property::UserProperty(text(pair.key()), text(pair.val())),
            }
        }

        fn their_property(ours: Property<'static>) -> core::Property {
            match ours {
                $(Property::$number(value) => core::$number::new(value).unwrap().into(),)+
                $(Property::$flag(value) => core::$flag::new(value.into()).unwrap().into(),)+
                $(Property::$text(value) => core::$text::new(value).unwrap().into(),)+
                $(Property::$binary(value) => core::$binary::new(value.to_vec()).unwrap().into(),)+
                Property::PayloadFormatIndicator(is_utf8) => {
                    let format = if is_utf8 { core::PayloadFormat::String } else { core::PayloadFormat::Binary };
                    core::PayloadFormatIndicator::new(format).unwrap().into()
                }
                Property::MaximumQoS(qos) => core::MaximumQos::new(qos as u8).unwrap().into(),
                Property::UserProperty(name, value) => core::UserProperty::new(name, value).unwrap().into(),
            }
        }
    };
}

properties! {
    numbers: MessageExpiryInterval, SubscriptionIdentifier, SessionExpiryInterval, ServerKeepAlive,
        WillDelayInterval, ReceiveMaximum, TopicAliasMaximum, TopicAlias, MaximumPacketSize;
    flags: RequestProblemInformation, RequestResponseInformation, RetainAvailable, WildcardSubscriptionAvailable,
        SubscriptionIdentifierAvailable, SharedSubscriptionAvailable;
    texts: ContentType, ResponseTopic, AssignedClientIdentifier, AuthenticationMethod, ResponseInformation, ServerReference,
        ReasonString;
    binaries: CorrelationData, AuthenticationData;
}

fn properties(theirs: &core::Properties) -> Properties<'static> {
    Properties::from(leak(theirs.iter().map(our_property).collect()))
}

fn optional(theirs: Option<&core::Properties>) -> Properties<'static> {
    theirs.map_or(List::EMPTY, properties)
}

fn their_properties(ours: Properties<'static>) -> core::Properties {
    ours.iter().map(their_property).collect()
}

// === MQTT 5, decoding ===

macro_rules! ack_v5 {
    ($kind:ident, $body:expr) => {{
        let (ack, _) = v5_0::$kind::parse($body)?;
        Ack {
            packet_id: id(ack.packet_id())?,
            reason: ack.reason_code().map_or(ReasonCode::Success, |code| reason(code as u8)),
            properties: optional(ack.props().as_ref()),
        }
    }};
}

fn decode_v5(header: FixedHeader, flags: u8, body: &[u8]) -> Read {
    Ok(match header {
        FixedHeader::Connect => Packet::Connect(connect_v5(&v5_0::Connect::parse(body)?.0)),
        FixedHeader::Connack => {
            let (ack, _) = v5_0::Connack::parse(body)?;
            Packet::ConnAck(ConnAck {
                session_present: ack.session_present(),
                reason: reason(ack.reason_code() as u8),
                properties: properties(ack.props()),
            })
        }
        FixedHeader::Publish => {
            let (publish, _) = v5_0::Publish::parse(flags, Arc::from(body))?;
            Packet::Publish(Publish {
                dup: publish.dup(),
                qos: qos(publish.qos()),
                retain: publish.retain(),
                topic: text(publish.topic_name()),
                packet_id: publish.packet_id().map(id).transpose()?,
                properties: properties(publish.props()),
                payload: data(publish.payload().as_slice()),
            })
        }
        FixedHeader::Puback => Packet::PubAck(ack_v5!(Puback, body)),
        FixedHeader::Pubrec => Packet::PubRec(ack_v5!(Pubrec, body)),
        FixedHeader::Pubrel => Packet::PubRel(ack_v5!(Pubrel, body)),
        FixedHeader::Pubcomp => Packet::PubComp(ack_v5!(Pubcomp, body)),
        FixedHeader::Subscribe => {
            let (subscribe, _) = v5_0::Subscribe::parse(body)?;
            Packet::Subscribe(Subscribe {
                packet_id: id(subscribe.packet_id())?,
                properties: properties(subscribe.props()),
                subscriptions: List::from(leak(subscribe.entries().iter().map(subscription).collect())),
            })
        }
        FixedHeader::Suback => {
            let (ack, _) = v5_0::Suback::parse(body)?;
            let reasons = ack.reason_codes().iter().map(|code| reason(*code as u8)).collect();
            Packet::SubAck(SubAck {
                packet_id: id(ack.packet_id())?,
                properties: properties(ack.props()),
                reasons: List::from(leak(reasons)),
            })
        }
        FixedHeader::Unsubscribe => {
            let (unsubscribe, _) = v5_0::Unsubscribe::parse(body)?;
            let filters = unsubscribe.entries().iter().map(|filter| text(filter.as_str())).collect();
            Packet::Unsubscribe(Unsubscribe {
                packet_id: id(unsubscribe.packet_id())?,
                properties: properties(unsubscribe.props()),
                filters: List::from(leak(filters)),
            })
        }
        FixedHeader::Unsuback => {
            let (ack, _) = v5_0::Unsuback::parse(body)?;
            let reasons = ack.reason_codes().iter().map(|code| reason(*code as u8)).collect();
            Packet::UnsubAck(SubAck {
                packet_id: id(ack.packet_id())?,
                properties: properties(ack.props()),
                reasons: List::from(leak(reasons)),
            })
        }
        FixedHeader::Pingreq => v5_0::Pingreq::parse(body).map(|_| Packet::PingReq)?,
        FixedHeader::Pingresp => v5_0::Pingresp::parse(body).map(|_| Packet::PingResp)?,
        FixedHeader::Disconnect => {
            let (disconnect, _) = v5_0::Disconnect::parse(body)?;
            Packet::Disconnect(Disconnect {
                reason: disconnect.reason_code().map_or(ReasonCode::Success, |code| reason(code as u8)),
                properties: optional(disconnect.props().as_ref()),
            })
        }
        FixedHeader::Auth => {
            let (auth, _) = v5_0::Auth::parse(body)?;
            Packet::Auth(Auth {
                reason: auth.reason_code().map_or(ReasonCode::Success, |code| reason(code as u8)),
                properties: optional(auth.props().as_ref()),
            })
        }
    })
}

fn connect_v5(connect: &v5_0::Connect) -> Connect<'static> {
    Connect {
        version: Version::V5,
        client_id: text(connect.client_id()),
        clean_start: connect.clean_start(),
        keep_alive_s: connect.keep_alive(),
        will: connect.will_topic().map(|topic| Will {
            topic: text(topic),
            payload: data(connect.will_payload().unwrap()),
            qos: qos(connect.will_qos()),
            retain: connect.will_retain(),
            properties: properties(connect.will_props()),
        }),
        username: connect.user_name().map(text),
        password: connect.password().map(data),
        properties: properties(connect.props()),
    }
}

fn subscription(entry: &SubEntry) -> Subscription<'static> {
    Subscription {
        filter: text(entry.topic_filter()),
        qos: qos(entry.sub_opts().qos()),
        no_local: entry.sub_opts().nl(),
        retain_as_published: entry.sub_opts().rap(),
        retain_handling: match entry.sub_opts().rh() {
            core::RetainHandling::SendRetained => RetainHandling::Send,
            core::RetainHandling::SendRetainedIfNotExists => RetainHandling::SendIfNew,
            core::RetainHandling::DoNotSendRetained => RetainHandling::DoNotSend,
        },
    }
}

// === MQTT 5, encoding ===

macro_rules! put_ack_v5 {
    ($ack:expr, $kind:ident, $code:ident) => {{
        let mut builder = v5_0::$kind::builder().packet_id($ack.packet_id.get());
        // Both may be left out from the end (MQTT 5 §3.4.2.1): every way is theirs to write and ours to read.
        if $ack.reason != ReasonCode::Success || !$ack.properties.is_empty() || $ack.packet_id.get() % 2 == 0 {
            builder = builder.reason_code(code!($code, $ack.reason));
        }
        if !$ack.properties.is_empty() || $ack.packet_id.get() % 4 == 0 {
            builder = builder.props(their_properties($ack.properties));
        }
        builder.build()?.to_continuous_buffer()
    }};
}

fn encode_v5(packet: &Packet<'static>) -> Bytes {
    Ok(match packet {
        Packet::Connect(connect) => put_connect_v5(connect)?,
        Packet::ConnAck(ack) => v5_0::Connack::builder()
            .session_present(ack.session_present)
            .reason_code(code!(ConnectReasonCode, ack.reason))
            .props(their_properties(ack.properties))
            .build()?
            .to_continuous_buffer(),
        Packet::Publish(publish) => v5_0::Publish::builder()
            .topic_name(publish.topic)?
            .qos(their_qos(publish.qos))
            .dup(publish.dup)
            .retain(publish.retain)
            .packet_id(publish.packet_id.map(PacketId::get))
            .props(their_properties(publish.properties))
            .payload(publish.payload)
            .build()?
            .to_continuous_buffer(),
        Packet::PubAck(ack) => put_ack_v5!(ack, Puback, PubackReasonCode),
        Packet::PubRec(ack) => put_ack_v5!(ack, Pubrec, PubrecReasonCode),
        Packet::PubRel(ack) => put_ack_v5!(ack, Pubrel, PubrelReasonCode),
        Packet::PubComp(ack) => put_ack_v5!(ack, Pubcomp, PubcompReasonCode),
        Packet::Subscribe(subscribe) => v5_0::Subscribe::builder()
            .packet_id(subscribe.packet_id.get())
            .props(their_properties(subscribe.properties))
            .entries(subscribe.subscriptions.iter().map(entry).collect::<Result<Vec<_>, _>>()?)
            .build()?
            .to_continuous_buffer(),
        Packet::SubAck(ack) => v5_0::Suback::builder()
            .packet_id(ack.packet_id.get())
            .props(their_properties(ack.properties))
            .reason_codes(codes!(ack, SubackReasonCode))
            .build()?
            .to_continuous_buffer(),
        Packet::Unsubscribe(unsubscribe) => v5_0::Unsubscribe::builder()
            .packet_id(unsubscribe.packet_id.get())
            .props(their_properties(unsubscribe.properties))
            .entries(unsubscribe.filters.iter())?
            .build()?
            .to_continuous_buffer(),
        Packet::UnsubAck(ack) => v5_0::Unsuback::builder()
            .packet_id(ack.packet_id.get())
            .props(their_properties(ack.properties))
            .reason_codes(codes!(ack, UnsubackReasonCode))
            .build()?
            .to_continuous_buffer(),
        Packet::PingReq => v5_0::Pingreq::new().to_continuous_buffer(),
        Packet::PingResp => v5_0::Pingresp::new().to_continuous_buffer(),
        Packet::Disconnect(disconnect) => v5_0::Disconnect::builder()
            .reason_code(code!(DisconnectReasonCode, disconnect.reason))
            .props(their_properties(disconnect.properties))
            .build()?
            .to_continuous_buffer(),
        Packet::Auth(auth) => v5_0::Auth::builder()
            .reason_code(code!(AuthReasonCode, auth.reason))
            .props(their_properties(auth.properties))
            .build()?
            .to_continuous_buffer(),
    })
}

fn put_connect_v5(connect: &Connect<'static>) -> Bytes {
    let mut builder = v5_0::Connect::builder()
        .clean_start(connect.clean_start)
        .client_id(connect.client_id)?
        .keep_alive(connect.keep_alive_s)
        .props(their_properties(connect.properties));
    if let Some(will) = connect.will {
        builder = builder
            .will_message(will.topic, will.payload.to_vec(), their_qos(will.qos), will.retain)?
            .will_props(their_properties(will.properties));
    }
    if let Some(username) = connect.username {
        builder = builder.user_name(username)?;
    }
    if let Some(password) = connect.password {
        builder = builder.password(password.to_vec())?;
    }
    Ok(builder.build()?.to_continuous_buffer())
}

fn entry(subscription: Subscription<'static>) -> Result<SubEntry, MqttError> {
    let handling = match subscription.retain_handling {
        RetainHandling::Send => core::RetainHandling::SendRetained,
        RetainHandling::SendIfNew => core::RetainHandling::SendRetainedIfNotExists,
        RetainHandling::DoNotSend => core::RetainHandling::DoNotSendRetained,
    };
    let options = SubOpts::new()
        .set_qos(their_qos(subscription.qos))
        .set_nl(subscription.no_local)
        .set_rap(subscription.retain_as_published)
        .set_rh(handling);
    SubEntry::new(subscription.filter, options)
}
