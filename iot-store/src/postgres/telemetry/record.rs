//! What a step of sealing writes.

use std::collections::BTreeMap;

use deadpool_postgres::Transaction;

use super::{
    super::{fault::Fault, ordered},
    compress::Compressed,
    gather::{Merged, Unsealed},
    part,
};
use crate::{codec, sealing::Counts};

const CHUNK_IDS: &str = "SELECT nextval('row_id') FROM generate_series(1, $1::bigint)";
const DELETE_CHUNKS: &str = "DELETE FROM chunk WHERE id = ANY($1)";
const INSERT_CHUNKS: &str = "INSERT INTO chunk (id, part, series, node, rows, first_at, last_at, stats)
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
        $7::bigint[], $8::bytea[])";
const PUT_ROLLUPS: &str = "INSERT INTO rollup (series, metric, part, era, body)
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bytea[])
    ON CONFLICT (series, metric, part, era) DO UPDATE SET body = excluded.body";
const RUNS: &str = "SELECT series, first, last FROM run WHERE series = ANY($1)";
const DELETE_RUNS: &str = "DELETE FROM run WHERE series = ANY($1)";
const INSERT_RUNS: &str = "INSERT INTO run (series, first, last)
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[])";

pub(super) async fn write(
    transaction: &Transaction<'_>,
    compressed: &Compressed,
    merged: &Merged,
) -> Result<(), Fault> {
    for (part, chunks) in merged.iter().filter(|(_, chunks)| !chunks.is_empty()) {
        transaction.execute(&transaction.prepare_cached(DELETE_CHUNKS).await?, &[chunks]).await?;
        part::delete_bodies(transaction, *part, chunks).await?;
    }
    write_chunks(transaction, compressed).await?;
    let rollups = &compressed.rollups;
    let series: Vec<i64> = rollups.iter().map(|row| row.series).collect();
    let metrics: Vec<&str> = rollups.iter().map(|row| row.metric.as_str()).collect();
    let parts: Vec<i64> = rollups.iter().map(|row| row.part).collect();
    let eras: Vec<i64> = rollups.iter().map(|row| row.era).collect();
    let bodies: Vec<&[u8]> = rollups.iter().map(|row| &row.body[..]).collect();
    let sql = transaction.prepare_cached(PUT_ROLLUPS).await?;
    transaction.execute(&sql, &[&series, &metrics, &parts, &eras, &bodies]).await?;
    Ok(())
}

async fn write_chunks(transaction: &Transaction<'_>, Compressed { chunks, .. }: &Compressed) -> Result<(), Fault> {
    let sql = transaction.prepare_cached(CHUNK_IDS).await?;
    let rows = transaction.query(&sql, &[&ordered(chunks.len() as u64)]).await?;
    let ids = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<i64>, _>>()?;
    let parts: Vec<i64> = chunks.iter().map(|(key, _)| key.part).collect();
    let series: Vec<i64> = chunks.iter().map(|(key, _)| key.series).collect();
    let nodes: Vec<i64> = chunks.iter().map(|(key, _)| key.node).collect();
    let rows: Vec<i64> = chunks.iter().map(|(_, chunk)| chunk.stats.rows.into()).collect();
    let first: Vec<i64> = chunks.iter().map(|(_, chunk)| chunk.stats.first.0.as_micros()).collect();
    let last: Vec<i64> = chunks.iter().map(|(_, chunk)| chunk.stats.last.0.as_micros()).collect();
    let stats: Vec<Vec<u8>> = chunks.iter().map(|(_, chunk)| codec::metric_stats(&chunk.stats.metrics)).collect();
    let sql = transaction.prepare_cached(INSERT_CHUNKS).await?;
    transaction.execute(&sql, &[&ids, &parts, &series, &nodes, &rows, &first, &last, &stats]).await?;
    let mut by_part: BTreeMap<i64, (Vec<i64>, Vec<&[u8]>)> = BTreeMap::new();
    for (id, (key, chunk)) in ids.iter().zip(chunks) {
        let (ids, bodies) = by_part.entry(key.part).or_default();
        ids.push(*id);
        bodies.push(&chunk.bytes);
    }
    for (part, (ids, bodies)) in by_part {
        part::insert_bodies(transaction, part, &ids, &bodies).await?;
    }
    Ok(())
}

/// Adds the counts of devices to those that are known.
pub(super) async fn write_counts(transaction: &Transaction<'_>, unsealed: &Unsealed) -> Result<(), Fault> {
    let mut new: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for ((series, _), events) in &unsealed.events {
        let counts: Vec<i64> =
            events.iter().filter_map(|stored| stored.event.device_sequence.map(u64::cast_signed)).collect();
        if !counts.is_empty() {
            new.entry(*series).or_default().extend(counts);
        }
    }
    if new.is_empty() {
        return Ok(());
    }
    let counted: Vec<i64> = new.keys().copied().collect();
    let mut known: BTreeMap<i64, Vec<(i64, i64)>> = BTreeMap::new();
    for row in transaction.query(&transaction.prepare_cached(RUNS).await?, &[&counted]).await? {
        known.entry(row.try_get(0)?).or_default().push((row.try_get(1)?, row.try_get(2)?));
    }
    let (mut series, mut first, mut last) = (Vec::new(), Vec::new(), Vec::new());
    for (of, numbers) in new {
        let mut counts = Counts::of(known.remove(&of).unwrap_or_default());
        numbers.into_iter().for_each(|number| counts.insert(number));
        for run in counts.kept() {
            series.push(of);
            first.push(run.0);
            last.push(run.1);
        }
    }
    transaction.execute(&transaction.prepare_cached(DELETE_RUNS).await?, &[&counted]).await?;
    transaction.execute(&transaction.prepare_cached(INSERT_RUNS).await?, &[&series, &first, &last]).await?;
    Ok(())
}
