//! The engine: connection, requests, messages that arrive, keep alive.

use std::collections::{BTreeSet, VecDeque};

use bytes::{Bytes, BytesMut};
use iot_core::time::Monotonic;

use super::event::{Cause, Connected, Event, Received, Refused, Token};
use super::lease::Lease;
use super::link::{Link, Request, RequestKind};
use super::options::{ClientOptions, InvalidOptions, Publication, PublishError, RequestError};
use super::outbound::{Outbound, PacketIds, Recorded};
use crate::mqtt::{
    codec::{decode, encode, frame_length},
    packet::{
        Ack, ConnAck, Disconnect, List, Packet, PacketId, Publish, QoS, Sender, SubAck, Subscribe, Subscription,
        Unsubscribe, Version,
    },
    property::Property,
    reason::ReasonCode,
    wire::DecodeError,
};

/// While so many events wait, [`Client::handle_input`] leaves packets where they are.
const EVENTS_MAX: usize = 256;

/// The most SUBSCRIBE and UNSUBSCRIBE packets that wait for their answer; a further one is refused.
const REQUESTS_MAX: usize = 16;

/// The most bytes of answers that wait for the transport beside what is ours: a server that takes none of them, and asks for more,
/// is given up.
const ANSWERS_BYTES_MAX: usize = 64 * 1024;

/// A device's end of an MQTT connection and session; see [the module](super) for how to drive it.
#[derive(Debug)]
pub struct Client {
    options: ClientOptions,
    assigned_client_id: Option<String>,
    was_connected: bool,
    lease: Lease,
    /// Whether the present connection asked for a clean start.
    starts_clean: bool,
    phase: Phase,
    /// The latest time that the engine was told.
    now: Monotonic,
    ids: PacketIds,
    outbound: Outbound,
    /// QoS 2 messages that were delivered and not yet released.
    received: BTreeSet<PacketId>,
    tokens: u64,
    events: VecDeque<Event>,
    output: BytesMut,
}

#[derive(Debug)]
enum Phase {
    Offline,
    Connecting { deadline: Monotonic },
    Online(Link),
}

impl Client {
    /// A client that is not connected.
    ///
    /// # Errors
    ///
    /// If the options give no valid CONNECT, for example a will topic with wildcards.
    pub fn new(options: ClientOptions) -> Result<Self, InvalidOptions> {
        options.check()?;
        Ok(Self {
            options,
            assigned_client_id: None,
            was_connected: false,
            lease: Lease::default(),
            starts_clean: false,
            phase: Phase::Offline,
            now: Monotonic::ZERO,
            ids: PacketIds::default(),
            outbound: Outbound::default(),
            received: BTreeSet::new(),
            tokens: 0,
            events: VecDeque::new(),
            output: BytesMut::new(),
        })
    }

    /// Whether the server has taken the connection and it has not ended.
    #[must_use]
    pub const fn is_connected(&self) -> bool {
        matches!(self.phase, Phase::Online(_))
    }

    /// How many QoS 2 messages of the session were received and not released: their identifiers cannot be used for others.
    #[must_use]
    pub fn unreleased(&self) -> usize {
        self.received.len()
    }

    /// How many messages wait to be sent or to be acknowledged.
    #[must_use]
    pub fn unpublished(&self) -> usize {
        self.outbound.queued() + self.outbound.in_flight()
    }

    // === The transport's side ===

    /// The transport is open: what was to be written before is dropped, a CONNECT is queued.
    pub fn handle_connected(&mut self, now: Monotonic) {
        self.now = now;
        self.forget_requests();
        self.output.clear();
        self.starts_clean = self.options.clean_start && (self.options.version == Version::V311 || !self.was_connected)
            || self.lease.is_over(now, self.options.response_timeout * 2);
        let client_id = self.assigned_client_id.as_deref().unwrap_or(&self.options.client_id);
        self.options
            .write_connect(client_id, self.starts_clean, &mut self.output)
            .expect("the options were encoded by `new`, and an assigned identifier was a field of a packet");
        self.phase = Phase::Connecting { deadline: now.plus(self.options.response_timeout) };
    }

    /// Takes every complete packet out of `input`, unless 256 events wait: then the rest is left for the next call.
    /// After the end of the connection all input is dropped.
    ///
    /// A server that reads none of the answers to what it sends ends the connection, once 64 KiB of them wait.
    pub fn handle_input(&mut self, now: Monotonic, input: &mut BytesMut) {
        self.now = now;
        if let Phase::Online(link) = &mut self.phase
            && self.output.is_empty()
        {
            link.own_bytes = 0;
        }
        while self.events.len() < EVENTS_MAX && !matches!(self.phase, Phase::Offline) {
            match frame_length(input, self.options.packet_bytes_max as usize) {
                Ok(Some(length)) if length <= input.len() => {
                    let frame = input.split_to(length).freeze();
                    if let Err(violation) = self.handle_frame(&frame).and_then(|()| self.check_answers()) {
                        self.handle_violation(violation);
                    }
                }
                Ok(_) => break,
                Err(violation) => self.handle_violation(violation),
            }
        }
        if matches!(self.phase, Phase::Offline) {
            input.clear();
        }
        self.write_messages();
    }

    /// The transport closed. Messages in flight stay for the next connection.
    pub fn handle_disconnected(&mut self, now: Monotonic) {
        self.now = now;
        self.output.clear();
        self.end(Cause::Transport);
    }

    /// When [`Client::handle_timeout`] is to be called, if nothing else happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Monotonic> {
        match &self.phase {
            Phase::Offline => None,
            Phase::Connecting { deadline } => Some(*deadline),
            Phase::Online(link) => link.ping_deadline.or_else(|| link.ping_due()),
        }
    }

    /// Pings a silent server, or gives up one that does not answer. Too early a call does nothing.
    pub fn handle_timeout(&mut self, now: Monotonic) {
        self.now = now;
        if self.poll_timeout().is_none_or(|due| now < due) {
            return;
        }
        match &mut self.phase {
            Phase::Online(link) if link.ping_deadline.is_none() => {
                link.ping_deadline = Some(now.plus(self.options.response_timeout));
                self.send(&Packet::PingReq);
            }
            _ => self.end(Cause::TimedOut),
        }
    }

    /// What happened, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The bytes to write; the caller takes away what it has written. While many wait, messages stay in their queue
    /// and come here once there is room.
    pub fn output(&mut self) -> &mut BytesMut {
        self.write_messages();
        &mut self.output
    }

    // === The application's side ===

    /// Queues a message, connected or not.
    ///
    /// QoS 1 and 2 end with [`Event::Published`] or [`Event::NotPublished`], over as many connections as it takes. If
    /// the server loses the session, QoS 1 is sent anew and may arrive twice.
    ///
    /// # Errors
    ///
    /// If the queue is full, or topic or properties are not allowed.
    pub fn publish(&mut self, publication: Publication) -> Result<Token, PublishError> {
        publication.check(self.options.version)?;
        if self.outbound.queued() >= self.options.queue_messages_max {
            return Err(PublishError::Full);
        }
        let token = self.token();
        self.outbound.push(token, publication);
        self.write_messages();
        Ok(token)
    }

    /// Asks for messages; answered by [`Event::Subscribed`]. In MQTT 5, `identifier` comes with every message by these
    /// subscriptions.
    ///
    /// # Errors
    ///
    /// Without a connection, with 16 requests unanswered, or if a filter is not allowed.
    pub fn subscribe(
        &mut self,
        subscriptions: &[Subscription<'_>],
        identifier: Option<u32>,
    ) -> Result<Token, RequestError> {
        let properties: Vec<_> = identifier.map(Property::SubscriptionIdentifier).into_iter().collect();
        self.request(RequestKind::Subscribe, subscriptions.len(), |packet_id| {
            Packet::Subscribe(Subscribe {
                packet_id,
                properties: List::from(&properties[..]),
                subscriptions: List::from(subscriptions),
            })
        })
    }

    /// Ends subscriptions; answered by [`Event::Unsubscribed`].
    ///
    /// # Errors
    ///
    /// As [`Client::subscribe`].
    pub fn unsubscribe(&mut self, filters: &[&str]) -> Result<Token, RequestError> {
        self.request(RequestKind::Unsubscribe, filters.len(), |packet_id| {
            Packet::Unsubscribe(Unsubscribe { packet_id, properties: List::EMPTY, filters: List::from(filters) })
        })
    }

    /// Ends the connection in order. The server drops the will, unless `reason` is
    /// [`ReasonCode::DisconnectWithWill`], which only MQTT 5 can say.
    pub fn disconnect(&mut self, reason: ReasonCode) {
        if self.is_connected() {
            self.send(&Packet::Disconnect(Disconnect { reason, properties: List::EMPTY }));
        }
        self.end(Cause::Client);
    }

    fn request<'a>(
        &mut self,
        kind: RequestKind,
        filters: usize,
        packet: impl FnOnce(PacketId) -> Packet<'a>,
    ) -> Result<Token, RequestError> {
        let Phase::Online(link) = &mut self.phase else { return Err(RequestError::NotConnected) };
        if link.requests.len() >= REQUESTS_MAX {
            return Err(RequestError::Full);
        }
        let packet_id = self.ids.allocate().ok_or(RequestError::Full)?;
        let version = self.options.version;
        let start = self.output.len();
        let written = write_request(&packet(packet_id), version, link.server.packet_bytes_max, &mut self.output);
        if let Err(error) = written {
            self.output.truncate(start);
            self.ids.release(packet_id);
            return Err(error);
        }
        link.own_bytes += self.output.len() - start;
        link.last_sent = self.now;
        self.tokens += 1;
        let token = Token(self.tokens);
        link.requests.push(Request { packet_id, token, kind, filters });
        Ok(token)
    }

    // === Packets ===

    fn handle_frame(&mut self, frame: &Bytes) -> Result<(), DecodeError> {
        let packet = decode(frame, self.options.version, Sender::Server)?;
        match &mut self.phase {
            Phase::Offline => return Ok(()),
            Phase::Connecting { .. } => {
                return match packet {
                    Packet::ConnAck(ack) => self.handle_conn_ack(ack),
                    _ => Err(DecodeError::protocol("the server's first packet is a CONNACK [MQTT-3.2.0-1]")),
                };
            }
            Phase::Online(link) => {
                link.last_received = self.now;
                self.lease.heard(self.now);
            }
        }
        match packet {
            Packet::Publish(publish) => self.handle_publish(publish, frame),
            Packet::PubAck(ack) => {
                let event = self.outbound.acknowledge(ack, &mut self.ids)?;
                self.events.extend(event);
                Ok(())
            }
            Packet::PubRec(ack) => self.handle_pub_rec(ack),
            Packet::PubRel(ack) => {
                self.handle_pub_rel(ack);
                Ok(())
            }
            Packet::PubComp(ack) => {
                let event = self.outbound.complete(ack, &mut self.ids)?;
                self.events.extend(event);
                Ok(())
            }
            Packet::SubAck(ack) => self.handle_answer(ack, RequestKind::Subscribe),
            Packet::UnsubAck(ack) => self.handle_answer(ack, RequestKind::Unsubscribe),
            Packet::PingResp => {
                if let Phase::Online(link) = &mut self.phase {
                    link.ping_deadline = None;
                }
                Ok(())
            }
            Packet::Disconnect(disconnect) => {
                self.end(Cause::Server {
                    reason: disconnect.reason,
                    reason_string: disconnect.properties.reason_string().map(str::to_owned),
                    server_reference: disconnect.properties.server_reference().map(str::to_owned),
                    retry_after: disconnect.properties.retry_after(),
                });
                Ok(())
            }
            _ => Err(DecodeError::protocol("one CONNACK, and no AUTH that was not asked for (MQTT 5 §3.2, §4.12)")),
        }
    }

    fn check_answers(&self) -> Result<(), DecodeError> {
        match &self.phase {
            Phase::Online(link) if self.output.len() > link.own_bytes + ANSWERS_BYTES_MAX => {
                Err(DecodeError::new(ReasonCode::QuotaExceeded, "a server reads the answers to what it sends"))
            }
            _ => Ok(()),
        }
    }

    fn handle_conn_ack(&mut self, ack: ConnAck<'_>) -> Result<(), DecodeError> {
        let properties = ack.properties;
        if ack.reason.is_error() {
            self.phase = Phase::Offline;
            self.events.push_back(Event::Refused(Refused {
                reason: ack.reason,
                reason_string: properties.reason_string().map(str::to_owned),
                server_reference: properties.server_reference().map(str::to_owned),
                retry_after: properties.retry_after(),
            }));
            return Ok(());
        }
        if ack.session_present && self.starts_clean {
            return Err(DecodeError::protocol("no session is present after a clean start [MQTT-3.2.2-2]"));
        }
        let assigned_client_id = properties.assigned_client_identifier().map(str::to_owned);
        if assigned_client_id.is_some() {
            self.assigned_client_id.clone_from(&assigned_client_id);
        }
        let keep_alive_s = properties.server_keep_alive().unwrap_or(self.options.keep_alive_s);
        self.phase = Phase::Online(Link::new(ack, &self.options, keep_alive_s, self.now));
        self.was_connected = true;
        let session_expiry_s = properties.session_expiry_interval().unwrap_or(self.options.session_expiry_s);
        if self.options.version == Version::V5 {
            self.lease.granted(self.now, session_expiry_s);
        }
        self.events.push_back(Event::Connected(Connected {
            session_present: ack.session_present,
            assigned_client_id,
            keep_alive_s,
            session_expiry_s,
        }));
        if ack.session_present {
            self.outbound.resume();
        } else {
            self.received.clear();
            self.outbound.restart(&mut self.ids, &mut self.events);
        }
        Ok(())
    }

    fn handle_publish(&mut self, publish: Publish<'_>, frame: &Bytes) -> Result<(), DecodeError> {
        let Phase::Online(link) = &mut self.phase else { return Ok(()) };
        let topic = link.topic(&publish)?;
        let is_new = match (publish.qos, publish.packet_id) {
            (QoS::ExactlyOnce, Some(packet_id)) => {
                link.unreleased.insert(packet_id);
                self.received.insert(packet_id)
            }
            _ => true,
        };
        if self.options.version == Version::V5 && link.unreleased.len() > usize::from(self.options.receive_maximum) {
            return Err(DecodeError::new(
                ReasonCode::ReceiveMaximumExceeded,
                "the server respects receive maximum [MQTT-3.3.4-9]",
            ));
        }
        if is_new {
            self.events.push_back(Event::Message(Received {
                topic,
                payload: frame.slice_ref(publish.payload),
                qos: publish.qos,
                retain: publish.retain,
                properties: publish.properties.to_message(),
                subscription_ids: publish.properties.subscription_identifiers().collect(),
            }));
        }
        match (publish.qos, publish.packet_id) {
            (QoS::AtLeastOnce, Some(id)) => self.send(&Packet::PubAck(Ack::new(id, ReasonCode::Success))),
            (QoS::ExactlyOnce, Some(id)) => self.send(&Packet::PubRec(Ack::new(id, ReasonCode::Success))),
            _ => {}
        }
        Ok(())
    }

    fn handle_pub_rec(&mut self, ack: Ack<'_>) -> Result<(), DecodeError> {
        match self.outbound.receive(ack, &mut self.ids)? {
            Recorded::Over(event) => self.events.extend(event),
            Recorded::Release(reason) => self.send(&Packet::PubRel(Ack::new(ack.packet_id, reason))),
        }
        Ok(())
    }

    fn handle_pub_rel(&mut self, ack: Ack<'_>) {
        if let Phase::Online(link) = &mut self.phase {
            link.unreleased.remove(&ack.packet_id);
        }
        let reason = match self.received.remove(&ack.packet_id) {
            true => ReasonCode::Success,
            false => ReasonCode::PacketIdentifierNotFound,
        };
        self.send(&Packet::PubComp(Ack::new(ack.packet_id, reason)));
    }

    fn handle_answer(&mut self, ack: SubAck<'_>, kind: RequestKind) -> Result<(), DecodeError> {
        let Phase::Online(link) = &mut self.phase else { return Ok(()) };
        let asked = link.requests.iter().position(|request| request.packet_id == ack.packet_id && request.kind == kind);
        let Some(index) = asked else {
            return Err(DecodeError::protocol("an answer has the packet identifier of a request [MQTT-2.2.1-6]"));
        };
        let reasons: Vec<_> = ack.reasons.iter().collect();
        let has_reasons = kind == RequestKind::Subscribe || self.options.version == Version::V5;
        if has_reasons && reasons.len() != link.requests[index].filters {
            return Err(DecodeError::protocol("an answer has one reason code for each topic filter [MQTT-3.8.4-6]"));
        }
        let Request { packet_id, token, .. } = link.requests.remove(index);
        self.ids.release(packet_id);
        self.events.push_back(match kind {
            RequestKind::Subscribe => Event::Subscribed { token, reasons },
            RequestKind::Unsubscribe => Event::Unsubscribed { token, reasons },
        });
        Ok(())
    }

    /// Tells the server what it broke, if the connection is made and the version can say it.
    fn handle_violation(&mut self, violation: DecodeError) {
        if self.is_connected() && self.options.version == Version::V5 {
            self.send(&Packet::Disconnect(Disconnect { reason: violation.reason, properties: List::EMPTY }));
        }
        self.end(Cause::Violation(violation));
    }

    // === Small parts ===

    fn send(&mut self, packet: &Packet<'_>) {
        let written = encode(packet, self.options.version, &mut self.output);
        debug_assert_eq!(written, Ok(()), "packets without lists fit");
        if let Phase::Online(link) = &mut self.phase {
            link.last_sent = self.now;
        }
    }

    fn write_messages(&mut self) {
        let Phase::Online(link) = &mut self.phase else { return };
        let before = self.output.len();
        let version = self.options.version;
        self.outbound.write(&link.server, version, &mut self.ids, &mut self.output, &mut self.events);
        if self.output.len() > before {
            // With what was there before, at most as much as makes messages wait.
            link.own_bytes = link.own_bytes.max(self.output.len());
            link.last_sent = self.now;
        }
    }

    fn end(&mut self, cause: Cause) {
        if matches!(self.phase, Phase::Offline) {
            return;
        }
        self.forget_requests();
        self.phase = Phase::Offline;
        self.events.push_back(Event::Disconnected(cause));
    }

    fn forget_requests(&mut self) {
        if let Phase::Online(link) = &mut self.phase {
            link.requests.drain(..).for_each(|request| self.ids.release(request.packet_id));
        }
    }

    fn token(&mut self) -> Token {
        self.tokens += 1;
        Token(self.tokens)
    }
}

/// Writes a request and judges it as the server's decoder would.
fn write_request(
    packet: &Packet<'_>,
    version: Version,
    bytes_max: usize,
    out: &mut BytesMut,
) -> Result<(), RequestError> {
    let start = out.len();
    encode(packet, version, out).map_err(|_| RequestError::TooLong)?;
    decode(&out[start..], version, Sender::Client)?;
    if out.len() - start > bytes_max { Err(RequestError::TooLong) } else { Ok(()) }
}
