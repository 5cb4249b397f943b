//! The ways of messages at each quality of service, and the send quota.

use super::*;
use crate::mqtt::{
    SubAck, Subscribe, Subscription,
    server::{Delivered, PacketId as Id},
};
use QoS::{AtLeastOnce, AtMostOnce, ExactlyOnce};

#[track_caller]
fn deliver(server: &mut Server, qos: QoS, tag: u64) {
    assert_eq!(server.connection.deliver(server.now, &delivery(qos, tag)), Delivered::Written);
}

/// A server whose client takes so many messages at once.
fn with_quota(quota: u16) -> Server {
    let properties = [Property::ReceiveMaximum(quota)];
    let connect = Connect { properties: Properties::from(&properties), ..connect(Version::V5) };
    Server::accepted(&connect, limits(), Accepted::default())
}

// === From the client ===

#[test]
fn mqtt_5_3_3_4_1_each_quality_of_service_has_its_answer() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        server.receive(&publish(AtMostOnce, 0));
        server.receive(&publish(AtLeastOnce, 5));
        server.receive(&publish(ExactlyOnce, 6));
        for ticket in server.published().iter().filter_map(|publish| publish.ticket) {
            server.connection.published(ticket, ReasonCode::Success);
        }
        server.assert_sent(&[puback(5), pubrec(6)]);
    }
}

#[test]
fn mqtt_5_4_3_3_8_qos_2_is_answered_with_a_pubrec_when_the_message_is_safe() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        server.receive(&publish(ExactlyOnce, 7));
        server.assert_sent(&[]);
        let tickets = server.tickets();
        server.connection.published(tickets[0], ReasonCode::Success);
        server.assert_sent(&[pubrec(7)]);
        server.connection.published(tickets[0], ReasonCode::Success);
        server.assert_sent(&[]);
    }
}

#[test]
fn mqtt_5_2_2_1_5_an_acknowledgement_has_the_identifier_of_the_message() {
    for version in BOTH {
        for packet_id in [1, 300, u16::MAX] {
            let mut server = Server::online(version, limits());
            server.receive(&publish(AtLeastOnce, packet_id));
            let tickets = server.tickets();
            server.connection.published(tickets[0], ReasonCode::Success);
            server.assert_sent(&[puback(packet_id)]);
            server.receive(&publish(ExactlyOnce, packet_id));
            let tickets = server.tickets();
            server.connection.published(tickets[0], ReasonCode::Success);
            server.assert_sent(&[pubrec(packet_id)]);
            server.receive(&pubrel(packet_id));
            let ticket = server.release_ticket();
            server.connection.released(ticket);
            server.assert_sent(&[pubcomp(packet_id)]);
        }
    }
}

#[test]
fn mqtt_3_1_1_3_3_5_2_a_message_that_is_not_permitted_is_acknowledged_all_the_same() {
    let mut server = Server::online(Version::V311, limits());
    server.receive(&publish(AtLeastOnce, 1));
    server.receive(&publish(ExactlyOnce, 2));
    for ticket in server.tickets() {
        server.connection.published(ticket, ReasonCode::NotAuthorized);
    }
    assert_eq!(&server.connection.output().split()[..], b"\x40\x02\0\x01\x50\x02\0\x02");
    server.assert_open();
}

#[test]
fn mqtt_5_3_3_1_2_qos_0_is_never_a_duplicate() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        let again = Delivery { dup: true, ..delivery(AtMostOnce, 0) };
        assert_eq!(server.connection.deliver(server.now, &again), Delivered::Written);
        server.assert_sent(&[delivered(AtMostOnce, 0)]);
        let body: &[u8] = if version == Version::V5 { b"\0\x01t\0" } else { b"\0\x01t" };
        refused(version, 0x38, body, ReasonCode::MalformedPacket);
    }
}

// === To the client ===

/// A resumed session, one of whose messages has the identifier 2.
fn with_2_in_use(version: Version) -> Server {
    let mut server = Server::online(version, limits());
    let known = Delivery { packet_id: Id::Use(id(2)), ..delivery(ExactlyOnce, 99) };
    assert_eq!(server.connection.deliver(server.now, &known), Delivered::Written);
    server.connection.output().clear();
    server
}

#[test]
fn mqtt_5_4_3_1_1_qos_0_is_sent_once_without_dup() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        deliver(&mut server, AtMostOnce, 1);
        server.assert_sent(&[delivered(AtMostOnce, 0)]);
        assert!(server.events().is_empty());
    }
}

#[test]
fn mqtt_5_4_3_2_1_a_new_message_of_qos_1_has_an_unused_identifier() {
    for version in BOTH {
        let mut server = with_2_in_use(version);
        for tag in 1..=3 {
            deliver(&mut server, AtLeastOnce, tag);
        }
        server.assert_sent(&[delivered(AtLeastOnce, 1), delivered(AtLeastOnce, 3), delivered(AtLeastOnce, 4)]);
        server.receive(&puback(3));
        deliver(&mut server, AtLeastOnce, 4);
        server.assert_sent(&[delivered(AtLeastOnce, 5)]);
    }
}

#[test]
fn mqtt_5_4_3_2_2_a_new_message_of_qos_1_is_no_duplicate() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        deliver(&mut server, AtLeastOnce, 1);
        assert_eq!(server.connection.output()[0], 0x32);
    }
}

#[test]
fn mqtt_5_4_3_2_3_qos_1_is_unacknowledged_until_its_puback() {
    for version in BOTH {
        let mut server = Server::online(version, ConnectionLimits { inflight_max: 1, ..limits() });
        deliver(&mut server, AtLeastOnce, 11);
        server.receive(&puback(2));
        server.receive(&pubcomp(1));
        assert_eq!((server.events().len(), server.connection.window()), (0, 0));
        server.receive(&puback(1));
        assert!(matches!(server.events()[..], [Event::Finished { tag: 11, reason: ReasonCode::Success }]));
        assert_eq!(server.connection.window(), 1);
    }
}

#[test]
fn mqtt_5_4_3_3_1_a_new_message_of_qos_2_has_an_unused_identifier() {
    for version in BOTH {
        let mut server = with_2_in_use(version);
        deliver(&mut server, AtLeastOnce, 1);
        deliver(&mut server, ExactlyOnce, 2);
        deliver(&mut server, ExactlyOnce, 3);
        server.assert_sent(&[delivered(AtLeastOnce, 1), delivered(ExactlyOnce, 3), delivered(ExactlyOnce, 4)]);
    }
}

#[test]
fn mqtt_5_4_3_3_2_a_new_message_of_qos_2_is_no_duplicate() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        deliver(&mut server, ExactlyOnce, 1);
        assert_eq!(server.connection.output()[0], 0x34);
    }
}

#[test]
fn mqtt_5_4_3_3_3_qos_2_is_unacknowledged_until_its_pubrec() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        deliver(&mut server, ExactlyOnce, 11);
        server.connection.output().clear();
        server.connection.release(1, 11);
        server.receive(&pubcomp(1));
        assert!(server.events().is_empty(), "neither PUBREL nor PUBCOMP come before the PUBREC");
        server.assert_sent(&[]);
        server.receive(&pubrec(1));
        assert!(matches!(server.events()[..], [Event::Received { tag: 11, packet_id: 1 }]));
    }
}

#[test]
fn mqtt_5_4_3_3_4_a_pubrec_is_answered_with_a_pubrel_of_its_identifier() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        deliver(&mut server, ExactlyOnce, 11);
        deliver(&mut server, ExactlyOnce, 12);
        server.connection.output().clear();
        server.receive(&pubrec(2));
        assert!(matches!(server.events()[..], [Event::Received { tag: 12, packet_id: 2 }]));
        server.connection.release(2, 12);
        server.assert_sent(&[pubrel(2)]);
    }
    let mut server = Server::online(Version::V5, limits());
    deliver(&mut server, ExactlyOnce, 11);
    server.connection.output().clear();
    server.receive(&Packet::PubRec(Ack::new(id(1), ReasonCode::NotAuthorized)));
    server.connection.release(1, 11);
    assert!(matches!(server.events()[..], [Event::Finished { tag: 11, reason: ReasonCode::NotAuthorized }]));
}

// === Quota ===

#[test]
fn mqtt_5_4_9_0_1_the_send_quota_is_not_0_and_within_receive_maximum() {
    for quota in [1, 5, 63] {
        assert_eq!(with_quota(quota).connection.window(), usize::from(quota));
    }
    assert!((1..=65_535).contains(&with_quota(u16::MAX).connection.window()));
    assert!((1..=65_535).contains(&Server::online(Version::V5, limits()).connection.window()));
    let none = ConnectionLimits { inflight_max: 0, ..limits() };
    assert_eq!(Server::online(Version::V5, none).connection.window(), 1);
}

#[test]
fn mqtt_5_4_9_0_2_without_quota_no_message_of_qos_1_or_2_is_sent() {
    let mut server = with_quota(2);
    deliver(&mut server, AtLeastOnce, 1);
    deliver(&mut server, ExactlyOnce, 2);
    server.connection.output().clear();
    for qos in [AtLeastOnce, ExactlyOnce] {
        assert_eq!(server.connection.deliver(server.now, &delivery(qos, 3)), Delivered::Full);
    }
    server.receive(&pubrec(2));
    assert_eq!(server.connection.window(), 0, "a PUBREC gives nothing back");
    server.receive(&puback(1));
    deliver(&mut server, AtLeastOnce, 3);
    server.assert_sent(&[delivered(AtLeastOnce, 3)]);
}

/// Everything but a PUBLISH of QoS 1 or 2, while the quota is used up.
fn goes_on_without_quota(server: &mut Server) {
    deliver(server, AtLeastOnce, 1);
    assert_eq!(server.connection.window(), 0);
    server.connection.output().clear();
    server.receive(&Packet::PingReq);
    server.assert_sent(&[Packet::PingResp]);
    let filter = [Subscription::new("a", AtMostOnce)];
    let properties = List::EMPTY;
    server.receive(&Packet::Subscribe(Subscribe { packet_id: id(3), properties, subscriptions: List::from(&filter) }));
    let ticket = match server.events()[..] {
        [Event::Subscribe { ticket, .. }] => ticket,
        ref other => panic!("{other:?}"),
    };
    server.connection.subscribed(ticket, &[ReasonCode::Success]);
    let reasons = List::from(&[ReasonCode::Success]);
    server.assert_sent(&[Packet::SubAck(SubAck { packet_id: id(3), properties, reasons })]);
    server.receive(&publish(ExactlyOnce, 9));
    let tickets = server.tickets();
    server.connection.published(tickets[0], ReasonCode::Success);
    server.assert_sent(&[pubrec(9)]);
    server.receive(&pubrel(9));
    let ticket = server.release_ticket();
    server.connection.released(ticket);
    server.assert_sent(&[pubcomp(9)]);
}

#[test]
fn mqtt_5_3_3_4_10_packets_other_than_messages_are_not_delayed() {
    let mut server = with_quota(1);
    goes_on_without_quota(&mut server);
    deliver(&mut server, AtMostOnce, 0);
    server.assert_sent(&[delivered(AtMostOnce, 0)]);
}

#[test]
fn mqtt_5_4_9_0_3_without_quota_all_other_packets_are_processed() {
    let mut server = with_quota(1);
    goes_on_without_quota(&mut server);
    server.receive(&disconnect(ReasonCode::Success));
    server.assert_closed(Cause::Disconnected { with_will: false, session_expiry_s: None });
}
