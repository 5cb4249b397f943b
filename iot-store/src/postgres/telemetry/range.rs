//! Events in a range: those in the log and those in chunks, at one moment.

use std::collections::BTreeMap;

use deadpool_postgres::{Pool, Transaction};
use iot_core::{
    event::{Sequence, StoredEvent},
    problem::Cursor,
    store::{Page, Range},
    time::Timestamp,
};
use tokio_postgres::{IsolationLevel, types::ToSql};

use super::{
    super::{fault::Fault, ordered},
    part,
    read::{EVENTS_PER_FETCH, RANGE_EVENTS_MAX, epoch, stored_event},
};
use crate::{
    chunk::{Reader, Selection},
    rules::narrowed,
    sealing::add_part,
};

/// How many rows of the catalogue of chunks are read at once.
const CHUNKS_PER_FETCH: i32 = 64;

/// A place in a series: time, sequence, and the number of the node. Each node counts for itself, so that two events may have
/// one time and one sequence.
pub(super) type Place = (i64, i64, i64);

fn place_cursor((at, sequence, node): Place) -> Cursor {
    Cursor::after(&[at, sequence, node].map(i64::to_be_bytes).concat())
}

/// Reads [`place_cursor`]; `None` for the cursor of another list.
pub(super) fn read_place(cursor: &Cursor) -> Option<Place> {
    let (numbers, rest) = cursor.key().as_chunks::<8>();
    match (numbers, rest) {
        ([at, sequence, node], []) => {
            Some((i64::from_be_bytes(*at), i64::from_be_bytes(*sequence), i64::from_be_bytes(*node)))
        }
        _ => None,
    }
}

/// What a page is read from.
pub(super) struct Wanted<'a> {
    pub(super) range: &'a Range,
    pub(super) newest_first: bool,
    pub(super) after: Option<Place>,
    pub(super) limit: usize,
}

/// Events of the page, and perhaps some more behind it.
type Found = BTreeMap<Place, StoredEvent>;

pub(super) async fn page(pool: &Pool, wanted: &Wanted<'_>) -> Result<Page<StoredEvent>, Fault> {
    let mut client = pool.get().await?;
    // Between the two, events may become chunks.
    let moment = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
    let transaction = moment.start().await?;
    let mut found = Found::new();
    let end = add_hot(&transaction, wanted, &mut found).await?;
    add_sealed(&transaction, wanted, &mut found).await?;
    transaction.commit().await?;
    if let Some(end) = end {
        found.retain(|place, _| if wanted.newest_first { *place >= end } else { *place <= end });
    }
    let more = found.len() > wanted.limit;
    let in_order: Vec<(Place, StoredEvent)> = if wanted.newest_first {
        found.into_iter().rev().take(wanted.limit).collect()
    } else {
        found.into_iter().take(wanted.limit).collect()
    };
    let last = in_order.last().map(|(place, _)| *place);
    let next = if more { last } else { end };
    Ok(Page { items: in_order.into_iter().map(|(_, stored)| stored).collect(), next: next.map(place_cursor) })
}

const ASCENDING: &str = "SELECT sequence, at, received, device_sequence, product, home, body, node FROM event
    WHERE series = (SELECT id FROM series WHERE tenant = $1 AND device = $2 AND epoch = $3)
    AND NOT sealed AND at >= $4 AND at < $5 AND (at, sequence, node) > ($6, $7, $8) ORDER BY at, sequence, node LIMIT $9";
const DESCENDING: &str = "SELECT sequence, at, received, device_sequence, product, home, body, node FROM event
    WHERE series = (SELECT id FROM series WHERE tenant = $1 AND device = $2 AND epoch = $3)
    AND NOT sealed AND at >= $4 AND at < $5 AND (at, sequence, node) < ($6, $7, $8)
    ORDER BY at DESC, sequence DESC, node DESC LIMIT $9";

/// Adds unsealed events, one more than fit into the page; answers where it has stopped if it has stopped before that.
async fn add_hot(
    transaction: &Transaction<'_>,
    Wanted { range, newest_first, after, limit }: &Wanted<'_>,
    found: &mut Found,
) -> Result<Option<Place>, Fault> {
    let (sql, first) =
        if *newest_first { (DESCENDING, (i64::MAX, i64::MAX, i64::MAX)) } else { (ASCENDING, (i64::MIN, -1, -1)) };
    let sql = transaction.prepare_cached(sql).await?;
    let (mut place, mut seen) = (after.unwrap_or(first), 0);
    let per_statement = ordered(*limit as u64).saturating_add(1).min(EVENTS_PER_FETCH.into());
    loop {
        let parameters: [&(dyn ToSql + Sync); 9] = [
            &range.series.tenant.as_str(),
            &range.series.device.as_str(),
            &epoch(&range.series),
            &range.from.as_micros(),
            &range.until.as_micros(),
            &place.0,
            &place.1,
            &place.2,
            &per_statement,
        ];
        let rows = transaction.query(&sql, &parameters).await?;
        for row in &rows {
            if seen == RANGE_EVENTS_MAX {
                return Ok(Some(place));
            }
            let StoredEvent { sequence, event } = stored_event(row, &range.series)?;
            seen += 1;
            place = (event.at.as_micros(), ordered(sequence.0), row.try_get(7)?);
            found.extend(narrowed(event, range.metric.as_ref()).map(|event| (place, StoredEvent { sequence, event })));
            if found.len() > *limit {
                return Ok(None);
            }
        }
        if ordered(rows.len() as u64) < per_statement {
            return Ok(None);
        }
    }
}

const CHUNKS: &str = "SELECT id, part, node, first_at, last_at FROM chunk
    WHERE series = (SELECT id FROM series WHERE tenant = $1 AND device = $2 AND epoch = $3)
    AND first_at < $4 AND last_at >= $5 ORDER BY first_at";
const CHUNKS_NEWEST_FIRST: &str = "SELECT id, part, node, first_at, last_at FROM chunk
    WHERE series = (SELECT id FROM series WHERE tenant = $1 AND device = $2 AND epoch = $3)
    AND first_at < $4 AND last_at >= $5 ORDER BY last_at DESC";

/// Adds reports from chunks, so many that the page is full of those before all others.
async fn add_sealed(transaction: &Transaction<'_>, wanted: &Wanted<'_>, found: &mut Found) -> Result<(), Fault> {
    let Wanted { range, newest_first, after, limit } = wanted;
    let (mut from, mut until) = (range.from.as_micros(), range.until.as_micros());
    match after {
        Some((at, ..)) if *newest_first => until = until.min(at.saturating_add(1)),
        Some((at, ..)) => from = from.max(*at),
        None => {}
    }
    let sql = transaction.prepare_cached(if *newest_first { CHUNKS_NEWEST_FIRST } else { CHUNKS }).await?;
    let series = &range.series;
    let parameters: [&(dyn ToSql + Sync); 5] =
        [&series.tenant.as_str(), &series.device.as_str(), &epoch(series), &until, &from];
    let portal = transaction.bind(&sql, &parameters).await?;
    loop {
        let rows = transaction.query_portal(&portal, CHUNKS_PER_FETCH).await?;
        for row in &rows {
            let (first, last): (i64, i64) = (row.try_get(3)?, row.try_get(4)?);
            let is_full = if *newest_first {
                found.keys().rev().nth(*limit).is_some_and(|(at, ..)| *at > last)
            } else {
                found.keys().nth(*limit).is_some_and(|(at, ..)| *at < first)
            };
            if is_full {
                return Ok(());
            }
            let (id, part, node): (i64, i64, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let bodies = part::bodies(transaction, part, &[id]).await?;
            bodies.values().try_for_each(|body| add_chunk(body, node, wanted, found))?;
        }
        if rows.is_empty() {
            return Ok(());
        }
    }
}

fn add_chunk(body: &[u8], node: i64, wanted: &Wanted<'_>, found: &mut Found) -> Result<(), Fault> {
    let Wanted { range, newest_first, after, limit } = wanted;
    let selection = Selection {
        from: range.from,
        until: Some(range.until),
        metric: range.metric.as_ref(),
        newest_first: *newest_first,
        after: after.map(|after| place_in_chunk(after, node, *newest_first)),
        limit: *limit + 1,
    };
    for stored in Reader::open(body)?.select(&range.series, &selection)? {
        add_part(found, (stored.event.at.as_micros(), ordered(stored.sequence.0), node), stored);
    }
    Ok(())
}

/// Beyond which place a chunk of one node is read, when the page begins beyond one of perhaps another node: an event there at
/// the same time with the same sequence comes before or after it.
fn place_in_chunk((at, sequence, of): Place, node: i64, newest_first: bool) -> (Timestamp, Sequence) {
    let sequence = match (newest_first, node.cmp(&of)) {
        (false, std::cmp::Ordering::Greater) => sequence.saturating_sub(1),
        (true, std::cmp::Ordering::Less) => sequence.saturating_add(1),
        _ => sequence,
    };
    (Timestamp::from_micros(at), Sequence(sequence.cast_unsigned()))
}
