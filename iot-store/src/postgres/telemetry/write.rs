//! The lane of telemetry: two round trips for a group.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use deadpool_postgres::Client;
use iot_core::{
    event::{Event, Report, Sequence},
    id::{ConsumerId, HomeId, Metric, NodeId, ProductId},
    store::Series,
};
use tokio_postgres::Row;

use super::super::{
    fault::Fault,
    lane::Work,
    ordered,
    pipeline::{Pipeline, parameters},
    pool::number,
};
use crate::codec;

/// The most series whose numbers are remembered; then it begins anew.
const SERIES_KNOWN_MAX: usize = 100_000;
/// What an event needs beside its body, about.
const EVENT_BYTES: usize = 150;

pub(in crate::postgres) enum Job {
    Append { node: NodeId, events: Vec<Prepared> },
    Advance { node: NodeId, consumer: ConsumerId, to: Sequence },
}

pub(in crate::postgres) enum Answer {
    Appended(Vec<Option<Sequence>>),
    Advanced,
}

/// An event in the form in which it is stored, made before it goes to the lane.
pub(in crate::postgres) struct Prepared {
    series: Series,
    at: i64,
    received: i64,
    device_sequence: Option<i64>,
    product: ProductId,
    home: Option<HomeId>,
    body: Vec<u8>,
    values: Vec<(Metric, Vec<u8>)>,
}

impl Prepared {
    pub(super) fn new(event: &Event) -> Self {
        let values = match &event.report {
            Report::Telemetry(values) => {
                values.iter().map(|(metric, value)| (metric.clone(), codec::value(value))).collect()
            }
            Report::Event { .. } => Vec::new(),
        };
        Self {
            series: Series { tenant: event.tenant.clone(), device: event.device.clone(), epoch: event.epoch },
            at: event.at.as_micros(),
            received: event.received.as_micros(),
            // Only compared for equality, so that the bits may be read as a signed number.
            device_sequence: event.device_sequence.map(u64::cast_signed),
            product: event.product.clone(),
            home: event.home.clone(),
            body: codec::report(&event.report),
            values,
        }
    }
}

/// What the lane of telemetry does.
#[derive(Default)]
pub(in crate::postgres) struct Telemetry {
    // Small sections, never across an await.
    known: Mutex<Known>,
}

/// The numbers of series and nodes. Those of series can go, with what is erased.
#[derive(Default)]
struct Known {
    series: HashMap<Series, i64>,
    nodes: HashMap<NodeId, i64>,
}

#[async_trait]
impl Work for Telemetry {
    type Job = Job;
    type Answer = Answer;

    fn weight(job: &Job) -> usize {
        appends(std::slice::from_ref(job)).flat_map(|(_, events)| events).map(|e| e.body.len() + EVENT_BYTES).sum()
    }

    async fn carry_out(&self, client: &Client, jobs: &[Job]) -> Result<Vec<Answer>, Fault> {
        let nodes = self.nodes(client, jobs).await?;
        let series = self.series(client, jobs).await?;
        let Some(mut log) = begin(client, jobs, nodes, &series).await? else {
            self.known.lock().unwrap_or_else(PoisonError::into_inner).series.clear();
            return Err(Fault::again("a series was erased at the same time"));
        };
        let answers = jobs.iter().map(|job| log.carry_out(job)).collect::<Result<_, Fault>>()?;
        end(client, &mut log).await?;
        Ok(answers)
    }
}

fn appends(jobs: &[Job]) -> impl Iterator<Item = (&NodeId, &[Prepared])> {
    jobs.iter().filter_map(|job| match job {
        Job::Append { node, events } => Some((node, &events[..])),
        Job::Advance { .. } => None,
    })
}

// === numbers ===

const ADD_NODES: &str = "INSERT INTO node (name) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING";
const NODES: &str = "SELECT name, id FROM node WHERE name = ANY($1::text[])";
const ADD_SERIES: &str = "INSERT INTO series (tenant, device, epoch)
    SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[]) ON CONFLICT DO NOTHING";
// LATERAL with LIMIT looks each up by its index, whatever the planner believes of the size of the table.
const SERIES: &str = "SELECT found.id FROM unnest($1::text[], $2::text[], $3::bigint[])
        WITH ORDINALITY AS wanted (tenant, device, epoch, place)
    CROSS JOIN LATERAL (SELECT id FROM series WHERE series.tenant = wanted.tenant AND series.device = wanted.device
        AND series.epoch = wanted.epoch LIMIT 1) AS found
    ORDER BY place";

impl Telemetry {
    /// The numbers of the nodes; a new node gets one before the transaction begins.
    async fn nodes<'a>(&self, client: &Client, jobs: &'a [Job]) -> Result<HashMap<&'a NodeId, i64>, Fault> {
        let named: BTreeSet<&NodeId> = appends(jobs).map(|(node, _)| node).collect();
        let unknown: Vec<&str> = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            named.iter().filter(|node| !known.nodes.contains_key(**node)).map(|node| node.as_str()).collect()
        };
        let mut rows = Vec::new();
        if !unknown.is_empty() {
            let mut pipeline = Pipeline::default();
            pipeline.add(ADD_NODES, parameters![unknown.clone()]);
            let found = pipeline.add(NODES, parameters![unknown]);
            let answers = pipeline.run(client).await?;
            for row in &answers[found] {
                let node = NodeId::parse(row.try_get(0)?).map_err(|error| Fault::Damaged(error.to_string()))?;
                rows.push((node, row.try_get::<_, i64>(1)?));
            }
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.nodes.extend(rows);
        Ok(named.into_iter().filter_map(|node| Some((node, *known.nodes.get(node)?))).collect())
    }

    /// The numbers of the series, likewise.
    async fn series<'a>(&self, client: &Client, jobs: &'a [Job]) -> Result<HashMap<&'a Series, i64>, Fault> {
        let mut numbers = HashMap::new();
        let mut unknown = BTreeMap::new();
        {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            for Prepared { series, .. } in appends(jobs).flat_map(|(_, events)| events) {
                if let Some(number) = known.series.get(series) {
                    numbers.insert(series, *number);
                } else {
                    unknown.insert((series.tenant.as_str(), series.device.as_str(), series.epoch), series);
                }
            }
        }
        if !unknown.is_empty() {
            let tenants: Vec<&str> = unknown.keys().map(|(tenant, ..)| *tenant).collect();
            let devices: Vec<&str> = unknown.keys().map(|(_, device, _)| *device).collect();
            let epochs: Vec<i64> = unknown.keys().map(|(.., epoch)| epoch.0.cast_signed()).collect();
            let mut pipeline = Pipeline::default();
            pipeline.add(ADD_SERIES, parameters![tenants.clone(), devices.clone(), epochs.clone()]);
            let found = pipeline.add(SERIES, parameters![tenants, devices, epochs]);
            let answers = pipeline.run(client).await?;
            let found = answers[found].iter().map(|row| row.try_get(0)).collect::<Result<Vec<i64>, _>>()?;
            numbers.extend(unknown.values().copied().zip(found));
            self.remember(unknown.values().filter_map(|series| Some(((*series).clone(), *numbers.get(series)?))));
        }
        Ok(numbers)
    }

    fn remember(&self, numbers: impl Iterator<Item = (Series, i64)>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.series.len() >= SERIES_KNOWN_MAX {
            known.series.clear();
        }
        known.series.extend(numbers);
    }
}

// === append ===

const LOCK_NODES: &str = "SELECT id, sequence FROM node WHERE id = ANY($1::bigint[]) ORDER BY id FOR UPDATE";
const COUNT_SERIES: &str = "SELECT count(*) FROM series WHERE id = ANY($1::bigint[])";
const REPEATS: &str = "WITH named AS MATERIALIZED (
        SELECT * FROM unnest($1::bigint[], $2::bigint[]) AS named (series, device_sequence))
    SELECT named.series, named.device_sequence FROM named CROSS JOIN LATERAL (
        SELECT 1 FROM event WHERE event.series = named.series AND event.device_sequence = named.device_sequence
        AND event.device_sequence IS NOT NULL LIMIT 1) AS found
    UNION ALL
    SELECT named.series, named.device_sequence FROM named CROSS JOIN LATERAL (
        SELECT last FROM run WHERE run.series = named.series AND run.first <= named.device_sequence
        ORDER BY run.first DESC LIMIT 1) AS below
    WHERE below.last >= named.device_sequence";
const APPEND: &str = "INSERT INTO event
        (node, sequence, series, at, received, device_sequence, product, home, body)
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
        $7::text[], $8::text[], $9::bytea[])";
const LATEST: &str = "INSERT INTO latest (series, metric, at, value)
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bytea[])
    ON CONFLICT (series, metric) DO UPDATE SET at = excluded.at, value = excluded.value WHERE excluded.at >= latest.at";
const COUNT_NODES: &str = "UPDATE node SET sequence = counted.sequence
    FROM unnest($1::bigint[], $2::bigint[]) AS counted (id, sequence) WHERE node.id = counted.id";
const ADVANCE: &str = "INSERT INTO checkpoint (node, consumer, sequence)
    SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[])
    ON CONFLICT (node, consumer) DO UPDATE SET sequence = greatest(checkpoint.sequence, excluded.sequence)";

/// What a group adds.
struct Log<'a> {
    nodes: HashMap<&'a NodeId, i64>,
    series: &'a HashMap<&'a Series, i64>,
    /// By the number of the node.
    sequences: BTreeMap<i64, i64>,
    /// Counts of devices that are there.
    repeats: HashSet<(i64, i64)>,
    rows: Vec<(i64, i64, i64, &'a Prepared)>,
    latest: BTreeMap<(i64, &'a str), (i64, &'a [u8])>,
    checkpoints: BTreeMap<(&'a str, &'a str), i64>,
}

/// Locks the nodes until the end of the transaction, so that their sequences become visible in order, and looks for repeats.
/// Another node may append the same event meanwhile: then the index refuses this group, which is tried again. `None` if the
/// number of a series has gone; whoever erases one waits for the nodes.
async fn begin<'a>(
    client: &Client,
    jobs: &'a [Job],
    nodes: HashMap<&'a NodeId, i64>,
    series: &'a HashMap<&'a Series, i64>,
) -> Result<Option<Log<'a>>, Fault> {
    let counted = appends(jobs).flat_map(|(_, events)| events);
    let counted = counted.filter_map(|event| Some((*series.get(&event.series)?, event.device_sequence?)));
    let (of, counts): (Vec<i64>, Vec<i64>) = counted.unzip();
    let mut pipeline = Pipeline::begin();
    let ids: Vec<i64> = nodes.values().copied().collect();
    let sequences = (!ids.is_empty()).then(|| pipeline.add(LOCK_NODES, parameters![ids]));
    let numbers: BTreeSet<i64> = series.values().copied().collect();
    let expected = ordered(numbers.len() as u64);
    let there = pipeline.add(COUNT_SERIES, parameters![numbers.into_iter().collect::<Vec<i64>>()]);
    let repeats = (!of.is_empty()).then(|| pipeline.add(REPEATS, parameters![of, counts]));
    let answers = pipeline.run(client).await?;
    let pairs = |rows: &[Row]| rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Vec<_>>();
    let sequences: Result<_, Fault> = pairs(sequences.map_or(&[], |place| &answers[place])).into_iter().collect();
    let repeats: Result<_, Fault> = pairs(repeats.map_or(&[], |place| &answers[place])).into_iter().collect();
    if number(&answers[there])? != expected {
        return Ok(None);
    }
    Ok(Some(Log {
        nodes,
        series,
        sequences: sequences?,
        repeats: repeats?,
        rows: Vec::new(),
        latest: BTreeMap::new(),
        checkpoints: BTreeMap::new(),
    }))
}

impl<'a> Log<'a> {
    fn carry_out(&mut self, job: &'a Job) -> Result<Answer, Fault> {
        match job {
            Job::Append { node, events } => {
                let placed = events.iter().map(|event| self.append(node, event)).collect::<Option<_>>();
                placed
                    .map(Answer::Appended)
                    .ok_or_else(|| Fault::Damaged("a node or a series has no number".to_owned()))
            }
            Job::Advance { node, consumer, to } => {
                let to = ordered(to.0);
                let furthest = self.checkpoints.entry((node.as_str(), consumer.as_str())).or_insert(to);
                *furthest = to.max(*furthest);
                Ok(Answer::Advanced)
            }
        }
    }

    /// The sequence of an event, `Some(None)` for a repeat.
    fn append(&mut self, node: &NodeId, event: &'a Prepared) -> Option<Option<Sequence>> {
        let node = *self.nodes.get(node)?;
        let series = *self.series.get(&event.series)?;
        if event.device_sequence.is_some_and(|count| !self.repeats.insert((series, count))) {
            return Some(None);
        }
        let sequence = self.sequences.get_mut(&node)?;
        *sequence += 1;
        self.rows.push((node, *sequence, series, event));
        for (metric, value) in &event.values {
            let newer = (event.at, &value[..]);
            let newest = self.latest.entry((series, metric.as_str())).or_insert(newer);
            if newer.0 >= newest.0 {
                *newest = newer;
            }
        }
        Some(Some(Sequence(sequence.cast_unsigned())))
    }
}

async fn end(client: &Client, log: &mut Log<'_>) -> Result<(), Fault> {
    let mut pipeline = Pipeline::default();
    if !log.rows.is_empty() {
        // In the order of the index that refuses repeats: groups of two nodes do not wait for each other in a circle.
        log.rows
            .sort_unstable_by_key(|(node, sequence, series, event)| (*series, event.device_sequence, *node, *sequence));
        add_rows(&mut pipeline, &log.rows);
        let (ids, sequences): (Vec<i64>, Vec<i64>) = log.sequences.iter().unzip();
        pipeline.add(COUNT_NODES, parameters![ids, sequences]);
    }
    if !log.latest.is_empty() {
        let series: Vec<i64> = log.latest.keys().map(|(series, _)| *series).collect();
        let metrics: Vec<&str> = log.latest.keys().map(|(_, metric)| *metric).collect();
        let (times, values): (Vec<i64>, Vec<&[u8]>) = log.latest.values().copied().unzip();
        pipeline.add(LATEST, parameters![series, metrics, times, values]);
    }
    if !log.checkpoints.is_empty() {
        let nodes: Vec<&str> = log.checkpoints.keys().map(|(node, _)| *node).collect();
        let consumers: Vec<&str> = log.checkpoints.keys().map(|(_, consumer)| *consumer).collect();
        let sequences: Vec<i64> = log.checkpoints.values().copied().collect();
        pipeline.add(ADVANCE, parameters![nodes, consumers, sequences]);
    }
    pipeline.commit(client).await?;
    Ok(())
}

fn add_rows<'a>(pipeline: &mut Pipeline<'a>, rows: &[(i64, i64, i64, &'a Prepared)]) {
    let nodes: Vec<i64> = rows.iter().map(|(node, ..)| *node).collect();
    let sequences: Vec<i64> = rows.iter().map(|(_, sequence, ..)| *sequence).collect();
    let series: Vec<i64> = rows.iter().map(|(_, _, series, _)| *series).collect();
    let times: Vec<i64> = rows.iter().map(|(.., event)| event.at).collect();
    let received: Vec<i64> = rows.iter().map(|(.., event)| event.received).collect();
    let counts: Vec<Option<i64>> = rows.iter().map(|(.., event)| event.device_sequence).collect();
    let products: Vec<&str> = rows.iter().map(|(.., event)| event.product.as_str()).collect();
    let homes: Vec<Option<&str>> = rows.iter().map(|(.., event)| event.home.as_ref().map(HomeId::as_str)).collect();
    let bodies: Vec<&[u8]> = rows.iter().map(|(.., event)| &event.body[..]).collect();
    let columns = parameters![nodes, sequences, series, times, received, counts, products, homes, bodies];
    pipeline.add(APPEND, columns);
}
