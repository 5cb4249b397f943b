use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::Bound,
};

use async_trait::async_trait;
use iot_core::{
    event::{Event, Report, Sequence, StoredEvent, Value},
    id::{ConsumerId, Metric, NodeId},
    problem::Cursor,
    store::{Aggregate, Bucket, LatestValue, Page, Range, Series, StoreError, TelemetryStore},
    time::Timestamp,
};

use super::{Memory, lock};
use crate::rules::{Buckets, narrowed, place_cursor, read_place};

/// One log for all nodes: a node's own is a part of it.
#[derive(Debug, Default)]
pub(super) struct Telemetry {
    sequence: u64,
    log: BTreeMap<Sequence, (NodeId, Event)>,
    series: HashMap<Series, Places>,
    latest: HashMap<Series, BTreeMap<Metric, (Timestamp, Value)>>,
    checkpoints: HashMap<(NodeId, ConsumerId), Sequence>,
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
            .filter(|(_, (of, _))| of == node)
            .take(limit as usize)
            .map(|(sequence, (_, event))| StoredEvent { sequence: *sequence, event: event.clone() })
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
                let event = narrowed(telemetry.log[&sequence].1.clone(), range.metric.as_ref())?;
                Some(StoredEvent { sequence, event })
            });
        let items: Vec<StoredEvent> = found.by_ref().take(limit.max(1) as usize).collect();
        let next = found.next().and(items.last()).map(|last| place_cursor(last.event.at, last.sequence));
        Ok(Page { items, next })
    }

    async fn aggregate(&self, aggregate: &Aggregate, limit: u32) -> Result<Vec<Bucket>, StoreError> {
        let telemetry = lock(&self.telemetry);
        let mut buckets = Buckets::new(aggregate, limit);
        let values = telemetry
            .between(&aggregate.series, aggregate.from, aggregate.until)
            .filter_map(|(at, sequence)| match &telemetry.log[&sequence].1.report {
                Report::Telemetry(values) => Some(values.iter().map(move |value| (at, value))),
                Report::Event { .. } => None,
            })
            .flatten()
            .filter(|(_, (metric, _))| *metric == aggregate.metric)
            .filter_map(|(at, (_, value))| value.as_f64().map(|value| (at, value)));
        for (at, value) in values {
            if !buckets.add(at, value) {
                break;
            }
        }
        Ok(buckets.finish())
    }

    async fn expire(&self, before: Timestamp) -> Result<u64, StoreError> {
        let mut telemetry = lock(&self.telemetry);
        let (old, kept) =
            std::mem::take(&mut telemetry.log).into_iter().partition(|(_, (_, event))| event.received < before);
        telemetry.log = kept;
        let old: BTreeMap<Sequence, (NodeId, Event)> = old;
        for (sequence, (_, event)) in &old {
            telemetry.forget_place(*sequence, event);
        }
        Ok(old.len() as u64)
    }

    async fn erase(&self, series: &Series) -> Result<u64, StoreError> {
        let mut telemetry = lock(&self.telemetry);
        telemetry.latest.remove(series);
        let places = telemetry.series.remove(series).unwrap_or_default();
        for (_, sequence) in &places.by_time {
            telemetry.log.remove(sequence);
        }
        Ok(places.by_time.len() as u64)
    }

    async fn checkpoint(&self, node: &NodeId, consumer: &ConsumerId) -> Result<Sequence, StoreError> {
        let key = (node.clone(), consumer.clone());
        Ok(lock(&self.telemetry).checkpoints.get(&key).copied().unwrap_or_default())
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
        self.log.insert(sequence, (node.clone(), event.clone()));
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

    fn forget_place(&mut self, sequence: Sequence, event: &Event) {
        let series = series(event);
        let Some(places) = self.series.get_mut(&series) else { return };
        places.by_time.remove(&(event.at, sequence));
        if let Some(count) = event.device_sequence {
            places.device_sequences.remove(&count);
        }
        if places.by_time.is_empty() {
            self.series.remove(&series);
        }
    }
}

fn series(event: &Event) -> Series {
    Series { tenant: event.tenant.clone(), device: event.device.clone(), epoch: event.epoch }
}
