use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
};

use bytes::Bytes;
use iot_core::{
    id::CommandId,
    message::{Message, QoS},
    session::Position,
};

use super::gate::Part;
use crate::{
    mqtt::{ReasonCode, server::Ticket},
    router::Identifiers,
};

/// Above this many bytes of waiting messages, QoS 0 is shed and senders at QoS 1 and 2 wait for their acknowledgements.
pub(crate) const SOFT_BYTES_MAX: usize = 1024 * 1024;
/// Above this many waiting messages, the same.
pub(crate) const SOFT_MESSAGES_MAX: usize = 4_096;
/// Above this many times the soft bounds the subscriber is disconnected: it has stopped reading.
pub(crate) const HARD_FACTOR: usize = 16;
/// The most messages of a persistent session that wait in memory, or [`SOFT_BYTES_MAX`]; the others are read from the store.
pub(crate) const QUEUED_IN_MEMORY_MAX: usize = 512;

/// Behind so many messages, a payload of at most [`APART_BYTES_MAX`] waits in memory of its own: in that of the read in which it
/// came, it would keep 16 KiB and more for a byte that counts as one. Whoever keeps up has no such copies.
pub(crate) const APART_BEHIND: usize = 64;
const APART_BYTES_MAX: usize = 4 * 1024;

/// Something to be written to a client.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    pub(crate) message: Message,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) identifiers: Identifiers,
    pub(crate) kind: Kind,
}

/// Where an outgoing message comes from, and so who is told when the client has it.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// Routed, not stored.
    Passing,
    /// From the session's queue.
    Queued { position: Position, released: bool, dup: bool },
    /// A command.
    Command(CommandId),
}

/// Something that a connection may now say to its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Completion {
    /// An inbound message is finished: PUBACK or PUBREC. `received` is the packet id that the store remembers for it.
    Published { ticket: Ticket, received: Option<u16>, reason: ReasonCode },
    /// A PUBREL is finished: PUBCOMP.
    Released(Ticket),
    /// A PUBREC is durable: PUBREL.
    Release { packet_id: u16, tag: u64 },
}

/// What one look into the mailbox gives.
#[derive(Debug, Default)]
pub(crate) struct Letters {
    pub(crate) completions: Vec<Completion>,
    pub(crate) close: Option<ReasonCode>,
    /// The queue in the store has more than memory holds.
    pub(crate) behind: bool,
    /// Something was withheld from the client: look again at what it may watch.
    pub(crate) review: bool,
    /// A quota has changed: look again at what the client is limited by.
    pub(crate) limits: bool,
}

/// What became of a message offered to a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Posted {
    /// It waits.
    Taken,
    /// QoS 0 and no room.
    Shed,
    /// The connection is gone or going.
    Closed,
}

impl Completion {
    pub(crate) fn reason(self) -> ReasonCode {
        match self {
            Self::Published { reason, .. } => reason,
            Self::Released(_) | Self::Release { .. } => ReasonCode::Success,
        }
    }

    /// The same, with the reason that all parts together have.
    pub(crate) fn with(self, reason: ReasonCode) -> Self {
        match self {
            Self::Published { ticket, received, .. } => Self::Published { ticket, received, reason },
            other => other,
        }
    }
}

#[derive(Debug, Default)]
struct State {
    /// Most mailboxes are empty most of the time: these have none.
    queues: Option<Box<Queues>>,
    /// Whom to wake for the next thing that is left here; taken when that comes.
    sleeper: Option<Waker>,
    close: Option<ReasonCode>,
    catching_up: bool,
    more: bool,
    review: bool,
    limits: bool,
    closed: bool,
}

#[derive(Debug, Default)]
struct Queues {
    control: VecDeque<Outgoing>,
    data: VecDeque<Outgoing>,
    data_bytes: usize,
    queued: VecDeque<Outgoing>,
    queued_bytes: usize,
    completions: Vec<Completion>,
    waiting: Vec<Part>,
}

impl Queues {
    fn is_empty(&self) -> bool {
        let no_message = self.control.is_empty() && self.data.is_empty() && self.queued.is_empty();
        no_message && self.completions.is_empty() && self.waiting.is_empty()
    }

    fn push_queued(&mut self, outgoing: Outgoing) {
        self.queued_bytes += size(&outgoing);
        let outgoing = apart(outgoing, self.queued.len());
        self.queued.push_back(outgoing);
    }

    fn has_enough_queued(&self) -> bool {
        self.queued.len() >= QUEUED_IN_MEMORY_MAX || self.queued_bytes >= SOFT_BYTES_MAX
    }

    fn is_low(&self) -> bool {
        self.data_bytes < SOFT_BYTES_MAX / 2 && self.data.len() < SOFT_MESSAGES_MAX / 2
    }

    fn push_data(&mut self, outgoing: Outgoing) {
        self.data_bytes += size(&outgoing);
        let outgoing = apart(outgoing, self.data.len());
        self.data.push_back(outgoing);
    }
}

impl State {
    fn queues(&mut self) -> &mut Queues {
        self.queues.get_or_insert_default()
    }

    fn has_none(&self, queue: fn(&Queues) -> &VecDeque<Outgoing>) -> bool {
        self.queues.as_ref().is_none_or(|queues| queue(queues).is_empty())
    }
}

/// Where the rest of the node leaves what one connection has to do. Control goes before data.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    // Small sections, never across an await.
    state: Mutex<State>,
}

/// Wakes the connection, after its mailbox is unlocked.
fn wake(mut state: MutexGuard<'_, State>) {
    let sleeper = state.sleeper.take();
    drop(state);
    if let Some(sleeper) = sleeper {
        sleeper.wake();
    }
}

impl Mailbox {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the connection look: something may be due.
    pub(crate) fn nudge(&self) {
        wake(self.state());
    }

    /// Tells that something is finished.
    pub(crate) fn complete(&self, completion: Completion) {
        let mut state = self.state();
        if !state.closed {
            state.queues().completions.push(completion);
        }
        wake(state);
    }

    /// Asks the connection to end; the first reason stays.
    pub(crate) fn close(&self, reason: ReasonCode) {
        let mut state = self.state();
        state.close.get_or_insert(reason);
        wake(state);
    }

    /// A message before all data.
    pub(crate) fn post_control(&self, outgoing: Outgoing) -> Posted {
        let mut state = self.state();
        if state.closed {
            return Posted::Closed;
        }
        let control = &mut state.queues().control;
        if control.len() >= SOFT_MESSAGES_MAX {
            return Posted::Shed;
        }
        control.push_back(outgoing);
        wake(state);
        Posted::Taken
    }

    /// A routed message for a session that is not stored. If the subscriber has fallen behind, its sender's gate waits with one part
    /// more until it has caught up.
    pub(crate) fn post(&self, outgoing: Outgoing, part: impl FnOnce() -> Part) -> Posted {
        let mut state = self.state();
        if state.closed {
            return Posted::Closed;
        }
        let queues = state.queues();
        let full = queues.data_bytes >= SOFT_BYTES_MAX || queues.data.len() >= SOFT_MESSAGES_MAX;
        if full && outgoing.qos == QoS::AtMostOnce {
            return Posted::Shed;
        }
        if queues.data_bytes >= HARD_FACTOR * SOFT_BYTES_MAX || queues.data.len() >= HARD_FACTOR * SOFT_MESSAGES_MAX {
            state.close.get_or_insert(ReasonCode::QuotaExceeded);
            wake(state);
            return Posted::Closed;
        }
        queues.push_data(outgoing);
        if full {
            queues.waiting.push(part());
        }
        wake(state);
        Posted::Taken
    }

    /// A retained message that is not stored: taken whatever waits, since the subscriber asked for it. Who posts many asks
    /// [`has_room`](Self::has_room) before each page of them.
    pub(crate) fn post_retained(&self, outgoing: Outgoing) {
        let mut state = self.state();
        if state.closed {
            return;
        }
        state.queues().push_data(outgoing);
        wake(state);
    }

    /// Whether routed messages are well below their soft bounds.
    pub(crate) fn has_room(&self) -> bool {
        self.state().queues.as_ref().is_none_or(|queues| queues.is_low())
    }

    /// A message that was stored in this session's queue: kept if memory is level with the store, else left to be read.
    pub(crate) fn post_queued(&self, outgoing: Outgoing) {
        let mut state = self.state();
        if state.closed {
            return;
        }
        if state.catching_up || state.queues().has_enough_queued() {
            state.catching_up = true;
            state.more = true;
        } else {
            state.queues().push_queued(outgoing);
        }
        wake(state);
    }

    /// A message read from the store.
    pub(crate) fn post_read(&self, outgoing: Outgoing) {
        let mut state = self.state();
        if !state.closed {
            state.queues().push_queued(outgoing);
        }
    }

    /// From here on the queue is read from the store until [`caught_up`](Self::caught_up).
    pub(crate) fn fall_behind(&self) {
        let mut state = self.state();
        state.catching_up = true;
        state.more = true;
        wake(state);
    }

    /// Announces a read of the store: what is stored from now on is not in it for sure.
    pub(crate) fn begin_read(&self) {
        self.state().more = false;
    }

    /// The read has reached the end of the queue. `false` if more was stored meanwhile: read again.
    pub(crate) fn caught_up(&self) -> bool {
        let mut state = self.state();
        state.catching_up = state.more;
        !state.catching_up
    }

    /// Takes what is not a message. `sleeper` is woken when something more is left.
    pub(crate) fn look(&self, sleeper: &Waker) -> Letters {
        let mut state = self.state();
        match &mut state.sleeper {
            Some(known) => known.clone_from(sleeper),
            unknown => *unknown = Some(sleeper.clone()),
        }
        Letters {
            completions: state
                .queues
                .as_mut()
                .map(|queues| std::mem::take(&mut queues.completions))
                .unwrap_or_default(),
            close: state.close,
            review: std::mem::take(&mut state.review),
            limits: std::mem::take(&mut state.limits),
            behind: state.catching_up && state.has_none(|queues| &queues.queued),
        }
    }

    /// Gives back memory that nothing is in.
    pub(crate) fn rest(&self) {
        let mut state = self.state();
        if state.queues.as_ref().is_some_and(|queues| queues.is_empty()) {
            state.queues = None;
        }
    }

    /// Takes the next message that may be written: `window` says whether QoS 1 and 2 may be.
    pub(crate) fn next(&self, window: bool) -> Option<Outgoing> {
        let mut state = self.state();
        let queues = state.queues.as_mut()?;
        let ready = |queue: &VecDeque<Outgoing>| queue.front().is_some_and(|o| window || o.qos == QoS::AtMostOnce);
        if ready(&queues.control) {
            return queues.control.pop_front();
        }
        if ready(&queues.data) {
            let outgoing = queues.data.pop_front()?;
            queues.data_bytes = queues.data_bytes.saturating_sub(size(&outgoing));
            if queues.is_low() && !queues.waiting.is_empty() {
                let waiting = std::mem::take(&mut queues.waiting);
                drop(state);
                waiting.into_iter().for_each(|part| part.finish(ReasonCode::Success));
            }
            return Some(outgoing);
        }
        if !ready(&queues.queued) {
            return None;
        }
        let outgoing = queues.queued.pop_front()?;
        queues.queued_bytes = queues.queued_bytes.saturating_sub(size(&outgoing));
        Some(outgoing)
    }

    /// Asks the connection to look again at what its client may watch.
    pub(crate) fn ask_review(&self) {
        let mut state = self.state();
        state.review = true;
        wake(state);
    }

    /// Asks the connection to look again at what its client is limited by.
    pub(crate) fn ask_limits(&self) {
        let mut state = self.state();
        state.limits = true;
        wake(state);
    }

    /// Whether its connection is gone or told to go.
    pub(crate) fn is_closed(&self) -> bool {
        let state = self.state();
        state.closed || state.close.is_some()
    }

    /// Whether the store has to be read before there is more to write.
    pub(crate) fn is_behind(&self) -> bool {
        let state = self.state();
        state.catching_up && state.has_none(|queues| &queues.queued)
    }

    /// Puts back what could not be written; it stays the next of its kind.
    pub(crate) fn put_back(&self, outgoing: Outgoing) {
        let mut state = self.state();
        let queues = state.queues();
        match outgoing.kind {
            Kind::Command(_) => queues.control.push_front(outgoing),
            Kind::Queued { .. } => {
                queues.queued_bytes += size(&outgoing);
                queues.queued.push_front(outgoing);
            }
            Kind::Passing => {
                queues.data_bytes += size(&outgoing);
                queues.data.push_front(outgoing);
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn queued_len(&self) -> usize {
        self.state().queues.as_ref().map_or(0, |queues| queues.queued.len())
    }

    #[cfg(test)]
    pub(crate) fn has_queues(&self) -> bool {
        self.state().queues.is_some()
    }

    #[cfg(test)]
    pub(crate) fn completions(&self) -> Vec<Completion> {
        self.look(Waker::noop()).completions
    }

    /// Whether senders wait for this subscriber.
    pub(crate) fn is_congested(&self) -> bool {
        self.state().queues.as_ref().is_some_and(|queues| !queues.waiting.is_empty())
    }

    /// The connection is over: nothing is taken any more, and nobody waits for it.
    pub(crate) fn shut(&self) {
        let mut state = self.state();
        state.closed = true;
        state.sleeper = None;
        let queues = state.queues.take();
        drop(state);
        for part in queues.into_iter().flat_map(|queues| queues.waiting) {
            part.finish(ReasonCode::Success);
        }
    }
}

/// A new one, shared.
pub(crate) fn mailbox() -> Arc<Mailbox> {
    Arc::new(Mailbox::default())
}

fn apart(mut outgoing: Outgoing, behind: usize) -> Outgoing {
    let payload = &mut outgoing.message.payload;
    if behind >= APART_BEHIND && payload.len() <= APART_BYTES_MAX {
        *payload = Bytes::copy_from_slice(payload);
    }
    outgoing
}

fn size(outgoing: &Outgoing) -> usize {
    outgoing.message.size() + 64
}
