//! What is left of a series when it is erased: nothing.

use std::collections::BTreeMap;

use deadpool_postgres::{Pool, Transaction};
use iot_core::store::Series;

use super::{
    super::{fault::Fault, ordered, pool::number},
    part,
    read::epoch,
    seal::again,
};

/// How many events are erased in one transaction, so that appends need not wait for all.
const EVENTS_PER_STATEMENT: i64 = 5_000;

const FIND: &str = "SELECT id FROM series WHERE tenant = $1 AND device = $2 AND epoch = $3";
// What is sealed is counted with the chunks.
const ERASE_SOME: &str =
    "DELETE FROM event WHERE ctid = ANY(ARRAY(SELECT ctid FROM event WHERE series = $1 AND NOT sealed LIMIT $2))";

/// The name of the series goes last: as long as it is there, a broken erasure can be begun again.
pub(super) async fn erase(pool: &Pool, series: &Series) -> Result<u64, Fault> {
    let client = pool.get().await?;
    let (tenant, device, epoch) = (series.tenant.as_str(), series.device.as_str(), epoch(series));
    let found = client.query_opt(&client.prepare_cached(FIND).await?, &[&tenant, &device, &epoch]).await?;
    let Some(id) = found.map(|row| row.try_get::<_, i64>(0)).transpose()? else { return Ok(0) };
    let sql = client.prepare_cached(ERASE_SOME).await?;
    let mut erased = 0;
    loop {
        let gone = client.execute(&sql, &[&id, &EVENTS_PER_STATEMENT]).await?;
        erased += gone;
        if ordered(gone) < EVENTS_PER_STATEMENT {
            break;
        }
    }
    drop(client);
    erased += again!(erase_sealed(pool, id).await)?;
    Ok(erased + again!(erase_rest(pool, id).await)?)
}

async fn erase_sealed(pool: &Pool, id: i64) -> Result<u64, Fault> {
    let mut client = pool.get().await?;
    let transaction = client.transaction().await?;
    part::lock(&transaction).await?;
    let erased = erase_chunks(&transaction, id).await?;
    transaction.commit().await?;
    Ok(erased)
}

const LOCK_NODES: &str = "SELECT FROM node ORDER BY id FOR UPDATE";
const ERASE_EVENTS: &str = "WITH gone AS (DELETE FROM event WHERE series = $1 RETURNING sealed)
    SELECT count(*) FROM gone WHERE NOT sealed";
const ERASE_CHUNKS: &str = "DELETE FROM chunk WHERE series = $1 RETURNING id, part, rows";
const ERASE_ROLLUPS: &str = "DELETE FROM rollup WHERE series = $1";
const ERASE_RUNS: &str = "DELETE FROM run WHERE series = $1";
const ERASE_LATEST: &str = "DELETE FROM latest WHERE series = $1";
const ERASE_SERIES: &str = "DELETE FROM series WHERE id = $1";

/// While all nodes are locked, no append is under way, which may know the number of the series.
async fn erase_rest(pool: &Pool, id: i64) -> Result<u64, Fault> {
    let mut client = pool.get().await?;
    let transaction = client.transaction().await?;
    part::lock(&transaction).await?;
    transaction.execute(&transaction.prepare_cached(LOCK_NODES).await?, &[]).await?;
    let events = number(&transaction.query(&transaction.prepare_cached(ERASE_EVENTS).await?, &[&id]).await?)?;
    let sealed = erase_chunks(&transaction, id).await?;
    for sql in [ERASE_RUNS, ERASE_LATEST, ERASE_SERIES] {
        transaction.execute(&transaction.prepare_cached(sql).await?, &[&id]).await?;
    }
    transaction.commit().await?;
    Ok(events.unsigned_abs() + sealed)
}

async fn erase_chunks(transaction: &Transaction<'_>, id: i64) -> Result<u64, Fault> {
    let mut chunks: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    let mut reports = 0;
    for row in transaction.query(&transaction.prepare_cached(ERASE_CHUNKS).await?, &[&id]).await? {
        chunks.entry(row.try_get(1)?).or_default().push(row.try_get(0)?);
        reports += row.try_get::<_, i64>(2)?.unsigned_abs();
    }
    for (part, chunks) in chunks {
        part::delete_bodies(transaction, part, &chunks).await?;
    }
    transaction.execute(&transaction.prepare_cached(ERASE_ROLLUPS).await?, &[&id]).await?;
    Ok(reports)
}
