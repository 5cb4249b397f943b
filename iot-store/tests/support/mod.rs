//! What the tests share that end a process in the middle: what it writes, says, and must find again.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses a part")]

use std::{
    collections::{BTreeMap, HashMap},
    io::Write as _,
    path::Path,
    process::Command,
};

use bytes::Bytes;
use iot_core::{
    event::{Event, Report, Sequence, Value},
    id::{DeviceId, Metric, NodeId, OwnershipEpoch, ProductId, TenantId},
    message::{Message, QoS},
    session::SessionId,
    store::{
        Audit, Batch, Committed, Key, MetaStore, Opening, Placed, Publication, Revision, SessionStore, StoreError,
        Target, TelemetryStore, Write,
    },
    time::Timestamp,
};
use iot_store::{StoreLimits, sqlite::Sqlite};

pub const EVENTS_PER_BATCH: usize = 10;
pub const RECORDS_PER_BATCH: usize = 3;

/// What was said to be stored, by name; with the number that the store gave it, if the writer has waited for one.
pub type Facts = HashMap<String, Option<u64>>;

/// The child's part: writes, and tells what was acknowledged.
pub async fn append(store: &dyn TelemetryStore, name: &str) -> Result<Vec<(String, u64)>, StoreError> {
    let names: Vec<String> = event_names(name);
    let events: Vec<Event> = names.iter().map(|name| event(name)).collect();
    let placed = store.append(&node(), &events).await?;
    Ok(names.into_iter().zip(placed).map(|(name, sequence)| (format!("event {name}"), sequence.unwrap().0)).collect())
}

pub fn event_names(name: &str) -> Vec<String> {
    (0..EVENTS_PER_BATCH).map(|n| format!("{name}-{n}")).collect()
}

pub async fn commit(store: &dyn MetaStore, name: &str) -> Result<Vec<(String, u64)>, StoreError> {
    let put = |n| Write::Put { key: record(name, n), format: 1, body: "{}".to_owned(), index_keys: Vec::new() };
    let audit = Audit {
        at: Timestamp::EPOCH,
        tenant: tenant(),
        actor: "a".to_owned(),
        action: "write".to_owned(),
        subject: name.to_owned(),
        refused: None,
    };
    let batch = Batch { writes: (0..RECORDS_PER_BATCH).map(put).collect(), audit: vec![audit], ..Batch::default() };
    match store.commit(batch).await? {
        Committed::Done(revision) => Ok(vec![(format!("batch {name}"), revision.0)]),
        Committed::Conflict(key) => panic!("a conflict with {key}"),
    }
}

/// Nothing, if there is no such session.
pub async fn offer(store: &dyn SessionStore, to: u64, name: &str) -> Result<Vec<(String, u64)>, StoreError> {
    let target = Target { session: session(to), qos: QoS::AtLeastOnce, retain: false, identifiers: Vec::new() };
    let publication = Publication { message: message(name), to: vec![target], received: None };
    let offered = store.offer(&[publication]).await?;
    match offered[0].placed[..] {
        [Placed::At(_, position)] => Ok(vec![(format!("message {name}"), position.0)]),
        [Placed::Gone] => Ok(Vec::new()),
        _ => panic!("{offered:?}"),
    }
}

/// One write for the whole line, so that a kill does not cut it from its end.
pub fn say(line: &str) {
    std::io::stdout().lock().write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// The parent's part: all that is found, with its numbers. Whatever a batch has written is there together, and nothing is
/// there twice.
pub async fn found(folder: &Path, sessions: u64) -> BTreeMap<String, u64> {
    let store = Sqlite::open(folder, StoreLimits::default()).await.unwrap();
    let mut found = BTreeMap::new();
    let mut last = Sequence(0);
    loop {
        let page = store.after(&node(), last, 1_000).await.unwrap();
        let Some(newest) = page.last() else { break };
        last = newest.sequence;
        for stored in page {
            assert_eq!(found.insert(format!("event {}", stored.event.device), stored.sequence.0), None);
        }
    }
    let mut last = Revision(0);
    loop {
        let page = store.changes(last, 1_000).await.unwrap();
        let Some(newest) = page.last() else { break };
        last = newest.revision;
        let keys: Vec<Key> = page.iter().flat_map(|change| change.keys.clone()).collect();
        assert!(store.get(&keys).await.unwrap().iter().all(Option::is_some), "a change without its record");
        for change in page {
            assert_eq!(change.keys.len(), RECORDS_PER_BATCH, "a part of a batch");
            let name = change.keys[0].key.rsplit_once('/').unwrap().0;
            assert_eq!(found.insert(format!("batch {name}"), change.revision.0), None);
        }
    }
    let batches = found.keys().filter(|name| name.starts_with("batch")).count();
    assert_eq!(store.revision().await.unwrap().0, batches as u64, "a commit without its change");
    assert_eq!(audited(&store).await, batches, "a commit without its audit entry");
    for session_number in 0..sessions {
        for queued in store.peek(&session(session_number), None, u32::MAX, usize::MAX).await.unwrap() {
            let name = String::from_utf8(queued.message.payload.to_vec()).unwrap();
            assert_eq!(found.insert(format!("message {name}"), queued.position.0), None);
        }
    }
    store.close().await;
    for file in ["control.db", "data.db"] {
        let connection = rusqlite::Connection::open(folder.join(file)).unwrap();
        let sound: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(sound, "ok", "{file}");
    }
    found
}

async fn audited(store: &Sqlite) -> usize {
    let (mut count, mut cursor) = (0, None);
    loop {
        let page = store.audit(&tenant(), cursor.as_ref(), 1_000).await.unwrap();
        count += page.items.len();
        cursor = page.next;
        if cursor.is_none() {
            return count;
        }
    }
}

/// What was acknowledged and is not there, or has another number.
pub fn lost<'a>(acknowledged: &'a Facts, found: &BTreeMap<String, u64>) -> Vec<&'a String> {
    let is_there = |(name, number): &(&String, &Option<u64>)| match (number, found.get(*name)) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(number), Some(there)) => number == there,
    };
    acknowledged.iter().filter(|fact| !is_there(fact)).map(|(name, _)| name).collect()
}

/// Reads `NAME… NUMBER`, where the number of a writer that has not waited is `-`.
pub fn fact(line: &str) -> (String, Option<u64>) {
    let (name, number) = line.rsplit_once(' ').unwrap();
    (name.to_owned(), number.parse().ok())
}

/// This test program again, for one test, as a child.
pub fn this_program(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]);
    command
}

/// A number from the environment.
pub fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

pub fn random(state: &mut u64, range: std::ops::Range<u64>) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    range.start + (*state >> 33) % (range.end - range.start)
}

pub fn record(name: &str, n: usize) -> Key {
    Key::new("thing", format!("{name}/{n}"))
}

pub fn node() -> NodeId {
    NodeId::parse("n1").unwrap()
}

pub fn tenant() -> TenantId {
    TenantId::parse("t").unwrap()
}

pub fn session(number: u64) -> SessionId {
    SessionId::anonymous(&tenant(), &number.to_string())
}

pub fn opening(number: u64) -> Opening {
    let keep = std::time::Duration::from_secs(3_600);
    Opening { session: session(number), clean: false, keep, will: None, at: Timestamp::EPOCH }
}

fn event(name: &str) -> Event {
    Event {
        tenant: tenant(),
        product: ProductId::parse("p").unwrap(),
        device: DeviceId::parse(name).unwrap(),
        epoch: OwnershipEpoch(1),
        home: None,
        at: Timestamp::EPOCH,
        received: Timestamp::EPOCH,
        device_sequence: Some(1),
        report: Report::Telemetry(vec![(Metric::parse("m").unwrap(), Value::Int(1))]),
    }
}

fn message(payload: &str) -> Message {
    Message {
        tenant: tenant(),
        topic: "a".into(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos: QoS::AtLeastOnce,
        retain: false,
        properties: None,
        published: Timestamp::EPOCH,
        expires: None,
        device: None,
    }
}
