//! Two strangers' codecs beside ours: what is valid reads the same in all of them, and where one takes what another refuses,
//! [`Difference`] says why.

mod difference;
mod proto;
mod protocol_core;

use std::collections::BTreeMap;

use bytes::BytesMut;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use self::difference::{Case, Difference};
use self::proto::MqttProto;
use self::protocol_core::ProtocolCore;
use super::generator::{any_packet, leak};
use super::malformed;
use crate::mqtt::codec::{decode, encode};
use crate::mqtt::packet::*;
use crate::mqtt::property::{Properties, Property};
use crate::mqtt::reason::ReasonCode;

/// A codec that nobody of us wrote. Its packets are compared as ours.
trait Oracle {
    const NAME: &'static str;

    /// Reads one packet that is exactly `frame`.
    fn decode(&self, frame: &[u8], version: Version) -> Result<Packet<'static>, Refusal>;

    /// Writes a packet; an error says why it does not.
    fn encode(&self, packet: &Packet<'static>, version: Version) -> Result<Vec<u8>, String>;
}

/// Why an oracle gave no packet.
#[derive(Debug, Clone, PartialEq)]
enum Refusal {
    /// It did not take the bytes.
    Refused(String),
    /// It took a packet identifier of 0, for which we have no type.
    PacketIdZero,
    /// It took a CONNECT of MQTT 3.1, which we do not speak.
    OldProtocol,
}

/// Valid packets of the default run; with `IOT_LONG` there are 20 times as many.
const PACKETS: usize = 500;
/// How often each is damaged.
const DAMAGES: usize = 12;

#[test]
fn we_and_mqtt_proto_read_and_write_the_same_but_for_known_reasons() {
    compare(&MqttProto);
}

#[test]
fn we_and_mqtt_protocol_core_read_and_write_the_same_but_for_known_reasons() {
    compare(&ProtocolCore);
}

fn compare<O: Oracle>(oracle: &O) {
    let (read, written, damaged) = (reads_ours(oracle), writes_for_us(oracle), reads_damaged(oracle));
    read.assert_all_kinds("of ours");
    written.assert_all_kinds("of theirs");
    damaged.assert_explained();
    assert!(damaged.agreed() > 0 && damaged.refused_by_both > 0);
    println!("count: {} and damaged packets: {}", O::NAME, damaged.summary());
    assert_all_differences(O::NAME, [&read, &written, &damaged]);
}

/// What we write, they read as it was.
fn reads_ours<O: Oracle>(oracle: &O) -> Counts {
    let mut counts = Counts::new(O::NAME);
    for (version, sender, packet) in packets(0) {
        let frame = written(&packet, version);
        counts.judge(&Case { frame, version, sender, ours: Ok(packet), theirs: oracle.decode(frame, version) });
    }
    counts
}

/// What they write, we read as it was.
fn writes_for_us<O: Oracle>(oracle: &O) -> Counts {
    let mut counts = Counts::new(O::NAME);
    for (version, sender, packet) in packets(1) {
        counts.judge(&match oracle.encode(&packet, version) {
            Ok(frame) => {
                let frame = leak(frame);
                Case { frame, version, sender, ours: decode(frame, version, sender), theirs: Ok(packet) }
            }
            Err(why) => Case { frame: &[], version, sender, ours: Ok(packet), theirs: Err(Refusal::Refused(why)) },
        });
    }
    counts
}

/// What is malformed, or damaged by chance, is refused by both or taken as the same by both.
fn reads_damaged<O: Oracle>(oracle: &O) -> Counts {
    let mut counts = Counts::new(O::NAME);
    let mut judge = |frame: &'static [u8], version, sender| {
        let ours = decode(frame, version, sender);
        counts.judge(&Case { frame, version, sender, ours, theirs: oracle.decode(frame, version) });
    };
    for (frame, version, sender) in malformed::all().chain(near_misses()) {
        judge(leak(frame), version, sender);
    }
    let (damages, mut random) = (vec(damage(), 1..3), Random::new(2));
    for (version, sender, packet) in packets(3) {
        let frame = written(&packet, version);
        for _ in 0..DAMAGES {
            judge(leak(damaged(frame, &random.draw(&damages))), version, sender);
        }
    }
    counts
}

/// What only one of the oracles takes, beside the rows of [`malformed`].
fn near_misses() -> impl Iterator<Item = (Vec<u8>, Version, Sender)> {
    const V5_SERVER: [&[u8]; 2] = [b"\xf0\x01\0", b"\xf0\x02\0\0"];
    V5_SERVER.into_iter().map(|frame| (frame.to_vec(), Version::V5, Sender::Server))
}

/// How many were compared, by what came out.
struct Counts {
    oracle: &'static str,
    /// Both took it and read the same, by version and packet type.
    agreed: BTreeMap<(String, String), usize>,
    refused_by_both: usize,
    differences: BTreeMap<Difference, usize>,
    /// An example of each way to differ for which there is no reason.
    unexplained: BTreeMap<String, String>,
}

impl Counts {
    fn new(oracle: &'static str) -> Self {
        let (agreed, differences, unexplained) = Default::default();
        Self { oracle, agreed, refused_by_both: 0, differences, unexplained }
    }

    fn judge(&mut self, case: &Case<'_>) {
        match (&case.ours, &case.theirs) {
            (Ok(ours), Ok(theirs)) if normal(ours) == normal(theirs) => {
                let kind = (format!("{:?}", case.version), format!("{:?}", ours.kind()));
                *self.agreed.entry(kind).or_default() += 1;
            }
            (Err(_), Err(Refusal::Refused(_))) => self.refused_by_both += 1,
            _ => match Difference::of(case, self.oracle) {
                Some(difference) => *self.differences.entry(difference).or_default() += 1,
                None => {
                    let what =
                        (case.ours.as_ref().err().map(|error| error.statement), case.theirs.as_ref().err().cloned());
                    self.unexplained.entry(format!("{what:?}")).or_insert_with(|| format!("{case:02x?}"));
                }
            },
        }
    }

    fn agreed(&self) -> usize {
        self.agreed.values().sum()
    }

    fn summary(&self) -> String {
        let differ: usize = self.differences.values().sum();
        let (agreed, refused, ways) = (self.agreed(), self.refused_by_both, self.differences.len());
        format!("{agreed} read the same, {refused} refused by both, {differ} explained in {ways} ways")
    }

    #[track_caller]
    fn assert_explained(&self) {
        assert!(self.unexplained.is_empty(), "{} and we differ without a reason: {:#?}", self.oracle, self.unexplained);
    }

    /// Packets of all types were read the same, and few differently.
    #[track_caller]
    fn assert_all_kinds(&self, whose: &str) {
        let oracle = self.oracle;
        self.assert_explained();
        for (version, kinds) in [("V311", 14), ("V5", 15)] {
            let seen = self.agreed.keys().filter(|(of, _)| of == version).count();
            assert_eq!(seen, kinds, "{oracle} compares all packet types of {version}: {:?}", self.agreed);
        }
        let differ: usize = self.differences.values().sum();
        assert!(self.refused_by_both == 0 && self.agreed() > 9 * differ, "{oracle}: {:?}", self.differences);
        println!("count: {oracle} and valid packets {whose}: {}", self.summary());
    }
}

/// Each reason that is known for this oracle was met, and no other: the table has no row that explains nothing.
#[track_caller]
fn assert_all_differences(oracle: &str, phases: [&Counts; 3]) {
    let mut met: Vec<_> = phases.iter().flat_map(|counts| counts.differences.keys().copied()).collect();
    met.sort_unstable();
    met.dedup();
    let known: Vec<_> = Difference::ALL.iter().copied().filter(|difference| difference.is_of(oracle)).collect();
    assert_eq!(met, known, "{oracle}");
}

/// The same packet with its properties ordered by their identifiers, which the order does not matter to.
fn normal(packet: &Packet<'static>) -> Packet<'static> {
    let mut packet = *packet;
    let sorted = |properties: &mut Properties<'static>| {
        let mut all: Vec<Property<'static>> = properties.iter().collect();
        all.sort_by_key(Property::id);
        *properties = Properties::from(leak(all));
    };
    match &mut packet {
        Packet::Connect(connect) => {
            sorted(&mut connect.properties);
            connect.will.iter_mut().for_each(|will| sorted(&mut will.properties));
        }
        Packet::ConnAck(ack) => sorted(&mut ack.properties),
        Packet::Publish(publish) => sorted(&mut publish.properties),
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            sorted(&mut ack.properties);
        }
        Packet::Subscribe(subscribe) => sorted(&mut subscribe.properties),
        Packet::SubAck(ack) | Packet::UnsubAck(ack) => sorted(&mut ack.properties),
        Packet::Unsubscribe(unsubscribe) => sorted(&mut unsubscribe.properties),
        Packet::PingReq | Packet::PingResp => {}
        Packet::Disconnect(disconnect) => sorted(&mut disconnect.properties),
        Packet::Auth(auth) => sorted(&mut auth.properties),
    }
    packet
}

fn written(packet: &Packet<'_>, version: Version) -> &'static [u8] {
    let mut out = BytesMut::new();
    encode(packet, version, &mut out).unwrap();
    leak(out.to_vec())
}

// === Damage ===

/// What happens to the bytes behind the fixed header, but for the last two.
#[derive(Debug, Clone)]
enum Damage {
    Set(prop::sample::Index, u8),
    Insert(prop::sample::Index, u8),
    Remove(prop::sample::Index),
    Repeat(prop::sample::Index, usize),
    Append(u8),
    Cut(prop::sample::Index),
    First(u8),
    LongLength,
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = || any::<prop::sample::Index>();
    let telling =
        prop::sample::select(&[0, 0, 1, 2, 3, 4, 0x7f, 0x80, 0xff, b'#', b'+', b'/', b'$', 0x11, 0x1f, 0x26][..]);
    let value = prop_oneof![2 => telling, 1 => any::<u8>()].boxed();
    prop_oneof![
        6 => (at(), value.clone()).prop_map(|(at, value)| Damage::Set(at, value)),
        2 => (at(), value.clone()).prop_map(|(at, value)| Damage::Insert(at, value)),
        2 => at().prop_map(Damage::Remove),
        1 => (at(), 1_usize..8).prop_map(|(at, count)| Damage::Repeat(at, count)),
        1 => value.clone().prop_map(Damage::Append),
        1 => at().prop_map(Damage::Cut),
        1 => value.prop_map(Damage::First),
        1 => Just(Damage::LongLength),
    ]
}

fn damaged(frame: &[u8], damages: &[Damage]) -> Vec<u8> {
    let header = 2 + frame[1..].iter().position(|byte| byte & 0x80 == 0).unwrap();
    let (mut first, mut body, mut is_long) = (frame[0], frame[header..].to_vec(), false);
    // Where the fields are, not somewhere in a long payload.
    let place = |at: &prop::sample::Index, body: &[u8]| at.index(body.len().clamp(1, 60));
    for damage in damages {
        match damage {
            Damage::Set(at, value) if !body.is_empty() => {
                let at = place(at, &body);
                body[at] = *value;
            }
            Damage::Insert(at, value) => body.insert(place(at, &body).min(body.len()), *value),
            Damage::Remove(at) if !body.is_empty() => {
                body.remove(place(at, &body));
            }
            Damage::Repeat(at, count) if !body.is_empty() => {
                let at = place(at, &body);
                let piece = body[at..body.len().min(at + count)].to_vec();
                body.splice(at..at, piece);
            }
            Damage::Append(value) => body.push(*value),
            Damage::Cut(at) => body.truncate(place(at, &body)),
            Damage::First(value) => first ^= value,
            Damage::LongLength => is_long = true,
            Damage::Set(..) | Damage::Remove(_) | Damage::Repeat(..) => {}
        }
    }
    let mut out = vec![first];
    let mut length = body.len();
    while length > 0x7f || is_long {
        out.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        is_long &= length > 0x7f;
        length >>= 7;
    }
    out.push(u8::try_from(length).unwrap());
    out.extend(body);
    out
}

// === Chance ===

/// The same values in every run.
struct Random(TestRunner);

impl Random {
    fn new(seed: u8) -> Self {
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
        Self(TestRunner::new_with_rng(Config::default(), rng))
    }

    fn draw<S: Strategy>(&mut self, strategy: &S) -> S::Value {
        strategy.new_tree(&mut self.0).unwrap().current()
    }
}

/// Valid packets: some that chance seldom makes, then those of chance.
fn packets(seed: u8) -> impl Iterator<Item = (Version, Sender, Packet<'static>)> {
    let count = if std::env::var_os("IOT_LONG").is_some() { 20 * PACKETS } else { PACKETS };
    let (strategy, mut random) = (any_packet(), Random::new(seed));
    rare().into_iter().chain((0..count).map(move |_| random.draw(&strategy)))
}

fn rare() -> Vec<(Version, Sender, Packet<'static>)> {
    use Property::{PayloadFormatIndicator, SubscriptionIdentifier, UserProperty};
    let longest = &*String::leak("x".repeat(65_535));
    let publish = Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: "t",
        packet_id: None,
        properties: List::EMPTY,
        payload: b"",
    };
    let several = leak(vec![SubscriptionIdentifier(1), SubscriptionIdentifier(268_435_455)]);
    let (text, long) = (leak(vec![PayloadFormatIndicator(true)]), leak(vec![UserProperty(longest, longest)]));
    let publishes = [
        (Version::V311, Publish { topic: longest, payload: leak(vec![7; 2_097_152]), ..publish }),
        (Version::V5, Publish { properties: several.into(), ..publish }),
        (Version::V5, Publish { properties: text.into(), payload: b"\xff", ..publish }),
        (Version::V5, Publish { properties: long.into(), ..publish }),
    ];
    let connect = Connect {
        version: Version::V5,
        client_id: "",
        clean_start: false,
        keep_alive_s: u16::MAX,
        will: None,
        username: None,
        password: Some(longest.as_bytes()),
        properties: List::EMPTY,
    };
    let failed = SubAck {
        packet_id: PacketId::MAX,
        properties: List::EMPTY,
        reasons: List::from(&[ReasonCode::UnspecifiedError]),
    };
    let disconnect = Disconnect { reason: ReasonCode::BadAuthenticationMethod, properties: List::EMPTY };
    let mut all: Vec<_> = publishes.map(|(version, p)| (version, Sender::Server, Packet::Publish(p))).to_vec();
    all.push((Version::V5, Sender::Client, Packet::Connect(connect)));
    all.push((Version::V311, Sender::Server, Packet::SubAck(failed)));
    all.push((Version::V5, Sender::Server, Packet::Disconnect(disconnect)));
    all
}
