//! SUBSCRIBE, UNSUBSCRIBE and PINGREQ.

use super::*;
use crate::mqtt::{RetainHandling, SubAck, Subscribe, Subscription, Unsubscribe};

fn subscribe(packet_id: u16, subscriptions: &'static [Subscription<'static>]) -> Packet<'static> {
    Packet::Subscribe(Subscribe {
        packet_id: id(packet_id),
        properties: List::EMPTY,
        subscriptions: List::from(subscriptions),
    })
}

fn unsubscribe(packet_id: u16) -> Packet<'static> {
    let filters = &["down/#", "a/+"];
    Packet::Unsubscribe(Unsubscribe { packet_id: id(packet_id), properties: List::EMPTY, filters: List::from(filters) })
}

fn suback(packet_id: u16, reasons: &[ReasonCode]) -> Packet<'_> {
    Packet::SubAck(SubAck { packet_id: id(packet_id), properties: List::EMPTY, reasons: List::from(reasons) })
}

fn unsuback(packet_id: u16, reasons: &[ReasonCode]) -> Packet<'_> {
    Packet::UnsubAck(SubAck { packet_id: id(packet_id), properties: List::EMPTY, reasons: List::from(reasons) })
}

#[track_caller]
fn ticket(server: &mut Server) -> Ticket {
    match server.events()[..] {
        [Event::Subscribe { ticket, .. } | Event::Unsubscribe { ticket, .. }] => ticket,
        ref other => panic!("{other:?}"),
    }
}

static TWO: [Subscription<'_>; 2] =
    [Subscription::new("down/#", QoS::ExactlyOnce), Subscription::new("a/+", QoS::AtLeastOnce)];

#[test]
fn a_subscription_says_what_the_client_said() {
    let subscriptions = [Subscription {
        filter: "down/#",
        qos: QoS::ExactlyOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::SendIfNew,
    }];
    let properties = [Property::SubscriptionIdentifier(9)];
    let mut server = Server::online(Version::V5, limits());
    server.receive(&Packet::Subscribe(Subscribe {
        packet_id: id(1),
        properties: Properties::from(&properties),
        subscriptions: List::from(&subscriptions),
    }));
    match &server.events()[..] {
        [Event::Subscribe { filters, identifier: Some(9), .. }] => {
            let (filter, options) = &filters[0];
            assert_eq!((&filter[..], options.qos), ("down/#", QoS::ExactlyOnce));
            assert!(options.no_local && options.retain_as_published);
            assert_eq!(options.retain_handling, RetainHandling::SendIfNew);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn mqtt_5_3_8_4_6_a_suback_has_a_code_for_each_filter() {
    let codes = [ReasonCode::GrantedQoS2, ReasonCode::NotAuthorized];
    let mut server = Server::online(Version::V5, limits());
    server.receive(&subscribe(5, &TWO));
    let ticket = ticket(&mut server);
    server.connection.unsubscribed(ticket, &codes);
    server.assert_sent(&[]);
    server.connection.subscribed(ticket, &codes);
    server.assert_sent(&[suback(5, &codes)]);
    server.connection.subscribed(ticket, &codes);
    server.assert_sent(&[]);
}

#[test]
fn a_missing_code_is_an_error_and_one_too_many_is_left_out() {
    let mut server = Server::online(Version::V5, limits());
    server.receive(&subscribe(5, &TWO));
    let first = ticket(&mut server);
    server.connection.subscribed(first, &[ReasonCode::Success]);
    server.assert_sent(&[suback(5, &[ReasonCode::Success, ReasonCode::UnspecifiedError])]);
    server.receive(&subscribe(5, &TWO));
    let second = ticket(&mut server);
    server.connection.subscribed(second, &[ReasonCode::Success; 3]);
    server.assert_sent(&[suback(5, &[ReasonCode::Success; 2])]);
}

#[test]
fn mqtt_3_1_1_3_9_3_2_a_suback_says_0x80_for_every_error() {
    let mut server = Server::online(Version::V311, limits());
    server.receive(&subscribe(5, &TWO));
    let ticket = ticket(&mut server);
    server.connection.subscribed(ticket, &[ReasonCode::GrantedQoS1, ReasonCode::NotAuthorized]);
    assert_eq!(&server.connection.output()[..], b"\x90\x04\0\x05\x01\x80");
}

#[test]
fn mqtt_5_3_11_3_1_an_unsuback_has_a_code_for_each_filter_and_in_3_1_1_none() {
    let codes = [ReasonCode::Success, ReasonCode::NoSubscriptionExisted];
    for version in BOTH {
        let mut server = Server::online(version, limits());
        server.receive(&unsubscribe(6));
        let ticket = ticket(&mut server);
        server.connection.unsubscribed(ticket, &codes);
        server.assert_sent(&[unsuback(6, &codes)]);
    }
    let mut server = Server::online(Version::V311, limits());
    server.receive(&unsubscribe(6));
    let ticket = ticket(&mut server);
    server.connection.unsubscribed(ticket, &codes);
    assert_eq!(&server.connection.output()[..], b"\xb0\x02\0\x06");
}

#[test]
fn two_requests_may_have_the_same_identifier_and_be_answered_in_any_order() {
    let mut server = Server::online(Version::V5, limits());
    server.receive(&subscribe(5, &TWO[..1]));
    let first = ticket(&mut server);
    server.receive(&subscribe(5, &TWO));
    let second = ticket(&mut server);
    server.connection.subscribed(second, &[ReasonCode::Success; 2]);
    server.assert_sent(&[suback(5, &[ReasonCode::Success; 2])]);
    server.connection.subscribed(first, &[ReasonCode::GrantedQoS1]);
    server.assert_sent(&[suback(5, &[ReasonCode::GrantedQoS1])]);
}

#[test]
fn mqtt_5_3_12_4_1_a_ping_is_answered() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        server.receive(&Packet::PingReq);
        server.assert_sent(&[Packet::PingResp]);
    }
}
