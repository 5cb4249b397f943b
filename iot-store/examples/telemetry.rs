//! What telemetry costs, sealed: `cargo run --release -p iot-store --features sqlite --example telemetry`.
//!
//! A fleet of so many devices as the first argument says (1,000) reports five values 1,000 times, and then ten times as
//! often, in a folder below the second (the one for temporary files). Then one device has a million reports more. Prints how fast
//! that was appended and sealed, bytes per point on the disk, and how long queries take: the least of some rounds.
#![expect(clippy::print_stdout, reason = "a program that reports to people")]

mod fleet;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use iot_core::{
    event::Event,
    id::{Metric, NodeId},
    store::{Aggregate, KEPT_DAYS_MAX, Policies, Range, Retention, Series, TelemetryStore},
    time::Timestamp,
};
use iot_store::{StoreLimits, sqlite::Sqlite};

use crate::fleet::{Device, METRICS, Times};

type Failure = Box<dyn std::error::Error>;

const REPORTS: usize = 1_000;
const BATCH: usize = 1_000;
const ALONE: usize = 1_000_000;
const ROUNDS: usize = 7;
/// How many reports wait to be sealed.
const ROWS_PER_TURN: usize = 1_000_000;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let devices = std::env::args().nth(1).map_or(Ok(1_000), |text| text.parse())?;
    let base = std::env::args().nth(2).map_or_else(std::env::temp_dir, Into::into);
    for times in [1, 10] {
        let folder = base.join(format!("iot-telemetry-{}-{times}", std::process::id()));
        measure(&folder, devices, times * REPORTS).await?;
        fs::remove_dir_all(&folder)?;
    }
    Ok(())
}

async fn measure(folder: &Path, devices: u64, reports: usize) -> Result<(), Failure> {
    let store = Sqlite::open(folder, StoreLimits::default()).await?;
    let mut fleet: Vec<Device> = (1..=devices).map(|number| Device::new(number, Times::Jitter)).collect();
    println!("{devices} devices, {reports} reports of {METRICS} values each");
    fill(&store, &mut fleet, reports).await?;
    let series: Vec<Series> = fleet.iter().map(|device| device.series().clone()).collect();
    let points = METRICS * reports * fleet.len();
    let [all, chunks, rollups] = used(folder)?.map(|bytes| ratio(bytes, points));
    println!("  {all:.2} bytes/point on the disk, {chunks:.2} of them chunks, {rollups:.2} rollups");
    read(&store, &series).await?;

    let mut alone = vec![Device::new(devices + 1, Times::Jitter)];
    fill(&store, &mut alone, ALONE).await?;
    aggregate(&store, alone[0].series()).await?;
    store.close().await;
    Ok(())
}

/// Appends the reports of all in turn, and seals as they come to be too many.
async fn fill(store: &Sqlite, fleet: &mut [Device], reports: usize) -> Result<(), Failure> {
    let node = NodeId::parse("n1")?;
    let (mut appending, mut sealing) = (Duration::ZERO, Duration::ZERO);
    let rows_per_turn = (ROWS_PER_TURN / fleet.len()).max(1);
    let (mut done, mut last) = (0, Timestamp::EPOCH);
    while done < reports {
        let turn = rows_per_turn.min(reports - done);
        let mut batch: Vec<Event> = Vec::with_capacity(BATCH);
        for _ in 0..turn {
            for device in &mut *fleet {
                let report = device.report();
                last = last.max(report.received);
                batch.push(report);
                if batch.len() == BATCH {
                    let began = Instant::now();
                    store.append(&node, &batch).await?;
                    appending += began.elapsed();
                    batch.clear();
                }
            }
        }
        store.append(&node, &batch).await?;
        done += turn;
        let began = Instant::now();
        let default = Retention::new(KEPT_DAYS_MAX, KEPT_DAYS_MAX, KEPT_DAYS_MAX, KEPT_DAYS_MAX)?;
        // Two hours later nothing is young.
        let now = last.plus(Duration::from_secs(7_200));
        store.maintain(now, &Policies { default, ..Policies::default() }).await?;
        sealing += began.elapsed();
    }
    let points = METRICS * reports * fleet.len();
    println!("  appended {:.0} points/s, sealed {:.0} points/s", rate(points, appending), rate(points, sealing));
    Ok(())
}

async fn read(store: &Sqlite, series: &[Series]) -> Result<(), Failure> {
    let middle = &series[series.len() / 2];
    let range = Range { series: middle.clone(), metric: None, from: Timestamp::EPOCH, until: Timestamp::MAX };
    let events = u32::try_from(10_000 / METRICS)?;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let found = store.range(&range, true, None, events).await?.items.len();
        times.push((began.elapsed(), found * METRICS));
    }
    let (least, found) = times.into_iter().min().unwrap_or_default();
    println!("  range of {found} points: {least:.2?}");

    let began = Instant::now();
    let mut values = 0;
    let asked = 10_000;
    for place in 0..asked {
        values += store.latest(&series[place % series.len()]).await?.len();
    }
    println!("  latest of {asked} devices, one after the other, {values} values: {:.2?}", began.elapsed());
    Ok(())
}

async fn aggregate(store: &Sqlite, series: &Series) -> Result<(), Failure> {
    for (name, bucket) in [
        ("100 s", 100),
        ("1,000 s", 1_000),
        ("hour", 3_600),
        ("ten years", 315_360_000),
        ("ten years and a second", 315_360_001),
    ] {
        let aggregate = Aggregate {
            series: series.clone(),
            metric: Metric::parse("temperature")?,
            from: Timestamp::EPOCH,
            until: Timestamp::MAX,
            bucket: Duration::from_secs(bucket),
        };
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let began = Instant::now();
            let buckets = store.aggregate(&aggregate, u32::MAX).await?;
            times.push((began.elapsed(), buckets.iter().map(|bucket| bucket.count).sum::<u64>(), buckets.len()));
        }
        let (least, points, buckets) = times.into_iter().min().unwrap_or_default();
        println!("  aggregate of {points} points by {name}, {buckets} buckets: {least:.2?}");
    }
    Ok(())
}

/// Bytes of the pages in use, and of the chunks and rollups in them.
fn used(folder: &Path) -> Result<[u64; 3], Failure> {
    let file = rusqlite::Connection::open(folder.join("data.db"))?;
    let number = |sql: &str| file.query_row(sql, [], |row| row.get::<_, i64>(0));
    let pages = number("PRAGMA page_count")? - number("PRAGMA freelist_count")?;
    let mut parts = file.prepare("SELECT id FROM part WHERE form = 0")?;
    let parts = parts.query_map([], |row| row.get::<_, i64>(0))?.collect::<Result<Vec<_>, _>>()?;
    let chunks = parts.iter().map(|part| number(&format!("SELECT sum(length(body)) FROM chunk_{part}")));
    let chunks = chunks.sum::<Result<i64, _>>()?;
    let rollups = number("SELECT sum(length(body)) FROM rollup")?;
    Ok([pages * number("PRAGMA page_size")?, chunks, rollups].map(i64::unsigned_abs))
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn ratio(bytes: u64, points: usize) -> f64 {
    bytes as f64 / points as f64
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn rate(points: usize, time: Duration) -> f64 {
    points as f64 / time.as_secs_f64()
}
