//! Two ends over a link that breaks anywhere: QoS 2 arrives once, QoS 1 at least once, both in order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::BytesMut;
use proptest::prelude::*;

use super::*;
use crate::mqtt::client::Cause;

/// A server with one session that outlives its connections.
struct Server {
    version: Version,
    has_session: bool,
    is_connected: bool,
    /// QoS 2 from the client: delivered, not released.
    unreleased: BTreeSet<PacketId>,
    delivered: Vec<(QoS, String)>,
    /// QoS 2 to the client, in order: by identifier, whether it was received.
    outgoing: BTreeMap<PacketId, bool>,
    to_send: VecDeque<PacketId>,
    input: BytesMut,
    output: BytesMut,
}

impl Server {
    fn new(version: Version, messages: u16) -> Self {
        Self {
            version,
            has_session: false,
            is_connected: false,
            unreleased: BTreeSet::new(),
            delivered: Vec::new(),
            outgoing: BTreeMap::new(),
            to_send: (1..=messages).map(id).collect(),
            input: BytesMut::new(),
            output: BytesMut::new(),
        }
    }

    fn handle_input(&mut self) {
        while let Some(length) = frame_length(&self.input, 1 << 20).unwrap() {
            if length > self.input.len() {
                return;
            }
            let frame = self.input.split_to(length);
            match decode(&frame, self.version, Sender::Client).unwrap() {
                Packet::Connect(_) => self.resume(),
                Packet::Publish(publish) => self.handle_publish(publish),
                Packet::PubRel(release) => {
                    self.unreleased.remove(&release.packet_id);
                    self.send(&Packet::PubComp(Ack::new(release.packet_id, ReasonCode::Success)));
                }
                Packet::PubRec(received) => {
                    self.outgoing.insert(received.packet_id, true);
                    self.send(&Packet::PubRel(Ack::new(received.packet_id, ReasonCode::Success)));
                }
                Packet::PubComp(complete) => {
                    self.outgoing.remove(&complete.packet_id);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn resume(&mut self) {
        let session_present = std::mem::replace(&mut self.has_session, true);
        self.is_connected = true;
        let reason = ReasonCode::Success;
        self.send(&Packet::ConnAck(ConnAck { session_present, reason, properties: List::EMPTY }));
        for (packet_id, received) in self.outgoing.clone() {
            if received {
                self.send(&Packet::PubRel(Ack::new(packet_id, ReasonCode::Success)));
            } else {
                self.send_message(packet_id, true);
            }
        }
    }

    fn handle_publish(&mut self, publish: Publish<'_>) {
        let payload = String::from_utf8(publish.payload.to_vec()).unwrap();
        let packet_id = publish.packet_id.unwrap();
        if publish.qos == QoS::AtLeastOnce {
            self.delivered.push((publish.qos, payload));
            self.send(&Packet::PubAck(Ack::new(packet_id, ReasonCode::Success)));
            return;
        }
        if self.unreleased.insert(packet_id) {
            self.delivered.push((publish.qos, payload));
        }
        self.send(&Packet::PubRec(Ack::new(packet_id, ReasonCode::Success)));
    }

    fn send_next(&mut self) {
        if self.is_connected
            && let Some(packet_id) = self.to_send.pop_front()
        {
            self.outgoing.insert(packet_id, false);
            self.send_message(packet_id, false);
        }
    }

    fn send_message(&mut self, packet_id: PacketId, dup: bool) {
        let payload = packet_id.to_string();
        self.send(&message(&payload, QoS::ExactlyOnce, Some(packet_id.get()), dup));
    }

    fn send(&mut self, packet: &Packet<'_>) {
        encode(packet, self.version, &mut self.output).unwrap();
    }
}

/// Moves at most `count` bytes.
fn carry(from: &mut BytesMut, to: &mut BytesMut, count: usize) {
    let count = count.min(from.len());
    to.extend_from_slice(&from.split_to(count));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Up(usize),
    Down(usize),
    Publish(QoS),
    Send,
    Break,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_usize..40).prop_map(Step::Up),
        4 => (1_usize..40).prop_map(Step::Down),
        2 => prop::sample::select(vec![QoS::AtLeastOnce, QoS::ExactlyOnce]).prop_map(Step::Publish),
        1 => Just(Step::Send),
        1 => Just(Step::Break),
    ]
}

struct World {
    client: Client,
    server: Server,
    client_input: BytesMut,
    published: Vec<(QoS, String)>,
    arrived: Vec<String>,
    answered: BTreeSet<Token>,
}

impl World {
    fn new(version: Version, messages: u16) -> Self {
        let mut world = Self {
            client: Client::new(options(version)).unwrap(),
            server: Server::new(version, messages),
            client_input: BytesMut::new(),
            published: Vec::new(),
            arrived: Vec::new(),
            answered: BTreeSet::new(),
        };
        world.client.handle_connected(Monotonic::ZERO);
        world
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Up(count) => {
                carry(self.client.output(), &mut self.server.input, count);
                self.server.handle_input();
            }
            Step::Down(count) => {
                carry(&mut self.server.output, &mut self.client_input, count);
                self.client.handle_input(Monotonic::ZERO, &mut self.client_input);
            }
            Step::Publish(qos) => {
                let payload = self.published.len().to_string();
                self.client.publish(Publication::new("t", payload.clone(), qos)).unwrap();
                self.published.push((qos, payload));
            }
            Step::Send => self.server.send_next(),
            Step::Break => {
                self.client.handle_disconnected(Monotonic::ZERO);
                self.client_input.clear();
                self.server.input.clear();
                self.server.output.clear();
                self.server.is_connected = false;
                self.client.handle_connected(Monotonic::ZERO);
            }
        }
        self.handle_events();
    }

    fn handle_events(&mut self) {
        while let Some(event) = self.client.poll_event() {
            match event {
                Event::Connected(_) | Event::Disconnected(Cause::Transport) => {}
                Event::Published { token, reason: ReasonCode::Success } => assert!(self.answered.insert(token)),
                Event::Message(received) => self.arrived.push(String::from_utf8(received.payload.to_vec()).unwrap()),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Lets everything through until nothing moves.
    fn heal(&mut self) {
        self.take(Step::Break);
        for _ in 0..100 {
            for step in [Step::Up(usize::MAX), Step::Send, Step::Down(usize::MAX)] {
                self.take(step);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if std::env::var_os("IOT_LONG").is_some() { 20 * 300 } else { 300 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_doubled_or_out_of_order(
        v5 in any::<bool>(),
        messages in 0_u16..20,
        steps in prop::collection::vec(step(), 0..150),
    ) {
        let mut world = World::new(if v5 { Version::V5 } else { Version::V311 }, messages);
        for step in steps {
            world.take(step);
        }
        world.heal();

        let mut first_arrivals = world.server.delivered.clone();
        let mut seen = BTreeSet::new();
        first_arrivals.retain(|(_, payload)| seen.insert(payload.clone()));
        prop_assert_eq!(&first_arrivals, &world.published);
        let exactly_once = |all: &[(QoS, String)]| all.iter().filter(|(qos, _)| *qos == QoS::ExactlyOnce).count();
        prop_assert_eq!(exactly_once(&world.server.delivered), exactly_once(&world.published));
        prop_assert_eq!(world.answered.len(), world.published.len());
        prop_assert_eq!(world.client.unpublished(), 0);

        let expected: Vec<_> = (1..=messages).map(|number| number.to_string()).collect();
        prop_assert_eq!(&world.arrived, &expected);
        prop_assert!(world.server.outgoing.is_empty());
    }
}
