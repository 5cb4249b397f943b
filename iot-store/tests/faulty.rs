//! The exam behind delays; and what is built on the stores survives refusals and lost answers.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use iot_core::{
    id::{DeviceId, OwnershipEpoch, TenantId},
    store::{
        Batch, Contended, Document, Key, MetaStore, MetaStoreExt, Policies, Step, StoreError, Stores, Write, settle,
    },
    time::Timestamp,
    twin::{Twin, TwinLimits, Written},
};
use iot_store::{
    conformance::{Backend, Capability, LIMITS},
    faulty::{Faults, Faulty, Odds, Operation, Told},
    memory::Memory,
};
use serde_json::{Value, json};

fn faulty(faults: Faults) -> (Arc<Faulty>, Stores) {
    let faulty = Arc::new(Faulty::new(Stores::new(Memory::new(LIMITS)), faults));
    (faulty.clone(), Stores { meta: faulty.clone(), telemetry: faulty.clone(), sessions: faulty })
}

struct Delayed;

#[async_trait::async_trait]
impl Backend for Delayed {
    fn capabilities(&self) -> &'static [Capability] {
        &[Capability::Rollups]
    }

    async fn open(&mut self) -> Stores {
        let delays = Odds { delayed: 0.3, delay_max: Duration::from_micros(200), ..Odds::NONE };
        faulty(Faults::with_seed(0x5eed).everywhere(delays)).1
    }

    // Each history makes thousands of calls, which are delayed.
    fn histories(&self) -> u32 {
        4
    }
}

iot_store::conformance!(Delayed, skips: [
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

fn write(name: u32) -> Batch {
    let put = Write::Put { key: key(name), format: 1, body: "{}".to_owned(), index_keys: Vec::new() };
    Batch { writes: vec![put], ..Batch::default() }
}

fn key(name: u32) -> Key {
    Key::new("thing", name.to_string())
}

/// What happens to 500 commits, as their callers are told.
async fn history(seed: u64) -> (Vec<bool>, u64, Told) {
    let odds = Odds { refused: 0.2, crashed: 0.2, ..Odds::NONE };
    let (faulty, stores) = faulty(Faults::with_seed(seed).at(Operation::Commit, odds));
    let mut answers = Vec::new();
    for name in 0..500 {
        answers.push(stores.meta.commit(write(name)).await.is_ok());
    }
    (answers, stores.meta.revision().await.unwrap().0, faulty.told())
}

#[tokio::test]
async fn a_seed_makes_a_history() {
    let (answers, revision, told) = history(1).await;
    assert_eq!(history(1).await, (answers.clone(), revision, told));
    assert_ne!(history(2).await.0, answers);
    assert_eq!(answers.iter().filter(|done| !**done).count() as u64, told.refused + told.crashed);
    assert_eq!(revision, 500 - told.refused, "refused: it did not happen; crashed: it did");
    assert!((50..150).contains(&told.refused) && (40..150).contains(&told.crashed), "{told:?}");
}

#[tokio::test]
async fn only_the_operations_that_were_named_fail() {
    let (faulty, stores) = faulty(Faults::with_seed(1).writes(Odds { refused: 1.0, ..Odds::NONE }));
    let error = stores.meta.commit(write(1)).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { backend: "faulty", .. }), "{error}");
    assert_eq!(stores.meta.get(&[key(1)]).await.unwrap(), [None]);
    assert!(
        stores.sessions.offer(&[]).await.is_err()
            && stores.telemetry.maintain(Timestamp::MAX, &Policies::default()).await.is_err()
    );
    assert_eq!(faulty.told().refused, 3);
}

#[derive(Debug, thiserror::Error)]
#[error(transparent)]
enum Failed {
    Store(#[from] StoreError),
    Contended(#[from] Contended),
}

/// Writers who are refused, and who are told that they failed though they did not, and who race each other, try again:
/// in the end each write has happened once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn decisions_settle_through_refusals_and_lost_answers() {
    const WRITERS: u64 = 8;
    const WRITES: u64 = 25;
    let odds = Odds { refused: 0.15, crashed: 0.15, delayed: 0.3, delay_max: Duration::from_micros(100) };
    let (faulty, stores) = faulty(Faults::with_seed(9).everywhere(odds));
    let (tenant, device) = (TenantId::parse("t").unwrap(), DeviceId::parse("d").unwrap());
    let twin = Twin::new(tenant, device, OwnershipEpoch(1));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (meta, twin) = (stores.meta.clone(), twin.clone());
            tokio::spawn(async move {
                let mut failures = BTreeMap::new();
                for n in 1..=WRITES {
                    while let Err(failed) = write_desired(&*meta, &twin, writer, n).await {
                        *failures.entry(failed.to_string()).or_insert(0) += 1;
                    }
                }
                failures
            })
        })
        .collect();
    let mut failures = 0;
    for writer in writers {
        failures += writer.await.unwrap().values().sum::<u64>();
    }
    let told = faulty.told();
    assert!(told.refused > 50 && told.crashed > 50 && failures > 100, "{told:?} {failures}");
    let found = loop {
        if let Ok(Some(found)) = stores.meta.find::<Twin>(&twin.key()).await {
            break found;
        }
    };
    for writer in 0..WRITERS {
        assert_eq!(found.document.desired[&format!("w{writer}")], json!(WRITES));
    }
    assert_eq!((found.document.version, found.version), (WRITERS * WRITES, WRITERS * WRITES));
}

/// Sets a member of its own to `n`. A second try finds it done.
async fn write_desired(meta: &dyn MetaStore, twin: &Twin, writer: u64, n: u64) -> Result<(), Failed> {
    settle(meta, || async {
        let read = meta.find::<Twin>(&twin.key()).await?;
        let mut next = read.as_ref().map_or_else(|| twin.clone(), |read| read.document.clone());
        let member = format!("w{writer}");
        assert!(next.desired.get(&member).and_then(Value::as_u64).unwrap_or(0) >= n - 1, "a write was lost");
        let patch = [(member, json!(n))].into_iter().collect();
        match next.write_desired(Timestamp::EPOCH, "a", patch, None, None, &TwinLimits::default()) {
            Written::Done { .. } => Ok(Step::Commit(
                match &read {
                    None => Batch::default().create(&next),
                    Some(read) => Batch::default().replace(read, &next),
                },
                (),
            )),
            Written::Unchanged { .. } => Ok(Step::Answer(())),
            other => panic!("{other:?}"),
        }
    })
    .await
}
