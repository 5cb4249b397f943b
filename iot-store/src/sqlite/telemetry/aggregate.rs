//! Statistics from the log, from chunks and from rollups.

use std::collections::BTreeMap;

use iot_core::{
    event::{Report, Sequence, StoredEvent},
    store::{Aggregate, Bucket},
    time::Timestamp,
};
use rusqlite::{Connection, params};

use super::{part, rollup, rows::find_series, segment::Segments, window::Place};
use crate::{
    chunk::{Point, Reader, Summary},
    codec,
    rules::rolled,
    sqlite::fault::Fault,
};

/// Statistics by the start of their buckets.
struct Buckets {
    width: i128,
    limit: usize,
    sums: BTreeMap<i64, Summary>,
}

/// A chunk as the catalogue has it.
struct Chunk {
    id: i64,
    part: i64,
    first: i64,
    last: i64,
    stats: Vec<u8>,
}

/// The earliest `limit` buckets; `hot` are the places of what may not be sealed, in order.
pub(super) fn buckets(
    connection: &Connection,
    aggregate: &Aggregate,
    limit: u32,
    hot: &[Place],
) -> Result<Vec<Bucket>, Fault> {
    let width = i128::try_from(aggregate.bucket.as_micros()).unwrap_or(i128::MAX).max(1);
    let mut buckets = Buckets { width, limit: limit as usize, sums: BTreeMap::new() };
    let Some(series) = find_series(connection, &aggregate.series)? else { return Ok(Vec::new()) };
    let span = (aggregate.from.as_micros(), aggregate.until.as_micros());
    let rolled = rolled(width, span);
    let raw = match rolled {
        Some((_, (from, until))) => [(span.0, from), (until, span.1)],
        None => [span, (span.1, span.1)],
    };
    let hot = points(connection, aggregate, series, hot)?;
    for span in raw.into_iter().filter(|(from, until)| from < until) {
        add_chunks(connection, aggregate, series, span, &hot, &mut buckets)?;
    }
    if let Some((form, span)) = rolled {
        rollup::visit(connection, series, &aggregate.metric, form, span, |row| {
            buckets.add(row.start.as_micros(), &row.summary);
        })?;
    }
    hot.iter().for_each(|point| buckets.add(point.at.as_micros(), &Summary::of(*point)));
    let found = buckets.sums.iter().take(buckets.limit);
    Ok(found.map(|(start, sum)| sum.bucket(Timestamp::from_micros(*start))).collect())
}

/// The numeric values of what is not sealed.
fn points(connection: &Connection, aggregate: &Aggregate, series: i64, hot: &[Place]) -> Result<Vec<Point>, Fault> {
    let segments = Segments::read(connection)?;
    let mut points = Vec::new();
    for place in hot {
        let stored = segments.event(connection, (series, &aggregate.series), *place)?;
        let Some(StoredEvent { sequence, event }) = stored else { continue };
        let Report::Telemetry(values) = &event.report else { continue };
        let values = values.iter().filter(|(metric, _)| *metric == aggregate.metric);
        let numbers = values.filter_map(|(_, value)| value.as_f64());
        points.extend(numbers.map(|value| Point { at: event.at, sequence, value }));
    }
    Ok(points)
}

fn add_chunks(
    connection: &Connection,
    aggregate: &Aggregate,
    series: i64,
    (from, until): (i64, i64),
    hot: &[Point],
    buckets: &mut Buckets,
) -> Result<(), Fault> {
    let sql = "SELECT id, part, first_at, last_at, stats FROM chunk
        WHERE series = ?1 AND first_at < ?2 AND last_at >= ?3 ORDER BY first_at";
    let mut statement = connection.prepare_cached(sql)?;
    let chunks = statement.query_map(params![series, until, from], |row| {
        Ok(Chunk { id: row.get(0)?, part: row.get(1)?, first: row.get(2)?, last: row.get(3)?, stats: row.get(4)? })
    })?;
    let mut chunks = chunks.peekable();
    let mut reached = i64::MIN;
    while let Some(chunk) = chunks.next() {
        let chunk = chunk?;
        if buckets.is_complete_before(chunk.first) {
            break;
        }
        let next = chunks.peek().and_then(|next| next.as_ref().ok());
        let alone = reached < chunk.first
            && next.is_none_or(|next| next.first > chunk.last)
            && !hot.iter().any(|point| (chunk.first..=chunk.last).contains(&point.at.as_micros()));
        reached = reached.max(chunk.last);
        let within = from <= chunk.first && chunk.last < until;
        if within && buckets.start(chunk.first) == buckets.start(chunk.last) {
            let stats = codec::read_metric_stats(&chunk.stats)?;
            let numbers = stats.iter().find(|stats| stats.metric == aggregate.metric);
            if let Some(numbers) = numbers.and_then(|stats| stats.numbers.as_ref()) {
                buckets.add(chunk.first, numbers);
            }
            continue;
        }
        let body = part::body(connection, chunk.part, chunk.id)?;
        let reader = Reader::open(&body)?;
        let (from, until) = (Timestamp::from_micros(from), Timestamp::from_micros(until));
        if alone {
            // Where chunks do not overlap, times alone order their values.
            let add = |at: &[i64], values: &[f64]| buckets.add_run(at, values, |_| Sequence(0));
            reader.visit_values(&aggregate.metric, from, until, add)?;
        } else {
            let numbers = reader.numbers_between(&aggregate.metric, from, until)?;
            buckets.add_run(&numbers.at, &numbers.values, |row| Sequence(numbers.sequence[row]));
        }
    }
    Ok(())
}

impl Buckets {
    // A bucket that would begin before the first timestamp begins there.
    fn start(&self, at: i64) -> i64 {
        match i64::try_from(self.width) {
            Ok(width) => at.div_euclid(width).checked_mul(width).unwrap_or(i64::MIN),
            Err(_) if at < 0 => i64::MIN,
            Err(_) => 0,
        }
    }

    /// Where the bucket of a time ends; the last one has no end.
    fn end(&self, at: i64) -> i64 {
        let width = i64::try_from(self.width).ok();
        let next = width.and_then(|width| at.div_euclid(width).checked_add(1)?.checked_mul(width));
        next.unwrap_or(if at < 0 && width.is_none() { 0 } else { i64::MAX })
    }

    /// Adds values that are all in the bucket of a time.
    fn add(&mut self, at: i64, summary: &Summary) {
        let start = self.start(at);
        self.sums.entry(start).and_modify(|known| known.merge(summary)).or_insert(*summary);
    }

    /// Adds values in order of time.
    fn add_run(&mut self, at: &[i64], values: &[f64], sequence: impl Fn(usize) -> Sequence) {
        let point =
            |row: usize| Point { at: Timestamp::from_micros(at[row]), sequence: sequence(row), value: values[row] };
        let mut first = 0;
        while first < at.len() {
            let end = self.end(at[first]);
            let (mut min, mut max, mut sum) = (values[first], values[first], values[first]);
            let mut next = first + 1;
            while next < at.len() && (at[next] < end || end == i64::MAX) {
                min = min.min(values[next]);
                max = max.max(values[next]);
                sum += values[next];
                next += 1;
            }
            let count = (next - first) as u64;
            self.add(at[first], &Summary { count, min, max, sum, first: point(first), last: point(next - 1) });
            first = next;
        }
    }

    /// The buckets that were asked for are all before a time.
    fn is_complete_before(&self, at: i64) -> bool {
        self.limit.checked_sub(1).and_then(|last| self.sums.keys().nth(last)).is_some_and(|last| *last < self.start(at))
    }
}
