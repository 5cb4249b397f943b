use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::body::Bytes;
use iot_core::time::Monotonic;

use super::{Begun, KEPT, Kept};

/// The most keys that a node remembers; a further one drops the oldest that is answered.
pub(crate) const KEYS_MAX: usize = 10_000;

/// The most bytes of answers that a node remembers; beyond them the oldest go.
pub(crate) const BYTES_MAX: usize = 64 * 1024 * 1024;

/// The answers that this node remembers.
#[derive(Debug, Default)]
pub(crate) struct MemoryResponses {
    // Small sections, never across an await.
    table: Mutex<Table>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<Arc<[u8]>, Entry>,
    /// The answered ones, by the order in which they were begun.
    answered: BTreeMap<u64, Arc<[u8]>>,
    begun: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    order: u64,
    body: u64,
    begun: Monotonic,
    answer: Option<Kept>,
}

/// A request that is being carried out.
#[derive(Debug)]
pub(crate) struct First {
    name: Arc<[u8]>,
    order: u64,
}

impl MemoryResponses {
    pub(super) fn begin(&self, name: Vec<u8>, body: &Bytes, now: Monotonic) -> Begun<First> {
        let body = self.hasher.hash_one(body);
        let mut table = self.lock();
        if let Some(entry) = table.entries.get(name.as_slice()) {
            match &entry.answer {
                Some(_) if now.since(entry.begun) >= KEPT => table.forget(&name),
                _ if entry.body != body => return Begun::Mismatch,
                Some(kept) => return Begun::Again(kept.clone()),
                None => return Begun::Busy,
            }
        }
        if table.entries.len() >= KEYS_MAX && !table.forget_oldest() {
            return Begun::Full;
        }
        table.begun += 1;
        let (name, order): (Arc<[u8]>, u64) = (name.into(), table.begun);
        table.entries.insert(name.clone(), Entry { order, body, begun: now, answer: None });
        Begun::First(First { name, order })
    }

    fn finish(&self, first: &First, kept: Option<Kept>) {
        let mut table = self.lock();
        let Some(kept) = kept else { return table.forget(&first.name) };
        table.bytes += kept.body.len();
        table.answered.insert(first.order, first.name.clone());
        if let Some(entry) = table.entries.get_mut(&first.name) {
            entry.answer = Some(kept);
        }
        while table.bytes > BYTES_MAX && table.forget_oldest() {}
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn forget_oldest(&mut self) -> bool {
        let oldest = self.answered.first_key_value().map(|(_, name)| name.clone());
        oldest.map(|name| self.forget(&name)).is_some()
    }

    fn forget(&mut self, name: &[u8]) {
        if let Some(entry) = self.entries.remove(name) {
            self.answered.remove(&entry.order);
            self.bytes -= entry.answer.map_or(0, |kept| kept.body.len());
        }
    }
}

/// Frees the key if it is dropped before [`finish`](Self::finish).
pub(super) struct Pending {
    responses: Arc<MemoryResponses>,
    first: Option<First>,
}

impl Pending {
    pub(super) fn new(responses: Arc<MemoryResponses>, first: First) -> Self {
        Self { responses, first: Some(first) }
    }

    pub(super) fn finish(mut self, kept: Option<Kept>) {
        if let Some(first) = self.first.take() {
            self.responses.finish(&first, kept);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(first) = self.first.take() {
            self.responses.finish(&first, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(size: usize) -> Option<Kept> {
        Some(Kept { status: 200, content_type: String::new(), body: Bytes::from(vec![b'x'; size]) })
    }

    fn first(begun: Begun<First>) -> First {
        match begun {
            Begun::First(first) => first,
            other => panic!("{other:?}"),
        }
    }

    const BODY: Bytes = Bytes::from_static(b"{}");

    #[test]
    fn a_key_is_busy_then_answers_then_is_forgotten_after_a_day() {
        let responses = MemoryResponses::default();
        let begun = first(responses.begin(b"a".to_vec(), &BODY, Monotonic::ZERO));
        assert!(matches!(responses.begin(b"a".to_vec(), &BODY, Monotonic::ZERO), Begun::Busy));
        responses.finish(&begun, kept(3));
        let again = responses.begin(b"a".to_vec(), &BODY, Monotonic::ZERO);
        assert!(matches!(again, Begun::Again(kept) if kept.body.len() == 3));
        let other = responses.begin(b"a".to_vec(), &Bytes::from_static(b"[]"), Monotonic::ZERO);
        assert!(matches!(other, Begun::Mismatch));
        let _ = first(responses.begin(b"a".to_vec(), &BODY, Monotonic::from_duration(KEPT)));
        assert_eq!(responses.lock().bytes, 0);
    }

    #[test]
    fn a_failed_request_frees_its_key() {
        let responses = Arc::new(MemoryResponses::default());
        let begun = first(responses.begin(b"a".to_vec(), &BODY, Monotonic::ZERO));
        drop(Pending::new(responses.clone(), begun));
        let _ = first(responses.begin(b"a".to_vec(), &BODY, Monotonic::ZERO));
    }

    #[test]
    fn the_table_is_bounded_by_keys_and_drops_the_oldest_answer() {
        let responses = MemoryResponses::default();
        let begin = |n: usize| responses.begin(n.to_string().into_bytes(), &BODY, Monotonic::ZERO);
        let begun: Vec<_> = (0..KEYS_MAX).map(|n| first(begin(n))).collect();
        assert!(matches!(begin(KEYS_MAX), Begun::Full), "none is answered");
        responses.finish(&begun[7], kept(1));
        responses.finish(&begun[3], kept(1));
        let _ = first(begin(KEYS_MAX));
        assert!(matches!(begin(7), Begun::Again(_)));
        let _ = first(begin(3));
    }

    #[test]
    fn the_table_is_bounded_by_bytes() {
        let responses = MemoryResponses::default();
        for n in 0..5 {
            let begun = first(responses.begin(vec![n], &BODY, Monotonic::ZERO));
            responses.finish(&begun, kept(BYTES_MAX / 4));
        }
        assert_eq!(responses.lock().bytes, BYTES_MAX);
        let _ = first(responses.begin(vec![0], &BODY, Monotonic::ZERO));
    }
}
