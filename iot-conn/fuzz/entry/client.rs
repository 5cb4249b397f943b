//! The device's engine between any server, any link and any application.

use std::time::Duration;

use bytes::BytesMut;
use iot_conn::mqtt::client::{Client, ClientOptions, Event, Publication};
use iot_conn::mqtt::codec::encode;
use iot_conn::mqtt::{
    Ack, ConnAck, Disconnect, List, Packet, Properties, Property, Publish, QoS, ReasonCode, Sender, SubAck,
    Subscription, Version,
};
use iot_core::time::Monotonic;

use super::input::Input;
use super::wire::Wire;

const QUEUE_MESSAGES_MAX: usize = 8;
const IN_FLIGHT_MAX: u16 = 3;
/// While so many wait, the engine takes nothing; one packet may bring one more, and what is given up is told all the same.
const EVENTS_MAX: usize = 256 + 1 + QUEUE_MESSAGES_MAX + IN_FLIGHT_MAX as usize;

/// Drives two engines with the same steps: one gets what the server sends as it comes, the other in chunks. Both do the same,
/// within their bounds.
///
/// The first byte chooses version, options and chunks; each step is a byte and what it needs.
pub(crate) fn client(data: &[u8]) {
    let mut input = Input::new(data);
    let first = input.u8();
    let version = if first & 1 == 0 { Version::V311 } else { Version::V5 };
    let chunk = usize::from(first >> 2 & 0x0f) + 1;
    let options = ClientOptions {
        version,
        clean_start: first & 0x40 != 0,
        keep_alive_s: 30,
        receive_maximum: 2,
        topic_alias_maximum: 2,
        packet_bytes_max: 128,
        in_flight_max: IN_FLIGHT_MAX,
        queue_messages_max: QUEUE_MESSAGES_MAX,
        ..ClientOptions::new("lamp")
    };
    let (mut whole, mut parts) = (Caller::new(options.clone(), usize::MAX), Caller::new(options, chunk));
    if first & 2 != 0 {
        let ack = packet(&conn_ack(version, &mut input), version);
        for caller in [&mut whole, &mut parts] {
            caller.take(&Step::Connected(Some(ack.clone())));
        }
    }
    while !input.is_empty() {
        let step = Step::read(version, &mut input);
        whole.take(&step);
        parts.take(&step);
        parts.assert_same(&mut whole);
    }
    for caller in [&mut whole, &mut parts] {
        caller.take(&Step::Disconnect(ReasonCode::Success));
        caller.take(&Step::Events);
        caller.take(&Step::Write(usize::MAX));
        caller.wire.assert_complete();
    }
    parts.assert_same(&mut whole);
}

enum Step {
    /// With what the server answers.
    Connected(Option<Vec<u8>>),
    Disconnected,
    Bytes(Vec<u8>),
    Publish(Publication),
    Subscribe(Option<u32>),
    Unsubscribe,
    Disconnect(ReasonCode),
    Write(usize),
    Events,
    Pass(Duration),
}

impl Step {
    fn read(version: Version, input: &mut Input<'_>) -> Self {
        let kind = input.u8();
        // Seldom, as most of such bytes end the connection.
        if kind < 3 {
            return Self::Bytes(input.bytes().to_vec());
        }
        match kind % 16 {
            0..=5 => Self::Bytes(packet(&server_packet(version, input), version)),
            6 | 7 => Self::Publish(Publication {
                retain: input.flag(),
                ..Publication::new("up", vec![7; usize::from(input.u8() % 80)], input.qos())
            }),
            8 => Self::Subscribe(input.flag().then_some(1)),
            9 => Self::Unsubscribe,
            10 => Self::Write(input.u8().into()),
            11 => Self::Events,
            12 => Self::Pass(input.seconds()),
            13 => Self::Connected(input.flag().then(|| packet(&conn_ack(version, input), version))),
            14 if input.u8() < 64 => Self::Disconnected,
            _ if input.u8() < 16 => Self::Disconnect(match input.u8() % 4 {
                0 => ReasonCode::Success,
                1 => ReasonCode::DisconnectWithWill,
                _ => ReasonCode::UnspecifiedError,
            }),
            _ => Self::Events,
        }
    }
}

fn packet(packet: &Packet<'_>, version: Version) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode(packet, version, &mut out).expect("it is valid");
    out.to_vec()
}

fn conn_ack(version: Version, input: &mut Input<'_>) -> Packet<'static> {
    const SMALL: &[Property<'static>] = &[
        Property::ReceiveMaximum(2),
        Property::MaximumPacketSize(60),
        Property::MaximumQoS(QoS::AtLeastOnce),
        Property::RetainAvailable(false),
        Property::ServerKeepAlive(9),
    ];
    let kind = input.u8();
    Packet::ConnAck(ConnAck {
        session_present: kind & 1 != 0 && kind & 4 == 0,
        reason: if kind & 4 == 0 { ReasonCode::Success } else { ReasonCode::NotAuthorized },
        properties: if version == Version::V5 && kind & 2 != 0 { Properties::from(SMALL) } else { List::EMPTY },
    })
}

/// A packet that gets past the codec.
fn server_packet(version: Version, input: &mut Input<'_>) -> Packet<'static> {
    const ALIAS: &[Property<'static>] = &[Property::TopicAlias(1)];
    let kind = input.u8() % 16;
    let packet_id = input.packet_id();
    let reason = if input.flag() { ReasonCode::UnspecifiedError } else { ReasonCode::Success };
    match kind {
        0..=3 => {
            let (qos, has_alias, has_topic) = (input.qos(), input.flag(), input.flag());
            let has_alias = has_alias && version == Version::V5;
            Packet::Publish(Publish {
                dup: qos != QoS::AtMostOnce && input.flag(),
                qos,
                retain: false,
                topic: if has_topic || !has_alias { "down" } else { "" },
                packet_id: (qos != QoS::AtMostOnce).then_some(packet_id),
                properties: if has_alias { List::from(ALIAS) } else { List::EMPTY },
                payload: b"on",
            })
        }
        4 | 5 => Packet::PubAck(Ack::new(packet_id, reason)),
        6 | 7 => Packet::PubRec(Ack::new(packet_id, reason)),
        8 => Packet::PubRel(Ack::new(packet_id, ReasonCode::Success)),
        9 | 10 => Packet::PubComp(Ack::new(packet_id, ReasonCode::Success)),
        11 => {
            Packet::SubAck(SubAck { packet_id, properties: List::EMPTY, reasons: List::from(&[ReasonCode::Success]) })
        }
        12 => {
            Packet::UnsubAck(SubAck { packet_id, properties: List::EMPTY, reasons: List::from(&[ReasonCode::Success]) })
        }
        13 => Packet::PingResp,
        14 if version == Version::V5 && input.u8() < 16 => {
            Packet::Disconnect(Disconnect { reason: ReasonCode::ServerBusy, properties: List::EMPTY })
        }
        15 if input.u8() < 16 => conn_ack(version, input),
        _ => Packet::PingResp,
    }
}

/// An application and its link.
struct Caller {
    client: Client,
    version: Version,
    now: Monotonic,
    chunk: usize,
    is_open: bool,
    input: BytesMut,
    wire: Wire,
    told: Vec<String>,
}

impl Caller {
    fn new(options: ClientOptions, chunk: usize) -> Self {
        Self {
            version: options.version,
            client: Client::new(options).expect("the options are valid"),
            now: Monotonic::ZERO,
            chunk,
            is_open: false,
            input: BytesMut::new(),
            wire: Wire::new(Sender::Client),
            told: Vec::new(),
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Connected(answer) => {
                self.close();
                self.client.handle_connected(self.now);
                self.is_open = true;
                self.receive(answer.as_deref().unwrap_or_default());
            }
            Step::Disconnected => {
                self.client.handle_disconnected(self.now);
                self.close();
            }
            Step::Bytes(bytes) => self.receive(bytes),
            Step::Publish(publication) => {
                let queued = self.client.unpublished();
                let result = self.client.publish(publication.clone());
                assert!(result.is_ok() || queued >= QUEUE_MESSAGES_MAX, "{result:?}");
            }
            Step::Subscribe(identifier) => {
                let identifier = identifier.filter(|_| self.version == Version::V5);
                let result = self.client.subscribe(&[Subscription::new("a/+", QoS::AtLeastOnce)], identifier);
                assert!(self.client.is_connected() || result.is_err());
            }
            Step::Unsubscribe => {
                let result = self.client.unsubscribe(&["a/+"]);
                assert!(self.client.is_connected() || result.is_err());
            }
            Step::Disconnect(reason) => self.client.disconnect(*reason),
            Step::Write(count) => self.write(*count),
            Step::Events => self.drain(),
            Step::Pass(duration) => {
                self.now = self.now.plus(*duration);
                self.client.handle_timeout(self.now);
            }
        }
        self.check();
    }

    /// Bytes come over an open link only.
    fn receive(&mut self, bytes: &[u8]) {
        if !self.is_open {
            return;
        }
        for part in bytes.chunks(self.chunk.min(bytes.len().max(1))) {
            self.input.extend_from_slice(part);
            self.client.handle_input(self.now, &mut self.input);
            self.check();
        }
    }

    fn close(&mut self) {
        self.is_open = false;
        self.input.clear();
        self.wire.clear();
    }

    fn write(&mut self, count: usize) {
        if self.is_open {
            self.wire.carry(self.client.output(), count, self.version);
        }
    }

    fn drain(&mut self) {
        let mut drained = 0;
        while let Some(event) = self.client.poll_event() {
            drained += 1;
            self.told.push(format!("{event:?}"));
            if let Event::Connected(_) = event {
                assert!(self.is_open || !self.client.is_connected());
            }
        }
        assert!(drained <= EVENTS_MAX, "{drained} events waited");
    }

    fn check(&self) {
        assert!(self.client.unpublished() <= QUEUE_MESSAGES_MAX + usize::from(IN_FLIGHT_MAX) + QUEUE_MESSAGES_MAX);
        assert!(self.client.is_connected() <= self.is_open);
    }

    /// Chunks changed nothing.
    fn assert_same(&mut self, whole: &mut Self) {
        assert_eq!(std::mem::take(&mut self.told), std::mem::take(&mut whole.told));
        assert_eq!(self.client.is_connected(), whole.client.is_connected());
        assert_eq!(self.client.unpublished(), whole.client.unpublished());
        assert_eq!(self.client.poll_timeout(), whole.client.poll_timeout());
        assert_eq!(self.input, whole.input);
        assert_eq!(self.client.output(), whole.client.output());
    }
}
