//! CONNECT and CONNACK.

use super::*;
use crate::mqtt::{ConnAck, Will};

fn connack<'a>(reason: ReasonCode, properties: &'a [Property<'a>]) -> Packet<'a> {
    Packet::ConnAck(ConnAck { session_present: false, reason, properties: Properties::from(properties) })
}

/// Receives a CONNECT and gives the request.
fn request(server: &mut Server, connect: Connect<'_>) -> super::super::ConnectRequest {
    server.receive(&Packet::Connect(connect));
    match server.events().pop() {
        Some(Event::Connect(request)) => *request,
        other => panic!("{other:?}"),
    }
}

#[test]
fn mqtt_5_3_1_0_1_the_first_packet_is_a_connect() {
    for version in BOTH {
        let mut server = Server::new(version, limits());
        server.receive(&Packet::PingReq);
        server.assert_sent(&[]);
        assert!(matches!(server.events()[..], [Event::Closed(Cause::Protocol(ReasonCode::ProtocolError, _))]));
        assert!(server.connection.is_closed());
    }
}

#[test]
fn mqtt_5_3_1_0_2_a_second_connect_is_a_violation() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        server.receive(&Packet::Connect(connect(version)));
        server.assert_violated(ReasonCode::ProtocolError);
    }
}

#[test]
fn a_request_says_what_the_client_said() {
    let will_properties =
        [Property::WillDelayInterval(7), Property::MessageExpiryInterval(9), Property::ContentType("text/plain")];
    let connect_properties = [Property::SessionExpiryInterval(3_600), Property::RequestProblemInformation(false)];
    let connect = Connect {
        clean_start: false,
        will: Some(Will {
            topic: "up/gone",
            payload: b"bye",
            qos: QoS::ExactlyOnce,
            retain: true,
            properties: Properties::from(&will_properties),
        }),
        username: Some("anna"),
        password: Some(b"hunter2"),
        properties: Properties::from(&connect_properties),
        ..connect(Version::V5)
    };
    let mut server = Server::new(Version::V5, limits());
    assert_eq!(server.connection.version(), None);
    let request = request(&mut server, connect);
    assert_eq!(server.connection.version(), Some(Version::V5));
    assert_eq!((request.version, &request.client_id[..], request.clean_start), (Version::V5, "lamp", false));
    assert_eq!((request.keep_alive_s, request.username.as_deref()), (60, Some("anna")));
    assert_eq!(request.password.as_ref().map(|password| password.expose()), Some("hunter2"));
    assert_eq!((request.session_expiry_s, request.request_problem_information), (3_600, false));
    let will = request.will.clone().unwrap();
    assert_eq!(
        (&will.topic[..], &will.payload[..], will.qos, will.retain),
        ("up/gone", &b"bye"[..], QoS::ExactlyOnce, true)
    );
    assert_eq!((will.delay_s, will.expiry_s), (7, Some(9)));
    assert_eq!(will.properties.content_type.as_deref(), Some("text/plain"));
    assert!(!format!("{request:?}").contains("hunter2"));
}

#[test]
fn a_session_of_3_1_1_ends_with_the_connection_or_never() {
    for (clean_start, expected) in [(true, 0), (false, u32::MAX)] {
        let unbounded = ConnectionLimits { session_expiry_s_max: u32::MAX, ..limits() };
        let mut server = Server::new(Version::V311, unbounded);
        let request = request(&mut server, Connect { clean_start, ..connect(Version::V311) });
        assert_eq!(request.session_expiry_s, expected);
    }
    let mut server = Server::new(Version::V311, ConnectionLimits { session_expiry_s_max: 60, ..limits() });
    assert_eq!(request(&mut server, Connect { clean_start: false, ..connect(Version::V311) }).session_expiry_s, 60);
}

#[test]
fn mqtt_5_3_1_4_5_an_accepted_client_gets_a_connack_with_what_is_granted() {
    let limits = ConnectionLimits { session_expiry_s_max: 100, keep_alive_s_max: Some(30), ..limits() };
    let properties = [Property::SessionExpiryInterval(3_600)];
    let mut server = Server::new(Version::V5, limits);
    let request = request(&mut server, Connect { properties: Properties::from(&properties), ..connect(Version::V5) });
    assert_eq!(request.session_expiry_s, 100);
    let accepted = Accepted {
        session_present: true,
        session_expiry_s: request.session_expiry_s,
        assigned_client_id: Some("c-1".to_owned()),
        ..Accepted::default()
    };
    server.connection.accept(server.now, accepted);
    server.assert_sent(&[Packet::ConnAck(ConnAck {
        session_present: true,
        reason: ReasonCode::Success,
        properties: Properties::from(&[
            Property::SessionExpiryInterval(100),
            Property::ReceiveMaximum(256),
            Property::MaximumPacketSize(256 * 1024),
            Property::AssignedClientIdentifier("c-1"),
            Property::TopicAliasMaximum(16),
            Property::ServerKeepAlive(30),
        ]),
    })]);
}

#[test]
fn a_session_expiry_as_asked_for_is_not_told() {
    let properties = [Property::SessionExpiryInterval(3_600)];
    let mut server = Server::new(Version::V5, ConnectionLimits { topic_alias_maximum: 0, ..limits() });
    request(&mut server, Connect { properties: Properties::from(&properties), ..connect(Version::V5) });
    server.connection.accept(server.now, Accepted { session_expiry_s: 3_600, ..Accepted::default() });
    let expected = [Property::ReceiveMaximum(256), Property::MaximumPacketSize(256 * 1024)];
    server.assert_sent(&[connack(ReasonCode::Success, &expected)]);
}

#[test]
fn mqtt_3_1_1_3_1_4_4_an_accepted_client_gets_a_connack() {
    let mut server = Server::new(Version::V311, limits());
    request(&mut server, connect(Version::V311));
    server.connection.accept(server.now, Accepted { server_keep_alive_s: Some(5), ..Accepted::default() });
    server.assert_sent(&[connack(ReasonCode::Success, &[])]);
    assert_eq!(server.connection.poll_timeout(), Some(server.now.plus(Duration::from_secs(90))));
}

#[test]
fn packets_behind_the_connect_wait_for_the_answer() {
    for version in BOTH {
        let mut server = Server::new(version, limits());
        encode(&Packet::Connect(connect(version)), version, &mut server.input).unwrap();
        server.receive(&publish(QoS::AtMostOnce, 0));
        assert!(matches!(server.events()[..], [Event::Connect(_)]));
        assert!(server.connection.is_saturated() && !server.input.is_empty());
        server.connection.accept(server.now, Accepted::default());
        assert!(!server.connection.is_saturated());
        server.take();
        assert_eq!(server.published().len(), 1);
        assert!(server.input.is_empty());
    }
}

#[test]
fn mqtt_5_3_1_4_6_nothing_behind_a_refused_connect_is_processed() {
    for version in BOTH {
        let mut server = Server::new(version, limits());
        encode(&Packet::Connect(connect(version)), version, &mut server.input).unwrap();
        server.receive(&publish(QoS::AtMostOnce, 0));
        server.events();
        server.connection.refuse(ReasonCode::NotAuthorized);
        server.take();
        server.assert_sent(&[connack(ReasonCode::NotAuthorized, &[])]);
        server.assert_closed(Cause::ServerDisconnect(ReasonCode::NotAuthorized));
    }
}

#[test]
fn mqtt_3_1_1_3_2_2_6_a_reason_without_a_return_code_is_not_told() {
    let mut server = Server::new(Version::V311, limits());
    request(&mut server, connect(Version::V311));
    server.connection.refuse(ReasonCode::TopicNameInvalid);
    server.assert_sent(&[]);
    server.assert_closed(Cause::ServerDisconnect(ReasonCode::TopicNameInvalid));
}

#[test]
fn a_refusal_is_an_error_that_a_connack_may_hold() {
    for reason in [ReasonCode::Success, ReasonCode::SessionTakenOver] {
        let mut server = Server::new(Version::V5, limits());
        request(&mut server, connect(Version::V5));
        server.connection.refuse(reason);
        server.assert_sent(&[connack(ReasonCode::UnspecifiedError, &[])]);
        server.assert_closed(Cause::ServerDisconnect(reason));
    }
    let mut server = Server::new(Version::V311, limits());
    request(&mut server, connect(Version::V311));
    server.connection.refuse(ReasonCode::Success);
    server.assert_sent(&[]);
}

#[test]
fn mqtt_5_3_14_0_1_a_client_that_waits_for_its_connack_gets_no_disconnect() {
    let mut server = Server::new(Version::V5, limits());
    request(&mut server, connect(Version::V5));
    server.connection.disconnect(ReasonCode::ServerBusy);
    server.assert_sent(&[connack(ReasonCode::ServerBusy, &[])]);
    server.assert_closed(Cause::ServerDisconnect(ReasonCode::ServerBusy));

    let mut server = Server::new(Version::V5, limits());
    server.connection.disconnect(ReasonCode::ServerBusy);
    server.assert_sent(&[]);
    server.assert_closed(Cause::ServerDisconnect(ReasonCode::ServerBusy));
}

#[test]
fn mqtt_5_3_1_2_2_an_unknown_version_is_refused_in_the_nearest() {
    for (level, expected) in [(3, &b"\x20\x02\0\x01"[..]), (6, b"\x20\x03\0\x84\0")] {
        let mut server = Server::new(Version::V5, limits());
        server.receive_bytes(&[0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', level, 2, 0, 0, 0, 0]);
        assert_eq!(&server.connection.output().split()[..], expected);
        let events = server.events();
        assert!(
            matches!(events[..], [Event::Closed(Cause::Protocol(ReasonCode::UnsupportedProtocolVersion, _))]),
            "{events:?}"
        );
    }
}

#[test]
fn mqtt_3_1_1_3_1_3_8_no_client_identifier_without_clean_session_is_refused() {
    let mut server = Server::new(Version::V311, limits());
    server.receive(&Packet::Connect(Connect { client_id: "", clean_start: false, ..connect(Version::V311) }));
    server.assert_sent(&[connack(ReasonCode::ClientIdentifierNotValid, &[])]);
    assert!(matches!(server.events()[..], [Event::Closed(Cause::Protocol(ReasonCode::ClientIdentifierNotValid, _))]));
}

#[test]
fn mqtt_5_4_12_0_1_an_authentication_method_is_refused() {
    let properties = [Property::AuthenticationMethod("SCRAM-SHA-256")];
    let mut server = Server::new(Version::V5, limits());
    server.receive(&Packet::Connect(Connect { properties: Properties::from(&properties), ..connect(Version::V5) }));
    server.assert_sent(&[connack(ReasonCode::BadAuthenticationMethod, &[])]);
    server.assert_closed(Cause::ServerDisconnect(ReasonCode::BadAuthenticationMethod));
}

#[test]
fn a_password_that_is_not_text_is_refused() {
    for version in BOTH {
        let mut server = Server::new(version, limits());
        let connect = Connect { username: Some("anna"), password: Some(b"\xff\xfe"), ..connect(version) };
        server.receive(&Packet::Connect(connect));
        server.assert_sent(&[connack(ReasonCode::BadUserNameOrPassword, &[])]);
        server.assert_closed(Cause::ServerDisconnect(ReasonCode::BadUserNameOrPassword));
    }
}

#[test]
fn a_client_that_takes_no_connack_of_its_size_is_given_up() {
    let properties = [Property::MaximumPacketSize(8)];
    let mut server = Server::new(Version::V5, limits());
    request(&mut server, Connect { properties: Properties::from(&properties), ..connect(Version::V5) });
    server.connection.accept(server.now, Accepted::default());
    server.assert_sent(&[]);
    server.assert_closed(Cause::ServerDisconnect(ReasonCode::PacketTooLarge));
}

#[test]
fn a_connect_that_is_too_large_is_refused_by_its_first_bytes() {
    let small = ConnectionLimits { packet_bytes_max: 20, ..limits() };
    for limits in [small, ConnectionLimits { connect_bytes_max: 20, ..limits() }] {
        let mut server = Server::new(Version::V5, limits);
        server.receive_bytes(b"\x10\x14\0\x04MQTT\x05");
        server.assert_sent(&[connack(ReasonCode::PacketTooLarge, &[])]);
        assert!(matches!(server.events()[..], [Event::Closed(Cause::Protocol(ReasonCode::PacketTooLarge, _))]));
    }
}

#[test]
fn what_bounds_the_connect_bounds_nothing_after_it() {
    let limits = ConnectionLimits { connect_bytes_max: 64, ..limits() };
    let mut server = Server::online(Version::V5, limits);
    let topic = "x".repeat(200);
    server.receive(&publish_with(QoS::AtMostOnce, 0, false, &topic, &[]));
    assert_eq!(server.published()[0].topic.len(), 200);
}

#[test]
fn a_packet_may_arrive_byte_by_byte() {
    let mut server = Server::new(Version::V5, limits());
    let mut bytes = BytesMut::new();
    encode(&Packet::Connect(connect(Version::V5)), Version::V5, &mut bytes).unwrap();
    let (last, first) = bytes.split_last().unwrap();
    for byte in first {
        server.receive_bytes(&[*byte]);
        assert!(!server.connection.has_events());
    }
    server.receive_bytes(&[*last]);
    assert!(server.connection.has_events());
}
