use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::Bound,
    time::Duration,
};

use async_trait::async_trait;
use iot_core::{
    event::{Event, Report, Sequence, StoredEvent, Value},
    id::{ConsumerId, Metric, NodeId},
    problem::Cursor,
    store::{
        Aggregate, Bucket, Form, LatestValue, Maintained, Page, Partition, Policies, Range, Series, StoreError,
        TelemetryStore, Usage,
    },
    time::Timestamp,
};

use super::{Memory, lock};
use crate::rules::{Buckets, join, narrowed, place_cursor, read_place, rolled};

/// So long after its receipt a report is sealed.
const SEALED_AFTER: Duration = Duration::from_secs(3_600);
/// So long after its receipt a report is kept for a consumer that has not come so far.
const LOG_KEPT: Duration = Duration::from_secs(7 * 86_400);

/// What a report takes, about.
const REPORT_BYTES: usize = 1_024;

/// One log for all nodes: a node's own is a part of it.
#[derive(Debug, Default)]
pub(super) struct Telemetry {
    sequence: u64,
    log: BTreeMap<Sequence, Entry>,
    /// Each numeric value of what was sealed, by where it would be rolled up.
    rolled: HashMap<(Series, Metric, Form), RolledUp>,
    series: HashMap<Series, Places>,
    latest: HashMap<Series, BTreeMap<Metric, (Timestamp, Value)>>,
    checkpoints: HashMap<(NodeId, ConsumerId), Sequence>,
}

/// Where a value is: in time, in the log, in its report.
type Spot = (Timestamp, Sequence, usize);
type RolledUp = BTreeMap<Spot, (Partition, f64)>;

#[derive(Debug)]
struct Entry {
    node: NodeId,
    /// As it was appended.
    event: Event,
    /// What of it is kept, by partition, once it is sealed.
    parts: Option<BTreeMap<Partition, Event>>,
}

impl Entry {
    /// What is kept of it.
    fn kept(&self) -> Option<Event> {
        let Some(parts) = &self.parts else { return Some(self.event.clone()) };
        parts.values().cloned().reduce(|mut whole, part| {
            if let (Report::Telemetry(values), Report::Telemetry(more)) = (&mut whole.report, part.report) {
                join(values, more);
            }
            whole
        })
    }
}

#[derive(Debug, Default)]
struct Places {
    by_time: BTreeSet<(Timestamp, Sequence)>,
    device_sequences: HashSet<u64>,
}

#[async_trait]
impl TelemetryStore for Memory {
    async fn append(&self, node: &NodeId, events: &[Event]) -> Result<Vec<Option<Sequence>>, StoreError> {
        let mut telemetry = lock(&self.telemetry);
        Ok(events.iter().map(|event| telemetry.append(node, event)).collect())
    }

    async fn after(&self, node: &NodeId, after: Sequence, limit: u32) -> Result<Vec<StoredEvent>, StoreError> {
        Ok(lock(&self.telemetry)
            .log
            .range((Bound::Excluded(after), Bound::Unbounded))
            .filter(|(_, entry)| entry.node == *node)
            .take(limit as usize)
            .map(|(sequence, entry)| StoredEvent { sequence: *sequence, event: entry.event.clone() })
            .collect())
    }

    async fn latest(&self, series: &Series) -> Result<Vec<LatestValue>, StoreError> {
        let telemetry = lock(&self.telemetry);
        let latest = telemetry.latest.get(series).into_iter().flatten();
        Ok(latest
            .map(|(metric, (at, value))| LatestValue { metric: metric.clone(), at: *at, value: value.clone() })
            .collect())
    }

    async fn range(
        &self,
        range: &Range,
        newest_first: bool,
        cursor: Option<&Cursor>,
        limit: u32,
    ) -> Result<Page<StoredEvent>, StoreError> {
        let empty = Page { items: Vec::new(), next: None };
        let after = match cursor.map(read_place) {
            Some(None) => return Ok(empty),
            place => place.flatten(),
        };
        let telemetry = lock(&self.telemetry);
        let mut places: Vec<_> = telemetry.between(&range.series, range.from, range.until).collect();
        if newest_first {
            places.reverse();
        }
        let mut found = places
            .into_iter()
            .filter(|place| after.is_none_or(|after| if newest_first { *place < after } else { *place > after }))
            .filter_map(|(_, sequence)| {
                let event = narrowed(telemetry.log[&sequence].kept()?, range.metric.as_ref())?;
                Some(StoredEvent { sequence, event })
            });
        let items: Vec<StoredEvent> = found.by_ref().take(limit.max(1) as usize).collect();
        let next = found.next().and(items.last()).map(|last| place_cursor(last.event.at, last.sequence));
        Ok(Page { items, next })
    }

    async fn aggregate(&self, aggregate: &Aggregate, limit: u32) -> Result<Vec<Bucket>, StoreError> {
        let telemetry = lock(&self.telemetry);
        let mut buckets = Buckets::new(aggregate, limit);
        for ((at, ..), value) in telemetry.numbers(aggregate) {
            if !buckets.add(at, value) {
                break;
            }
        }
        Ok(buckets.finish())
    }

    async fn maintain(&self, now: Timestamp, policies: &Policies) -> Result<Maintained, StoreError> {
        let mut telemetry = lock(&self.telemetry);
        let sealed = telemetry.seal(now.minus(SEALED_AFTER), policies);
        Ok(Maintained { sealed, forgotten: telemetry.forget(now) })
    }

    async fn erase(&self, series: &Series) -> Result<u64, StoreError> {
        let mut telemetry = lock(&self.telemetry);
        telemetry.latest.remove(series);
        let places = telemetry.series.remove(series).unwrap_or_default();
        telemetry.log.retain(|_, entry| self::series(&entry.event) != *series);
        telemetry.rolled.retain(|(of, ..), _| of != series);
        Ok(places.by_time.len() as u64)
    }

    /// A guess from the number of reports and of values that are rolled up.
    async fn usage(&self) -> Result<Usage, StoreError> {
        let telemetry = lock(&self.telemetry);
        let rolled: usize = telemetry.rolled.values().map(BTreeMap::len).sum();
        let bytes = telemetry.log.len() * REPORT_BYTES + rolled * size_of::<(Spot, (Partition, f64))>();
        Ok(Usage { bytes: bytes as u64, bytes_free: None })
    }

    async fn checkpoint(&self, node: &NodeId, consumer: &ConsumerId) -> Result<Sequence, StoreError> {
        let key = (node.clone(), consumer.clone());
        Ok(*lock(&self.telemetry).checkpoints.entry(key).or_default())
    }

    async fn advance(&self, node: &NodeId, consumer: &ConsumerId, to: Sequence) -> Result<(), StoreError> {
        let mut telemetry = lock(&self.telemetry);
        let checkpoint = telemetry.checkpoints.entry((node.clone(), consumer.clone())).or_default();
        *checkpoint = to.max(*checkpoint);
        Ok(())
    }
}

impl Telemetry {
    fn append(&mut self, node: &NodeId, event: &Event) -> Option<Sequence> {
        let series = series(event);
        let places = self.series.entry(series.clone()).or_default();
        if event.device_sequence.is_some_and(|count| !places.device_sequences.insert(count)) {
            return None;
        }
        self.sequence += 1;
        let sequence = Sequence(self.sequence);
        places.by_time.insert((event.at, sequence));
        self.log.insert(sequence, Entry { node: node.clone(), event: event.clone(), parts: None });
        if let Report::Telemetry(values) = &event.report {
            let latest = self.latest.entry(series).or_default();
            for (metric, value) in values {
                if latest.get(metric).is_none_or(|(at, _)| *at <= event.at) {
                    latest.insert(metric.clone(), (event.at, value.clone()));
                }
            }
        }
        Some(sequence)
    }

    fn between(
        &self,
        series: &Series,
        from: Timestamp,
        until: Timestamp,
    ) -> impl Iterator<Item = (Timestamp, Sequence)> {
        let span = (from < until).then_some((from, Sequence(0))..(until, Sequence(0)));
        let places = self.series.get(series).zip(span);
        places.into_iter().flat_map(|(places, span)| places.by_time.range(span)).copied()
    }

    /// The numeric values of which an aggregate is made, in order.
    fn numbers(&self, aggregate: &Aggregate) -> BTreeMap<Spot, f64> {
        let Aggregate { series, metric, from, until, .. } = aggregate;
        let width = i128::try_from(aggregate.bucket.as_micros()).unwrap_or(i128::MAX).max(1);
        let rolled = rolled(width, (from.as_micros(), until.as_micros()));
        let mut numbers = BTreeMap::new();
        for (at, sequence) in self.between(series, *from, *until) {
            let entry = &self.log[&sequence];
            let is_rolled = rolled.is_some_and(|(_, (from, until))| (from..until).contains(&at.as_micros()));
            let Some(event) = entry.kept().filter(|_| !is_rolled || entry.parts.is_none()) else { continue };
            let of_metric = numeric(&event).filter(|(_, name, _)| name == metric);
            numbers.extend(of_metric.map(|(index, _, value)| ((at, sequence, index), value)));
        }
        if let Some((form, (from, until))) = rolled {
            let values = self.rolled.get(&(series.clone(), metric.clone(), form)).into_iter().flatten();
            let within = values.filter(|((at, ..), _)| (from..until).contains(&at.as_micros()));
            numbers.extend(within.map(|(place, (_, value))| (*place, *value)));
        }
        numbers
    }

    fn seal(&mut self, before: Timestamp, policies: &Policies) -> u64 {
        let mut sealed = 0;
        let old = self.log.iter_mut().filter(|(_, entry)| entry.parts.is_none() && entry.event.received < before);
        for (sequence, entry) in old {
            let event = &entry.event;
            for (index, metric, value) in numeric(event) {
                let retention = policies.of(&event.tenant, &event.product, Some(&metric));
                for form in [Form::Minute, Form::Hour, Form::Day] {
                    let partition = Partition::of(form, &retention, event.received);
                    let values = self.rolled.entry((series(event), metric.clone(), form)).or_default();
                    values.insert((event.at, *sequence, index), (partition, value));
                }
            }
            entry.parts = Some(divided(event, policies));
            sealed += 1;
        }
        sealed
    }

    fn forget(&mut self, now: Timestamp) -> u64 {
        let mut forgotten = 0;
        for (sequence, entry) in &mut self.log {
            let Some(parts) = &mut entry.parts else { continue };
            let before = parts.len();
            parts.retain(|partition, _| !partition.is_over(now));
            forgotten += (before - parts.len()) as u64;
            if let Some(places) = self.series.get_mut(&series(&entry.event))
                && parts.is_empty()
            {
                places.by_time.remove(&(entry.event.at, *sequence));
            }
        }
        for values in self.rolled.values_mut() {
            values.retain(|_, (partition, _)| !partition.is_over(now));
        }
        let (checkpoints, kept) = (&self.checkpoints, now.minus(LOG_KEPT));
        self.log.retain(|sequence, entry| {
            let waits = |((node, _), at): (&(NodeId, ConsumerId), &Sequence)| *node == entry.node && at < sequence;
            entry.kept().is_some() || entry.event.received >= kept && checkpoints.iter().any(waits)
        });
        forgotten
    }
}

/// The numeric values of a report, with their places in it.
fn numeric(event: &Event) -> impl Iterator<Item = (usize, Metric, f64)> {
    let values = match &event.report {
        Report::Telemetry(values) => values.as_slice(),
        Report::Event { .. } => &[],
    };
    let numbers = values.iter().enumerate();
    numbers.filter_map(|(index, (metric, value))| Some((index, metric.clone(), value.as_f64()?)))
}

/// A report by the partitions of its values.
fn divided(event: &Event, policies: &Policies) -> BTreeMap<Partition, Event> {
    let partition =
        |metric| Partition::of(Form::Raw, &policies.of(&event.tenant, &event.product, metric), event.received);
    let mut divided: BTreeMap<Partition, Event> = BTreeMap::new();
    let values = match &event.report {
        Report::Telemetry(values) if !values.is_empty() => values,
        _ => return BTreeMap::from([(partition(None), event.clone())]),
    };
    for (metric, value) in values {
        let empty = || Event { report: Report::Telemetry(Vec::new()), ..event.clone() };
        let part = divided.entry(partition(Some(metric))).or_insert_with(empty);
        if let Report::Telemetry(values) = &mut part.report {
            values.push((metric.clone(), value.clone()));
        }
    }
    divided
}

fn series(event: &Event) -> Series {
    Series { tenant: event.tenant.clone(), device: event.device.clone(), epoch: event.epoch }
}
