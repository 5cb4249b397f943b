//! Reports from the log, from chunks, and both together.

use std::collections::BTreeMap;

use iot_core::{
    event::{Report, Sequence, StoredEvent, Value},
    id::{Metric, NodeId},
    store::{LatestValue, Page, Range, Series},
    time::Timestamp,
};
use rusqlite::{Connection, params};

use super::{
    part,
    rows::{COLUMNS, find_series, series_of, stored_event},
    segment::Segments,
    window::Place,
};
use crate::{
    chunk::{self, Reader, Selection},
    codec,
    rules::{narrowed, place_cursor},
    sealing::add_part,
    sqlite::{fault::Fault, ordered},
};

/// The most unsealed reports that one page of a range looks at; it may then hold fewer than were asked for.
pub(super) const RANGE_EVENTS_MAX: usize = 100_000;

/// The log of a node.
pub(super) fn after(
    connection: &Connection,
    node: &NodeId,
    after: Sequence,
    limit: u32,
) -> Result<Vec<StoredEvent>, Fault> {
    let (after, segments) = (ordered(after.0), Segments::read(connection)?);
    let mut events = Vec::new();
    for segment in segments.0.iter().filter(|segment| segments.last_of(segment.id) > after) {
        let left = (limit as usize).saturating_sub(events.len());
        if left == 0 {
            break;
        }
        // The sequence is one for all nodes of the file, which has one as a rule.
        let sql = format!(
            "SELECT {COLUMNS}, tenant, device, epoch FROM event_{} AS event JOIN series ON series.id = event.series
            WHERE sequence > ?1 AND node = (SELECT id FROM node WHERE name = ?2) ORDER BY sequence LIMIT ?3",
            segment.id
        );
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params![after, node.as_str(), ordered(left as u64)])?;
        while let Some(row) = rows.next()? {
            events.push(stored_event(row, &series_of(row, 7)?)?);
        }
    }
    Ok(events)
}

/// What a page of a range is read from.
pub(super) struct Wanted {
    pub(super) range: Range,
    pub(super) newest_first: bool,
    pub(super) after: Option<chunk::Place>,
    pub(super) limit: usize,
    /// Unsealed reports in the range beyond `after`, in the order asked for: at most [`RANGE_EVENTS_MAX`].
    pub(super) hot: Vec<Place>,
}

pub(super) fn page(connection: &Connection, wanted: &Wanted) -> Result<Page<StoredEvent>, Fault> {
    let empty = Page { items: Vec::new(), next: None };
    let Some(series) = find_series(connection, &wanted.range.series)? else { return Ok(empty) };
    let mut found = BTreeMap::new();
    let end = add_hot(connection, wanted, series, &mut found)?;
    add_sealed(connection, wanted, series, &mut found)?;
    if let Some(end) = end {
        found.retain(|place, _| if wanted.newest_first { *place >= end } else { *place <= end });
    }
    let more = found.len() > wanted.limit;
    let items: Vec<StoredEvent> = if wanted.newest_first {
        found.into_values().rev().take(wanted.limit).collect()
    } else {
        found.into_values().take(wanted.limit).collect()
    };
    let last = items.last().map(|stored| (stored.event.at, stored.sequence));
    let next = if more { last } else { end };
    Ok(Page { items, next: next.map(|(at, sequence)| place_cursor(at, sequence)) })
}

type Found = BTreeMap<chunk::Place, StoredEvent>;

/// Adds unsealed reports, one more than fit into the page; answers where it has stopped if it has stopped before that.
fn add_hot(
    connection: &Connection,
    wanted: &Wanted,
    series: i64,
    found: &mut Found,
) -> Result<Option<chunk::Place>, Fault> {
    let segments = Segments::read(connection)?;
    for place in &wanted.hot {
        if found.len() > wanted.limit {
            return Ok(None);
        }
        let stored = segments.event(connection, (series, &wanted.range.series), *place)?;
        let Some(StoredEvent { sequence, event }) = stored else { continue };
        if let Some(event) = narrowed(event, wanted.range.metric.as_ref()) {
            found.insert((event.at, sequence), StoredEvent { sequence, event });
        }
    }
    let last = wanted.hot.last().filter(|_| wanted.hot.len() == RANGE_EVENTS_MAX);
    Ok(last.map(|(at, sequence)| (Timestamp::from_micros(*at), Sequence(sequence.cast_unsigned()))))
}

/// Adds reports from chunks, so many that the page is full of those before all others.
fn add_sealed(connection: &Connection, wanted: &Wanted, series: i64, found: &mut Found) -> Result<(), Fault> {
    let range = &wanted.range;
    let (mut from, mut until) = (range.from.as_micros(), range.until.as_micros());
    match wanted.after {
        Some((at, _)) if wanted.newest_first => until = until.min(at.as_micros().saturating_add(1)),
        Some((at, _)) => from = from.max(at.as_micros()),
        None => {}
    }
    let order = if wanted.newest_first { "last_at DESC" } else { "first_at" };
    let sql = format!(
        "SELECT id, part, first_at, last_at FROM chunk
        WHERE series = ?1 AND first_at < ?2 AND last_at >= ?3 ORDER BY {order}"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![series, until, from])?;
    while let Some(row) = rows.next()? {
        let (id, part, first, last): (i64, i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        let full = if wanted.newest_first {
            found.keys().rev().nth(wanted.limit).is_some_and(|(at, _)| at.as_micros() > last)
        } else {
            found.keys().nth(wanted.limit).is_some_and(|(at, _)| at.as_micros() < first)
        };
        if full {
            break;
        }
        let body = part::body(connection, part, id)?;
        let selection = Selection {
            from: range.from,
            until: Some(range.until),
            metric: range.metric.as_ref(),
            newest_first: wanted.newest_first,
            after: wanted.after,
            limit: wanted.limit + 1,
        };
        let events = Reader::open(&body).and_then(|reader| reader.select(&range.series, &selection));
        events?.into_iter().for_each(|stored| add_part(found, (stored.event.at, stored.sequence), stored));
    }
    Ok(())
}

/// The newest values; `newest` are those that may not be sealed.
pub(super) fn latest(
    connection: &Connection,
    series: &Series,
    newest: &[(Metric, Place)],
) -> Result<Vec<LatestValue>, Fault> {
    let Some(id) = find_series(connection, series)? else { return Ok(Vec::new()) };
    let mut latest = BTreeMap::new();
    let mut statement = connection.prepare_cached("SELECT metric, at, value FROM latest WHERE series = ?1")?;
    let mut rows = statement.query([id])?;
    while let Some(row) = rows.next()? {
        let metric = super::rows::parsed(row, 0, Metric::parse)?;
        let value = codec::read_value_at(row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?)?;
        latest.insert(metric, (row.get::<_, i64>(1)?, value));
    }
    let segments = Segments::read(connection)?;
    let mut read: Option<(Place, Option<StoredEvent>)> = None;
    for (metric, place) in newest {
        if read.as_ref().is_none_or(|(at, _)| at != place) {
            read = Some((*place, segments.event(connection, (id, series), *place)?));
        }
        let event = read.as_ref().and_then(|(_, stored)| stored.as_ref());
        let value = event.and_then(|stored| value_of(&stored.event.report, metric));
        if let Some(value) = value
            && latest.get(metric).is_none_or(|(at, _)| *at <= place.0)
        {
            latest.insert(metric.clone(), (place.0, value.clone()));
        }
    }
    let value = |(metric, (at, value))| LatestValue { metric, at: Timestamp::from_micros(at), value };
    Ok(latest.into_iter().map(value).collect())
}

fn value_of<'a>(report: &'a Report, metric: &Metric) -> Option<&'a Value> {
    let Report::Telemetry(values) = report else { return None };
    values.iter().rev().find(|(name, _)| name == metric).map(|(_, value)| value)
}
