//! Every bound, reached.

use super::*;
use crate::mqtt::{Sender, Subscribe, Subscription, codec::decode, server::Delivered};

fn few(receive_maximum: u16) -> ConnectionLimits {
    ConnectionLimits { receive_maximum, ..limits() }
}

#[test]
fn mqtt_5_3_3_4_7_more_messages_than_receive_maximum_are_a_violation() {
    let mut server = Server::online(Version::V5, few(2));
    server.receive(&publish(QoS::AtLeastOnce, 1));
    server.receive(&publish(QoS::ExactlyOnce, 2));
    server.receive(&publish(QoS::AtMostOnce, 0));
    assert!(!server.connection.is_saturated());
    assert_eq!(server.published().len(), 3);
    server.receive(&publish(QoS::AtLeastOnce, 3));
    server.assert_violated(ReasonCode::ReceiveMaximumExceeded);
}

#[test]
fn a_receive_maximum_that_was_granted_holds_in_place_of_a_higher_one() {
    for (granted, told) in [(Some(2), 2), (Some(0), 1), (Some(9), 3), (None, 3)] {
        let accepted = Accepted { receive_maximum: granted, ..Accepted::default() };
        let mut server = Server::new(Version::V5, few(3));
        server.receive(&Packet::Connect(connect(Version::V5)));
        server.events();
        server.connection.accept(server.now, accepted);
        let ack = server.connection.output().split();
        let Ok(Packet::ConnAck(ack)) = decode(&ack, Version::V5, Sender::Server) else { panic!("no CONNACK") };
        assert_eq!(ack.properties.receive_maximum(), Some(told));
        // Given back and taken again, it is still the one that was granted.
        server.receive(&publish(QoS::AtLeastOnce, 1));
        let tickets = server.tickets();
        server.connection.published(tickets[0], ReasonCode::Success);
        server.connection.output().clear();
        (1..=told).for_each(|packet_id| server.receive(&publish(QoS::AtLeastOnce, packet_id)));
        assert_eq!(server.tickets().len(), usize::from(told));
        server.receive(&publish(QoS::AtLeastOnce, told + 1));
        server.assert_violated(ReasonCode::ReceiveMaximumExceeded);
    }
}

#[test]
fn a_3_1_1_client_is_not_read_beyond_the_receive_maximum_that_was_granted() {
    let accepted = Accepted { receive_maximum: Some(1), ..Accepted::default() };
    let mut server = Server::accepted(&connect(Version::V311), few(3), accepted);
    server.receive(&publish(QoS::AtLeastOnce, 1));
    server.receive(&publish(QoS::AtLeastOnce, 2));
    let tickets = server.tickets();
    assert_eq!(tickets.len(), 1);
    assert!(server.connection.is_saturated() && !server.input.is_empty());
    server.connection.published(tickets[0], ReasonCode::Success);
    server.take();
    assert_eq!(server.tickets().len(), 1, "the next is read once the first is answered");
}

#[test]
fn an_acknowledgement_that_ends_a_message_makes_room_for_another() {
    let mut server = Server::online(Version::V5, few(1));
    server.receive(&publish(QoS::AtLeastOnce, 1));
    let tickets = server.tickets();
    server.connection.published(tickets[0], ReasonCode::Success);
    server.receive(&publish(QoS::ExactlyOnce, 2));
    let tickets = server.tickets();
    server.connection.published(tickets[0], ReasonCode::NotAuthorized);
    server.receive(&publish(QoS::ExactlyOnce, 3));
    let tickets = server.tickets();
    server.connection.published(tickets[0], ReasonCode::Success);
    server.receive(&pubrel(3));
    let ticket = server.release_ticket();
    server.connection.released(ticket);
    server.receive(&publish(QoS::ExactlyOnce, 4));
    let tickets = server.tickets();
    server.connection.published(tickets[0], ReasonCode::Success);
    server.connection.output().clear();
    server.receive(&publish(QoS::ExactlyOnce, 5));
    server.assert_violated(ReasonCode::ReceiveMaximumExceeded);
}

#[test]
fn messages_of_an_earlier_connection_do_not_count_against_receive_maximum() {
    let accepted = Accepted { received: vec![1, 2], ..Accepted::default() };
    let mut server = Server::accepted(&connect(Version::V5), few(1), accepted);
    server.receive(&publish(QoS::ExactlyOnce, 3));
    server.tickets();
    server.receive(&pubrel(1));
    let ticket = server.release_ticket();
    server.connection.released(ticket);
    // The PUBCOMP raised the client's quota (MQTT 5 §4.9), but never above the maximum.
    server.receive(&publish(QoS::ExactlyOnce, 4));
    server.tickets();
    server.connection.output().clear();
    server.receive(&publish(QoS::ExactlyOnce, 5));
    server.assert_violated(ReasonCode::ReceiveMaximumExceeded);
}

#[test]
fn a_pubcomp_does_not_raise_the_quota_above_receive_maximum() {
    let accepted = Accepted { received: vec![1], ..Accepted::default() };
    let mut server = Server::accepted(&connect(Version::V5), few(1), accepted);
    server.receive(&pubrel(1));
    let ticket = server.release_ticket();
    server.connection.released(ticket);
    server.receive(&publish(QoS::ExactlyOnce, 3));
    server.tickets();
    server.connection.output().clear();
    server.receive(&publish(QoS::ExactlyOnce, 4));
    server.assert_violated(ReasonCode::ReceiveMaximumExceeded);
}

#[test]
fn a_3_1_1_client_is_not_read_while_its_messages_are_unfinished() {
    let mut server = Server::online(Version::V311, few(2));
    for packet_id in 1..=4 {
        server.receive(&publish(QoS::AtLeastOnce, packet_id));
    }
    assert!(server.connection.is_saturated() && !server.input.is_empty());
    let tickets = server.tickets();
    assert_eq!(tickets.len(), 2);
    server.connection.published(tickets[1], ReasonCode::Success);
    assert!(server.connection.is_saturated());
    server.connection.published(tickets[0], ReasonCode::Success);
    assert!(!server.connection.is_saturated());
    server.take();
    assert_eq!(server.tickets().len(), 2);
    assert!(server.input.is_empty() && !server.connection.is_closed());
}

#[test]
fn a_3_1_1_client_may_have_many_received_messages_but_not_any_number() {
    let mut server = Server::online(Version::V311, ConnectionLimits { unreleased_max: 5, ..few(2) });
    for packet_id in 1..=5 {
        server.receive(&publish(QoS::ExactlyOnce, packet_id));
        let tickets = server.tickets();
        server.connection.published(tickets[0], ReasonCode::Success);
    }
    assert!(!server.connection.is_saturated());
    server.receive(&publish_again(QoS::ExactlyOnce, 5));
    server.connection.output().clear();
    server.receive(&publish(QoS::ExactlyOnce, 6));
    server.assert_violated(ReasonCode::QuotaExceeded);
}

#[test]
fn duplicates_are_bounded() {
    for version in BOTH {
        let mut server = Server::online(version, few(2));
        for _ in 0..5 {
            server.receive(&publish_again(QoS::ExactlyOnce, 1));
        }
        assert!(server.connection.is_saturated());
        let tickets = server.tickets();
        assert_eq!(tickets.len(), 1);
        server.connection.published(tickets[0], ReasonCode::Success);
        server.take();
        server.assert_sent(&[pubrec(1); 5]);
        assert!(server.input.is_empty() && !server.connection.is_saturated());
    }
}

#[test]
fn requests_and_releases_are_bounded() {
    let subscriptions = [Subscription::new("a", QoS::AtMostOnce)];
    let subscribe = Packet::Subscribe(Subscribe {
        packet_id: id(1),
        properties: List::EMPTY,
        subscriptions: List::from(&subscriptions),
    });
    for version in BOTH {
        let accepted = Accepted { received: vec![1], ..Accepted::default() };
        let mut server = Server::accepted(&connect(version), few(2), accepted);
        server.receive(&subscribe);
        server.receive(&pubrel(1));
        server.receive(&Packet::PingReq);
        assert!(server.connection.is_saturated() && !server.input.is_empty());
        server.assert_sent(&[]);
        match server.events()[..] {
            [Event::Subscribe { ticket, .. }, Event::Release { .. }] => {
                server.connection.subscribed(ticket, &[ReasonCode::Success]);
            }
            ref other => panic!("{other:?}"),
        }
        server.connection.output().clear();
        server.take();
        server.assert_sent(&[Packet::PingResp]);
    }
}

#[test]
fn input_waits_while_events_wait() {
    for version in BOTH {
        let mut server = Server::online(version, ConnectionLimits { events_max: 2, ..limits() });
        for _ in 0..3 {
            server.receive(&publish(QoS::AtMostOnce, 0));
        }
        assert!(server.connection.is_saturated());
        assert_eq!(server.published().len(), 2);
        assert!(!server.connection.is_saturated());
        server.take();
        assert_eq!(server.published().len(), 1);
    }
}

#[test]
fn input_and_messages_wait_while_output_waits() {
    for version in BOTH {
        let mut server = Server::online(version, ConnectionLimits { output_bytes_max: 4, ..limits() });
        for _ in 0..3 {
            server.receive(&Packet::PingReq);
        }
        assert!(server.connection.is_saturated());
        assert_eq!(server.connection.deliver(server.now, &delivery(QoS::AtMostOnce, 0)), Delivered::Full);
        server.assert_sent(&[Packet::PingResp; 2]);
        server.take();
        server.assert_sent(&[Packet::PingResp]);
        assert_eq!(server.connection.deliver(server.now, &delivery(QoS::AtMostOnce, 0)), Delivered::Written);
    }
}
