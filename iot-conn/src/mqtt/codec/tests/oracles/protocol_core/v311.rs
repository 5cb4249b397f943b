//! Packets of MQTT 3.1.1.

use mqtt_protocol_core::mqtt::{
    Arc,
    packet::{FixedHeader, v3_1_1},
    result_code::{self, MqttError},
};

use super::{Bytes, Read, code, codes, data, entry, id, qos, reason, subscription, text, their_qos};
use crate::mqtt::codec::tests::generator::leak;
use crate::mqtt::codec::tests::oracles::Refusal;
use crate::mqtt::packet::*;
use crate::mqtt::reason::ReasonCode;

macro_rules! ack_v311 {
    ($kind:ident, $body:expr) => {
        Ack::new(id(v3_1_1::$kind::parse($body)?.0.packet_id())?, ReasonCode::Success)
    };
}

pub(super) fn decode(header: FixedHeader, flags: u8, body: &[u8]) -> Read {
    let properties = List::EMPTY;
    Ok(match header {
        FixedHeader::Connect => Packet::Connect(connect_v311(&v3_1_1::Connect::parse(body)?.0)),
        FixedHeader::Connack => {
            let (ack, _) = v3_1_1::Connack::parse(body)?;
            let reason = ReasonCode::from_connack_v311(ack.return_code() as u8).unwrap();
            Packet::ConnAck(ConnAck { session_present: ack.session_present(), reason, properties })
        }
        FixedHeader::Publish => {
            let (publish, _) = v3_1_1::Publish::parse(flags, Arc::from(body))?;
            Packet::Publish(Publish {
                dup: publish.dup(),
                qos: qos(publish.qos()),
                retain: publish.retain(),
                topic: text(publish.topic_name()),
                packet_id: publish.packet_id().map(id).transpose()?,
                properties,
                payload: data(publish.payload().as_slice()),
            })
        }
        FixedHeader::Puback => Packet::PubAck(ack_v311!(Puback, body)),
        FixedHeader::Pubrec => Packet::PubRec(ack_v311!(Pubrec, body)),
        FixedHeader::Pubrel => Packet::PubRel(ack_v311!(Pubrel, body)),
        FixedHeader::Pubcomp => Packet::PubComp(ack_v311!(Pubcomp, body)),
        FixedHeader::Subscribe => {
            let (subscribe, _) = v3_1_1::Subscribe::parse(body)?;
            let subscriptions = List::from(leak(subscribe.entries().iter().map(subscription).collect()));
            Packet::Subscribe(Subscribe { packet_id: id(subscribe.packet_id())?, properties, subscriptions })
        }
        FixedHeader::Suback => {
            let (ack, _) = v3_1_1::Suback::parse(body)?;
            let reasons = List::from(leak(ack.return_codes().iter().map(|code| reason(*code as u8)).collect()));
            Packet::SubAck(SubAck { packet_id: id(ack.packet_id())?, properties, reasons })
        }
        FixedHeader::Unsubscribe => {
            let (unsubscribe, _) = v3_1_1::Unsubscribe::parse(body)?;
            let filters = unsubscribe.entries().iter().map(|filter| text(filter.as_str())).collect();
            let filters = List::from(leak(filters));
            Packet::Unsubscribe(Unsubscribe { packet_id: id(unsubscribe.packet_id())?, properties, filters })
        }
        FixedHeader::Unsuback => {
            let (ack, _) = v3_1_1::Unsuback::parse(body)?;
            Packet::UnsubAck(SubAck { packet_id: id(ack.packet_id())?, properties, reasons: List::EMPTY })
        }
        FixedHeader::Pingreq => v3_1_1::Pingreq::parse(body).map(|_| Packet::PingReq)?,
        FixedHeader::Pingresp => v3_1_1::Pingresp::parse(body).map(|_| Packet::PingResp)?,
        FixedHeader::Disconnect => v3_1_1::Disconnect::parse(body)
            .map(|_| Packet::Disconnect(Disconnect { reason: ReasonCode::Success, properties }))?,
        FixedHeader::Auth => return Err(Refusal::Refused("3.1.1 has no AUTH".to_owned())),
    })
}

fn connect_v311(connect: &v3_1_1::Connect) -> Connect<'static> {
    Connect {
        version: Version::V311,
        client_id: text(connect.client_id()),
        clean_start: connect.clean_session(),
        keep_alive_s: connect.keep_alive(),
        will: connect.will_topic().map(|topic| Will {
            topic: text(topic),
            payload: data(connect.will_payload().unwrap()),
            qos: qos(connect.will_qos()),
            retain: connect.will_retain(),
            properties: List::EMPTY,
        }),
        username: connect.user_name().map(text),
        password: connect.password().map(data),
        properties: List::EMPTY,
    }
}

macro_rules! put_ack_v311 {
    ($ack:expr, $kind:ident) => {
        v3_1_1::$kind::builder().packet_id($ack.packet_id.get()).build()?.to_continuous_buffer()
    };
}

pub(super) fn encode(packet: &Packet<'static>) -> Bytes {
    Ok(match packet {
        Packet::Connect(connect) => put_connect_v311(connect)?,
        Packet::ConnAck(ack) => {
            let code = result_code::ConnectReturnCode::try_from(ack.reason.to_connack_v311().unwrap()).unwrap();
            let builder = v3_1_1::Connack::builder().session_present(ack.session_present).return_code(code);
            builder.build()?.to_continuous_buffer()
        }
        Packet::Publish(publish) => v3_1_1::Publish::builder()
            .topic_name(publish.topic)?
            .qos(their_qos(publish.qos))
            .dup(publish.dup)
            .retain(publish.retain)
            .packet_id(publish.packet_id.map(PacketId::get))
            .payload(publish.payload)
            .build()?
            .to_continuous_buffer(),
        Packet::PubAck(ack) => put_ack_v311!(ack, Puback),
        Packet::PubRec(ack) => put_ack_v311!(ack, Pubrec),
        Packet::PubRel(ack) => put_ack_v311!(ack, Pubrel),
        Packet::PubComp(ack) => put_ack_v311!(ack, Pubcomp),
        Packet::Subscribe(subscribe) => v3_1_1::Subscribe::builder()
            .packet_id(subscribe.packet_id.get())
            .entries(subscribe.subscriptions.iter().map(entry).collect::<Result<Vec<_>, _>>()?)
            .build()?
            .to_continuous_buffer(),
        Packet::SubAck(ack) => v3_1_1::Suback::builder()
            .packet_id(ack.packet_id.get())
            .return_codes(codes!(ack, SubackReturnCode))
            .build()?
            .to_continuous_buffer(),
        Packet::Unsubscribe(unsubscribe) => v3_1_1::Unsubscribe::builder()
            .packet_id(unsubscribe.packet_id.get())
            .entries(unsubscribe.filters.iter())?
            .build()?
            .to_continuous_buffer(),
        Packet::UnsubAck(ack) => put_ack_v311!(ack, Unsuback),
        Packet::PingReq => v3_1_1::Pingreq::new().to_continuous_buffer(),
        Packet::PingResp => v3_1_1::Pingresp::new().to_continuous_buffer(),
        Packet::Disconnect(_) => v3_1_1::Disconnect::new().to_continuous_buffer(),
        Packet::Auth(_) => panic!("3.1.1 has no AUTH"),
    })
}

fn put_connect_v311(connect: &Connect<'static>) -> Bytes {
    let mut builder = v3_1_1::Connect::builder()
        .clean_session(connect.clean_start)
        .client_id(connect.client_id)?
        .keep_alive(connect.keep_alive_s);
    if let Some(will) = connect.will {
        builder = builder.will_message(will.topic, will.payload.to_vec(), their_qos(will.qos), will.retain)?;
    }
    if let Some(username) = connect.username {
        builder = builder.user_name(username)?;
    }
    if let Some(password) = connect.password {
        builder = builder.password(password.to_vec())?;
    }
    Ok(builder.build()?.to_continuous_buffer())
}
