//! Events become chunks and rollups: series by series, in the order of their numbers, a bounded number of events at a time.

use std::{
    collections::{BTreeMap, VecDeque, btree_map::Entry},
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
    counts, part, rollup,
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

/// Seals the next series of the oldest segment.
pub(super) fn step(connection: &Connection, known: &mut Known, policies: &Policies) -> Result<Sealed, Fault> {
    let Some(mut sealing) = next(connection, known)? else { return Ok(Sealed::Nothing) };
    let mut rows = 0;
    while rows < SEAL_ROWS {
        let Some((series, hot)) = sealing.waiting.pop_front() else {
            let sql = "UPDATE segment SET sealed = ?1 WHERE id = ?2";
            connection.prepare_cached(sql)?.execute([ALL_SEALED, sealing.segment])?;
            known.unsealed = sealing.segment + 1;
            return Ok(Sealed::Some(rows as u64));
        };
        rows += seal_series(connection, policies, &sealing, &series, &hot)?;
        known.sealed(series, Arc::clone(&hot), sealing.first, sealing.last);
        let sql = "UPDATE segment SET sealed = ?1 WHERE id = ?2";
        connection.prepare_cached(sql)?.execute([hot.id, sealing.segment])?;
    }
    known.sealing = Some(sealing);
    Ok(Sealed::Some(rows as u64))
}

/// The segment that is under way, or the oldest that is settled.
fn next(connection: &Connection, known: &mut Known) -> Result<Option<Sealing>, Fault> {
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

fn seal_series(
    connection: &Connection,
    policies: &Policies,
    sealing: &Sealing,
    series: &Series,
    hot: &Hot,
) -> Result<usize, Fault> {
    let (sequences, counts) = {
        let state = hot.state();
        (state.sequences(sealing.first, sealing.last), state.counts.clone())
    };
    let mut events = Vec::with_capacity(sequences.len());
    for sequence in &sequences {
        let event = segment::event_at(connection, sealing.segment, series, *sequence)?;
        events.push(event.ok_or_else(|| Fault::damaged(format!("event {sequence} is missing")))?);
    }
    keep_latest(connection, hot.id, &events)?;
    counts::write(connection, hot.id, &counts)?;
    for (partition, events) in by_partition(policies, series, events.iter()) {
        let part = part::id(connection, partition)?;
        add_to_chunks(connection, part, (hot.id, series), events)?;
    }
    for ((form, kept, span, metric), sums) in rollups(policies, series, &events) {
        let part = part::id(connection, Partition { form, kept, span })?;
        rollup::add(connection, part, hot.id, metric, form, &sums)?;
    }
    Ok(sequences.len())
}

/// Writes reports of one series to a partition, together with those of chunks there that are small.
fn add_to_chunks(
    connection: &Connection,
    part: i64,
    (id, series): (i64, &Series),
    mut events: Vec<StoredEvent>,
) -> Result<(), Fault> {
    let sql = "SELECT id, rows FROM chunk WHERE part = ?1 AND series = ?2 AND rows < ?3 ORDER BY rows";
    let mut statement = connection.prepare_cached(sql)?;
    let small = statement
        .query_map(params![part, id, CHUNK_ROWS as i64], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?
        .collect::<Result<Vec<_>, _>>()?;
    for (chunk, rows) in small {
        if !is_merged(rows, events.len()) {
            break;
        }
        let body = part::body(connection, part, chunk)?;
        events.append(&mut Reader::open(&body).and_then(|reader| reader.events(series))?);
        connection.prepare_cached("DELETE FROM chunk WHERE id = ?1")?.execute([chunk])?;
        connection.prepare_cached(&format!("DELETE FROM chunk_{part} WHERE id = ?1"))?.execute([chunk])?;
    }
    sealing::encode(events)?.into_iter().try_for_each(|chunk| write_chunk(connection, part, id, chunk))
}

fn write_chunk(
    connection: &Connection,
    part: i64,
    series: i64,
    Encoded { bytes, stats }: Encoded,
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

/// The newest value of each metric goes where it stays.
fn keep_latest(connection: &Connection, series: i64, events: &[StoredEvent]) -> Result<(), Fault> {
    let mut newest: BTreeMap<&Metric, (Timestamp, &Value)> = BTreeMap::new();
    for stored in events {
        let Report::Telemetry(values) = &stored.event.report else { continue };
        for (metric, value) in values {
            let value = (stored.event.at, value);
            match newest.entry(metric) {
                Entry::Vacant(entry) => {
                    entry.insert(value);
                }
                Entry::Occupied(mut entry) if entry.get().0 <= value.0 => {
                    entry.insert(value);
                }
                Entry::Occupied(_) => {}
            }
        }
    }
    let sql = "INSERT INTO latest (series, metric, at, value) VALUES (?1, ?2, ?3, ?4)
        ON CONFLICT DO UPDATE SET at = excluded.at, value = excluded.value WHERE excluded.at >= at";
    let mut upsert = connection.prepare_cached(sql)?;
    for (metric, (at, value)) in newest {
        upsert.execute(params![series, metric.as_str(), at.as_micros(), codec::value(value)])?;
    }
    Ok(())
}
