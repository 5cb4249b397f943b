use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use iot_core::{
    event::{Sequence, StoredEvent},
    logic::EventBatch,
};
use tokio::sync::watch;

/// The most batches kept in memory for consumers; one that is further behind reads the log.
pub(crate) const TAIL_BATCHES_MAX: usize = 256;

const NOWHERE: Sequence = Sequence(u64::MAX);

/// The newest part of the ingest log, in memory.
#[derive(Debug)]
pub(crate) struct Tail {
    // Small sections, never across an await. Ascending; `from` is the sequence after which it is complete, none before
    // the first batch of this process.
    kept: Mutex<Kept>,
    newest: watch::Sender<Sequence>,
}

#[derive(Debug)]
struct Kept {
    from: Sequence,
    batches: VecDeque<EventBatch>,
}

/// What the tail knows after a sequence.
pub(crate) enum After {
    /// These come next.
    Batch(EventBatch),
    /// Nothing yet.
    Nothing,
    /// The log must be read.
    Log,
}

impl Tail {
    pub(crate) fn new() -> Self {
        let kept = Kept { from: NOWHERE, batches: VecDeque::new() };
        Self { kept: Mutex::new(kept), newest: watch::channel(Sequence(0)).0 }
    }

    pub(crate) fn push(&self, batch: EventBatch) {
        let (Some(first), Some(last)) = (batch.events.first(), batch.events.last()) else { return };
        let (before, last) = (Sequence(first.sequence.0.saturating_sub(1)), last.sequence);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.from == NOWHERE {
            kept.from = before;
        }
        kept.batches.push_back(batch);
        if kept.batches.len() > TAIL_BATCHES_MAX
            && let Some(dropped) = kept.batches.pop_front()
        {
            kept.from = dropped.events.last().map_or(kept.from, |event| event.sequence);
        }
        drop(kept);
        self.newest.send_replace(last);
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Sequence> {
        self.newest.subscribe()
    }

    /// The newest sequence, once there is one of this process.
    pub(crate) fn end(&self) -> Option<Sequence> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.batches.back().map(last)
    }

    /// The sequence before the oldest in memory, once there is one of this process.
    pub(crate) fn start(&self) -> Option<Sequence> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        (kept.from != NOWHERE).then_some(kept.from)
    }

    pub(crate) fn after(&self, sequence: Sequence) -> After {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if sequence < kept.from {
            return After::Log;
        }
        let start = kept.batches.partition_point(|batch| last(batch) <= sequence);
        let Some(batch) = kept.batches.get(start) else { return After::Nothing };
        let batch = batch.clone();
        drop(kept);
        if batch.events.first().is_some_and(|event| event.sequence > sequence) {
            return After::Batch(batch);
        }
        let events: Arc<[StoredEvent]> =
            batch.events.iter().filter(|event| event.sequence > sequence).cloned().collect();
        After::Batch(EventBatch { node: batch.node, events })
    }
}

fn last(batch: &EventBatch) -> Sequence {
    batch.events.last().map_or(Sequence(0), |event| event.sequence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use iot_core::id::NodeId;

    fn batch(sequences: &[u64]) -> EventBatch {
        let event = |n: &u64| StoredEvent { sequence: Sequence(*n), event: crate::node::tests::report(*n) };
        EventBatch { node: NodeId::parse("n").unwrap(), events: sequences.iter().map(event).collect() }
    }

    fn sequences(after: After) -> Vec<u64> {
        match after {
            After::Batch(batch) => batch.events.iter().map(|event| event.sequence.0).collect(),
            After::Nothing => vec![],
            After::Log => vec![u64::MAX],
        }
    }

    #[test]
    fn a_consumer_in_step_reads_memory_and_one_behind_reads_the_log() {
        let tail = Tail::new();
        assert_eq!(sequences(tail.after(Sequence(10))), [u64::MAX]);
        tail.push(batch(&[11, 12]));
        assert_eq!(sequences(tail.after(Sequence(9))), [u64::MAX]);
        tail.push(batch(&[15]));
        assert_eq!(sequences(tail.after(Sequence(10))), [11, 12]);
        assert_eq!(sequences(tail.after(Sequence(11))), [12]);
        assert_eq!(sequences(tail.after(Sequence(12))), [15]);
        assert_eq!(sequences(tail.after(Sequence(15))), [0u64; 0]);
    }

    #[test]
    fn memory_is_bounded() {
        let tail = Tail::new();
        for n in 1..=TAIL_BATCHES_MAX as u64 + 5 {
            tail.push(batch(&[n]));
        }
        assert_eq!(sequences(tail.after(Sequence(4))), [u64::MAX]);
        assert_eq!(sequences(tail.after(Sequence(5))), [6]);
    }
}
