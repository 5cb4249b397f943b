use std::sync::{
    Arc, Weak,
    atomic::{AtomicU8, AtomicU32, Ordering},
};

use super::mailbox::{Completion, Mailbox};
use crate::mqtt::ReasonCode;

/// Holds back the acknowledgement of one inbound message until each of its parts is finished: stored as telemetry, stored
/// for offline sessions, taken by slow subscribers.
///
/// A part that is dropped unfinished keeps the gate shut for good, so that nothing is acknowledged that was not done.
#[derive(Debug, Clone)]
pub(crate) struct Gate(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    completion: Completion,
    sender: Weak<Mailbox>,
    unfinished: AtomicU32,
    reason: AtomicU8,
}

/// One part of the work behind a [`Gate`].
#[derive(Debug)]
#[must_use]
pub(crate) struct Part(Option<Arc<Shared>>);

impl Gate {
    /// For something that is acknowledged with `completion`, whose reason is the highest of its own and the parts'; the returned part is the
    /// sender's own and is finished last.
    pub(crate) fn new(sender: &Arc<Mailbox>, completion: Completion) -> (Self, Part) {
        let reason = match completion {
            Completion::Published { reason, .. } => reason,
            Completion::Released(_) | Completion::Release { .. } => ReasonCode::Success,
        };
        let shared = Arc::new(Shared {
            completion,
            sender: Arc::downgrade(sender),
            unfinished: AtomicU32::new(1),
            reason: AtomicU8::new(reason.value()),
        });
        (Self(Some(shared.clone())), Part(Some(shared)))
    }

    /// For a message that nobody waits for.
    pub(crate) fn open() -> Self {
        Self(None)
    }

    /// One more part.
    pub(crate) fn part(&self) -> Part {
        if let Some(shared) = &self.0 {
            shared.unfinished.fetch_add(1, Ordering::Relaxed);
        }
        Part(self.0.clone())
    }
}

impl Part {
    /// This part is done; the highest reason of all parts is told to the sender.
    pub(crate) fn finish(self, reason: ReasonCode) {
        let Some(shared) = self.0 else { return };
        shared.reason.fetch_max(reason.value(), Ordering::Relaxed);
        if shared.unfinished.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(sender) = shared.sender.upgrade()
        {
            let reason = ReasonCode::from_u8(shared.reason.load(Ordering::Relaxed));
            sender.complete(match shared.completion {
                Completion::Published { ticket, received, .. } => {
                    let reason = reason.unwrap_or(ReasonCode::UnspecifiedError);
                    Completion::Published { ticket, received, reason }
                }
                other => other,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::mailbox::mailbox;

    fn gate() -> (Arc<Mailbox>, Gate, Part) {
        let sender = mailbox();
        let (gate, own) = Gate::new(&sender, Completion::Release { packet_id: 1, tag: 2 });
        (sender, gate, own)
    }

    #[test]
    fn it_opens_once_when_the_last_part_is_finished() {
        let (sender, gate, own) = gate();
        let (first, second) = (gate.part(), gate.part());
        own.finish(ReasonCode::Success);
        second.finish(ReasonCode::Success);
        assert!(sender.look().completions.is_empty());
        first.finish(ReasonCode::Success);
        assert_eq!(sender.look().completions, [Completion::Release { packet_id: 1, tag: 2 }]);
    }

    #[test]
    fn a_part_that_is_dropped_keeps_it_shut() {
        let (sender, gate, own) = gate();
        drop(gate.part());
        own.finish(ReasonCode::Success);
        drop(gate);
        assert!(sender.look().completions.is_empty());
    }

    #[test]
    fn a_sender_that_is_gone_is_told_nothing() {
        let (sender, _gate, own) = gate();
        drop(sender);
        own.finish(ReasonCode::Success);
    }
}
