//! One client's connection while it runs: what the engine says to the node, and what the node has for the client.
//!
//! A [`Session`] is driven by [`poll`](Session::poll), which does whatever can be done at once. What has to wait for a store is
//! given back as [`Work`] and done in a future of its own, so that a connection of which nothing is heard holds neither a buffer
//! nor the state of anything it once did.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use iot_core::{
    id::CommandId,
    message::QoS,
    session::Position,
    store::{Settled, Settlement},
    time::Monotonic,
};
use tokio::sync::OwnedSemaphorePermit;
use tracing::Instrument;

use super::{
    Inner,
    endpoint::{Endpoint, Link},
    gate::{Gate, Part},
    mailbox::{Completion, Mailbox},
    offers::Step,
    opening::{self, Will},
    plane::Round,
    quota::Metering,
    subscriptions::RetainedWanted,
    uplink::{Said, Taken},
    wheel::TimerKey,
    wire::Wire,
};
use crate::mqtt::{
    ReasonCode,
    server::{Cause, Event, PublishRequest, SubscribeOptions, Ticket},
};

/// A client that takes nothing for so long, while senders wait for it, is disconnected.
const STALLED_AFTER: Duration = Duration::from_secs(10);

/// How many reads a connection may do before others have their turn: what one read brings may be thousands of messages.
const READS_MAX: u8 = 2;

/// A connection that runs.
pub(crate) struct Session {
    pub(crate) node: Arc<Inner>,
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) link: Arc<Link>,
    pub(crate) wire: Wire,
    pub(crate) progress: Progress,
    pub(super) rare: Option<Box<Rare>>,
    /// What it is limited by, if it is.
    pub(super) metering: Option<Box<Metering>>,
    /// While packets come.
    said: Option<Box<Said>>,
    /// How long the session outlives the connection, in seconds.
    pub(crate) expiry_s: u32,
    /// One of the connections that there may be.
    _permit: OwnedSemaphorePermit,
    rounds: [Round; 2],
    /// When the client last took or acknowledged something.
    took: Monotonic,
    /// What is set in the node's wheel, and for when.
    timer: Option<(TimerKey, Monotonic)>,
}

/// How far the delivery to one connection has come. Positions begin at 1.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// The last of the queue that was written.
    pub(crate) last: Position,
    /// Up to here an earlier connection may have written.
    pub(crate) sent_through: Position,
    /// The last of the queue that was read from the store.
    pub(crate) read: Position,
}

/// What few connections have at any time.
#[derive(Default)]
pub(crate) struct Rare {
    pub(crate) will: Option<Will>,
    /// Commands that were written and not acknowledged, with their numbers; bounded by the engine's window.
    pub(crate) commands: Vec<(u64, CommandId)>,
    pub(crate) next_command: u64,
    /// Retained messages that the client has asked for and that are not read yet. Bounded by its subscriptions.
    pub(crate) retained: VecDeque<RetainedWanted>,
    /// Since when senders wait for the client.
    congested: Option<Monotonic>,
}

impl Rare {
    fn is_empty(&self) -> bool {
        let Self { will, commands, retained, congested, next_command: _ } = self;
        will.is_none() && commands.is_empty() && retained.is_empty() && congested.is_none()
    }
}

/// What has to wait for something outside the connection.
pub(crate) enum Work {
    /// Where it may go has to be read first, or a service is asked.
    Publish(Box<PublishRequest>),
    Subscribe {
        ticket: Ticket,
        filters: Vec<(String, SubscribeOptions)>,
        identifier: Option<u32>,
    },
    Unsubscribe {
        ticket: Ticket,
        filters: Vec<String>,
    },
    /// What the client may watch is looked at again.
    Review,
    /// What the client is limited by is.
    Limits,
    /// The next page of the stored queue is brought into memory.
    ReadQueue,
    /// The next page of the retained messages that were asked for is.
    ReadRetained,
}

/// Why [`Session::poll`] is done.
pub(crate) enum Turn {
    Work(Work),
    Ended(Cause),
}

/// What the engine gives back about a message that was delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag {
    Passing,
    Queued(Position),
    Command(u64),
}

const TAG_SHIFT: u32 = 62;
const TAG_MASK: u64 = (1 << TAG_SHIFT) - 1;

impl Tag {
    pub(super) fn write(self) -> u64 {
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

impl Session {
    pub(crate) fn new(node: Arc<Inner>, wire: Wire, taken: opening::Taken, permit: OwnedSemaphorePermit) -> Self {
        let opening::Taken { endpoint, link, will, expiry_s, sent_through, metering } = taken;
        Self {
            progress: Progress { sent_through, ..Progress::default() },
            rare: will.map(|will| Box::new(Rare { will: Some(will), ..Rare::default() })),
            metering,
            said: None,
            rounds: [Round::default(); 2],
            took: node.clock.monotonic(),
            timer: None,
            node,
            endpoint,
            link,
            wire,
            expiry_s,
            _permit: permit,
        }
    }

    /// For what is logged of this connection.
    pub(crate) fn span(&self) -> tracing::Span {
        tracing::info_span!("connection", client = %self.link.principal)
    }

    pub(super) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    pub(crate) fn take_will(&mut self) -> Option<Will> {
        self.rare.as_mut()?.will.take()
    }

    pub(crate) fn mailbox(&self) -> &Arc<Mailbox> {
        &self.link.mailbox
    }

    /// Serves the client until one side ends it; answers why.
    pub(crate) async fn run(&mut self) -> Cause {
        loop {
            match std::future::poll_fn(|cx| self.poll(cx)).await {
                // Boxed, so that its state is there only while it works.
                Turn::Work(work) => {
                    let span = self.span();
                    Box::pin(self.work(work).instrument(span)).await;
                }
                Turn::Ended(cause) => return cause,
            }
        }
    }

    /// Moves bytes and messages until nothing can go on without another wake.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        let mut reads_left = READS_MAX;
        loop {
            if let Some(turn) = self.events() {
                return Poll::Ready(turn);
            }
            if self.wire.is_ended() && !self.is_slowed() {
                return Poll::Ready(Turn::Ended(Cause::Lost));
            }
            if let Some(work) = self.take_letters(cx) {
                return Poll::Ready(Turn::Work(work));
            }
            if self.has_only_what_waits() {
                if self.is_ending() {
                    continue;
                }
                self.rest(true);
                return Poll::Pending;
            }
            self.fill();
            let now = self.node.clock.monotonic();
            let is_slowed = self.is_slowed();
            let held_up = self.is_held_up(cx) || is_slowed;
            if !held_up {
                self.wire.read_on(now);
            }
            if self.wire.engine.has_events() && !is_slowed {
                continue;
            }
            let wrote = self.wire.poll_write(cx).is_ready();
            if wrote {
                self.took = now;
            }
            let reads = !held_up && !self.wire.engine.is_saturated();
            if reads && reads_left == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if reads && self.wire.poll_read(cx, now).is_ready() {
                reads_left -= 1;
                continue;
            }
            if wrote {
                continue;
            }
            // A page of which nothing was written brings nothing that would wake this task for the next.
            if self.check_time(now, held_up) || self.link.mailbox.is_behind() {
                continue;
            }
            self.rest(held_up);
            return Poll::Pending;
        }
    }

    /// Handles what the engine says.
    fn events(&mut self) -> Option<Turn> {
        if let Some(work) = self.release_held() {
            return Some(Turn::Work(work));
        }
        while !self.is_slowed()
            && let Some(event) = self.wire.engine.poll_event()
        {
            let work = match event {
                Event::Publish(request) => self.publish(request),
                Event::Release { ticket, packet_id } => self.released(ticket, packet_id),
                Event::Received { tag, packet_id } => self.received(tag, packet_id),
                Event::Finished { tag, reason } => self.finished(tag, reason),
                Event::Subscribe { ticket, filters, identifier } => {
                    Some(Work::Subscribe { ticket, filters, identifier })
                }
                Event::Unsubscribe { ticket, filters } => Some(Work::Unsubscribe { ticket, filters }),
                Event::Connect(_) => None,
                Event::Closed(cause) => return Some(Turn::Ended(cause)),
            };
            if let Some(work) = work {
                return Some(Turn::Work(work));
            }
        }
        None
    }

    /// Does what the rest of the node has left in the mailbox.
    fn take_letters(&mut self, cx: &Context<'_>) -> Option<Work> {
        let letters = self.link.mailbox.look(cx.waker());
        if let Some(reason) = letters.close {
            // Not acknowledged any more: if the session was taken over, what completed may not have been stored.
            let farewell = self.node.farewell(reason);
            self.wire.engine.disconnect_with(reason, &farewell);
            return None;
        }
        letters.completions.into_iter().for_each(|completion| self.complete(completion));
        if letters.limits {
            if letters.review {
                self.link.mailbox.ask_review();
            }
            return Some(Work::Limits);
        }
        match (letters.review, letters.behind) {
            (true, _) => Some(Work::Review),
            (false, true) if !self.wire.engine.is_closed() => Some(Work::ReadQueue),
            _ if self.may_read_retained() => Some(Work::ReadRetained),
            _ => None,
        }
    }

    fn may_read_retained(&self) -> bool {
        let is_wanted = self.rare.as_ref().is_some_and(|rare| !rare.retained.is_empty());
        is_wanted && !self.wire.engine.is_closed() && self.link.mailbox.has_room()
    }

    fn complete(&mut self, completion: Completion) {
        let engine = &mut self.wire.engine;
        match completion {
            // The client may use the packet id again, so it is forgotten before the client is told.
            Completion::Published { ticket, received: Some(packet_id), reason } if reason.is_error() => {
                let completion = Completion::Published { ticket, received: None, reason };
                let part = Part::only(self.mailbox(), completion);
                self.settle(Settled::Forgotten(packet_id), Some(part));
            }
            Completion::Published { ticket, reason, .. } => engine.published(ticket, reason),
            Completion::Released(ticket) => engine.released(ticket),
            Completion::Release { packet_id, tag } => engine.release(packet_id, tag),
        }
    }

    /// Whether the node does not read for now.
    fn is_held_up(&mut self, cx: &Context<'_>) -> bool {
        let [arrivals, offers] = &mut self.rounds;
        // Both, as either may be what is relieved.
        let by_arrivals = self.node.arrivals.holds_up(arrivals, cx.waker());
        self.node.offers.holds_up(offers, cx.waker()) || by_arrivals
    }

    /// Ends the connection if its client was silent or took nothing for too long; whether it did.
    fn check_time(&mut self, now: Monotonic, held_up: bool) -> bool {
        // While the node does not read, silence says nothing about the client.
        if !held_up {
            self.wire.engine.handle_timeout(now);
        }
        if self.stalled_at(now).is_some_and(|at| at <= now) {
            metrics::counter!("iot_disconnects_total", "reason" => "stalled").increment(1);
            self.wire.engine.disconnect(ReasonCode::QuotaExceeded);
        }
        self.wire.engine.is_closed()
    }

    /// When a client for which senders wait counts as stalled, unless it takes something before.
    fn stalled_at(&mut self, now: Monotonic) -> Option<Monotonic> {
        if !self.link.mailbox.is_congested() {
            if let Some(rare) = &mut self.rare {
                rare.congested = None;
            }
            return None;
        }
        let since = *self.rare().congested.get_or_insert(now);
        Some(self.took.max(since).plus(STALLED_AFTER))
    }

    /// Gives back memory, and sees to it that the connection is woken in time.
    fn rest(&mut self, held_up: bool) {
        self.wire.engine.rest();
        self.said = None;
        if self.rare.as_ref().is_some_and(|rare| rare.is_empty()) {
            self.rare = None;
        }
        // What is not read is not silent.
        self.link.suspect_from(if held_up { None } else { self.wire.engine.suspect_from() });
        self.link.mailbox.rest();
        let heard = if held_up { None } else { self.wire.engine.poll_timeout() };
        let now = self.node.clock.monotonic();
        let slowed_until = self.metering.as_ref().and_then(|metering| metering.held_until());
        let Some(due) = [heard, self.stalled_at(now), slowed_until].into_iter().flatten().min() else { return };
        // One that fires early is set again then: while packets come, there is nothing to do for each of them.
        if self.timer.is_none_or(|(_, at)| at > due || at <= now) {
            self.cancel_timer();
            self.timer = self.node.timers.set(due, self.mailbox());
        }
    }

    fn cancel_timer(&mut self) {
        if let Some((key, _)) = self.timer.take() {
            self.node.timers.cancel(key);
        }
    }

    /// Does what had to wait.
    async fn work(&mut self, work: Work) {
        match work {
            Work::Publish(request) => self.publish_later(request).await,
            Work::Subscribe { ticket, filters, identifier } => {
                let (codes, fresh) = self.subscribe(&filters, identifier).await;
                self.wire.engine.subscribed(ticket, &codes);
                self.want_retained(&filters, &codes, &fresh, identifier).await;
            }
            Work::Unsubscribe { ticket, filters } => {
                let codes = self.unsubscribe(&filters).await;
                self.wire.engine.unsubscribed(ticket, &codes);
            }
            Work::Review => self.review().await,
            Work::Limits => self.relimit().await,
            Work::ReadQueue => self.read_queue().await,
            Work::ReadRetained => self.read_retained().await,
        }
    }

    fn publish(&mut self, request: PublishRequest) -> Option<Work> {
        self.node.counters.received.increment(1);
        match self.metering {
            None => self.hand_on(request),
            Some(_) => self.publish_limited(request),
        }
    }

    /// Gives a message to the node.
    pub(super) fn hand_on(&mut self, request: PublishRequest) -> Option<Work> {
        let completion = self.completion(&request);
        let gate = completion.map_or_else(Gate::open, |completion| Gate::new(&self.link.mailbox, completion));
        // Worth it only if more comes.
        let said = self.wire.engine.has_events().then(|| &mut **self.said.get_or_insert_default());
        match self.node.publish(&self.endpoint, &self.link, request, &gate, None, said) {
            Taken::Done(reason) => {
                let done = gate.finish(reason);
                done.into_iter().for_each(|completion| self.complete(completion));
                None
            }
            Taken::NotYet(request) => Some(Work::Publish(request)),
        }
    }

    /// Answers a message that is not taken.
    pub(super) fn refuse(&mut self, request: &PublishRequest, reason: ReasonCode) {
        if let Some(completion) = self.completion(request) {
            self.complete(completion.with(reason));
        }
    }

    async fn publish_later(&mut self, request: Box<PublishRequest>) {
        let completion = self.completion(&request);
        let gate = completion.map_or_else(Gate::open, |completion| Gate::new(&self.link.mailbox, completion));
        let reason = self.node.publish_later(&self.endpoint, &self.link, *request, &gate).await;
        let done = gate.finish(reason);
        done.into_iter().for_each(|completion| self.complete(completion));
    }

    /// How a message is acknowledged; not at all with QoS 0.
    fn completion(&self, request: &PublishRequest) -> Option<Completion> {
        let ticket = request.ticket?;
        let received = request.packet_id.filter(|_| request.qos == QoS::ExactlyOnce && self.link.persistent);
        Some(Completion::Published { ticket, received, reason: ReasonCode::Success })
    }

    fn released(&mut self, ticket: Ticket, packet_id: u16) -> Option<Work> {
        if self.link.persistent {
            let part = Part::only(self.mailbox(), Completion::Released(ticket));
            self.settle(Settled::Forgotten(packet_id), Some(part));
        } else {
            self.wire.engine.released(ticket);
        }
        None
    }

    fn received(&mut self, tag: u64, packet_id: u16) -> Option<Work> {
        match Tag::read(tag) {
            Tag::Queued(position) => {
                let part = Part::only(self.mailbox(), Completion::Release { packet_id, tag });
                self.settle(Settled::Released(position), Some(part));
            }
            Tag::Passing | Tag::Command(_) => self.wire.engine.release(packet_id, tag),
        }
        None
    }

    fn finished(&mut self, tag: u64, reason: ReasonCode) -> Option<Work> {
        self.took = self.node.clock.monotonic();
        match Tag::read(tag) {
            Tag::Queued(position) => self.settle(Settled::Finished(position), None),
            Tag::Command(number) => {
                let commands = &mut self.rare().commands;
                let written = commands.iter().position(|(known, _)| *known == number);
                if let Some((_, id)) = written.map(|at| commands.swap_remove(at))
                    && !reason.is_error()
                {
                    self.node.commander.acknowledged(&self.link.principal.tenant, &id);
                }
            }
            Tag::Passing => {}
        }
        None
    }

    /// Has a step of a delivery made durable.
    pub(super) fn settle(&self, step: Settled, part: Option<Part>) {
        let settlement = Settlement { session: self.endpoint.session.clone(), epoch: self.link.epoch, step };
        self.node.steps.push(Step { settlement, part });
    }

    async fn review(&mut self) {
        if let Err(error) = self.node.review(&self.endpoint, &self.link).await {
            tracing::error!(error = &error as &dyn std::error::Error, "what a client may watch cannot be read");
            self.wire.engine.disconnect(ReasonCode::UnspecifiedError);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.cancel_timer();
    }
}
