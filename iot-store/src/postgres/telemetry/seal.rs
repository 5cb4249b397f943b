//! Events become chunks and rollups: a bounded number of them in each transaction, as many series as they are of.

use std::time::Duration;

use deadpool_postgres::Pool;
use iot_core::{
    store::{Maintained, Policies},
    time::Timestamp,
};
use tokio::task::spawn_blocking;
use tokio_postgres::types::ToSql;

use super::{
    super::{fault::Fault, ordered, pool::rows},
    gather::{gather, read},
    part,
    record::{write, write_counts},
};

/// How many events are sealed in one transaction.
pub(super) const EVENTS_PER_STEP: i64 = 8_192;
/// How many series are looked for at once.
const SERIES_PER_ROUND: i64 = 100_000;
/// How often a step is tried when another transaction was in its way.
pub(super) const ATTEMPTS_MAX: usize = 10;
const HOUR_MICROS: i64 = 3_600_000_000;
/// So long after it was received an event may be dropped from the log although a consumer has not come so far.
const LOG_KEPT: Duration = Duration::from_secs(7 * 86_400);

/// Events that were received before this are sealed: in an hour that has been over for an hour, so that a series gives a chunk
/// an hour.
fn due_before(now: Timestamp) -> i64 {
    now.as_micros().div_euclid(HOUR_MICROS).saturating_sub(1).saturating_mul(HOUR_MICROS)
}

/// Seals what is due, and forgets what is over.
pub(super) async fn maintain(pool: &Pool, now: Timestamp, policies: &Policies) -> Result<Maintained, Fault> {
    let mut sealed = 0;
    loop {
        let series = due_series(pool, due_before(now)).await?;
        for series in batches(&series) {
            loop {
                let events = again!(step(pool, now, series, policies).await)?;
                sealed += events;
                if ordered(events) < EVENTS_PER_STEP {
                    break;
                }
            }
        }
        if ordered(series.len() as u64) < SERIES_PER_ROUND {
            break;
        }
    }
    while again!(drop_step(pool, now).await)? == EVENTS_PER_STEP.unsigned_abs() {}
    let mut forgotten = 0;
    while let Some(reports) = again!(forget_step(pool, now).await)? {
        forgotten += reports;
    }
    Ok(Maintained { sealed, forgotten })
}

/// Evaluates a transaction again if another was in its way.
macro_rules! again {
    ($transaction:expr) => {{
        let mut attempt = 1;
        loop {
            match $transaction {
                Err($crate::postgres::fault::Fault::Again(_))
                    if attempt < $crate::postgres::telemetry::seal::ATTEMPTS_MAX =>
                {
                    attempt += 1;
                }
                outcome => break outcome,
            }
        }
    }};
}
pub(super) use again;

async fn forget_step(pool: &Pool, now: Timestamp) -> Result<Option<u64>, Fault> {
    let mut client = pool.get().await?;
    let transaction = client.transaction().await?;
    part::lock(&transaction).await?;
    let forgotten = part::forget(&transaction, now).await?;
    transaction.commit().await?;
    Ok(forgotten)
}

/// What all consumers of its node have seen, or what was received before a time need not be in the log.
const DROP: &str = "DELETE FROM event WHERE ctid = ANY(ARRAY(
    SELECT event.ctid FROM event JOIN (SELECT node.id, min(checkpoint.sequence) AS come
        FROM node LEFT JOIN checkpoint ON checkpoint.node = node.name GROUP BY node.id) AS log ON log.id = event.node
    WHERE sealed AND (log.come IS NULL OR event.sequence <= log.come OR received < $1) LIMIT $2))";

/// Drops sealed events from the log; answers how many.
async fn drop_step(pool: &Pool, now: Timestamp) -> Result<u64, Fault> {
    let mut client = pool.get().await?;
    let transaction = client.transaction().await?;
    part::lock(&transaction).await?;
    let sql = transaction.prepare_cached(DROP).await?;
    let dropped = transaction.execute(&sql, &[&now.minus(LOG_KEPT).as_micros(), &EVENTS_PER_STEP]).await?;
    transaction.commit().await?;
    Ok(dropped)
}

const DUE_SERIES: &str = "SELECT series, count(*) FROM event WHERE received < $1 AND NOT sealed
    GROUP BY series ORDER BY series LIMIT $2";
/// Those of the events named that need not be in the log; see [`DROP`].
const DROP_NAMED: &str = "DELETE FROM event WHERE ctid = ANY(ARRAY(
    SELECT found.ctid FROM unnest($1::bigint[], $2::bigint[]) AS named (node, sequence)
    JOIN (SELECT node.id, min(checkpoint.sequence) AS come
        FROM node LEFT JOIN checkpoint ON checkpoint.node = node.name GROUP BY node.id) AS log ON log.id = named.node
    CROSS JOIN LATERAL (SELECT ctid, received FROM event
        WHERE event.node = named.node AND event.sequence = named.sequence LIMIT 1) AS found
    WHERE log.come IS NULL OR named.sequence <= log.come OR found.received < $3))";
/// The rest of them.
const SEAL_NAMED: &str = "UPDATE event SET sealed = TRUE WHERE ctid = ANY(ARRAY(
    SELECT found.ctid FROM unnest($1::bigint[], $2::bigint[]) AS named (node, sequence)
    CROSS JOIN LATERAL (SELECT ctid FROM event
        WHERE event.node = named.node AND event.sequence = named.sequence LIMIT 1) AS found))";

/// The series that have something to be sealed, and how many events.
async fn due_series(pool: &Pool, due: i64) -> Result<Vec<(i64, i64)>, Fault> {
    let parameters: [&(dyn ToSql + Sync); 2] = [&due, &SERIES_PER_ROUND];
    let rows = rows(pool, DUE_SERIES, &parameters).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// So many series together that they fill a step, or one that has more.
fn batches(series: &[(i64, i64)]) -> impl Iterator<Item = &[(i64, i64)]> {
    let mut rest = series;
    std::iter::from_fn(move || {
        let mut events = 0;
        let fits = rest.iter().take_while(|(_, count)| {
            events += count;
            events < EVENTS_PER_STEP
        });
        let (batch, later) = rest.split_at_checked(fits.count().max(1))?;
        rest = later;
        Some(batch)
    })
}

/// Seals events of some series in one transaction; answers how many.
async fn step(pool: &Pool, now: Timestamp, series: &[(i64, i64)], policies: &Policies) -> Result<u64, Fault> {
    let mut client = pool.get().await?;
    let transaction = client.transaction().await?;
    part::lock(&transaction).await?;
    let unsealed = read(&transaction, due_before(now), series).await?;
    let events = unsealed.places.0.len() as u64;
    if events > 0 {
        let (work, merged) = gather(&transaction, &unsealed, policies).await?;
        let compressed = spawn_blocking(move || work.compress()).await.map_err(|_| Fault::stopped())??;
        write(&transaction, &compressed, &merged).await?;
        write_counts(&transaction, &unsealed).await?;
        let (nodes, sequences) = &unsealed.places;
        let kept = now.minus(LOG_KEPT).as_micros();
        let sql = transaction.prepare_cached(DROP_NAMED).await?;
        let dropped = transaction.execute(&sql, &[nodes, sequences, &kept]).await?;
        let waiting = transaction.execute(&transaction.prepare_cached(SEAL_NAMED).await?, &[nodes, sequences]).await?;
        if dropped + waiting != events {
            return Err(Fault::again("events were erased at the same time"));
        }
    }
    transaction.commit().await?;
    Ok(events)
}
