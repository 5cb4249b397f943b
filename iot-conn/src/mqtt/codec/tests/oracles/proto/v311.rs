//! Packets of MQTT 3.1.1.

use mqtt_proto::{Pid, Protocol, v3};

use super::{Value, ours_qos, theirs_qos};
use crate::mqtt::codec::tests::generator::leak;
use crate::mqtt::codec::tests::oracles::Refusal;
use crate::mqtt::packet::*;
use crate::mqtt::reason::ReasonCode;

pub(super) fn ours(packet: &v3::Packet) -> Result<Packet<'static>, Refusal> {
    let plain = |pid: &Pid| Ack::new(pid.ours(), ReasonCode::Success);
    Ok(match packet {
        v3::Packet::Connect(connect) => {
            if connect.protocol != Protocol::V311 {
                return Err(Refusal::OldProtocol);
            }
            Packet::Connect(Connect {
                version: Version::V311,
                client_id: connect.client_id.ours(),
                clean_start: connect.clean_session,
                keep_alive_s: connect.keep_alive,
                will: connect.last_will.as_ref().map(|will| Will {
                    topic: will.topic_name.ours(),
                    payload: will.message.ours(),
                    qos: will.qos.ours(),
                    retain: will.retain,
                    properties: List::EMPTY,
                }),
                username: connect.username.as_ref().map(Value::ours),
                password: connect.password.as_ref().map(Value::ours),
                properties: List::EMPTY,
            })
        }
        v3::Packet::Connack(ack) => Packet::ConnAck(ConnAck {
            session_present: ack.session_present,
            reason: ReasonCode::from_connack_v311(ack.code as u8).unwrap(),
            properties: List::EMPTY,
        }),
        v3::Packet::Publish(publish) => {
            let (qos, packet_id) = ours_qos(publish.qos_pid);
            Packet::Publish(Publish {
                dup: publish.dup,
                qos,
                retain: publish.retain,
                topic: publish.topic_name.ours(),
                packet_id,
                properties: List::EMPTY,
                payload: publish.payload.ours(),
            })
        }
        v3::Packet::Puback(pid) => Packet::PubAck(plain(pid)),
        v3::Packet::Pubrec(pid) => Packet::PubRec(plain(pid)),
        v3::Packet::Pubrel(pid) => Packet::PubRel(plain(pid)),
        v3::Packet::Pubcomp(pid) => Packet::PubComp(plain(pid)),
        v3::Packet::Subscribe(subscribe) => {
            let topics = subscribe.topics.iter();
            let subscriptions = topics.map(|(filter, qos)| Subscription::new(filter.ours(), qos.ours())).collect();
            Packet::Subscribe(Subscribe {
                packet_id: subscribe.pid.ours(),
                properties: List::EMPTY,
                subscriptions: List::from(leak(subscriptions)),
            })
        }
        v3::Packet::Suback(ack) => Packet::SubAck(SubAck {
            packet_id: ack.pid.ours(),
            properties: List::EMPTY,
            reasons: List::from(leak(ack.topics.iter().map(|code| ours_return_code(*code)).collect())),
        }),
        v3::Packet::Unsubscribe(unsubscribe) => Packet::Unsubscribe(Unsubscribe {
            packet_id: unsubscribe.pid.ours(),
            properties: List::EMPTY,
            filters: List::from(leak(unsubscribe.topics.iter().map(Value::ours).collect())),
        }),
        v3::Packet::Unsuback(pid) => {
            Packet::UnsubAck(SubAck { packet_id: pid.ours(), properties: List::EMPTY, reasons: List::EMPTY })
        }
        v3::Packet::Pingreq => Packet::PingReq,
        v3::Packet::Pingresp => Packet::PingResp,
        v3::Packet::Disconnect => {
            Packet::Disconnect(Disconnect { reason: ReasonCode::Success, properties: List::EMPTY })
        }
    })
}

fn ours_return_code(code: v3::SubscribeReturnCode) -> ReasonCode {
    match code {
        v3::SubscribeReturnCode::MaxLevel0 => ReasonCode::Success,
        v3::SubscribeReturnCode::MaxLevel1 => ReasonCode::GrantedQoS1,
        v3::SubscribeReturnCode::MaxLevel2 => ReasonCode::GrantedQoS2,
        v3::SubscribeReturnCode::Failure => ReasonCode::UnspecifiedError,
    }
}

pub(super) fn theirs(packet: &Packet<'static>) -> v3::Packet {
    match packet {
        Packet::Connect(connect) => v3::Packet::Connect(v3::Connect {
            protocol: Protocol::V311,
            clean_session: connect.clean_start,
            keep_alive: connect.keep_alive_s,
            client_id: Value::theirs(connect.client_id),
            last_will: connect.will.map(|will| v3::LastWill {
                qos: Value::theirs(will.qos),
                retain: will.retain,
                topic_name: Value::theirs(will.topic),
                message: Value::theirs(will.payload),
            }),
            username: connect.username.map(Value::theirs),
            password: connect.password.map(Value::theirs),
        }),
        Packet::ConnAck(ack) => v3::Packet::Connack(v3::Connack {
            session_present: ack.session_present,
            code: v3::ConnectReturnCode::from_u8(ack.reason.to_connack_v311().unwrap()).unwrap(),
        }),
        Packet::Publish(publish) => v3::Packet::Publish(v3::Publish {
            dup: publish.dup,
            retain: publish.retain,
            qos_pid: theirs_qos(publish),
            topic_name: Value::theirs(publish.topic),
            payload: Value::theirs(publish.payload),
        }),
        Packet::PubAck(ack) => v3::Packet::Puback(Value::theirs(ack.packet_id)),
        Packet::PubRec(ack) => v3::Packet::Pubrec(Value::theirs(ack.packet_id)),
        Packet::PubRel(ack) => v3::Packet::Pubrel(Value::theirs(ack.packet_id)),
        Packet::PubComp(ack) => v3::Packet::Pubcomp(Value::theirs(ack.packet_id)),
        Packet::Subscribe(subscribe) => v3::Packet::Subscribe(v3::Subscribe {
            pid: Value::theirs(subscribe.packet_id),
            topics: subscribe.subscriptions.iter().map(|s| (Value::theirs(s.filter), Value::theirs(s.qos))).collect(),
        }),
        Packet::SubAck(ack) => v3::Packet::Suback(v3::Suback {
            pid: Value::theirs(ack.packet_id),
            topics: ack.reasons.iter().map(|code| v3::SubscribeReturnCode::from_u8(code.value()).unwrap()).collect(),
        }),
        Packet::Unsubscribe(unsubscribe) => v3::Packet::Unsubscribe(v3::Unsubscribe {
            pid: Value::theirs(unsubscribe.packet_id),
            topics: unsubscribe.filters.iter().map(Value::theirs).collect(),
        }),
        Packet::UnsubAck(ack) => v3::Packet::Unsuback(Value::theirs(ack.packet_id)),
        Packet::PingReq => v3::Packet::Pingreq,
        Packet::PingResp => v3::Packet::Pingresp,
        Packet::Disconnect(_) => v3::Packet::Disconnect,
        Packet::Auth(_) => panic!("3.1.1 has no AUTH"),
    }
}
