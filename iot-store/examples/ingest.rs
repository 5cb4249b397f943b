//! How fast telemetry is appended, durably: `cargo run --release -p iot-store --features sqlite --example ingest`.
//!
//! Events of one value, batches of 1,000, from so many devices as the first argument says (1,000), in a folder below the
//! second (the one for temporary files). Prints events per second and processor time per event for one
//! caller that waits for each batch, for four, and for sixteen.
#![expect(clippy::print_stdout, reason = "a program that reports to people")]

use std::{fs, sync::Arc, time::Instant};

use iot_core::{
    event::{Event, Report, Value},
    id::{DeviceId, Metric, NodeId, OwnershipEpoch, ProductId, TenantId},
    store::TelemetryStore,
    time::Timestamp,
};
use iot_store::{StoreLimits, sqlite::Sqlite};

const EVENTS: u64 = 500_000;
const BATCH: u64 = 1_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let devices = std::env::args().nth(1).map_or(Ok(1_000), |text| text.parse())?;
    let base = std::env::args().nth(2).map_or_else(std::env::temp_dir, Into::into);
    for callers in [1, 4, 16] {
        let folder = base.join(format!("iot-ingest-{}-{callers}", std::process::id()));
        let store = Sqlite::open(&folder, StoreLimits::default()).await?;
        let (began, cpu) = (Instant::now(), cpu_micros());
        run(&store, callers, devices).await;
        let (seconds, cpu) = (began.elapsed().as_secs_f64(), cpu_micros().saturating_sub(cpu));
        store.close().await;
        let bytes = fs::metadata(folder.join("data.db"))?.len();
        fs::remove_dir_all(&folder)?;
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let (events, cpu) = (EVENTS as f64, cpu as f64);
        println!(
            "{callers} caller(s): {:.0} events/s, {:.2} us CPU/event, {} bytes/event",
            events / seconds,
            cpu / events,
            bytes / EVENTS
        );
    }
    Ok(())
}

async fn run(store: &Sqlite, callers: u64, devices: u64) {
    let callers = (0..callers).map(|caller| {
        let store = Arc::new(store.clone());
        tokio::spawn(async move {
            let node = NodeId::parse("n1").expect("an id");
            for batch in (0..EVENTS / BATCH).filter(|batch| batch % callers == caller) {
                let events: Vec<Event> = (0..BATCH).map(|n| event(batch * BATCH + n, devices)).collect();
                store.append(&node, &events).await.expect("appended");
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.expect("no panic");
    }
}

#[expect(clippy::cast_precision_loss, reason = "any number will do")]
fn event(count: u64, devices: u64) -> Event {
    let at = Timestamp::from_millis(1_800_000_000_000 + i64::try_from(count / 10).unwrap_or(0));
    Event {
        tenant: TenantId::parse("acme").expect("an id"),
        product: ProductId::parse("lamp").expect("an id"),
        device: DeviceId::parse(&format!("lamp-{:05}", count % devices)).expect("an id"),
        epoch: OwnershipEpoch(1),
        home: None,
        at,
        received: at,
        device_sequence: Some(count / devices + 1),
        report: Report::Telemetry(vec![(
            Metric::parse("temperature").expect("a name"),
            Value::Float(count as f64 / 7.0),
        )]),
    }
}

/// User and system time of this process so far (Linux; zero elsewhere).
fn cpu_micros() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let ticks: u64 = after_name.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks * 10_000
}
