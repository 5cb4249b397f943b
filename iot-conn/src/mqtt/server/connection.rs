//! The connection: its life, its timers and what the caller tells it.

use std::{collections::VecDeque, num::NonZeroU16, sync::Arc, time::Duration};

use bytes::BytesMut;
use iot_core::{message::QoS, time::Monotonic};

use crate::mqtt::{
    codec::{encode, frame_length},
    packet::{Ack, Disconnect, List, Packet, PacketKind, Publish, SubAck, Version},
    property::{Property, RETRY_AFTER},
    reason::ReasonCode,
    wire::{DecodeError, EncodeError, Put},
};

use super::event::{Cause, Event, Farewell, Ticket};
use super::inbound::Inbound;
use super::limits::ConnectionLimits;
use super::outbound::{Delivered, Delivery, Outbound};

/// The server's end of one connection; see [the module](super) for how to drive it.
#[derive(Debug)]
pub struct Connection {
    pub(super) limits: Arc<ConnectionLimits>,
    pub(super) phase: Phase,
    pub(super) version: Option<Version>,
    pub(super) asked: Asked,
    /// In seconds; 0 for none.
    pub(super) keep_alive_s: u16,
    /// When the last packet came, at first when the transport was opened.
    pub(super) heard: Monotonic,
    /// Packets may wait unread for a reason that is not the client's: silence proves nothing.
    stalled: bool,
    pub(super) inbound: Inbound,
    pub(super) outbound: Outbound,
    /// Made when there is something for them.
    buffers: Option<Box<Buffers>>,
}

#[derive(Debug, Default)]
struct Buffers {
    events: VecDeque<Event>,
    output: BytesMut,
    /// The properties of the message that is being written.
    scratch: BytesMut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// No packet has come.
    Fresh,
    /// The CONNECT waits for its answer.
    Asked,
    Online,
    Closed,
}

/// What the CONNECT asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Asked {
    pub(super) keep_alive_s: u16,
    pub(super) session_expiry_s: u32,
    pub(super) receive_maximum: Option<u16>,
    pub(super) packet_bytes_max: Option<u32>,
}

impl Connection {
    /// A connection whose transport is open, without a byte read.
    #[must_use]
    pub fn new(now: Monotonic, limits: impl Into<Arc<ConnectionLimits>>) -> Self {
        Self {
            limits: limits.into(),
            phase: Phase::Fresh,
            version: None,
            asked: Asked::default(),
            keep_alive_s: 0,
            heard: now,
            stalled: false,
            inbound: Inbound::default(),
            outbound: Outbound::new(0),
            buffers: None,
        }
    }

    // === The transport's side ===

    /// Takes whole packets from the front of `input` and leaves what is incomplete.
    ///
    /// Stops early while [saturated](Self::is_saturated): the rest is for the next call, which is due when that is
    /// over, with or without new bytes. After the end all input is dropped.
    pub fn handle_input(&mut self, now: Monotonic, input: &mut BytesMut) {
        while !self.is_closed() && !self.is_saturated() {
            match frame_length(input, self.packet_bytes_max()) {
                Ok(Some(length)) if length <= input.len() => {
                    let frame = input.split_to(length).freeze();
                    self.heard = now;
                    self.stalled = false;
                    self.handle_frame(&frame).unwrap_or_else(|violation| self.violate(violation));
                }
                Ok(_) => break,
                Err(violation) => {
                    self.refuse_first(input, &violation);
                    self.violate(violation);
                }
            }
        }
        self.stalled |= self.is_stalled();
        if self.is_closed() {
            input.clear();
        }
    }

    fn packet_bytes_max(&self) -> usize {
        match self.phase {
            Phase::Fresh => self.limits.packet_bytes_max.min(self.limits.connect_bytes_max),
            _ => self.limits.packet_bytes_max,
        }
    }

    /// When [`Connection::handle_timeout`] is to be called, if nothing else happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Monotonic> {
        match self.phase {
            Phase::Fresh => Some(self.heard.plus(self.limits.connect_timeout)),
            Phase::Online if self.keep_alive_s == 0 => None,
            Phase::Online => Some(self.heard.plus(Duration::from_millis(u64::from(self.keep_alive_s) * 1_500))),
            Phase::Asked | Phase::Closed => None,
        }
    }

    /// When the client will have been silent for longer than it said it would be; `None` without a keep alive. It is given half of
    /// that again before [`poll_timeout`](Self::poll_timeout).
    #[must_use]
    pub fn suspect_from(&self) -> Option<Monotonic> {
        let has_keep_alive = self.phase == Phase::Online && self.keep_alive_s > 0;
        has_keep_alive.then(|| self.heard.plus(Duration::from_secs(u64::from(self.keep_alive_s))))
    }

    /// Ends a connection whose CONNECT did not come in time, or that was silent for one and a half keep-alive intervals
    /// [MQTT-3.1.2-22]. Too early a call does nothing.
    ///
    /// Silence while the caller had not answered or not drained its events starts anew, as packets may not have been
    /// read. A client that does not take its output is not excused.
    pub fn handle_timeout(&mut self, now: Monotonic) {
        if self.poll_timeout().is_none_or(|due| now < due) {
            return;
        }
        if self.phase == Phase::Fresh {
            self.close(Cause::ConnectTimeout);
        } else if self.stalled || self.is_stalled() {
            self.heard = now;
            self.stalled = self.is_stalled();
        } else {
            self.send_disconnect(ReasonCode::KeepAliveTimeout, &Farewell::default());
            self.close(Cause::KeepAliveTimeout);
        }
    }

    /// The bytes to write; the caller takes away what it has written.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.buffers().output
    }

    /// Whether there is something to write.
    #[must_use]
    pub fn has_output(&self) -> bool {
        self.output_len() > 0
    }

    /// How many bytes there are to write.
    #[must_use]
    pub fn output_len(&self) -> usize {
        self.buffers.as_ref().map_or(0, |buffers| buffers.output.len())
    }

    fn buffers(&mut self) -> &mut Buffers {
        self.buffers.get_or_insert_default()
    }

    /// Whether it has ended: nothing more is read or delivered. Write what is in the output, then close.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Whether nothing is taken from the input for now: the CONNECT or too much else waits for an answer of the caller,
    /// or events or output bytes are at their bound. Do not read from the transport meanwhile.
    #[must_use]
    pub fn is_saturated(&self) -> bool {
        self.phase == Phase::Asked || self.is_stalled() || self.output_len() >= self.limits.output_bytes_max
    }

    /// Whether the caller is what holds the input up.
    fn is_stalled(&self) -> bool {
        let load = self.version.map_or(0, |version| self.inbound.load(version));
        load >= usize::from(self.inbound.receive_maximum()) || self.events_len() >= self.limits.events_max.max(1)
    }

    /// Gives back the memory of buffers and tables that are empty: a connection of which nothing is heard needs none. Whatever
    /// comes next makes them again.
    pub fn rest(&mut self) {
        self.inbound.rest();
        self.outbound.rest();
        if self.buffers.as_ref().is_some_and(|buffers| buffers.events.is_empty() && buffers.output.is_empty()) {
            self.buffers = None;
        }
    }

    /// The client's version, once its CONNECT was read.
    #[must_use]
    pub const fn version(&self) -> Option<Version> {
        self.version
    }

    // === The caller's side ===

    /// What happened, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.buffers.as_mut()?.events.pop_front()
    }

    /// Whether [`Connection::poll_event`] has something.
    #[must_use]
    pub fn has_events(&self) -> bool {
        self.events_len() > 0
    }

    fn events_len(&self) -> usize {
        self.buffers.as_ref().map_or(0, |buffers| buffers.events.len())
    }

    /// An inbound message of QoS 1 or 2 is safe, or failed with an error reason.
    ///
    /// PUBACKs leave in the order of their messages and PUBRECs in the order of theirs, so this one may wait for
    /// earlier ones. An error ends a QoS 2 exchange: there will be no [`Event::Release`], and the packet identifier is
    /// free. A 3.1.1 client is not told the reason.
    pub fn published(&mut self, ticket: Ticket, reason: ReasonCode) {
        self.inbound.answer(ticket, reason);
        self.send_answers();
    }

    /// An inbound PUBREL is done: PUBCOMP is sent and the packet identifier is free.
    pub fn released(&mut self, ticket: Ticket) {
        if let Some(packet_id) = self.inbound.released(ticket) {
            self.send(&Packet::PubComp(Ack::new(packet_id, ReasonCode::Success)));
        }
    }

    /// Answers a SUBSCRIBE with a code for each filter, in order; a missing one, or an error that a SUBACK cannot hold, is
    /// sent as [`ReasonCode::UnspecifiedError`] [MQTT-3.9.3-2]. A 3.1.1 client gets 0x80 for every error.
    pub fn subscribed(&mut self, ticket: Ticket, codes: &[ReasonCode]) {
        self.answer_request(ticket, PacketKind::SubAck, codes);
    }

    /// Answers an UNSUBSCRIBE with a code for each filter, in order; a missing one, or an error that an UNSUBACK cannot
    /// hold, is sent as [`ReasonCode::UnspecifiedError`] [MQTT-3.11.3-2]. A 3.1.1 client gets none.
    pub fn unsubscribed(&mut self, ticket: Ticket, codes: &[ReasonCode]) {
        self.answer_request(ticket, PacketKind::UnsubAck, codes);
    }

    /// How many more messages of QoS 1 and 2 may be sent now.
    #[must_use]
    pub fn window(&self) -> usize {
        if self.phase == Phase::Online { self.outbound.window() } else { 0 }
    }

    /// Writes a message for the client. With QoS 1 and 2, [`Event::Finished`] comes with its tag, if the connection
    /// lasts.
    pub fn deliver(&mut self, _now: Monotonic, delivery: &Delivery<'_>) -> Delivered {
        if self.phase != Phase::Online || self.output_len() >= self.limits.output_bytes_max {
            return Delivered::Full;
        }
        let packet_id = if delivery.qos == QoS::AtMostOnce {
            None
        } else {
            match self.outbound.free_id(delivery.packet_id) {
                Some(packet_id) => Some(packet_id),
                None => return Delivered::Full,
            }
        };
        if !self.write_publish(delivery, packet_id) {
            return Delivered::TooLarge;
        }
        if let Some(packet_id) = packet_id {
            self.outbound.sent(delivery, packet_id);
        }
        Delivered::Written
    }

    /// Sends the PUBREL of an outbound QoS 2 message: after [`Event::Received`], or for a message of an earlier
    /// connection whose PUBREC came there. The latter takes a place of the window, even beyond its end, and
    /// [`Event::Finished`] comes with `tag`.
    ///
    /// PUBRELs leave in the order of the calls; that is to be the order of the PUBRECs [MQTT-4.6.0-4]. Nothing is sent
    /// for 0, or for an identifier whose message has no PUBREC or has its PUBREL already.
    pub fn release(&mut self, packet_id: u16, tag: u64) {
        let Some(packet_id) = NonZeroU16::new(packet_id) else { return };
        if self.phase == Phase::Online && self.outbound.release(packet_id, tag) {
            self.send(&Packet::PubRel(Ack::new(packet_id, ReasonCode::Success)));
        }
    }

    /// Ends the connection. An MQTT 5 client gets a DISCONNECT with the reason; one that waits for its CONNACK is
    /// [refused](Self::refuse).
    pub fn disconnect(&mut self, reason: ReasonCode) {
        self.disconnect_with(reason, &Farewell::default());
    }

    /// The same, with something to tell beside the reason.
    pub fn disconnect_with(&mut self, reason: ReasonCode, farewell: &Farewell) {
        if self.phase == Phase::Asked {
            self.refuse_with(reason, farewell);
        } else {
            self.send_disconnect(reason, farewell);
            self.close(Cause::ServerDisconnect(reason));
        }
    }

    // === Sending ===

    /// Appends a packet, unless the client takes none of its size [MQTT-3.1.2-24]. Whether it did.
    pub(super) fn send(&mut self, packet: &Packet<'_>) -> bool {
        let Some(version) = self.version else { return false };
        if self.is_closed() {
            return false;
        }
        let max = self.asked.packet_bytes_max.map_or(usize::MAX, |max| max as usize);
        let output = &mut self.buffers().output;
        let start = output.len();
        let fits = encode(packet, version, output).is_ok() && output.len() - start <= max;
        if !fits {
            output.truncate(start);
        }
        fits
    }

    fn fits(&self, bytes: usize) -> bool {
        self.asked.packet_bytes_max.is_none_or(|max| bytes <= max as usize)
    }

    pub(super) fn send_answers(&mut self) {
        while let Some((kind, packet_id, reason)) = self.inbound.next_answer() {
            let ack = Ack::new(packet_id, reason_for(kind, reason));
            self.send(&if kind == PacketKind::PubAck { Packet::PubAck(ack) } else { Packet::PubRec(ack) });
        }
    }

    fn answer_request(&mut self, ticket: Ticket, kind: PacketKind, codes: &[ReasonCode]) {
        let Some(request) = self.inbound.answer_request(ticket, kind) else { return };
        let completed: Vec<_>;
        let reasons = if codes.len() == request.filters && codes.iter().all(|code| code.is_valid_in(kind)) {
            codes
        } else {
            let missing = std::iter::repeat(ReasonCode::UnspecifiedError);
            let told = codes.iter().map(|code| reason_for(kind, *code));
            completed = told.chain(missing).take(request.filters).collect();
            &completed
        };
        let ack = SubAck { packet_id: request.packet_id, properties: List::EMPTY, reasons: List::from(reasons) };
        self.send(&if kind == PacketKind::SubAck { Packet::SubAck(ack) } else { Packet::UnsubAck(ack) });
    }

    fn write_publish(&mut self, delivery: &Delivery<'_>, packet_id: Option<NonZeroU16>) -> bool {
        if !self.fits(delivery.payload.len() + delivery.topic.len()) {
            return false;
        }
        let mut scratch = std::mem::take(&mut self.buffers().scratch);
        scratch.clear();
        let is_v5 = self.version == Some(Version::V5);
        let is_written = (!is_v5 || put_properties(delivery, &mut scratch).is_ok())
            && self.send(&Packet::Publish(Publish {
                dup: delivery.dup && packet_id.is_some(),
                qos: delivery.qos,
                retain: delivery.retain,
                topic: delivery.topic,
                packet_id,
                properties: List::checked(&scratch),
                payload: delivery.payload,
            }));
        self.buffers().scratch = scratch;
        is_written
    }

    // === The end ===

    pub(super) fn emit(&mut self, event: Event) {
        self.buffers().events.push_back(event);
    }

    fn violate(&mut self, violation: DecodeError) {
        let reason = match violation.reason {
            reason if reason.is_valid_in(PacketKind::Disconnect) => reason,
            _ => ReasonCode::ProtocolError,
        };
        self.send_disconnect(reason, &Farewell::default());
        self.close(Cause::Protocol(violation.reason, violation.statement));
    }

    /// Only after a CONNACK [MQTT-3.14.0-1], and not in 3.1.1, where the server has no DISCONNECT.
    fn send_disconnect(&mut self, reason: ReasonCode, farewell: &Farewell) {
        if self.phase == Phase::Online && self.version == Some(Version::V5) {
            let reason = match reason_for(PacketKind::Disconnect, reason) {
                // Only a client leaves a will (MQTT 5 §3.14.2.1).
                ReasonCode::DisconnectWithWill => ReasonCode::UnspecifiedError,
                reason => reason,
            };
            self.send_away(farewell, |properties| Packet::Disconnect(Disconnect { reason, properties }));
        }
    }

    /// Sends a packet with what the client is told, or without if that is too much for it.
    pub(super) fn send_away<'p>(
        &mut self,
        farewell: &Farewell,
        packet: impl for<'a> Fn(List<'a, Property<'a>>) -> Packet<'a>,
    ) {
        let retry_after = farewell.retry_after.map(|after| after.as_millis().to_string());
        let properties: Vec<_> = [
            farewell.server_reference.as_deref().map(Property::ServerReference),
            retry_after.as_deref().map(|after| Property::UserProperty(RETRY_AFTER, after)),
        ]
        .into_iter()
        .flatten()
        .collect();
        if !self.send(&packet(List::from(&properties[..]))) {
            self.send(&packet(List::EMPTY));
        }
    }

    /// Ends it, once. What the client or the caller still had to answer is forgotten.
    pub(super) fn close(&mut self, cause: Cause) {
        if self.is_closed() {
            return;
        }
        self.phase = Phase::Closed;
        self.inbound = Inbound::default();
        self.outbound = Outbound::new(0);
        self.emit(Event::Closed(cause));
    }
}

/// `reason` if packets of this kind may hold it, else what is nearest.
pub(super) fn reason_for(kind: PacketKind, reason: ReasonCode) -> ReasonCode {
    match reason {
        reason if reason.is_valid_in(kind) => reason,
        reason if reason.is_error() => ReasonCode::UnspecifiedError,
        _ => ReasonCode::Success,
    }
}

fn put_properties(delivery: &Delivery<'_>, out: &mut BytesMut) -> Result<(), EncodeError> {
    if let Some(expiry_s) = delivery.expiry_s {
        Property::MessageExpiryInterval(expiry_s).put(out)?;
    }
    for identifier in delivery.identifiers {
        Property::SubscriptionIdentifier(*identifier).put(out)?;
    }
    let properties = delivery.properties.into_iter().flat_map(Property::of_message);
    properties.into_iter().try_for_each(|property| property.put(out))
}
