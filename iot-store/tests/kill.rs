//! A process that is killed at any moment loses nothing that it was told is stored.
//!
//! The test starts itself as a child, which appends, commits and offers from many tasks and prints what was acknowledged;
//! the parent kills it with SIGKILL, opens the folder, and looks for every printed line. Five rounds, or as many as
//! `IOT_KILL_ROUNDS` says.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{HashMap, HashSet},
    env,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use bytes::Bytes;
use iot_core::{
    event::{Event, Report, Sequence, Value},
    id::{DeviceId, Metric, NodeId, OwnershipEpoch, ProductId, TenantId},
    message::{Message, QoS},
    session::SessionId,
    store::{
        Batch, Committed, Key, MetaStore, Offered, Opening, Placed, Publication, Revision, SessionStore, Target,
        TelemetryStore, Write as Change,
    },
    time::Timestamp,
};
use iot_store::{StoreLimits, sqlite::Sqlite};

const FOLDER: &str = "IOT_KILL_FOLDER";
const LIFE: &str = "IOT_KILL_LIFE";
const ROUNDS: &str = "IOT_KILL_ROUNDS";
const SEED: &str = "IOT_KILL_SEED";
/// A round ends at a random line between these two: late enough that much was acknowledged.
const LINES: std::ops::Range<u64> = 1_000..6_000;
const TASKS: u64 = 24;
const EVENTS_PER_BATCH: u64 = 10;

#[test]
fn nothing_acknowledged_is_lost() {
    if let Ok(folder) = env::var(FOLDER) {
        tokio::runtime::Runtime::new().unwrap().block_on(child(Path::new(&folder)));
        return;
    }
    let number = |name, default: u64| env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let mut random = number(SEED, 0x5eed);
    println!("{SEED}={random}");
    for round in 0..number(ROUNDS, 5) {
        let folder = tempfile::tempdir().unwrap();
        let mut acknowledged = HashSet::new();
        // The second start continues in what the first kill has left.
        for life in 0..2 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let until = LINES.start + (random >> 33) % (LINES.end - LINES.start);
            acknowledged.extend(run_and_kill(folder.path(), life, until));
            assert!(acknowledged.len() as u64 >= LINES.start);
            tokio::runtime::Runtime::new().unwrap().block_on(verify(folder.path(), &acknowledged));
        }
        println!("round {round}: {} acknowledged, none lost", acknowledged.len());
    }
}

/// What the child said before it was killed after so many lines.
fn run_and_kill(folder: &Path, life: u32, until: u64) -> Vec<String> {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "nothing_acknowledged_is_lost", "--nocapture"])
        .env(FOLDER, folder)
        .env(LIFE, life.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut said = Vec::new();
    let mut line = String::new();
    while output.read_line(&mut line).unwrap() > 0 {
        if let Some(fact) = line.strip_prefix("ack ").and_then(|rest| rest.strip_suffix('\n')) {
            said.push(fact.to_owned());
        }
        line.clear();
        if said.len() as u64 == until {
            child.kill().unwrap();
        }
    }
    let status = child.wait().unwrap();
    assert!(!status.success(), "the child must not end by itself");
    said
}

async fn child(folder: &Path) {
    let store =
        Sqlite::open(folder, StoreLimits { queue_messages_max: 1_000_000, ..StoreLimits::default() }).await.unwrap();
    let life = env::var(LIFE).unwrap();
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (store, life) = (store.clone(), life.clone());
            tokio::spawn(async move {
                store.open(opening(task)).await.unwrap();
                for n in 0_u64.. {
                    match task % 3 {
                        0 => append(&store, &format!("{life}-{task}-{n}")).await,
                        1 => commit(&store, &format!("{life}-{task}-{n}")).await,
                        _ => offer(&store, task, &format!("{life}-{task}-{n}")).await,
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

async fn append(store: &Sqlite, name: &str) {
    let events: Vec<Event> = (0..EVENTS_PER_BATCH).map(|n| event(&format!("{name}-{n}"))).collect();
    let placed = store.append(&node(), &events).await.unwrap();
    for (event, sequence) in events.iter().zip(placed) {
        acknowledge(&format!("event {} {}", event.device, sequence.unwrap().0));
    }
}

async fn commit(store: &Sqlite, name: &str) {
    let put = Change::Put { key: Key::new("thing", name), format: 1, body: "{}".to_owned(), index_keys: Vec::new() };
    let committed = store.commit(Batch { writes: vec![put], ..Batch::default() }).await.unwrap();
    let Committed::Done(revision) = committed else { panic!("{committed:?}") };
    acknowledge(&format!("record {name} {}", revision.0));
}

async fn offer(store: &Sqlite, task: u64, name: &str) {
    let target = Target { session: session(task), qos: QoS::AtLeastOnce, retain: false, identifiers: Vec::new() };
    let publication = Publication { message: message(name), to: vec![target], received: None };
    let offered: Vec<Offered> = store.offer(&[publication]).await.unwrap();
    let [Placed::At(position)] = offered[0].placed[..] else { panic!("{offered:?}") };
    acknowledge(&format!("message {name} {}", position.0));
}

/// One write for the whole line, so that a kill does not cut it from its end.
fn acknowledge(fact: &str) {
    let line = format!("ack {fact}\n");
    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
}

async fn verify(folder: &Path, acknowledged: &HashSet<String>) {
    let store = Arc::new(Sqlite::open(folder, StoreLimits::default()).await.unwrap());
    let mut found = HashSet::new();
    let mut last = Sequence(0);
    loop {
        let page = store.after(&node(), last, 1_000).await.unwrap();
        let Some(newest) = page.last() else { break };
        last = newest.sequence;
        found.extend(page.iter().map(|stored| format!("event {} {}", stored.event.device, stored.sequence.0)));
    }
    let mut last = Revision(0);
    loop {
        let page = store.changes(last, 1_000).await.unwrap();
        let Some(newest) = page.last() else { break };
        last = newest.revision;
        let keys: Vec<Key> = page.iter().flat_map(|change| change.keys.clone()).collect();
        assert!(store.get(&keys).await.unwrap().iter().all(Option::is_some), "a change without its record");
        found.extend(page.iter().map(|change| format!("record {} {}", change.keys[0].key, change.revision.0)));
    }
    for task in 0..TASKS {
        let queue = store.peek(&session(task), None, u32::MAX).await.unwrap();
        let positions: HashMap<u64, usize> = queue.iter().fold(HashMap::new(), |mut counts, queued| {
            *counts.entry(queued.position.0).or_default() += 1;
            counts
        });
        assert!(positions.values().all(|count| *count == 1));
        let name = |queued: &iot_core::store::Queued| String::from_utf8(queued.message.payload.to_vec()).unwrap();
        found.extend(queue.iter().map(|queued| format!("message {} {}", name(queued), queued.position.0)));
    }
    let lost: Vec<&String> = acknowledged.difference(&found).collect();
    assert!(lost.is_empty(), "{} of {} acknowledged are lost: {:?}", lost.len(), acknowledged.len(), lost.first());
}

fn node() -> NodeId {
    NodeId::parse("n1").unwrap()
}

fn tenant() -> TenantId {
    TenantId::parse("t").unwrap()
}

fn session(task: u64) -> SessionId {
    SessionId::anonymous(&tenant(), &task.to_string())
}

fn opening(task: u64) -> Opening {
    Opening {
        session: session(task),
        clean: false,
        keep: std::time::Duration::from_secs(3_600),
        will: None,
        at: Timestamp::EPOCH,
    }
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
