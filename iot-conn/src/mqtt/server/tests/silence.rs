//! What a connection tells of a silent client, and what it keeps for one of which nothing is heard.

use super::*;
use crate::mqtt::{Sender, codec::decode, server::Delivered};

fn online_with(version: Version, keep_alive_s: u16) -> Server {
    Server::accepted(&Connect { keep_alive_s, ..connect(version) }, limits(), Accepted::default())
}

#[test]
fn a_client_is_suspect_after_its_keep_alive_and_lost_after_half_of_it_again() {
    for version in BOTH {
        let mut server = online_with(version, 20);
        server.pass(Duration::from_secs(5));
        server.receive(&Packet::PingReq);
        let heard = server.now;
        server.pass(Duration::from_secs(7));
        assert_eq!(server.connection.suspect_from(), Some(heard.plus(Duration::from_secs(20))));
        assert_eq!(server.connection.poll_timeout(), Some(heard.plus(Duration::from_secs(30))));
    }
}

#[test]
fn nobody_is_suspect_who_is_not_connected_or_has_no_keep_alive() {
    for version in BOTH {
        assert_eq!(Server::new(version, limits()).connection.suspect_from(), None, "no CONNECT has come");

        let mut asked = Server::new(version, limits());
        asked.receive(&Packet::Connect(connect(version)));
        assert_eq!(asked.connection.suspect_from(), None, "the CONNECT has no answer");

        let mut server = online_with(version, 0);
        assert_eq!((server.connection.suspect_from(), server.connection.poll_timeout()), (None, None));

        server = online_with(version, 20);
        server.connection.disconnect(ReasonCode::ServerBusy);
        assert_eq!(server.connection.suspect_from(), None, "it has ended");
    }
}

/// What a connection keeps can only be seen in what it prints for debugging.
fn kept(server: &Server) -> String {
    format!("{:?}", server.connection)
}

#[test]
fn a_connection_at_rest_keeps_no_buffers_and_no_tables() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        server.receive(&publish(QoS::AtLeastOnce, 1));
        let tickets = server.tickets();
        server.connection.published(tickets[0], ReasonCode::Success);
        assert_eq!(server.connection.deliver(server.now, &delivery(QoS::AtLeastOnce, 1)), Delivered::Written);
        server.receive(&puback(1));
        assert!(matches!(server.events()[..], [Event::Finished { .. }]));
        server.connection.output().clear();
        assert!(kept(&server).contains("buffers: Some") && kept(&server).contains("open: Some"));

        server.connection.rest();
        assert!(kept(&server).contains("buffers: None") && kept(&server).contains("open: None"), "{}", kept(&server));
        server.assert_open();
    }
}

#[test]
fn rest_takes_nothing_that_is_needed() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        server.receive(&publish(QoS::ExactlyOnce, 1));
        server.connection.rest();
        let tickets = server.tickets();
        server.connection.published(tickets[0], ReasonCode::Success);
        server.connection.rest();
        server.assert_sent(&[pubrec(1)]);
        server.connection.rest();
        server.receive(&pubrel(1));
        assert!(matches!(server.events()[..], [Event::Release { packet_id: 1, .. }]), "the message is still known");

        assert_eq!(server.connection.deliver(server.now, &delivery(QoS::AtLeastOnce, 7)), Delivered::Written);
        server.connection.rest();
        server.receive(&puback(1));
        assert!(matches!(server.events()[..], [Event::Finished { tag: 7, .. }]), "the message is still in flight");
    }
}

#[test]
fn rest_keeps_a_message_without_an_answer() {
    for version in BOTH {
        let mut server = Server::online(version, limits());
        server.receive(&publish(QoS::AtLeastOnce, 1));
        let tickets = server.tickets();
        server.connection.rest();
        server.connection.published(tickets[0], ReasonCode::Success);
        server.assert_sent(&[puback(1)]);
    }
}

#[test]
fn rest_keeps_topic_aliases() {
    let mut server = Server::online(Version::V5, limits());
    let alias = [Property::TopicAlias(1)];
    server.receive(&publish_with(QoS::AtMostOnce, 0, false, "up/telemetry", &alias));
    server.published();
    server.connection.rest();
    server.receive(&publish_with(QoS::AtMostOnce, 0, false, "", &alias));
    assert_eq!(server.published()[0].topic, "up/telemetry");
}

#[test]
fn rest_keeps_requests_without_an_answer() {
    let mut server = Server::online(Version::V5, limits());
    server.receive(&Packet::Unsubscribe(crate::mqtt::Unsubscribe {
        packet_id: id(1),
        properties: List::EMPTY,
        filters: List::from(&["a"]),
    }));
    let [Event::Unsubscribe { ticket, .. }] = server.events()[..] else { panic!("it asks") };
    server.connection.rest();
    server.connection.unsubscribed(ticket, &[ReasonCode::Success]);
    assert!(server.connection.has_output());
}

#[test]
fn a_client_is_told_its_keep_alive_only_if_it_is_not_what_it_asked_for() {
    let limits = || ConnectionLimits { keep_alive_s_max: Some(30), ..limits() };
    for (asked_s, chosen_s, told_s) in [
        (10, None, None),
        (30, None, None),
        (31, None, Some(30)),
        (0, None, Some(30)),
        (10, Some(20), Some(20)),
        (10, Some(40), Some(30)),
        (10, Some(0), Some(30)),
    ] {
        let mut server = Server::new(Version::V5, limits());
        server.receive(&Packet::Connect(Connect { keep_alive_s: asked_s, ..connect(Version::V5) }));
        server.events();
        server.connection.accept(server.now, Accepted { server_keep_alive_s: chosen_s, ..Accepted::default() });
        let written = server.connection.output().split();
        let Ok(Packet::ConnAck(ack)) = decode(&written, Version::V5, Sender::Server) else { panic!("{written:?}") };
        assert_eq!(ack.properties.server_keep_alive(), told_s, "{asked_s} {chosen_s:?}");
        let in_use = Duration::from_secs(told_s.unwrap_or(asked_s).into());
        assert_eq!(server.connection.suspect_from(), Some(server.now.plus(in_use)));
    }
}
