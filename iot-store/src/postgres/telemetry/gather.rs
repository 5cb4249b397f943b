//! What a step of sealing reads.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use deadpool_postgres::Transaction;
use iot_core::{
    event::StoredEvent,
    store::{Partition, Policies, Series},
};
use tokio_postgres::Row;

use super::{
    super::{fault::Fault, ordered},
    compress::{Group, Key, Statistics, Work},
    part,
    read::{series_of, stored_event},
    seal::EVENTS_PER_STEP,
};
use crate::{
    chunk::Rollups,
    sealing::{CHUNK_ROWS, by_partition, is_merged, rollups},
};

const DUE_EVENTS: &str = "SELECT sequence, at, received, device_sequence, product, home, body, node, series FROM event
    WHERE received < $1 AND NOT sealed AND series = ANY($2) ORDER BY series, at, sequence, node LIMIT $3";
const NAMES: &str = "SELECT id, tenant, device, epoch FROM series WHERE id = ANY($1)";
const SMALL_CHUNKS: &str =
    "SELECT id, part, series, node, rows FROM chunk WHERE series = ANY($1) AND rows < $2 ORDER BY rows";
const ROLLUPS: &str = "SELECT place, found.body FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[])
        WITH ORDINALITY AS wanted (series, metric, part, era, place)
    CROSS JOIN LATERAL (SELECT body FROM rollup WHERE rollup.series = wanted.series AND rollup.metric = wanted.metric
        AND rollup.part = wanted.part AND rollup.era = wanted.era LIMIT 1) AS found";

/// What one step has read.
pub(super) struct Unsealed {
    /// By the numbers of series and node.
    pub(super) events: BTreeMap<(i64, i64), Vec<StoredEvent>>,
    /// The places of the events in the log: numbers of nodes, sequences.
    pub(super) places: (Vec<i64>, Vec<i64>),
    names: HashMap<i64, Series>,
}

pub(super) async fn read(transaction: &Transaction<'_>, due: i64, series: &[(i64, i64)]) -> Result<Unsealed, Fault> {
    let series: Vec<i64> = series.iter().map(|(id, _)| *id).collect();
    let sql = transaction.prepare_cached(NAMES).await?;
    let names: HashMap<i64, Series> = transaction
        .query(&sql, &[&series])
        .await?
        .iter()
        .map(|row| Ok((row.try_get(0)?, series_of(row, 1)?)))
        .collect::<Result<_, Fault>>()?;
    let sql = transaction.prepare_cached(DUE_EVENTS).await?;
    let rows = transaction.query(&sql, &[&due, &series, &EVENTS_PER_STEP]).await?;
    let mut unsealed = Unsealed { events: BTreeMap::new(), places: Default::default(), names };
    for row in &rows {
        let (node, series): (i64, i64) = (row.try_get(7)?, row.try_get(8)?);
        let name = unsealed.names.get(&series).ok_or_else(|| Fault::again("a series was erased at the same time"))?;
        let stored = stored_event(row, name)?;
        unsealed.places.0.push(node);
        unsealed.places.1.push(ordered(stored.sequence.0));
        unsealed.events.entry((series, node)).or_default().push(stored);
    }
    Ok(unsealed)
}

/// Chunks that go into larger ones, by their partitions.
pub(super) type Merged = BTreeMap<i64, Vec<i64>>;

/// What is to be compressed, together with what is there and goes into the same.
pub(super) async fn gather(
    transaction: &Transaction<'_>,
    unsealed: &Unsealed,
    policies: &Policies,
) -> Result<(Work, Merged), Fault> {
    let (mut groups, mut sums) = (Vec::new(), BTreeMap::new());
    for ((series, node), events) in &unsealed.events {
        let Some(name) = unsealed.names.get(series) else { continue };
        for (partition, events) in by_partition(policies, name, events.iter()) {
            groups.push((*series, *node, name, partition, events));
        }
        for ((form, kept, span, metric), new) in rollups(policies, name, events) {
            for (era, new) in new.by_era(form) {
                let known = sums.entry((Partition { form, kept, span }, *series, metric, era));
                known.and_modify(|known: &mut Rollups| known.merge(&new)).or_insert(new);
            }
        }
    }
    let partitions: BTreeSet<Partition> =
        groups.iter().map(|group| group.3).chain(sums.keys().map(|(partition, ..)| *partition)).collect();
    let parts = part::ids(transaction, partitions).await?;
    let (mut work, mut merged) = (Work::default(), Merged::new());
    let small = SmallChunks::read(transaction, unsealed.names.keys().copied().collect()).await?;
    for (series, node, name, partition, events) in groups {
        let part = parts[&partition];
        let chunks = small.merged_with(Key { part, series, node }, events.len());
        merged.entry(part).or_default().extend(&chunks);
        work.groups.push(Group {
            key: Key { part, series, node },
            series: name.clone(),
            events,
            chunks,
            bodies: Vec::new(),
        });
    }
    for ((partition, series, metric, era), new) in sums {
        let part = parts[&partition];
        work.statistics.push(Statistics { part, series, metric: metric.clone(), era, new, known: None });
    }
    add_bodies(transaction, &mut work, &merged).await?;
    add_known(transaction, &mut work).await?;
    Ok((work, merged))
}

/// Chunks that are not full, the smallest first.
struct SmallChunks(HashMap<Key, Vec<(i64, i64)>>);

impl SmallChunks {
    pub(super) async fn read(transaction: &Transaction<'_>, series: Vec<i64>) -> Result<Self, Fault> {
        let sql = transaction.prepare_cached(SMALL_CHUNKS).await?;
        let mut chunks: HashMap<Key, Vec<(i64, i64)>> = HashMap::new();
        for row in transaction.query(&sql, &[&series, &ordered(CHUNK_ROWS as u64)]).await? {
            let key = Key { part: row.try_get(1)?, series: row.try_get(2)?, node: row.try_get(3)? };
            chunks.entry(key).or_default().push((row.try_get(0)?, row.try_get(4)?));
        }
        Ok(Self(chunks))
    }

    /// Those into which so many new events go.
    fn merged_with(&self, key: Key, mut events: usize) -> Vec<i64> {
        let mut merged = Vec::new();
        for (chunk, rows) in self.0.get(&key).into_iter().flatten() {
            if !is_merged(*rows, events) {
                break;
            }
            merged.push(*chunk);
            events += usize::try_from(*rows).unwrap_or(usize::MAX);
        }
        merged
    }
}

async fn add_bodies(transaction: &Transaction<'_>, work: &mut Work, merged: &Merged) -> Result<(), Fault> {
    let mut bodies = HashMap::new();
    for (part, chunks) in merged.iter().filter(|(_, chunks)| !chunks.is_empty()) {
        bodies.extend(part::bodies(transaction, *part, chunks).await?);
    }
    for group in &mut work.groups {
        group.bodies = group.chunks.iter().filter_map(|chunk| bodies.remove(chunk)).collect();
    }
    Ok(())
}

async fn add_known(transaction: &Transaction<'_>, work: &mut Work) -> Result<(), Fault> {
    if work.statistics.is_empty() {
        return Ok(());
    }
    let series: Vec<i64> = work.statistics.iter().map(|row| row.series).collect();
    let metrics: Vec<&str> = work.statistics.iter().map(|row| row.metric.as_str()).collect();
    let parts: Vec<i64> = work.statistics.iter().map(|row| row.part).collect();
    let eras: Vec<i64> = work.statistics.iter().map(|row| row.era).collect();
    let sql = transaction.prepare_cached(ROLLUPS).await?;
    let rows: Vec<Row> = transaction.query(&sql, &[&series, &metrics, &parts, &eras]).await?;
    for row in rows {
        let place = usize::try_from(row.try_get::<_, i64>(0)? - 1).unwrap_or(usize::MAX);
        if let Some(statistics) = work.statistics.get_mut(place) {
            statistics.known = Some(row.try_get(1)?);
        }
    }
    Ok(())
}
