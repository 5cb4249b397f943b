//! Partitions: what is forgotten together, and the bodies of the chunks in them.

use std::collections::{BTreeMap, BTreeSet};

use deadpool_postgres::Transaction;
use iot_core::{
    store::{Form, Partition},
    time::Timestamp,
};
use tokio_postgres::{
    error::SqlState,
    types::{ToSql, Type},
};

use super::super::{fault::Fault, pool::number};
use crate::sealing;

/// How many rollups are deleted in one transaction.
const ROLLUPS_PER_STEP: i64 = 1_000;

/// Waits until no other seals, forgets or erases, in whichever process.
pub(super) async fn lock(transaction: &Transaction<'_>) -> Result<(), Fault> {
    let sql = "SELECT FROM counter WHERE name = 'maintenance' FOR UPDATE";
    transaction.execute(&transaction.prepare_cached(sql).await?, &[]).await?;
    Ok(())
}

/// The numbers of partitions; those that are not there are made.
pub(super) async fn ids(
    transaction: &Transaction<'_>,
    wanted: BTreeSet<Partition>,
) -> Result<BTreeMap<Partition, i64>, Fault> {
    let mut ids = BTreeMap::new();
    for partition in wanted {
        ids.insert(partition, id(transaction, partition).await?);
    }
    Ok(ids)
}

async fn id(transaction: &Transaction<'_>, Partition { form, kept, span }: Partition) -> Result<i64, Fault> {
    let key: [&(dyn ToSql + Sync); 3] = [&sealing::number(form), &i64::from(kept), &span];
    let sql = "SELECT id FROM part WHERE form = $1 AND kept = $2 AND span = $3";
    if let Some(row) = transaction.query_opt(&transaction.prepare_cached(sql).await?, &key).await? {
        return Ok(row.try_get(0)?);
    }
    let sql = "INSERT INTO part (form, kept, span) VALUES ($1, $2, $3) RETURNING id";
    let id: i64 = transaction.query_one(&transaction.prepare_cached(sql).await?, &key).await?.try_get(0)?;
    if form == Form::Raw {
        // Bodies are compressed as they come.
        let sql = format!(
            "CREATE TABLE chunk_{id} (id BIGINT PRIMARY KEY, body BYTEA NOT NULL);
            ALTER TABLE chunk_{id} ALTER COLUMN body SET STORAGE EXTERNAL"
        );
        transaction.batch_execute(&sql).await?;
    }
    Ok(id)
}

/// The bodies of chunks of one partition, by their numbers.
pub(super) async fn bodies(
    transaction: &Transaction<'_>,
    part: i64,
    chunks: &[i64],
) -> Result<BTreeMap<i64, Vec<u8>>, Fault> {
    let sql = format!("SELECT id, body FROM chunk_{part} WHERE id = ANY($1)");
    let rows = transaction.query_typed(&sql, &[(&chunks, Type::INT8_ARRAY)]).await.map_err(dropped)?;
    let bodies: BTreeMap<i64, Vec<u8>> =
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, Fault>>()?;
    match chunks.iter().find(|chunk| !bodies.contains_key(chunk)) {
        Some(chunk) => Err(Fault::Damaged(format!("chunk {chunk} has no body"))),
        None => Ok(bodies),
    }
}

/// A partition may be forgotten while it is read: the table goes at once, whatever moment the reader sees.
fn dropped(error: tokio_postgres::Error) -> Fault {
    if error.code() == Some(&SqlState::UNDEFINED_TABLE) {
        Fault::again("a partition was forgotten at the same time")
    } else {
        error.into()
    }
}

pub(super) async fn insert_bodies(
    transaction: &Transaction<'_>,
    part: i64,
    chunks: &[i64],
    bodies: &[&[u8]],
) -> Result<(), Fault> {
    let sql = format!("INSERT INTO chunk_{part} (id, body) SELECT * FROM unnest($1::bigint[], $2::bytea[])");
    transaction.execute_typed(&sql, &[(&chunks, Type::INT8_ARRAY), (&bodies, Type::BYTEA_ARRAY)]).await?;
    Ok(())
}

/// Deletes chunks of one partition, of which the catalogue knows no longer.
pub(super) async fn delete_bodies(transaction: &Transaction<'_>, part: i64, chunks: &[i64]) -> Result<(), Fault> {
    let sql = format!("DELETE FROM chunk_{part} WHERE id = ANY($1)");
    transaction.execute_typed(&sql, &[(&chunks, Type::INT8_ARRAY)]).await?;
    Ok(())
}

/// Forgets a partition that is over, or a piece of it; answers how many reports, or `None` if no partition is over.
pub(super) async fn forget(transaction: &Transaction<'_>, now: Timestamp) -> Result<Option<u64>, Fault> {
    match over(transaction, now).await? {
        Some((id, Form::Raw)) => forget_chunks(transaction, id).await.map(Some),
        Some((id, _)) => forget_rollups(transaction, id).await.map(|()| Some(0)),
        None => Ok(None),
    }
}

async fn over(transaction: &Transaction<'_>, now: Timestamp) -> Result<Option<(i64, Form)>, Fault> {
    let sql = transaction.prepare_cached("SELECT id, form, kept, span FROM part").await?;
    for row in transaction.query(&sql, &[]).await? {
        let (id, form): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        let kept = u32::try_from(row.try_get::<_, i64>(2)?).ok();
        let (Some(form), Some(kept)) = (sealing::form(form), kept) else {
            return Err(Fault::Damaged(format!("partition {id} has no known form")));
        };
        if (Partition { form, kept, span: row.try_get(3)? }).is_over(now) {
            return Ok(Some((id, form)));
        }
    }
    Ok(None)
}

const FORGET_CHUNKS: &str =
    "WITH gone AS (DELETE FROM chunk WHERE part = $1 RETURNING rows) SELECT coalesce(sum(rows), 0)::bigint FROM gone";
const FORGET_ROLLUPS: &str =
    "DELETE FROM rollup WHERE ctid = ANY(ARRAY(SELECT ctid FROM rollup WHERE part = $1 LIMIT $2))";
const FORGET_PART: &str = "DELETE FROM part WHERE id = $1";

async fn forget_chunks(transaction: &Transaction<'_>, id: i64) -> Result<u64, Fault> {
    let rows = transaction.query(&transaction.prepare_cached(FORGET_CHUNKS).await?, &[&id]).await?;
    transaction.batch_execute(&format!("DROP TABLE chunk_{id}")).await?;
    transaction.execute(&transaction.prepare_cached(FORGET_PART).await?, &[&id]).await?;
    Ok(number(&rows)?.unsigned_abs())
}

async fn forget_rollups(transaction: &Transaction<'_>, id: i64) -> Result<(), Fault> {
    let sql = transaction.prepare_cached(FORGET_ROLLUPS).await?;
    let gone = transaction.execute(&sql, &[&id, &ROLLUPS_PER_STEP]).await?;
    if gone < ROLLUPS_PER_STEP.unsigned_abs() {
        transaction.execute(&transaction.prepare_cached(FORGET_PART).await?, &[&id]).await?;
    }
    Ok(())
}
