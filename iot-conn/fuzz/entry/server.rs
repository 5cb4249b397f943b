//! The server's engine between any client and any caller.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use iot_conn::mqtt::codec::encode;
use iot_conn::mqtt::server::{
    Accepted, Cause, Connection, ConnectionLimits, Delivered, Delivery, Event, Farewell, PacketId as Id, Ticket,
};
use iot_conn::mqtt::{
    Ack, Connect, Disconnect, List, Packet, Properties, Property, Publish, QoS, ReasonCode, Sender, Subscribe,
    Subscription, Unsubscribe, Version, Will,
};
use iot_core::time::Monotonic;

use super::input::Input;
use super::wire::Wire;

const PAYLOAD_BYTES_MAX: usize = 40;

fn limits() -> ConnectionLimits {
    ConnectionLimits {
        packet_bytes_max: 128,
        receive_maximum: 3,
        unreleased_max: 4,
        topic_alias_maximum: 2,
        inflight_max: 3,
        session_expiry_s_max: 100,
        keep_alive_s_max: Some(50),
        events_max: 4,
        output_bytes_max: 64,
        ..ConnectionLimits::default()
    }
}

/// Drives two engines with the same steps: one gets what the client sends as it comes, the other in chunks. Both do the same,
/// within their bounds.
///
/// The first byte chooses version, CONNECT and chunks; each step is a byte and what it needs.
pub(crate) fn server(data: &[u8]) {
    let mut input = Input::new(data);
    let first = input.u8();
    let version = if first & 1 == 0 { Version::V311 } else { Version::V5 };
    let chunk = usize::from(first >> 2 & 0x0f) + 1;
    let (mut whole, mut parts) = (Caller::new(version, usize::MAX), Caller::new(version, chunk));
    if first & 2 != 0 {
        let connect = packet(&connect(version, &mut input), version);
        let accepted = Accepted { received: vec![5], ..Accepted::default() };
        for caller in [&mut whole, &mut parts] {
            caller.receive(&connect);
            caller.drain();
            caller.connection.accept(caller.now, accepted.clone());
        }
    }
    while !input.is_empty() {
        let step = Step::read(version, &mut input);
        whole.take(&step);
        parts.take(&step);
        parts.assert_same(&mut whole);
    }
    for caller in [&mut whole, &mut parts] {
        caller.take(&Step::Disconnect(ReasonCode::ServerShuttingDown, None));
        caller.take(&Step::Events);
        caller.take(&Step::Write(usize::MAX));
        caller.wire.assert_complete();
        assert!(caller.closed.is_some(), "the end comes");
    }
    parts.assert_same(&mut whole);
}

enum Step {
    Bytes(Vec<u8>),
    Accept(Accepted),
    Refuse(ReasonCode),
    Answer(usize, Vec<ReasonCode>),
    Deliver { qos: QoS, dup: bool, packet_id: Id, payload: Bytes, identifiers: Vec<u32> },
    Release(u16),
    Write(usize),
    Events,
    Pass(Duration),
    Disconnect(ReasonCode, Option<Farewell>),
    Rest,
}

impl Step {
    fn read(version: Version, input: &mut Input<'_>) -> Self {
        let kind = input.u8();
        // Seldom, as most of such bytes end the connection.
        if kind < 3 {
            return Self::Bytes(input.bytes().to_vec());
        }
        match kind % 16 {
            0..=5 => Self::Bytes(packet(&client_packet(input), version)),
            6 => Self::Accept(Accepted {
                session_present: input.flag(),
                session_expiry_s: input.u8().into(),
                assigned_client_id: input.flag().then(|| "assigned".to_owned()),
                server_keep_alive_s: input.flag().then_some(30),
                received: input.bytes().iter().map(|id| u16::from(*id)).collect(),
                receive_maximum: input.flag().then(|| input.u8().into()),
            }),
            7 => Self::Refuse(input.reason()),
            8 | 9 => Self::Answer(input.u8().into(), vec![input.reason(); usize::from(input.u8() % 4)]),
            10 => Self::Deliver {
                qos: input.qos(),
                dup: input.flag(),
                packet_id: if input.flag() { Id::Use(input.packet_id()) } else { Id::Assign },
                payload: Bytes::from(vec![7; usize::from(input.u8()) % PAYLOAD_BYTES_MAX]),
                identifiers: vec![1; usize::from(input.u8() % 3)],
            },
            11 => Self::Release(u16::from(input.u8() % 7)),
            12 => Self::Write(input.u8().into()),
            13 => Self::Events,
            14 => Self::Pass(input.seconds()),
            _ => match input.u8() {
                0..=3 => Self::Disconnect(input.reason(), None),
                4..=7 => Self::Disconnect(
                    input.reason(),
                    Some(Farewell { retry_after: Some(input.seconds()), server_reference: Some("other".into()) }),
                ),
                _ => Self::Rest,
            },
        }
    }
}

fn packet(packet: &Packet<'_>, version: Version) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode(packet, version, &mut out).expect("it is valid");
    out.to_vec()
}

fn connect(version: Version, input: &mut Input<'_>) -> Packet<'static> {
    const SMALL: &[Property<'static>] = &[Property::ReceiveMaximum(2), Property::MaximumPacketSize(30)];
    let properties = if version == Version::V5 && input.flag() { SMALL } else { &[] };
    let will = Will { topic: "gone", payload: b"", qos: QoS::AtLeastOnce, retain: true, properties: List::EMPTY };
    Packet::Connect(Connect {
        version,
        client_id: "lamp",
        clean_start: true,
        keep_alive_s: input.u8().into(),
        will: input.flag().then_some(will),
        username: None,
        password: None,
        properties: Properties::from(properties),
    })
}

/// A packet that gets past the codec.
fn client_packet(input: &mut Input<'_>) -> Packet<'static> {
    const ALIAS: &[Property<'static>] = &[Property::TopicAlias(1)];
    const SUBSCRIPTIONS: &[Subscription<'static>] =
        &[Subscription::new("a/+", QoS::AtLeastOnce), Subscription::new("$share/g/b", QoS::AtMostOnce)];
    let kind = input.u8() % 14;
    let packet_id = input.packet_id();
    let ack = Ack::new(packet_id, ReasonCode::Success);
    match kind {
        0..=4 => {
            let qos = input.qos();
            let is_aliased = input.flag();
            Packet::Publish(Publish {
                dup: qos != QoS::AtMostOnce && input.flag(),
                qos,
                retain: false,
                topic: "up/telemetry",
                packet_id: (qos != QoS::AtMostOnce).then_some(packet_id),
                properties: if is_aliased { List::from(ALIAS) } else { List::EMPTY },
                payload: b"{}",
            })
        }
        5 => Packet::PubAck(ack),
        6 => Packet::PubRec(ack),
        7 | 8 => Packet::PubRel(ack),
        9 => Packet::PubComp(ack),
        10 => Packet::Subscribe(Subscribe {
            packet_id,
            properties: List::EMPTY,
            subscriptions: List::from(SUBSCRIPTIONS),
        }),
        11 => Packet::Unsubscribe(Unsubscribe { packet_id, properties: List::EMPTY, filters: List::from(&["a/+"]) }),
        12 if input.u8() < 8 => Packet::Disconnect(Disconnect { reason: ReasonCode::Success, properties: List::EMPTY }),
        _ => Packet::PingReq,
    }
}

/// A server that keeps what it has to answer, and holds the engine to what it says.
struct Caller {
    connection: Connection,
    limits: ConnectionLimits,
    version: Version,
    now: Monotonic,
    chunk: usize,
    input: BytesMut,
    wire: Wire,
    open: Vec<Ticket>,
    /// What was told since the last comparison.
    told: Vec<String>,
    was_asked: bool,
    closed: Option<Cause>,
    /// What the caller's own answers may have added to the output beyond its bound.
    allowance: usize,
}

impl Caller {
    fn new(version: Version, chunk: usize) -> Self {
        let now = Monotonic::from_duration(Duration::from_secs(1_000));
        Self {
            connection: Connection::new(now, limits()),
            limits: limits(),
            version,
            now,
            chunk,
            input: BytesMut::new(),
            wire: Wire::new(Sender::Server),
            open: Vec::new(),
            told: Vec::new(),
            was_asked: false,
            closed: None,
            allowance: 0,
        }
    }

    fn take(&mut self, step: &Step) {
        // An answer may set free those behind it: each is a small packet.
        let answers = 8 * 2 * usize::from(self.limits.receive_maximum);
        match step {
            Step::Bytes(bytes) => self.receive(bytes),
            Step::Accept(accepted) => {
                self.connection.accept(self.now, accepted.clone());
                self.allowance += 100;
            }
            Step::Refuse(reason) => {
                self.connection.refuse(*reason);
                self.allowance += 100;
            }
            Step::Answer(at, reasons) => {
                self.answer(*at, reasons);
                self.allowance += answers;
            }
            Step::Deliver { qos, dup, packet_id, payload, identifiers } => {
                self.deliver(*qos, *dup, *packet_id, payload, identifiers);
            }
            Step::Release(packet_id) => {
                self.connection.release(*packet_id, 2);
                self.allowance += 4;
            }
            Step::Write(count) => self.write(*count),
            Step::Events => self.drain(),
            Step::Pass(duration) => {
                self.now = self.now.plus(*duration);
                self.connection.handle_timeout(self.now);
            }
            Step::Disconnect(reason, farewell) => {
                self.connection.disconnect_with(*reason, &farewell.clone().unwrap_or_default());
                self.allowance += 100;
            }
            Step::Rest => self.connection.rest(),
        }
        // There is room again, perhaps.
        self.connection.handle_input(self.now, &mut self.input);
        self.check();
    }

    fn receive(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(self.chunk.min(bytes.len().max(1))) {
            self.input.extend_from_slice(part);
            self.connection.handle_input(self.now, &mut self.input);
            self.check();
        }
    }

    fn answer(&mut self, at: usize, reasons: &[ReasonCode]) {
        if self.open.is_empty() {
            return;
        }
        let ticket = self.open.remove(at % self.open.len());
        let reason = reasons.first().copied().unwrap_or(ReasonCode::Success);
        // Only one of them is meant; the others do nothing.
        self.connection.published(ticket, reason);
        self.connection.released(ticket);
        self.connection.subscribed(ticket, reasons);
        self.connection.unsubscribed(ticket, reasons);
    }

    fn deliver(&mut self, qos: QoS, dup: bool, packet_id: Id, payload: &Bytes, identifiers: &[u32]) {
        let window = self.connection.window();
        let delivered = self.connection.deliver(
            self.now,
            &Delivery {
                topic: "down/light",
                payload,
                qos,
                retain: false,
                dup,
                packet_id,
                tag: 1,
                identifiers,
                properties: None,
                expiry_s: Some(9),
            },
        );
        let taken = usize::from(delivered == Delivered::Written && qos != QoS::AtMostOnce);
        assert_eq!(self.connection.window() + taken, window, "a message takes one place of the window");
    }

    fn write(&mut self, count: usize) {
        let version = self.connection.version().unwrap_or(self.version);
        self.wire.carry(self.connection.output(), count, version);
        if !self.connection.has_output() {
            self.allowance = 0;
        }
    }

    fn drain(&mut self) {
        while let Some(event) = self.connection.poll_event() {
            assert!(self.closed.is_none(), "nothing comes after the end: {event:?}");
            self.told.push(format!("{event:?}"));
            match event {
                Event::Publish(publish) => self.open.extend(publish.ticket),
                Event::Release { ticket, .. } | Event::Subscribe { ticket, .. } | Event::Unsubscribe { ticket, .. } => {
                    self.open.push(ticket);
                }
                Event::Closed(cause) => {
                    self.closed = Some(cause);
                    self.open.clear();
                }
                Event::Connect(_) => self.was_asked = true,
                Event::Received { .. } | Event::Finished { .. } => {}
            }
        }
    }

    fn check(&mut self) {
        let Self { connection, limits, .. } = self;
        let output_max = limits.output_bytes_max + limits.packet_bytes_max + self.allowance;
        assert!(connection.output_len() <= output_max, "{} bytes wait", connection.output_len());
        assert!(connection.window() <= usize::from(limits.inflight_max));
        // For MQTT 5, what its send quota bounds and what it does not; one packet may go beyond.
        assert!(self.open.len() <= 2 * usize::from(limits.receive_maximum) + 1, "{} are unanswered", self.open.len());
        assert!(!connection.is_closed() || (self.input.is_empty() && connection.poll_timeout().is_none()));
        let is_held = connection.is_saturated() || connection.is_closed();
        assert!(is_held || self.input.len() < limits.packet_bytes_max, "a whole packet is left");
    }

    /// Chunks changed nothing.
    fn assert_same(&mut self, whole: &mut Self) {
        assert_eq!(std::mem::take(&mut self.told), std::mem::take(&mut whole.told));
        assert_eq!(self.connection.has_events(), whole.connection.has_events());
        assert_eq!(self.connection.is_closed(), whole.connection.is_closed());
        assert_eq!(self.connection.is_saturated(), whole.connection.is_saturated());
        assert_eq!(self.connection.window(), whole.connection.window());
        assert_eq!(self.connection.poll_timeout(), whole.connection.poll_timeout());
        assert_eq!(self.input, whole.input);
        // A first packet that is too large is refused as soon as its length is there; its version may not be, and then there is
        // no CONNACK.
        if self.was_asked || !self.connection.is_closed() {
            assert_eq!(self.connection.output(), whole.connection.output());
        }
    }
}
