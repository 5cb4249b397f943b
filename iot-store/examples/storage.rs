//! What telemetry costs in a store, beside others: what `tests/storage-figures` runs. A line of JSON for each figure.
//!
//! - `storage write FOLDER` writes what the fleet reports, for the others: rows of a device (i32), a time in microseconds
//!   (i64) and five values (f64), in little endian. `1x` and `10x` have so many reports of 100 devices, `alone` has a million of
//!   one.
//! - `storage sqlite FOLDER` and `storage postgres URL` measure a store: durable appends in batches, bytes on the disk once all
//!   is sealed, a range, aggregates and latest values, each at one and at ten times the data. Rows of that form in the file that
//!   `PUBLIC` names are a data set of others, whose bytes are told too; NaN is no value.
#![expect(clippy::print_stdout, reason = "a program that reports to people")]

mod fleet;

use std::{
    fs,
    io::{BufWriter, Write},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use iot_core::{
    event::{Event, Report, Value},
    id::{Metric, NodeId},
    store::{Aggregate, KEPT_DAYS_MAX, Policies, Range, Retention, Series, TelemetryStore},
    time::Timestamp,
};
use iot_store::{
    StoreLimits,
    postgres::{Postgres, PostgresSettings},
    sqlite::Sqlite,
};

use crate::fleet::{Device, METRICS, Times};

type Failure = Box<dyn std::error::Error>;
type Store = Arc<dyn TelemetryStore>;

const DEVICES: u64 = 100;
const REPORTS: usize = 2_000;
const ALONE: usize = 1_000_000;
const BATCH: usize = 10_000;
/// How many messages are appended in batches of so many.
const BATCHES: [(usize, usize); 3] = [(100, 20_000), (1_000, 200_000), (10_000, 400_000)];
/// How many reports wait to be sealed.
const ROWS_PER_TURN: usize = 500_000;
const ROUNDS: usize = 7;
const DAY: Duration = Duration::from_secs(86_400);

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["write", folder] => write(Path::new(folder)),
        ["sqlite", folder] => {
            for scale in [1, 10] {
                let folder = Path::new(folder).join(format!("sqlite-{scale}x"));
                let store = Sqlite::open(&folder, StoreLimits::default()).await?;
                let engine = Engine {
                    name: "iot-store SQLite",
                    store: Arc::new(store.clone()),
                    place: Place::File(folder.clone()),
                };
                engine.measure(scale).await?;
                store.close().await;
                fs::remove_dir_all(&folder)?;
            }
            Ok(())
        }
        ["postgres", url] => {
            for scale in [1, 10] {
                let mut settings = PostgresSettings::new(url);
                settings.schema = format!("figures_{scale}");
                let store = Postgres::open(&settings, StoreLimits::default()).await?;
                let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
                tokio::spawn(connection);
                let place = Place::Schema { client, schema: settings.schema };
                let engine = Engine { name: "iot-store PostgreSQL", store: Arc::new(store.clone()), place };
                engine.measure(scale).await?;
                store.close().await;
                engine.place.remove().await?;
            }
            Ok(())
        }
        _ => Err("storage write FOLDER | sqlite FOLDER | postgres URL".into()),
    }
}

fn fleet() -> Vec<Device> {
    (1..=DEVICES).map(|number| Device::new(number, Times::Jitter)).collect()
}

fn alone() -> Device {
    Device::new(DEVICES + 1, Times::Jitter)
}

fn write(folder: &Path) -> Result<(), Failure> {
    for (name, scale) in [("1x", 1), ("10x", 10)] {
        let mut file = BufWriter::new(fs::File::create(folder.join(name))?);
        let mut fleet = fleet();
        for _ in 0..scale * REPORTS {
            for (number, device) in (1_i32..).zip(&mut fleet) {
                write_row(&mut file, number, &device.report())?;
            }
        }
    }
    let (mut file, mut alone) = (BufWriter::new(fs::File::create(folder.join("alone"))?), alone());
    (0..ALONE).try_for_each(|_| write_row(&mut file, 101, &alone.report()))
}

fn write_row(file: &mut impl Write, device: i32, event: &Event) -> Result<(), Failure> {
    file.write_all(&device.to_le_bytes())?;
    file.write_all(&event.at.as_micros().to_le_bytes())?;
    for (_, value) in values(event) {
        let number = match value {
            Value::Bool(value) => f64::from(u8::from(*value)),
            value => value.as_f64().unwrap_or(f64::NAN),
        };
        file.write_all(&number.to_le_bytes())?;
    }
    Ok(())
}

/// All was received at one time.
fn read_row(row: &[u8; 52]) -> Event {
    let number = |place: usize| f64::from_le_bytes(row[12 + 8 * place..][..8].try_into().unwrap_or_default());
    let device = i32::from_le_bytes(row[..4].try_into().unwrap_or_default());
    let mut event = Device::new(device.unsigned_abs().into(), Times::Jitter).report();
    event.at = Timestamp::from_micros(i64::from_le_bytes(row[4..12].try_into().unwrap_or_default()));
    event.device_sequence = None;
    if let Report::Telemetry(values) = &mut event.report {
        values.iter_mut().enumerate().for_each(|(place, (_, value))| *value = Value::Float(number(place)));
        values.retain(|(_, value)| value.as_f64().is_some_and(|value| !value.is_nan()));
    }
    event
}

fn values(event: &Event) -> &[(Metric, Value)] {
    if let Report::Telemetry(values) = &event.report { values } else { &[] }
}

fn forever() -> Result<Policies, Failure> {
    let default = Retention::new(KEPT_DAYS_MAX, KEPT_DAYS_MAX, KEPT_DAYS_MAX, KEPT_DAYS_MAX)?;
    Ok(Policies { default, ..Policies::default() })
}

struct Engine {
    name: &'static str,
    store: Store,
    place: Place,
}

/// Where what is stored is.
enum Place {
    File(std::path::PathBuf),
    Schema { client: tokio_postgres::Client, schema: String },
}

impl Engine {
    fn print(&self, scale: usize, what: &str, unit: &str, value: f64) {
        println!(
            r#"{{"engine": "{}", "scale": {scale}, "what": "{what}", "unit": "{unit}", "value": {value}}}"#,
            self.name
        );
    }

    async fn measure(&self, scale: usize) -> Result<(), Failure> {
        if scale == 1 {
            self.append_in_batches().await?;
            self.public().await?;
        }
        // What was appended so far is not part of the following.
        let mut fleet = fleet();
        let now = fleet[0].clone().report().received;
        let _ = self.store.maintain(now.plus(30 * DAY), &forever()?).await?;
        let before = self.place.bytes().await?;
        self.fill(&mut fleet, scale * REPORTS, scale).await?;
        let points = count(METRICS * scale * REPORTS * fleet.len());
        self.print(scale, "on disk, sealed", "B/point", (self.place.bytes().await? - before) / points);
        let series: Vec<Series> = fleet.iter().map(|device| device.series().clone()).collect();
        self.range(scale, &series[series.len() / 2 - 1]).await?;
        self.latest(scale, &series).await?;
        if scale == 10 {
            let mut alone = [alone()];
            self.fill(&mut alone, ALONE, 0).await?;
            self.aggregates(alone[0].series()).await?;
        }
        Ok(())
    }

    /// Devices of their own, which nothing else looks at.
    async fn append_in_batches(&self) -> Result<(), Failure> {
        let node = NodeId::parse("n1")?;
        for (batch, messages) in BATCHES {
            let mut fleet: Vec<Device> =
                (0..1_000).map(|number| Device::new((batch as u64 + 1) * 100_000 + number, Times::Jitter)).collect();
            let mut reports = (0..messages).map(|n| fleet[n % 1_000].report()).collect::<Vec<_>>().into_iter();
            let batches: Vec<Vec<Event>> =
                (0..messages / batch).map(|_| reports.by_ref().take(batch).collect()).collect();
            let (began, cpu) = (Instant::now(), self.place.cpu());
            for events in &batches {
                self.store.append(&node, events).await?;
            }
            let (time, cpu) = (began.elapsed(), self.place.cpu() - cpu);
            let points = count(METRICS * messages);
            let what = format!("append, batches of {batch}");
            self.print(1, &what, "points/s", points / time.as_secs_f64());
            self.print(1, &what, "CPU us/point", cpu * 1e6 / points);
        }
        Ok(())
    }

    async fn public(&self) -> Result<(), Failure> {
        let Some(file) = std::env::var_os("PUBLIC") else { return Ok(()) };
        let rows = fs::read(file)?;
        let (rows, _) = rows.as_chunks::<52>();
        let events: Vec<Event> = rows.iter().map(read_row).collect();
        let points: usize = events.iter().map(|event| values(event).len()).sum();
        let _ = self.store.maintain(events[0].received.plus(30 * DAY), &forever()?).await?;
        let before = self.place.bytes().await?;
        self.store.append(&NodeId::parse("n1")?, &events).await?;
        let _ = self.store.maintain(events[0].received.plus(DAY), &forever()?).await?;
        self.print(1, "on disk, public data", "B/point", (self.place.bytes().await? - before) / count(points));
        Ok(())
    }

    /// Appends the reports of all in turn, and seals as they come to be too many.
    async fn fill(&self, fleet: &mut [Device], reports: usize, scale: usize) -> Result<(), Failure> {
        let node = NodeId::parse("n1")?;
        let policies = forever()?;
        let turn = (ROWS_PER_TURN / fleet.len()).max(1);
        let (mut appending, mut sealing, mut done, mut last) = (Duration::ZERO, Duration::ZERO, 0, Timestamp::EPOCH);
        while done < reports {
            let rows = turn.min(reports - done);
            let events: Vec<Event> =
                (0..rows).flat_map(|_| fleet.iter_mut().map(Device::report).collect::<Vec<_>>()).collect();
            last = events.iter().map(|event| event.received).max().unwrap_or(last);
            let began = Instant::now();
            for events in events.chunks(BATCH) {
                self.store.append(&node, events).await?;
            }
            appending += began.elapsed();
            let began = Instant::now();
            // Three hours later nothing is young.
            let _ = self.store.maintain(last.plus(Duration::from_secs(10_800)), &policies).await?;
            sealing += began.elapsed();
            done += rows;
        }
        let points = count(METRICS * reports * fleet.len());
        if scale > 0 {
            self.print(scale, "append all", "points/s", points / appending.as_secs_f64());
            self.print(scale, "seal", "points/s", points / sealing.as_secs_f64());
        }
        Ok(())
    }

    async fn range(&self, scale: usize, series: &Series) -> Result<(), Failure> {
        let range = Range { series: series.clone(), metric: None, from: Timestamp::EPOCH, until: Timestamp::MAX };
        let mut times = Vec::new();
        let mut sum = 0.0;
        for _ in 0..ROUNDS {
            let began = Instant::now();
            let page = self.store.range(&range, true, None, u32::try_from(REPORTS)?).await?;
            times.push(began.elapsed());
            sum = page.items.iter().filter_map(|stored| temperature(&stored.event)).sum();
        }
        self.print(scale, "range of 10,000 points", "ms", median(&mut times));
        self.print(scale, "range of 10,000 points", "answer", sum);
        Ok(())
    }

    async fn latest(&self, scale: usize, series: &[Series]) -> Result<(), Failure> {
        let began = Instant::now();
        let mut sum = 0.0;
        for number in 0..10_000 {
            let latest = self.store.latest(&series[number % series.len()]).await?;
            if number < series.len() {
                let found = latest.iter().find(|latest| latest.metric.as_str() == "temperature");
                sum += found.and_then(|latest| latest.value.as_f64()).unwrap_or(f64::NAN);
            }
        }
        self.print(scale, "latest of 10,000 devices", "ms", began.elapsed().as_secs_f64() * 1e3);
        self.print(scale, "latest of 10,000 devices", "answer", sum);
        Ok(())
    }

    async fn aggregates(&self, series: &Series) -> Result<(), Failure> {
        let spans = [("one bucket", 1_u64 << 40), ("hours", 3_600), ("1,000 s", 1_000)];
        for (name, seconds) in spans {
            let aggregate = Aggregate {
                series: series.clone(),
                metric: Metric::parse("temperature")?,
                from: Timestamp::EPOCH,
                until: Timestamp::MAX,
                bucket: Duration::from_secs(seconds),
            };
            let (mut times, mut answer) = (Vec::new(), 0.0);
            for _ in 0..ROUNDS {
                let began = Instant::now();
                let buckets = self.store.aggregate(&aggregate, 1_000_000).await?;
                times.push(began.elapsed());
                answer = buckets.iter().map(|bucket| bucket.sum + bucket.first + bucket.last).sum();
            }
            let what = format!("aggregate of 1,000,000 points, {name}");
            self.print(10, &what, "ms", median(&mut times));
            self.print(10, &what, "answer", answer);
        }
        Ok(())
    }
}

impl Place {
    async fn bytes(&self) -> Result<f64, Failure> {
        match self {
            Self::File(folder) => {
                let file = rusqlite::Connection::open(folder.join("data.db"))?;
                let number = |sql: &str| file.query_row(sql, [], |row| row.get::<_, i64>(0));
                let pages = number("PRAGMA page_count")? - number("PRAGMA freelist_count")?;
                Ok(count(usize::try_from(pages * number("PRAGMA page_size")?)?))
            }
            Self::Schema { client, schema } => {
                client.batch_execute(&format!("VACUUM FULL {schema}.event")).await?;
                let sql = "SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class WHERE relkind = 'r'
                    AND relnamespace = $1::text::regnamespace";
                Ok(count(usize::try_from(client.query_one(sql, &[schema]).await?.get::<_, i64>(0))?))
            }
        }
    }

    /// Seconds of processor time so far, of this process and of the server's (Linux; zero elsewhere).
    fn cpu(&self) -> f64 {
        let is_ours = |stat: &str| matches!(self, Self::Schema { .. }) && stat.contains("(postgres)");
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let own = std::process::id().to_string();
        let ticks = processes.filter_map(|process| {
            let stat = fs::read_to_string(process.path().join("stat")).ok()?;
            let counts = process.file_name() == *own || is_ours(&stat);
            let fields = stat.rsplit(") ").next()?.split(' ').skip(11).take(2).map(str::parse::<u64>);
            counts.then(|| fields.filter_map(Result::ok).sum::<u64>())
        });
        count(usize::try_from(ticks.sum::<u64>()).unwrap_or(0)) / 100.0
    }

    async fn remove(&self) -> Result<(), Failure> {
        if let Self::Schema { client, schema } = self {
            client.batch_execute(&format!("DROP SCHEMA {schema} CASCADE")).await?;
        }
        Ok(())
    }
}

fn temperature(event: &Event) -> Option<f64> {
    values(event).iter().find(|(metric, _)| metric.as_str() == "temperature").and_then(|(_, value)| value.as_f64())
}

fn median(times: &mut [Duration]) -> f64 {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default().as_secs_f64() * 1e3
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn count(count: usize) -> f64 {
    count as f64
}
