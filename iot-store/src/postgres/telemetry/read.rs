//! Reading events, latest values and statistics.

use deadpool_postgres::Pool;
use iot_core::{
    event::{Event, Report, Sequence, StoredEvent},
    id::{ConsumerId, DeviceId, HomeId, Metric, NodeId, OwnershipEpoch, ProductId, TenantId},
    problem::Cursor,
    store::{Aggregate, Bucket, LatestValue, Page, Range, Series},
    time::Timestamp,
};
use tokio_postgres::{Row, types::ToSql};

use super::super::{fault::Fault, ordered, pool::rows};
use crate::{
    codec,
    rules::{Buckets, narrowed},
};

/// The most events that one page of a range looks at; it may then hold fewer than were asked for.
const RANGE_EVENTS_MAX: usize = 100_000;
/// How many events are read at once.
const EVENTS_PER_FETCH: i32 = 5_000;

pub(super) async fn after(pool: &Pool, node: &NodeId, after: Sequence, limit: u32) -> Result<Vec<StoredEvent>, Fault> {
    let sql = "SELECT sequence, at, received, device_sequence, product, home, body, node, tenant, device, epoch
        FROM event JOIN series ON series.id = event.series
        WHERE node = (SELECT id FROM node WHERE name = $1) AND sequence > $2 ORDER BY sequence LIMIT $3";
    let rows = rows(pool, sql, &[&node.as_str(), &ordered(after.0), &i64::from(limit)]).await?;
    rows.iter().map(|row| stored_event(row, &series_of(row, 8)?)).collect()
}

pub(super) async fn latest(pool: &Pool, series: &Series) -> Result<Vec<LatestValue>, Fault> {
    let sql = "SELECT metric, at, value FROM latest
        WHERE series = (SELECT id FROM series WHERE tenant = $1 AND device = $2 AND epoch = $3) ORDER BY metric";
    let rows = rows(pool, sql, &[&series.tenant.as_str(), &series.device.as_str(), &epoch(series)]).await?;
    let latest = rows.iter().map(|row| {
        Ok(LatestValue {
            metric: parsed(row, 0, Metric::parse)?,
            at: Timestamp::from_micros(row.try_get(1)?),
            value: codec::read_value_at(row.try_get(2)?)?,
        })
    });
    latest.collect()
}

pub(super) async fn checkpoint(pool: &Pool, node: &NodeId, consumer: &ConsumerId) -> Result<Sequence, Fault> {
    let sql = "SELECT sequence FROM checkpoint WHERE node = $1 AND consumer = $2";
    let rows = rows(pool, sql, &[&node.as_str(), &consumer.as_str()]).await?;
    let at: Option<i64> = rows.first().map(|row| row.try_get(0)).transpose()?;
    Ok(Sequence(at.unwrap_or_default().cast_unsigned()))
}

// === range ===

/// A place in a series. Each node counts for itself, so that two events may have one time and one sequence.
type PlaceInSeries = (i64, i64, i64);

fn place_cursor((at, sequence, node): PlaceInSeries) -> Cursor {
    Cursor::after(&[at, sequence, node].map(i64::to_be_bytes).concat())
}

/// Reads [`place_cursor`]; `None` for the cursor of another list.
pub(super) fn read_place(cursor: &Cursor) -> Option<PlaceInSeries> {
    let (numbers, rest) = cursor.key().as_chunks::<8>();
    match (numbers, rest) {
        ([at, sequence, node], []) => {
            Some((i64::from_be_bytes(*at), i64::from_be_bytes(*sequence), i64::from_be_bytes(*node)))
        }
        _ => None,
    }
}

const ASCENDING: &str = "SELECT sequence, at, received, device_sequence, product, home, body, node FROM event
    WHERE series = (SELECT id FROM series WHERE tenant = $1 AND device = $2 AND epoch = $3)
    AND at >= $4 AND at < $5 AND (at, sequence, node) > ($6, $7, $8) ORDER BY at, sequence, node LIMIT $9";
const DESCENDING: &str = "SELECT sequence, at, received, device_sequence, product, home, body, node FROM event
    WHERE series = (SELECT id FROM series WHERE tenant = $1 AND device = $2 AND epoch = $3)
    AND at >= $4 AND at < $5 AND (at, sequence, node) < ($6, $7, $8)
    ORDER BY at DESC, sequence DESC, node DESC LIMIT $9";

pub(super) async fn range(
    pool: &Pool,
    range: &Range,
    newest_first: bool,
    after: Option<PlaceInSeries>,
    limit: usize,
) -> Result<Page<StoredEvent>, Fault> {
    let (sql, first) =
        if newest_first { (DESCENDING, (i64::MAX, i64::MAX, i64::MAX)) } else { (ASCENDING, (i64::MIN, -1, -1)) };
    let mut place = after.unwrap_or(first);
    let mut page = Page { items: Vec::new(), next: None };
    let mut seen = 0;
    // One row more than there is room for tells whether another page follows.
    let per_statement = ordered(limit as u64).saturating_add(1).min(EVENTS_PER_FETCH.into());
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
        let found = rows(pool, sql, &parameters).await?;
        for row in &found {
            if page.items.len() == limit || seen == RANGE_EVENTS_MAX {
                page.next = Some(place_cursor(place));
                return Ok(page);
            }
            let StoredEvent { sequence, event } = stored_event(row, &range.series)?;
            seen += 1;
            place = (event.at.as_micros(), ordered(sequence.0), row.try_get(7)?);
            page.items.extend(narrowed(event, range.metric.as_ref()).map(|event| StoredEvent { sequence, event }));
        }
        if ordered(found.len() as u64) < per_statement {
            return Ok(page);
        }
    }
}

// === aggregate ===

pub(super) async fn aggregate(pool: &Pool, aggregate: &Aggregate, limit: u32) -> Result<Vec<Bucket>, Fault> {
    let sql = "SELECT at, body FROM event
        WHERE series = (SELECT id FROM series WHERE tenant = $1 AND device = $2 AND epoch = $3)
        AND at >= $4 AND at < $5 ORDER BY at, sequence, node";
    let Aggregate { series, from, until, .. } = aggregate;
    let mut buckets = Buckets::new(aggregate, limit);
    let mut client = pool.get().await?;
    let statement = client.prepare_cached(sql).await?;
    // A portal has one moment for all rows, and they need not be in memory at once.
    let transaction = client.transaction().await?;
    let parameters: [&(dyn ToSql + Sync); 5] =
        [&series.tenant.as_str(), &series.device.as_str(), &epoch(series), &from.as_micros(), &until.as_micros()];
    let portal = transaction.bind(&statement, &parameters).await?;
    loop {
        let rows = transaction.query_portal(&portal, EVENTS_PER_FETCH).await?;
        for row in &rows {
            if !add(&mut buckets, aggregate, row)? {
                return Ok(buckets.finish());
            }
        }
        if rows.is_empty() {
            transaction.commit().await?;
            return Ok(buckets.finish());
        }
    }
}

/// Adds the values of an event; `false` if it, and all that follow, are beyond the last bucket.
fn add(buckets: &mut Buckets, aggregate: &Aggregate, row: &Row) -> Result<bool, Fault> {
    let at = Timestamp::from_micros(row.try_get(0)?);
    let Report::Telemetry(values) = codec::read_report(row.try_get(1)?)? else { return Ok(true) };
    let mut numbers =
        values.iter().filter(|(metric, _)| *metric == aggregate.metric).filter_map(|(_, value)| value.as_f64());
    Ok(numbers.all(|value| buckets.add(at, value)))
}

// === rows ===

/// Only compared for equality, so that the bits may be read as a signed number.
fn epoch(series: &Series) -> i64 {
    series.epoch.0.cast_signed()
}

fn series_of(row: &Row, column: usize) -> Result<Series, Fault> {
    Ok(Series {
        tenant: parsed(row, column, TenantId::parse)?,
        device: parsed(row, column + 1, DeviceId::parse)?,
        epoch: OwnershipEpoch(row.try_get::<_, i64>(column + 2)?.cast_unsigned()),
    })
}

/// Reads sequence, at, received, device_sequence, product, home and body.
fn stored_event(row: &Row, series: &Series) -> Result<StoredEvent, Fault> {
    let has_home = row.try_get::<_, Option<&str>>(5)?.is_some();
    let event = Event {
        tenant: series.tenant.clone(),
        product: parsed(row, 4, ProductId::parse)?,
        device: series.device.clone(),
        epoch: series.epoch,
        home: has_home.then(|| parsed(row, 5, HomeId::parse)).transpose()?,
        at: Timestamp::from_micros(row.try_get(1)?),
        received: Timestamp::from_micros(row.try_get(2)?),
        device_sequence: row.try_get::<_, Option<i64>>(3)?.map(i64::cast_unsigned),
        report: codec::read_report(row.try_get(6)?)?,
    };
    Ok(StoredEvent { sequence: Sequence(row.try_get::<_, i64>(0)?.cast_unsigned()), event })
}

fn parsed<T, E: std::fmt::Display>(
    row: &Row,
    column: usize,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, Fault> {
    parse(row.try_get(column)?).map_err(|error| Fault::Damaged(error.to_string()))
}
