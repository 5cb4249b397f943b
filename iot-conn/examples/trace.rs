//! Plays a fixed trace of packets against the server's engine, `count` times: for instruction counts under valgrind.
//!
//! `cargo run --release -p iot-conn --example trace NAME COUNT`; `tests/instructions` does it for all of them.
#![allow(clippy::print_stdout, reason = "it is a program for the terminal")]

use std::{hint::black_box, num::NonZeroU16, process::ExitCode, sync::Arc};

use bytes::{Bytes, BytesMut};
use iot_conn::{
    mqtt::{
        Ack, Connect, Packet, Publish, QoS, ReasonCode, Version,
        codec::encode,
        server::{Accepted, Connection, ConnectionLimits, Delivered, Delivery, Event, PacketId},
    },
    router::{Route, Router, SubscriberId, Subscription},
};
use iot_core::time::Monotonic;

const TOPIC: &str = "d/lamp-000000000001/up/custom/reading";
const PAYLOAD: &[u8] = &[b'x'; 64];
/// Packets that one read brings.
const BATCH: u64 = 50;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (name, count) = (arguments.next(), arguments.next().and_then(|text| text.parse::<u64>().ok()));
    let (Some(name), Some(count)) = (name, count) else {
        println!("usage: trace NAME COUNT, with one of {}", NAMES.join(", "));
        return ExitCode::from(2);
    };
    match name.as_str() {
        "in-0" => Trace::new().inbound(QoS::AtMostOnce, count),
        "in-1" => Trace::new().inbound(QoS::AtLeastOnce, count),
        "in-2" => Trace::new().inbound(QoS::ExactlyOnce, count),
        "out-0" => Trace::new().outbound(QoS::AtMostOnce, count),
        "out-1" => Trace::new().outbound(QoS::AtLeastOnce, count),
        "out-2" => Trace::new().outbound(QoS::ExactlyOnce, count),
        "connect" => (0..count).for_each(|_| drop(black_box(Trace::new()))),
        "route" => route(count),
        "route-again" => route_again(count),
        _ => {
            println!("no trace {name}: there are {}", NAMES.join(", "));
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

const NAMES: [&str; 9] = ["in-0", "in-1", "in-2", "out-0", "out-1", "out-2", "connect", "route", "route-again"];

/// A connection that has been let in.
struct Trace {
    connection: Connection,
    input: BytesMut,
    now: Monotonic,
}

impl Trace {
    fn new() -> Self {
        let now = Monotonic::default();
        let limits = Arc::new(ConnectionLimits { receive_maximum: 1_000, inflight_max: 1_000, ..Default::default() });
        let mut connection = Connection::new(now, limits);
        let connect = Connect {
            version: Version::V5,
            client_id: "lamp-000000000001",
            clean_start: true,
            keep_alive_s: 60,
            will: None,
            username: None,
            password: None,
            properties: Default::default(),
        };
        let mut input = BytesMut::new();
        encode(&Packet::Connect(connect), Version::V5, &mut input).expect("the packet can be written");
        connection.handle_input(now, &mut input);
        let Some(Event::Connect(request)) = connection.poll_event() else { unreachable!("a CONNECT was sent") };
        black_box(request);
        connection.accept(now, Accepted::default());
        connection.output().clear();
        Self { connection, input, now }
    }

    fn give(&mut self, packet: &Packet<'_>) {
        encode(packet, Version::V5, &mut self.input).expect("the packet can be written");
    }

    fn take(&mut self) {
        self.connection.handle_input(self.now, &mut self.input);
    }

    /// Messages from the client, a batch to a read, each answered at once.
    fn inbound(mut self, qos: QoS, count: u64) {
        for _ in 0..count.div_ceil(BATCH) {
            for number in 1..=BATCH {
                let packet_id = (qos != QoS::AtMostOnce).then(|| id(number)).flatten();
                self.give(&Packet::Publish(Publish { qos, packet_id, ..published() }));
            }
            self.take();
            self.answer();
            if qos == QoS::ExactlyOnce {
                (1..=BATCH).filter_map(id).for_each(|id| self.give(&Packet::PubRel(Ack::new(id, ReasonCode::Success))));
                self.take();
                self.answer();
            }
            black_box(self.connection.output().split());
        }
    }

    fn answer(&mut self) {
        while let Some(event) = self.connection.poll_event() {
            match event {
                Event::Publish(request) => {
                    if let Some(ticket) = request.ticket {
                        self.connection.published(ticket, ReasonCode::Success);
                    }
                    black_box(request);
                }
                Event::Release { ticket, .. } => self.connection.released(ticket),
                other => unreachable!("{other:?}"),
            }
        }
    }

    /// Messages to the client, which acknowledges them a batch at a time.
    fn outbound(mut self, qos: QoS, count: u64) {
        let payload = Bytes::from_static(PAYLOAD);
        for round in 0..count.div_ceil(BATCH) {
            for number in 0..BATCH {
                let delivery = Delivery {
                    topic: TOPIC,
                    payload: &payload,
                    qos,
                    retain: false,
                    dup: false,
                    packet_id: PacketId::Assign,
                    tag: round * BATCH + number,
                    identifiers: &[],
                    properties: None,
                    expiry_s: None,
                };
                assert!(matches!(self.connection.deliver(self.now, &delivery), Delivered::Written));
            }
            let ids = sent(&self.connection.output().split().freeze());
            match qos {
                QoS::AtMostOnce => {}
                QoS::AtLeastOnce => self.acknowledge(&ids, Packet::PubAck),
                QoS::ExactlyOnce => {
                    self.acknowledge(&ids, Packet::PubRec);
                    black_box(self.connection.output().split());
                    self.acknowledge(&ids, Packet::PubComp);
                }
            }
        }
    }

    fn acknowledge(&mut self, ids: &[NonZeroU16], packet: fn(Ack<'static>) -> Packet<'static>) {
        ids.iter().for_each(|id| self.give(&packet(Ack::new(*id, ReasonCode::Success))));
        self.take();
        while let Some(event) = self.connection.poll_event() {
            match event {
                Event::Received { tag, packet_id } => self.connection.release(packet_id, tag),
                Event::Finished { tag, .. } => _ = black_box(tag),
                other => unreachable!("{other:?}"),
            }
        }
    }
}

/// The packet identifiers of what was written: all packets are of one length.
fn sent(output: &Bytes) -> Vec<NonZeroU16> {
    let length = output.len() / usize::try_from(BATCH).unwrap_or(usize::MAX);
    // After the fixed header of two bytes and the topic with its length.
    let at = 2 + 2 + TOPIC.len();
    let packets = output.chunks_exact(length.max(1));
    packets.filter_map(|packet| NonZeroU16::new(u16::from_be_bytes(*packet.get(at..)?.first_chunk()?))).collect()
}

fn published() -> Publish<'static> {
    Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: TOPIC,
        packet_id: None,
        properties: Default::default(),
        payload: PAYLOAD,
    }
}

fn id(number: u64) -> Option<NonZeroU16> {
    u16::try_from(number).ok().and_then(NonZeroU16::new)
}

/// A publisher that says much on one topic.
fn route_again(count: u64) {
    let router: Router<Arc<u64>> = Router::default();
    let _new = router.subscribe("acme", "d/+/up/#", SubscriberId(1), &Arc::new(1), Subscription::default());
    let mut route = Route::default();
    for _ in 0..count {
        black_box(router.route("acme", TOPIC, None, &|_| true, &mut route));
    }
}

/// Matches among a hundred thousand subscriptions, one of them for each message.
fn route(count: u64) {
    const SUBSCRIPTIONS: u64 = 100_000;
    let router: Router<Arc<u64>> = Router::default();
    for number in 0..SUBSCRIPTIONS {
        let filter = format!("d/lamp-{number:012}/#");
        let handle = Arc::new(number);
        let _new = router.subscribe("acme", &filter, SubscriberId(number), &handle, Subscription::default());
    }
    let mut out = Vec::new();
    for number in 0..count {
        let device = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) % SUBSCRIPTIONS;
        let topic = format!("d/lamp-{device:012}/up/custom/reading");
        out.clear();
        router.matches("acme", &topic, None, &|_| true, &mut out);
        black_box(&out);
    }
}
