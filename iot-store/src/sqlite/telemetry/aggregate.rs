//! Statistics from the log, from chunks and from rollups.

use iot_core::{
    event::{Report, StoredEvent},
    store::{Aggregate, Bucket},
};
use rusqlite::{Connection, params};

use super::{part, rollup, rows::find_series, segment::Segments, window::Place};
use crate::{
    chunk::{Point, Summary},
    sealing::{Entry, Neighbours, Tally},
    sqlite::fault::Fault,
};

/// The earliest `limit` buckets; `hot` are the places of what may not be sealed, in order.
pub(super) fn buckets(
    connection: &Connection,
    aggregate: &Aggregate,
    limit: u32,
    hot: &[Place],
) -> Result<Vec<Bucket>, Fault> {
    let mut tally = Tally::new(aggregate, limit);
    let Some(series) = find_series(connection, &aggregate.series)? else { return Ok(Vec::new()) };
    let (raw, rolled) = tally.spans((aggregate.from.as_micros(), aggregate.until.as_micros()));
    let hot = points(connection, aggregate, series, hot)?;
    for span in raw.into_iter().filter(|(from, until)| from < until) {
        add_chunks(connection, aggregate, series, span, &hot, &mut tally)?;
    }
    if let Some((form, span)) = rolled {
        rollup::visit(connection, series, &aggregate.metric, form, span, |row| {
            tally.add(row.start.as_micros(), &row.summary);
        })?;
    }
    hot.iter().for_each(|point| tally.add(point.at.as_micros(), &Summary::of(*point)));
    Ok(tally.finish())
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
    span: (i64, i64),
    hot: &[Point],
    tally: &mut Tally,
) -> Result<(), Fault> {
    let sql = "SELECT id, part, first_at, last_at, stats FROM chunk
        WHERE series = ?1 AND first_at < ?2 AND last_at >= ?3 ORDER BY first_at";
    let mut statement = connection.prepare_cached(sql)?;
    let entries = statement.query_map(params![series, span.1, span.0], |row| {
        Ok(Entry { id: row.get(0)?, part: row.get(1)?, first: row.get(2)?, last: row.get(3)?, stats: row.get(4)? })
    })?;
    let (mut entries, mut neighbours) = (entries.peekable(), Neighbours::none());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        if tally.is_complete_before(entry.first) {
            break;
        }
        let next = entries.peek().and_then(|next| next.as_ref().ok());
        let is_alone = neighbours.is_alone(&entry, next)
            && !hot.iter().any(|point| (entry.first..=entry.last).contains(&point.at.as_micros()));
        if tally.is_known(&entry, span) {
            tally.add_entry(&entry, &aggregate.metric)?;
        } else {
            tally.add_body(&part::body(connection, entry.part, entry.id)?, &aggregate.metric, span, is_alone)?;
        }
    }
    Ok(())
}
