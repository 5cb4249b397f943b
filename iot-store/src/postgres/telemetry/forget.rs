//! Forgetting events: by their age, or with all that there is of a series.

use deadpool_postgres::{Client, Pool};
use iot_core::{
    store::{Form, KEPT_DAYS_MAX, Policies, Series},
    time::Timestamp,
};

use super::super::{
    fault::Fault,
    ordered,
    pipeline::{Parameter, Pipeline, parameters},
    pool::number,
};

/// How many events are forgotten in one transaction, so that appends need not wait for all.
const EVENTS_PER_STATEMENT: i64 = 5_000;
const DAY_MICROS: i64 = 86_400_000_000;
/// How often the end of an erasure is tried when another transaction was in its way.
const ATTEMPTS_MAX: usize = 10;

/// Forgets reports of days whose longest time is over.
pub(super) async fn maintain(pool: &Pool, now: Timestamp, policies: &Policies) -> Result<u64, Fault> {
    let retentions = policies.products.values().chain(policies.metrics.values()).chain([&policies.default]);
    let kept = retentions.map(|retention| retention.days(Form::Raw)).max().unwrap_or(KEPT_DAYS_MAX);
    let today = now.as_micros().div_euclid(DAY_MICROS);
    let before = today.saturating_sub(kept.into()).saturating_mul(DAY_MICROS);
    expire(pool, Timestamp::from_micros(before)).await
}

async fn expire(pool: &Pool, before: Timestamp) -> Result<u64, Fault> {
    let sql = "DELETE FROM event WHERE ctid = ANY(ARRAY(SELECT ctid FROM event WHERE received < $1 LIMIT $2))";
    let client = pool.get().await?;
    let statement = client.prepare_cached(sql).await?;
    let mut expired = 0;
    loop {
        let forgotten = client.execute(&statement, &[&before.as_micros(), &EVENTS_PER_STATEMENT]).await?;
        expired += forgotten;
        if ordered(forgotten) < EVENTS_PER_STATEMENT {
            return Ok(expired);
        }
    }
}

/// Events first: as long as there are some, a broken erasure can be begun again.
pub(super) async fn erase(pool: &Pool, series: &Series) -> Result<u64, Fault> {
    let sql = "DELETE FROM event WHERE ctid = ANY(ARRAY(SELECT ctid FROM event
        WHERE series = (SELECT id FROM series WHERE tenant = $1 AND device = $2 AND epoch = $3) LIMIT $4))";
    let client = pool.get().await?;
    let statement = client.prepare_cached(sql).await?;
    let (tenant, device, epoch) = (series.tenant.as_str(), series.device.as_str(), series.epoch.0.cast_signed());
    let mut erased = 0;
    loop {
        let gone = client.execute(&statement, &[&tenant, &device, &epoch, &EVENTS_PER_STATEMENT]).await?;
        erased += gone;
        if ordered(gone) < EVENTS_PER_STATEMENT {
            break;
        }
    }
    drop(client);
    let mut attempt = 1;
    loop {
        match erase_rest(pool, series).await {
            Err(Fault::Again(_)) if attempt < ATTEMPTS_MAX => attempt += 1,
            rest => return Ok(erased + rest?),
        }
    }
}

const LOCK_NODES: &str = "SELECT FROM node ORDER BY id FOR UPDATE";
const ERASE_EVENTS: &str = "WITH gone AS (DELETE FROM event
        WHERE series = (SELECT id FROM series WHERE tenant = $1 AND device = $2 AND epoch = $3) RETURNING 1)
    SELECT count(*) FROM gone";
const ERASE_LATEST: &str = "DELETE FROM latest
    WHERE series = (SELECT id FROM series WHERE tenant = $1 AND device = $2 AND epoch = $3)";
const ERASE_SERIES: &str = "DELETE FROM series WHERE tenant = $1 AND device = $2 AND epoch = $3";

/// While all nodes are locked, no append is under way, which may know the number of the series.
async fn erase_rest(pool: &Pool, series: &Series) -> Result<u64, Fault> {
    let client = pool.get().await?;
    let named = || -> Vec<Parameter<'_>> {
        parameters![series.tenant.as_str(), series.device.as_str(), series.epoch.0.cast_signed()]
    };
    let mut pipeline = Pipeline::begin();
    pipeline.add(LOCK_NODES, Vec::new());
    let events = pipeline.add(ERASE_EVENTS, named());
    pipeline.add(ERASE_LATEST, named());
    pipeline.add(ERASE_SERIES, named());
    match pipeline.commit(&client).await {
        Ok(answers) => Ok(number(&answers[events])?.cast_unsigned()),
        Err(fault) => {
            // In whatever state it is.
            drop(Client::take(client));
            Err(fault)
        }
    }
}
