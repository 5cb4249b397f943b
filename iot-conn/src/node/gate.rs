use std::sync::{
    Arc, OnceLock, Weak,
    atomic::{AtomicU8, AtomicU32, Ordering},
};

use super::mailbox::{Completion, Mailbox};
use crate::mqtt::ReasonCode;

/// Holds back the acknowledgement of one inbound message until each of its parts is finished: stored as telemetry, stored
/// for offline sessions, taken by slow subscribers. A message that waits for nothing costs nothing here.
///
/// A part that is dropped unfinished keeps the gate shut for good, so that nothing is acknowledged that was not done.
#[derive(Debug)]
pub(crate) struct Gate<'a> {
    asked: Option<(&'a Arc<Mailbox>, Completion)>,
    shared: OnceLock<Arc<Shared>>,
}

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

impl<'a> Gate<'a> {
    /// For something that is acknowledged with `completion`, whose reason becomes the highest of its own and the parts'.
    pub(crate) fn new(sender: &'a Arc<Mailbox>, completion: Completion) -> Self {
        Self { asked: Some((sender, completion)), shared: OnceLock::new() }
    }

    /// For a message that nobody waits for.
    pub(crate) fn open() -> Self {
        Self { asked: None, shared: OnceLock::new() }
    }

    /// One more part.
    pub(crate) fn part(&self) -> Part {
        let Some((sender, completion)) = self.asked else { return Part(None) };
        let shared = self.shared.get_or_init(|| Arc::new(Shared::new(sender, completion)));
        shared.unfinished.fetch_add(1, Ordering::Relaxed);
        Part(Some(shared.clone()))
    }

    /// The sender's own part is done, after which there are no new ones. What it gives is finished now; if parts are left, the
    /// sender is told by the last of them.
    pub(crate) fn finish(self, reason: ReasonCode) -> Option<Completion> {
        match self.shared.into_inner() {
            Some(shared) => shared.finish(reason),
            None => self.asked.map(|(_, completion)| completion.with(reason.max(completion.reason()))),
        }
    }
}

impl Shared {
    /// With the sender's own part.
    fn new(sender: &Arc<Mailbox>, completion: Completion) -> Self {
        Self {
            completion,
            sender: Arc::downgrade(sender),
            unfinished: AtomicU32::new(1),
            reason: AtomicU8::new(completion.reason().value()),
        }
    }

    fn finish(&self, reason: ReasonCode) -> Option<Completion> {
        self.reason.fetch_max(reason.value(), Ordering::Relaxed);
        let is_last = self.unfinished.fetch_sub(1, Ordering::AcqRel) == 1;
        let reason = ReasonCode::from_u8(self.reason.load(Ordering::Relaxed));
        is_last.then(|| self.completion.with(reason.unwrap_or(ReasonCode::UnspecifiedError)))
    }
}

impl Part {
    /// For something that has only this part.
    pub(crate) fn only(sender: &Arc<Mailbox>, completion: Completion) -> Self {
        Self(Some(Arc::new(Shared::new(sender, completion))))
    }

    /// One more part of the same.
    pub(crate) fn another(&self) -> Self {
        if let Some(shared) = &self.0 {
            shared.unfinished.fetch_add(1, Ordering::Relaxed);
        }
        Self(self.0.clone())
    }

    /// This part is done; the highest reason of all parts is told to the sender.
    pub(crate) fn finish(self, reason: ReasonCode) {
        if let Some(shared) = self.0
            && let Some(completion) = shared.finish(reason)
            && let Some(sender) = shared.sender.upgrade()
        {
            sender.complete(completion);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::mailbox::mailbox;

    const DONE: Completion = Completion::Release { packet_id: 1, tag: 2 };

    #[test]
    fn it_opens_at_once_when_there_is_nothing_to_wait_for() {
        let sender = mailbox();
        assert_eq!(Gate::new(&sender, DONE).finish(ReasonCode::Success), Some(DONE));
        assert!(sender.completions().is_empty(), "the sender knows");
        assert_eq!(Gate::open().finish(ReasonCode::Success), None);
    }

    #[test]
    fn it_opens_once_when_the_last_part_is_finished() {
        let sender = mailbox();
        let gate = Gate::new(&sender, DONE);
        let (first, second) = (gate.part(), gate.part());
        assert_eq!(gate.finish(ReasonCode::Success), None);
        second.finish(ReasonCode::Success);
        assert!(sender.completions().is_empty());
        first.finish(ReasonCode::Success);
        assert_eq!(sender.completions(), [DONE]);
    }

    #[test]
    fn parts_that_are_done_before_leave_the_end_to_the_sender() {
        let sender = mailbox();
        let gate = Gate::new(&sender, DONE);
        gate.part().finish(ReasonCode::Success);
        assert_eq!(gate.finish(ReasonCode::Success), Some(DONE));
        assert!(sender.completions().is_empty());
    }

    #[test]
    fn a_part_that_is_dropped_keeps_it_shut() {
        let sender = mailbox();
        let gate = Gate::new(&sender, DONE);
        drop(gate.part());
        assert_eq!(gate.finish(ReasonCode::Success), None);
        assert!(sender.completions().is_empty());
    }

    #[test]
    fn a_sender_that_is_gone_is_told_nothing() {
        let sender = mailbox();
        let part = Part::only(&sender, DONE);
        drop(sender);
        part.finish(ReasonCode::Success);
    }
}
