//! Telemetry as Parquet, read by a program that is not ours: DuckDB.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs::File, io::BufWriter, path::Path, process::Command};

use iot_core::{
    event::{Event, Report, Sequence, StoredEvent, Value},
    id::{DeviceId, HomeId, Metric, NodeId, OwnershipEpoch, ProductId, TenantId},
    store::{Range, Series, TelemetryStore},
    time::Timestamp,
};
use iot_store::{
    StoreLimits,
    memory::Memory,
    parquet::{ExportError, Exported, Writer},
};
use serde_json::json;

/// Answers rows as JSON, with NULL where there is nothing.
const QUERY: &str = "
import duckdb, json, sys
rows = duckdb.connect().execute(sys.argv[1].replace('FILE', repr(sys.argv[2]))).fetchall()
print(json.dumps([[None if cell is None else str(cell) for cell in row] for row in rows]))";

fn ask(file: &Path, query: &str) -> serde_json::Value {
    let output = Command::new("python3").args(["-c", QUERY, query]).arg(file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "is duckdb there? ./tests/run tools installs it: {said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn metric(name: &str) -> Metric {
    Metric::parse(name).unwrap()
}

fn event(at: i64, report: Report) -> Event {
    Event {
        tenant: TenantId::parse("t").unwrap(),
        product: ProductId::parse("lamp").unwrap(),
        device: DeviceId::parse("d").unwrap(),
        epoch: OwnershipEpoch(u64::MAX),
        home: None,
        at: Timestamp::from_micros(at),
        received: Timestamp::from_micros(at + 1),
        device_sequence: None,
        report,
    }
}

fn sample(at: i64, values: &[(&str, Value)]) -> Event {
    event(at, Report::Telemetry(values.iter().map(|(name, value)| (metric(name), value.clone())).collect()))
}

fn stored(sequence: u64, event: Event) -> StoredEvent {
    StoredEvent { sequence: Sequence(sequence), event }
}

#[test]
fn another_program_reads_every_kind_of_value() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let mut writer = Writer::new(BufWriter::new(File::create(&path).unwrap())).unwrap();
    let home = HomeId::parse("h").unwrap();
    let floats = [0.1, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, f64::MIN_POSITIVE, f64::MAX];
    let first =
        Event { home: Some(home), device_sequence: Some(u64::MAX), ..sample(0, &[("m", Value::Int(i64::MIN))]) };
    writer.push(&stored(1, first)).unwrap();
    let year_2262 = 9_223_372_036_854_775;
    let all = [
        ("i", Value::Int(i64::MAX)),
        ("b", Value::Bool(true)),
        ("t", Value::Text("Ä\n\u{0}\u{1F600}".to_owned())),
        ("j", Value::Json(json!({"a": [1, null, "x"]}))),
    ];
    writer.push(&stored(u64::MAX, sample(year_2262, &all))).unwrap();
    writer.push(&stored(3, event(-1, Report::Event { name: metric("door"), data: json!({"open": true}) }))).unwrap();
    for float in floats {
        writer.push(&stored(4, sample(5, &[("f", Value::Float(float))]))).unwrap();
    }
    writer.push(&stored(5, sample(6, &[]))).unwrap();
    let (_, exported) = writer.finish().unwrap();
    assert_eq!(exported, Exported { reports: 11, values: 13 });

    let query =
        "SELECT tenant, product, device, epoch, home, epoch_us(reported_at), epoch_us(received_at), sequence, device_sequence,
        kind, name, value_double, value_integer, value_boolean, value_text, value_json FROM read_parquet(FILE, file_row_number = true)
        WHERE name != 'f' ORDER BY file_row_number";
    let epoch = u64::MAX.to_string();
    let (max, at, received) = (epoch.as_str(), year_2262.to_string(), (year_2262 + 1).to_string());
    let row = |cells: [&str; 4], rest: serde_json::Value| {
        let mut all = vec![json!("t"), json!("lamp"), json!("d"), json!(max)];
        let home = if cells[2] == "1" { json!("h") } else { json!(null) };
        let count = if cells[2] == "1" { json!(max) } else { json!(null) };
        all.extend([home, json!(cells[0]), json!(cells[1]), json!(cells[2]), count, json!(cells[3])]);
        all.extend(rest.as_array().unwrap().iter().cloned());
        json!(all)
    };
    let late = [at.as_str(), received.as_str(), max, "telemetry"];
    assert_eq!(
        ask(&path, query),
        json!([
            row(["0", "1", "1", "telemetry"], json!(["m", null, i64::MIN.to_string(), null, null, null])),
            row(late, json!(["i", null, i64::MAX.to_string(), null, null, null])),
            row(late, json!(["b", null, null, "True", null, null])),
            row(late, json!(["t", null, null, null, "Ä\n\u{0}\u{1F600}", null])),
            row(late, json!(["j", null, null, null, null, r#"{"a":[1,null,"x"]}"#])),
            row(["-1", "0", "3", "event"], json!(["door", null, null, null, null, r#"{"open":true}"#])),
        ])
    );
    let query =
        "SELECT value_double FROM read_parquet(FILE, file_row_number = true) WHERE name = 'f' ORDER BY file_row_number";
    let read = ask(&path, query);
    let read: Vec<f64> = read.as_array().unwrap().iter().map(|row| row[0].as_str().unwrap().parse().unwrap()).collect();
    assert_eq!(read.iter().map(|float| float.to_bits()).collect::<Vec<_>>(), floats.map(f64::to_bits));
    let types = ask(
        &path,
        "SELECT column_name || ' ' || column_type FROM (DESCRIBE SELECT reported_at, epoch, value_text FROM FILE)",
    );
    assert_eq!(types, json!([["reported_at TIMESTAMP WITH TIME ZONE"], ["epoch UBIGINT"], ["value_text VARCHAR"]]));
}

/// More than a row group, through the pages of a store.
#[tokio::test]
async fn a_range_of_a_store_is_a_file_of_several_row_groups() {
    const REPORTS: i64 = 70_000;
    let store = Memory::new(StoreLimits::default());
    let node = NodeId::parse("n").unwrap();
    let events: Vec<_> = (0..REPORTS)
        .map(|at| sample(at, &[("a", Value::Int(at)), ("b", Value::Text("on".to_owned()))]))
        .map(|event| Event { epoch: OwnershipEpoch(1), ..event })
        .collect();
    for batch in events.chunks(10_000) {
        store.append(&node, batch).await.unwrap();
    }
    let Event { tenant, device, epoch, .. } = events[0].clone();
    let series = Series { tenant, device, epoch };
    let (from, until) = (Timestamp::from_micros(100), Timestamp::from_micros(REPORTS));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let mut writer = Writer::new(File::create(&path).unwrap()).unwrap();
    writer.push_range(&store, &Range { series, metric: None, from, until }).await.unwrap();
    let (_, exported) = writer.finish().unwrap();
    assert_eq!(exported, Exported { reports: 69_900, values: 139_800 });
    let sum: i64 = (100..REPORTS).sum();
    let query = "SELECT count(*), sum(value_integer), count(value_text), min(sequence) FROM FILE";
    assert_eq!(ask(&path, query), json!([["139800", sum.to_string(), "69900", "101"]]));
    let groups = "SELECT count(DISTINCT row_group_id) FROM parquet_metadata(FILE)";
    assert_eq!(ask(&path, groups), json!([["2"]]));
}

#[test]
fn a_file_without_rows_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    Writer::new(File::create(&path).unwrap()).unwrap().finish().unwrap();
    assert_eq!(ask(&path, "SELECT count(*) FROM FILE"), json!([["0"]]));
}

#[test]
fn what_cannot_be_written_is_an_error() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let refused = Writer::new(Full).and_then(|mut writer| {
        writer.push(&stored(1, sample(0, &[("m", Value::Int(1))])))?;
        writer.finish().map(|_| ())
    });
    assert!(matches!(refused, Err(ExportError::Write(_))), "{refused:?}");
}
