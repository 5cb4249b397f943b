use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use iot_core::{
    id::CommandId,
    message::{Message, QoS},
    session::Position,
};
use tokio::sync::Notify;

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
/// The most messages of a persistent session that wait in memory; the others are read from the store.
pub(crate) const QUEUED_IN_MEMORY_MAX: usize = 512;

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

#[derive(Debug, Default)]
struct State {
    control: VecDeque<Outgoing>,
    data: VecDeque<Outgoing>,
    data_bytes: usize,
    queued: VecDeque<Outgoing>,
    catching_up: bool,
    more: bool,
    completions: Vec<Completion>,
    waiting: Vec<Part>,
    close: Option<ReasonCode>,
    review: bool,
    closed: bool,
}

/// Where the rest of the node leaves what one connection has to do. Control goes before data.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    // Small sections, never across an await.
    state: Mutex<State>,
    changed: Notify,
}

impl Mailbox {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when something was left since the last look.
    pub(crate) fn changed(&self) -> impl Future<Output = ()> + '_ {
        self.changed.notified()
    }

    /// Tells that something is finished.
    pub(crate) fn complete(&self, completion: Completion) {
        let mut state = self.state();
        state.completions.push(completion);
        if state.completions.len() == 1 {
            self.changed.notify_one();
        }
    }

    /// Asks the connection to end; the first reason stays.
    pub(crate) fn close(&self, reason: ReasonCode) {
        self.state().close.get_or_insert(reason);
        self.changed.notify_one();
    }

    /// A message before all data.
    pub(crate) fn post_control(&self, outgoing: Outgoing) -> Posted {
        let mut state = self.state();
        if state.closed {
            return Posted::Closed;
        }
        if state.control.len() >= SOFT_MESSAGES_MAX {
            return Posted::Shed;
        }
        state.control.push_back(outgoing);
        self.changed.notify_one();
        Posted::Taken
    }

    /// A routed message for a session that is not stored. `part` is finished at once, or when the subscriber has caught up.
    pub(crate) fn post(&self, outgoing: Outgoing, part: Part) -> Posted {
        let mut state = self.state();
        if state.closed {
            drop(state);
            part.finish(ReasonCode::Success);
            return Posted::Closed;
        }
        let full = state.data_bytes >= SOFT_BYTES_MAX || state.data.len() >= SOFT_MESSAGES_MAX;
        if full && outgoing.qos == QoS::AtMostOnce {
            drop(state);
            part.finish(ReasonCode::Success);
            return Posted::Shed;
        }
        if state.data_bytes >= HARD_FACTOR * SOFT_BYTES_MAX || state.data.len() >= HARD_FACTOR * SOFT_MESSAGES_MAX {
            state.close.get_or_insert(ReasonCode::QuotaExceeded);
            self.changed.notify_one();
            drop(state);
            part.finish(ReasonCode::Success);
            return Posted::Closed;
        }
        state.data_bytes += size(&outgoing);
        state.data.push_back(outgoing);
        if state.data.len() == 1 {
            self.changed.notify_one();
        }
        if full {
            state.waiting.push(part);
            // The connection must watch from here on whether its client takes anything.
            if state.waiting.len() == 1 {
                self.changed.notify_one();
            }
        } else {
            drop(state);
            part.finish(ReasonCode::Success);
        }
        Posted::Taken
    }

    /// A retained message for a session that is not stored: taken whatever waits, since the subscriber asked for it; how many
    /// there can be is bounded by the tenant's retained messages.
    pub(crate) fn post_retained(&self, outgoing: Outgoing) {
        let mut state = self.state();
        if state.closed {
            return;
        }
        state.data_bytes += size(&outgoing);
        state.data.push_back(outgoing);
        self.changed.notify_one();
    }

    /// A message that was stored in this session's queue: kept if memory is level with the store, else left to be read.
    pub(crate) fn post_queued(&self, outgoing: Outgoing) {
        let mut state = self.state();
        if state.closed {
            return;
        }
        if state.catching_up || state.queued.len() >= QUEUED_IN_MEMORY_MAX {
            state.catching_up = true;
            state.more = true;
        } else {
            state.queued.push_back(outgoing);
        }
        self.changed.notify_one();
    }

    /// A message read from the store.
    pub(crate) fn post_read(&self, outgoing: Outgoing) {
        let mut state = self.state();
        if !state.closed {
            state.queued.push_back(outgoing);
        }
    }

    /// From here on the queue is read from the store until [`caught_up`](Self::caught_up).
    pub(crate) fn fall_behind(&self) {
        let mut state = self.state();
        state.catching_up = true;
        state.more = true;
        self.changed.notify_one();
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

    /// Takes what is not a message.
    pub(crate) fn look(&self) -> Letters {
        let mut state = self.state();
        Letters {
            completions: std::mem::take(&mut state.completions),
            close: state.close,
            review: std::mem::take(&mut state.review),
            behind: state.catching_up && state.queued.is_empty(),
        }
    }

    /// Takes the next message that may be written: `window` says whether QoS 1 and 2 may be.
    pub(crate) fn next(&self, window: bool) -> Option<Outgoing> {
        let mut state = self.state();
        let ready = |queue: &VecDeque<Outgoing>| queue.front().is_some_and(|o| window || o.qos == QoS::AtMostOnce);
        if ready(&state.control) {
            return state.control.pop_front();
        }
        if ready(&state.data) {
            let outgoing = state.data.pop_front()?;
            state.data_bytes = state.data_bytes.saturating_sub(size(&outgoing));
            self.relieve(state);
            return Some(outgoing);
        }
        if ready(&state.queued) { state.queued.pop_front() } else { None }
    }

    fn relieve(&self, mut state: MutexGuard<'_, State>) {
        let low = state.data_bytes < SOFT_BYTES_MAX / 2 && state.data.len() < SOFT_MESSAGES_MAX / 2;
        if low && !state.waiting.is_empty() {
            let waiting = std::mem::take(&mut state.waiting);
            drop(state);
            waiting.into_iter().for_each(|part| part.finish(ReasonCode::Success));
        }
    }

    /// Asks the connection to look again at what its client may watch.
    pub(crate) fn ask_review(&self) {
        let mut state = self.state();
        if !std::mem::replace(&mut state.review, true) {
            self.changed.notify_one();
        }
    }

    /// Whether its connection is gone or told to go.
    pub(crate) fn is_closed(&self) -> bool {
        let state = self.state();
        state.closed || state.close.is_some()
    }

    /// Whether the store has to be read before there is more to write.
    pub(crate) fn is_behind(&self) -> bool {
        let state = self.state();
        state.catching_up && state.queued.is_empty()
    }

    /// Puts back what could not be written; it stays the next of its kind.
    pub(crate) fn put_back(&self, outgoing: Outgoing) {
        let mut state = self.state();
        match outgoing.kind {
            Kind::Command(_) => state.control.push_front(outgoing),
            Kind::Queued { .. } => state.queued.push_front(outgoing),
            Kind::Passing => {
                state.data_bytes += size(&outgoing);
                state.data.push_front(outgoing);
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn queued_len(&self) -> usize {
        self.state().queued.len()
    }

    /// Whether senders wait for this subscriber.
    pub(crate) fn is_congested(&self) -> bool {
        let state = self.state();
        !state.waiting.is_empty()
    }

    /// The connection is over: nothing is taken any more, and nobody waits for it.
    pub(crate) fn shut(&self) {
        let mut state = self.state();
        state.closed = true;
        let waiting = std::mem::take(&mut state.waiting);
        state.control.clear();
        state.data.clear();
        state.queued.clear();
        drop(state);
        waiting.into_iter().for_each(|part| part.finish(ReasonCode::Success));
    }
}

/// A new one, shared.
pub(crate) fn mailbox() -> Arc<Mailbox> {
    Arc::new(Mailbox::default())
}

fn size(outgoing: &Outgoing) -> usize {
    outgoing.message.payload.len() + outgoing.message.topic.len() + 64
}
