//! The counts of sealed reports in the file.

use rusqlite::{Connection, params};

use crate::{sealing::Counts, sqlite::fault::Fault};

pub(super) fn read(connection: &Connection, series: i64) -> Result<Counts, Fault> {
    let mut statement = connection.prepare_cached("SELECT first, last FROM run WHERE series = ?1")?;
    let runs = statement.query_map([series], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(Counts::of(runs.collect::<Result<Vec<_>, _>>()?))
}

pub(super) fn write(connection: &Connection, series: i64, counts: &Counts) -> Result<(), Fault> {
    connection.prepare_cached("DELETE FROM run WHERE series = ?1")?.execute([series])?;
    let mut insert = connection.prepare_cached("INSERT INTO run (series, first, last) VALUES (?1, ?2, ?3)")?;
    for (first, last) in counts.kept() {
        insert.execute(params![series, first, last])?;
    }
    Ok(())
}
