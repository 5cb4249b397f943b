//! The cache passes the exam: alone in front of a store, and beside others.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use iot_core::store::{Batch, Check, Committed, Key, MetaStore, Record, Stores, Write};
use iot_store::{
    cache::{Cache, Writers},
    conformance::{Backend, Capability, LIMITS},
    faulty::{Faults, Faulty, Odds, Operation},
    memory::Memory,
};

/// So few that records are dropped all the time.
const RECORDS_MAX: usize = 16;

/// The cache is the only one that writes.
struct Alone;

#[async_trait::async_trait]
impl Backend for Alone {
    fn capabilities(&self) -> &'static [Capability] {
        &[Capability::Rollups]
    }

    async fn open(&mut self) -> Stores {
        let stores = Stores::new(Memory::new(LIMITS));
        Stores { meta: Arc::new(Cache::new(stores.meta.clone(), Writers::Here, RECORDS_MAX)), ..stores }
    }
}

mod alone {
    use super::*;

    iot_store::conformance!(Alone, skips: [
        "durable::records_and_changes_are_there_again",
        "durable::telemetry_is_there_again",
        "durable::maintained_telemetry_is_there_again",
        "durable::sessions_are_there_again",
        "durable::queues_are_there_again",
        "durable::retained_messages_are_there_again",
        "durable::counters_go_on",
        "durable::writes_from_many_tasks_are_there_again",
        "shared::commits_are_seen_at_once",
        "shared::one_of_many_handles_wins",
        "shared::changes_are_complete_from_every_handle",
        "shared::a_session_passes_from_node_to_node",
        "shared::what_one_node_appends_another_reads",
    ]);
}

/// Each opening is another process with a cache of its own.
struct Beside(Stores);

impl Beside {
    fn empty() -> Self {
        Self(Stores::new(Memory::new(LIMITS)))
    }
}

#[async_trait::async_trait]
impl Backend for Beside {
    fn capabilities(&self) -> &'static [Capability] {
        &[Capability::Rollups, Capability::Shared]
    }

    async fn open(&mut self) -> Stores {
        let cache = Cache::new(self.0.meta.clone(), Writers::Elsewhere, RECORDS_MAX);
        Stores { meta: Arc::new(cache), ..self.0.clone() }
    }
}

mod beside {
    use super::*;

    iot_store::conformance!(Beside::empty(), skips: [
        "durable::records_and_changes_are_there_again",
        "durable::telemetry_is_there_again",
        "durable::maintained_telemetry_is_there_again",
        "durable::sessions_are_there_again",
        "durable::queues_are_there_again",
        "durable::retained_messages_are_there_again",
        "durable::counters_go_on",
        "durable::writes_from_many_tasks_are_there_again",
    ]);
}

/// Counts what reaches the store: every call is delayed, by nothing.
fn counted(at: Operation) -> Arc<Faulty> {
    let counting = Faults::with_seed(1).at(at, Odds { delayed: 1.0, ..Odds::NONE });
    Arc::new(Faulty::new(Stores::new(Memory::new(LIMITS)), counting))
}

fn key(name: u32) -> Key {
    Key::new("thing", name.to_string())
}

fn put(name: u32, body: u32) -> Write {
    Write::Put { key: key(name), format: 1, body: body.to_string(), index_keys: Vec::new() }
}

async fn commit(store: &dyn MetaStore, writes: Vec<Write>) -> Committed {
    store.commit(Batch { writes, ..Batch::default() }).await.unwrap()
}

#[tokio::test]
async fn a_hit_does_not_reach_the_store() {
    let store = counted(Operation::Get);
    let cache = Cache::new(store.clone(), Writers::Here, 100);
    assert!(matches!(commit(&cache, vec![put(1, 1), put(2, 2)]).await, Committed::Done(_)));
    for _ in 0..50 {
        let read = cache.get(&[key(1), key(2), key(3)]).await.unwrap();
        assert_eq!(read.iter().flatten().count(), 2);
    }
    assert_eq!(store.told().delayed, 1, "what is not there is remembered too");
    assert!(matches!(commit(&cache, vec![put(2, 3)]).await, Committed::Done(_)));
    assert_eq!(cache.get(&[key(2)]).await.unwrap()[0].as_ref().unwrap().body, "3");
    assert_eq!(cache.get(&[key(1)]).await.unwrap()[0].as_ref().unwrap().body, "1");
    assert_eq!(store.told().delayed, 2, "only what was written is read again");
}

#[tokio::test]
async fn the_cache_keeps_its_bound() {
    let store = counted(Operation::Get);
    let cache = Cache::new(store.clone(), Writers::Here, 100);
    for name in 0..1_000 {
        cache.get(&[key(name)]).await.unwrap();
        cache.get(&[key(0)]).await.unwrap();
    }
    assert_eq!(store.told().delayed, 1_000, "what is asked for again and again stays");
    cache.get(&[key(999)]).await.unwrap();
    assert_eq!(store.told().delayed, 1_000);
    cache.get(&[key(1)]).await.unwrap();
    assert_eq!(store.told().delayed, 1_001, "what was asked for long ago went");
}

/// More commits than the store remembers, while this process slept.
#[tokio::test]
async fn a_cache_that_is_far_behind_begins_anew() {
    let store = Stores::new(Memory::new(LIMITS)).meta;
    let cache = Cache::new(store.clone(), Writers::Elsewhere, 100);
    assert!(matches!(commit(&*store, vec![put(1, 1)]).await, Committed::Done(_)));
    for _ in 0..2 {
        assert_eq!(cache.get(&[key(1)]).await.unwrap()[0].as_ref().unwrap().body, "1");
    }
    for body in 0..2 * u32::try_from(LIMITS.changes_kept).unwrap() {
        assert!(matches!(commit(&*store, vec![put(1 + body % 2, body)]).await, Committed::Done(_)));
    }
    assert_eq!(cache.get(&[key(1)]).await.unwrap()[0].as_ref().unwrap().body, "998");
}

/// A commit that failed and yet happened is seen at the latest when a decision on the old record comes to a conflict.
#[tokio::test]
async fn a_lost_answer_does_not_keep_a_record_old() {
    let memory = Arc::new(Memory::new(LIMITS));
    let faults = Faults::with_seed(3).at(Operation::Commit, Odds { crashed: 0.5, ..Odds::NONE });
    let stores = Stores { meta: memory.clone(), telemetry: memory.clone(), sessions: memory };
    let faulty = Arc::new(Faulty::new(stores, faults));
    let cache = Cache::new(faulty.clone(), Writers::Here, 100);
    let (mut version, mut conflicts) = (0, 0);
    while version < 100 {
        let read = cache.get(&[key(1)]).await.unwrap().remove(0).map_or(0, |record| record.version);
        assert!(read >= version, "a record that was seen is seen no older");
        version = read;
        let check = if read == 0 { Check::Absent(key(1)) } else { Check::Version(key(1), read) };
        let batch = Batch { checks: vec![check], writes: vec![put(1, 1)], audit: Vec::new() };
        conflicts += u32::from(matches!(cache.commit(batch).await, Ok(Committed::Conflict(_))));
    }
    assert!(faulty.told().crashed > 20 && conflicts <= 100);
}

/// Two records that every batch writes alike are never read apart, and never older than a batch that has returned.
async fn pairs_are_read_as_of_one_revision(caches: [Arc<Cache>; 2]) {
    const COMMITS: u32 = 300;
    let returned = Arc::new(AtomicU32::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..6)
        .map(|reader| {
            let (cache, returned, over) = (caches[reader % 2].clone(), returned.clone(), over.clone());
            tokio::spawn(async move {
                let mut reads = 0;
                while !over.load(Ordering::SeqCst) {
                    let least = returned.load(Ordering::SeqCst);
                    let alone = cache.get(&[key(reads % 2 + 1)]).await.unwrap().remove(0);
                    let pair = cache.get(&[key(1), key(2)]).await.unwrap();
                    let body =
                        |record: &Option<Record>| record.as_ref().map_or(0, |it| it.body.parse::<u32>().unwrap());
                    assert_eq!(body(&pair[0]), body(&pair[1]));
                    assert!(body(&alone) >= least && body(&pair[0]) >= body(&alone));
                    reads += 1;
                    tokio::task::yield_now().await;
                }
                assert!(reads > 0);
            })
        })
        .collect();
    for n in 1..=COMMITS {
        assert!(matches!(commit(&*caches[0], vec![put(1, n), put(2, n)]).await, Committed::Done(_)));
        returned.store(n, Ordering::SeqCst);
        tokio::task::yield_now().await;
    }
    over.store(true, Ordering::SeqCst);
    for reader in readers {
        reader.await.unwrap();
    }
}

/// The store is slow at random, so that answers overtake each other.
fn slow() -> Arc<Faulty> {
    let delays = Odds { delayed: 0.7, delay_max: Duration::from_micros(300), ..Odds::NONE };
    Arc::new(Faulty::new(Stores::new(Memory::new(LIMITS)), Faults::with_seed(5).everywhere(delays)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_cache_answers_is_of_one_revision() {
    let cache = Arc::new(Cache::new(slow(), Writers::Here, 100));
    pairs_are_read_as_of_one_revision([cache.clone(), cache]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_caches_of_two_processes_answer_is_of_one_revision() {
    let store = slow();
    let cache = || Arc::new(Cache::new(store.clone(), Writers::Elsewhere, 100));
    pairs_are_read_as_of_one_revision([cache(), cache()]).await;
}
