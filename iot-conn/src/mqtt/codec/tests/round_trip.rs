//! What is written is read as the same; what is read never panics.

use bytes::BytesMut;
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::{EncodedPublish, connect_version, decode, encode, frame_length};
use super::generator::{any_packet, packet_id, properties, publish};
use crate::mqtt::packet::*;
use crate::mqtt::property::{Properties, Property};
use crate::mqtt::reason::ReasonCode;
use crate::mqtt::wire::EncodeError;

fn encoded(packet: &Packet<'_>, version: Version) -> BytesMut {
    let mut out = BytesMut::new();
    encode(packet, version, &mut out).unwrap();
    out
}

/// Decodes as everything it could be, and reads all lists.
fn decode_every_way(bytes: &[u8]) {
    let _ = frame_length(bytes, 1_000_000);
    let _ = connect_version(bytes);
    for version in [Version::V311, Version::V5] {
        for sender in [Sender::Client, Sender::Server] {
            if let Ok(packet) = decode(bytes, version, sender) {
                let again = encoded(&packet, version);
                assert_eq!(decode(&again, version, sender), Ok(packet));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if std::env::var_os("IOT_LONG").is_some() { 20 * 400 } else { 400 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_encoded_decodes_to_the_same((version, sender, packet) in any_packet()) {
        let mut out = BytesMut::from(&b"before"[..]);
        encode(&packet, version, &mut out).unwrap();
        prop_assert_eq!(&out[..6], b"before");
        let frame = &out[6..];
        prop_assert_eq!(frame_length(frame, frame.len()), Ok(Some(frame.len())));
        let decoded = decode(frame, version, sender);
        prop_assert_eq!(decoded, Ok(packet));
        let again = encoded(&decoded.unwrap(), version);
        prop_assert_eq!(&again[..], frame);
    }

    #[test]
    fn every_prefix_of_a_packet_is_incomplete((version, sender, packet) in any_packet()) {
        let whole = encoded(&packet, version);
        for end in (0..whole.len()).take(300) {
            let length = frame_length(&whole[..end], whole.len()).unwrap();
            prop_assert!(length.is_none_or(|length| length == whole.len()));
            prop_assert!(decode(&whole[..end], version, sender).is_err());
        }
    }

    #[test]
    fn random_bytes_do_not_panic(bytes in vec(any::<u8>(), 0..80)) {
        decode_every_way(&bytes);
    }

    #[test]
    fn a_random_body_does_not_panic(first in any::<u8>(), body in vec(any::<u8>(), 0..100)) {
        let length = u8::try_from(body.len()).unwrap();
        decode_every_way(&[&[first, length], &body[..]].concat());
    }

    #[test]
    fn a_damaged_packet_does_not_panic(
        (version, _, packet) in any_packet(),
        damages in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = encoded(&packet, version).to_vec();
        for (index, value) in damages {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        decode_every_way(&bytes);
    }

    #[test]
    fn a_shared_publish_is_what_encode_writes(
        version in prop::sample::select(vec![Version::V311, Version::V5]),
        publish in publish(Version::V311),
        id in packet_id(),
        (dup, retain) in any::<(bool, bool)>(),
    ) {
        let shared = EncodedPublish::new(&publish, version).unwrap();
        let is_qos_0 = publish.qos == QoS::AtMostOnce;
        let packet_id = (!is_qos_0).then_some(id);
        let dup = dup && !is_qos_0;
        let mut out = BytesMut::from(&b"before"[..]);
        shared.write(packet_id, dup, retain, &mut out).unwrap();
        let expected = encoded(&Packet::Publish(Publish { packet_id, dup, retain, ..publish }), version);
        prop_assert_eq!(&out[6..], &expected[..]);
        prop_assert_eq!(shared.len(), expected.len());
    }

    #[test]
    fn a_message_keeps_the_properties_that_travel_with_it(
        all in properties(Version::V5, PacketKind::Publish.bit()),
    ) {
        let kept = all.to_message();
        let sent: Vec<_> = Property::of_message(&kept).collect();
        let properties = Properties::from(&sent[..]);
        prop_assert_eq!(&properties.to_message(), &kept);
        prop_assert_eq!(properties.content_type(), all.content_type());
        prop_assert_eq!(properties.response_topic(), all.response_topic());
        prop_assert_eq!(properties.correlation_data(), all.correlation_data());
        prop_assert!(properties.user_properties().eq(all.user_properties()));
        prop_assert_eq!(properties.topic_alias(), None);
        prop_assert_eq!(properties.message_expiry_interval(), None);
        prop_assert_eq!(properties.subscription_identifier(), None);
    }
}

#[test]
fn what_does_not_fit_is_refused_and_leaves_the_buffer_as_it_was() {
    let long = "x".repeat(65_536);
    let publish = Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: "t",
        packet_id: None,
        properties: List::EMPTY,
        payload: b"",
    };
    let huge = vec![0; 268_435_456];
    let refused = [
        (Packet::Publish(Publish { topic: &long, ..publish }), EncodeError::FieldTooLong),
        (Packet::Publish(Publish { payload: &huge, ..publish }), EncodeError::PacketTooLarge),
        (Packet::Publish(Publish { packet_id: Some(PacketId::MIN), ..publish }), EncodeError::NoSuchPacket),
        (Packet::Publish(Publish { qos: QoS::AtLeastOnce, ..publish }), EncodeError::NoSuchPacket),
        (Packet::Auth(Auth { reason: ReasonCode::Success, properties: List::EMPTY }), EncodeError::NoSuchPacket),
    ];
    for (packet, error) in refused {
        let mut out = BytesMut::from(&b"before"[..]);
        assert_eq!(encode(&packet, Version::V311, &mut out), Err(error));
        assert_eq!(&out[..], b"before");
    }
}

#[test]
fn a_suback_of_311_says_128_for_every_error() {
    let reasons = [ReasonCode::GrantedQoS1, ReasonCode::NotAuthorized];
    let ack = SubAck { packet_id: PacketId::MIN, properties: List::EMPTY, reasons: List::from(&reasons) };
    assert_eq!(&encoded(&Packet::SubAck(ack), Version::V311)[..], b"\x90\x04\0\x01\x01\x80");
    assert_eq!(&encoded(&Packet::UnsubAck(ack), Version::V311)[..], b"\xb0\x02\0\x01");
}

#[test]
fn a_shared_publish_refuses_an_identifier_that_its_qos_has_not_and_the_reverse() {
    let publish = |qos| Publish {
        dup: false,
        qos,
        retain: false,
        topic: "t",
        packet_id: None,
        properties: List::EMPTY,
        payload: b"",
    };
    let id = Some(PacketId::MIN);
    for (qos, packet_id, dup) in [
        (QoS::AtMostOnce, id, false),
        (QoS::AtMostOnce, None, true),
        (QoS::AtLeastOnce, None, false),
        (QoS::ExactlyOnce, None, true),
    ] {
        let shared = EncodedPublish::new(&publish(qos), Version::V5).unwrap();
        let mut out = BytesMut::from(&b"before"[..]);
        assert_eq!(shared.write(packet_id, dup, false, &mut out), Err(EncodeError::NoSuchPacket), "{qos:?}");
        assert_eq!(&out[..], b"before");
    }
}

#[test]
fn room_for_a_message_is_made_for_its_size() {
    let topic = "t".repeat(1_000);
    let publish = Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: &topic,
        packet_id: None,
        properties: List::EMPTY,
        payload: &[0; 1_000],
    };
    let capacity = encoded(&Packet::Publish(publish), Version::V5).capacity();
    assert!((2_000..4_000).contains(&capacity), "{capacity}");
}
