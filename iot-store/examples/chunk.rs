//! What sealing costs: bytes, and nanoseconds of this machine, per point.
//!
//! `cargo run --release -p iot-store --features chunks --example chunk`
#![allow(clippy::print_stdout, reason = "a program for people")]

mod fleet;

use std::{hint::black_box, time::Instant};

use fleet::{Device, METRICS, Random, Times};
use iot_core::{
    event::{Report, StoredEvent, Value},
    id::Metric,
    store::Series,
    time::Timestamp,
};
use iot_store::chunk::{self, ChunkError, Point, Reader, Rollup, Rollups, Summary};

const DEVICES: u64 = 1_000;
const ROUNDS: usize = 5;
/// In each round at least so many points are measured: enough for a clock that ticks every 4 ms.
const POINTS_MIN: usize = 500_000;
const VALUES_MIN: usize = 8_000_000;

fn main() -> Result<(), ChunkError> {
    println!("reports of {METRICS} values every 10 s, one device of {DEVICES}; all columns of the report are counted");
    println!("{:36} {:>6} {:>10} {:>10} {:>10} {:>10}", "", "rows", "B/point", "encode ns", "events ns", "values ns");
    for (name, times) in [
        ("times by the device, regular", Times::Regular),
        ("times by the device, 50 ms jitter", Times::Jitter),
        ("times by the node, in microseconds", Times::Node),
    ] {
        for rows in [20, 60, 1_000, 8_192, 65_536] {
            let mut device = Device::new(7, times);
            let events = fleet::stored(&mut device, rows, DEVICES);
            show(name, device.series(), &events)?;
        }
    }
    println!("\none value in each report, all else regular");
    for (name, values) in kinds(8_192) {
        let mut device = Device::new(7, Times::Regular);
        let mut events = fleet::stored(&mut device, values.len(), 1);
        for (stored, value) in events.iter_mut().zip(values) {
            stored.event.received = stored.event.at;
            stored.event.report = Report::Telemetry(vec![(metric("m"), value)]);
        }
        show(name, device.series(), &events)?;
    }
    show_rollups()
}

fn show(name: &str, series: &Series, events: &[StoredEvent]) -> Result<(), ChunkError> {
    let sealed = chunk::encode(events)?;
    let metrics: Vec<Metric> = sealed.stats.metrics.iter().map(|stats| stats.metric.clone()).collect();
    let points = events.len() * metrics.len();
    let encode = nanos_per(points, POINTS_MIN, || drop(black_box(chunk::encode(events))));
    let decode =
        nanos_per(points, POINTS_MIN, || drop(black_box(Reader::open(&sealed.bytes).and_then(|r| r.events(series)))));
    // A metric as an aggregate reads it: the chunk is opened and checked, and times and values are decoded.
    let values = nanos_per(points, VALUES_MIN, || {
        for metric in &metrics {
            let all = (Timestamp::from_micros(i64::MIN), Timestamp::MAX);
            let show = |at: &[i64], values: &[f64]| {
                black_box((at, values));
            };
            let read = Reader::open(&sealed.bytes).and_then(|reader| reader.visit_values(metric, all.0, all.1, show));
            drop(black_box(read));
        }
    });
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let bytes = sealed.bytes.len() as f64 / points as f64;
    println!("{name:36} {:>6} {bytes:>10.2} {encode:>10.1} {decode:>10.1} {values:>10.2}", events.len());
    Ok(())
}

/// The median of some rounds, in time of this process on a processor.
#[expect(clippy::cast_precision_loss, reason = "for people")]
fn nanos_per(points: usize, points_min: usize, work: impl Fn()) -> f64 {
    let repeats = points_min.div_ceil(points);
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let (started, cpu) = (Instant::now(), cpu_nanos());
            (0..repeats).for_each(|_| work());
            let spent = match (cpu, cpu_nanos()) {
                (Some(before), Some(after)) => (after - before) as f64,
                _ => started.elapsed().as_nanos() as f64,
            };
            spent / (repeats * points) as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}

/// Linux only; elsewhere the clock on the wall has to do.
fn cpu_nanos() -> Option<u64> {
    std::fs::read_to_string("/proc/self/schedstat").ok()?.split(' ').next()?.parse().ok()
}

#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "any number will do")]
fn kinds(rows: i64) -> Vec<(&'static str, Vec<Value>)> {
    let mut random = Random(1);
    let device = |metric: usize| {
        let mut device = Device::new(7, Times::Regular);
        let value = |report| {
            if let Report::Telemetry(mut values) = report { values.swap_remove(metric).1 } else { Value::Int(0) }
        };
        (0..rows).map(|_| value(device.report().report)).collect::<Vec<Value>>()
    };
    let status = |n: usize| Value::Text(["idle", "heating", "cooling", "defrosting"][n / 50 % 4].to_owned());
    let place = |random: &mut Random| Value::Json(serde_json::json!({"x": random.below(100), "y": random.below(100)}));
    vec![
        ("f64, one decimal, walking slowly", device(0)),
        ("f64, one decimal, walking", device(1)),
        ("i64, falling slowly", device(2)),
        ("f64, two decimals, noise while on", device(3)),
        ("bool, seldom changing", device(4)),
        ("bool, random", (0..rows).map(|_| Value::Bool(random.below(2) == 0)).collect()),
        ("i64, a counter", (0..rows).map(|n| Value::Int(n * 3 + random.below(7))).collect()),
        ("i64, random", (0..rows).map(|_| Value::Int(random.next().cast_signed())).collect()),
        ("f64, full precision, a sine", (0..rows).map(|n| Value::Float((n as f64 / 100.0).sin())).collect()),
        ("f64, full precision, noise", (0..rows).map(|_| Value::Float(random.normal() / 3.0)).collect()),
        ("f32 as f64, noise", (0..rows).map(|_| Value::Float(f64::from((random.normal() / 3.0) as f32))).collect()),
        ("21 or 21.5, as JSON has them", (0..rows).map(|n| halves(40 + n / 7 % 9)).collect()),
        ("text, four states", (0..).zip(0..rows).map(|(n, _)| status(n)).collect()),
        ("text, random hexadecimal", (0..rows).map(|_| Value::Text(format!("{:016x}", random.next()))).collect()),
        ("JSON, two small numbers", (0..rows).map(|_| place(&mut random)).collect()),
    ]
}

#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn halves(count: i64) -> Value {
    if count % 2 == 0 { Value::Int(count / 2) } else { Value::Float(count as f64 / 2.0) }
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn show_rollups() -> Result<(), ChunkError> {
    let mut device = Device::new(7, Times::Jitter);
    let mut rows: Vec<Rollup> = Vec::new();
    for stored in fleet::stored(&mut device, 8_640, DEVICES) {
        let Report::Telemetry(values) = &stored.event.report else { continue };
        let point =
            Point { at: stored.event.at, sequence: stored.sequence, value: values[0].1.as_f64().unwrap_or(0.0) };
        let start = Timestamp::from_micros(point.at.as_micros().div_euclid(60_000_000) * 60_000_000);
        match rows.last_mut().filter(|row| row.start == start) {
            Some(row) => row.summary.add(point),
            None => rows.push(Rollup { start, summary: Summary::of(point) }),
        }
    }
    let rollups = Rollups { resolution: std::time::Duration::from_secs(60), rows };
    let bytes = rollups.encode()?;
    let count = rollups.rows.len();
    let encode = nanos_per(count, POINTS_MIN, || drop(black_box(rollups.encode())));
    let decode = nanos_per(count, POINTS_MIN, || drop(black_box(Rollups::decode(&bytes))));
    let each = bytes.len() as f64 / count as f64;
    println!(
        "\nrollups of a minute, a day of a temperature: {count} rows, {each:.2} B, encode {encode:.0} ns, decode {decode:.0} ns each"
    );
    Ok(())
}

fn metric(name: &str) -> Metric {
    Metric::parse(name).expect("a name")
}
