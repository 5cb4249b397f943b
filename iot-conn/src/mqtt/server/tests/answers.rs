//! What the server answers: identifiers, codes, their order.

use super::*;
use crate::mqtt::{
    Disconnect, PacketKind, Sender, SubAck, Subscribe, Subscription, Unsubscribe,
    codec::{decode, frame_length},
};
use Version::V5;

/// The packets that were written since the last time; they leak.
fn sent(server: &mut Server) -> Vec<Packet<'static>> {
    let mut packets = Vec::new();
    let mut bytes = server.connection.output().split();
    while let Some(length) = frame_length(&bytes, usize::MAX).unwrap() {
        let frame: &'static [u8] = Vec::leak(bytes.split_to(length).to_vec());
        packets.push(decode(frame, server.version, Sender::Server).unwrap());
    }
    packets
}

const FILTERS: [&str; 3] = ["a", "b/#", "c/+"];

fn subscribe(server: &mut Server, packet_id: u16) -> Ticket {
    let subscriptions = FILTERS.map(|filter| Subscription::new(filter, QoS::AtLeastOnce));
    let (packet_id, properties) = (id(packet_id), List::EMPTY);
    server.receive(&Packet::Subscribe(Subscribe { packet_id, properties, subscriptions: List::from(&subscriptions) }));
    match &server.events()[..] {
        [Event::Subscribe { ticket, filters, .. }] => {
            assert!(filters.iter().map(|(filter, _)| &filter[..]).eq(FILTERS));
            *ticket
        }
        other => panic!("one event for all filters: {other:?}"),
    }
}

fn unsubscribe(server: &mut Server, packet_id: u16) -> Ticket {
    let (packet_id, properties) = (id(packet_id), List::EMPTY);
    server.receive(&Packet::Unsubscribe(Unsubscribe { packet_id, properties, filters: List::from(&FILTERS) }));
    match &server.events()[..] {
        [Event::Unsubscribe { ticket, filters }] => {
            assert_eq!(filters, &FILTERS);
            *ticket
        }
        other => panic!("one event for all filters: {other:?}"),
    }
}

#[test]
fn mqtt_5_2_2_1_6_a_suback_and_an_unsuback_have_the_identifier_of_the_request() {
    for version in BOTH {
        for packet_id in [1, 7, u16::MAX] {
            let mut server = Server::online(version, limits());
            let ticket = subscribe(&mut server, packet_id);
            server.connection.subscribed(ticket, &[ReasonCode::Success; 3]);
            assert!(matches!(sent(&mut server)[..], [Packet::SubAck(ack)] if ack.packet_id == id(packet_id)));
            let ticket = unsubscribe(&mut server, packet_id);
            server.connection.unsubscribed(ticket, &[ReasonCode::Success; 3]);
            assert!(matches!(sent(&mut server)[..], [Packet::UnsubAck(ack)] if ack.packet_id == id(packet_id)));
        }
    }
}

#[test]
fn mqtt_5_3_8_4_1_a_subscribe_is_answered_with_a_suback() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        let ticket = subscribe(&mut server, 3);
        assert!(sent(&mut server).is_empty());
        server.connection.subscribed(ticket, &[ReasonCode::NotAuthorized; 3]);
        assert!(matches!(sent(&mut server)[..], [Packet::SubAck(_)]));
    }
}

#[test]
fn mqtt_5_3_8_4_2_a_suback_has_the_identifier_of_its_subscribe() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        let tickets = [5, 9].map(|packet_id| subscribe(&mut server, packet_id));
        server.connection.subscribed(tickets[1], &[ReasonCode::Success; 3]);
        assert!(matches!(sent(&mut server)[..], [Packet::SubAck(ack)] if ack.packet_id == id(9)));
        server.connection.subscribed(tickets[0], &[ReasonCode::Success; 3]);
        assert!(matches!(sent(&mut server)[..], [Packet::SubAck(ack)] if ack.packet_id == id(5)));
    }
}

#[test]
fn mqtt_5_3_8_4_5_many_filters_are_answered_by_one_suback() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        let ticket = subscribe(&mut server, 3);
        let codes = [ReasonCode::Success, ReasonCode::UnspecifiedError, ReasonCode::GrantedQoS1];
        server.connection.subscribed(ticket, &codes);
        assert!(matches!(sent(&mut server)[..], [Packet::SubAck(ack)] if ack.reasons.iter().eq(codes)));
    }
}

#[test]
fn mqtt_5_3_9_3_1_the_codes_of_a_suback_are_in_the_order_of_the_filters() {
    for version in BOTH {
        for codes in [
            [ReasonCode::Success, ReasonCode::GrantedQoS1, ReasonCode::UnspecifiedError],
            [ReasonCode::UnspecifiedError, ReasonCode::Success, ReasonCode::GrantedQoS1],
        ] {
            let mut server = Server::online(version, limits());
            let ticket = subscribe(&mut server, 3);
            server.connection.subscribed(ticket, &codes);
            assert!(matches!(sent(&mut server)[..], [Packet::SubAck(ack)] if ack.reasons.iter().eq(codes)));
        }
    }
}

#[test]
fn mqtt_5_3_9_3_2_a_suback_holds_its_own_codes() {
    for reason in ReasonCode::ALL {
        let mut server = Server::online(V5, limits());
        let ticket = subscribe(&mut server, 3);
        server.connection.subscribed(ticket, &[*reason; 3]);
        let [Packet::SubAck(ack)] = sent(&mut server)[..] else { panic!("{reason:?}") };
        assert!(ack.reasons.iter().all(|code| code.is_valid_in(PacketKind::SubAck)));
        assert!(!reason.is_valid_in(PacketKind::SubAck) || ack.reasons.iter().eq([*reason; 3]));
    }
}

#[test]
fn mqtt_5_3_10_4_4_an_unsubscribe_is_answered_with_an_unsuback() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        let ticket = unsubscribe(&mut server, 3);
        assert!(sent(&mut server).is_empty());
        server.connection.unsubscribed(ticket, &[ReasonCode::Success; 3]);
        assert!(matches!(sent(&mut server)[..], [Packet::UnsubAck(_)]));
    }
}

#[test]
fn mqtt_5_3_10_4_5_an_unsuback_comes_also_if_nothing_was_subscribed() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        let ticket = unsubscribe(&mut server, 3);
        server.connection.unsubscribed(ticket, &[ReasonCode::NoSubscriptionExisted; 3]);
        assert!(matches!(sent(&mut server)[..], [Packet::UnsubAck(ack)] if ack.packet_id == id(3)));
    }
}

#[test]
fn mqtt_5_3_10_4_6_many_filters_are_answered_by_one_unsuback() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        let ticket = unsubscribe(&mut server, 3);
        let codes = [ReasonCode::Success, ReasonCode::NoSubscriptionExisted, ReasonCode::NotAuthorized];
        server.connection.unsubscribed(ticket, &codes);
        let told = if version == V5 { List::from(&codes) } else { List::EMPTY };
        let ack = SubAck { packet_id: id(3), properties: List::EMPTY, reasons: told };
        assert_eq!(sent(&mut server), [Packet::UnsubAck(ack)]);
    }
}

#[test]
fn mqtt_5_3_11_3_2_an_unsuback_holds_its_own_codes() {
    for reason in ReasonCode::ALL {
        let mut server = Server::online(V5, limits());
        let ticket = unsubscribe(&mut server, 3);
        server.connection.unsubscribed(ticket, &[*reason; 3]);
        let [Packet::UnsubAck(ack)] = sent(&mut server)[..] else { panic!("{reason:?}") };
        assert!(ack.reasons.iter().all(|code| code.is_valid_in(PacketKind::UnsubAck)));
        assert!(!reason.is_valid_in(PacketKind::UnsubAck) || ack.reasons.iter().eq([*reason; 3]));
    }
}

// === The codes of acknowledgements ===

/// The code with which a message is answered that failed for `reason`.
fn answer(qos: QoS, reason: ReasonCode) -> ReasonCode {
    let mut server = Server::online(V5, limits());
    server.receive(&publish(qos, 1));
    let tickets = server.tickets();
    server.connection.published(tickets[0], reason);
    match sent(&mut server)[..] {
        [Packet::PubAck(ack) | Packet::PubRec(ack)] => ack.reason,
        ref other => panic!("{other:?}"),
    }
}

fn holds_its_own_codes(qos: QoS, kind: PacketKind) {
    for reason in ReasonCode::ALL {
        let told = answer(qos, *reason);
        assert!(told.is_valid_in(kind) && told.is_error() == reason.is_error(), "{reason:?} is told as {told:?}");
        assert!(!reason.is_valid_in(kind) || told == *reason);
    }
}

#[test]
fn mqtt_5_3_4_2_1_a_puback_holds_its_own_codes() {
    holds_its_own_codes(QoS::AtLeastOnce, PacketKind::PubAck);
    refused(V5, 0x40, b"\0\x01\x92", ReasonCode::ProtocolError);
}

#[test]
fn mqtt_5_3_5_2_1_a_pubrec_holds_its_own_codes() {
    holds_its_own_codes(QoS::ExactlyOnce, PacketKind::PubRec);
    refused(V5, 0x50, b"\0\x01\x92", ReasonCode::ProtocolError);
}

#[test]
fn mqtt_5_3_6_2_1_a_pubrel_holds_its_own_codes() {
    let mut server = Server::online(V5, limits());
    let _ = server.connection.deliver(server.now, &delivery(QoS::ExactlyOnce, 1));
    server.receive(&pubrec(1));
    server.connection.release(1, 1);
    server.receive(&pubrec(2));
    for packet in sent(&mut server).drain(1..) {
        assert!(matches!(packet, Packet::PubRel(ack) if ack.reason.is_valid_in(PacketKind::PubRel)), "{packet:?}");
    }
    refused(V5, 0x62, b"\0\x01\x10", ReasonCode::ProtocolError);
}

#[test]
fn mqtt_5_3_7_2_1_a_pubcomp_holds_its_own_codes() {
    let mut server = Server::online(V5, limits());
    server.receive(&publish(QoS::ExactlyOnce, 1));
    let tickets = server.tickets();
    server.connection.published(tickets[0], ReasonCode::NoMatchingSubscribers);
    server.receive(&pubrel(1));
    let ticket = server.release_ticket();
    server.connection.released(ticket);
    server.receive(&pubrel(1));
    let unknown = Ack::new(id(1), ReasonCode::PacketIdentifierNotFound);
    let rec = Ack::new(id(1), ReasonCode::NoMatchingSubscribers);
    assert_eq!(sent(&mut server), [Packet::PubRec(rec), pubcomp(1), Packet::PubComp(unknown)]);
    refused(V5, 0x70, b"\0\x01\x10", ReasonCode::ProtocolError);
}

#[test]
fn mqtt_5_3_14_2_1_a_disconnect_holds_its_own_codes() {
    for reason in ReasonCode::ALL {
        let mut server = Server::online(V5, limits());
        server.connection.disconnect(*reason);
        let [Packet::Disconnect(told)] = sent(&mut server)[..] else { panic!("{reason:?}") };
        assert!(told.reason.is_valid_in(PacketKind::Disconnect) && told.reason != ReasonCode::DisconnectWithWill);
    }
    for code in [0x18, 0x8d, 0x8e, 0x9c, 0x01] {
        refused(V5, 0xe0, &[code], ReasonCode::ProtocolError);
    }
}

// === The end ===

#[test]
fn mqtt_5_3_14_4_1_nothing_follows_a_disconnect() {
    let mut server = Server::online(V5, limits());
    server.receive(&publish(QoS::AtLeastOnce, 1));
    let tickets = server.tickets();
    server.connection.disconnect(ReasonCode::ServerShuttingDown);
    server.connection.published(tickets[0], ReasonCode::Success);
    let _ = server.connection.deliver(server.now, &delivery(QoS::AtMostOnce, 1));
    server.connection.disconnect(ReasonCode::ServerBusy);
    server.receive(&Packet::PingReq);
    let reason = ReasonCode::ServerShuttingDown;
    assert_eq!(sent(&mut server), [Packet::Disconnect(Disconnect { reason, properties: List::EMPTY })]);
}

#[test]
fn mqtt_5_3_14_4_2_a_disconnect_is_the_end() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        server.connection.disconnect(ReasonCode::ServerShuttingDown);
        server.connection.output().clear();
        server.assert_closed(Cause::ServerDisconnect(ReasonCode::ServerShuttingDown));
        let mut server = Server::online(version, limits());
        server.receive(&disconnect(ReasonCode::Success));
        server.assert_closed(Cause::Disconnected { with_will: false, session_expiry_s: None });
    }
}

#[test]
fn mqtt_5_4_13_2_1_an_error_in_a_disconnect_is_the_end() {
    for reason in ReasonCode::ALL.iter().filter(|reason| reason.is_error()) {
        for version in BOTH {
            let mut server = Server::online(version, limits());
            server.connection.disconnect(*reason);
            assert!(server.connection.is_closed());
        }
    }
    let mut server = Server::new(V5, limits());
    server.receive(&Packet::Connect(connect(V5)));
    server.connection.refuse(ReasonCode::ServerBusy);
    assert!(server.connection.is_closed());
}

#[test]
fn mqtt_3_1_1_4_8_0_1_a_violation_ends_the_connection() {
    for version in BOTH {
        refused(version, 0x20, b"\0\0\0", ReasonCode::ProtocolError);
        refused(version, 0x62, b"\0\0", ReasonCode::ProtocolError);
    }
}
