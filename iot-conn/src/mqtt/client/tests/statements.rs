//! What the standards ask of clients. A test that begins with a version and numbers is for the statement with that id.

use super::*;
use crate::mqtt::{
    Disconnect, Subscription,
    client::{Cause, NotPublished, RequestError},
};
use QoS::{AtLeastOnce, AtMostOnce, ExactlyOnce};
use Version::V5;

fn identifiers(packets: &[Packet<'_>]) -> Vec<u16> {
    let ids = packets.iter().filter_map(|packet| match packet {
        Packet::Publish(publish) => publish.packet_id,
        Packet::Subscribe(subscribe) => Some(subscribe.packet_id),
        Packet::Unsubscribe(unsubscribe) => Some(unsubscribe.packet_id),
        _ => None,
    });
    ids.map(PacketId::get).collect()
}

#[test]
fn mqtt_5_2_2_1_3_a_new_packet_has_an_identifier_that_is_free() {
    for version in BOTH {
        let mut device = Device::online(options(version), &[]);
        device.publish("a", AtLeastOnce);
        device.client.subscribe(&[Subscription::new("x", AtMostOnce)], None).unwrap();
        device.publish("b", ExactlyOnce);
        device.client.unsubscribe(&["x"]).unwrap();
        assert_eq!(identifiers(&device.sent()), [1, 2, 3, 4]);
        // 2 and 4 stay in use while the others go round.
        device.receive(Packet::PubAck(ack(1)));
        device.receive(Packet::PubRec(ack(3)));
        device.receive(Packet::PubComp(ack(3)));
        device.sent();
        for expected in (5..=u16::MAX).chain([1, 3, 5]) {
            device.publish("c", AtLeastOnce);
            assert_eq!(identifiers(&device.sent()), [expected]);
            device.receive(Packet::PubAck(ack(expected)));
            device.events();
        }
    }
}

#[test]
fn mqtt_5_3_2_2_11_nothing_is_published_above_the_servers_maximum_qos() {
    let limits = [(AtMostOnce, 1), (AtLeastOnce, 2)];
    for (maximum, published) in limits {
        let mut device = Device::online(options(V5), &[Property::MaximumQoS(maximum)]);
        let tokens = [AtMostOnce, AtLeastOnce, ExactlyOnce].map(|qos| device.publish("a", qos));
        assert_eq!(device.sent().len(), published);
        let why = NotPublished::QoSNotSupported;
        let given_up: Vec<_> =
            tokens[published..].iter().map(|token| Event::NotPublished { token: *token, why }).collect();
        assert_eq!(device.events(), given_up);
    }
}

#[test]
fn mqtt_5_3_2_2_14_nothing_is_retained_where_the_server_cannot() {
    let mut device = Device::online(options(V5), &[Property::RetainAvailable(false)]);
    let retained = Publication { retain: true, ..Publication::new("t", "a", AtLeastOnce) };
    let token = device.client.publish(retained).unwrap();
    device.publish("b", AtLeastOnce);
    assert!(matches!(device.sent()[..], [Packet::Publish(publish)] if !publish.retain));
    assert_eq!(device.events(), [Event::NotPublished { token, why: NotPublished::RetainNotSupported }]);
}

#[test]
fn mqtt_5_3_2_2_15_nothing_is_sent_that_is_larger_than_the_server_takes() {
    // 2 + 3 + 2 + 1 bytes around the payload.
    let mut device = Device::online(options(V5), &[Property::MaximumPacketSize(20)]);
    let token = device.client.publish(Publication::new("t", vec![0; 13], AtLeastOnce)).unwrap();
    assert_eq!(device.sent(), []);
    assert_eq!(device.events(), [Event::NotPublished { token, why: NotPublished::TooLarge }]);
    device.client.publish(Publication::new("t", vec![0; 12], AtLeastOnce)).unwrap();
    assert!(matches!(device.sent()[..], [Packet::Publish(_)]));
    let long = "x".repeat(20);
    let asked = device.client.subscribe(&[Subscription::new(&long, AtMostOnce)], None);
    assert_eq!(asked, Err(RequestError::TooLong));
    assert_eq!(device.sent(), []);
}

/// It sets no aliases, whatever the server takes.
fn no_aliases(maximum: Option<u16>) {
    let properties: Vec<_> = maximum.map(Property::TopicAliasMaximum).into_iter().collect();
    let mut device = Device::online(options(V5), &properties);
    for qos in [AtMostOnce, AtLeastOnce, AtMostOnce, ExactlyOnce] {
        device.publish("a", qos);
    }
    let sent = device.sent();
    assert_eq!(sent.len(), 4);
    for packet in sent {
        let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
        assert_eq!((publish.topic, publish.properties.topic_alias()), ("t", None));
    }
}

#[test]
fn mqtt_5_3_2_2_17_the_clients_aliases_are_within_the_servers_maximum() {
    no_aliases(Some(1));
}

#[test]
fn mqtt_5_3_2_2_18_a_server_that_takes_no_aliases_gets_none() {
    no_aliases(None);
    no_aliases(Some(0));
}

#[test]
fn mqtt_5_3_3_4_8_packets_other_than_messages_are_not_delayed() {
    let mut device = Device::online(ClientOptions { keep_alive_s: 40, ..options(V5) }, &[Property::ReceiveMaximum(1)]);
    device.publish("a", AtLeastOnce);
    device.publish("b", AtLeastOnce);
    assert_eq!(device.sent().len(), 1, "the quota is used up");
    device.client.subscribe(&[Subscription::new("x", AtMostOnce)], None).unwrap();
    device.receive(message("c", AtLeastOnce, Some(9), false));
    device.receive(message("d", ExactlyOnce, Some(8), false));
    device.receive(Packet::PubRel(ack(8)));
    device.pass(Duration::from_secs(30));
    let sent = device.sent();
    let [Packet::Subscribe(_), rest @ ..] = &sent[..] else { panic!("{sent:?}") };
    let expected = [Packet::PubAck(ack(9)), Packet::PubRec(ack(8)), Packet::PubComp(ack(8)), Packet::PingReq];
    assert_eq!(rest, expected);
    device.client.disconnect(ReasonCode::Success);
    assert!(matches!(device.sent()[..], [Packet::Disconnect(_)]));
}

#[test]
fn mqtt_5_4_5_0_2_every_message_is_acknowledged_also_one_that_nobody_asked_for() {
    for version in BOTH {
        let mut device = Device::online(options(version), &[]);
        device.receive(message("a", AtMostOnce, None, false));
        device.receive(message("b", AtLeastOnce, Some(1), false));
        device.receive(message("c", ExactlyOnce, Some(2), false));
        device.receive(Packet::PubRel(ack(2)));
        assert_eq!(device.sent(), [Packet::PubAck(ack(1)), Packet::PubRec(ack(2)), Packet::PubComp(ack(2))]);
        assert_eq!(device.events().len(), 3);
    }
}

/// 3.1.1 asks it of the client, MQTT 5 of both.
#[test]
fn the_client_acknowledges_in_the_order_of_the_messages() {
    for version in BOTH {
        let mut device = Device::online(options(version), &[]);
        for (packet_id, qos) in [(9, AtLeastOnce), (3, ExactlyOnce), (5, AtLeastOnce), (2, ExactlyOnce)] {
            device.receive(message("a", qos, Some(packet_id), false));
        }
        let expected = [Packet::PubAck(ack(9)), Packet::PubRec(ack(3)), Packet::PubAck(ack(5)), Packet::PubRec(ack(2))];
        assert_eq!(device.sent(), expected);
    }
}

#[test]
fn mqtt_5_4_6_0_4_the_clients_pubrels_are_in_the_order_of_the_pubrecs() {
    for version in BOTH {
        let mut device = Device::online(options(version), &[]);
        for _ in 0..3 {
            device.publish("a", ExactlyOnce);
        }
        device.sent();
        for packet_id in [2, 3, 1] {
            device.receive(Packet::PubRec(ack(packet_id)));
        }
        assert_eq!(device.sent(), [2, 3, 1].map(|packet_id| Packet::PubRel(ack(packet_id))));
    }
}

#[test]
fn mqtt_3_1_1_3_14_4_2_nothing_follows_the_clients_disconnect() {
    for version in BOTH {
        let mut device = Device::online(options(version), &[]);
        device.client.disconnect(ReasonCode::Success);
        device.publish("a", AtLeastOnce);
        assert_eq!(
            device.client.subscribe(&[Subscription::new("x", AtMostOnce)], None),
            Err(RequestError::NotConnected)
        );
        device.receive(message("b", AtLeastOnce, Some(1), false));
        device.pass(Duration::from_secs(1_000));
        let goodbye = Disconnect { reason: ReasonCode::Success, properties: List::EMPTY };
        assert_eq!(device.sent(), [Packet::Disconnect(goodbye)]);
        assert_eq!(device.events(), [Event::Disconnected(Cause::Client)], "the transport is to be closed");
    }
}

/// Neither without having been asked, nor in answer to one that the server must not send.
#[test]
fn a_client_without_a_method_sends_no_auth() {
    let mut device = Device::new(options(V5));
    device.client.handle_connected(device.now);
    let [Packet::Connect(connect)] = device.sent()[..] else { panic!("one CONNECT") };
    assert_eq!(connect.properties.authentication_method(), None);
    let properties = [Property::AuthenticationMethod("m")];
    let properties = Properties::from(&properties);
    device.receive(Packet::Auth(crate::mqtt::Auth { reason: ReasonCode::ContinueAuthentication, properties }));
    assert_eq!(device.sent(), []);
    assert!(matches!(device.events()[..], [Event::Disconnected(Cause::Violation(_))]));
}
