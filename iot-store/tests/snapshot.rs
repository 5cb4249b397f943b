//! Copies of a folder in use, and what is done to them before they are used.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use iot_core::{
    event::{Event, Report, Sequence, Value},
    id::{ConsumerId, DeviceId, NodeId, OwnershipEpoch, TenantId},
    session::SessionId,
    store::{
        Batch, BlobId, Closing, Committed, Fenced, IndexKey, Key, MetaStore, Opened, Opening, Revision, Series,
        SessionStore, TelemetryStore, Write,
    },
    time::Timestamp,
};
use iot_store::{
    StoreLimits,
    sqlite::{OpenError, Sqlite},
};

async fn open(folder: &Path) -> Sqlite {
    Sqlite::open(folder, StoreLimits::default()).await.unwrap()
}

fn folders() -> (tempfile::TempDir, tempfile::TempDir) {
    (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap())
}

fn put(name: impl std::fmt::Display, index_keys: Vec<IndexKey>) -> Write {
    Write::Put { key: Key::new("thing", name.to_string()), format: 1, body: "{}".to_owned(), index_keys }
}

async fn commit(store: &Sqlite, writes: Vec<Write>) -> Revision {
    match store.commit(Batch { writes, ..Batch::default() }).await.unwrap() {
        Committed::Done(revision) => revision,
        Committed::Conflict(key) => panic!("{key}"),
    }
}

fn series(device: &str, epoch: u64) -> Series {
    let (tenant, device) = (TenantId::parse("t").unwrap(), DeviceId::parse(device).unwrap());
    Series { tenant, device, epoch: OwnershipEpoch(epoch) }
}

fn event(of: &Series, value: i64) -> Event {
    Event {
        tenant: of.tenant.clone(),
        device: of.device.clone(),
        epoch: of.epoch,
        product: "lamp".parse().unwrap(),
        home: None,
        at: Timestamp::from_millis(value),
        received: Timestamp::from_millis(value),
        device_sequence: None,
        report: Report::Telemetry(vec![("m".parse().unwrap(), Value::Int(value))]),
    }
}

fn node() -> NodeId {
    NodeId::parse("n").unwrap()
}

fn consumer() -> ConsumerId {
    ConsumerId::parse("c").unwrap()
}

/// Two records that are always written together are together in each of many copies, whose owner goes on writing; and what a
/// consumer has done before it went on is done in each copy in which it has gone on.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_of_one_moment_and_has_what_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let over = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (store, over) = (store.clone(), over.clone());
        async move {
            let mut last = 0;
            while !over.load(Ordering::Relaxed) {
                last += 1;
                commit(&store, vec![put(format!("{last}-a"), vec![]), put(format!("{last}-b"), vec![])]).await;
                store.advance(&node(), &consumer(), Sequence(last)).await.unwrap();
            }
            last
        }
    });
    for round in 0..10 {
        let acknowledged = commit(&store, vec![put(format!("round-{round}"), vec![])]).await;
        let to = tempfile::tempdir().unwrap();
        let snapshot = Sqlite::snapshot(folder.path(), to.path()).await.unwrap();
        assert!(snapshot.revision >= acknowledged);
        let copy = open(to.path()).await;
        assert!(copy.get(&[Key::new("thing", format!("round-{round}"))]).await.unwrap()[0].is_some());
        let changes = copy.changes(Revision(0), 1_000_000).await.unwrap();
        assert_eq!(changes.last().unwrap().revision, snapshot.revision);
        let keys = || changes.iter().flat_map(|change| &change.keys);
        let pairs = |end: &str| keys().filter(|key| key.key.ends_with(end)).count();
        assert_eq!(pairs("-a"), pairs("-b"));
        let done = copy.checkpoint(&node(), &consumer()).await.unwrap().0;
        assert!(done == 0 || copy.get(&[Key::new("thing", format!("{done}-b"))]).await.unwrap()[0].is_some(), "{done}");
        copy.close().await;
    }
    over.store(true, Ordering::Relaxed);
    assert!(writer.await.unwrap() > 0);
    store.close().await;
}

/// A consumer that has gone on between both files is set back to where it stood before the first.
#[tokio::test]
async fn a_copy_names_its_blobs_and_keeps_what_consumers_have_yet_to_see() {
    let (folder, to) = folders();
    let store = open(folder.path()).await;
    let (node, consumer) = (node(), consumer());
    let placed = store.append(&node, &[event(&series("d", 1), 1), event(&series("d", 1), 2)]).await.unwrap();
    store.advance(&node, &consumer, placed[0].unwrap()).await.unwrap();
    let (one, two) = (BlobId::new([1; 32]), BlobId::new([2; 32]));
    let named = |id: BlobId| vec![IndexKey::many("blob", &id.to_string()), IndexKey::many("other", "x")];
    commit(&store, vec![put("1", named(two)), put("2", named(one)), put("3", named(one)), put("4", vec![])]).await;
    let snapshot = Sqlite::snapshot(folder.path(), to.path()).await.unwrap();
    assert_eq!(snapshot.blobs, [one, two]);
    let copy = open(to.path()).await;
    assert_eq!(copy.checkpoint(&node, &consumer).await.unwrap(), placed[0].unwrap());
    assert_eq!(copy.after(&node, Sequence(0), 10).await.unwrap().len(), 2);
    let other = ConsumerId::parse("other").unwrap();
    assert_eq!(copy.checkpoint(&node, &other).await.unwrap(), Sequence(0));
}

#[tokio::test]
async fn what_is_no_store_or_is_in_the_way_is_told() {
    let (folder, to) = folders();
    let error = Sqlite::snapshot(folder.path(), to.path()).await.unwrap_err();
    assert!(error.to_string().contains("data.db") && !error.to_string().contains('\n'), "{error}");
    let store = open(folder.path()).await;
    std::fs::write(to.path().join("control.db"), "mine").unwrap();
    assert!(Sqlite::snapshot(folder.path(), to.path()).await.is_err());
    assert_eq!(std::fs::read(to.path().join("control.db")).unwrap(), b"mine");
    store.close().await;
    std::fs::write(folder.path().join("control.db"), "no database, and long enough to be looked at").unwrap();
    let damaged = Sqlite::snapshot(folder.path(), tempfile::tempdir().unwrap().path()).await;
    assert!(matches!(damaged, Err(OpenError::Damaged { .. })), "{damaged:?}");
}

async fn take(store: &Sqlite, name: &str) -> Opened {
    let tenant = TenantId::parse("t").unwrap();
    let session = SessionId::anonymous(&tenant, name);
    let (keep, at) = (Duration::from_secs(3_600), Timestamp::EPOCH);
    store.open(Opening { session, clean: false, keep, will: None, at }).await.unwrap()
}

/// Whoever was connected to the lost store after the copy was made holds epochs that the restored one neither takes nor gives;
/// also when the same copy is restored a second time.
#[tokio::test]
async fn epochs_from_after_the_copy_come_never_again() {
    let (folder, to) = folders();
    let lost = open(folder.path()).await;
    let before = take(&lost, "a").await.epoch;
    take(&lost, "b").await;
    Sqlite::snapshot(folder.path(), to.path()).await.unwrap();
    let second = tempfile::tempdir().unwrap();
    Sqlite::snapshot(folder.path(), second.path()).await.unwrap();
    let after = take(&lost, "a").await.epoch;

    let at = Timestamp::from_millis(1_790_000_000_000);
    let restored = open(to.path()).await;
    let highest = restored.raise_session_epochs(at).await.unwrap();
    let mut epochs: Vec<_> =
        restored.sessions(None, 10).await.unwrap().into_iter().map(|session| session.epoch).collect();
    epochs.sort_unstable();
    epochs.dedup();
    assert_eq!((epochs.len(), *epochs.last().unwrap()), (2, highest), "each has its own");
    assert!(epochs[0] > after);
    let session = SessionId::anonymous(&TenantId::parse("t").unwrap(), "a");
    for epoch in [before, after] {
        let keep = Duration::from_secs(1);
        let closing =
            Closing { session: session.clone(), epoch, at, keep, will: false, sent_through: Default::default() };
        assert_eq!(SessionStore::close(&restored, closing).await.unwrap(), Fenced::Superseded);
    }
    let resumed = take(&restored, "a").await;
    assert!(resumed.epoch > highest && resumed.resumed.is_some());

    // A day later the same copy again, after a million openings of the first.
    let again = open(second.path()).await;
    let day = Duration::from_secs(24 * 3_600);
    assert!(again.raise_session_epochs(at.plus(day)).await.unwrap().0 > resumed.epoch.0 + 1_000_000);
    // A clock that went back: what it skips is at least 2⁴⁰.
    let later = again.raise_session_epochs(Timestamp::EPOCH).await.unwrap();
    let latest = again.raise_session_epochs(Timestamp::EPOCH).await.unwrap();
    assert!(latest.0 >= later.0 + (1 << 40));
}

#[tokio::test]
async fn series_are_listed_in_pages() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let node = node();
    let all: Vec<Series> = [("a", 1), ("a", 2), ("b", 1), ("c", 7)].map(|(device, epoch)| series(device, epoch)).into();
    for of in all.iter().rev() {
        store.append(&node, &[event(of, 1)]).await.unwrap();
    }
    let mut found: Vec<Series> = Vec::new();
    while let page = store.series(found.last(), 3).await.unwrap()
        && !page.is_empty()
    {
        found.extend(page);
    }
    assert_eq!(found, all);
    // An erased one is none.
    store.erase(&all[1]).await.unwrap();
    assert_eq!(store.series(None, 10).await.unwrap().len(), 3);
}
