//! Messages from the client.

use super::*;

fn pubrec_with(packet_id: u16, reason: ReasonCode) -> Packet<'static> {
    Packet::PubRec(Ack::new(id(packet_id), reason))
}

#[test]
fn a_message_comes_as_it_was_sent() {
    let properties = [
        Property::MessageExpiryInterval(60),
        Property::ContentType("application/json"),
        Property::UserProperty("a", "b"),
    ];
    let mut server = Server::online(Version::V5, limits());
    server.receive(&publish_with(QoS::AtLeastOnce, 7, true, "up/telemetry", &properties));
    let publish = server.published().pop().unwrap();
    assert_eq!(publish.topic, "up/telemetry");
    assert_eq!((&publish.payload[..], publish.qos, publish.packet_id), (&b"{}"[..], QoS::AtLeastOnce, Some(7)));
    assert_eq!((publish.dup, publish.retain, publish.expiry_s), (true, false, Some(60)));
    assert_eq!(publish.properties.content_type.as_deref(), Some("application/json"));
    assert_eq!(publish.properties.user, [("a".to_owned(), "b".to_owned())]);
}

#[test]
fn qos_0_has_no_ticket_and_no_answer() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        server.receive(&publish(QoS::AtMostOnce, 0));
        let publish = server.published().pop().unwrap();
        assert_eq!((publish.ticket, publish.packet_id), (None, None));
        server.assert_sent(&[]);
    }
}

#[test]
fn mqtt_5_4_3_2_4_qos_1_is_answered_with_a_puback() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        server.receive(&publish(QoS::AtLeastOnce, 7));
        server.assert_sent(&[]);
        let tickets = server.tickets();
        server.connection.published(tickets[0], ReasonCode::Success);
        server.assert_sent(&[puback(7)]);
        server.connection.published(tickets[0], ReasonCode::Success);
        server.assert_sent(&[]);
    }
}

#[test]
fn mqtt_5_4_3_2_5_an_identifier_is_new_after_its_puback() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        for _ in 0..2 {
            server.receive(&publish_again(QoS::AtLeastOnce, 7));
            let tickets = server.tickets();
            server.connection.published(tickets[0], ReasonCode::Success);
            server.assert_sent(&[puback(7)]);
        }
    }
}

#[test]
fn a_reason_is_told_in_mqtt_5_only() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        server.receive(&publish(QoS::AtLeastOnce, 7));
        server.receive(&publish(QoS::ExactlyOnce, 8));
        for ticket in server.tickets() {
            server.connection.published(ticket, ReasonCode::NotAuthorized);
        }
        let refused = |packet_id| Ack::new(id(packet_id), ReasonCode::NotAuthorized);
        server.assert_sent(&[Packet::PubAck(refused(7)), Packet::PubRec(refused(8))]);
    }
    let mut server = Server::online(Version::V5, limits());
    server.receive(&publish(QoS::AtLeastOnce, 7));
    let tickets = server.tickets();
    server.connection.published(tickets[0], ReasonCode::ServerBusy);
    server.assert_sent(&[Packet::PubAck(Ack::new(id(7), ReasonCode::UnspecifiedError))]);
}

#[test]
fn mqtt_5_4_6_0_2_pubacks_leave_in_the_order_of_their_messages() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        for packet_id in [9, 3, 5] {
            server.receive(&publish(QoS::AtLeastOnce, packet_id));
        }
        let tickets = server.tickets();
        server.connection.published(tickets[2], ReasonCode::Success);
        server.connection.published(tickets[1], ReasonCode::Success);
        server.assert_sent(&[]);
        server.connection.published(tickets[0], ReasonCode::Success);
        server.assert_sent(&[puback(9), puback(3), puback(5)]);
    }
}

#[test]
fn the_first_answer_counts() {
    let mut server = Server::online(Version::V5, limits());
    for (packet_id, qos) in [(1, QoS::AtLeastOnce), (2, QoS::AtLeastOnce), (3, QoS::ExactlyOnce), (4, QoS::ExactlyOnce)]
    {
        server.receive(&publish(qos, packet_id));
    }
    let tickets = server.tickets();
    for (at, reason) in [
        (1, ReasonCode::NotAuthorized),
        (1, ReasonCode::Success),
        (3, ReasonCode::NotAuthorized),
        (3, ReasonCode::Success),
    ] {
        server.connection.published(tickets[at], reason);
    }
    server.connection.published(tickets[0], ReasonCode::Success);
    server.connection.published(tickets[2], ReasonCode::Success);
    let refused = |packet_id| Ack::new(id(packet_id), ReasonCode::NotAuthorized);
    server.assert_sent(&[puback(1), Packet::PubAck(refused(2)), pubrec(3), Packet::PubRec(refused(4))]);
}

#[test]
fn mqtt_5_4_6_0_3_pubrecs_leave_in_the_order_of_their_messages() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        server.receive(&publish(QoS::ExactlyOnce, 9));
        server.receive(&publish(QoS::AtLeastOnce, 4));
        server.receive(&publish(QoS::ExactlyOnce, 3));
        let tickets = server.tickets();
        server.connection.published(tickets[2], ReasonCode::Success);
        server.assert_sent(&[]);
        server.connection.published(tickets[1], ReasonCode::Success);
        server.assert_sent(&[puback(4)]);
        server.connection.published(tickets[0], ReasonCode::Success);
        server.assert_sent(&[pubrec(9), pubrec(3)]);
    }
}

#[test]
fn a_qos_1_message_sent_again_before_its_puback_keeps_the_order() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        server.receive(&publish(QoS::AtLeastOnce, 1));
        server.receive(&publish(QoS::AtLeastOnce, 2));
        server.receive(&publish_again(QoS::AtLeastOnce, 1));
        let tickets = server.tickets();
        server.connection.published(tickets[2], ReasonCode::Success);
        server.connection.published(tickets[1], ReasonCode::Success);
        server.assert_sent(&[]);
        server.connection.published(tickets[0], ReasonCode::Success);
        server.assert_sent(&[puback(1), puback(2), puback(1)]);
    }
}

#[test]
fn mqtt_5_4_3_3_11_qos_2_goes_through_pubrec_pubrel_and_pubcomp() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        server.receive(&publish(QoS::ExactlyOnce, 7));
        let tickets = server.tickets();
        server.connection.published(tickets[0], ReasonCode::Success);
        server.assert_sent(&[pubrec(7)]);
        server.receive(&pubrel(7));
        server.assert_sent(&[]);
        let ticket = server.release_ticket();
        server.receive(&pubrel(7));
        assert!(server.events().is_empty());
        server.connection.released(ticket);
        server.assert_sent(&[pubcomp(7)]);
        server.connection.released(ticket);
        server.assert_sent(&[]);
    }
}

#[test]
fn mqtt_5_4_3_3_10_a_qos_2_message_comes_once_and_is_answered_each_time() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        server.receive(&publish(QoS::ExactlyOnce, 7));
        server.receive(&publish(QoS::ExactlyOnce, 8));
        server.receive(&publish_again(QoS::ExactlyOnce, 7));
        let tickets = server.tickets();
        assert_eq!(tickets.len(), 2);
        server.connection.published(tickets[0], ReasonCode::Success);
        server.assert_sent(&[pubrec(7)]);
        server.connection.published(tickets[1], ReasonCode::Success);
        server.assert_sent(&[pubrec(8), pubrec(7)]);
        server.receive(&publish_again(QoS::ExactlyOnce, 7));
        assert!(server.events().is_empty());
        server.assert_sent(&[pubrec(7)]);
    }
}

#[test]
fn mqtt_5_4_3_3_9_an_error_ends_a_qos_2_exchange() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        server.receive(&publish(QoS::ExactlyOnce, 7));
        server.receive(&publish_again(QoS::ExactlyOnce, 7));
        let tickets = server.tickets();
        server.connection.published(tickets[0], ReasonCode::QuotaExceeded);
        let refused = pubrec_with(7, ReasonCode::QuotaExceeded);
        server.assert_sent(&[refused, refused]);
        server.receive(&publish(QoS::ExactlyOnce, 7));
        assert_eq!(server.tickets().len(), 1);
    }
}

#[test]
fn a_duplicate_behind_a_failed_message_that_waits_fails_too() {
    let mut server = Server::online(Version::V5, limits());
    server.receive(&publish(QoS::ExactlyOnce, 1));
    server.receive(&publish(QoS::ExactlyOnce, 2));
    let tickets = server.tickets();
    server.connection.published(tickets[1], ReasonCode::NotAuthorized);
    server.receive(&publish_again(QoS::ExactlyOnce, 2));
    server.connection.published(tickets[0], ReasonCode::Success);
    let refused = pubrec_with(2, ReasonCode::NotAuthorized);
    server.assert_sent(&[pubrec(1), refused, refused]);
}

#[test]
fn mqtt_5_4_3_3_12_an_identifier_is_new_after_its_pubcomp() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        for _ in 0..2 {
            server.receive(&publish(QoS::ExactlyOnce, 7));
            let tickets = server.tickets();
            server.connection.published(tickets[0], ReasonCode::Success);
            server.receive(&pubrel(7));
            let ticket = server.release_ticket();
            server.connection.released(ticket);
            server.assert_sent(&[pubrec(7), pubcomp(7)]);
        }
    }
}

#[test]
fn mqtt_5_4_3_3_6_a_publish_after_its_pubrel_is_a_violation() {
    for version in BOTH {
        let mut server =
            Server::accepted(&connect(version), limits(), Accepted { received: vec![7], ..Accepted::default() });
        server.receive(&pubrel(7));
        server.release_ticket();
        server.receive(&publish_again(QoS::ExactlyOnce, 7));
        server.assert_violated(ReasonCode::ProtocolError);
    }
}

#[test]
fn mqtt_5_4_3_3_4_a_pubrel_before_its_pubrec_is_a_violation() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        server.receive(&publish(QoS::ExactlyOnce, 7));
        server.tickets();
        server.receive(&pubrel(7));
        server.assert_violated(ReasonCode::ProtocolError);
    }
}

#[test]
fn a_pubrel_for_nothing_is_answered() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        server.receive(&pubrel(7));
        assert!(server.events().is_empty());
        server.assert_sent(&[Packet::PubComp(Ack::new(id(7), ReasonCode::PacketIdentifierNotFound))]);
    }
}

#[test]
fn a_resumed_session_knows_what_was_received() {
    for version in BOTH {
        let accepted = Accepted { session_present: true, received: vec![9, 8, 0, 7, 6, 9], ..Accepted::default() };
        let mut server = Server::accepted(&connect(version), limits(), accepted);
        server.receive(&publish_again(QoS::ExactlyOnce, 7));
        assert!(server.events().is_empty());
        server.assert_sent(&[pubrec(7)]);
        for packet_id in [9, 6, 8, 7] {
            server.receive(&pubrel(packet_id));
            let ticket = server.release_ticket();
            server.connection.released(ticket);
            server.assert_sent(&[pubcomp(packet_id)]);
        }
        server.receive(&publish(QoS::ExactlyOnce, 7));
        assert_eq!(server.tickets().len(), 1);
    }
}

#[test]
fn mqtt_5_3_3_2_12_a_topic_alias_stands_for_its_topic_until_it_is_set_anew() {
    let mut server = Server::online(Version::V5, limits());
    let alias = [Property::TopicAlias(16)];
    for topic in ["up/a", "", "up/b", ""] {
        server.receive(&publish_with(QoS::AtMostOnce, 0, false, topic, &alias));
    }
    let topics: Vec<_> = server.published().iter().map(|publish| publish.topic.to_string()).collect();
    assert_eq!(topics, ["up/a", "up/a", "up/b", "up/b"]);
}

#[test]
fn mqtt_5_3_3_2_9_a_topic_alias_above_the_maximum_or_never_set_is_a_violation() {
    for (topic, alias) in [("up/a", 17), ("", 17), ("", 3)] {
        let mut server = Server::online(Version::V5, limits());
        server.receive(&publish_with(QoS::AtMostOnce, 0, false, topic, &[Property::TopicAlias(alias)]));
        server.assert_violated(ReasonCode::TopicAliasInvalid);
    }
    let mut server = Server::online(Version::V5, ConnectionLimits { topic_alias_maximum: 0, ..limits() });
    server.receive(&publish_with(QoS::AtMostOnce, 0, false, "up/a", &[Property::TopicAlias(1)]));
    server.assert_violated(ReasonCode::TopicAliasInvalid);
}

#[test]
fn mqtt_5_3_3_2_8_a_topic_alias_of_0_is_a_violation() {
    let mut server = Server::online(Version::V5, limits());
    server.receive(&publish_with(QoS::AtMostOnce, 0, false, "up/a", &[Property::TopicAlias(0)]));
    server.assert_violated(ReasonCode::TopicAliasInvalid);
}

#[test]
fn a_message_is_told_as_sent_again_only_if_the_client_says_so() {
    for version in BOTH {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let mut server = Server::online(version, limits());
            server.receive(&publish(qos, 1));
            server.receive(&publish_again(qos, 2));
            let dups: Vec<_> = server.published().iter().map(|publish| publish.dup).collect();
            assert_eq!(dups, [false, true]);
        }
    }
}
