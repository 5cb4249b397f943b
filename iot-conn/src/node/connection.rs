//! One client's connection: bytes between a stream and the MQTT engine, and the engine's events to the node.

use std::{
    collections::HashMap,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::{Buf, BytesMut};
use iot_core::{
    id::CommandId,
    message::QoS,
    session::Position,
    store::{Settled, Settlement},
    time::Monotonic,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    Inner,
    endpoint::{Endpoint, Link},
    gate::Gate,
    mailbox::{Completion, Kind, Mailbox, Outgoing},
    offers::Step,
};
use crate::{
    mqtt::{
        ReasonCode,
        server::{Cause, Connection, Delivered, Delivery, Event, PacketId, PublishRequest},
    },
    transport::{Peer, Stream},
};

/// Output above this is written before more is taken from the mailbox.
const OUTPUT_MAX: usize = 64 * 1024;
/// What one read may bring.
const READ_BYTES: usize = 16 * 1024;
/// A client that takes nothing for so long, while senders wait for it, is disconnected.
const STALLED_AFTER: Duration = Duration::from_secs(10);
/// How long the last bytes of a closing connection may take.
const LAST_WRITE: Duration = Duration::from_secs(2);
/// How many messages one look at the queue brings.
const QUEUE_PAGE: u32 = 256;

/// A connection that runs.
pub(crate) struct Session {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) link: Arc<Link>,
    pub(crate) connection: Running,
    pub(crate) delivery: Progress,
    /// Filters of the last SUBSCRIBE that were not subscribed before.
    pub(crate) fresh: Vec<String>,
}

/// How far the delivery to one connection has come.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// The last of the queue that was written.
    pub(crate) last: Option<Position>,
    /// Up to here an earlier connection may have written.
    pub(crate) sent_through: Option<Position>,
    /// The last of the queue that was read from the store.
    read: Option<Position>,
    /// Commands that were written and not acknowledged; bounded by the engine's window.
    commands: HashMap<u64, CommandId>,
    next_command: u64,
}

/// What the engine gives back about a message that was delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tag {
    Passing,
    Queued(Position),
    Command(u64),
}

const TAG_SHIFT: u32 = 62;
const TAG_MASK: u64 = (1 << TAG_SHIFT) - 1;

impl Tag {
    fn write(self) -> u64 {
        match self {
            Self::Passing => 0,
            Self::Queued(position) => 1 << TAG_SHIFT | position.0 & TAG_MASK,
            Self::Command(number) => 2 << TAG_SHIFT | number & TAG_MASK,
        }
    }

    fn read(tag: u64) -> Self {
        match tag >> TAG_SHIFT {
            1 => Self::Queued(Position(tag & TAG_MASK)),
            2 => Self::Command(tag & TAG_MASK),
            _ => Self::Passing,
        }
    }
}

impl Progress {
    pub(crate) fn after(sent_through: Option<Position>) -> Self {
        Self { sent_through, ..Self::default() }
    }

    fn tag(&self, kind: &Kind) -> Tag {
        match kind {
            Kind::Passing => Tag::Passing,
            Kind::Queued { position, .. } => Tag::Queued(*position),
            Kind::Command(_) => Tag::Command(self.next_command),
        }
    }
}

/// What belongs to the bytes of a connection.
pub(crate) struct Running {
    pub(crate) node: Arc<Inner>,
    pub(crate) stream: Stream,
    pub(crate) peer: Peer,
    pub(crate) engine: Connection,
    pub(crate) mailbox: Arc<Mailbox>,
    input: BytesMut,
    /// Eof or a broken stream: nothing more comes.
    ended: bool,
    /// Bytes may wait inside the stream.
    unflushed: bool,
    progress: Monotonic,
    /// Since when senders wait for this client.
    congested: Option<Monotonic>,
}

enum Wake {
    Read,
    Wrote,
    Changed,
    Timer,
    Relieved,
}

impl Running {
    pub(crate) fn new(node: Arc<Inner>, stream: Stream, peer: Peer, engine: Connection, mailbox: Arc<Mailbox>) -> Self {
        let progress = node.clock.monotonic();
        Self {
            node,
            stream,
            peer,
            engine,
            mailbox,
            input: BytesMut::new(),
            ended: false,
            unflushed: false,
            progress,
            congested: None,
        }
    }

    /// The next event of the engine; `None` when the connection is over. Moves bytes while it waits.
    pub(crate) async fn event(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.engine.poll_event() {
                return Some(event);
            }
            if self.ended || self.engine.is_closed() {
                return None;
            }
            self.turn(false).await;
        }
    }

    /// Takes what the engine left in the input while it waited for answers: nothing new may come to wake it.
    fn read_on(&mut self) {
        let pressed = self.node.arrivals.is_pressed() || self.node.offers.is_pressed();
        if !self.input.is_empty() && !pressed && !self.engine.is_saturated() {
            self.engine.handle_input(self.node.clock.monotonic(), &mut self.input);
        }
    }

    /// Waits for one thing to happen and does what it brings. `mail` says whether the mailbox counts.
    async fn turn(&mut self, mail: bool) -> bool {
        let wake = self.wait(mail).await;
        let now = self.node.clock.monotonic();
        match wake {
            Ok(Wake::Read) => self.engine.handle_input(now, &mut self.input),
            Ok(Wake::Wrote) => (self.progress, self.unflushed) = (now, true),
            Ok(Wake::Timer) => self.engine.handle_timeout(now),
            Ok(Wake::Changed | Wake::Relieved) => {}
            Err(error) => {
                tracing::debug!(%error, "the stream ended");
                self.ended = true;
            }
        }
        self.ended
    }

    async fn wait(&mut self, mail: bool) -> io::Result<Wake> {
        let node = self.node.clone();
        let arrivals = node.arrivals.relieved();
        let offers = node.offers.relieved();
        let pressed = node.arrivals.is_pressed() || node.offers.is_pressed();
        let mailbox = self.mailbox.clone();
        let mut changed = pin!(mailbox.changed());
        let mut relieved = pin!(async move {
            tokio::select! { () = arrivals => {}, () = offers => {} }
        });
        let mut timer = pin!(sleep_until(&node, self.timeout(mail, pressed)));
        let (engine, stream, input, unflushed) =
            (&mut self.engine, &mut self.stream, &mut self.input, &mut self.unflushed);
        let may_read = !pressed && !engine.is_saturated();
        poll_fn(|cx| {
            if mail && changed.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(Wake::Changed));
            }
            if !engine.output().is_empty()
                && let Poll::Ready(written) = Pin::new(&mut *stream).poll_write(cx, engine.output())
            {
                return Poll::Ready(written.and_then(|count| advance(engine.output(), count)));
            }
            // TLS and WebSocket take bytes before the socket does, and send them only when they are asked to.
            if engine.output().is_empty()
                && *unflushed
                && let Poll::Ready(flushed) = Pin::new(&mut *stream).poll_flush(cx)
            {
                *unflushed = false;
                if let Err(error) = flushed {
                    return Poll::Ready(Err(error));
                }
            }
            if may_read && let Poll::Ready(read) = poll_read(Pin::new(&mut *stream), cx, input) {
                return Poll::Ready(read.map(|()| Wake::Read));
            }
            if pressed && relieved.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(Wake::Relieved));
            }
            timer.as_mut().poll(cx).map(|()| Ok(Wake::Timer))
        })
        .await
    }

    /// While the node does not read, silence says nothing about the client.
    fn timeout(&mut self, mail: bool, pressed: bool) -> Option<Monotonic> {
        let heard = if pressed { None } else { self.engine.poll_timeout() };
        let stalled = if mail { self.stalled_at() } else { None };
        [heard, stalled].into_iter().flatten().min()
    }

    /// When a client for which senders wait counts as stalled, unless it takes something before.
    fn stalled_at(&mut self) -> Option<Monotonic> {
        if !self.mailbox.is_congested() {
            self.congested = None;
            return None;
        }
        let since = *self.congested.get_or_insert(self.node.clock.monotonic());
        Some(self.progress.max(since).plus(STALLED_AFTER))
    }

    /// Writes what is left, for a short while, and closes.
    pub(crate) async fn finish(mut self) {
        let write = async {
            while !self.engine.output().is_empty() {
                let written = poll_fn(|cx| Pin::new(&mut self.stream).poll_write(cx, self.engine.output())).await?;
                advance(self.engine.output(), written)?;
            }
            poll_fn(|cx| Pin::new(&mut self.stream).poll_shutdown(cx)).await
        };
        if !self.ended {
            // A client that does not take its last bytes loses them.
            let _: Result<io::Result<()>, _> = tokio::time::timeout(LAST_WRITE, write).await;
        }
    }
}

async fn sleep_until(node: &Inner, at: Option<Monotonic>) {
    match at {
        Some(at) => tokio::time::sleep(at.since(node.clock.monotonic())).await,
        None => std::future::pending().await,
    }
}

fn advance(output: &mut BytesMut, count: usize) -> io::Result<Wake> {
    if count == 0 {
        return Err(io::ErrorKind::WriteZero.into());
    }
    output.advance(count);
    Ok(Wake::Wrote)
}

fn poll_read(stream: Pin<&mut Stream>, cx: &mut std::task::Context<'_>, input: &mut BytesMut) -> Poll<io::Result<()>> {
    let mut space = [0u8; READ_BYTES];
    let mut buffer = ReadBuf::new(&mut space);
    std::task::ready!(stream.poll_read(cx, &mut buffer))?;
    if buffer.filled().is_empty() {
        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
    }
    input.extend_from_slice(buffer.filled());
    Poll::Ready(Ok(()))
}

impl Session {
    /// Serves the client until one side ends it; answers why.
    pub(crate) async fn run(&mut self) -> Cause {
        let mut delivery = std::mem::take(&mut self.delivery);
        let cause = self.serve(&mut delivery).await;
        self.delivery = delivery;
        cause
    }

    async fn serve(&mut self, delivery: &mut Progress) -> Cause {
        loop {
            while let Some(event) = self.connection.engine.poll_event() {
                if let Event::Closed(cause) = event {
                    return cause;
                }
                self.handle(event, delivery).await;
            }
            if self.connection.ended {
                return Cause::Lost;
            }
            self.complete(delivery).await;
            self.fill(delivery);
            self.connection.read_on();
            // A page of which nothing was written brings nothing that would wake this task for the next.
            let on = self.connection.mailbox.is_behind() && !self.connection.engine.is_closed();
            if !on && !self.connection.engine.has_events() {
                self.connection.turn(true).await;
                self.check_stalled();
            }
        }
    }

    fn check_stalled(&mut self) {
        let now = self.connection.node.clock.monotonic();
        if self.connection.stalled_at().is_some_and(|at| at <= now) {
            metrics::counter!("iot_disconnects_total", "reason" => "stalled").increment(1);
            self.connection.engine.disconnect(ReasonCode::QuotaExceeded);
        }
    }

    async fn handle(&mut self, event: Event, delivery: &mut Progress) {
        match event {
            Event::Publish(request) => self.publish(request).await,
            Event::Release { ticket, packet_id } => self.released(ticket, packet_id),
            Event::Received { tag, packet_id } => self.received(tag, packet_id),
            Event::Finished { tag, reason } => self.finished(tag, reason, delivery),
            Event::Subscribe { ticket, filters, identifier } => {
                let codes = self.subscribe(&filters, identifier).await;
                self.connection.engine.subscribed(ticket, &codes);
                self.send_retained(&filters, &codes, identifier).await;
            }
            Event::Unsubscribe { ticket, filters } => {
                let codes = self.unsubscribe(&filters).await;
                self.connection.engine.unsubscribed(ticket, &codes);
            }
            Event::Connect(_) | Event::Closed(_) => {}
        }
    }

    async fn publish(&mut self, request: PublishRequest) {
        let node = self.connection.node.clone();
        metrics::counter!("iot_messages_received_total").increment(1);
        let Some(ticket) = request.ticket else {
            node.publish(&self.endpoint, &self.link, request, &Gate::open()).await;
            return;
        };
        let received = request.packet_id.filter(|_| request.qos == QoS::ExactlyOnce && self.link.persistent);
        let completion = Completion::Published { ticket, received, reason: ReasonCode::Success };
        let (gate, own) = Gate::new(&self.connection.mailbox, completion);
        let reason = node.publish(&self.endpoint, &self.link, request, &gate).await;
        own.finish(reason);
    }

    fn released(&mut self, ticket: crate::mqtt::server::Ticket, packet_id: u16) {
        if !self.link.persistent {
            self.connection.engine.released(ticket);
            return;
        }
        let (_, part) = Gate::new(&self.connection.mailbox, Completion::Released(ticket));
        self.settle(Settled::Forgotten(packet_id), Some(part));
    }

    fn received(&mut self, tag: u64, packet_id: u16) {
        match Tag::read(tag) {
            Tag::Queued(position) => {
                let (_, part) = Gate::new(&self.connection.mailbox, Completion::Release { packet_id, tag });
                self.settle(Settled::Released(position), Some(part));
            }
            Tag::Passing | Tag::Command(_) => self.connection.engine.release(packet_id, tag),
        }
    }

    fn finished(&mut self, tag: u64, reason: ReasonCode, delivery: &mut Progress) {
        self.connection.progress = self.connection.node.clock.monotonic();
        match Tag::read(tag) {
            Tag::Queued(position) => self.settle(Settled::Finished(position), None),
            Tag::Command(number) => {
                if let Some(id) = delivery.commands.remove(&number)
                    && !reason.is_error()
                {
                    self.connection.node.commander.acknowledged(&self.link.principal.tenant, &id);
                }
            }
            Tag::Passing => {}
        }
    }

    fn settle(&self, step: Settled, part: Option<super::gate::Part>) {
        let settlement = Settlement { session: self.endpoint.session.clone(), epoch: self.link.epoch, step };
        self.connection.node.steps.push(Step { settlement, part });
    }

    /// Does what the rest of the node has left in the mailbox.
    async fn complete(&mut self, delivery: &mut Progress) {
        let letters = self.connection.mailbox.look();
        if let Some(reason) = letters.close {
            // Not acknowledged any more: if the session was taken over, what completed may not have been stored.
            self.connection.engine.disconnect(reason);
            return;
        }
        for completion in letters.completions {
            match completion {
                // The client may use the packet id again, so it is forgotten before the client is told.
                Completion::Published { ticket, received: Some(packet_id), reason } if reason.is_error() => {
                    let completion = Completion::Published { ticket, received: None, reason };
                    let (_, part) = Gate::new(&self.connection.mailbox, completion);
                    self.settle(Settled::Forgotten(packet_id), Some(part));
                }
                Completion::Published { ticket, reason, .. } => self.connection.engine.published(ticket, reason),
                Completion::Released(ticket) => self.connection.engine.released(ticket),
                Completion::Release { packet_id, tag } => self.connection.engine.release(packet_id, tag),
            }
        }
        if letters.review
            && let Err(error) = self.connection.node.review(&self.endpoint, &self.link).await
        {
            tracing::error!(error = &error as &dyn std::error::Error, "what a client may watch cannot be read");
            self.connection.engine.disconnect(ReasonCode::UnspecifiedError);
        }
        if letters.behind {
            self.read_queue(delivery).await;
        }
    }

    /// Brings the next page of the stored queue into memory.
    async fn read_queue(&mut self, delivery: &mut Progress) {
        let mailbox = self.connection.mailbox.clone();
        let store = self.connection.node.stores.sessions.clone();
        mailbox.begin_read();
        match store.peek(&self.endpoint.session, delivery.read.max(delivery.last), QUEUE_PAGE).await {
            Ok(queued) => {
                let end = queued.len() < QUEUE_PAGE as usize;
                for item in queued {
                    delivery.read = Some(item.position);
                    let dup = delivery.sent_through.is_some_and(|through| item.position <= through);
                    mailbox.post_read(Outgoing {
                        message: item.message,
                        qos: item.qos,
                        retain: item.retain,
                        identifiers: item.identifiers.into_iter().collect(),
                        kind: Kind::Queued { position: item.position, released: item.released, dup },
                    });
                }
                if end {
                    mailbox.caught_up();
                }
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a queue cannot be read");
                self.connection.engine.disconnect(ReasonCode::UnspecifiedError);
            }
        }
    }

    /// Gives the engine what it can take.
    fn fill(&mut self, delivery: &mut Progress) {
        let now = self.connection.node.clock.monotonic();
        while self.connection.engine.output().len() < OUTPUT_MAX && !self.connection.engine.is_closed() {
            let window = self.connection.engine.window() > 0;
            let Some(outgoing) = self.connection.mailbox.next(window) else { return };
            if !self.deliver(now, outgoing, delivery) {
                return;
            }
        }
    }

    /// `false` if it must wait.
    fn deliver(&mut self, now: Monotonic, outgoing: Outgoing, delivery: &mut Progress) -> bool {
        let timestamp = self.connection.node.clock.timestamp();
        let tag = delivery.tag(&outgoing.kind);
        if let Kind::Queued { position, released, .. } = outgoing.kind {
            if delivery.last.is_some_and(|last| position <= last) {
                return true;
            }
            if released {
                delivery.last = Some(position);
                self.connection.engine.release(position.packet_id().get(), tag.write());
                return true;
            }
        }
        let allowed = matches!(outgoing.kind, Kind::Command(_)) || self.link.may_receive(&outgoing.message, timestamp);
        if !allowed || outgoing.message.is_expired(timestamp) {
            let why = if allowed { "expired" } else { "not_authorized" };
            metrics::counter!("iot_messages_dropped_total", "reason" => why).increment(1);
            self.skip(&outgoing.kind, delivery);
            return true;
        }
        let topic = self.local_topic(&outgoing);
        let expiry = outgoing.message.expires.map(|at| at.since(timestamp).as_secs());
        let properties = outgoing.message.properties.clone().unwrap_or_default();
        let (packet_id, dup) = match outgoing.kind {
            Kind::Queued { position, dup, .. } => (PacketId::Use(position.packet_id()), dup),
            Kind::Passing | Kind::Command(_) => (PacketId::Assign, false),
        };
        let written = self.connection.engine.deliver(
            now,
            &Delivery {
                topic: &topic,
                payload: &outgoing.message.payload,
                qos: outgoing.qos,
                retain: outgoing.retain,
                dup: dup && outgoing.qos != QoS::AtMostOnce,
                packet_id,
                tag: tag.write(),
                identifiers: &outgoing.identifiers,
                properties: &properties,
                expiry_s: expiry.map(|s| u32::try_from(s).unwrap_or(u32::MAX)),
            },
        );
        drop(topic);
        match written {
            Delivered::Written => self.written(outgoing.kind, delivery),
            Delivered::TooLarge => {
                metrics::counter!("iot_messages_dropped_total", "reason" => "too_large").increment(1);
                self.skip(&outgoing.kind, delivery);
            }
            Delivered::Full => {
                self.connection.mailbox.put_back(outgoing);
                return false;
            }
        }
        true
    }

    /// A device sees its own tree from inside.
    fn local_topic(&self, outgoing: &Outgoing) -> String {
        let topic = &*outgoing.message.topic;
        let prefix = self.link.device.as_ref().map_or("", |device| device.prefix.as_str());
        topic.strip_prefix(prefix).unwrap_or(topic).to_owned()
    }

    fn written(&mut self, kind: Kind, delivery: &mut Progress) {
        metrics::counter!("iot_messages_sent_total").increment(1);
        match kind {
            Kind::Queued { position, .. } => delivery.last = Some(position),
            Kind::Command(id) => {
                self.connection.node.commander.sent(&self.link.principal.tenant, &id);
                delivery.commands.insert(delivery.next_command, id);
                delivery.next_command += 1;
            }
            Kind::Passing => {}
        }
    }

    fn skip(&mut self, kind: &Kind, delivery: &mut Progress) {
        if let Kind::Queued { position, .. } = kind {
            delivery.last = Some(*position);
            self.settle(Settled::Finished(*position), None);
        }
    }
}
