//! Reading the log, latest values and checkpoints; and rows.

use deadpool_postgres::Pool;
use iot_core::{
    event::{Event, Sequence, StoredEvent},
    id::{ConsumerId, DeviceId, HomeId, Metric, NodeId, OwnershipEpoch, ProductId, TenantId},
    store::{LatestValue, Series, Usage},
    time::Timestamp,
};
use tokio_postgres::{Row, types::ToSql};

use super::super::{
    fault::Fault,
    ordered,
    pool::{number, rows},
};
use crate::codec;

/// The most unsealed events that one page of a range looks at; it may then hold fewer than were asked for.
pub(super) const RANGE_EVENTS_MAX: usize = 100_000;
/// How many events are read at once.
pub(super) const EVENTS_PER_FETCH: i32 = 5_000;

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

/// Who asks for the first time is known when it is answered: it waits for a step of sealing that may not have seen it.
const REGISTER: &str = "WITH held AS MATERIALIZED (SELECT 1 FROM counter WHERE name = 'maintenance' FOR SHARE)
    INSERT INTO checkpoint (node, consumer, sequence) SELECT $1, $2, 0 FROM held ON CONFLICT DO NOTHING";

pub(super) async fn checkpoint(pool: &Pool, node: &NodeId, consumer: &ConsumerId) -> Result<Sequence, Fault> {
    let sql = "SELECT sequence FROM checkpoint WHERE node = $1 AND consumer = $2";
    let key: [&(dyn ToSql + Sync); 2] = [&node.as_str(), &consumer.as_str()];
    let found = rows(pool, sql, &key).await?;
    let Some(row) = found.first() else {
        rows(pool, REGISTER, &key).await?;
        return Ok(Sequence(0));
    };
    Ok(Sequence(row.try_get::<_, i64>(0)?.cast_unsigned()))
}

/// The server does not say how much room its disk has.
pub(super) async fn usage(pool: &Pool) -> Result<Usage, Fault> {
    let sql = "SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class
        WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'
        AND relname ~ '^(event|latest|series|run|checkpoint|part|rollup|chunk(_[0-9]+)?)$'";
    Ok(Usage { bytes: number(&rows(pool, sql, &[]).await?)?.unsigned_abs(), bytes_free: None })
}

// === rows ===

/// Only compared for equality, so that the bits may be read as a signed number.
pub(super) fn epoch(series: &Series) -> i64 {
    series.epoch.0.cast_signed()
}

pub(super) fn series_of(row: &Row, column: usize) -> Result<Series, Fault> {
    Ok(Series {
        tenant: parsed(row, column, TenantId::parse)?,
        device: parsed(row, column + 1, DeviceId::parse)?,
        epoch: OwnershipEpoch(row.try_get::<_, i64>(column + 2)?.cast_unsigned()),
    })
}

/// Reads sequence, at, received, device_sequence, product, home and body.
pub(super) fn stored_event(row: &Row, series: &Series) -> Result<StoredEvent, Fault> {
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
