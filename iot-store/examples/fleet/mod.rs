//! Reports like those of real devices, the same for the same seed: what examples and benchmarks measure with.

use std::time::Duration;

use iot_core::{
    event::{Event, Report, Sequence, StoredEvent, Value},
    id::{DeviceId, HomeId, Metric, OwnershipEpoch, ProductId, TenantId},
    store::Series,
    time::Timestamp,
};

/// How many values a report has.
pub(crate) const METRICS: usize = 5;
const INTERVAL: Duration = Duration::from_secs(10);
const JITTER_MS: i64 = 50;
const START_MS: i64 = 1_800_000_000_000;

/// SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0, included, to `end`, excluded.
    pub(crate) fn below(&mut self, end: u64) -> i64 {
        (self.next() % end).cast_signed()
    }

    /// Of a list of so many.
    pub(crate) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or(0)
    }

    /// Nearly normal, with a deviation of about one.
    #[expect(clippy::cast_precision_loss, reason = "any number will do")]
    pub(crate) fn normal(&mut self) -> f64 {
        let sum: i64 = (0..12).map(|_| self.below(1 << 20)).sum();
        sum as f64 / f64::from(1 << 20) - 6.0
    }
}

/// Who says when a report was, and how evenly.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(dead_code, reason = "each example uses its own")]
pub(crate) enum Times {
    /// The device, every ten seconds to the millisecond.
    Regular,
    /// The device, up to 50 ms late, in whole milliseconds.
    Jitter,
    /// The node, when it received the report, in microseconds.
    Node,
}

/// A device that reports a temperature, a humidity, a battery, a power and a switch every ten seconds.
#[derive(Debug, Clone)]
pub(crate) struct Device {
    series: Series,
    metrics: [Metric; METRICS],
    random: Random,
    times: Times,
    count: u32,
    /// In tenths.
    temperature: i64,
    humidity: i64,
    on: bool,
}

impl Device {
    pub(crate) fn new(number: u64, times: Times) -> Self {
        let name = |name| Metric::parse(name).expect("a name");
        Self {
            series: Series {
                tenant: TenantId::parse("acme").expect("an id"),
                device: DeviceId::parse(&format!("sensor-{number:06}")).expect("an id"),
                epoch: OwnershipEpoch(1),
            },
            metrics: ["temperature", "humidity", "battery", "power", "on"].map(name),
            random: Random(number),
            times,
            count: 0,
            temperature: 215,
            humidity: 480,
            on: false,
        }
    }

    pub(crate) fn series(&self) -> &Series {
        &self.series
    }

    pub(crate) fn report(&mut self) -> Event {
        let due = Timestamp::from_millis(START_MS).plus(INTERVAL * self.count);
        let late = Duration::from_millis(self.random.below(JITTER_MS as u64).unsigned_abs());
        let sent = if self.times == Times::Regular { due } else { due.plus(late) };
        let received = sent.plus(Duration::from_micros(3_000 + self.random.below(20_000).unsigned_abs()));
        let values = self.values();
        self.count += 1;
        Event {
            tenant: self.series.tenant.clone(),
            product: ProductId::parse("sensor").expect("an id"),
            device: self.series.device.clone(),
            epoch: self.series.epoch,
            home: Some(HomeId::parse("home-4711").expect("an id")),
            at: if self.times == Times::Node { received } else { sent },
            received,
            device_sequence: Some(self.count.into()),
            report: Report::Telemetry(self.metrics.iter().cloned().zip(values).collect()),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    fn values(&mut self) -> [Value; METRICS] {
        let random = &mut self.random;
        self.temperature += [0, 0, 0, 1, -1][random.index(5)];
        self.humidity += random.below(5) - 2;
        self.on ^= random.below(60) == 0;
        let power = if self.on { 60.0 + 2.0 * random.normal() } else { 0.5 };
        [
            Value::Float(self.temperature as f64 / 10.0),
            Value::Float(self.humidity as f64 / 10.0),
            Value::Int(100 - i64::from(self.count / 2_000)),
            Value::Float((power * 100.0).round() / 100.0),
            Value::Bool(self.on),
        ]
    }
}

/// The reports of one device in the log of a node that has `devices` of them, which come in nearly the same order each time.
#[allow(dead_code, reason = "each example uses its own")]
pub(crate) fn stored(device: &mut Device, rows: usize, devices: u64) -> Vec<StoredEvent> {
    let mut order = Random(devices);
    let mut place = |row: u64| Sequence(1 + row * devices + devices / 2 + order.below(devices / 20 + 1).unsigned_abs());
    (0..rows as u64).map(|row| StoredEvent { sequence: place(row), event: device.report() }).collect()
}
