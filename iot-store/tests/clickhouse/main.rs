//! Telemetry in ClickHouse: the exam, against its engine.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    env,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use iot_core::{
    event::{Event, Report, Value},
    id::{DeviceId, Metric, NodeId, OwnershipEpoch, ProductId, TenantId},
    store::{Range, Series, StoreError, Stores, TelemetryStore},
    time::Timestamp,
};
use iot_store::{
    clickhouse::{ClickHouse, ClickHouseSettings, OpenError},
    conformance::{Backend, Capability, LIMITS},
    memory::Memory,
};

/// The engine that the tests of this process share, as `http://…`; `IOT_CLICKHOUSE_URL` names a server instead.
fn shared() -> &'static str {
    static SHARED: OnceLock<String> = OnceLock::new();
    SHARED.get_or_init(|| env::var("IOT_CLICKHOUSE_URL").unwrap_or_else(|_| start()))
}

/// It ends when this process does, however that did.
fn start() -> String {
    let mut engine = Engine::start(tempfile::tempdir().unwrap().keep(), 0);
    let url = engine.url();
    std::mem::forget(engine.process.stdin.take());
    std::mem::forget(engine);
    url
}

struct Engine {
    process: Child,
    folder: PathBuf,
    port: u16,
}

impl Engine {
    fn start(folder: PathBuf, port: u16) -> Self {
        let front = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clickhouse/front.py");
        let mut python = Command::new("python3");
        python.arg(front).arg(&folder).arg(port.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = python.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().parse().expect("is chdb there? ./tests/run tools installs it");
        Self { process, folder, port }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// kill -9.
    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn start_again(&mut self) {
        *self = Self::start(self.folder.clone(), self.port);
    }
}

/// A database that nobody has used yet.
fn fresh() -> ClickHouseSettings {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("t{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let mut settings = ClickHouseSettings::new(shared(), name);
    settings.linger = Duration::ZERO;
    settings
}

/// Records and sessions are memory's, which keeps nothing.
struct Database(ClickHouseSettings);

#[async_trait::async_trait]
impl Backend for Database {
    fn capabilities(&self) -> &'static [Capability] {
        &[Capability::DurableTelemetry]
    }

    async fn open(&mut self) -> Stores {
        let telemetry = ClickHouse::open(&self.0).await.unwrap();
        Stores { telemetry: Arc::new(telemetry), ..Stores::new(Memory::new(LIMITS)) }
    }

    fn histories(&self) -> u32 {
        4
    }
}

iot_store::conformance!(Database(fresh()), skips: [
    "durable::records_and_changes_are_there_again",
    "durable::writes_from_many_tasks_are_there_again",
    "durable::maintained_telemetry_is_there_again",
    "durable::sessions_are_there_again",
    "durable::queues_are_there_again",
    "durable::retained_messages_are_there_again",
    "durable::counters_go_on",
    "rollups::each_metric_is_kept_for_its_time",
    "rollups::rollups_outlive_what_they_were_made_from",
    "shared::commits_are_seen_at_once",
    "shared::one_of_many_handles_wins",
    "shared::changes_are_complete_from_every_handle",
    "shared::a_session_passes_from_node_to_node",
    "shared::what_one_node_appends_another_reads",
]);

fn sample(count: u64) -> Event {
    let at = Timestamp::from_millis(1_780_000_000_000 + i64::try_from(count).unwrap());
    Event {
        tenant: TenantId::parse("t").unwrap(),
        product: ProductId::parse("lamp").unwrap(),
        device: DeviceId::parse("d").unwrap(),
        epoch: OwnershipEpoch(1),
        home: None,
        at,
        received: at,
        device_sequence: Some(count),
        report: Report::Telemetry(vec![(Metric::parse("n").unwrap(), Value::Int(i64::try_from(count).unwrap()))]),
    }
}

/// The engine is killed at any moment; what was not acknowledged is sent again, as devices do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kill_9() {
    const BATCH: u64 = 20;
    const ROUNDS: u64 = 3;
    let mut engine = Engine::start(tempfile::tempdir().unwrap().keep(), 0);
    let mut settings = ClickHouseSettings::new(engine.url(), "iot");
    settings.linger = Duration::ZERO;
    let store = ClickHouse::open(&settings).await.unwrap();
    let node = NodeId::parse("n").unwrap();
    let (mut next, mut sequences) = (0, Vec::new());
    for round in 1..=ROUNDS {
        let (stop, acknowledged) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let (store, node) = (store.clone(), node.clone());
        let (stopped, counted) = (stop.clone(), acknowledged.clone());
        let writer = tokio::spawn(async move {
            let mut sequences = Vec::new();
            loop {
                let batch: Vec<Event> = (next..next + BATCH).map(sample).collect();
                match store.append(&node, &batch).await {
                    Ok(given) => {
                        sequences.extend(given.into_iter().flatten());
                        next += BATCH;
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}"),
                }
                if stopped.load(Ordering::Relaxed) > 0 {
                    return (next, sequences);
                }
            }
        });
        while acknowledged.load(Ordering::Relaxed) < 20 {
            tokio::time::sleep(Duration::from_millis(3 * round)).await;
        }
        engine.kill();
        let mut engine_again = engine;
        engine = tokio::task::spawn_blocking(move || {
            engine_again.start_again();
            engine_again
        })
        .await
        .unwrap();
        let before = acknowledged.load(Ordering::Relaxed);
        while acknowledged.load(Ordering::Relaxed) < before + 5 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        stop.store(1, Ordering::Relaxed);
        let more;
        (next, more) = writer.await.unwrap();
        sequences.extend(more);
    }
    let series = Series { tenant: sample(0).tenant, device: sample(0).device, epoch: OwnershipEpoch(1) };
    let (from, until) = (Timestamp::from_micros(0), Timestamp::MAX);
    let (mut found, mut cursor) = (Vec::new(), None);
    loop {
        let range = Range { series: series.clone(), metric: None, from, until };
        let page = store.range(&range, false, cursor.as_ref(), 1_000).await.unwrap();
        found.extend(page.items);
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(
        found.iter().map(|stored| stored.event.clone()).collect::<Vec<_>>(),
        (0..next).map(sample).collect::<Vec<_>>()
    );
    assert!(found.is_sorted_by_key(|stored| stored.sequence) && sequences.is_sorted());
    assert_eq!(store.latest(&series).await.unwrap()[0].value, Value::Int(i64::try_from(next - 1).unwrap()));
    engine.kill();
    std::fs::remove_dir_all(&engine.folder).unwrap();
}

#[tokio::test]
async fn what_cannot_be_used_is_refused() {
    let nobody = ClickHouse::open(&ClickHouseSettings::new("http://127.0.0.1:1", "iot")).await.unwrap_err();
    assert!(matches!(nobody, OpenError::Unavailable(_)), "{nobody:?}");
}

/// The crash came between an event and its newest value, and the server starts days later.
#[tokio::test]
async fn newest_values_that_a_crash_left_out_are_made_up_for_however_late() {
    let settings = fresh();
    drop(ClickHouse::open(&settings).await.unwrap());
    let beside = clickhouse::Client::default().with_url(&settings.url).with_database(&settings.database);
    let event =
        "INSERT INTO event (tenant, product, device, epoch, at, received, node, sequence, metrics, kinds, numbers,
            exacts, texts, appended)
        VALUES ('t', 'lamp', 'd', 1, 7, 7, 'n', 1, ['n'], [1], [5], [5], [''], now() - INTERVAL 3 DAY)";
    for statement in [event, "TRUNCATE TABLE newest"] {
        beside.query_raw(statement).execute().await.unwrap();
    }
    let store = ClickHouse::open(&settings).await.unwrap();
    let other = Event { device: DeviceId::parse("e").unwrap(), ..sample(1) };
    store.append(&NodeId::parse("n").unwrap(), &[other]).await.unwrap();
    let series = Series { tenant: sample(0).tenant, device: sample(0).device, epoch: OwnershipEpoch(1) };
    assert_eq!(store.latest(&series).await.unwrap()[0].value, Value::Int(5));
}

/// It takes connections, and says nothing. The clock runs ahead while all wait.
#[tokio::test(start_paused = true)]
async fn a_silent_server_is_given_up() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let settings = ClickHouseSettings::new(format!("http://{}", silent.local_addr().unwrap()), "iot");
    let late = ClickHouse::open(&settings).await.unwrap_err();
    assert!(matches!(late, OpenError::Unavailable(_)), "{late:?}");
}
