//! Partitions: what is forgotten together.

use iot_core::{
    store::{Form, Partition},
    time::Timestamp,
};
use rusqlite::{Connection, OptionalExtension, params};

use crate::{sealing, sqlite::fault::Fault};

/// How many rollups are deleted in one transaction.
const ROLLUPS_PER_STEP: u32 = 1_000;

/// The number of a partition, if it is there.
pub(super) fn find(connection: &Connection, Partition { form, kept, span }: Partition) -> Result<Option<i64>, Fault> {
    let sql = "SELECT id FROM part WHERE form = ?1 AND kept = ?2 AND span = ?3";
    let mut statement = connection.prepare_cached(sql)?;
    Ok(statement.query_row(params![sealing::number(form), kept, span], |row| row.get(0)).optional()?)
}

/// The number of a partition, which is made if it is not there.
pub(super) fn id(connection: &Connection, partition: Partition) -> Result<i64, Fault> {
    if let Some(id) = find(connection, partition)? {
        return Ok(id);
    }
    let Partition { form, kept, span } = partition;
    // Numbers are not used again: there may be statements of a table that is gone.
    let sql = "INSERT INTO counter (name, value) VALUES ('part', 1)
        ON CONFLICT DO UPDATE SET value = value + 1 RETURNING value";
    let id: i64 = connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
    let sql = "INSERT INTO part (id, form, kept, span) VALUES (?1, ?2, ?3, ?4)";
    connection.prepare_cached(sql)?.execute(params![id, sealing::number(form), kept, span])?;
    if form == Form::Raw {
        connection.execute_batch(&format!("CREATE TABLE chunk_{id} (id INTEGER PRIMARY KEY, body BLOB NOT NULL)"))?;
    }
    Ok(id)
}

pub(super) fn body(connection: &Connection, part: i64, chunk: i64) -> Result<Vec<u8>, Fault> {
    let sql = format!("SELECT body FROM chunk_{part} WHERE id = ?1");
    Ok(connection.prepare_cached(&sql)?.query_row([chunk], |row| row.get(0))?)
}

/// Forgets a partition that is over, or a piece of it; answers how many reports, or `None` if no partition is over.
pub(super) fn forget(connection: &Connection, now: Timestamp) -> Result<Option<u64>, Fault> {
    let over = over(connection, now)?;
    over.map(
        |(id, form)| if form == Form::Raw { forget_chunks(connection, id) } else { forget_rollups(connection, id) },
    )
    .transpose()
}

fn over(connection: &Connection, now: Timestamp) -> Result<Option<(i64, Form)>, Fault> {
    let mut statement = connection.prepare_cached("SELECT id, form, kept, span FROM part")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (id, form, kept, span): (i64, i64, u32, i64) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        let form = sealing::form(form).ok_or_else(|| Fault::damaged(format!("partition {id} has no known form")))?;
        if (Partition { form, kept, span }).is_over(now) {
            return Ok(Some((id, form)));
        }
    }
    Ok(None)
}

fn forget_chunks(connection: &Connection, id: i64) -> Result<u64, Fault> {
    let sql = "SELECT coalesce(sum(rows), 0) FROM chunk WHERE part = ?1";
    let rows: i64 = connection.prepare_cached(sql)?.query_row([id], |row| row.get(0))?;
    connection.prepare_cached("DELETE FROM chunk WHERE part = ?1")?.execute([id])?;
    connection.execute_batch(&format!("DROP TABLE chunk_{id}"))?;
    connection.prepare_cached("DELETE FROM part WHERE id = ?1")?.execute([id])?;
    Ok(rows.unsigned_abs())
}

fn forget_rollups(connection: &Connection, id: i64) -> Result<u64, Fault> {
    let sql = "DELETE FROM rollup WHERE id IN (SELECT id FROM rollup WHERE part = ?1 LIMIT ?2)";
    let gone = connection.prepare_cached(sql)?.execute(params![id, ROLLUPS_PER_STEP])?;
    if gone < ROLLUPS_PER_STEP as usize {
        connection.prepare_cached("DELETE FROM part WHERE id = ?1")?.execute([id])?;
    }
    Ok(0)
}
