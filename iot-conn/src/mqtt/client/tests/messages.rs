use super::*;
use crate::mqtt::client::{Cause, NotPublished, PublishError};
use QoS::{AtLeastOnce, AtMostOnce, ExactlyOnce};

#[test]
fn qos_0_is_written_and_forgotten() {
    for version in BOTH {
        let mut device = Device::online(options(version), &[]);
        device.publish("a", AtMostOnce);
        assert_eq!(device.sent(), [message("a", AtMostOnce, None, false)]);
        assert_eq!(device.client.unpublished(), 0);
        assert_eq!(device.events(), []);
    }
}

#[test]
fn qos_1_ends_with_a_puback() {
    for version in BOTH {
        let mut device = Device::online(options(version), &[]);
        let token = device.publish("a", AtLeastOnce);
        assert_eq!(device.sent(), [message("a", AtLeastOnce, Some(1), false)]);
        device.receive(Packet::PubAck(ack(1)));
        assert_eq!(device.events(), [Event::Published { token, reason: ReasonCode::Success }]);
        device.receive(Packet::PubAck(ack(1)));
        assert_eq!(device.events(), []);
    }
}

#[test]
fn qos_2_ends_with_a_pubcomp() {
    for version in BOTH {
        let mut device = Device::online(options(version), &[]);
        let token = device.publish("a", ExactlyOnce);
        assert_eq!(device.sent(), [message("a", ExactlyOnce, Some(1), false)]);
        device.receive(Packet::PubRec(ack(1)));
        device.receive(Packet::PubRec(ack(1)));
        assert_eq!(device.sent(), [Packet::PubRel(ack(1)), Packet::PubRel(ack(1))]);
        assert_eq!(device.events(), []);
        device.receive(Packet::PubComp(ack(1)));
        assert_eq!(device.events(), [Event::Published { token, reason: ReasonCode::Success }]);
    }
}

#[test]
fn an_error_ends_a_message() {
    let mut device = Device::online(options(Version::V5), &[]);
    let first = device.publish("a", AtLeastOnce);
    let second = device.publish("b", ExactlyOnce);
    let reason = ReasonCode::QuotaExceeded;
    device.receive(Packet::PubAck(Ack::new(id(1), reason)));
    device.receive(Packet::PubRec(Ack::new(id(2), reason)));
    assert_eq!(device.events(), [first, second].map(|token| Event::Published { token, reason }));
    assert_eq!(device.client.unpublished(), 0);
}

#[test]
fn an_acknowledgement_of_the_wrong_kind_is_a_violation() {
    let wrong: [(QoS, Packet<'_>); 4] = [
        (ExactlyOnce, Packet::PubAck(ack(1))),
        (AtLeastOnce, Packet::PubRec(ack(1))),
        (AtLeastOnce, Packet::PubComp(ack(1))),
        (ExactlyOnce, Packet::PubComp(ack(1))),
    ];
    for (qos, packet) in wrong {
        let mut device = Device::online(options(Version::V5), &[]);
        device.publish("a", qos);
        device.receive(packet);
        assert!(matches!(device.events()[..], [Event::Disconnected(Cause::Violation(_))]), "{packet:?}");
    }
}

#[test]
fn unknown_identifiers_are_answered_as_the_standard_says() {
    let mut device = Device::online(options(Version::V5), &[]);
    device.receive(Packet::PubRec(ack(9)));
    device.receive(Packet::PubRel(ack(9)));
    device.receive(Packet::PubComp(ack(9)));
    let unknown = Ack::new(id(9), ReasonCode::PacketIdentifierNotFound);
    assert_eq!(device.sent(), [Packet::PubRel(unknown), Packet::PubComp(unknown)]);
    assert_eq!(device.events(), []);
}

#[test]
fn mqtt_5_3_3_4_7_receive_maximum_bounds_what_is_in_flight() {
    let mut device = Device::online(options(Version::V5), &[Property::ReceiveMaximum(2)]);
    for payload in ["a", "b", "c", "d"] {
        device.publish(payload, ExactlyOnce);
    }
    assert_eq!(device.sent().len(), 2);
    device.receive(Packet::PubRec(ack(1)));
    assert_eq!(device.sent(), [Packet::PubRel(ack(1))]);
    device.receive(Packet::PubComp(ack(1)));
    assert_eq!(device.sent(), [message("c", ExactlyOnce, Some(3), false)]);
    device.receive(Packet::PubRec(Ack::new(id(2), ReasonCode::QuotaExceeded)));
    assert_eq!(device.sent(), [message("d", ExactlyOnce, Some(4), false)]);
}

#[test]
fn a_full_queue_refuses() {
    let mut device = Device::new(ClientOptions { queue_messages_max: 2, ..options(Version::V5) });
    device.publish("a", AtMostOnce);
    device.publish("b", AtLeastOnce);
    let third = Publication::new("t", "c", AtMostOnce);
    assert_eq!(device.client.publish(third), Err(PublishError::Full));
    device.connect(false, &[]);
    let expected = [message("a", AtMostOnce, None, false), message("b", AtLeastOnce, Some(1), false)];
    assert_eq!(device.sent(), expected);
}

#[test]
fn what_no_server_may_get_is_refused_at_once() {
    let mut device = Device::online(options(Version::V5), &[]);
    for topic in ["", "a/#", "+", "a\0"] {
        let bad = device.client.publish(Publication::new(topic, "", AtLeastOnce));
        assert!(matches!(bad, Err(PublishError::Forbidden(_))), "{topic:?}");
    }
    let mut publication = Publication::new("t", "", AtMostOnce);
    publication.properties.response_topic = Some("#".into());
    assert!(matches!(device.client.publish(publication), Err(PublishError::Forbidden(_))));
    let long = Publication::new("x".repeat(65_536), "", AtMostOnce);
    assert!(matches!(device.client.publish(long), Err(PublishError::TooLong(_))));
    assert_eq!(device.sent(), []);
}

#[test]
fn what_this_server_does_not_take_is_given_up() {
    let limits = [Property::MaximumPacketSize(20), Property::MaximumQoS(AtLeastOnce), Property::RetainAvailable(false)];
    let mut device = Device::online(options(Version::V5), &limits);
    let large = device.client.publish(Publication::new("t", vec![0; 20], AtLeastOnce)).unwrap();
    let high = device.publish("a", ExactlyOnce);
    let retained = Publication { retain: true, ..Publication::new("t", "a", AtMostOnce) };
    let retained = device.client.publish(retained).unwrap();
    device.publish("b", AtLeastOnce);
    assert!(matches!(device.sent()[..], [Packet::Publish(publish)] if publish.payload == b"b"));
    let given_up = [
        (large, NotPublished::TooLarge),
        (high, NotPublished::QoSNotSupported),
        (retained, NotPublished::RetainNotSupported),
    ];
    assert_eq!(device.events(), given_up.map(|(token, why)| Event::NotPublished { token, why }));
}

#[test]
fn mqtt_5_4_6_0_1_a_session_goes_on_with_the_same_packets_in_order() {
    for version in BOTH {
        let mut device = Device::online(options(version), &[]);
        device.publish("a", AtLeastOnce);
        device.publish("b", ExactlyOnce);
        device.publish("c", ExactlyOnce);
        device.receive(Packet::PubRec(ack(2)));
        device.sent();
        device.drop_link();
        device.publish("d", AtLeastOnce);
        device.connect(true, &[]);
        let expected = [
            message("a", AtLeastOnce, Some(1), true),
            Packet::PubRel(ack(2)),
            message("c", ExactlyOnce, Some(3), true),
            message("d", AtLeastOnce, Some(4), false),
        ];
        assert_eq!(device.sent(), expected);
    }
}

#[test]
fn sending_again_respects_a_smaller_receive_maximum() {
    let mut device = Device::online(options(Version::V5), &[]);
    for payload in ["a", "b", "c"] {
        device.publish(payload, AtLeastOnce);
    }
    device.sent();
    device.drop_link();
    device.connect(true, &[Property::ReceiveMaximum(1)]);
    for (number, payload) in [(1, "a"), (2, "b"), (3, "c")] {
        assert_eq!(device.sent(), [message(payload, AtLeastOnce, Some(number), true)]);
        device.receive(Packet::PubAck(ack(number)));
    }
    assert_eq!(device.client.unpublished(), 0);
}

#[test]
fn mqtt_5_3_2_2_5_a_lost_session_sends_qos_1_anew_and_gives_up_qos_2() {
    let mut device = Device::online(options(Version::V5), &[]);
    device.publish("a", AtLeastOnce);
    let unsure = device.publish("b", ExactlyOnce);
    let released = device.publish("c", ExactlyOnce);
    device.receive(Packet::PubRec(ack(3)));
    device.sent();
    device.drop_link();
    device.publish("d", ExactlyOnce);
    device.connect(false, &[]);
    let expected = [message("a", AtLeastOnce, Some(4), false), message("d", ExactlyOnce, Some(5), false)];
    assert_eq!(device.sent(), expected);
    let why = NotPublished::SessionLost;
    assert_eq!(device.events(), [unsure, released].map(|token| Event::NotPublished { token, why }));
}

#[test]
fn a_message_comes_with_its_properties() {
    let mut device = Device::online(options(Version::V5), &[]);
    let properties = [
        Property::ContentType("text/plain"),
        Property::ResponseTopic("up/reply"),
        Property::CorrelationData(b"7"),
        Property::SubscriptionIdentifier(3),
        Property::UserProperty("k", "v"),
    ];
    device.receive(Packet::Publish(Publish {
        dup: false,
        qos: AtMostOnce,
        retain: true,
        topic: "down/command",
        packet_id: None,
        properties: List::from(&properties),
        payload: b"on",
    }));
    let [Event::Message(received)] = &device.events()[..] else { panic!("one message") };
    assert_eq!((&*received.topic, &received.payload[..], received.retain), ("down/command", &b"on"[..], true));
    assert_eq!(received.properties.content_type.as_deref(), Some("text/plain"));
    assert_eq!(received.properties.response_topic.as_deref(), Some("up/reply"));
    assert_eq!(received.properties.correlation_data.as_deref(), Some(&b"7"[..]));
    assert_eq!(received.properties.user, [("k".to_owned(), "v".to_owned())]);
    assert_eq!(received.subscription_ids, [3]);
}

#[test]
fn qos_2_arrives_once_also_over_two_connections() {
    for version in BOTH {
        let mut device = Device::online(options(version), &[]);
        device.receive(message("a", ExactlyOnce, Some(5), false));
        device.receive(message("a", ExactlyOnce, Some(5), true));
        assert_eq!(device.sent(), [Packet::PubRec(ack(5)), Packet::PubRec(ack(5))]);
        assert_eq!(device.events().len(), 1);
        device.drop_link();
        device.connect(true, &[]);
        device.receive(message("a", ExactlyOnce, Some(5), true));
        assert_eq!(device.events(), []);
        device.receive(Packet::PubRel(ack(5)));
        assert_eq!(device.sent(), [Packet::PubRec(ack(5)), Packet::PubComp(ack(5))]);
        device.receive(message("b", ExactlyOnce, Some(5), false));
        assert_eq!(device.events().len(), 1, "the identifier is free after its PUBREL");
    }
}

#[test]
fn a_server_that_exceeds_receive_maximum_is_told() {
    let mut device = Device::online(ClientOptions { receive_maximum: 2, ..options(Version::V5) }, &[]);
    for number in 1..=3 {
        device.receive(message("a", ExactlyOnce, Some(number), false));
    }
    let events = device.events();
    assert!(matches!(events[..], [_, _, Event::Disconnected(Cause::Violation(violation))]
        if violation.reason == ReasonCode::ReceiveMaximumExceeded));
}

#[test]
fn messages_of_an_earlier_connection_do_not_count_against_receive_maximum() {
    let mut device = Device::online(ClientOptions { receive_maximum: 2, ..options(Version::V5) }, &[]);
    device.receive(message("a", ExactlyOnce, Some(1), false));
    device.receive(message("a", ExactlyOnce, Some(2), false));
    device.events();
    device.drop_link();
    device.connect(true, &[]);
    device.receive(message("a", ExactlyOnce, Some(3), false));
    device.receive(message("a", ExactlyOnce, Some(4), false));
    assert!(matches!(device.events()[..], [Event::Message(_), Event::Message(_)]));
}

fn aliased<'a>(topic: &'a str, properties: &'a [Property<'a>]) -> Packet<'a> {
    let (dup, retain, packet_id) = (false, false, None);
    Packet::Publish(Publish {
        dup,
        qos: AtMostOnce,
        retain,
        topic,
        packet_id,
        properties: List::from(properties),
        payload: b"",
    })
}

#[test]
fn mqtt_5_3_3_2_10_a_topic_alias_stands_for_the_name_it_was_set_to() {
    let mut device = Device::online(options(Version::V5), &[]);
    let alias = [Property::TopicAlias(16)];
    for topic in ["a", "", "b", ""] {
        device.receive(aliased(topic, &alias));
    }
    let topics: Vec<_> = device
        .events()
        .into_iter()
        .map(|event| match event {
            Event::Message(received) => received.topic.to_string(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(topics, ["a", "a", "b", "b"]);
    device.drop_link();
    device.connect(true, &[]);
    device.receive(aliased("", &alias));
    assert!(matches!(device.events()[..], [Event::Disconnected(Cause::Violation(_))]), "aliases end with a connection");
}

#[test]
fn input_waits_while_events_wait() {
    let mut device = Device::online(options(Version::V5), &[]);
    let mut input = BytesMut::new();
    for _ in 0..300 {
        encode(&message("a", AtLeastOnce, Some(1), false), Version::V5, &mut input).unwrap();
    }
    device.client.handle_input(device.now, &mut input);
    assert_eq!(device.events().len(), 256);
    assert!(!input.is_empty());
    device.client.handle_input(device.now, &mut input);
    assert_eq!(device.events().len(), 44);
    assert!(input.is_empty());
    assert_eq!(device.sent().len(), 300);
}

#[test]
fn messages_wait_while_the_transport_is_slow() {
    let mut device = Device::online(options(Version::V5), &[]);
    for _ in 0..10 {
        device.client.publish(Publication::new("t", vec![0; 30_000], AtMostOnce)).unwrap();
    }
    assert!(device.client.output().len() < 100_000);
    assert_eq!(device.client.unpublished(), 7);
    assert_eq!(device.sent().len(), 10);
    assert_eq!(device.client.unpublished(), 0);
}

#[test]
fn packets_may_arrive_byte_by_byte() {
    let mut device = Device::online(options(Version::V5), &[]);
    let mut whole = BytesMut::new();
    encode(&message("a", AtLeastOnce, Some(1), false), Version::V5, &mut whole).unwrap();
    let mut input = BytesMut::new();
    for byte in whole {
        assert_eq!(device.events(), []);
        input.extend_from_slice(&[byte]);
        device.client.handle_input(device.now, &mut input);
    }
    assert!(matches!(&device.events()[..], [Event::Message(received)] if received.payload == "a"));
}
