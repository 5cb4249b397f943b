//! The standards' statements about sessions, subscriptions and messages, against a node: packets over TCP in both versions. A
//! test that begins with a version and numbers is for the statement with that id.

mod delivery;
mod order;
mod quotas;
mod retained;
mod sessions;
mod shares;
mod subscriptions;
mod transports;
mod wills;

use std::collections::VecDeque;

use bytes::BytesMut;
use iot_core::message::QoS;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    client::{soon, until},
    cloud::Cloud,
};
use crate::mqtt::{
    Ack, ConnAck, Connect, Disconnect, List, Packet, PacketId, PacketKind, Properties, Property, Publish, ReasonCode,
    Sender, SubAck, Subscribe, Subscription, Unsubscribe, Version,
    codec::{decode, encode, frame_length},
};
use Version::{V5, V311};

const BOTH: [Version; 2] = [V311, V5];
const ALL: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

static HOUR: [Property<'static>; 1] = [Property::SessionExpiryInterval(3_600)];

/// A CONNECT of `who`, see [`super::cloud`], whose session ends with the connection.
fn brief(version: Version, who: &'static str, client_id: &'static str) -> Connect<'static> {
    Connect {
        version,
        client_id,
        clean_start: true,
        keep_alive_s: 0,
        will: None,
        username: Some("u"),
        password: Some(who.as_bytes()),
        properties: List::EMPTY,
    }
}

/// One that resumes its session and leaves it for an hour; in 3.1.1 for as long as the node keeps sessions.
fn lasting(version: Version, who: &'static str, client_id: &'static str) -> Connect<'static> {
    Connect { clean_start: false, properties: List::from(&HOUR), ..brief(version, who, client_id) }
}

fn message<'a>(topic: &'a str, payload: &'a str, qos: QoS) -> Publish<'a> {
    let (dup, retain, packet_id, properties) = (false, false, None, List::EMPTY);
    Publish { dup, qos, retain, topic, packet_id, properties, payload: payload.as_bytes() }
}

fn id(packet_id: u16) -> PacketId {
    PacketId::new(packet_id).unwrap()
}

fn text(publish: &Publish<'_>) -> String {
    String::from_utf8(publish.payload.to_vec()).unwrap()
}

/// A client of few wits: what it says is in the test. Packets that it gets leak, as those of a test are few.
struct Raw {
    stream: TcpStream,
    version: Version,
    input: BytesMut,
    kept: VecDeque<Packet<'static>>,
    last_id: u16,
}

impl Raw {
    async fn open(cloud: &Cloud, version: Version) -> Self {
        let stream = TcpStream::connect(cloud.address).await.unwrap();
        Self { stream, version, input: BytesMut::new(), kept: VecDeque::new(), last_id: 0 }
    }

    /// The CONNACK to this CONNECT.
    async fn try_connect(cloud: &Cloud, connect: Connect<'_>) -> (Self, ConnAck<'static>) {
        let mut raw = Self::open(cloud, connect.version).await;
        raw.send(&Packet::Connect(connect)).await;
        match raw.packet().await {
            Packet::ConnAck(ack) => (raw, ack),
            other => panic!("no CONNACK: {other:?}"),
        }
    }

    /// Connected; and whether there was a session.
    async fn connect(cloud: &Cloud, connect: Connect<'_>) -> (Self, bool) {
        let (raw, ack) = Self::try_connect(cloud, connect).await;
        assert_eq!(ack.reason, ReasonCode::Success);
        (raw, ack.session_present)
    }

    async fn send(&mut self, packet: &Packet<'_>) {
        let mut bytes = BytesMut::new();
        encode(packet, self.version, &mut bytes).unwrap();
        self.send_bytes(&bytes).await;
    }

    async fn send_bytes(&mut self, bytes: &[u8]) {
        // A server that has closed takes no more, and says why in what is read next.
        let _: std::io::Result<()> = soon("the server to take bytes", self.stream.write_all(bytes)).await;
    }

    /// The next packet; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Packet<'static>> {
        loop {
            if let Some(length) = frame_length(&self.input, usize::MAX).unwrap()
                && length <= self.input.len()
            {
                let frame: &'static [u8] = Vec::leak(self.input.split_to(length).to_vec());
                return Some(decode(frame, self.version, Sender::Server).unwrap());
            }
            let read = soon("bytes of the server", self.stream.read_buf(&mut self.input)).await;
            if read.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// The next packet, kept or new.
    async fn packet(&mut self) -> Packet<'static> {
        match self.kept.pop_front() {
            Some(packet) => packet,
            None => self.next().await.expect("the server has closed"),
        }
    }

    /// The next packet of a kind; others are kept.
    async fn answer(&mut self, kind: PacketKind) -> Packet<'static> {
        loop {
            let packet = self.next().await.expect("the server has closed");
            if packet.kind() == kind {
                return packet;
            }
            self.kept.push_back(packet);
        }
    }

    /// Why the server has ended the connection: what it said last, if it said anything, and then the end of the stream.
    async fn ended(&mut self) -> Option<ReasonCode> {
        let mut reason = None;
        while let Some(packet) = self.next().await {
            if let Packet::Disconnect(disconnect) = packet {
                reason = Some(disconnect.reason);
            }
        }
        reason
    }

    fn next_id(&mut self) -> PacketId {
        self.last_id += 1;
        id(self.last_id)
    }

    async fn subscribe(&mut self, subscriptions: &[Subscription<'_>], identifier: Option<u32>) -> Vec<ReasonCode> {
        let properties: Vec<_> = identifier.map(Property::SubscriptionIdentifier).into_iter().collect();
        let (packet_id, properties) = (self.next_id(), Properties::from(&properties[..]));
        self.send(&Packet::Subscribe(Subscribe { packet_id, properties, subscriptions: List::from(subscriptions) }))
            .await;
        match self.answer(PacketKind::SubAck).await {
            Packet::SubAck(SubAck { packet_id: answered, reasons, .. }) if answered == packet_id => {
                reasons.iter().collect()
            }
            other => panic!("{other:?}"),
        }
    }

    async fn listen(&mut self, filter: &str, qos: QoS) {
        let codes = self.subscribe(&[Subscription::new(filter, qos)], None).await;
        assert!(!codes[0].is_error(), "{filter}: {codes:?}");
    }

    async fn unsubscribe(&mut self, filters: &[&str]) -> Vec<ReasonCode> {
        let (packet_id, properties) = (self.next_id(), List::EMPTY);
        self.send(&Packet::Unsubscribe(Unsubscribe { packet_id, properties, filters: List::from(filters) })).await;
        match self.answer(PacketKind::UnsubAck).await {
            Packet::UnsubAck(ack) if ack.packet_id == packet_id => ack.reasons.iter().collect(),
            other => panic!("{other:?}"),
        }
    }

    /// Publishes and goes the way of its quality of service to the end.
    async fn publish(&mut self, publish: Publish<'_>) -> ReasonCode {
        if publish.qos == QoS::AtMostOnce {
            self.send(&Packet::Publish(publish)).await;
            return ReasonCode::Success;
        }
        let packet_id = self.next_id();
        self.send(&Packet::Publish(Publish { packet_id: Some(packet_id), ..publish })).await;
        let kind = if publish.qos == QoS::AtLeastOnce { PacketKind::PubAck } else { PacketKind::PubRec };
        let reason = match self.answer(kind).await {
            Packet::PubAck(ack) | Packet::PubRec(ack) if ack.packet_id == packet_id => ack.reason,
            other => panic!("{other:?}"),
        };
        if publish.qos == QoS::ExactlyOnce && !reason.is_error() {
            self.send(&Packet::PubRel(Ack::new(packet_id, ReasonCode::Success))).await;
            assert_eq!(
                self.answer(PacketKind::PubComp).await,
                Packet::PubComp(Ack::new(packet_id, ReasonCode::Success))
            );
        }
        reason
    }

    /// The next packet, which is a message; not acknowledged.
    async fn arrival(&mut self) -> Publish<'static> {
        match self.packet().await {
            Packet::Publish(publish) => publish,
            other => panic!("no message: {other:?}"),
        }
    }

    /// The next message, acknowledged to the end.
    async fn message(&mut self) -> Publish<'static> {
        let publish = self.arrival().await;
        let ack = publish.packet_id.map(|packet_id| Ack::new(packet_id, ReasonCode::Success));
        match (publish.qos, ack) {
            (QoS::AtLeastOnce, Some(ack)) => self.send(&Packet::PubAck(ack)).await,
            (QoS::ExactlyOnce, Some(ack)) => {
                self.send(&Packet::PubRec(ack)).await;
                assert_eq!(self.answer(PacketKind::PubRel).await, Packet::PubRel(ack));
                self.send(&Packet::PubComp(ack)).await;
            }
            _ => {}
        }
        publish
    }

    async fn texts(&mut self, count: usize) -> Vec<String> {
        let mut texts = Vec::new();
        for _ in 0..count {
            texts.push(text(&self.message().await));
        }
        texts
    }

    /// Every message until one that it publishes to itself on `own`, which it has to be subscribed to.
    async fn messages_until(&mut self, own: &str) -> Vec<Publish<'static>> {
        self.publish(message(own, "own", QoS::AtLeastOnce)).await;
        let mut messages = Vec::new();
        loop {
            let message = self.message().await;
            if message.topic == own {
                return messages;
            }
            messages.push(message);
        }
    }

    async fn texts_until(&mut self, own: &str) -> Vec<String> {
        self.messages_until(own).await.iter().map(text).collect()
    }

    /// Says goodbye; the server closes.
    async fn leave(mut self, reason: ReasonCode) {
        self.send(&Packet::Disconnect(Disconnect { reason, properties: List::EMPTY })).await;
        assert_eq!(self.ended().await, None);
    }
}

/// Waits until so many clients are connected, and those that are not have left their sessions in order.
async fn settled(cloud: &Cloud, connected: usize) {
    until("connections to be gone", || cloud.node.inner.registry.connected().len() == connected).await;
    for endpoint in cloud.node.inner.registry.all() {
        drop(endpoint.opening.lock().await);
    }
}
