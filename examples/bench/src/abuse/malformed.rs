//! Packets that no client sends: the same again and again, each on a connection of its own.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    bytes::{CLEAN, Hello, V5, V311, field, packet, properties, publish, publish_v311, subscribe, text},
    field::{End, Field, Verdict},
};

/// What is sent, and how that must end.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    /// After a CONNECT of this version, or first of all.
    after: Option<u8>,
    bytes: fn() -> Vec<u8>,
    end: End,
}

/// So often at most: ports are finite.
const TIMES_MAX: u64 = 2_000;

pub(super) async fn run(case: &Case, field: &Arc<Field>) -> Verdict {
    let (until, bytes, mut times) = (field.until(), (case.bytes)(), 0_u64);
    while times == 0 || (Instant::now() < until && times < TIMES_MAX) {
        let mut hostile = match case.after {
            Some(version) => field.online(version).await?,
            None => field.raw().await?,
        };
        hostile.send(&bytes).await?;
        hostile.ends(case.end).await?;
        times += 1;
    }
    Ok(format!("{}, {times} times", case.end))
}

/// MALFORMED PACKET, PROTOCOL ERROR and what else is told (MQTT 5 section 4.13).
const MALFORMED: End = End::Told(0x81);
const PROTOCOL: End = End::Told(0x82);
const TOPIC_NAME: End = End::Told(0x90);
const TOPIC_FILTER: End = End::Told(0x8f);
const ALIAS: End = End::Told(0x94);

macro_rules! cases {
    ($($name:ident $after:expr, $end:expr, $about:literal, $bytes:expr;)*) => {
        pub(super) const CASES: &[Case] =
            &[$(Case { name: stringify!($name), about: $about, after: $after, bytes: || $bytes, end: $end },)*];
    };
}

cases! {
    garbage None, End::Closed, "Bytes that are nothing", vec![0xff; 64];
    http_on_the_mqtt_port None, End::Closed, "A browser at the wrong door", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec();
    tls_on_the_mqtt_port None, End::Closed, "A TLS record at the plain door", vec![0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0];
    proxy_v2_without_balancer None, End::Closed, "A PROXY header where no balancer is", proxy_v2();
    proxy_v1_without_balancer None, End::Closed, "The same in text", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n".to_vec();
    publish_before_connect None, End::Closed, "A message from nobody", publish("a", 0, 0, &[], b"x");
    pingreq_before_connect None, End::Closed, "A ping from nobody", packet(0xC0, &[]);
    connect_of_another_protocol None, End::Closed, "CONNECT for MQTX", connect_named("MQTX", V5);
    connect_of_version_9 None, End::Refused(0x84), "CONNECT at a protocol level that is not there", connect_named("MQTT", 9);
    connect_reserved_flag None, End::Refused(0x81), "CONNECT with the reserved flag",
        Hello { flags: CLEAN | 1, ..Hello::new(V5, "x") }.packet();
    connect_reserved_flag_v311 None, End::Closed, "The same in 3.1.1, which has no code for it",
        Hello { flags: CLEAN | 1, ..Hello::new(V311, "x") }.packet();
    connect_will_qos_3 None, End::Refused(0x81), "A will with QoS 3",
        Hello { flags: CLEAN | 0x1c, rest: &[0, 0, 1, b'w', 0, 0], ..Hello::new(V5, "x") }.packet();
    connect_id_is_not_text None, End::Refused(0x81), "A client identifier that is not UTF-8", connect_with_id(&[0xc3, 0x28]);
    connect_id_is_a_surrogate None, End::Refused(0x81), "A client identifier with half a character", connect_with_id(&[0xed, 0xa0, 0x80]);
    connect_no_id_and_not_clean None, End::Refused(0x02), "3.1.1 without an identifier, for a session to be kept",
        Hello { flags: 0, ..Hello::new(V311, "") }.packet();
    connect_property_twice None, End::Refused(0x82), "Session expiry twice",
        Hello { properties: &[0x11, 0, 0, 0, 1, 0x11, 0, 0, 0, 1], ..Hello::new(V5, "x") }.packet();
    connect_receive_maximum_0 None, End::Refused(0x82), "A client that takes nothing",
        Hello { properties: &[0x21, 0, 0], ..Hello::new(V5, "x") }.packet();
    connect_unknown_property None, End::Refused(0x81), "A property that is not there",
        Hello { properties: &[0x7f, 0], ..Hello::new(V5, "x") }.packet();
    connect_unknown_authentication None, End::Refused(0x8c), "An authentication method that nobody has",
        Hello { properties: &[&[0x15][..], &text("SCRAM-SHA-1")].concat(), ..Hello::new(V5, "x") }.packet();
    connect_cut_short None, End::Refused(0x81), "CONNECT whose fields are longer than it is",
        packet(0x10, &[&text("MQTT")[..], &[V5, CLEAN, 0, 0, 0, 0xff, 0xff, b'x']].concat());
    connect_twice Some(V5), PROTOCOL, "A second CONNECT", Hello::new(V5, "again").packet();
    connect_twice_v311 Some(V311), End::Closed, "The same in 3.1.1", Hello::new(V311, "again").packet();
    publish_qos_3 Some(V5), MALFORMED, "QoS 3", publish("a", 6, 1, &[], b"x");
    publish_qos_3_v311 Some(V311), End::Closed, "The same in 3.1.1", publish_v311("a", 6, 1, b"x");
    publish_wildcard Some(V5), TOPIC_NAME, "A message to everybody", publish("a/+/#", 0, 0, &[], b"x");
    publish_nul Some(V5), MALFORMED, "NUL in a topic", publish("a\0b", 0, 0, &[], b"x");
    publish_no_topic Some(V5), PROTOCOL, "No topic, and no alias", publish("", 0, 0, &[], b"x");
    publish_packet_id_0 Some(V5), PROTOCOL, "QoS 1 without a packet identifier", publish("a", 2, 0, &[], b"x");
    publish_alias_0 Some(V5), ALIAS, "Topic alias 0", publish("a", 0, 0, &[0x23, 0, 0], b"x");
    publish_alias_too_high Some(V5), ALIAS, "A topic alias beyond what was granted", publish("a", 0, 0, &[0x23, 0xff, 0xff], b"x");
    publish_alias_unknown Some(V5), ALIAS, "A topic alias that was not set", publish("", 0, 0, &[0x23, 0, 3], b"x");
    publish_subscription_identifier Some(V5), PROTOCOL, "What only a server may say", publish("a", 0, 0, &[0x0b, 1], b"x");
    publish_response_topic_wildcard Some(V5), PROTOCOL, "An answer to everybody",
        publish("a", 0, 0, &[&[0x08][..], &text("a/#")].concat(), b"x");
    publish_properties_too_long Some(V5), MALFORMED, "Properties longer than their packet",
        packet(0x30, &[&text("a")[..], &[0xff, 0xff, 0x7f, 0x26]].concat());
    subscribe_to_nothing Some(V5), PROTOCOL, "SUBSCRIBE without a filter", subscribe(1, &[], []);
    subscribe_reserved_bits Some(V5), MALFORMED, "SUBSCRIBE with reserved option bits", subscribe(1, &[], [("a", 0xc0)]);
    subscribe_wrong_flags Some(V5), MALFORMED, "SUBSCRIBE with the flags of PUBLISH", packet(0x80, &[0, 1, 0, 0, 1, b'a', 0]);
    subscribe_shared_no_local Some(V5), PROTOCOL, "No Local on a shared subscription", subscribe(1, &[], [("$share/g/a", 4)]);
    subscribe_identifier_0 Some(V5), PROTOCOL, "Subscription identifier 0", subscribe(1, &[0x0b, 0], [("a", 0)]);
    subscribe_wildcard_in_level Some(V5), TOPIC_FILTER, "A wildcard that is a part of a level", subscribe(1, &[], [("a+/b", 0)]);
    unsubscribe_from_nothing Some(V5), PROTOCOL, "UNSUBSCRIBE without a filter", packet(0xA2, &[0, 1, 0]);
    connack_from_a_client Some(V5), PROTOCOL, "The server's own words: CONNACK", packet(0x20, &[0, 0, 0]);
    pingresp_from_a_client Some(V5), PROTOCOL, "The server's own words: PINGRESP", packet(0xD0, &[]);
    pingreq_with_a_body Some(V5), MALFORMED, "A ping with luggage", packet(0xC0, &[0; 9]);
    packet_type_0 Some(V5), MALFORMED, "The packet type that is forbidden", packet(0x00, &[0, 0]);
    length_of_five_bytes Some(V5), MALFORMED, "A remaining length without an end", vec![0x30, 0x80, 0x80, 0x80, 0x80, 0x01];
    length_not_shortest Some(V5), MALFORMED, "Zero, in two bytes", vec![0xC0, 0x80, 0x00];
    puback_unknown_reason Some(V5), MALFORMED, "A reason that is not there", packet(0x40, &[0, 1, 0x55]);
    pubrel_wrong_flags Some(V5), MALFORMED, "PUBREL with the flags of PUBACK", packet(0x60, &[0, 1]);
    auth_out_of_the_blue Some(V5), PROTOCOL, "AUTH where none was agreed on", packet(0xF0, &[]);
    disconnect_prolongs Some(V5), PROTOCOL, "DISCONNECT that wants a session kept that was not to be",
        packet(0xE0, &[&[0][..], &properties(&[0x11, 0, 0, 1, 0])].concat());
}

fn proxy_v2() -> Vec<u8> {
    [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 0, 2]].concat()
}

fn connect_named(name: &str, version: u8) -> Vec<u8> {
    packet(0x10, &[&text(name)[..], &[version, CLEAN, 0, 0, 0], &text("x")].concat())
}

fn connect_with_id(id: &[u8]) -> Vec<u8> {
    packet(0x10, &[&text("MQTT")[..], &[V5, CLEAN, 0, 0, 0], &field(id)].concat())
}
