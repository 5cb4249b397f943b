//! CONNECT: its fields, and what becomes of one that is not well formed.

use super::*;
use crate::mqtt::{ConnAck, Sender, codec::decode, server::ConnectRequest};
use ReasonCode::{ClientIdentifierNotValid, MalformedPacket, TopicNameInvalid, UnsupportedProtocolVersion};
use Version::{V5, V311};

/// Keep alive 60, no properties of the CONNECT.
fn body(version: Version, flags: u8, payload: &[u8]) -> Vec<u8> {
    let (level, properties): (u8, &[u8]) = if version == V5 { (5, b"\0") } else { (4, b"") };
    [b"\0\x04MQTT", &[level, flags][..], b"\0\x3c", properties, payload].concat()
}

/// The will's properties, none.
fn none(version: Version) -> &'static [u8] {
    if version == V5 { b"\0" } else { b"" }
}

/// A CONNECT that is refused: with a CONNACK, if the version has one for this, and the end.
#[track_caller]
fn connect_refused(version: Version, body: &[u8], reason: ReasonCode) {
    let mut server = Server::new(version, limits());
    server.receive_bytes(&framed(0x10, body));
    match (version, reason.to_connack_v311()) {
        (V311, None) => server.assert_sent(&[]),
        _ => {
            let ack = ConnAck { session_present: false, reason, properties: List::EMPTY };
            server.assert_sent(&[Packet::ConnAck(ack)]);
        }
    }
    let events = server.events();
    assert!(matches!(events[..], [Event::Closed(Cause::Protocol(told, _))] if told == reason), "{events:?}");
    assert!(server.connection.is_closed());
}

#[track_caller]
fn connect_taken(version: Version, body: &[u8]) -> ConnectRequest {
    let mut server = Server::new(version, limits());
    server.receive_bytes(&framed(0x10, body));
    match server.events().pop() {
        Some(Event::Connect(request)) => *request,
        other => panic!("{other:?}"),
    }
}

#[test]
fn mqtt_5_3_1_2_1_the_protocol_name_is_mqtt() {
    for name in [&b"\0\x04MQTX\x05"[..], b"\0\x04mqtt\x05", b"\0\x03MQT\x05", b"\0\x05MQTT5\x05"] {
        let mut server = Server::new(V5, limits());
        server.receive_bytes(&framed(0x10, &[name, b"\x02\0\x3c\0\0\0"].concat()));
        server.assert_sent(&[]);
        assert!(matches!(server.events()[..], [Event::Closed(Cause::Protocol(UnsupportedProtocolVersion, _))]));
    }
    // The name of 3.1 tells which CONNACK its client understands.
    let mut server = Server::new(V311, limits());
    server.receive_bytes(&framed(0x10, b"\0\x06MQIsdp\x03\x02\0\x3c\0\x01a"));
    assert_eq!(&server.connection.output()[..], b"\x20\x02\0\x01");
    assert!(server.connection.is_closed());
}

#[test]
fn mqtt_5_3_1_2_3_the_reserved_connect_flag_is_0() {
    for version in BOTH {
        connect_refused(version, &body(version, 0x03, b"\0\x01a"), MalformedPacket);
        connect_taken(version, &body(version, 0x02, b"\0\x01a"));
    }
}

#[test]
fn mqtt_5_3_1_2_9_a_will_has_a_topic_and_a_payload() {
    for version in BOTH {
        let will = [b"\0\x01a", none(version), b"\0\x01w\0\x01p"].concat();
        let came = connect_taken(version, &body(version, 0x06, &will)).will.unwrap();
        assert_eq!((&came.topic[..], &came.payload[..]), ("w", &b"p"[..]));
        for end in 3..will.len() {
            connect_refused(version, &body(version, 0x06, &will[..end]), MalformedPacket);
        }
    }
}

#[test]
fn mqtt_5_3_1_2_11_no_will_has_no_qos() {
    for version in BOTH {
        for flags in [0x0a, 0x12] {
            connect_refused(version, &body(version, flags, b"\0\x01a"), MalformedPacket);
        }
    }
}

#[test]
fn mqtt_5_3_1_2_12_a_will_has_qos_0_1_or_2() {
    for version in BOTH {
        let payload = [b"\0\x01a", none(version), b"\0\x01w\0\x01p"].concat();
        for (flags, qos) in [(0x06, QoS::AtMostOnce), (0x0e, QoS::AtLeastOnce), (0x16, QoS::ExactlyOnce)] {
            assert_eq!(connect_taken(version, &body(version, flags, &payload)).will.unwrap().qos, qos);
        }
        connect_refused(version, &body(version, 0x1e, &payload), MalformedPacket);
    }
}

#[test]
fn mqtt_5_3_1_2_13_no_will_is_not_retained() {
    for version in BOTH {
        connect_refused(version, &body(version, 0x22, b"\0\x01a"), MalformedPacket);
    }
}

/// 3.1.1: nor have the will's fields a place then.
#[test]
fn mqtt_3_1_1_3_1_2_11_no_will_has_no_fields() {
    for version in BOTH {
        let payload = [b"\0\x01a", none(version), b"\0\x01w\0\x01p"].concat();
        connect_refused(version, &body(version, 0x02, &payload), MalformedPacket);
        assert!(connect_taken(version, &body(version, 0x02, b"\0\x01a")).will.is_none());
    }
}

#[test]
fn mqtt_5_3_1_2_16_no_user_name_flag_is_no_user_name() {
    for version in BOTH {
        connect_refused(version, &body(version, 0x02, b"\0\x01a\0\x01u"), MalformedPacket);
        assert_eq!(connect_taken(version, &body(version, 0x02, b"\0\x01a")).username, None);
    }
}

#[test]
fn mqtt_5_3_1_2_17_a_user_name_flag_is_a_user_name() {
    for version in BOTH {
        connect_refused(version, &body(version, 0x82, b"\0\x01a"), MalformedPacket);
        let came = connect_taken(version, &body(version, 0x82, b"\0\x01a\0\x01u"));
        assert_eq!(came.username.as_deref(), Some("u"));
    }
}

#[test]
fn mqtt_5_3_1_2_18_no_password_flag_is_no_password() {
    for version in BOTH {
        connect_refused(version, &body(version, 0x82, b"\0\x01a\0\x01u\0\x01p"), MalformedPacket);
        assert!(connect_taken(version, &body(version, 0x82, b"\0\x01a\0\x01u")).password.is_none());
    }
}

#[test]
fn mqtt_5_3_1_2_19_a_password_flag_is_a_password() {
    for version in BOTH {
        connect_refused(version, &body(version, 0xc2, b"\0\x01a\0\x01u"), MalformedPacket);
        let came = connect_taken(version, &body(version, 0xc2, b"\0\x01a\0\x01u\0\x01p"));
        assert_eq!(came.password.unwrap().expose(), "p");
    }
    assert!(connect_taken(V5, &body(V5, 0x42, b"\0\x01a\0\x01p")).password.is_some());
}

#[test]
fn mqtt_3_1_1_3_1_2_22_a_password_comes_with_a_user_name() {
    connect_refused(V311, &body(V311, 0x42, b"\0\x01a\0\x01p"), MalformedPacket);
    connect_taken(V311, &body(V311, 0xc2, b"\0\x01a\0\0\0\x01p"));
}

#[test]
fn mqtt_5_3_1_3_1_the_fields_are_in_their_order() {
    for version in BOTH {
        let payload = [b"\0\x01a", none(version), b"\0\x01w\0\x01m\0\x01u\0\x01p"].concat();
        let came = connect_taken(version, &body(version, 0xc6, &payload));
        let will = came.will.unwrap();
        assert_eq!((&came.client_id[..], &will.topic[..], &will.payload[..]), ("a", "w", &b"m"[..]));
        assert_eq!((came.username.as_deref(), came.password.unwrap().expose()), (Some("u"), "p"));
    }
}

#[test]
fn mqtt_5_3_1_3_3_the_client_identifier_is_the_first_field() {
    for version in BOTH {
        connect_refused(version, &body(version, 0x02, b""), MalformedPacket);
        assert_eq!(connect_taken(version, &body(version, 0x82, b"\0\x01a\0\x01u")).client_id, "a");
    }
}

#[test]
fn mqtt_5_3_1_3_4_the_client_identifier_is_utf_8() {
    for version in BOTH {
        connect_refused(version, &body(version, 0x02, b"\0\x01\xff"), MalformedPacket);
        connect_refused(version, &body(version, 0x02, b"\0\x01\0"), MalformedPacket);
        connect_taken(version, &body(version, 0x02, b"\0\x02\xc3\xa9"));
    }
}

#[test]
fn mqtt_5_3_1_3_11_the_will_topic_is_utf_8_and_a_topic_name() {
    for version in BOTH {
        let with = |topic: &[u8]| [b"\0\x01a", none(version), b"\0\x01", topic, b"\0\x01m"].concat();
        connect_refused(version, &body(version, 0x06, &with(b"\xff")), MalformedPacket);
        connect_refused(version, &body(version, 0x06, &with(b"#")), TopicNameInvalid);
    }
}

#[test]
fn mqtt_5_3_1_3_12_the_user_name_is_utf_8() {
    for version in BOTH {
        connect_refused(version, &body(version, 0x82, b"\0\x01a\0\x01\xff"), MalformedPacket);
    }
}

#[test]
fn mqtt_5_3_1_4_1_a_connect_that_is_not_well_formed_is_refused() {
    for version in BOTH {
        let whole = body(version, 0x02, b"\0\x01a");
        // From the protocol level on, the version is known.
        for end in 7..whole.len() {
            connect_refused(version, &whole[..end], MalformedPacket);
        }
        connect_refused(version, &[&whole[..], b"x"].concat(), MalformedPacket);
        connect_taken(version, &whole);
    }
}

/// Without a CONNACK, as none of its codes says it.
#[test]
fn mqtt_3_1_1_3_1_4_1_a_malformed_connect_gets_no_connack() {
    let mut server = Server::new(V311, limits());
    server.receive_bytes(&framed(0x10, &body(V311, 0x03, b"\0\x01a")));
    assert!(server.connection.is_closed() && !server.connection.has_output());
}

#[test]
fn mqtt_5_3_1_4_2_a_client_that_the_server_does_not_want_is_closed() {
    for version in BOTH {
        for reason in [ReasonCode::NotAuthorized, ReasonCode::BadUserNameOrPassword, ReasonCode::ServerUnavailable] {
            let mut server = Server::new(version, limits());
            server.receive(&Packet::Connect(connect(version)));
            server.events();
            server.connection.refuse(reason);
            let ack = ConnAck { session_present: false, reason, properties: List::EMPTY };
            server.assert_sent(&[Packet::ConnAck(ack)]);
            server.assert_closed(Cause::ServerDisconnect(reason));
        }
    }
}

#[test]
fn mqtt_5_3_1_3_8_a_client_identifier_that_is_refused_ends_the_connection() {
    for version in BOTH {
        let mut server = Server::new(version, limits());
        server.receive(&Packet::Connect(connect(version)));
        server.events();
        server.connection.refuse(ClientIdentifierNotValid);
        let expected: &[u8] = if version == V5 { b"\x20\x03\0\x85\0" } else { b"\x20\x02\0\x02" };
        assert_eq!(&server.connection.output().split()[..], expected);
        server.assert_closed(Cause::ServerDisconnect(ClientIdentifierNotValid));
    }
}

#[test]
fn mqtt_3_1_1_3_1_3_7_no_client_identifier_comes_with_clean_session() {
    assert_eq!(connect_taken(V311, &body(V311, 0x02, b"\0\0")).client_id, "");
    connect_refused(V311, &body(V311, 0x00, b"\0\0"), ClientIdentifierNotValid);
    assert_eq!(connect_taken(V5, &body(V5, 0x00, b"\0\0")).client_id, "");
}

// === CONNACK ===

/// Everything a server writes from the CONNECT on, if it takes the client.
fn welcome(connect: &Connect<'_>, accepted: Accepted) -> Vec<u8> {
    let mut server = Server::new(connect.version, limits());
    server.receive(&Packet::Connect(*connect));
    server.connection.accept(server.now, accepted);
    server.connection.output().to_vec()
}

#[test]
fn mqtt_5_3_2_0_1_a_connack_is_the_first_packet() {
    for version in BOTH {
        let mut server = Server::new(version, limits());
        server.receive(&Packet::Connect(connect(version)));
        let _ = server.connection.deliver(server.now, &delivery(QoS::AtMostOnce, 0));
        server.connection.release(1, 1);
        server.receive(&Packet::PingReq);
        server.assert_sent(&[]);
        server.connection.accept(server.now, Accepted::default());
        server.take();
        let output = server.connection.output();
        assert_eq!(output[0], 0x20);
        assert!(output.ends_with(b"\xd0\0"));
    }
}

#[test]
fn mqtt_5_3_2_0_2_there_is_one_connack() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        server.connection.accept(server.now, Accepted::default());
        server.connection.refuse(ReasonCode::ServerBusy);
        server.assert_sent(&[]);
        server.assert_open();
    }
}

#[test]
fn mqtt_5_3_2_2_1_the_other_bits_of_the_connack_flags_are_0() {
    for version in BOTH {
        for session_present in [false, true] {
            let written = welcome(&connect(version), Accepted { session_present, ..Accepted::default() });
            assert_eq!(written[2], u8::from(session_present));
        }
        for flags in 2..=255 {
            let rest: &[u8] = if version == V5 { b"\0\0" } else { b"\0" };
            assert!(decode(&framed(0x20, &[&[flags][..], rest].concat()), version, Sender::Server).is_err());
        }
    }
}

#[test]
fn mqtt_5_3_2_2_6_an_error_is_without_a_session() {
    for version in BOTH {
        let mut server = Server::new(version, limits());
        server.receive(&Packet::Connect(connect(version)));
        server.connection.refuse(ReasonCode::ServerUnavailable);
        assert_eq!(server.connection.output()[2], 0);
        let rest: &[u8] = if version == V5 { b"\x01\x88\0" } else { b"\x01\x03" };
        assert!(decode(&framed(0x20, rest), version, Sender::Server).is_err());
    }
}

#[test]
fn mqtt_5_3_2_2_7_a_connack_with_an_error_is_the_end() {
    for version in BOTH {
        let mut server = Server::new(version, limits());
        server.receive(&Packet::Connect(connect(version)));
        server.events();
        server.connection.refuse(ReasonCode::ServerUnavailable);
        assert!(server.connection.has_output());
        server.connection.output().clear();
        server.assert_closed(Cause::ServerDisconnect(ReasonCode::ServerUnavailable));
        server.connection.accept(server.now, Accepted::default());
        server.assert_sent(&[]);
    }
}

#[test]
fn mqtt_5_3_2_2_8_a_connack_holds_one_of_its_codes() {
    for reason in ReasonCode::ALL {
        let mut server = Server::new(V5, limits());
        server.receive(&Packet::Connect(connect(V5)));
        server.connection.refuse(*reason);
        let written = server.connection.output().to_vec();
        let Ok(Packet::ConnAck(ack)) = decode(&written, V5, Sender::Server) else { panic!("{reason:?}") };
        assert!(ack.reason.is_error() && ack.reason.is_valid_in(crate::mqtt::PacketKind::ConnAck));
    }
}

#[test]
fn mqtt_5_3_2_2_22_without_a_server_keep_alive_the_clients_counts() {
    for version in BOTH {
        let connect = Connect { keep_alive_s: 7, ..connect(version) };
        let server = Server::accepted(&connect, limits(), Accepted::default());
        assert_eq!(server.connection.poll_timeout(), Some(server.now.plus(Duration::from_millis(10_500))));
        let written = welcome(&connect, Accepted::default());
        let Ok(Packet::ConnAck(ack)) = decode(&written, version, Sender::Server) else { panic!() };
        assert_eq!(ack.properties.server_keep_alive(), None);
    }
}
