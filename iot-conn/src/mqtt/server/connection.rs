use std::{
    collections::{HashMap, VecDeque},
    num::NonZeroU16,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use iot_core::{message::QoS, secret::Secret, time::Monotonic};

use super::{
    event::{
        Accepted, Cause, ConnectRequest, Delivered, Delivery, Event, PublishRequest, SubscribeOptions, Ticket,
        WillRequest,
    },
    inbound::{Arrival, Inbound},
    limits::ConnectionLimits,
    outbound::{Acknowledged, Outbound},
};
use crate::mqtt::{
    codec::{connect_version, decode, encode, frame_length},
    packet::{
        Ack, ConnAck, Connect, Disconnect, List, Packet, Publish, Sender, SubAck, Subscribe, Unsubscribe, Version,
    },
    property::Property,
    reason::ReasonCode,
    wire::{DecodeError, EncodeError},
};

/// The server's end of one connection.
#[derive(Debug)]
pub struct Connection {
    limits: ConnectionLimits,
    phase: Phase,
    version: Version,
    requested_expiry_s: u32,
    /// What the client takes, in bytes.
    client_packet_bytes_max: usize,
    keep_alive: Option<Duration>,
    heard: Monotonic,
    inbound: Inbound,
    outbound: Outbound,
    aliases: HashMap<u16, ByteString>,
    tickets: u64,
    requests: VecDeque<Request>,
    events: VecDeque<Event>,
    output: BytesMut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Until CONNECT, at the latest until then.
    Greeting {
        until: Monotonic,
    },
    /// The node decides.
    Deciding,
    Open,
    Closed,
}

/// A SUBSCRIBE or UNSUBSCRIBE without answer.
#[derive(Debug)]
struct Request {
    ticket: Ticket,
    packet_id: NonZeroU16,
}

/// The most SUBSCRIBE and UNSUBSCRIBE packets without answer before no more is read.
const REQUESTS_MAX: usize = 16;

// === The runtime's side ===

impl Connection {
    /// For a connection that has just been made.
    pub fn new(now: Monotonic, limits: ConnectionLimits) -> Self {
        Self {
            phase: Phase::Greeting { until: now.plus(limits.connect_timeout) },
            version: Version::V5,
            requested_expiry_s: 0,
            client_packet_bytes_max: usize::MAX,
            keep_alive: None,
            heard: now,
            inbound: Inbound::default(),
            outbound: Outbound::new(limits.inflight_max),
            aliases: HashMap::new(),
            tickets: 0,
            requests: VecDeque::new(),
            events: VecDeque::new(),
            output: BytesMut::new(),
            limits,
        }
    }

    /// Takes whole packets from the front of `input` and leaves the rest: a part of a packet, what comes behind CONNECT until
    /// the node has decided, and everything while [saturated](Self::is_saturated).
    pub fn handle_input(&mut self, now: Monotonic, input: &mut BytesMut) {
        while matches!(self.phase, Phase::Greeting { .. } | Phase::Open) && !self.is_saturated() {
            match frame_length(input, self.limits.packet_bytes_max) {
                Ok(Some(length)) if input.len() >= length => {
                    let frame = input.split_to(length).freeze();
                    self.heard = now;
                    self.handle_frame(&frame);
                }
                Ok(_) => return,
                Err(error) => return self.violated(&error, connect_version(input)),
            }
        }
        if self.phase == Phase::Closed {
            input.clear();
        }
    }

    /// The next thing the client wants.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether an event waits.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called.
    pub fn poll_timeout(&self) -> Option<Monotonic> {
        match self.phase {
            Phase::Greeting { until } => Some(until),
            Phase::Open => self.keep_alive.map(|keep_alive| self.heard.plus(keep_alive)),
            Phase::Deciding | Phase::Closed => None,
        }
    }

    /// Ends the connection if CONNECT is overdue, or nothing came for one and a half times the keep alive
    /// (MQTT 5 §3.1.2.10).
    pub fn handle_timeout(&mut self, now: Monotonic) {
        if self.poll_timeout().is_none_or(|at| now < at) {
            return;
        }
        if self.phase == Phase::Open {
            self.say_disconnect(ReasonCode::KeepAliveTimeout);
            self.close(Cause::KeepAliveTimeout);
        } else {
            self.close(Cause::ConnectTimeout);
        }
    }

    /// Bytes to write; the runtime removes what it has written.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Whether nothing more is read or delivered: write what is in the output, then close.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Whether no more is to be read for now, because something is at its bound.
    pub fn is_saturated(&self) -> bool {
        self.inbound.unfinished() >= usize::from(self.limits.receive_maximum) && self.version == Version::V311
            || self.events.len() >= self.limits.events_max
            || self.output.len() >= self.limits.output_bytes_max
            || self.requests.len() >= REQUESTS_MAX
    }

    /// Which MQTT the client speaks; `None` before CONNECT.
    pub fn version(&self) -> Option<Version> {
        (!matches!(self.phase, Phase::Greeting { .. })).then_some(self.version)
    }
}

// === The node's side ===

impl Connection {
    /// Lets the client in.
    pub fn accept(&mut self, now: Monotonic, accepted: Accepted) {
        if self.phase != Phase::Deciding {
            return;
        }
        let mut properties = Vec::new();
        if self.version == Version::V5 {
            if accepted.session_expiry_s != self.requested_expiry_s {
                properties.push(Property::SessionExpiryInterval(accepted.session_expiry_s));
            }
            properties.push(Property::ReceiveMaximum(self.limits.receive_maximum.max(1)));
            let packet_bytes_max = u32::try_from(self.limits.packet_bytes_max).unwrap_or(u32::MAX);
            properties.push(Property::MaximumPacketSize(packet_bytes_max));
            properties.push(Property::TopicAliasMaximum(self.limits.topic_alias_maximum));
            properties.extend(accepted.assigned_client_id.as_deref().map(Property::AssignedClientIdentifier));
            if let Some(seconds) = accepted.server_keep_alive_s {
                properties.push(Property::ServerKeepAlive(seconds));
                self.keep_alive = one_and_a_half(seconds);
            }
        }
        self.write(&Packet::ConnAck(ConnAck {
            session_present: accepted.session_present,
            reason: ReasonCode::Success,
            properties: List::from(&properties[..]),
        }));
        self.inbound.resume(accepted.received);
        self.requested_expiry_s = accepted.session_expiry_s;
        self.heard = now;
        self.phase = Phase::Open;
    }

    /// Does not let the client in.
    pub fn refuse(&mut self, reason: ReasonCode) {
        if self.phase == Phase::Deciding {
            self.say_refused(reason);
            self.close(Cause::ServerDisconnect(reason));
        }
    }

    /// An inbound QoS 1 or 2 message is finished. Acknowledgements leave in the order of the messages, whatever order this is
    /// called in. An error ends a QoS 2 exchange; a 3.1.1 client is acknowledged without a reason.
    pub fn published(&mut self, ticket: Ticket, reason: ReasonCode) {
        let Some(qos) = self.inbound.answer(ticket, reason) else { return };
        while let Some(answer) = self.inbound.next_answer(qos) {
            let Some(packet_id) = NonZeroU16::new(answer.packet_id) else { continue };
            let ack = Ack::new(packet_id, answer.reason);
            self.write(&if qos == QoS::AtLeastOnce { Packet::PubAck(ack) } else { Packet::PubRec(ack) });
        }
    }

    /// An inbound PUBREL is finished.
    pub fn released(&mut self, ticket: Ticket) {
        self.inbound.released(ticket);
        while let Some(answer) = self.inbound.next_completion() {
            if let Some(packet_id) = NonZeroU16::new(answer.packet_id) {
                self.write(&Packet::PubComp(Ack::new(packet_id, ReasonCode::Success)));
            }
        }
    }

    /// Answers a SUBSCRIBE: a code per filter.
    pub fn subscribed(&mut self, ticket: Ticket, codes: &[ReasonCode]) {
        if let Some(packet_id) = self.take_request(ticket) {
            self.write(&Packet::SubAck(SubAck { packet_id, properties: List::EMPTY, reasons: List::from(codes) }));
        }
    }

    /// Answers an UNSUBSCRIBE: a code per filter.
    pub fn unsubscribed(&mut self, ticket: Ticket, codes: &[ReasonCode]) {
        if let Some(packet_id) = self.take_request(ticket) {
            self.write(&Packet::UnsubAck(SubAck { packet_id, properties: List::EMPTY, reasons: List::from(codes) }));
        }
    }

    /// Sends a message.
    pub fn deliver(&mut self, _now: Monotonic, delivery: &Delivery<'_>) -> Delivered {
        if self.phase != Phase::Open {
            return Delivered::Full;
        }
        let packet_id = match delivery.qos {
            QoS::AtMostOnce => None,
            _ => match self.outbound.identify(delivery.packet_id) {
                Some(id) => Some(id),
                None => return Delivered::Full,
            },
        };
        let properties = self.delivery_properties(delivery);
        let publish = Packet::Publish(Publish {
            dup: delivery.dup && packet_id.is_some(),
            qos: delivery.qos,
            retain: delivery.retain,
            topic: delivery.topic,
            packet_id,
            properties: List::from(&properties[..]),
            payload: delivery.payload,
        });
        let before = self.output.len();
        if encode(&publish, self.version, &mut self.output).is_err() {
            return Delivered::TooLarge;
        }
        if self.output.len() - before > self.client_packet_bytes_max {
            self.output.truncate(before);
            return Delivered::TooLarge;
        }
        if let Some(id) = packet_id {
            self.outbound.sent(id, delivery.tag, delivery.qos);
        }
        Delivered::Written
    }

    fn delivery_properties<'a>(&self, delivery: &Delivery<'a>) -> Vec<Property<'a>> {
        if self.version == Version::V311 {
            return Vec::new();
        }
        let identifiers = delivery.identifiers.iter().copied().map(Property::SubscriptionIdentifier);
        let expiry = delivery.expiry_s.map(Property::MessageExpiryInterval);
        expiry.into_iter().chain(Property::of_message(delivery.properties)).chain(identifiers).collect()
    }

    /// Releases an outbound QoS 2 message (PUBREL): after [`Event::Received`], or for one whose PUBREC came on an earlier
    /// connection.
    pub fn release(&mut self, packet_id: u16, tag: u64) {
        let Some(id) = NonZeroU16::new(packet_id).filter(|_| self.phase == Phase::Open) else { return };
        self.outbound.released(packet_id, tag);
        self.write(&Packet::PubRel(Ack::new(id, ReasonCode::Success)));
    }

    /// How many more QoS 1 and 2 messages may be delivered now.
    pub fn window(&self) -> usize {
        if self.phase == Phase::Open { self.outbound.window() } else { 0 }
    }

    /// Ends the connection, with a reason for MQTT 5 clients.
    pub fn disconnect(&mut self, reason: ReasonCode) {
        match self.phase {
            Phase::Open => self.say_disconnect(reason),
            Phase::Deciding => self.say_refused(reason),
            Phase::Greeting { .. } => {}
            Phase::Closed => return,
        }
        self.close(Cause::ServerDisconnect(reason));
    }
}

// === Packets from the client ===

impl Connection {
    fn handle_frame(&mut self, frame: &Bytes) {
        let greeting = matches!(self.phase, Phase::Greeting { .. });
        let packet = match decode(frame, self.version, Sender::Client) {
            Ok(packet) => packet,
            Err(error) => return self.violated(&error, connect_version(frame)),
        };
        match packet {
            Packet::Connect(connect) if greeting => self.connect(&connect, frame),
            Packet::Connect(_) => self.broke("a client sends CONNECT once [MQTT-3.1.0-2]"),
            _ if greeting => {
                self.close(Cause::Protocol(ReasonCode::ProtocolError, "the first packet is a CONNECT [MQTT-3.1.0-1]"))
            }
            Packet::Publish(publish) => self.publish(&publish, frame),
            Packet::PubAck(ack) => self.finished(ack, Outbound::acknowledged),
            Packet::PubComp(ack) => self.finished(ack, Outbound::completed),
            Packet::PubRec(ack) => self.received(ack),
            Packet::PubRel(ack) => self.release_requested(ack),
            Packet::Subscribe(subscribe) => self.subscribe(&subscribe),
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe(&unsubscribe),
            Packet::PingReq => self.write(&Packet::PingResp),
            Packet::Disconnect(disconnect) => self.client_disconnects(&disconnect),
            _ => self.broke("an AUTH belongs to an authentication method of CONNECT (MQTT 5 §4.12)"),
        }
    }

    fn connect(&mut self, connect: &Connect<'_>, frame: &Bytes) {
        self.version = connect.version;
        self.phase = Phase::Deciding;
        self.keep_alive = one_and_a_half(connect.keep_alive_s);
        let properties = &connect.properties;
        if let Some(max) = properties.receive_maximum() {
            self.outbound = Outbound::new(max.min(self.limits.inflight_max.max(1)));
        }
        if let Some(max) = properties.maximum_packet_size() {
            self.client_packet_bytes_max = usize::try_from(max).unwrap_or(usize::MAX);
        }
        if properties.authentication_method().is_some() {
            return self.refuse(ReasonCode::BadAuthenticationMethod);
        }
        let password = match connect.password.map(str::from_utf8) {
            Some(Err(_)) => return self.refuse(ReasonCode::BadUserNameOrPassword),
            Some(Ok(text)) => Some(Secret::new(text)),
            None => None,
        };
        self.requested_expiry_s = match (connect.version, connect.clean_start) {
            (Version::V311, true) => 0,
            (Version::V311, false) => u32::MAX,
            (Version::V5, _) => properties.session_expiry_interval().unwrap_or(0),
        };
        let will = connect.will.as_ref().map(|will| WillRequest {
            topic: will.topic.to_owned(),
            payload: frame.slice_ref(will.payload),
            qos: will.qos,
            retain: will.retain,
            delay_s: will.properties.will_delay_interval().unwrap_or(0),
            expiry_s: will.properties.message_expiry_interval(),
            properties: will.properties.to_message(),
        });
        self.events.push_back(Event::Connect(Box::new(ConnectRequest {
            version: connect.version,
            client_id: connect.client_id.to_owned(),
            clean_start: connect.clean_start,
            keep_alive_s: connect.keep_alive_s,
            username: connect.username.map(str::to_owned),
            password,
            will,
            session_expiry_s: self.requested_expiry_s,
        })));
    }

    fn publish(&mut self, publish: &Publish<'_>, frame: &Bytes) {
        let topic = match self.resolve_topic(publish, frame) {
            Ok(topic) => topic,
            Err((reason, statement)) => return self.broke_with(reason, statement),
        };
        let packet_id = publish.packet_id.map(NonZeroU16::get);
        let mut ticket = None;
        if let Some(id) = packet_id {
            if publish.qos == QoS::ExactlyOnce {
                match self.inbound.arrival(id) {
                    Arrival::New => {}
                    Arrival::Unanswered => return,
                    Arrival::Answered => {
                        return publish
                            .packet_id
                            .into_iter()
                            .for_each(|id| self.write(&Packet::PubRec(Ack::new(id, ReasonCode::Success))));
                    }
                }
            }
            let full = self.inbound.unfinished() >= usize::from(self.limits.receive_maximum);
            if full && self.version == Version::V5 {
                let statement = "a client keeps to the Receive Maximum of the server [MQTT-3.3.4-9]";
                return self.broke_with(ReasonCode::ReceiveMaximumExceeded, statement);
            }
            let next = self.next_ticket();
            self.inbound.publish(next, id, publish.qos);
            ticket = Some(next);
        }
        self.events.push_back(Event::Publish(PublishRequest {
            ticket,
            packet_id,
            topic,
            payload: frame.slice_ref(publish.payload),
            qos: publish.qos,
            retain: publish.retain,
            dup: publish.dup,
            expiry_s: publish.properties.message_expiry_interval(),
            properties: publish.properties.to_message(),
        }));
    }

    /// The topic name, by alias if there is one (MQTT 5 §3.3.2.3.4).
    fn resolve_topic(
        &mut self,
        publish: &Publish<'_>,
        frame: &Bytes,
    ) -> Result<ByteString, (ReasonCode, &'static str)> {
        let named = |topic: &str| {
            let text = ByteString::try_from(frame.slice_ref(topic.as_bytes()));
            text.map_err(|_| (ReasonCode::MalformedPacket, "a topic name is UTF-8 [MQTT-3.3.2-1]"))
        };
        let Some(alias) = publish.properties.topic_alias() else { return named(publish.topic) };
        if alias == 0 || alias > self.limits.topic_alias_maximum {
            return Err((ReasonCode::TopicAliasInvalid, "a topic alias is within the maximum [MQTT-3.3.2-9]"));
        }
        if publish.topic.is_empty() {
            let known = self.aliases.get(&alias).cloned();
            return known.ok_or((ReasonCode::TopicAliasInvalid, "a topic alias was set before it is used"));
        }
        // A copy, because the alias outlives the packet and must not keep its payload alive.
        self.aliases.insert(alias, ByteString::from(publish.topic));
        named(publish.topic)
    }

    fn finished(&mut self, ack: Ack<'_>, finish: fn(&mut Outbound, u16) -> Acknowledged) {
        if let Acknowledged::Finished { tag } = finish(&mut self.outbound, ack.packet_id.get()) {
            self.events.push_back(Event::Finished { tag, reason: ack.reason });
        }
    }

    fn received(&mut self, ack: Ack<'_>) {
        let packet_id = ack.packet_id.get();
        match self.outbound.received(packet_id, ack.reason) {
            Acknowledged::Finished { tag } => self.events.push_back(Event::Finished { tag, reason: ack.reason }),
            Acknowledged::Received { tag } => self.events.push_back(Event::Received { tag, packet_id }),
            Acknowledged::Held => {}
            Acknowledged::ReleaseAgain => self.write(&Packet::PubRel(Ack::new(ack.packet_id, ReasonCode::Success))),
            // An error ends the exchange on the client's side; there is nothing to release (MQTT 5 §4.3.3).
            Acknowledged::Unknown if ack.reason.is_error() => {}
            Acknowledged::Unknown => {
                self.write(&Packet::PubRel(Ack::new(ack.packet_id, ReasonCode::PacketIdentifierNotFound)));
            }
        }
    }

    fn release_requested(&mut self, ack: Ack<'_>) {
        let packet_id = ack.packet_id.get();
        if self.inbound.is_releasing(packet_id) {
            return;
        }
        let ticket = self.next_ticket();
        if self.inbound.release(ticket, packet_id) {
            self.events.push_back(Event::Release { ticket, packet_id });
        } else {
            self.write(&Packet::PubComp(Ack::new(ack.packet_id, ReasonCode::PacketIdentifierNotFound)));
        }
    }

    fn subscribe(&mut self, subscribe: &Subscribe<'_>) {
        let options = |subscription: crate::mqtt::packet::Subscription<'_>| {
            let options = SubscribeOptions {
                qos: subscription.qos,
                no_local: subscription.no_local,
                retain_as_published: subscription.retain_as_published,
                retain_handling: subscription.retain_handling,
            };
            (subscription.filter.to_owned(), options)
        };
        let filters = subscribe.subscriptions.iter().map(options).collect();
        let ticket = self.request(subscribe.packet_id);
        let identifier = subscribe.properties.subscription_identifiers().next();
        self.events.push_back(Event::Subscribe { ticket, filters, identifier });
    }

    fn unsubscribe(&mut self, unsubscribe: &Unsubscribe<'_>) {
        let filters = unsubscribe.filters.iter().map(str::to_owned).collect();
        let ticket = self.request(unsubscribe.packet_id);
        self.events.push_back(Event::Unsubscribe { ticket, filters });
    }

    fn client_disconnects(&mut self, disconnect: &Disconnect<'_>) {
        let session_expiry_s = disconnect.properties.session_expiry_interval();
        if self.requested_expiry_s == 0 && session_expiry_s.is_some_and(|s| s != 0) {
            return self.broke("a session expiry of 0 stays 0 (MQTT 5 §3.14.2.2.2)");
        }
        let with_will = disconnect.reason != ReasonCode::Success;
        self.close(Cause::Disconnected { with_will, session_expiry_s });
    }
}

// === Helpers ===

impl Connection {
    fn next_ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    fn request(&mut self, packet_id: NonZeroU16) -> Ticket {
        let ticket = self.next_ticket();
        self.requests.push_back(Request { ticket, packet_id });
        ticket
    }

    fn take_request(&mut self, ticket: Ticket) -> Option<NonZeroU16> {
        let at = self.requests.iter().position(|request| request.ticket == ticket)?;
        self.requests.remove(at).map(|request| request.packet_id)
    }

    fn write(&mut self, packet: &Packet<'_>) {
        if self.phase == Phase::Closed {
            return;
        }
        let before = self.output.len();
        let written: Result<(), EncodeError> = encode(packet, self.version, &mut self.output);
        debug_assert!(written.is_ok(), "the engine says only what MQTT can: {written:?}");
        // A packet that the client cannot take is left out (MQTT 5 §3.1.2.11.4); only CONNACK and SUBACK can be so large.
        if self.output.len() - before > self.client_packet_bytes_max {
            self.output.truncate(before);
        }
    }

    fn broke(&mut self, statement: &'static str) {
        self.broke_with(ReasonCode::ProtocolError, statement);
    }

    fn broke_with(&mut self, reason: ReasonCode, statement: &'static str) {
        self.say_disconnect(reason);
        self.close(Cause::Protocol(reason, statement));
    }

    fn violated(&mut self, error: &DecodeError, greeting: Option<Version>) {
        if self.phase == Phase::Open {
            return self.broke_with(error.reason, error.statement);
        }
        if let Some(version) = greeting {
            self.version = version;
            self.say_refused(error.reason);
        }
        self.close(Cause::Protocol(error.reason, error.statement));
    }

    /// CONNACK with an error; 3.1.1 has no word for most, and the connection is closed without one.
    fn say_refused(&mut self, reason: ReasonCode) {
        if self.version == Version::V311 && reason.to_connack_v311().is_none() {
            return;
        }
        self.write(&Packet::ConnAck(ConnAck { session_present: false, reason, properties: List::EMPTY }));
    }

    fn say_disconnect(&mut self, reason: ReasonCode) {
        if self.version == Version::V5 {
            self.write(&Packet::Disconnect(Disconnect { reason, properties: List::EMPTY }));
        }
    }

    fn close(&mut self, cause: Cause) {
        if self.phase != Phase::Closed {
            self.phase = Phase::Closed;
            self.events.push_back(Event::Closed(cause));
        }
    }
}

fn one_and_a_half(seconds: u16) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_millis(u64::from(seconds) * 1_500))
}
