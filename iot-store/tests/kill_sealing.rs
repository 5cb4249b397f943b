//! A process that is killed while it seals loses nothing, keeps nothing twice, and has counted everything once.
//!
//! The test starts itself as a child, in which some tasks append, one seals all the time, and what was acknowledged is
//! printed; the parent kills it with SIGKILL after a random line and looks at what reports, statistics and latest values say.
//! One round of three kills, or as many as `IOT_KILL_ROUNDS` says.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    io::{BufRead, BufReader},
    path::Path,
    process::Stdio,
    time::Duration,
};

use iot_core::{
    event::{Event, Report, Value},
    id::{DeviceId, Metric, OwnershipEpoch},
    store::{Aggregate, KEPT_DAYS_MAX, Policies, Range, Retention, Series, TelemetryStore},
    time::Timestamp,
};
use iot_store::{StoreLimits, sqlite::Sqlite};
use support::{node, number, random, say, tenant, this_program};

const FOLDER: &str = "IOT_KILL_SEALING_FOLDER";
const LIFE: &str = "IOT_KILL_SEALING_LIFE";
const DEVICES: u64 = 40;
const APPENDERS: u64 = 8;
/// Reports of a batch, of devices in turn.
const BATCH: i64 = 50;
/// A child is killed so many acknowledged batches after it has sealed something.
const LINES: std::ops::Range<u64> = 50..400;

#[test]
fn killed_while_it_seals() {
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    if let Ok(folder) = env::var(FOLDER) {
        runtime().block_on(child(Path::new(&folder)));
        return;
    }
    let mut seed = number("IOT_KILL_SEED", 0x5eed);
    let (mut kills, mut reports, mut sealed) = (0, 0, 0);
    for _ in 0..number("IOT_KILL_ROUNDS", 1) {
        let folder = tempfile::tempdir().unwrap();
        let mut acknowledged = BTreeMap::new();
        for life in 0..3 {
            run_and_kill(folder.path(), life, random(&mut seed, LINES), &mut acknowledged);
            runtime().block_on(examine(folder.path(), &acknowledged));
            kills += 1;
        }
        reports += acknowledged.values().map(BTreeSet::len).sum::<usize>();
        sealed += chunks(folder.path());
    }
    assert!(sealed > 0, "nothing was sealed");
    println!("count: {kills} kills while sealing, {reports} reports acknowledged, 0 lost, {sealed} of them in chunks");
}

type Acknowledged = BTreeMap<u64, BTreeSet<i64>>;

fn run_and_kill(folder: &Path, life: u32, until: u64, acknowledged: &mut Acknowledged) {
    let before = if life == 0 { 0 } else { chunks(folder) };
    let mut command = this_program("killed_while_it_seals");
    command.env(FOLDER, folder).env(LIFE, life.to_string()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let (mut lines, mut looks, mut has_sealed) = (0, 0, false);
    for line in output.lines() {
        let line = line.unwrap();
        let Some(numbers) = line.strip_prefix("ack ") else { continue };
        let numbers: Vec<i64> = numbers.split(' ').map(|number| number.parse().unwrap()).collect();
        for number in numbers[0]..numbers[1] {
            acknowledged.entry(device_of(number)).or_default().insert(number);
        }
        looks += 1;
        has_sealed = has_sealed || looks % 16 == 0 && chunks(folder) > before;
        lines += u64::from(has_sealed);
        if lines == until {
            child.kill().unwrap();
        }
    }
    assert!(!child.wait().unwrap().success(), "the child must not end by itself");
}

async fn examine(folder: &Path, acknowledged: &Acknowledged) {
    let store = Sqlite::open(folder, StoreLimits::default()).await.unwrap();
    for (device, numbers) in acknowledged {
        let found = walk(&store, *device).await;
        let distinct: BTreeSet<i64> = found.iter().copied().collect();
        assert_eq!(distinct.len(), found.len(), "a report is there twice");
        let lost: Vec<_> = numbers.difference(&distinct).collect();
        assert!(lost.is_empty(), "device {device} has lost {lost:?}");
        let latest = &store.latest(&series(*device)).await.unwrap()[0];
        assert_eq!(Some(&latest.value), distinct.last().map(|last| Value::Int(*last)).as_ref());
        for width in [86_400, 86_401] {
            let buckets = store.aggregate(&whole(*device, width), 1_000_000).await.unwrap();
            let count: u64 = buckets.iter().map(|bucket| bucket.count).sum();
            assert_eq!(count, found.len() as u64, "in buckets of {width} s");
        }
        let again: Vec<Event> = numbers.iter().rev().take(3).map(|number| report(*number)).collect();
        assert!(store.append(&node(), &again).await.unwrap().iter().all(Option::is_none), "a repeat is not recognised");
    }
    store.close().await;
    let connection = rusqlite::Connection::open(folder.join("data.db")).unwrap();
    let sound: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
}

async fn walk(store: &Sqlite, device: u64) -> Vec<i64> {
    let range = Range { series: series(device), metric: None, from: Timestamp::EPOCH, until: Timestamp::MAX };
    let (mut found, mut cursor) = (Vec::new(), None);
    loop {
        let page = store.range(&range, false, cursor.as_ref(), 700).await.unwrap();
        found.extend(page.items.iter().map(|stored| stored.event.at.as_millis() / 1_000));
        cursor = page.next;
        if cursor.is_none() {
            return found;
        }
    }
}

fn chunks(folder: &Path) -> u64 {
    let connection = rusqlite::Connection::open(folder.join("data.db")).unwrap();
    let rows: i64 = connection.query_row("SELECT coalesce(sum(rows), 0) FROM chunk", [], |row| row.get(0)).unwrap();
    rows.unsigned_abs()
}

fn whole(device: u64, width: u64) -> Aggregate {
    Aggregate {
        series: series(device),
        metric: Metric::parse("m").unwrap(),
        from: Timestamp::EPOCH,
        until: Timestamp::from_millis(4_000_000_000_000),
        bucket: Duration::from_secs(width),
    }
}

async fn child(folder: &Path) {
    let store = Sqlite::open(folder, StoreLimits::default()).await.unwrap();
    let life: i64 = env::var(LIFE).unwrap().parse().unwrap();
    let sealer = store.clone();
    tokio::spawn(async move {
        let default = Retention::new(KEPT_DAYS_MAX, KEPT_DAYS_MAX, KEPT_DAYS_MAX, KEPT_DAYS_MAX).unwrap();
        let policies = Policies { default, ..Policies::default() };
        loop {
            // Whatever was received is old, and nothing is so old that it is forgotten.
            let _ = sealer.maintain(Timestamp::from_millis(400 * 86_400_000), &policies).await.unwrap();
        }
    });
    let tasks: Vec<_> = (0..APPENDERS)
        .map(|task| {
            let store = store.clone();
            tokio::spawn(async move {
                // Each appender of each life has numbers of its own.
                let own = (life * i64::try_from(APPENDERS).unwrap() + i64::try_from(task).unwrap()) * 1_000_000;
                for batch in 0.. {
                    let first = own + batch * BATCH;
                    let events: Vec<Event> = (first..first + BATCH).map(report).collect();
                    store.append(&node(), &events).await.unwrap();
                    say(&format!("ack {first} {}", first + BATCH));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

fn device_of(number: i64) -> u64 {
    number.unsigned_abs() % DEVICES
}

fn series(device: u64) -> Series {
    Series { tenant: tenant(), device: DeviceId::parse(&format!("d{device}")).unwrap(), epoch: OwnershipEpoch(1) }
}

fn report(number: i64) -> Event {
    let at = Timestamp::from_millis(number * 1_000);
    let Series { tenant, device, epoch } = series(device_of(number));
    Event {
        tenant,
        product: "p".parse().unwrap(),
        device,
        epoch,
        home: None,
        at,
        received: at,
        device_sequence: Some(number.unsigned_abs()),
        report: Report::Telemetry(vec![(Metric::parse("m").unwrap(), Value::Int(number))]),
    }
}
