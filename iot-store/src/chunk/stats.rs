use iot_core::{
    event::{Report, Sequence, StoredEvent},
    id::Metric,
    store::Bucket,
    time::Timestamp,
};

/// Where a report stands in its series: by the device's time, then by sequence.
pub type Place = (Timestamp, Sequence);

/// A numeric value and where it stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// When it was, by the device.
    pub at: Timestamp,
    /// The place of its report in the log.
    pub sequence: Sequence,
    /// What it was.
    pub value: f64,
}

impl Point {
    /// Where it stands.
    pub fn place(&self) -> Place {
        (self.at, self.sequence)
    }
}

/// Statistics of numeric values (see [`Value::as_f64`](iot_core::event::Value::as_f64)), of at least one. As in a
/// [`Bucket`], NaN counts and makes the sum NaN, and `min` and `max` leave it out unless there is nothing else.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// How many values.
    pub count: u64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// Of all, added in the order in which they came.
    pub sum: f64,
    /// The earliest, by the device's time, then by sequence.
    pub first: Point,
    /// The latest.
    pub last: Point,
}

impl Summary {
    /// Of one value.
    pub fn of(point: Point) -> Self {
        Self { count: 1, min: point.value, max: point.value, sum: point.value, first: point, last: point }
    }

    /// Takes one more value, in any order. Of two at the same place the one that was added first is the earlier.
    pub fn add(&mut self, point: Point) {
        self.merge(&Self::of(point));
    }

    /// Takes the values of another, which must not be among these already; late and out-of-order ones too. Of two at the
    /// same place those here are the earlier.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.sum += other.sum;
        if other.first.place() < self.first.place() {
            self.first = other.first;
        }
        if other.last.place() >= self.last.place() {
            self.last = other.last;
        }
    }

    /// As a bucket that begins at `start`.
    pub fn bucket(&self, start: Timestamp) -> Bucket {
        Bucket {
            start,
            count: self.count,
            min: self.min,
            max: self.max,
            sum: self.sum,
            first: self.first.value,
            last: self.last.value,
        }
    }
}

/// What a chunk holds of one metric.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricStats {
    /// Of which metric.
    pub metric: Metric,
    /// How many values of any type; named events do not count.
    pub values: u64,
    /// Of those that are numbers; `None` if none is.
    pub numbers: Option<Summary>,
}

/// What a chunk holds, to be kept beside it so that it need not be opened.
#[derive(Debug, Clone, PartialEq)]
pub struct ChunkStats {
    /// How many reports.
    pub rows: u32,
    /// The earliest, by the device's time, then by sequence.
    pub first: Place,
    /// The latest.
    pub last: Place,
    /// The lowest sequence.
    pub lowest_sequence: Sequence,
    /// The highest.
    pub highest_sequence: Sequence,
    /// When the first of them was received.
    pub earliest_received: Timestamp,
    /// When the last of them was.
    pub latest_received: Timestamp,
    /// Of each metric in telemetry, in the order in which they first occur.
    pub metrics: Vec<MetricStats>,
}

impl ChunkStats {
    /// Of one metric; `None` if it does not occur.
    pub fn metric(&self, metric: &Metric) -> Option<&MetricStats> {
        self.metrics.iter().find(|stats| stats.metric == *metric)
    }

    /// Without the metrics; `first` and `last` must be of the same run.
    pub(super) fn of_rows(events: &[StoredEvent], first: &StoredEvent, last: &StoredEvent) -> Self {
        let mut stats = Self {
            rows: u32::try_from(events.len()).unwrap_or(u32::MAX),
            first: place(first),
            last: place(last),
            lowest_sequence: first.sequence,
            highest_sequence: first.sequence,
            earliest_received: first.event.received,
            latest_received: first.event.received,
            metrics: Vec::new(),
        };
        for stored in events {
            stats.lowest_sequence = stats.lowest_sequence.min(stored.sequence);
            stats.highest_sequence = stats.highest_sequence.max(stored.sequence);
            stats.earliest_received = stats.earliest_received.min(stored.event.received);
            stats.latest_received = stats.latest_received.max(stored.event.received);
        }
        stats
    }
}

pub(super) fn place(stored: &StoredEvent) -> Place {
    (stored.event.at, stored.sequence)
}

/// Adds the values of a report, of which `metrics` says for each to which statistics it belongs.
pub(super) fn add_values(stats: &mut [MetricStats], stored: &StoredEvent, metrics: &[usize]) {
    let Report::Telemetry(values) = &stored.event.report else { return };
    for ((_, value), metric) in values.iter().zip(metrics) {
        let stats = &mut stats[*metric];
        stats.values += 1;
        let Some(value) = value.as_f64() else { continue };
        let point = Point { at: stored.event.at, sequence: stored.sequence, value };
        match &mut stats.numbers {
            Some(summary) => summary.add(point),
            None => stats.numbers = Some(Summary::of(point)),
        }
    }
}
