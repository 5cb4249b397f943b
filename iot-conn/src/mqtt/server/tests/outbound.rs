//! Messages for the client.

use std::num::NonZeroU16;

use super::*;
use crate::mqtt::server::{Delivered, PacketId as Id};

impl Server {
    #[track_caller]
    fn deliver(&mut self, delivery: &Delivery<'_>) {
        assert_eq!(self.connection.deliver(self.now, delivery), Delivered::Written);
    }

    #[track_caller]
    fn assert_finished(&mut self, expected: &[(u64, ReasonCode)]) {
        let finished: Vec<_> = self
            .events()
            .into_iter()
            .map(|event| match event {
                Event::Finished { tag, reason } => (tag, reason),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(finished, expected);
    }

    #[track_caller]
    fn assert_received(&mut self, expected_tag: u64, expected_id: u16) {
        let events = self.events();
        assert!(
            matches!(events[..], [Event::Received { tag, packet_id }] if (tag, packet_id) == (expected_tag, expected_id)),
            "{events:?}"
        );
    }
}

fn online_with(properties: &[Property<'_>], limits: ConnectionLimits) -> Server {
    let connect = Connect { properties: Properties::from(properties), ..connect(Version::V5) };
    Server::accepted(&connect, limits, Accepted::default())
}

fn using(packet_id: u16, qos: QoS, tag: u64) -> Delivery<'static> {
    Delivery { packet_id: Id::Use(NonZeroU16::new(packet_id).unwrap()), ..delivery(qos, tag) }
}

#[test]
fn qos_0_is_written_and_takes_no_place_of_the_window() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        server.deliver(&Delivery { dup: true, ..using(7, QoS::AtMostOnce, 1) });
        server.assert_sent(&[delivered(QoS::AtMostOnce, 0)]);
        assert_eq!(server.connection.window(), 64);
    }
}

#[test]
fn a_delivery_holds_what_goes_with_the_message() {
    let properties = message::Properties {
        utf8_payload: true,
        content_type: Some("text/plain".to_owned()),
        response_topic: Some("up/answer".to_owned()),
        correlation_data: Some(Bytes::from_static(b"1")),
        user: vec![("a".to_owned(), "b".to_owned())],
    };
    let delivery = Delivery {
        retain: true,
        identifiers: &[3, 4],
        properties: Some(&properties),
        expiry_s: Some(60),
        ..delivery(QoS::AtMostOnce, 0)
    };
    let Packet::Publish(plain) = delivered(QoS::AtMostOnce, 0) else { panic!() };
    let expected = [
        Property::MessageExpiryInterval(60),
        Property::SubscriptionIdentifier(3),
        Property::SubscriptionIdentifier(4),
        Property::PayloadFormatIndicator(true),
        Property::ContentType("text/plain"),
        Property::ResponseTopic("up/answer"),
        Property::CorrelationData(b"1"),
        Property::UserProperty("a", "b"),
    ];
    for (version, properties) in [(Version::V311, &[][..]), (Version::V5, &expected)] {
        let mut server = Server::online(version, limits());
        server.deliver(&delivery);
        server.deliver(&super::delivery(QoS::AtMostOnce, 0));
        let full = Publish { retain: true, properties: Properties::from(properties), ..plain };
        server.assert_sent(&[Packet::Publish(full), Packet::Publish(plain)]);
    }
}

#[test]
fn qos_1_ends_with_its_puback() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        server.deliver(&delivery(QoS::AtLeastOnce, 11));
        server.deliver(&delivery(QoS::AtLeastOnce, 12));
        server.assert_sent(&[delivered(QoS::AtLeastOnce, 1), delivered(QoS::AtLeastOnce, 2)]);
        server.receive(&puback(2));
        server.receive(&Packet::PubAck(Ack::new(id(1), ReasonCode::NoMatchingSubscribers)));
        let reason = if version == Version::V5 { ReasonCode::NoMatchingSubscribers } else { ReasonCode::Success };
        server.assert_finished(&[(12, ReasonCode::Success), (11, reason)]);
        assert_eq!(server.connection.window(), 64);
    }
}

#[test]
fn mqtt_5_4_3_3_5_qos_2_is_released_by_the_caller_only() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        server.deliver(&delivery(QoS::ExactlyOnce, 11));
        server.assert_sent(&[delivered(QoS::ExactlyOnce, 1)]);
        server.connection.release(1, 11);
        server.assert_sent(&[]);
        server.receive(&pubrec(1));
        server.assert_received(11, 1);
        server.receive(&pubrec(1));
        server.receive(&pubcomp(1));
        assert!(server.events().is_empty());
        server.assert_sent(&[]);
        server.connection.release(1, 11);
        server.assert_sent(&[pubrel(1)]);
        server.connection.release(1, 11);
        server.assert_sent(&[]);
        server.receive(&pubrec(1));
        server.assert_sent(&[pubrel(1)]);
        server.receive(&pubcomp(1));
        server.receive(&pubcomp(1));
        server.assert_finished(&[(11, ReasonCode::Success)]);
        assert_eq!(server.connection.window(), 64);
    }
}

#[test]
fn an_error_in_a_pubrec_ends_the_message() {
    let mut server = Server::online(Version::V5, limits());
    server.deliver(&delivery(QoS::ExactlyOnce, 11));
    server.connection.output().clear();
    server.receive(&Packet::PubRec(Ack::new(id(1), ReasonCode::QuotaExceeded)));
    server.assert_finished(&[(11, ReasonCode::QuotaExceeded)]);
    server.assert_sent(&[]);
    assert_eq!(server.connection.window(), 64);
}

#[test]
fn acknowledgements_of_nothing_are_ignored_or_answered() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        server.receive(&puback(7));
        server.receive(&pubcomp(7));
        server.receive(&pubrec(7));
        assert!(server.events().is_empty());
        server.assert_sent(&[Packet::PubRel(Ack::new(id(7), ReasonCode::PacketIdentifierNotFound))]);
    }
    let mut server = Server::online(Version::V5, limits());
    server.receive(&Packet::PubRec(Ack::new(id(7), ReasonCode::UnspecifiedError)));
    server.assert_sent(&[]);
}

#[test]
fn an_acknowledgement_of_the_wrong_kind_is_a_violation() {
    for (qos, answer) in [(QoS::AtLeastOnce, pubrec(1)), (QoS::ExactlyOnce, puback(1))] {
        for version in BOTH {
            let mut server = Server::online(version, limits());
            server.deliver(&delivery(qos, 11));
            server.connection.output().clear();
            server.receive(&answer);
            server.assert_violated(ReasonCode::ProtocolError);
        }
    }
}

#[test]
fn mqtt_5_3_3_4_9_no_more_is_in_flight_than_the_client_takes() {
    let mut server = online_with(&[Property::ReceiveMaximum(2)], limits());
    assert_eq!(server.connection.window(), 2);
    server.deliver(&delivery(QoS::AtLeastOnce, 1));
    server.deliver(&delivery(QoS::ExactlyOnce, 2));
    assert_eq!(server.connection.window(), 0);
    assert_eq!(server.connection.deliver(server.now, &delivery(QoS::AtLeastOnce, 3)), Delivered::Full);
    server.deliver(&delivery(QoS::AtMostOnce, 0));
    server.receive(&pubrec(2));
    server.connection.release(2, 2);
    assert_eq!(server.connection.window(), 0);
    server.receive(&pubcomp(2));
    assert_eq!(server.connection.window(), 1);
    server.deliver(&delivery(QoS::AtLeastOnce, 3));
}

#[test]
fn the_limit_bounds_what_is_in_flight_too() {
    let few = ConnectionLimits { inflight_max: 3, ..limits() };
    assert_eq!(Server::online(Version::V311, few.clone()).connection.window(), 3);
    assert_eq!(online_with(&[Property::ReceiveMaximum(60_000)], few).connection.window(), 3);
}

#[test]
fn mqtt_5_2_2_1_4_an_identifier_in_use_is_not_used_again() {
    let mut server = Server::online(Version::V5, limits());
    server.deliver(&using(1, QoS::AtLeastOnce, 1));
    assert_eq!(server.connection.deliver(server.now, &using(1, QoS::ExactlyOnce, 2)), Delivered::Full);
    server.deliver(&delivery(QoS::AtLeastOnce, 3));
    server.assert_sent(&[delivered(QoS::AtLeastOnce, 1), delivered(QoS::AtLeastOnce, 2)]);
    server.deliver(&using(u16::MAX, QoS::AtLeastOnce, 4));
    server.receive(&puback(1));
    server.assert_finished(&[(1, ReasonCode::Success)]);
    server.connection.output().clear();
    server.deliver(&delivery(QoS::AtLeastOnce, 5));
    server.assert_sent(&[delivered(QoS::AtLeastOnce, 3)]);
}

#[test]
fn identifiers_go_round() {
    let mut server = Server::online(Version::V311, limits());
    server.connection.release(1, 99);
    for tag in 2..=u64::from(u16::MAX) {
        server.deliver(&delivery(QoS::AtLeastOnce, tag));
        server.receive(&puback(u16::try_from(tag).unwrap()));
        server.assert_finished(&[(tag, ReasonCode::Success)]);
        server.connection.output().clear();
    }
    server.deliver(&delivery(QoS::AtLeastOnce, 1));
    server.assert_sent(&[delivered(QoS::AtLeastOnce, 2)]);
}

#[test]
fn mqtt_5_4_4_0_1_a_resumed_session_sends_with_the_same_identifiers() {
    for version in BOTH {
        let few = ConnectionLimits { inflight_max: 2, ..limits() };
        let accepted = Accepted { session_present: true, ..Accepted::default() };
        let mut server = Server::accepted(&connect(version), few, accepted);
        for packet_id in [5, 6, 8] {
            server.connection.release(packet_id, u64::from(packet_id));
        }
        server.connection.release(0, 0);
        server.assert_sent(&[pubrel(5), pubrel(6), pubrel(8)]);
        assert_eq!(server.connection.window(), 0);
        server.receive(&pubcomp(8));
        server.receive(&Packet::PubComp(Ack::new(id(6), ReasonCode::PacketIdentifierNotFound)));
        let reason = if version == Version::V5 { ReasonCode::PacketIdentifierNotFound } else { ReasonCode::Success };
        server.assert_finished(&[(8, ReasonCode::Success), (6, reason)]);
        let again = Delivery { dup: true, ..using(9, QoS::ExactlyOnce, 9) };
        server.deliver(&again);
        let Packet::Publish(plain) = delivered(QoS::ExactlyOnce, 9) else { panic!() };
        server.assert_sent(&[Packet::Publish(Publish { dup: true, ..plain })]);
    }
}

#[test]
fn mqtt_5_3_1_2_24_nothing_larger_than_the_client_takes_is_sent() {
    // A PUBLISH with QoS 1 to `down/light` has 2 + 12 + 2 + 1 bytes around the payload.
    let mut server = online_with(&[Property::MaximumPacketSize(40)], limits());
    let payload = Bytes::from_static(&[0; 24]);
    let largest = Delivery { payload: &payload.slice(..23), ..delivery(QoS::AtLeastOnce, 1) };
    let too_large = Delivery { payload: &payload, ..largest };
    assert_eq!(server.connection.deliver(server.now, &too_large), Delivered::TooLarge);
    server.assert_sent(&[]);
    assert_eq!(server.connection.window(), 64);
    server.deliver(&largest);
    assert_eq!(server.connection.output().len(), 40);
}

#[test]
fn a_field_that_cannot_be_written_is_too_large() {
    let properties = message::Properties { content_type: Some("x".repeat(65_536)), ..PLAIN.clone() };
    let delivery = Delivery { properties: Some(&properties), ..delivery(QoS::AtLeastOnce, 1) };
    let mut server = Server::online(Version::V5, limits());
    assert_eq!(server.connection.deliver(server.now, &delivery), Delivered::TooLarge);
    server.assert_sent(&[]);
    let mut server = Server::online(Version::V311, limits());
    server.deliver(&delivery);
}

#[test]
fn nothing_is_delivered_before_or_after_the_connection() {
    let mut server = Server::new(Version::V5, limits());
    assert_eq!(server.connection.deliver(server.now, &delivery(QoS::AtMostOnce, 0)), Delivered::Full);
    server.connection.release(1, 1);
    server.assert_sent(&[]);
    let mut server = Server::online(Version::V5, limits());
    server.receive(&publish(QoS::AtLeastOnce, 1));
    let tickets = server.tickets();
    server.connection.disconnect(ReasonCode::ServerShuttingDown);
    server.connection.output().clear();
    assert_eq!(server.connection.deliver(server.now, &delivery(QoS::AtMostOnce, 0)), Delivered::Full);
    server.connection.published(tickets[0], ReasonCode::Success);
    server.connection.release(1, 1);
    server.assert_sent(&[]);
    assert_eq!(server.connection.window(), 0);
}

#[test]
fn a_pubrec_that_comes_again_is_answered_again_unless_it_reports_an_error() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        assert_eq!(server.connection.deliver(server.now, &delivery(QoS::ExactlyOnce, 1)), Delivered::Written);
        server.receive(&pubrec(1));
        server.connection.release(1, 1);
        server.connection.output().clear();
        server.receive(&pubrec(1));
        server.assert_sent(&[pubrel(1)]);
        if version == Version::V5 {
            server.receive(&Packet::PubRec(Ack::new(id(1), ReasonCode::UnspecifiedError)));
            server.assert_sent(&[]);
        }
        server.receive(&pubcomp(1));
        assert!(matches!(server.events()[..], [Event::Received { .. }, Event::Finished { .. }]));
    }
}
