//! What packets hold: flags, strings, identifiers, topics. Each packet goes through the engine, which closes the connection
//! with the reason.

use super::*;
use crate::mqtt::{
    Sender,
    codec::{decode, frame_length},
    server::Text,
    wire::EncodeError,
};
use ReasonCode::{MalformedPacket, ProtocolError, TopicFilterInvalid, TopicNameInvalid};
use Version::{V5, V311};

/// Not UTF-8: a surrogate, an over-long form, a lone continuation, above U+10FFFF, cut.
const ILL_FORMED: [&[u8]; 5] = [b"\xed\xa0\x80", b"\xc0\xaf", b"a\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"];

fn field(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

/// A PUBLISH of QoS 0 without properties.
fn message(version: Version, topic: &[u8]) -> Vec<u8> {
    let mut body = field(topic);
    if version == V5 {
        body.push(0);
    }
    body
}

fn filter(version: Version, filter: &[u8], options: &[u8]) -> Vec<u8> {
    let properties: &[u8] = if version == V5 { b"\0" } else { b"" };
    [b"\0\x01", properties, &field(filter), options].concat()
}

// === Data types ===

#[test]
fn mqtt_5_1_5_4_1_a_string_is_well_formed_utf_8() {
    for version in BOTH {
        for text in ILL_FORMED {
            refused(version, 0x30, &message(version, text), MalformedPacket);
            refused(version, 0x82, &filter(version, text, b"\0"), MalformedPacket);
        }
        taken(version, 0x30, &message(version, "a/é漢😀".as_bytes()));
    }
}

#[test]
fn mqtt_5_1_5_4_2_a_string_holds_no_null() {
    for version in BOTH {
        refused(version, 0x30, &message(version, b"a\0b"), MalformedPacket);
        taken(version, 0x30, &message(version, b"a\x01b"));
    }
    refused(V5, 0x30, b"\0\x01t\x04\x03\0\x01\0", MalformedPacket);
}

#[test]
fn mqtt_5_1_5_4_3_a_byte_order_mark_is_a_character() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        server.receive_bytes(&framed(0x30, &message(version, b"\xef\xbb\xbfa\xef\xbb\xbf")));
        assert_eq!(server.published()[0].topic, "\u{feff}a\u{feff}");
    }
}

#[test]
fn mqtt_5_1_5_5_1_a_variable_byte_integer_has_the_fewest_bytes() {
    for (value, length) in [(1, 1), (127, 1), (128, 2), (16_383, 2), (16_384, 3), (2_097_151, 3), (2_097_152, 4)] {
        let mut server = Server::online(V5, limits());
        let delivery = Delivery { identifiers: &[value], ..delivery(QoS::AtMostOnce, 0) };
        assert_eq!(server.connection.deliver(server.now, &delivery), crate::mqtt::server::Delivered::Written);
        let frame = server.connection.output().split();
        assert_eq!(frame.len(), 2 + 12 + 1 + 1 + length + 2, "{value}");
        assert!(decode(&frame, V5, Sender::Server).is_ok());
    }
    for version in BOTH {
        let mut server = Server::online(version, limits());
        server.receive_bytes(b"\xc0\x80\x00");
        server.assert_violated(MalformedPacket);
    }
    refused(V5, 0x30, b"\0\x01t\x80\0", MalformedPacket);
}

#[test]
fn mqtt_5_1_5_7_1_both_strings_of_a_pair_are_utf_8() {
    taken(V5, 0x30, b"\0\x01t\x07\x26\0\x01a\0\x01b");
    refused(V5, 0x30, b"\0\x01t\x07\x26\0\x01\xff\0\x01b", MalformedPacket);
    refused(V5, 0x30, b"\0\x01t\x07\x26\0\x01a\0\x01\xff", MalformedPacket);
    refused(V5, 0x30, b"\0\x01t\x07\x26\0\x01a\0\x01\0", MalformedPacket);
}

// === Fixed header ===

/// The flags that a packet type has, if it has only one.
fn flags_of(kind: u8) -> Option<u8> {
    match kind {
        3 => None,
        6 | 8 | 10 => Some(2),
        _ => Some(0),
    }
}

#[test]
fn mqtt_5_2_1_3_1_reserved_flags_are_those_of_the_packet_type() {
    for kind in 1..=15_u8 {
        for flags in 0..16_u8 {
            let expected = flags_of(kind).is_none_or(|only| only == flags);
            let judged = frame_length(&[kind << 4 | flags], 100);
            assert_eq!(judged.is_ok(), expected, "type {kind}, flags {flags}");
            assert!(judged.is_ok() || judged.is_err_and(|error| error.reason == MalformedPacket));
        }
    }
    for version in BOTH {
        refused(version, 0xc1, b"", MalformedPacket);
        refused(version, 0x41, b"\0\x01", MalformedPacket);
    }
}

/// A packet of this type is broken by all flags but these.
fn only_flags(version: Version, kind: u8, only: u8, body: &[u8]) {
    for flags in (0..16).filter(|flags| *flags != only) {
        refused(version, kind << 4 | flags, body, MalformedPacket);
    }
    let mut server = Server::online(version, limits());
    server.receive_bytes(&framed(kind << 4 | only, body));
    assert!(!server.events().iter().any(|event| matches!(event, Event::Closed(Cause::Protocol(..)))));
}

#[test]
fn mqtt_5_3_6_1_1_the_flags_of_a_pubrel_are_0010() {
    for version in BOTH {
        only_flags(version, 6, 2, b"\0\x01");
    }
}

#[test]
fn mqtt_5_3_8_1_1_the_flags_of_a_subscribe_are_0010() {
    for version in BOTH {
        only_flags(version, 8, 2, &filter(version, b"a", b"\0"));
    }
}

#[test]
fn mqtt_5_3_10_1_1_the_flags_of_an_unsubscribe_are_0010() {
    for version in BOTH {
        only_flags(version, 10, 2, &filter(version, b"a", b""));
    }
}

#[test]
fn mqtt_5_3_14_1_1_the_flags_of_a_disconnect_are_0() {
    for version in BOTH {
        only_flags(version, 14, 0, b"");
    }
}

#[test]
fn mqtt_5_3_15_1_1_the_flags_of_an_auth_are_0() {
    for flags in 1..16 {
        refused(V5, 0xf0 | flags, b"\x18\x04\x15\0\x01m", MalformedPacket);
    }
    // The right flags are read; without a method in the CONNECT, the packet itself is the error.
    refused(V5, 0xf0, b"\x18\x04\x15\0\x01m", ProtocolError);
}

#[test]
fn mqtt_5_3_15_2_1_an_auth_has_a_code_of_its_own() {
    for reason in ReasonCode::ALL {
        let body = [reason.value(), 4, 0x15, 0, 1, b'm'];
        let is_own = matches!(reason.value(), 0x18 | 0x19);
        assert_eq!(decode(&framed(0xf0, &body), V5, Sender::Client).is_ok(), is_own, "{reason:?}");
        refused(V5, 0xf0, &body, ProtocolError);
    }
}

// === Packet identifiers ===

#[test]
fn mqtt_5_2_2_1_2_a_message_of_qos_0_has_no_packet_identifier() {
    for version in BOTH {
        let Packet::Publish(plain) = publish(QoS::AtMostOnce, 0) else { panic!() };
        let mut out = BytesMut::new();
        let with = Packet::Publish(Publish { packet_id: Some(id(7)), ..plain });
        assert_eq!(encode(&with, version, &mut out), Err(EncodeError::NoSuchPacket));
        let mut server = Server::online(version, limits());
        server.receive_bytes(&framed(0x30, &[&message(version, b"t")[..], b"\0\x07"].concat()));
        let came = &server.published()[0];
        assert_eq!((came.packet_id, &came.payload[..]), (None, &b"\0\x07"[..]));
    }
}

#[test]
fn mqtt_3_1_1_2_3_1_1_a_packet_identifier_is_not_0() {
    for version in BOTH {
        let properties: &[u8] = if version == V5 { b"\0" } else { b"" };
        for first in [0x32, 0x34] {
            refused(version, first, &[&b"\0\x01t\0\0"[..], properties].concat(), ProtocolError);
            taken(version, first, &[&b"\0\x01t\0\x01"[..], properties].concat());
        }
        refused(version, 0x82, &[&b"\0\0"[..], properties, b"\0\x01a\0"].concat(), ProtocolError);
        refused(version, 0xa2, &[&b"\0\0"[..], properties, b"\0\x01a"].concat(), ProtocolError);
        for first in [0x40, 0x50, 0x62, 0x70] {
            refused(version, first, b"\0\0", ProtocolError);
        }
    }
}

// === PUBLISH ===

#[test]
fn mqtt_5_3_3_1_4_qos_3_is_none() {
    for version in BOTH {
        let properties: &[u8] = if version == V5 { b"\0" } else { b"" };
        for first in [0x36, 0x37, 0x3e] {
            refused(version, first, &[&b"\0\x01t\0\x01"[..], properties].concat(), MalformedPacket);
        }
    }
}

#[test]
fn mqtt_5_3_3_2_1_the_topic_is_the_first_field_and_utf_8() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        let properties: &[u8] = if version == V5 { b"\0" } else { b"" };
        server.receive_bytes(&framed(0x32, &[&b"\0\x03a/b\0\x05"[..], properties].concat()));
        let came = &server.published()[0];
        assert_eq!((&*came.topic, came.packet_id), ("a/b", Some(5)));
        refused(version, 0x30, b"", MalformedPacket);
        refused(version, 0x30, &message(version, b"a\xff"), MalformedPacket);
    }
}

#[test]
fn mqtt_5_3_3_2_2_a_topic_name_has_no_wildcards() {
    for version in BOTH {
        for name in [&b"#"[..], b"+", b"a/+/b", b"a/#", b"a+", b"a#b"] {
            refused(version, 0x30, &message(version, name), TopicNameInvalid);
        }
    }
}

#[test]
fn mqtt_5_4_7_0_1_wildcards_are_for_filters_not_for_names() {
    for version in BOTH {
        for text in [&b"#"[..], b"+/a", b"a/+/#"] {
            taken(version, 0x82, &filter(version, text, b"\0"));
            refused(version, 0x30, &message(version, text), TopicNameInvalid);
        }
    }
}

#[test]
fn mqtt_5_3_3_2_13_a_response_topic_is_utf_8() {
    taken(V5, 0x30, b"\0\x01t\x04\x08\0\x01r");
    refused(V5, 0x30, b"\0\x01t\x04\x08\0\x01\xff", MalformedPacket);
}

#[test]
fn mqtt_5_3_3_2_14_a_response_topic_has_no_wildcards() {
    for wildcard in [b'#', b'+'] {
        refused(V5, 0x30, &[b"\0\x01t\x06\x08\0\x03r/", &[wildcard][..]].concat(), ProtocolError);
    }
}

#[test]
fn mqtt_5_3_3_2_19_a_content_type_is_utf_8() {
    taken(V5, 0x30, b"\0\x01t\x04\x03\0\x01c");
    refused(V5, 0x30, b"\0\x01t\x04\x03\0\x01\xff", MalformedPacket);
}

#[test]
fn mqtt_5_3_3_4_6_a_client_sends_no_subscription_identifier() {
    refused(V5, 0x30, b"\0\x01t\x02\x0b\x01", ProtocolError);
    assert!(decode(&framed(0x30, b"\0\x01t\x02\x0b\x01"), V5, Sender::Server).is_ok());
}

// === SUBSCRIBE and UNSUBSCRIBE ===

#[test]
fn mqtt_5_3_8_3_1_a_filter_is_utf_8() {
    for version in BOTH {
        for text in ILL_FORMED {
            refused(version, 0x82, &filter(version, text, b"\0"), MalformedPacket);
        }
    }
}

#[test]
fn mqtt_5_3_8_3_2_a_subscribe_has_a_filter() {
    for version in BOTH {
        let none: &[u8] = if version == V5 { b"\0\x01\0" } else { b"\0\x01" };
        refused(version, 0x82, none, ProtocolError);
        refused(version, 0x82, &filter(version, b"a", b""), MalformedPacket);
    }
}

#[test]
fn mqtt_5_3_8_3_4_no_local_is_not_for_shared_subscriptions() {
    refused(V5, 0x82, &filter(V5, b"$share/g/t", b"\x04"), ProtocolError);
    taken(V5, 0x82, &filter(V5, b"$share/g/t", b"\x01"));
    taken(V5, 0x82, &filter(V5, b"$shared/g/t", b"\x04"));
}

#[test]
fn mqtt_5_3_8_3_5_reserved_bits_of_the_options_are_0() {
    for bits in [0x40, 0x80, 0xc0] {
        refused(V5, 0x82, &filter(V5, b"a", &[bits]), MalformedPacket);
    }
    taken(V5, 0x82, &filter(V5, b"a", b"\x2e"));
    refused(V5, 0x82, &filter(V5, b"a", b"\x30"), ProtocolError);
    refused(V5, 0x82, &filter(V5, b"a", b"\x03"), ProtocolError);
}

#[test]
fn mqtt_3_1_1_3_8_3_4_the_options_are_a_qos_and_nothing_else() {
    for options in 3..=255_u8 {
        let mut server = Server::online(V311, limits());
        server.receive_bytes(&framed(0x82, &filter(V311, b"a", &[options])));
        assert!(server.connection.is_closed(), "{options:#x}");
    }
    for options in 0..3 {
        taken(V311, 0x82, &filter(V311, b"a", &[options]));
    }
}

#[test]
fn mqtt_5_3_10_3_1_a_filter_to_unsubscribe_is_utf_8() {
    for version in BOTH {
        for text in ILL_FORMED {
            refused(version, 0xa2, &filter(version, text, b""), MalformedPacket);
        }
    }
}

#[test]
fn mqtt_5_3_10_3_2_an_unsubscribe_has_a_filter() {
    for version in BOTH {
        let none: &[u8] = if version == V5 { b"\0\x01\0" } else { b"\0\x01" };
        refused(version, 0xa2, none, ProtocolError);
    }
}

// === Topics ===

fn filters(version: Version, good: &[&str], bad: &[&str]) {
    for text in good {
        taken(version, 0x82, &filter(version, text.as_bytes(), b"\0"));
    }
    for text in bad {
        refused(version, 0x82, &filter(version, text.as_bytes(), b"\0"), TopicFilterInvalid);
        refused(version, 0xa2, &filter(version, text.as_bytes(), b""), TopicFilterInvalid);
    }
}

#[test]
fn mqtt_5_4_7_1_1_a_multi_level_wildcard_is_a_last_level() {
    for version in BOTH {
        filters(version, &["#", "a/#", "/#", "+/#"], &["a#", "a/#/b", "#/a", "a/b#", "##"]);
    }
}

#[test]
fn mqtt_5_4_7_1_2_a_single_level_wildcard_is_a_whole_level() {
    for version in BOTH {
        filters(version, &["+", "+/a", "a/+/b", "/+", "+/+"], &["a+", "+a", "a/b+/c", "++"]);
    }
}

#[test]
fn mqtt_5_4_7_3_1_a_topic_has_a_character() {
    for version in BOTH {
        filters(version, &["/", " "], &[""]);
    }
    refused(V311, 0x30, &message(V311, b""), TopicNameInvalid);
    refused(V5, 0x30, &message(V5, b""), ProtocolError);
}

#[test]
fn mqtt_5_4_7_3_2_a_topic_holds_no_null() {
    for version in BOTH {
        refused(version, 0x30, &message(version, b"a/\0"), MalformedPacket);
        refused(version, 0x82, &filter(version, b"a/\0", b"\0"), MalformedPacket);
        refused(version, 0xa2, &filter(version, b"a/\0", b""), MalformedPacket);
    }
}

#[test]
fn mqtt_5_4_7_3_3_a_topic_has_at_most_65535_bytes() {
    let longest = "x".repeat(65_535);
    for version in BOTH {
        let mut server = Server::online(version, limits());
        server.receive(&publish_with(QoS::AtMostOnce, 0, false, &longest, &[]));
        assert_eq!(server.published()[0].topic.len(), 65_535);
        let too_long = format!("{longest}x");
        let packet = publish_with(QoS::AtMostOnce, 0, false, &too_long, &[]);
        assert_eq!(encode(&packet, version, &mut BytesMut::new()), Err(EncodeError::FieldTooLong));
        let delivery = Delivery { topic: &too_long, ..delivery(QoS::AtMostOnce, 0) };
        assert_eq!(server.connection.deliver(server.now, &delivery), crate::mqtt::server::Delivered::TooLarge);
    }
}

#[test]
fn mqtt_5_4_8_2_1_a_share_has_a_name() {
    for version in BOTH {
        filters(version, &["$share/g/a", "$share/漢/#", "$sharex", "$share2/g"], &["$share//a", "$share", "$share/"]);
    }
}

#[test]
fn mqtt_5_4_8_2_2_the_name_of_a_share_is_followed_by_a_filter() {
    for version in BOTH {
        let bad = ["$share/g", "$share/g/", "$share/+/a", "$share/g#/a", "$share/a+b/c", "$share/g/a#"];
        filters(version, &["$share/g/+", "$share/g//"], &bad);
    }
}

#[test]
fn a_text_is_what_it_was_made_of() {
    let (lent, owned) = (Text::from("up/é"), Text::from("up/é".to_owned()));
    assert_eq!(lent, owned);
    assert_eq!((lent.as_ref(), owned.as_str(), lent.len()), ("up/é", "up/é", 5));
    assert!(lent == "up/é" && lent == *"up/é" && lent != "up/e" && lent != *"up/e" && lent != Text::default());
    assert_eq!(format!("{lent} {lent:?}"), "up/é \"up/é\"");
}
