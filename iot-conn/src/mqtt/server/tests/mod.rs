//! The engine against packets of a client, with a clock of our own. A test that begins with a version and numbers is for
//! the statement with that id.

mod answers;
mod authentication;
mod connecting;
mod ending;
mod exchanges;
mod fields;
mod handshake;
mod inbound;
mod limits;
mod outbound;
mod properties;
mod random;
mod silence;
mod subscriptions;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use iot_core::{message, time::Monotonic};

use super::{Accepted, Cause, Connection, ConnectionLimits, Delivery, Event, PublishRequest, Ticket};
use crate::mqtt::{
    Ack, Connect, List, Packet, PacketId, Properties, Property, Publish, QoS, ReasonCode, Version, codec::encode,
};

/// A connection and the client's end of its wire.
struct Server {
    connection: Connection,
    version: Version,
    now: Monotonic,
    input: BytesMut,
}

impl Server {
    /// Without a byte read.
    fn new(version: Version, limits: ConnectionLimits) -> Self {
        let now = Monotonic::from_duration(Duration::from_secs(1_000));
        Self { connection: Connection::new(now, limits), version, now, input: BytesMut::new() }
    }

    /// Accepted, with the CONNACK written.
    fn online(version: Version, limits: ConnectionLimits) -> Self {
        Self::accepted(&connect(version), limits, Accepted::default())
    }

    fn accepted(connect: &Connect<'_>, limits: ConnectionLimits, accepted: Accepted) -> Self {
        let mut server = Self::new(connect.version, limits);
        server.receive(&Packet::Connect(*connect));
        assert!(matches!(server.events()[..], [Event::Connect(_)]));
        server.connection.accept(server.now, accepted);
        server.connection.output().clear();
        server
    }

    fn receive(&mut self, packet: &Packet<'_>) {
        encode(packet, self.version, &mut self.input).unwrap();
        self.take();
    }

    fn receive_bytes(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        self.take();
    }

    /// Reads what is in the input.
    fn take(&mut self) {
        self.connection.handle_input(self.now, &mut self.input);
    }

    fn pass(&mut self, duration: Duration) {
        self.now = self.now.plus(duration);
        self.connection.handle_timeout(self.now);
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.connection.poll_event()).collect()
    }

    /// Nothing but this was written since the last time.
    #[track_caller]
    fn assert_sent(&mut self, packets: &[Packet<'_>]) {
        let mut expected = BytesMut::new();
        for packet in packets {
            encode(packet, self.version, &mut expected).unwrap();
        }
        assert_eq!(self.connection.output().split(), expected, "expected {packets:?}");
    }

    /// It has ended for this, and says so once.
    #[track_caller]
    fn assert_closed(&mut self, expected: Cause) {
        assert!(self.connection.is_closed());
        let events = self.events();
        assert!(matches!(events[..], [Event::Closed(cause)] if cause == expected), "{events:?}");
        self.receive(&Packet::PingReq);
        self.connection.handle_timeout(self.now.plus(Duration::from_secs(1_000_000)));
        self.connection.disconnect(ReasonCode::ServerShuttingDown);
        assert!(self.events().is_empty() && self.input.is_empty() && self.connection.poll_timeout().is_none());
    }

    /// It has ended as the client broke the protocol.
    #[track_caller]
    fn assert_violated(&mut self, expected: ReasonCode) {
        match self.events()[..] {
            [.., Event::Closed(Cause::Protocol(reason, _))] => assert_eq!(reason, expected),
            ref other => panic!("{other:?}"),
        }
        match self.version {
            Version::V5 => self.assert_sent(&[disconnect(expected)]),
            Version::V311 => self.assert_sent(&[]),
        }
        assert!(self.connection.is_closed());
    }

    /// It goes on, and this client is answered.
    #[track_caller]
    fn assert_open(&mut self) {
        self.connection.output().clear();
        self.receive(&Packet::PingReq);
        self.assert_sent(&[Packet::PingResp]);
    }

    /// The messages that have come, and nothing else.
    #[track_caller]
    fn published(&mut self) -> Vec<PublishRequest> {
        self.events()
            .into_iter()
            .map(|event| match event {
                Event::Publish(publish) => publish,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    /// The tickets of the messages that have come.
    #[track_caller]
    fn tickets(&mut self) -> Vec<Ticket> {
        self.published().iter().map(|publish| publish.ticket.unwrap()).collect()
    }

    /// The ticket of the PUBREL that has come.
    #[track_caller]
    fn release_ticket(&mut self) -> Ticket {
        match self.events()[..] {
            [Event::Release { ticket, .. }] => ticket,
            ref other => panic!("{other:?}"),
        }
    }
}

/// A packet of this first byte; the body is short.
fn framed(first: u8, body: &[u8]) -> Vec<u8> {
    let length = u8::try_from(body.len()).unwrap();
    assert!(length < 0x80);
    [&[first, length], body].concat()
}

/// A connected client that sends this is told the reason, as far as its version can, and is disconnected.
#[track_caller]
fn refused(version: Version, first: u8, body: &[u8], reason: ReasonCode) {
    let mut server = Server::online(version, limits());
    server.receive_bytes(&framed(first, body));
    server.assert_violated(reason);
}

/// A connected client may send this.
#[track_caller]
fn taken(version: Version, first: u8, body: &[u8]) -> Vec<Event> {
    let mut server = Server::online(version, limits());
    server.receive_bytes(&framed(first, body));
    assert!(!server.connection.is_closed());
    server.events()
}

const BOTH: [Version; 2] = [Version::V311, Version::V5];

fn limits() -> ConnectionLimits {
    ConnectionLimits::default()
}

fn connect(version: Version) -> Connect<'static> {
    Connect {
        version,
        client_id: "lamp",
        clean_start: true,
        keep_alive_s: 60,
        will: None,
        username: None,
        password: None,
        properties: List::EMPTY,
    }
}

fn id(packet_id: u16) -> PacketId {
    PacketId::new(packet_id).unwrap()
}

fn publish(qos: QoS, packet_id: u16) -> Packet<'static> {
    publish_with(qos, packet_id, false, "up/telemetry", &[])
}

fn publish_again(qos: QoS, packet_id: u16) -> Packet<'static> {
    publish_with(qos, packet_id, true, "up/telemetry", &[])
}

fn publish_with<'a>(qos: QoS, packet_id: u16, dup: bool, topic: &'a str, properties: &'a [Property<'a>]) -> Packet<'a> {
    Packet::Publish(Publish {
        dup,
        qos,
        retain: false,
        topic,
        packet_id: PacketId::new(packet_id),
        properties: Properties::from(properties),
        payload: b"{}",
    })
}

fn ack(packet_id: u16) -> Ack<'static> {
    Ack::new(id(packet_id), ReasonCode::Success)
}

fn puback(packet_id: u16) -> Packet<'static> {
    Packet::PubAck(ack(packet_id))
}

fn pubrec(packet_id: u16) -> Packet<'static> {
    Packet::PubRec(ack(packet_id))
}

fn pubrel(packet_id: u16) -> Packet<'static> {
    Packet::PubRel(ack(packet_id))
}

fn pubcomp(packet_id: u16) -> Packet<'static> {
    Packet::PubComp(ack(packet_id))
}

fn disconnect(reason: ReasonCode) -> Packet<'static> {
    Packet::Disconnect(crate::mqtt::Disconnect { reason, properties: List::EMPTY })
}

static PAYLOAD: Bytes = Bytes::from_static(b"on");
static PLAIN: message::Properties = message::Properties {
    utf8_payload: false,
    content_type: None,
    response_topic: None,
    correlation_data: None,
    user: Vec::new(),
};

fn delivery(qos: QoS, tag: u64) -> Delivery<'static> {
    Delivery {
        topic: "down/light",
        payload: &PAYLOAD,
        qos,
        retain: false,
        dup: false,
        packet_id: super::PacketId::Assign,
        tag,
        identifiers: &[],
        properties: None,
        expiry_s: None,
    }
}

/// What [`delivery`] looks like on the wire.
fn delivered(qos: QoS, packet_id: u16) -> Packet<'static> {
    Packet::Publish(Publish {
        dup: false,
        qos,
        retain: false,
        topic: "down/light",
        packet_id: PacketId::new(packet_id),
        properties: List::EMPTY,
        payload: b"on",
    })
}
