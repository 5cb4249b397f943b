//! The engine against packets of a server, with a clock of our own.

mod connection;
mod lossy_link;
mod messages;
mod statements;

use std::time::Duration;

use bytes::BytesMut;
use iot_core::time::Monotonic;

use super::{Client, ClientOptions, Event, Publication, Token};
use crate::mqtt::{
    Ack, ConnAck, List, Packet, PacketId, Properties, Property, Publish, QoS, ReasonCode, Sender, Version,
    codec::{decode, encode, frame_length},
};

/// A client and its wire.
struct Device {
    client: Client,
    version: Version,
    now: Monotonic,
}

impl Device {
    fn new(options: ClientOptions) -> Self {
        let version = options.version;
        Self { client: Client::new(options).unwrap(), version, now: Monotonic::ZERO }
    }

    /// Connected, with these properties in the CONNACK.
    fn online(options: ClientOptions, properties: &[Property<'_>]) -> Self {
        let mut device = Self::new(options);
        device.connect(false, properties);
        device
    }

    fn connect(&mut self, session_present: bool, properties: &[Property<'_>]) {
        self.client.handle_connected(self.now);
        assert!(matches!(self.sent()[..], [Packet::Connect(_)]));
        let properties = Properties::from(properties);
        self.receive(Packet::ConnAck(ConnAck { session_present, reason: ReasonCode::Success, properties }));
        assert!(matches!(self.client.poll_event(), Some(Event::Connected(_))));
    }

    fn drop_link(&mut self) {
        self.client.handle_disconnected(self.now);
        assert!(matches!(self.client.poll_event(), Some(Event::Disconnected(super::Cause::Transport))));
    }

    fn receive(&mut self, packet: Packet<'_>) {
        let mut input = BytesMut::new();
        encode(&packet, self.version, &mut input).unwrap();
        self.client.handle_input(self.now, &mut input);
        assert!(input.is_empty());
    }

    fn pass(&mut self, duration: Duration) {
        self.now = self.now.plus(duration);
        self.client.handle_timeout(self.now);
    }

    /// Everything the client has to say, which leaks: the packets of a test are few.
    fn sent(&mut self) -> Vec<Packet<'static>> {
        let mut packets = Vec::new();
        loop {
            let output = self.client.output();
            if output.is_empty() {
                return packets;
            }
            let length = frame_length(output, usize::MAX).unwrap().unwrap();
            let frame: &'static [u8] = Vec::leak(output.split_to(length).to_vec());
            packets.push(decode(frame, self.version, Sender::Client).unwrap());
        }
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.client.poll_event()).collect()
    }

    fn publish(&mut self, payload: &'static str, qos: QoS) -> Token {
        self.client.publish(Publication::new("t", payload, qos)).unwrap()
    }
}

fn options(version: Version) -> ClientOptions {
    ClientOptions { version, ..ClientOptions::new("lamp") }
}

fn id(value: u16) -> PacketId {
    PacketId::new(value).unwrap()
}

fn ack(value: u16) -> Ack<'static> {
    Ack::new(id(value), ReasonCode::Success)
}

/// A message as a packet, in short.
fn message(payload: &str, qos: QoS, packet_id: Option<u16>, dup: bool) -> Packet<'_> {
    Packet::Publish(Publish {
        dup,
        qos,
        retain: false,
        topic: "t",
        packet_id: packet_id.map(id),
        properties: List::EMPTY,
        payload: payload.as_bytes(),
    })
}

const BOTH: [Version; 2] = [Version::V311, Version::V5];
