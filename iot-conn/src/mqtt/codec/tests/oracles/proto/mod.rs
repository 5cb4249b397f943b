//! The crate `mqtt-proto`. It has a struct for the properties of each packet, so their order is lost.

mod v311;

use std::sync::Arc;

use bytes::Bytes;
use mqtt_proto::{Pid, Protocol, QosPid, TopicFilter, TopicName, v3, v5};

use super::{Oracle, Refusal};
use crate::mqtt::codec::tests::generator::leak;
use crate::mqtt::packet::*;
use crate::mqtt::property::{Properties, Property};
use crate::mqtt::reason::ReasonCode;

pub(super) struct MqttProto;

impl Oracle for MqttProto {
    const NAME: &'static str = "mqtt-proto";

    fn decode(&self, frame: &[u8], version: Version) -> Result<Packet<'static>, Refusal> {
        match version {
            Version::V311 => match v3::Packet::decode(frame) {
                Ok(Some(packet)) => v311::ours(&packet),
                other => Err(Refusal::Refused(format!("{other:?}"))),
            },
            Version::V5 => match v5::Packet::decode(frame) {
                Ok(Some(packet)) => Ok(ours_v5(&packet)),
                other => Err(Refusal::Refused(format!("{other:?}"))),
            },
        }
    }

    fn encode(&self, packet: &Packet<'static>, version: Version) -> Result<Vec<u8>, String> {
        match packet {
            Packet::Disconnect(Disconnect { reason: ReasonCode::BadAuthenticationMethod, .. }) => {
                return Err("there is no such reason".to_owned());
            }
            Packet::Publish(publish) if publish.properties.subscription_identifiers().count() > 1 => {
                return Err("there is room for one subscription identifier".to_owned());
            }
            _ => {}
        }
        let bytes = match version {
            Version::V311 => v311::theirs(packet).encode(),
            Version::V5 => theirs_v5(packet).encode(),
        };
        bytes.map(|bytes| bytes.as_ref().to_vec()).map_err(|error| error.to_string())
    }
}

/// A value of a field, as theirs and as ours.
trait Value<Ours> {
    fn ours(&self) -> Ours;
    fn theirs(ours: Ours) -> Self;
}

macro_rules! same {
    ($($value:ty),+) => {$(
        impl Value<$value> for $value {
            fn ours(&self) -> $value {
                *self
            }

            fn theirs(ours: $value) -> Self {
                ours
            }
        }
    )+};
}

same!(bool, u16, u32);

impl Value<&'static str> for Arc<str> {
    fn ours(&self) -> &'static str {
        String::leak(String::from(&**self))
    }

    fn theirs(ours: &'static str) -> Self {
        ours.into()
    }
}

impl Value<&'static str> for TopicName {
    fn ours(&self) -> &'static str {
        String::leak(String::from(&**self))
    }

    fn theirs(ours: &'static str) -> Self {
        ours.try_into().unwrap()
    }
}

impl Value<&'static str> for TopicFilter {
    fn ours(&self) -> &'static str {
        String::leak(String::from(&**self))
    }

    fn theirs(ours: &'static str) -> Self {
        ours.try_into().unwrap()
    }
}

impl Value<&'static [u8]> for Bytes {
    fn ours(&self) -> &'static [u8] {
        leak(self.to_vec())
    }

    fn theirs(ours: &'static [u8]) -> Self {
        Self::from_static(ours)
    }
}

impl Value<u32> for v5::VarByteInt {
    fn ours(&self) -> u32 {
        self.value()
    }

    fn theirs(ours: u32) -> Self {
        ours.try_into().unwrap()
    }
}

impl Value<PacketId> for Pid {
    fn ours(&self) -> PacketId {
        PacketId::new(self.value()).unwrap()
    }

    fn theirs(ours: PacketId) -> Self {
        ours.get().try_into().unwrap()
    }
}

impl Value<QoS> for mqtt_proto::QoS {
    fn ours(&self) -> QoS {
        QoS::from_bits(*self as u8).unwrap()
    }

    fn theirs(ours: QoS) -> Self {
        Self::from_u8(ours as u8).unwrap()
    }
}

trait PropertySet {
    fn ours(&self) -> Properties<'static>;
    fn theirs(ours: Properties<'static>) -> Self;
}

macro_rules! property_sets {
    ($($set:ident { $($field:ident: $name:ident),* })+) => {$(
        impl PropertySet for v5::$set {
            fn ours(&self) -> Properties<'static> {
                let mut all = Vec::new();
                $(all.extend(self.$field.iter().map(|value| Property::$name(value.ours())));)*
                let user = self.user_properties.iter();
                all.extend(user.map(|property| Property::UserProperty(property.name.ours(), property.value.ours())));
                Properties::from(leak(all))
            }

            fn theirs(ours: Properties<'static>) -> Self {
                Self {
                    $($field: ours.iter().find_map(|property| match property {
                        Property::$name(value) => Some(Value::theirs(value)),
                        _ => None,
                    }),)*
                    user_properties: ours
                        .user_properties()
                        .map(|(name, value)| v5::UserProperty { name: name.into(), value: value.into() })
                        .collect(),
                }
            }
        }
    )+};
}

property_sets! {
    ConnectProperties {
        session_expiry_interval: SessionExpiryInterval, receive_max: ReceiveMaximum, max_packet_size: MaximumPacketSize,
        topic_alias_max: TopicAliasMaximum, request_response_info: RequestResponseInformation,
        request_problem_info: RequestProblemInformation, auth_method: AuthenticationMethod, auth_data: AuthenticationData
    }
    WillProperties {
        delay_interval: WillDelayInterval, payload_is_utf8: PayloadFormatIndicator, message_expiry_interval: MessageExpiryInterval,
        content_type: ContentType, response_topic: ResponseTopic, correlation_data: CorrelationData
    }
    ConnackProperties {
        session_expiry_interval: SessionExpiryInterval, receive_max: ReceiveMaximum, max_qos: MaximumQoS,
        retain_available: RetainAvailable, max_packet_size: MaximumPacketSize, assigned_client_id: AssignedClientIdentifier,
        topic_alias_max: TopicAliasMaximum, reason_string: ReasonString,
        wildcard_subscription_available: WildcardSubscriptionAvailable,
        subscription_id_available: SubscriptionIdentifierAvailable,
        shared_subscription_available: SharedSubscriptionAvailable, server_keep_alive: ServerKeepAlive,
        response_info: ResponseInformation, server_reference: ServerReference, auth_method: AuthenticationMethod,
        auth_data: AuthenticationData
    }
    PublishProperties {
        payload_is_utf8: PayloadFormatIndicator, message_expiry_interval: MessageExpiryInterval, topic_alias: TopicAlias,
        response_topic: ResponseTopic, correlation_data: CorrelationData, subscription_id: SubscriptionIdentifier,
        content_type: ContentType
    }
    PubackProperties { reason_string: ReasonString }
    PubrecProperties { reason_string: ReasonString }
    PubrelProperties { reason_string: ReasonString }
    PubcompProperties { reason_string: ReasonString }
    SubscribeProperties { subscription_id: SubscriptionIdentifier }
    SubackProperties { reason_string: ReasonString }
    UnsubscribeProperties {}
    UnsubackProperties { reason_string: ReasonString }
    DisconnectProperties {
        session_expiry_interval: SessionExpiryInterval, reason_string: ReasonString, server_reference: ServerReference
    }
    AuthProperties { auth_method: AuthenticationMethod, auth_data: AuthenticationData, reason_string: ReasonString }
}

fn reason(code: u8) -> ReasonCode {
    ReasonCode::from_u8(code).unwrap()
}

fn ours_qos(qos_pid: QosPid) -> (QoS, Option<PacketId>) {
    match qos_pid {
        QosPid::Level0 => (QoS::AtMostOnce, None),
        QosPid::Level1(pid) => (QoS::AtLeastOnce, Some(pid.ours())),
        QosPid::Level2(pid) => (QoS::ExactlyOnce, Some(pid.ours())),
    }
}

fn theirs_qos(publish: &Publish<'static>) -> QosPid {
    match (publish.qos, publish.packet_id) {
        (QoS::AtMostOnce, _) => QosPid::Level0,
        (QoS::AtLeastOnce, id) => QosPid::Level1(Pid::theirs(id.unwrap())),
        (QoS::ExactlyOnce, id) => QosPid::Level2(Pid::theirs(id.unwrap())),
    }
}

// === MQTT 5 ===

macro_rules! ours_ack {
    ($ack:expr) => {
        Ack { packet_id: $ack.pid.ours(), reason: reason($ack.reason_code as u8), properties: $ack.properties.ours() }
    };
}

macro_rules! theirs_ack {
    ($ack:expr, $kind:ident, $code:ident) => {
        v5::Packet::$kind(v5::$kind {
            pid: Pid::theirs($ack.packet_id),
            reason_code: v5::$code::from_u8($ack.reason.value()).unwrap(),
            properties: PropertySet::theirs($ack.properties),
        })
    };
}

fn ours_v5(packet: &v5::Packet) -> Packet<'static> {
    match packet {
        v5::Packet::Connect(connect) => Packet::Connect(ours_connect(connect)),
        v5::Packet::Connack(ack) => Packet::ConnAck(ConnAck {
            session_present: ack.session_present,
            reason: reason(ack.reason_code as u8),
            properties: ack.properties.ours(),
        }),
        v5::Packet::Publish(publish) => {
            let (qos, packet_id) = ours_qos(publish.qos_pid);
            Packet::Publish(Publish {
                dup: publish.dup,
                qos,
                retain: publish.retain,
                topic: publish.topic_name.ours(),
                packet_id,
                properties: publish.properties.ours(),
                payload: publish.payload.ours(),
            })
        }
        v5::Packet::Puback(ack) => Packet::PubAck(ours_ack!(ack)),
        v5::Packet::Pubrec(ack) => Packet::PubRec(ours_ack!(ack)),
        v5::Packet::Pubrel(ack) => Packet::PubRel(ours_ack!(ack)),
        v5::Packet::Pubcomp(ack) => Packet::PubComp(ours_ack!(ack)),
        v5::Packet::Subscribe(subscribe) => Packet::Subscribe(Subscribe {
            packet_id: subscribe.pid.ours(),
            properties: subscribe.properties.ours(),
            subscriptions: List::from(leak(subscribe.topics.iter().map(ours_subscription).collect())),
        }),
        v5::Packet::Suback(ack) => Packet::SubAck(SubAck {
            packet_id: ack.pid.ours(),
            properties: ack.properties.ours(),
            reasons: List::from(leak(ack.topics.iter().map(|code| reason(*code as u8)).collect())),
        }),
        v5::Packet::Unsubscribe(unsubscribe) => Packet::Unsubscribe(Unsubscribe {
            packet_id: unsubscribe.pid.ours(),
            properties: unsubscribe.properties.ours(),
            filters: List::from(leak(unsubscribe.topics.iter().map(Value::ours).collect())),
        }),
        v5::Packet::Unsuback(ack) => Packet::UnsubAck(SubAck {
            packet_id: ack.pid.ours(),
            properties: ack.properties.ours(),
            reasons: List::from(leak(ack.topics.iter().map(|code| reason(*code as u8)).collect())),
        }),
        v5::Packet::Pingreq => Packet::PingReq,
        v5::Packet::Pingresp => Packet::PingResp,
        v5::Packet::Disconnect(disconnect) => Packet::Disconnect(Disconnect {
            reason: reason(disconnect.reason_code as u8),
            properties: disconnect.properties.ours(),
        }),
        v5::Packet::Auth(auth) => {
            Packet::Auth(Auth { reason: reason(auth.reason_code as u8), properties: auth.properties.ours() })
        }
    }
}

fn ours_connect(connect: &v5::Connect) -> Connect<'static> {
    Connect {
        version: Version::V5,
        client_id: connect.client_id.ours(),
        clean_start: connect.clean_start,
        keep_alive_s: connect.keep_alive,
        will: connect.last_will.as_ref().map(|will| Will {
            topic: will.topic_name.ours(),
            payload: will.payload.ours(),
            qos: will.qos.ours(),
            retain: will.retain,
            properties: will.properties.ours(),
        }),
        username: connect.username.as_ref().map(Value::ours),
        password: connect.password.as_ref().map(Value::ours),
        properties: connect.properties.ours(),
    }
}

fn ours_subscription((filter, options): &(TopicFilter, v5::SubscriptionOptions)) -> Subscription<'static> {
    Subscription {
        filter: filter.ours(),
        qos: options.max_qos.ours(),
        no_local: options.no_local,
        retain_as_published: options.retain_as_published,
        retain_handling: match options.retain_handling {
            v5::RetainHandling::SendAtSubscribe => RetainHandling::Send,
            v5::RetainHandling::SendAtSubscribeIfNotExist => RetainHandling::SendIfNew,
            v5::RetainHandling::DoNotSend => RetainHandling::DoNotSend,
        },
    }
}

fn theirs_v5(packet: &Packet<'static>) -> v5::Packet {
    match packet {
        Packet::Connect(connect) => v5::Packet::Connect(theirs_connect(connect)),
        Packet::ConnAck(ack) => v5::Packet::Connack(v5::Connack {
            session_present: ack.session_present,
            reason_code: v5::ConnectReasonCode::from_u8(ack.reason.value()).unwrap(),
            properties: PropertySet::theirs(ack.properties),
        }),
        Packet::Publish(publish) => v5::Packet::Publish(v5::Publish {
            dup: publish.dup,
            retain: publish.retain,
            qos_pid: theirs_qos(publish),
            topic_name: Value::theirs(publish.topic),
            payload: Value::theirs(publish.payload),
            properties: PropertySet::theirs(publish.properties),
        }),
        Packet::PubAck(ack) => theirs_ack!(ack, Puback, PubackReasonCode),
        Packet::PubRec(ack) => theirs_ack!(ack, Pubrec, PubrecReasonCode),
        Packet::PubRel(ack) => theirs_ack!(ack, Pubrel, PubrelReasonCode),
        Packet::PubComp(ack) => theirs_ack!(ack, Pubcomp, PubcompReasonCode),
        Packet::Subscribe(subscribe) => v5::Packet::Subscribe(v5::Subscribe {
            pid: Value::theirs(subscribe.packet_id),
            properties: PropertySet::theirs(subscribe.properties),
            topics: subscribe.subscriptions.iter().map(theirs_subscription).collect(),
        }),
        Packet::SubAck(ack) => v5::Packet::Suback(v5::Suback {
            pid: Value::theirs(ack.packet_id),
            properties: PropertySet::theirs(ack.properties),
            topics: ack.reasons.iter().map(|code| v5::SubscribeReasonCode::from_u8(code.value()).unwrap()).collect(),
        }),
        Packet::Unsubscribe(unsubscribe) => v5::Packet::Unsubscribe(v5::Unsubscribe {
            pid: Value::theirs(unsubscribe.packet_id),
            properties: PropertySet::theirs(unsubscribe.properties),
            topics: unsubscribe.filters.iter().map(Value::theirs).collect(),
        }),
        Packet::UnsubAck(ack) => v5::Packet::Unsuback(v5::Unsuback {
            pid: Value::theirs(ack.packet_id),
            properties: PropertySet::theirs(ack.properties),
            topics: ack.reasons.iter().map(|code| v5::UnsubscribeReasonCode::from_u8(code.value()).unwrap()).collect(),
        }),
        Packet::PingReq => v5::Packet::Pingreq,
        Packet::PingResp => v5::Packet::Pingresp,
        Packet::Disconnect(disconnect) => v5::Packet::Disconnect(v5::Disconnect {
            reason_code: v5::DisconnectReasonCode::from_u8(disconnect.reason.value()).unwrap(),
            properties: PropertySet::theirs(disconnect.properties),
        }),
        Packet::Auth(auth) => v5::Packet::Auth(v5::Auth {
            reason_code: v5::AuthReasonCode::from_u8(auth.reason.value()).unwrap(),
            properties: PropertySet::theirs(auth.properties),
        }),
    }
}

fn theirs_connect(connect: &Connect<'static>) -> v5::Connect {
    v5::Connect {
        protocol: Protocol::V500,
        clean_start: connect.clean_start,
        keep_alive: connect.keep_alive_s,
        properties: PropertySet::theirs(connect.properties),
        client_id: Value::theirs(connect.client_id),
        last_will: connect.will.map(|will| v5::LastWill {
            qos: Value::theirs(will.qos),
            retain: will.retain,
            topic_name: Value::theirs(will.topic),
            payload: Value::theirs(will.payload),
            properties: PropertySet::theirs(will.properties),
        }),
        username: connect.username.map(Value::theirs),
        password: connect.password.map(Value::theirs),
    }
}

fn theirs_subscription(subscription: Subscription<'static>) -> (TopicFilter, v5::SubscriptionOptions) {
    let options = v5::SubscriptionOptions {
        max_qos: Value::theirs(subscription.qos),
        no_local: subscription.no_local,
        retain_as_published: subscription.retain_as_published,
        retain_handling: match subscription.retain_handling {
            RetainHandling::Send => v5::RetainHandling::SendAtSubscribe,
            RetainHandling::SendIfNew => v5::RetainHandling::SendAtSubscribeIfNotExist,
            RetainHandling::DoNotSend => v5::RetainHandling::DoNotSend,
        },
    };
    (Value::theirs(subscription.filter), options)
}
