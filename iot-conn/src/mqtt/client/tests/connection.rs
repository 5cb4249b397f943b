use std::time::Duration;

use bytes::{Bytes, BytesMut};
use iot_core::secret::Secret;
use proptest::prelude::*;

use super::*;
use crate::mqtt::client::{Cause, InvalidOptions, LastWill, Refused};
use crate::mqtt::{Disconnect, RetainHandling, SubAck, Subscription, client::RequestError};

#[test]
fn a_connect_says_what_the_options_say() {
    let will = LastWill {
        topic: "status".into(),
        payload: Bytes::from_static(b"lost"),
        qos: QoS::AtLeastOnce,
        retain: true,
        delay_s: 7,
        properties: iot_core::message::Properties { content_type: Some("text/plain".into()), ..Default::default() },
    };
    let mut device = Device::new(ClientOptions {
        username: Some("u".into()),
        password: Some(Secret::new("p")),
        will: Some(will),
        session_expiry_s: 99,
        keep_alive_s: 30,
        ..options(Version::V5)
    });
    device.client.handle_connected(device.now);
    let [Packet::Connect(connect)] = device.sent()[..] else { panic!("one CONNECT") };
    assert_eq!((connect.client_id, connect.keep_alive_s, connect.clean_start), ("lamp", 30, false));
    assert_eq!((connect.username, connect.password), (Some("u"), Some(&b"p"[..])));
    assert_eq!(connect.properties.session_expiry_interval(), Some(99));
    assert_eq!(connect.properties.receive_maximum(), Some(64));
    assert_eq!(connect.properties.maximum_packet_size(), Some(256 * 1024));
    let will = connect.will.unwrap();
    assert_eq!((will.topic, will.payload, will.qos, will.retain), ("status", &b"lost"[..], QoS::AtLeastOnce, true));
    assert_eq!(will.properties.will_delay_interval(), Some(7));
    assert_eq!(will.properties.content_type(), Some("text/plain"));
}

#[test]
fn options_without_a_valid_connect_are_refused() {
    let bad = [
        ClientOptions { receive_maximum: 0, ..options(Version::V5) },
        ClientOptions { packet_bytes_max: 0, ..options(Version::V5) },
        ClientOptions { client_id: String::new(), ..options(Version::V311) },
        ClientOptions { password: Some(Secret::new("p")), ..options(Version::V311) },
    ];
    for options in bad {
        assert!(matches!(Client::new(options), Err(InvalidOptions::Forbidden(_))));
    }
    let long = ClientOptions { client_id: "x".repeat(65_536), ..options(Version::V5) };
    assert!(matches!(Client::new(long), Err(InvalidOptions::TooLong(_))));
}

#[test]
fn a_refusal_is_an_event_and_the_end() {
    for version in BOTH {
        let mut device = Device::new(options(version));
        device.client.handle_connected(device.now);
        let reason = ReasonCode::NotAuthorized;
        device.receive(Packet::ConnAck(ConnAck { session_present: false, reason, properties: List::EMPTY }));
        let refused = Refused { reason, reason_string: None, server_reference: None, retry_after: None };
        assert_eq!(device.events(), [Event::Refused(refused)]);
        assert_eq!(device.client.poll_timeout(), None);
        device.client.handle_disconnected(device.now);
        assert_eq!(device.events(), []);
    }
}

#[test]
fn the_first_packet_is_a_connack_and_there_is_one() {
    let mut device = Device::new(options(Version::V5));
    device.client.handle_connected(device.now);
    device.receive(Packet::PingResp);
    assert!(matches!(device.events()[..], [Event::Disconnected(Cause::Violation(_))]));

    let mut device = Device::online(options(Version::V5), &[]);
    let again = ConnAck { session_present: false, reason: ReasonCode::Success, properties: List::EMPTY };
    device.receive(Packet::ConnAck(again));
    assert!(matches!(device.events()[..], [Event::Disconnected(Cause::Violation(_))]));
    let told = Disconnect { reason: ReasonCode::ProtocolError, properties: List::EMPTY };
    assert_eq!(device.sent(), [Packet::Disconnect(told)]);
}

#[test]
fn a_server_that_breaks_the_standard_is_told_in_mqtt_5_only() {
    let cases: [(Version, &[u8], Option<ReasonCode>); 4] = [
        (Version::V5, b"\x36\x05\0\x01t\0\x01", Some(ReasonCode::MalformedPacket)),
        (Version::V5, b"\x30\xff\xff\xff\x7f", Some(ReasonCode::PacketTooLarge)),
        (Version::V5, b"\x30\x06\0\0\x03\x23\0\x63", Some(ReasonCode::TopicAliasInvalid)),
        (Version::V311, b"\x36\x05\0\x01t\0\x01", None),
    ];
    for (version, bytes, reason) in cases {
        let mut device = Device::online(options(version), &[]);
        let mut input = BytesMut::from(bytes);
        device.client.handle_input(device.now, &mut input);
        assert!(input.is_empty(), "nothing is read after the end");
        assert!(matches!(device.events()[..], [Event::Disconnected(Cause::Violation(_))]));
        let told = reason.map(|reason| Packet::Disconnect(Disconnect { reason, properties: List::EMPTY }));
        assert_eq!(device.sent(), told.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn clean_start_is_for_the_first_connection_in_mqtt_5_and_for_all_in_311() {
    for version in BOTH {
        let mut device = Device::new(ClientOptions { clean_start: true, ..options(version) });
        let mut cleans = Vec::new();
        for _ in 0..2 {
            device.client.handle_connected(device.now);
            let [Packet::Connect(connect)] = device.sent()[..] else { panic!("one CONNECT") };
            cleans.push(connect.clean_start);
            let reason = ReasonCode::Success;
            device.receive(Packet::ConnAck(ConnAck { session_present: false, reason, properties: List::EMPTY }));
            device.client.handle_disconnected(device.now);
        }
        assert_eq!(cleans, [true, version == Version::V311]);
    }
}

#[test]
fn mqtt_5_3_2_2_4_a_session_after_a_clean_start_is_a_violation() {
    let mut device = Device::new(ClientOptions { clean_start: true, ..options(Version::V311) });
    device.client.handle_connected(device.now);
    let reason = ReasonCode::Success;
    device.receive(Packet::ConnAck(ConnAck { session_present: true, reason, properties: List::EMPTY }));
    assert!(matches!(device.events()[..], [Event::Disconnected(Cause::Violation(_))]));
}

#[test]
fn an_assigned_client_identifier_is_used_again() {
    let mut device = Device::new(ClientOptions { client_id: String::new(), ..options(Version::V5) });
    device.connect(false, &[Property::AssignedClientIdentifier("auto-7")]);
    device.drop_link();
    device.client.handle_connected(device.now);
    assert!(matches!(device.sent()[..], [Packet::Connect(connect)] if connect.client_id == "auto-7"));
}

#[test]
fn mqtt_5_3_1_2_20_a_silent_client_pings_and_gives_up_a_silent_server() {
    for version in BOTH {
        let mut device = Device::online(ClientOptions { keep_alive_s: 40, ..options(version) }, &[]);
        assert_eq!(device.client.poll_timeout(), Some(device.now.plus(Duration::from_secs(30))));
        device.pass(Duration::from_secs(29));
        assert_eq!(device.sent(), []);
        device.pass(Duration::from_secs(1));
        assert_eq!(device.sent(), [Packet::PingReq]);
        device.receive(Packet::PingResp);
        assert_eq!(device.client.poll_timeout(), Some(device.now.plus(Duration::from_secs(30))));

        device.pass(Duration::from_secs(30));
        assert_eq!(device.sent(), [Packet::PingReq]);
        device.pass(Duration::from_secs(9));
        assert_eq!(device.events(), []);
        device.pass(Duration::from_secs(1));
        assert_eq!(device.events(), [Event::Disconnected(Cause::TimedOut)]);
        assert_eq!(device.client.poll_timeout(), None);
    }
}

#[test]
fn sending_alone_does_not_put_off_the_ping() {
    let mut device = Device::online(ClientOptions { keep_alive_s: 40, ..options(Version::V5) }, &[]);
    device.pass(Duration::from_secs(29));
    device.publish("x", QoS::AtMostOnce);
    device.pass(Duration::from_secs(1));
    assert_eq!(device.sent(), [message("x", QoS::AtMostOnce, None, false), Packet::PingReq]);
}

#[test]
fn mqtt_5_3_1_2_21_the_server_may_set_or_end_the_keep_alive() {
    let device = Device::online(options(Version::V5), &[Property::ServerKeepAlive(8)]);
    assert_eq!(device.client.poll_timeout(), Some(device.now.plus(Duration::from_secs(6))));
    let device = Device::online(options(Version::V5), &[Property::ServerKeepAlive(0)]);
    assert_eq!(device.client.poll_timeout(), None);
}

#[test]
fn a_connect_without_an_answer_times_out() {
    let mut device = Device::new(options(Version::V5));
    device.client.handle_connected(device.now);
    device.pass(Duration::from_secs(10));
    assert_eq!(device.events(), [Event::Disconnected(Cause::TimedOut)]);
}

#[test]
fn both_ends_can_disconnect() {
    let mut device = Device::online(options(Version::V5), &[]);
    device.client.disconnect(ReasonCode::DisconnectWithWill);
    let goodbye = Disconnect { reason: ReasonCode::DisconnectWithWill, properties: List::EMPTY };
    assert_eq!(device.sent(), [Packet::Disconnect(goodbye)]);
    assert_eq!(device.events(), [Event::Disconnected(Cause::Client)]);

    let mut device = Device::online(options(Version::V5), &[]);
    let properties = [Property::ReasonString("elsewhere")];
    let reason = ReasonCode::SessionTakenOver;
    device.receive(Packet::Disconnect(Disconnect { reason, properties: List::from(&properties) }));
    let (reason_string, server_reference, retry_after) = (Some("elsewhere".into()), None, None);
    let cause = Cause::Server { reason, reason_string, server_reference, retry_after };
    assert_eq!(device.events(), [Event::Disconnected(cause)]);
    assert_eq!(device.sent(), []);
}

#[test]
fn subscriptions_are_asked_for_and_answered() {
    let mut device = Device::online(options(Version::V5), &[]);
    let wanted = [
        Subscription::new("down/#", QoS::AtLeastOnce),
        Subscription { retain_handling: RetainHandling::DoNotSend, ..Subscription::new("x", QoS::ExactlyOnce) },
    ];
    let token = device.client.subscribe(&wanted, Some(5)).unwrap();
    let [Packet::Subscribe(subscribe)] = device.sent()[..] else { panic!("one SUBSCRIBE") };
    assert_eq!(subscribe.subscriptions, List::from(&wanted));
    assert_eq!(subscribe.properties.subscription_identifier(), Some(5));
    let reasons = [ReasonCode::GrantedQoS1, ReasonCode::NotAuthorized];
    let packet_id = subscribe.packet_id;
    let properties = List::EMPTY;
    device.receive(Packet::SubAck(SubAck { packet_id, properties, reasons: List::from(&reasons) }));
    assert_eq!(device.events(), [Event::Subscribed { token, reasons: reasons.to_vec() }]);

    let token = device.client.unsubscribe(&["x"]).unwrap();
    let [Packet::Unsubscribe(unsubscribe)] = device.sent()[..] else { panic!("one UNSUBSCRIBE") };
    let packet_id = unsubscribe.packet_id;
    let reasons = [ReasonCode::Success];
    device.receive(Packet::UnsubAck(SubAck { packet_id, properties, reasons: List::from(&reasons) }));
    assert_eq!(device.events(), [Event::Unsubscribed { token, reasons: reasons.to_vec() }]);
}

#[test]
fn an_unsuback_of_311_has_no_reasons() {
    let mut device = Device::online(options(Version::V311), &[]);
    let token = device.client.unsubscribe(&["x"]).unwrap();
    let packet_id = id(1);
    device.receive(Packet::UnsubAck(SubAck { packet_id, properties: List::EMPTY, reasons: List::EMPTY }));
    assert_eq!(device.events(), [Event::Unsubscribed { token, reasons: Vec::new() }]);
}

#[test]
fn an_answer_to_nothing_or_of_another_length_is_a_violation() {
    let reasons = [ReasonCode::Success, ReasonCode::Success];
    for packet_id in [1, 2] {
        let mut device = Device::online(options(Version::V5), &[]);
        device.client.subscribe(&[Subscription::new("a", QoS::AtMostOnce)], None).unwrap();
        let (packet_id, properties) = (id(packet_id), List::EMPTY);
        device.receive(Packet::SubAck(SubAck { packet_id, properties, reasons: List::from(&reasons) }));
        assert!(matches!(device.events()[..], [Event::Disconnected(Cause::Violation(_))]));
    }
}

/// It asks for answers without end and reads none of them.
#[test]
fn a_server_that_takes_no_answers_is_given_up() {
    for version in BOTH {
        let mut device = Device::online(options(version), &[]);
        let mut longest = 0;
        for _ in 0..100_000 {
            device.receive(Packet::PubRel(ack(1)));
            longest = longest.max(device.client.output().len());
        }
        assert!(longest < 70_000, "{longest} bytes waited");
        let events = device.events();
        assert!(
            matches!(&events[..], [Event::Disconnected(Cause::Violation(why))] if why.reason == ReasonCode::QuotaExceeded),
            "{events:?}"
        );
    }
}

#[test]
fn a_server_that_is_slow_to_take_what_is_ours_is_not() {
    for version in BOTH {
        let mut device = Device::online(options(version), &[]);
        let large = Publication::new("t", vec![0; 200_000], QoS::AtMostOnce);
        device.client.publish(large.clone()).unwrap();
        device.client.publish(large).unwrap();
        let filter = "x".repeat(60_000);
        for _ in 0..3 {
            device.client.unsubscribe(&[&filter]).unwrap();
        }
        for _ in 0..1_000 {
            device.receive(Packet::PubRel(ack(1)));
        }
        for _ in 0..100 {
            device.client.output().clear();
            for _ in 0..1_000 {
                device.receive(Packet::PubRel(ack(1)));
            }
        }
        assert!(device.client.is_connected(), "{:?}", device.events());
    }
}

#[test]
fn bad_or_too_many_requests_are_refused_and_write_nothing() {
    let plain = [Subscription::new("a", QoS::AtMostOnce)];
    let mut offline = Device::new(options(Version::V5));
    assert_eq!(offline.client.subscribe(&plain, None), Err(RequestError::NotConnected));

    let mut device = Device::online(options(Version::V5), &[Property::MaximumPacketSize(40)]);
    let no_local = Subscription { no_local: true, ..Subscription::new("$share/g/a", QoS::AtMostOnce) };
    for bad in [&[][..], &[Subscription::new("a#", QoS::AtMostOnce)], &[no_local]] {
        assert!(matches!(device.client.subscribe(bad, None), Err(RequestError::Forbidden(_))));
    }
    assert!(matches!(device.client.subscribe(&plain, Some(0)), Err(RequestError::Forbidden(_))));
    assert_eq!(device.client.unsubscribe(&[&"x".repeat(40)]), Err(RequestError::TooLong));
    assert_eq!(device.sent(), []);
    for _ in 0..16 {
        device.client.subscribe(&plain, None).unwrap();
    }
    assert_eq!(device.client.subscribe(&plain, None), Err(RequestError::Full));
    device.drop_link();
    device.connect(true, &[]);
    assert!(device.client.subscribe(&plain, None).is_ok(), "requests end with their connection");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if std::env::var_os("IOT_LONG").is_some() { 20 * 300 } else { 300 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_a_server_sends_never_panics(
        v5 in any::<bool>(),
        bytes in prop::collection::vec(any::<u8>(), 0..60),
        first in prop::sample::select(vec![0x30_u8, 0x32, 0x34, 0x40, 0x50, 0x62, 0x70, 0x90, 0xb0, 0xd0, 0xe0]),
    ) {
        let version = if v5 { Version::V5 } else { Version::V311 };
        let mut device = Device::online(options(version), &[]);
        for payload in ["1", "2", "3"] {
            device.publish(payload, QoS::ExactlyOnce);
        }
        let length = u8::try_from(bytes.len()).unwrap();
        let mut input = BytesMut::from(&[&[first, length], &bytes[..]].concat()[..]);
        device.client.handle_input(device.now, &mut input);
        prop_assert!(input.is_empty());
        device.sent();
    }
}
