//! What a server says with properties, and what it must not; topic aliases.

use super::*;
use crate::mqtt::{
    ConnAck, PacketKind, Sender, SubAck, Subscribe, Subscription, Unsubscribe,
    codec::{decode, frame_length},
    server::{Delivered, Farewell, PacketId as Id},
};
use Version::V5;

/// The size of a CONNACK that says what it must: one byte more would not be taken.
const SMALLEST: u32 = 16;

/// Every packet in `bytes`, whose properties the closure sees.
fn each_packet(mut bytes: BytesMut, mut see: impl FnMut(&Packet<'_>, Properties<'_>)) -> usize {
    let mut count = 0;
    while let Some(length) = frame_length(&bytes, usize::MAX).unwrap() {
        let frame = bytes.split_to(length);
        let packet = decode(&frame, V5, Sender::Server).unwrap();
        let properties = match &packet {
            Packet::ConnAck(ack) => ack.properties,
            Packet::Publish(publish) => publish.properties,
            Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => ack.properties,
            Packet::SubAck(ack) | Packet::UnsubAck(ack) => ack.properties,
            Packet::Disconnect(disconnect) => disconnect.properties,
            _ => List::EMPTY,
        };
        see(&packet, properties);
        count += 1;
    }
    count
}

/// A server that has refused all it was asked, to a client that told how large a packet may be and that it wants to hear of
/// problems or does not.
fn refusals(connect_properties: &[Property<'_>]) -> BytesMut {
    let connect = Connect { properties: Properties::from(connect_properties), ..connect(V5) };
    let mut server = Server::new(V5, limits());
    server.receive(&Packet::Connect(connect));
    server.events();
    server.connection.accept(server.now, Accepted::default());
    server.receive(&publish(QoS::AtLeastOnce, 1));
    server.receive(&publish(QoS::ExactlyOnce, 2));
    for ticket in server.tickets() {
        server.connection.published(ticket, ReasonCode::NotAuthorized);
    }
    server.receive(&pubrel(9));
    server.receive(&pubrec(9));
    let filter = [Subscription::new("a", QoS::AtMostOnce)];
    let properties = List::EMPTY;
    server.receive(&Packet::Subscribe(Subscribe { packet_id: id(3), properties, subscriptions: List::from(&filter) }));
    server.receive(&Packet::Unsubscribe(Unsubscribe { packet_id: id(4), properties, filters: List::from(&["a"]) }));
    for event in server.events() {
        match event {
            Event::Subscribe { ticket, .. } => server.connection.subscribed(ticket, &[ReasonCode::NotAuthorized]),
            Event::Unsubscribe { ticket, .. } => server.connection.unsubscribed(ticket, &[ReasonCode::NotAuthorized]),
            other => panic!("{other:?}"),
        }
    }
    server.connection.disconnect(ReasonCode::ServerBusy);
    server.connection.output().split()
}

/// No packet of a kind holds what the closure looks for, whatever the client said of problems and of its packets' size.
fn none_holds(kind: PacketKind, is_it: fn(&Property<'_>) -> bool) {
    let told: [&[Property<'_>]; 3] =
        [&[], &[Property::RequestProblemInformation(true)], &[Property::MaximumPacketSize(SMALLEST)]];
    for connect_properties in told {
        let mut seen = 0;
        each_packet(refusals(connect_properties), |packet, properties| {
            seen += usize::from(packet.kind() == kind);
            assert!(packet.kind() != kind || !properties.iter().any(|property| is_it(&property)), "{packet:?}");
        });
        assert_eq!(seen, 1, "{kind:?} with {connect_properties:?}");
    }
}

fn is_reason_string(property: &Property<'_>) -> bool {
    matches!(property, Property::ReasonString(_))
}

fn is_user_property(property: &Property<'_>) -> bool {
    matches!(property, Property::UserProperty(..))
}

// What is not said makes no packet too large.

#[test]
fn mqtt_5_3_2_2_19_no_reason_string_makes_a_connack_too_large() {
    none_holds(PacketKind::ConnAck, is_reason_string);
}

/// Whether a client that takes packets of this size is told when to come back, in what the server sends it away with.
fn is_told_when(bytes_max: u32, kind: PacketKind) -> bool {
    let properties = [Property::MaximumPacketSize(bytes_max)];
    let mut server = Server::new(V5, limits());
    server.receive(&Packet::Connect(Connect { properties: Properties::from(&properties), ..connect(V5) }));
    if kind == PacketKind::Disconnect {
        server.connection.accept(server.now, Accepted::default());
        server.connection.output().clear();
    }
    let farewell = Farewell { retry_after: Some(Duration::from_millis(1_234)), ..Farewell::default() };
    server.connection.disconnect_with(ReasonCode::ServerBusy, &farewell);
    let written = server.connection.output().split();
    assert!(written.len() <= bytes_max as usize);
    let mut is_told = false;
    let count = each_packet(written, |packet, properties| {
        assert_eq!(packet.kind(), kind);
        is_told = properties.iter().any(|property| is_user_property(&property));
    });
    assert_eq!(count, 1, "the packet is sent, with or without");
    is_told
}

#[test]
fn mqtt_5_3_2_2_20_no_user_property_makes_a_connack_too_large() {
    none_holds(PacketKind::ConnAck, is_user_property);
    let least = (SMALLEST..100).find(|bytes_max| is_told_when(*bytes_max, PacketKind::ConnAck));
    assert_eq!(least, Some(28), "as soon as it fits");
}

#[test]
fn mqtt_5_3_4_2_2_no_reason_string_makes_a_puback_too_large() {
    none_holds(PacketKind::PubAck, is_reason_string);
}

#[test]
fn mqtt_5_3_4_2_3_no_user_property_makes_a_puback_too_large() {
    none_holds(PacketKind::PubAck, is_user_property);
}

#[test]
fn mqtt_5_3_5_2_2_no_reason_string_makes_a_pubrec_too_large() {
    none_holds(PacketKind::PubRec, is_reason_string);
}

#[test]
fn mqtt_5_3_5_2_3_no_user_property_makes_a_pubrec_too_large() {
    none_holds(PacketKind::PubRec, is_user_property);
}

#[test]
fn mqtt_5_3_6_2_2_no_reason_string_makes_a_pubrel_too_large() {
    none_holds(PacketKind::PubRel, is_reason_string);
}

#[test]
fn mqtt_5_3_6_2_3_no_user_property_makes_a_pubrel_too_large() {
    none_holds(PacketKind::PubRel, is_user_property);
}

#[test]
fn mqtt_5_3_7_2_2_no_reason_string_makes_a_pubcomp_too_large() {
    none_holds(PacketKind::PubComp, is_reason_string);
}

#[test]
fn mqtt_5_3_7_2_3_no_user_property_makes_a_pubcomp_too_large() {
    none_holds(PacketKind::PubComp, is_user_property);
}

#[test]
fn mqtt_5_3_9_2_1_no_reason_string_makes_a_suback_too_large() {
    none_holds(PacketKind::SubAck, is_reason_string);
}

#[test]
fn mqtt_5_3_9_2_2_no_user_property_makes_a_suback_too_large() {
    none_holds(PacketKind::SubAck, is_user_property);
}

#[test]
fn mqtt_5_3_11_2_1_no_reason_string_makes_an_unsuback_too_large() {
    none_holds(PacketKind::UnsubAck, is_reason_string);
}

#[test]
fn mqtt_5_3_11_2_2_no_user_property_makes_an_unsuback_too_large() {
    none_holds(PacketKind::UnsubAck, is_user_property);
}

#[test]
fn mqtt_5_3_14_2_3_no_reason_string_makes_a_disconnect_too_large() {
    none_holds(PacketKind::Disconnect, is_reason_string);
}

#[test]
fn mqtt_5_3_14_2_4_no_user_property_makes_a_disconnect_too_large() {
    none_holds(PacketKind::Disconnect, is_user_property);
    let least = (SMALLEST..100).find(|bytes_max| is_told_when(*bytes_max, PacketKind::Disconnect));
    assert_eq!(least, Some(27), "as soon as it fits");
}

#[test]
fn mqtt_5_3_1_2_29_a_client_that_wants_no_problem_information_gets_none() {
    let count = each_packet(refusals(&[Property::RequestProblemInformation(false)]), |packet, properties| {
        let may = matches!(packet.kind(), PacketKind::Publish | PacketKind::ConnAck | PacketKind::Disconnect);
        let has = properties.iter().any(|property| is_reason_string(&property) || is_user_property(&property));
        assert!(may || !has, "{packet:?}");
    });
    assert_eq!(count, 8);
}

#[test]
fn mqtt_5_3_1_2_28_there_is_no_response_information() {
    for told in [None, Some(false), Some(true)] {
        let told: Vec<_> = told.map(Property::RequestResponseInformation).into_iter().collect();
        let mut connacks = 0;
        each_packet(refusals(&told), |packet, properties| {
            connacks += usize::from(packet.kind() == PacketKind::ConnAck);
            assert_eq!(properties.response_information(), None);
        });
        assert_eq!(connacks, 1);
    }
}

#[test]
fn mqtt_5_3_14_2_2_the_servers_disconnect_has_no_session_expiry() {
    none_holds(PacketKind::Disconnect, |property| matches!(property, Property::SessionExpiryInterval(_)));
    let frame = framed(0xe0, b"\0\x05\x11\0\0\0\x01");
    assert!(decode(&frame, V5, Sender::Server).is_err() && decode(&frame, V5, Sender::Client).is_ok());
}

#[test]
fn mqtt_5_4_12_0_6_without_a_method_there_is_no_auth_and_no_method() {
    each_packet(refusals(&[]), |packet, properties| {
        assert!(packet.kind() != PacketKind::Auth && properties.authentication_method().is_none(), "{packet:?}");
    });
}

/// The length that stands where properties begin, when there are none.
#[test]
fn mqtt_5_2_2_2_1_no_properties_are_a_length_of_0() {
    let none = List::EMPTY;
    let ack = SubAck { packet_id: id(1), properties: none, reasons: List::from(&[ReasonCode::Success]) };
    let filter = [Subscription::new("a", QoS::AtMostOnce)];
    let subscribe = Subscribe { packet_id: id(1), properties: none, subscriptions: List::from(&filter) };
    let unsubscribe = Unsubscribe { packet_id: id(1), properties: none, filters: List::from(&["a"]) };
    let conn_ack = ConnAck { session_present: false, reason: ReasonCode::Success, properties: none };
    let cases: [(Packet<'_>, &[u8]); 7] = [
        (Packet::ConnAck(conn_ack), b"\x20\x03\0\0\0"),
        (Packet::SubAck(ack), b"\x90\x04\0\x01\0\0"),
        (Packet::UnsubAck(ack), b"\xb0\x04\0\x01\0\0"),
        (Packet::Subscribe(subscribe), b"\x82\x07\0\x01\0\0\x01a\0"),
        (Packet::Unsubscribe(unsubscribe), b"\xa2\x06\0\x01\0\0\x01a"),
        (publish_with(QoS::AtMostOnce, 0, false, "t", &[]), b"\x30\x06\0\x01t\0{}"),
        (Packet::Connect(connect(V5)), b"\x10\x11\0\x04MQTT\x05\x02\0\x3c\0\0\x04lamp"),
    ];
    for (packet, bytes) in cases {
        let mut out = BytesMut::new();
        encode(&packet, V5, &mut out).unwrap();
        assert_eq!(&out[..], bytes, "{packet:?}");
    }
    let mut server = Server::new(V5, limits());
    server.receive_bytes(&framed(0x10, b"\0\x04MQTT\x05\x02\0\x3c"));
    assert!(server.connection.is_closed(), "the length is never left out of a CONNECT");
}

// === Topic aliases ===

fn aliased(topic: &str, alias: u16) -> BytesMut {
    let mut out = BytesMut::new();
    encode(&publish_with(QoS::AtMostOnce, 0, false, topic, &[Property::TopicAlias(alias)]), V5, &mut out).unwrap();
    out
}

#[test]
fn mqtt_5_3_3_2_7_topic_aliases_end_with_the_connection() {
    let mut server = Server::online(V5, limits());
    server.receive_bytes(&aliased("a/b", 1));
    server.receive_bytes(&aliased("", 1));
    assert_eq!(server.published().iter().map(|publish| &*publish.topic).collect::<Vec<_>>(), ["a/b", "a/b"]);
    let resumed = Accepted { session_present: true, ..Accepted::default() };
    let mut server = Server::accepted(&connect(V5), limits(), resumed);
    server.receive_bytes(&aliased("", 1));
    server.assert_violated(ReasonCode::TopicAliasInvalid);
}

/// What a server sends to a client that takes as many aliases.
fn deliveries(topic_alias_maximum: Option<u16>) -> Server {
    let properties: Vec<_> = topic_alias_maximum.map(Property::TopicAliasMaximum).into_iter().collect();
    let connect = Connect { properties: Properties::from(&properties[..]), ..connect(V5) };
    let mut server = Server::accepted(&connect, limits(), Accepted::default());
    for tag in 0..5 {
        let qos = if tag % 2 == 0 { QoS::AtLeastOnce } else { QoS::AtMostOnce };
        assert_eq!(server.connection.deliver(server.now, &delivery(qos, tag)), Delivered::Written);
    }
    server
}

fn assert_aliases_within(maximum: u16, mut server: Server) {
    let count = each_packet(server.connection.output().split(), |packet, properties| {
        let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
        assert!(properties.topic_alias().is_none_or(|alias| (1..=maximum).contains(&alias)));
        assert!(!publish.topic.is_empty() || properties.topic_alias().is_some());
    });
    assert_eq!(count, 5);
}

#[test]
fn mqtt_5_3_1_2_26_the_server_sends_no_alias_above_the_clients_maximum() {
    assert_aliases_within(1, deliveries(Some(1)));
}

#[test]
fn mqtt_5_3_3_2_11_the_servers_aliases_are_within_the_clients_maximum() {
    assert_aliases_within(2, deliveries(Some(2)));
}

#[test]
fn mqtt_5_3_1_2_27_a_client_that_takes_no_aliases_gets_none() {
    assert_aliases_within(0, deliveries(None));
    assert_aliases_within(0, deliveries(Some(0)));
}

// === Messages ===

/// What a subscriber gets of a message with these properties.
fn forwarded(properties: &message::Properties) -> Vec<Property<'static>> {
    let mut server = Server::online(V5, limits());
    let delivery = Delivery { properties: Some(properties), ..delivery(QoS::AtMostOnce, 0) };
    assert_eq!(server.connection.deliver(server.now, &delivery), Delivered::Written);
    let frame: &'static [u8] = Vec::leak(server.connection.output().to_vec());
    let Ok(Packet::Publish(publish)) = decode(frame, V5, Sender::Server) else { panic!() };
    publish.properties.iter().collect()
}

/// What a message with these properties takes along: in by one engine, out by another.
fn travelled(properties: &[Property<'_>]) -> Vec<Property<'static>> {
    let mut server = Server::online(V5, limits());
    server.receive(&publish_with(QoS::AtMostOnce, 0, false, "t", properties));
    forwarded(&server.published().remove(0).properties)
}

#[test]
fn mqtt_5_3_3_2_4_the_payload_format_indicator_travels() {
    assert_eq!(travelled(&[Property::PayloadFormatIndicator(true)]), [Property::PayloadFormatIndicator(true)]);
    // 0 says no more than its absence (MQTT 5 §3.3.2.3.2).
    assert_eq!(travelled(&[Property::PayloadFormatIndicator(false)]), []);
}

#[test]
fn mqtt_5_3_3_2_15_the_response_topic_travels() {
    assert_eq!(travelled(&[Property::ResponseTopic("/é/r ")]), [Property::ResponseTopic("/é/r ")]);
}

#[test]
fn mqtt_5_3_3_2_16_the_correlation_data_travels() {
    assert_eq!(travelled(&[Property::CorrelationData(b"\0\xff")]), [Property::CorrelationData(b"\0\xff")]);
    assert_eq!(travelled(&[Property::CorrelationData(b"")]), [Property::CorrelationData(b"")]);
}

#[test]
fn mqtt_5_3_3_2_17_user_properties_travel() {
    let all = [Property::UserProperty("", ""), Property::UserProperty("k", "v"), Property::UserProperty("k", "v")];
    assert_eq!(travelled(&all), all);
}

#[test]
fn mqtt_5_3_3_2_18_user_properties_keep_their_order() {
    let all = ["c", "a", "b", "a"].map(|name| Property::UserProperty(name, name));
    assert_eq!(travelled(&all), all);
}

#[test]
fn mqtt_5_3_3_2_20_the_content_type_travels() {
    assert_eq!(travelled(&[Property::ContentType("text/plain; é")]), [Property::ContentType("text/plain; é")]);
    assert_eq!(travelled(&[Property::ContentType("")]), [Property::ContentType("")]);
}

#[test]
fn mqtt_5_3_1_3_10_the_user_properties_of_a_will_keep_their_order() {
    let all = ["c", "a", "b", "a"].map(|name| Property::UserProperty(name, "v"));
    let properties = Properties::from(&all);
    let will = crate::mqtt::Will { topic: "w", payload: b"", qos: QoS::AtMostOnce, retain: false, properties };
    let mut server = Server::new(V5, limits());
    server.receive(&Packet::Connect(Connect { will: Some(will), ..connect(V5) }));
    let Some(Event::Connect(request)) = server.events().pop() else { panic!() };
    assert_eq!(forwarded(&request.will.unwrap().properties), all);
}

// === Sizes ===

#[test]
fn mqtt_5_3_1_2_25_what_is_too_large_is_as_good_as_sent() {
    let properties = [Property::MaximumPacketSize(40), Property::ReceiveMaximum(1)];
    let connect = Connect { properties: Properties::from(&properties), ..connect(V5) };
    let mut server = Server::accepted(&connect, limits(), Accepted::default());
    let large = Bytes::from(vec![0; 100]);
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let delivery = Delivery { payload: &large, packet_id: Id::Assign, ..delivery(qos, 1) };
        assert_eq!(server.connection.deliver(server.now, &delivery), Delivered::TooLarge);
    }
    // It takes neither a place of the window nor a packet identifier.
    assert_eq!(server.connection.deliver(server.now, &delivery(QoS::AtLeastOnce, 2)), Delivered::Written);
    server.assert_sent(&[delivered(QoS::AtLeastOnce, 1)]);
}
