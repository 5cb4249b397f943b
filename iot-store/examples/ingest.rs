//! How fast telemetry is appended, durably: `cargo run --release -p iot-store --features sqlite --example ingest`.
//!
//! Messages of five values, in turn from so many devices as the first argument says (10,000), in a folder below the
//! second (the one for temporary files). For batches of 100, 1,000 and 10,000 messages and for one, four and sixteen
//! callers that each wait for their batch: points per second, processor time of the whole process per point, and bytes
//! per point in the file.
#![expect(clippy::print_stdout, reason = "a program that reports to people")]

use std::{fs, path::Path, sync::Arc, time::Instant};

use iot_core::{
    event::{Event, Report, Value},
    id::{DeviceId, Metric, NodeId, OwnershipEpoch, ProductId, TenantId},
    store::TelemetryStore,
    time::Timestamp,
};
use iot_store::{StoreLimits, sqlite::Sqlite};

const METRICS: [&str; 5] = ["temperature", "humidity", "power", "voltage", "on"];

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let devices = std::env::args().nth(1).map_or(Ok(10_000), |text| text.parse())?;
    let base = std::env::args().nth(2).map_or_else(std::env::temp_dir, Into::into);
    for (batch, messages) in [(100, 50_000), (1_000, 300_000), (10_000, 500_000)] {
        for callers in [1, 4, 16] {
            let folder = base.join(format!("iot-ingest-{}-{batch}-{callers}", std::process::id()));
            measure(&folder, &Load { batch, messages, callers, devices }).await?;
            fs::remove_dir_all(&folder)?;
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Load {
    batch: u64,
    messages: u64,
    callers: u64,
    devices: u64,
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
async fn measure(folder: &Path, load: &Load) -> Result<(), Box<dyn std::error::Error>> {
    let store = Sqlite::open(folder, StoreLimits::default()).await?;
    let fleet = Arc::new(Fleet::new(load.devices));
    // The messages are made beforehand: what is measured is the store.
    let batches = (0..load.messages / load.batch)
        .map(|batch| (0..load.batch).map(|n| fleet.event(batch * load.batch + n)).collect())
        .collect();
    let (began, cpu) = (Instant::now(), cpu_micros());
    run(&store, load.callers, batches).await;
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), cpu_micros().saturating_sub(cpu));
    store.close().await;
    let bytes = fs::metadata(folder.join("data.db"))?.len();
    let points = (load.messages * METRICS.len() as u64) as f64;
    println!(
        "batches of {}, {} caller(s): {:.0} points/s, {:.2} us CPU/point, {:.1} bytes/point",
        load.batch,
        load.callers,
        points / seconds,
        cpu as f64 / points,
        bytes as f64 / points
    );
    Ok(())
}

async fn run(store: &Sqlite, callers: u64, batches: Vec<Vec<Event>>) {
    let batches = Arc::new(batches);
    let callers = (0..callers).map(|caller| {
        let (store, batches) = (store.clone(), Arc::clone(&batches));
        tokio::spawn(async move {
            let node = NodeId::parse("n1").expect("an id");
            for (_, events) in (0..).zip(batches.iter()).filter(|(batch, _)| batch % callers == caller) {
                store.append(&node, events).await.expect("appended");
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.expect("no panic");
    }
}

struct Fleet {
    tenant: TenantId,
    product: ProductId,
    devices: Vec<DeviceId>,
    metrics: [Metric; 5],
}

impl Fleet {
    fn new(devices: u64) -> Self {
        Self {
            tenant: TenantId::parse("acme").expect("an id"),
            product: ProductId::parse("meter").expect("an id"),
            devices: (0..devices).map(|n| DeviceId::parse(&format!("meter-{n:06}")).expect("an id")).collect(),
            metrics: METRICS.map(|name| Metric::parse(name).expect("a name")),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "any number will do")]
    fn event(&self, count: u64) -> Event {
        let devices = self.devices.len() as u64;
        let (device, round) = (count % devices, count / devices);
        let at = Timestamp::from_millis(
            1_800_000_000_000 + i64::try_from(round * 1_000 + device * 1_000 / devices).unwrap_or(0),
        );
        let wave = ((round + device) as f64 / 50.0).sin();
        let tenths = |value: f64| Value::Float((value * 10.0).round() / 10.0);
        let values = [
            tenths(21.0 + 3.0 * wave),
            tenths(45.0 + 10.0 * wave),
            tenths(120.0 + 80.0 * wave),
            tenths(230.0 + wave),
            Value::Bool(!round.is_multiple_of(7)),
        ];
        Event {
            tenant: self.tenant.clone(),
            product: self.product.clone(),
            device: self.devices[usize::try_from(device).unwrap_or(0)].clone(),
            epoch: OwnershipEpoch(1),
            home: None,
            at,
            received: at,
            device_sequence: Some(round + 1),
            report: Report::Telemetry(self.metrics.iter().cloned().zip(values).collect()),
        }
    }
}

/// User and system time of this process so far (Linux; zero elsewhere).
fn cpu_micros() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let ticks: u64 = after_name.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks * 10_000
}
