//! Keep alive, DISCONNECT, violations.

use super::*;
use crate::mqtt::{Auth, ConnAck, Disconnect, server::Farewell};

const SECOND: Duration = Duration::from_secs(1);
const MOMENT: Duration = Duration::from_nanos(1);

#[test]
fn a_connect_comes_in_time() {
    let mut server = Server::new(Version::V5, limits());
    assert_eq!(server.connection.poll_timeout(), Some(server.now.plus(5 * SECOND)));
    server.receive_bytes(b"\x10");
    server.pass(5 * SECOND - MOMENT);
    assert!(!server.connection.is_closed());
    server.pass(MOMENT);
    server.assert_sent(&[]);
    server.assert_closed(Cause::ConnectTimeout);
}

#[test]
fn mqtt_5_3_1_2_22_a_client_silent_for_one_and_a_half_keep_alives_is_disconnected() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        server.pass(89 * SECOND);
        server.receive(&Packet::PingReq);
        server.assert_sent(&[Packet::PingResp]);
        assert_eq!(server.connection.poll_timeout(), Some(server.now.plus(90 * SECOND)));
        server.receive_bytes(b"\xc0");
        server.pass(90 * SECOND - MOMENT);
        assert!(!server.connection.is_closed());
        server.pass(MOMENT);
        match version {
            Version::V5 => server.assert_sent(&[disconnect(ReasonCode::KeepAliveTimeout)]),
            Version::V311 => server.assert_sent(&[]),
        }
        server.assert_closed(Cause::KeepAliveTimeout);
    }
}

#[test]
fn mqtt_5_3_2_2_21_the_servers_keep_alive_counts() {
    let accepted = Accepted { server_keep_alive_s: Some(3), ..Accepted::default() };
    let server = Server::accepted(&connect(Version::V5), limits(), accepted.clone());
    assert_eq!(server.connection.poll_timeout(), Some(server.now.plus(Duration::from_millis(4_500))));

    let bounded = ConnectionLimits { keep_alive_s_max: Some(2), ..limits() };
    let server = Server::accepted(&connect(Version::V5), bounded.clone(), accepted.clone());
    assert_eq!(server.connection.poll_timeout(), Some(server.now.plus(3 * SECOND)));

    let server = Server::accepted(&Connect { keep_alive_s: 0, ..connect(Version::V5) }, bounded, Accepted::default());
    assert_eq!(server.connection.poll_timeout(), Some(server.now.plus(3 * SECOND)));

    let server = Server::accepted(&connect(Version::V311), limits(), accepted);
    assert_eq!(server.connection.poll_timeout(), Some(server.now.plus(90 * SECOND)));
}

#[test]
fn a_keep_alive_of_0_is_none() {
    for version in BOTH {
        let connect = Connect { keep_alive_s: 0, ..connect(version) };
        let mut server = Server::accepted(&connect, limits(), Accepted::default());
        assert_eq!(server.connection.poll_timeout(), None);
        server.pass(1_000_000 * SECOND);
        assert!(!server.connection.is_closed());
    }
}

#[test]
fn a_client_is_not_silent_while_it_is_not_read() {
    let mut server = Server::online(Version::V311, ConnectionLimits { receive_maximum: 1, ..limits() });
    server.receive(&publish(QoS::AtLeastOnce, 1));
    let tickets = server.tickets();
    server.pass(90 * SECOND);
    assert!(!server.connection.is_closed());
    server.pass(89 * SECOND);
    server.connection.published(tickets[0], ReasonCode::Success);
    server.pass(SECOND);
    assert!(!server.connection.is_closed(), "what came meanwhile has not been read");
    server.pass(90 * SECOND);
    assert!(server.connection.is_closed());
}

#[test]
fn a_client_that_was_not_read_gets_its_time_anew_once() {
    let mut server = Server::online(Version::V311, ConnectionLimits { receive_maximum: 1, ..limits() });
    server.receive(&publish(QoS::AtLeastOnce, 1));
    let tickets = server.tickets();
    server.pass(89 * SECOND);
    server.connection.published(tickets[0], ReasonCode::Success);
    server.pass(SECOND);
    assert!(!server.connection.is_closed(), "what came meanwhile has not been read");
    server.receive(&publish(QoS::AtLeastOnce, 2));
    let tickets = server.tickets();
    server.connection.published(tickets[0], ReasonCode::Success);
    server.receive(&Packet::PingReq);
    server.pass(90 * SECOND);
    assert!(server.connection.is_closed(), "everything has been read");
}

#[test]
fn the_keep_alive_begins_with_the_connack() {
    let mut server = Server::new(Version::V5, limits());
    server.receive(&Packet::Connect(connect(Version::V5)));
    server.pass(1_000 * SECOND);
    assert_eq!(server.connection.poll_timeout(), None);
    server.connection.accept(server.now, Accepted::default());
    assert_eq!(server.connection.poll_timeout(), Some(server.now.plus(90 * SECOND)));
}

#[test]
fn a_client_that_does_not_take_its_output_is_silent() {
    let mut server = Server::online(Version::V5, ConnectionLimits { output_bytes_max: 1, ..limits() });
    server.receive(&Packet::PingReq);
    assert!(server.connection.is_saturated());
    server.pass(90 * SECOND);
    assert!(server.connection.is_closed());
}

#[test]
fn mqtt_5_3_14_4_3_a_plain_disconnect_is_without_the_will() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        server.receive(&disconnect(ReasonCode::Success));
        server.assert_sent(&[]);
        let cause = Cause::Disconnected { with_will: false, session_expiry_s: None };
        assert!(!cause.with_will());
        server.assert_closed(cause);
    }
    for reason in [ReasonCode::DisconnectWithWill, ReasonCode::UnspecifiedError] {
        let mut server = Server::online(Version::V5, limits());
        server.receive(&disconnect(reason));
        let cause = Cause::Disconnected { with_will: true, session_expiry_s: None };
        assert!(cause.with_will());
        server.assert_closed(cause);
    }
}

#[test]
fn a_disconnect_may_change_the_session_expiry_but_not_from_0() {
    let goodbye = |properties| Packet::Disconnect(Disconnect { reason: ReasonCode::Success, properties });
    let later = [Property::SessionExpiryInterval(500)];
    let asked = [Property::SessionExpiryInterval(10)];
    let connect_with = Connect { properties: Properties::from(&asked), ..connect(Version::V5) };

    let bounded = ConnectionLimits { session_expiry_s_max: 300, ..limits() };
    let mut server = Server::accepted(&connect_with, bounded, Accepted::default());
    server.receive(&goodbye(Properties::from(&later)));
    server.assert_closed(Cause::Disconnected { with_will: false, session_expiry_s: Some(300) });

    let mut server = Server::online(Version::V5, limits());
    server.receive(&goodbye(Properties::from(&[Property::SessionExpiryInterval(0)])));
    server.assert_closed(Cause::Disconnected { with_will: false, session_expiry_s: Some(0) });

    let mut server = Server::online(Version::V5, limits());
    server.receive(&goodbye(Properties::from(&later)));
    server.assert_violated(ReasonCode::ProtocolError);
}

#[test]
fn the_server_says_why_it_leaves_in_mqtt_5_only() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        server.connection.disconnect(ReasonCode::SessionTakenOver);
        match version {
            Version::V5 => server.assert_sent(&[disconnect(ReasonCode::SessionTakenOver)]),
            Version::V311 => server.assert_sent(&[]),
        }
        server.assert_closed(Cause::ServerDisconnect(ReasonCode::SessionTakenOver));
    }
    let mut server = Server::online(Version::V5, limits());
    server.connection.disconnect(ReasonCode::Banned);
    server.assert_sent(&[disconnect(ReasonCode::UnspecifiedError)]);
}

#[test]
fn mqtt_5_4_13_1_1_after_an_error_nothing_more_is_processed() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        let mut input = BytesMut::new();
        encode(&publish(QoS::AtMostOnce, 0), version, &mut input).unwrap();
        input.extend_from_slice(b"\x00\x00");
        encode(&publish(QoS::AtMostOnce, 0), version, &mut input).unwrap();
        server.receive_bytes(&input);
        let events = server.events();
        assert!(
            matches!(events[..], [Event::Publish(_), Event::Closed(Cause::Protocol(ReasonCode::MalformedPacket, _))]),
            "{events:?}"
        );
        assert!(server.input.is_empty());
        server.receive(&publish(QoS::AtMostOnce, 0));
        assert!(server.events().is_empty());
    }
}

#[test]
fn a_packet_that_is_too_large_is_refused_by_its_first_bytes() {
    for version in BOTH {
        let mut server = Server::online(version, ConnectionLimits { packet_bytes_max: 300, ..limits() });
        server.receive_bytes(b"\x30\xa9\x02");
        assert!(!server.connection.is_closed());
        let mut server = Server::online(version, ConnectionLimits { packet_bytes_max: 300, ..limits() });
        server.receive_bytes(b"\x30\xaa\x02");
        server.assert_violated(ReasonCode::PacketTooLarge);
    }
}

#[test]
fn mqtt_5_4_12_0_7_an_auth_without_a_method_before_is_a_violation() {
    let properties = [Property::AuthenticationMethod("SCRAM-SHA-256")];
    let mut server = Server::online(Version::V5, limits());
    server
        .receive(&Packet::Auth(Auth { reason: ReasonCode::ReAuthenticate, properties: Properties::from(&properties) }));
    server.assert_violated(ReasonCode::ProtocolError);

    let mut server = Server::online(Version::V311, limits());
    server.receive_bytes(b"\xf0\x00");
    server.assert_violated(ReasonCode::MalformedPacket);
}

#[test]
fn a_packet_of_the_servers_is_a_violation() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        server.receive(&Packet::PingResp);
        server.assert_violated(ReasonCode::ProtocolError);
    }
}

#[test]
fn causes_have_stable_names() {
    let plain = Cause::Disconnected { with_will: false, session_expiry_s: None };
    assert_eq!((plain.code(), plain.with_will()), ("disconnected", false));
    let others = [
        (Cause::Disconnected { with_will: true, session_expiry_s: None }, "disconnected_with_will"),
        (Cause::KeepAliveTimeout, "keep_alive_timeout"),
        (Cause::ConnectTimeout, "connect_timeout"),
        (Cause::Protocol(ReasonCode::ProtocolError, ""), "protocol_error"),
        (Cause::ServerDisconnect(ReasonCode::SessionTakenOver), "taken_over"),
        (Cause::ServerDisconnect(ReasonCode::NotAuthorized), "revoked"),
        (Cause::ServerDisconnect(ReasonCode::QuotaExceeded), "too_slow"),
        (Cause::ServerDisconnect(ReasonCode::ServerBusy), "server"),
        (Cause::Lost, "connection_lost"),
    ];
    for (cause, name) in others {
        assert_eq!((cause.code(), cause.with_will()), (name, true));
    }
    for reason in [ReasonCode::ServerShuttingDown, ReasonCode::UseAnotherServer] {
        let cause = Cause::ServerDisconnect(reason);
        assert_eq!((cause.code(), cause.with_will()), ("shutting_down", false), "says nothing about the client");
    }
}

#[test]
fn who_is_sent_away_is_told_where_to_go_and_when_as_far_as_its_packets_allow() {
    let farewell =
        Farewell { retry_after: Some(Duration::from_millis(1_234)), server_reference: Some("b.example".into()) };
    let told = [Property::ServerReference("b.example"), Property::UserProperty("retry-after-ms", "1234")];
    let reason = ReasonCode::UseAnotherServer;
    let with = Packet::Disconnect(Disconnect { reason, properties: List::from(&told) });
    let without = Packet::Disconnect(Disconnect { reason, properties: List::EMPTY });
    let mut old = Server::online(Version::V311, ConnectionLimits::default());
    old.connection.disconnect_with(reason, &farewell);
    assert!(!old.connection.has_output());
    for (bytes_max, packet) in [(None, with), (Some(20), without)] {
        let properties: Vec<_> = bytes_max.map(Property::MaximumPacketSize).into_iter().collect();
        let connect = Connect { properties: List::from(&properties[..]), ..connect(Version::V5) };
        let mut server = Server::accepted(&connect, ConnectionLimits::default(), Accepted::default());
        server.connection.disconnect_with(reason, &farewell);
        server.assert_sent(&[packet]);
    }
    for (version, written) in [(Version::V5, Some(&told[..])), (Version::V311, None)] {
        let mut server = Server::new(version, ConnectionLimits::default());
        server.receive(&Packet::Connect(connect(version)));
        server.connection.refuse_with(ReasonCode::ServerUnavailable, &farewell);
        let properties = written.map(List::from).unwrap_or_default();
        server.assert_sent(&[Packet::ConnAck(ConnAck {
            session_present: false,
            reason: ReasonCode::ServerUnavailable,
            properties,
        })]);
    }
}

#[test]
fn a_violation_whose_reason_is_none_to_disconnect_with_is_a_protocol_error() {
    let mut server = Server::online(Version::V5, limits());
    server.receive_bytes(b"\x10\x0d\0\x04MQTT\x06\x02\0\0\0\0\0");
    server.assert_sent(&[disconnect(ReasonCode::ProtocolError)]);
    assert!(matches!(server.events()[..], [Event::Closed(Cause::Protocol(ReasonCode::UnsupportedProtocolVersion, _))]));
}
