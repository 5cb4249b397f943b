use clickhouse::{Client, Row, query::Query};
use iot_core::{
    event::{Sequence, StoredEvent},
    id::{Metric, NodeId},
    problem::Cursor,
    store::{Aggregate, Bucket, LatestValue, Page, Range, Series, StoreError, Usage},
    time::Timestamp,
};
use serde::Deserialize;

use super::{
    damaged,
    row::{COLUMNS, Stored, value},
    unavailable,
};
use crate::rules::{narrowed, page_size, place_cursor, read_place};

const OF_SERIES: &str = "tenant = ? AND device = ? AND epoch = ?";
/// Kinds 0 to 2 are numbers. Of NaN only how many there are, since no order has a place for it.
const AGGREGATE: &str = "SELECT greatest(intDiv(at, ?) - (at % ? < 0), ?) AS bucket, count() AS count,
        countIf(isNaN(number)) AS nans, minIf(number, NOT isNaN(number)) AS min, maxIf(number, NOT isNaN(number)) AS max,
        sumIf(number, NOT isNaN(number)) AS sum, argMin(tuple(number), tuple(at, sequence, place)) AS first,
        argMax(tuple(number), tuple(at, sequence, place)) AS last
    FROM (
        SELECT at, sequence, metric, kind, number, place FROM event
        ARRAY JOIN metrics AS metric, kinds AS kind, numbers AS number, arrayEnumerate(metrics) AS place
        WHERE tenant = ? AND device = ? AND epoch = ? AND report = 0 AND at >= ? AND at < ? AND has(metrics, ?)
    ) WHERE metric = ? AND kind <= 2 GROUP BY bucket ORDER BY bucket LIMIT ?";
const LATEST: &str =
    "SELECT metric, argMaxMerge(newest) AS value FROM newest WHERE tenant = ? AND device = ? AND epoch = ?
    GROUP BY metric ORDER BY metric";

fn of_series(query: Query, series: &Series) -> Query {
    query.bind(series.tenant.as_str()).bind(series.device.as_str()).bind(series.epoch.0)
}

async fn events(query: Query) -> Result<Vec<StoredEvent>, StoreError> {
    let rows: Vec<Stored> = query.fetch_all().await.map_err(unavailable)?;
    rows.into_iter().map(Stored::read).collect()
}

pub(super) async fn after(
    client: &Client,
    node: &NodeId,
    after: Sequence,
    limit: u32,
) -> Result<Vec<StoredEvent>, StoreError> {
    let of = |table: &str| format!("SELECT {COLUMNS} FROM {table} WHERE node = ? AND sequence > ?");
    let both = format!("{} UNION ALL {}", of("event"), of("awaited"));
    // What is moved from one to the other is in both for a moment.
    let sql = format!("SELECT {COLUMNS} FROM ({both}) ORDER BY sequence LIMIT 1 BY sequence LIMIT ?");
    let query = client.query(&sql).bind(node.as_str()).bind(after.0).bind(node.as_str()).bind(after.0).bind(limit);
    events(query).await
}

pub(super) async fn range(
    client: &Client,
    range: &Range,
    newest_first: bool,
    cursor: Option<&Cursor>,
    limit: u32,
) -> Result<Page<StoredEvent>, StoreError> {
    let empty = Page { items: Vec::new(), next: None };
    let place = match cursor.map(read_place) {
        Some(None) => return Ok(empty),
        place => place.flatten(),
    };
    let (order, beyond) = if newest_first { ("DESC", "<") } else { ("ASC", ">") };
    let cursor = place.map_or_else(String::new, |_| format!("AND (at, sequence) {beyond} (?, ?)"));
    let metric = range.metric.as_ref().map_or("", |_| "AND report = 0 AND has(metrics, ?)");
    let sql = format!(
        "SELECT {COLUMNS} FROM event WHERE {OF_SERIES} AND at >= ? AND at < ? {cursor} {metric}
        ORDER BY at {order}, sequence {order} LIMIT ?"
    );
    let mut query =
        of_series(client.query(&sql), &range.series).bind(range.from.as_micros()).bind(range.until.as_micros());
    if let Some((at, sequence)) = place {
        query = query.bind(at.as_micros()).bind(sequence.0);
    }
    if let Some(metric) = &range.metric {
        query = query.bind(metric.as_str());
    }
    let size = page_size(limit);
    let mut items = events(query.bind(size + 1)).await?;
    let is_more = items.len() > size;
    items.truncate(size);
    let next = items.last().filter(|_| is_more).map(|last| place_cursor(last.event.at, last.sequence));
    let narrow = |stored: StoredEvent| {
        let event = narrowed(stored.event, range.metric.as_ref())?;
        Some(StoredEvent { event, ..stored })
    };
    Ok(Page { items: items.into_iter().filter_map(narrow).collect(), next })
}

#[derive(Row, Deserialize)]
struct Statistics {
    bucket: i64,
    count: u64,
    nans: u64,
    min: f64,
    max: f64,
    sum: f64,
    first: (f64,),
    last: (f64,),
}

pub(super) async fn aggregate(client: &Client, aggregate: &Aggregate, limit: u32) -> Result<Vec<Bucket>, StoreError> {
    let width = i128::try_from(aggregate.bucket.as_micros()).unwrap_or(i128::MAX).max(1);
    let narrow = i64::try_from(width).unwrap_or(i64::MAX);
    // Of buckets wider than all of time there are two.
    let first = if width > i128::from(narrow) { -1 } else { i64::MIN };
    let query = of_series(client.query(AGGREGATE).bind(narrow).bind(narrow).bind(first), &aggregate.series);
    let metric = aggregate.metric.as_str();
    let query = query.bind(aggregate.from.as_micros()).bind(aggregate.until.as_micros()).bind(metric).bind(metric);
    let rows: Vec<Statistics> = query.bind(limit).fetch_all().await.map_err(unavailable)?;
    let bucket = |row: Statistics| {
        let start = i128::from(row.bucket).saturating_mul(width);
        let only_nan = |number: f64| if row.nans == row.count { f64::NAN } else { number };
        Bucket {
            start: Timestamp::from_micros(i64::try_from(start).unwrap_or(i64::MIN)),
            count: row.count,
            min: only_nan(row.min),
            max: only_nan(row.max),
            sum: if row.nans > 0 { f64::NAN } else { row.sum },
            first: row.first.0,
            last: row.last.0,
        }
    };
    Ok(rows.into_iter().map(bucket).collect())
}

#[derive(Row, Deserialize)]
struct Newest {
    metric: String,
    value: (i64, u8, f64, i64, String),
}

pub(super) async fn latest(client: &Client, series: &Series) -> Result<Vec<LatestValue>, StoreError> {
    let rows: Vec<Newest> = of_series(client.query(LATEST), series).fetch_all().await.map_err(unavailable)?;
    let read = |Newest { metric, value: (at, kind, number, exact, text) }| {
        let value = value(kind, number, exact, text);
        match (Metric::parse(&metric), value) {
            (Ok(metric), Some(value)) => Ok(LatestValue { metric, at: Timestamp::from_micros(at), value }),
            _ => Err(damaged(format!("the newest value of {metric:?}"))),
        }
    };
    rows.into_iter().map(read).collect()
}

pub(super) async fn usage(client: &Client) -> Result<Usage, StoreError> {
    let parts = "SELECT sum(bytes_on_disk) FROM system.parts WHERE database = currentDatabase() AND active";
    let bytes = client.query(parts).fetch_one().await.map_err(unavailable)?;
    let free: Vec<u64> =
        client.query("SELECT min(unreserved_space) FROM system.disks").fetch_all().await.map_err(unavailable)?;
    Ok(Usage { bytes, bytes_free: free.into_iter().next() })
}
