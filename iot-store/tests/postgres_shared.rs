//! Several stores and several processes on one PostgreSQL database.
//!
//! Where processes are needed, the test starts itself as a child, which commits from many tasks and prints what was
//! acknowledged.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use std::{
    collections::HashSet,
    env,
    io::{BufRead, BufReader, Write as _},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use iot_core::{
    event::{Event, Report, Sequence, Value},
    id::{DeviceId, Metric, NodeId, OwnershipEpoch, ProductId, TenantId},
    message::{Message, QoS},
    session::{Position, SessionId},
    store::{
        Batch, Closing, Committed, Fenced, IndexKey, Key, MetaStore, Opening, Placed, Publication, Revision,
        SessionStore, Settled, Settlement, StoredSubscription, Target, TelemetryStore, Write,
    },
    time::Timestamp,
};
use iot_store::{
    StoreLimits,
    postgres::{Postgres, PostgresSettings},
};
use tokio::task::JoinSet;

const SCHEMA: &str = "IOT_POSTGRES_CHILD_SCHEMA";
const SERVER: &str = "IOT_POSTGRES_CHILD_SERVER";
const NAME: &str = "IOT_POSTGRES_CHILD_NAME";
const TASKS: u32 = 16;

async fn open(settings: &PostgresSettings) -> Postgres {
    Postgres::open(settings, StoreLimits::default()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_many_claims_wins_among_two_stores() {
    let settings = cluster::fresh();
    let stores = [open(&settings).await, open(&settings).await];
    let mut claims = JoinSet::new();
    for claimant in 0..64 {
        let store = stores[claimant % 2].clone();
        let write = put(&claimant.to_string(), &[IndexKey::unique("code", "A")]);
        claims.spawn(async move { store.commit(batch([write])).await.unwrap() });
    }
    let won = claims.join_all().await.into_iter().filter(|answer| matches!(answer, Committed::Done(_))).count();
    assert_eq!(won, 1);
    assert_eq!(stores[0].revision().await.unwrap(), Revision(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_taken_over_by_another_store_fences_the_first() {
    let settings = cluster::fresh();
    let (first, second) = (open(&settings).await, open(&settings).await);
    let former = first.open(opening("s")).await.unwrap().epoch;
    let placed = first.offer(&[publication(&["s"], None)]).await.unwrap();
    assert_eq!(placed[0].placed, [Placed::At(former, Position(1))]);
    let taken = second.open(opening("s")).await.unwrap();
    assert!(taken.epoch > former && taken.resumed.is_some());

    let added = StoredSubscription {
        filter: "a".to_owned(),
        qos: QoS::AtLeastOnce,
        no_local: false,
        retain_as_published: false,
        identifier: None,
    };
    assert_eq!(first.subscribe(&session("s"), former, &[added]).await.unwrap(), Fenced::Superseded);
    let finished = Settlement { session: session("s"), epoch: former, step: Settled::Finished(Position(1)) };
    first.settle(&[finished]).await.unwrap();
    let sent = publication(&["s"], Some((session("s"), former, 1)));
    assert_eq!(first.offer(&[sent]).await.unwrap()[0].placed, [Placed::Gone]);
    let closing = Closing {
        session: session("s"),
        epoch: former,
        at: Timestamp::from_micros(1),
        keep: Duration::ZERO,
        will: false,
        sent_through: Position(0),
    };
    assert_eq!(SessionStore::close(&first, closing.clone()).await.unwrap(), Fenced::Superseded);
    assert_eq!(second.peek(&session("s"), None, 9, usize::MAX).await.unwrap().len(), 1);
    assert_eq!(SessionStore::close(&second, Closing { epoch: taken.epoch, ..closing }).await.unwrap(), Fenced::Done);
}

/// From two stores at once; the last epoch is the session's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openings_from_two_stores_are_in_one_order() {
    let settings = cluster::fresh();
    let stores = [open(&settings).await, open(&settings).await];
    let mut openings = JoinSet::new();
    for n in 0..64 {
        let store = stores[n % 2].clone();
        // Some leave nothing behind, so that the next finds no row.
        let keep = Duration::from_secs(u64::from(n % 5 != 0));
        openings.spawn(async move { store.open(Opening { keep, ..opening("s") }).await.unwrap().epoch });
    }
    let mut epochs = openings.join_all().await;
    epochs.sort_unstable();
    epochs.dedup();
    assert_eq!(epochs.len(), 64);
    let last = stores[0].open(opening("s")).await.unwrap().epoch;
    assert!(Some(&last) > epochs.last());
    assert_eq!(stores[1].subscribe(&session("s"), last, &[]).await.unwrap(), Fenced::Done);
}

/// A database that comes from the past: who took a session since the copy was made is fenced.
#[tokio::test]
async fn epochs_are_raised_above_all_that_were_handed_out() {
    let settings = cluster::fresh();
    let store = open(&settings).await;
    let former = [store.open(opening("s")).await.unwrap().epoch, store.open(opening("t")).await.unwrap().epoch];
    let highest = store.raise_session_epochs(Timestamp::from_micros(0)).await.unwrap();
    assert!(highest.0 > former[1].0 + (1 << 40));
    for (name, epoch) in ["s", "t"].into_iter().zip(former) {
        assert_eq!(store.subscribe(&session(name), epoch, &[]).await.unwrap(), Fenced::Superseded);
    }
    let raised: Vec<_> = store.sessions(None, 9).await.unwrap().into_iter().map(|stored| stored.epoch).collect();
    assert!(raised[0] != raised[1] && raised.iter().all(|epoch| *epoch <= highest));
    assert!(store.open(opening("s")).await.unwrap().epoch > highest);
    let again = store.raise_session_epochs(Timestamp::from_millis(1 << 41)).await.unwrap();
    assert!(again.0 > 1 << 61);
}

/// A message for sessions of two nodes goes when both have it, in whatever order they say so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_shared_by_two_stores_leave_nothing_behind() {
    let settings = cluster::fresh();
    let stores = [open(&settings).await, open(&settings).await];
    let names: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    let mut epochs = Vec::new();
    for (n, name) in names.iter().enumerate() {
        epochs.push(stores[n % 2].open(opening(name)).await.unwrap().epoch);
    }
    let to: Vec<&str> = names.iter().map(String::as_str).collect();
    let publications: Vec<Publication> = (0..50).map(|_| publication(&to, None)).collect();
    stores[0].offer(&publications).await.unwrap();
    let mut settling = JoinSet::new();
    for (n, (name, epoch)) in names.iter().zip(epochs).enumerate() {
        let (store, name) = (stores[n % 2].clone(), name.clone());
        settling.spawn(async move {
            for position in (1..=50).rev() {
                let step = Settled::Finished(Position(position));
                store.settle(&[Settlement { session: session(&name), epoch, step }]).await.unwrap();
            }
        });
    }
    settling.join_all().await;
    let beside = cluster::connect(&settings).await;
    let left = beside.query_one("SELECT (SELECT count(*) FROM message) + (SELECT count(*) FROM queue)", &[]).await;
    assert_eq!(left.unwrap().get::<_, i64>(0), 0);
}

/// The same counts of a device through two nodes: each is stored once, and each node's log has no hole but those.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_heard_by_two_nodes_is_stored_once() {
    let settings = cluster::fresh();
    let stores = [open(&settings).await, open(&settings).await];
    let mut appending = JoinSet::new();
    for (node, store) in stores.iter().enumerate() {
        for task in 0..4_u64 {
            let store = store.clone();
            appending.spawn(async move {
                let mut placed = 0;
                for n in 0..30 {
                    // Half of them in the other order.
                    let counts = (0..4).map(|k| n * 4 + if node == 0 { k } else { 3 - k });
                    let events: Vec<Event> = counts.map(|count| event(task, count)).collect();
                    let answer = store.append(&node_id(node), &events).await.unwrap();
                    placed += answer.iter().flatten().count();
                }
                placed
            });
        }
    }
    let placed: usize = appending.join_all().await.into_iter().sum();
    assert_eq!(placed, 4 * 120);
    let mut stored = 0;
    for (node, store) in stores.iter().enumerate() {
        let log = store.after(&node_id(node), Sequence(0), 1_000).await.unwrap();
        assert!(log.is_sorted_by(|one, other| one.sequence < other.sequence));
        stored += log.len();
    }
    assert_eq!(stored, placed);
}

/// Three processes commit; one of them is killed, and one is frozen in the middle of a transaction. A reader of the changes
/// sees every revision, one after the other; what was acknowledged is there; the frozen one does not hold up the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_have_no_gap_whatever_becomes_of_a_process() {
    if env::var(SCHEMA).is_ok() {
        return child().await;
    }
    let settings = cluster::fresh();
    let store = open(&settings).await;
    let mut killed = start(&settings, "killed");
    let mut frozen = start(&settings, "frozen");
    let reader = tokio::spawn(follow(store.clone()));

    let (mut killed, said) = tokio::task::spawn_blocking(move || {
        let said = listen(&mut killed, 400);
        (killed, said)
    })
    .await
    .unwrap();
    killed.kill().unwrap();
    let mut acknowledged = said;
    acknowledged.extend(rest(killed));

    let beside = cluster::connect(&settings).await;
    freeze_in_transaction(&frozen, &beside).await;
    // Whoever waits for the lock of the frozen one gets it when the server ends its transaction.
    for n in 0..20 {
        assert!(matches!(store.commit(batch([put(&format!("own-{n}"), &[])])).await.unwrap(), Committed::Done(_)));
    }
    signal(&frozen, "CONT");
    // It goes on with a new connection.
    let (mut frozen, said) = tokio::task::spawn_blocking(move || {
        let said = listen(&mut frozen, 1_000);
        (frozen, said)
    })
    .await
    .unwrap();
    frozen.kill().unwrap();
    acknowledged.extend(said);
    acknowledged.extend(rest(frozen));

    assert!(matches!(store.commit(batch([put("last", &[])])).await.unwrap(), Committed::Done(_)));
    let seen = reader.await.unwrap();
    assert!(acknowledged.len() > 1_000);
    let lost: Vec<_> = acknowledged.difference(&seen).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

/// Reads the changes until `last` appears; answers the keys.
async fn follow(store: Postgres) -> HashSet<String> {
    let (mut seen, mut last) = (HashSet::new(), Revision(0));
    while !seen.contains("last") {
        for change in store.changes(last, 100).await.unwrap() {
            assert_eq!(change.revision.0, last.0 + 1, "a gap");
            last = change.revision;
            seen.extend(change.keys.into_iter().map(|key| key.key));
        }
    }
    seen
}

/// Stops the process when the server says that its connection is idle in a transaction, which holds the lock.
async fn freeze_in_transaction(process: &Child, beside: &tokio_postgres::Client) {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'frozen' AND state LIKE 'idle in trans%'";
    loop {
        signal(process, "STOP");
        if beside.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) > 0 {
            return;
        }
        signal(process, "CONT");
    }
}

fn signal(process: &Child, name: &str) {
    let status = Command::new("kill").args(["-s", name, &process.id().to_string()]).status().unwrap();
    assert!(status.success());
}

fn start(settings: &PostgresSettings, name: &str) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "changes_have_no_gap_whatever_becomes_of_a_process", "--nocapture"])
        .env(SCHEMA, &settings.schema)
        .env(SERVER, format!("{} application_name={name}", settings.url))
        .env(NAME, name)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// So many of its acknowledgements.
fn listen(process: &mut Child, lines: usize) -> HashSet<String> {
    let mut output = BufReader::with_capacity(1, process.stdout.as_mut().unwrap());
    let mut said = HashSet::new();
    let mut line = String::new();
    while said.len() < lines && output.read_line(&mut line).unwrap() > 0 {
        said.extend(line.trim().strip_prefix("ack ").map(str::to_owned));
        line.clear();
    }
    said
}

/// What it said before its end.
fn rest(mut process: Child) -> HashSet<String> {
    let said = listen(&mut process, usize::MAX);
    process.wait().unwrap();
    said
}

async fn child() {
    let mut settings = PostgresSettings::new(env::var(SERVER).unwrap());
    settings.schema = env::var(SCHEMA).unwrap();
    let (store, name) = (Arc::new(open(&settings).await), env::var(NAME).unwrap());
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (store, name) = (Arc::clone(&store), name.clone());
        tasks.spawn(async move {
            for n in 0_u64.. {
                let name = format!("{name}-{task}-{n}");
                // A frozen process hears that its connection was cut.
                if let Ok(committed) = store.commit(batch([put(&name, &[])])).await {
                    assert!(matches!(committed, Committed::Done(_)));
                    std::io::stdout().lock().write_all(format!("ack {name}\n").as_bytes()).unwrap();
                }
            }
        });
    }
    tasks.join_all().await;
}

fn put(name: &str, index_keys: &[IndexKey]) -> Write {
    Write::Put { key: Key::new("thing", name), format: 1, body: "{}".to_owned(), index_keys: index_keys.to_vec() }
}

fn batch(writes: impl IntoIterator<Item = Write>) -> Batch {
    Batch { writes: writes.into_iter().collect(), ..Batch::default() }
}

fn tenant() -> TenantId {
    TenantId::parse("t").unwrap()
}

fn session(name: &str) -> SessionId {
    SessionId::anonymous(&tenant(), name)
}

fn opening(name: &str) -> Opening {
    Opening {
        session: session(name),
        clean: false,
        keep: Duration::from_secs(3_600),
        will: None,
        at: Timestamp::from_micros(0),
    }
}

fn publication(to: &[&str], received: Option<(SessionId, iot_core::session::SessionEpoch, u16)>) -> Publication {
    let message = Message {
        tenant: tenant(),
        topic: "a".into(),
        payload: bytes::Bytes::from_static(b"x"),
        qos: QoS::AtLeastOnce,
        retain: false,
        properties: None,
        published: Timestamp::from_micros(0),
        expires: None,
        device: None,
    };
    let target =
        |name: &&str| Target { session: session(name), qos: QoS::AtLeastOnce, retain: false, identifiers: Vec::new() };
    Publication { message, to: to.iter().map(target).collect(), received }
}

fn node_id(node: usize) -> NodeId {
    NodeId::parse(&format!("n{node}")).unwrap()
}

fn event(device: u64, count: u64) -> Event {
    Event {
        tenant: tenant(),
        product: ProductId::parse("p").unwrap(),
        device: DeviceId::parse(&format!("d{device}")).unwrap(),
        epoch: OwnershipEpoch(1),
        home: None,
        at: Timestamp::from_micros(0),
        received: Timestamp::from_micros(0),
        device_sequence: Some(count),
        report: Report::Telemetry(vec![(Metric::parse("m").unwrap(), Value::Int(1))]),
    }
}
