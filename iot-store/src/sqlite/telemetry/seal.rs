//! Events become chunks and rollups: series by series, in the order of their numbers, a bounded number of events at a time.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use iot_core::{
    event::{Report, StoredEvent, Value},
    id::Metric,
    store::{Partition, Policies, Series},
    time::Timestamp,
};
use rusqlite::{Connection, params};

use super::{
    append::Known,
    counts, part,
    rollup::{self, NewRollups},
    segment::{self, ALL_SEALED, Segments},
    window::Hot,
};
use crate::{
    chunk::{Encoded, Reader},
    codec,
    sealing::{self, CHUNK_ROWS, by_partition, is_merged, rollups},
    sqlite::fault::Fault,
};

/// How many events are sealed in one transaction, or one series if that has more: bounds how long appends wait for it.
const SEAL_ROWS: usize = 4_096;

/// A segment whose series are being sealed.
pub(super) struct Sealing {
    segment: i64,
    first: i64,
    last: i64,
    waiting: VecDeque<(Series, Arc<Hot>)>,
}

/// How a step ended.
pub(super) enum Sealed {
    /// So many events; there may be more.
    Some(u64),
    /// No closed segment is left.
    Nothing,
}

/// The series that are sealed in one step, and the sequences of their events.
pub(super) struct Batch {
    segment: i64,
    series: Vec<(Series, Arc<Hot>, Vec<i64>)>,
}

/// What becomes of a series.
struct Compressed {
    series: Series,
    hot: Arc<Hot>,
    events: usize,
    latest: Vec<(Metric, i64, Vec<u8>)>,
    chunks: Vec<NewChunks>,
    rollups: Vec<(Partition, Metric, NewRollups)>,
}

/// Chunks of a partition, in place of smaller ones.
struct NewChunks {
    partition: Partition,
    merged: Vec<i64>,
    chunks: Vec<Encoded>,
}

/// A batch in the form in which it stays.
pub(super) struct SealedBatch {
    segment: i64,
    series: Vec<Compressed>,
}

/// The next series of the oldest segment; `None` if nothing is left. Nobody else seals or erases until they are [put](put).
pub(super) fn next(connection: &Connection, known: &mut Known) -> Result<Option<Batch>, Fault> {
    let Some(sealing) = sealing(connection, known)? else { return Ok(None) };
    let (mut series, mut rows) = (Vec::new(), 0);
    for (name, hot) in &sealing.waiting {
        if rows >= SEAL_ROWS {
            break;
        }
        let sequences = hot.state().sequences(sealing.first, sealing.last);
        rows += sequences.len();
        series.push((name.clone(), Arc::clone(hot), sequences));
    }
    let batch = Batch { segment: sealing.segment, series };
    known.sealing = Some(sealing);
    Ok(Some(batch))
}

/// The segment that is under way, or the oldest that is settled.
fn sealing(connection: &Connection, known: &mut Known) -> Result<Option<Sealing>, Fault> {
    if let Some(sealing) = known.sealing.take() {
        return Ok(Some(sealing));
    }
    let segments = Segments::read(connection)?;
    let oldest = segments.0.iter().find(|segment| segment.sealed < ALL_SEALED && segment.id < known.settled);
    let Some(segment) = oldest else { return Ok(None) };
    known.unsealed = segment.id;
    let (first, last) = (segment.first, segments.last_of(segment.id));
    let waiting = known.window.with_events(first, last).into();
    Ok(Some(Sealing { segment: segment.id, first, last, waiting }))
}

/// Reads and compresses, away from the thread that writes.
pub(super) fn compress(connection: &Connection, batch: Batch, policies: &Policies) -> Result<SealedBatch, Fault> {
    let segment = batch.segment;
    let series = batch.series.into_iter().map(|(series, hot, sequences)| {
        let event = |sequence: &i64| {
            let event = segment::event_at(connection, segment, &series, *sequence)?;
            event.ok_or_else(|| Fault::damaged(format!("event {sequence} is missing")))
        };
        let events = sequences.iter().map(event).collect::<Result<Vec<_>, Fault>>()?;
        let mut chunks = Vec::new();
        for (partition, events) in by_partition(policies, &series, events.iter()) {
            chunks.push(compress_chunks(connection, partition, (hot.id, &series), events)?);
        }
        let mut rolled = Vec::new();
        for ((form, kept, span, metric), sums) in rollups(policies, &series, &events) {
            let partition = Partition { form, kept, span };
            let part = part::find(connection, partition)?;
            let new = rollup::merged(connection, part, hot.id, metric, form, &sums)?;
            rolled.push((partition, metric.clone(), new));
        }
        let latest = newest(&events);
        Ok(Compressed { series, hot, events: events.len(), latest, chunks, rollups: rolled })
    });
    Ok(SealedBatch { segment, series: series.collect::<Result<_, Fault>>()? })
}

/// Reports of one series for a partition, together with those of chunks there that are small.
fn compress_chunks(
    connection: &Connection,
    partition: Partition,
    (id, series): (i64, &Series),
    mut events: Vec<StoredEvent>,
) -> Result<NewChunks, Fault> {
    let mut merged = Vec::new();
    if let Some(part) = part::find(connection, partition)? {
        let sql = "SELECT id, rows FROM chunk WHERE part = ?1 AND series = ?2 AND rows < ?3 ORDER BY rows";
        let mut statement = connection.prepare_cached(sql)?;
        let mut small = statement.query(params![part, id, CHUNK_ROWS as i64])?;
        while let Some(row) = small.next()? {
            let (chunk, rows): (i64, i64) = (row.get(0)?, row.get(1)?);
            if !is_merged(rows, events.len()) {
                break;
            }
            let body = part::body(connection, part, chunk)?;
            events.append(&mut Reader::open(&body).and_then(|reader| reader.events(series))?);
            merged.push(chunk);
        }
    }
    Ok(NewChunks { partition, merged, chunks: sealing::encode(events)? })
}

/// Writes what a batch became.
pub(super) fn put(connection: &Connection, known: &mut Known, batch: SealedBatch) -> Result<Sealed, Fault> {
    let Some(mut sealing) = sealing(connection, known)? else { return Ok(Sealed::Some(0)) };
    let mut events = 0;
    for compressed in batch.series {
        // A failure since may have made it begin anew.
        let is_next = sealing.waiting.front().is_some_and(|(series, _)| *series == compressed.series);
        if sealing.segment != batch.segment || !is_next {
            break;
        }
        sealing.waiting.pop_front();
        events += compressed.events as u64;
        put_series(connection, &compressed)?;
        let sql = "UPDATE segment SET sealed = ?1 WHERE id = ?2";
        connection.prepare_cached(sql)?.execute([compressed.hot.id, sealing.segment])?;
        known.sealed(compressed.series, compressed.hot, sealing.first, sealing.last);
    }
    if sealing.waiting.is_empty() {
        let sql = "UPDATE segment SET sealed = ?1 WHERE id = ?2";
        connection.prepare_cached(sql)?.execute([ALL_SEALED, sealing.segment])?;
        known.unsealed = sealing.segment + 1;
    } else {
        known.sealing = Some(sealing);
    }
    Ok(Sealed::Some(events))
}

fn put_series(connection: &Connection, compressed: &Compressed) -> Result<(), Fault> {
    let Compressed { hot, latest, chunks, rollups, .. } = compressed;
    keep_latest(connection, hot.id, latest)?;
    let counts = hot.state().counts.clone();
    counts::write(connection, hot.id, &counts)?;
    for new in chunks {
        let part = part::id(connection, new.partition)?;
        for chunk in &new.merged {
            connection.prepare_cached("DELETE FROM chunk WHERE id = ?1")?.execute([chunk])?;
            connection.prepare_cached(&format!("DELETE FROM chunk_{part} WHERE id = ?1"))?.execute([chunk])?;
        }
        new.chunks.iter().try_for_each(|chunk| write_chunk(connection, part, hot.id, chunk))?;
    }
    for (partition, metric, new) in rollups {
        rollup::put(connection, part::id(connection, *partition)?, hot.id, metric, new)?;
    }
    Ok(())
}

fn write_chunk(
    connection: &Connection,
    part: i64,
    series: i64,
    Encoded { bytes, stats }: &Encoded,
) -> Result<(), Fault> {
    let sql = "INSERT INTO chunk (part, series, rows, first_at, last_at, stats) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let (first, last) = (stats.first.0.as_micros(), stats.last.0.as_micros());
    let metrics = codec::metric_stats(&stats.metrics);
    let row = params![part, series, stats.rows, first, last, metrics];
    let id = connection.prepare_cached(sql)?.insert(row)?;
    let sql = format!("INSERT INTO chunk_{part} (id, body) VALUES (?1, ?2)");
    connection.prepare_cached(&sql)?.execute(params![id, bytes])?;
    Ok(())
}

/// The newest value of each metric.
fn newest(events: &[StoredEvent]) -> Vec<(Metric, i64, Vec<u8>)> {
    let mut newest: BTreeMap<&Metric, (Timestamp, &Value)> = BTreeMap::new();
    for stored in events {
        let Report::Telemetry(values) = &stored.event.report else { continue };
        for (metric, value) in values {
            let value = (stored.event.at, value);
            let known = newest.entry(metric).or_insert(value);
            if known.0 <= value.0 {
                *known = value;
            }
        }
    }
    newest.into_iter().map(|(metric, (at, value))| (metric.clone(), at.as_micros(), codec::value(value))).collect()
}

fn keep_latest(connection: &Connection, series: i64, newest: &[(Metric, i64, Vec<u8>)]) -> Result<(), Fault> {
    let sql = "INSERT INTO latest (series, metric, at, value) VALUES (?1, ?2, ?3, ?4)
        ON CONFLICT DO UPDATE SET at = excluded.at, value = excluded.value WHERE excluded.at >= at";
    let mut upsert = connection.prepare_cached(sql)?;
    for (metric, at, value) in newest {
        upsert.execute(params![series, metric.as_str(), at, value])?;
    }
    Ok(())
}
