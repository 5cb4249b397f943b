//! Numbered SQL files, each applied once, in order, in a transaction, and remembered with a checksum.

use std::path::Path;

use rusqlite::{Connection, params};

use super::OpenError;
use crate::rules::checksum;

/// The steps that lead to the layout which this version uses; the first has number 1.
pub(super) type Migrations = &'static [&'static str];

pub(super) const CONTROL: Migrations = &[
    include_str!("migrations/control/0001_records_and_sessions.sql"),
    include_str!("migrations/control/0002_sizes_and_bodies.sql"),
];
pub(super) const DATA: Migrations =
    &[include_str!("migrations/data/0001_telemetry.sql"), include_str!("migrations/data/0002_segments_and_chunks.sql")];

/// Brings a file to the present layout. Nothing is changed in a file that this version does not know.
pub(super) fn migrate(connection: &Connection, path: &Path, migrations: Migrations) -> Result<(), OpenError> {
    let failed = |error| OpenError::of_file(path, error);
    let transaction = connection.unchecked_transaction().map_err(failed)?;
    let applied = applied(connection, path)?;
    if applied.len() > migrations.len() {
        return Err(OpenError::Newer { path: path.to_owned(), found: applied.len(), known: migrations.len() });
    }
    for (place, migration) in migrations.iter().enumerate() {
        let (number, checksum) = (place + 1, checksum(migration));
        match applied.get(place) {
            Some(found) if *found == checksum => {}
            Some(_) => return Err(OpenError::Changed { path: path.to_owned(), number }),
            None => apply(connection, number, migration, &checksum).map_err(failed)?,
        }
    }
    transaction.commit().map_err(failed)
}

/// The checksums of the migrations that a file has seen, in order.
fn applied(connection: &Connection, path: &Path) -> Result<Vec<String>, OpenError> {
    let failed = |error| OpenError::of_file(path, error);
    let tables = "SELECT count(*), count(*) FILTER (WHERE name = 'migration') FROM sqlite_schema";
    let (all, known): (u32, u32) =
        connection.query_row(tables, [], |row| Ok((row.get(0)?, row.get(1)?))).map_err(failed)?;
    if known == 0 {
        return if all == 0 { Ok(Vec::new()) } else { Err(OpenError::damaged(path, "a database of another program")) };
    }
    let mut statement = connection.prepare("SELECT checksum FROM migration ORDER BY number").map_err(failed)?;
    let rows = statement.query_map([], |row| row.get(0)).map_err(failed)?;
    rows.collect::<Result<_, _>>().map_err(failed)
}

fn apply(connection: &Connection, number: usize, migration: &str, checksum: &str) -> rusqlite::Result<()> {
    if number == 1 {
        connection.execute_batch("CREATE TABLE migration (number INTEGER PRIMARY KEY, checksum TEXT NOT NULL)")?;
    }
    connection.execute_batch(migration)?;
    let number = i64::try_from(number).unwrap_or(i64::MAX);
    connection.execute("INSERT INTO migration (number, checksum) VALUES (?1, ?2)", params![number, checksum])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "CREATE TABLE a (x INTEGER);";
    const TWO: &str = "CREATE TABLE b (x INTEGER);";

    fn check(connection: &Connection, migrations: Migrations) -> Result<(), OpenError> {
        migrate(connection, Path::new("t.db"), migrations)
    }

    #[test]
    fn steps_are_applied_once_and_in_order() {
        let connection = Connection::open_in_memory().unwrap();
        check(&connection, &[ONE]).unwrap();
        check(&connection, &[ONE]).unwrap();
        check(&connection, &[ONE, TWO]).unwrap();
        connection.execute("INSERT INTO b VALUES (1)", []).unwrap();
        assert_eq!(applied(&connection, Path::new("t.db")).unwrap(), [checksum(ONE), checksum(TWO)]);
    }

    #[test]
    fn a_newer_or_edited_file_is_refused_and_left_alone() {
        let connection = Connection::open_in_memory().unwrap();
        check(&connection, &[ONE, TWO]).unwrap();
        assert!(matches!(check(&connection, &[ONE]), Err(OpenError::Newer { found: 2, known: 1, .. })));
        assert!(matches!(check(&connection, &[TWO, ONE]), Err(OpenError::Changed { number: 1, .. })));
        check(&connection, &[ONE, TWO]).unwrap();
    }

    #[test]
    fn a_step_that_fails_leaves_nothing() {
        let connection = Connection::open_in_memory().unwrap();
        assert!(check(&connection, &[ONE, "CREATE TABLE a (x INTEGER);"]).is_err());
        check(&connection, &[ONE]).unwrap();
    }
}
