//! Numbered SQL files, each applied once, in order, under a lock of the database, and remembered with a checksum.

use deadpool_postgres::{Client, Transaction};

use super::{OpenError, fault::Fault};
use crate::rules::checksum;

/// The steps that lead to the layout which this version uses; the first has number 1.
pub(super) type Migrations = &'static [&'static str];

pub(super) const ALL: Migrations = &[
    include_str!("migrations/0001_layout.sql"),
    include_str!("migrations/0002_chunks.sql"),
    include_str!("migrations/0003_sizes.sql"),
];

/// The advisory lock under which one process at a time changes a layout: the letters "iot-stor".
const LOCK: i64 = i64::from_be_bytes(*b"iot-stor");
/// The oldest server, as `server_version_num` says it.
const VERSION_MIN: i32 = 150_000;

/// Refuses a server on which the contracts could not be kept.
pub(super) async fn check_server(client: &Client) -> Result<(), OpenError> {
    let sql = "SELECT current_setting('server_version_num')::int, current_setting('server_version'),
        current_setting('server_encoding'), current_setting('fsync')";
    let row = client.query_one(sql, &[]).await?;
    let (version, named): (i32, String) = (row.try_get(0)?, row.try_get(1)?);
    if version < VERSION_MIN {
        return Err(OpenError::Unsuitable { what: format!("version {named} is older than 15") });
    }
    for (place, name, wanted) in [(2, "server_encoding", "UTF8"), (3, "fsync", "on")] {
        let found: String = row.try_get(place)?;
        if found != wanted {
            return Err(OpenError::Unsuitable { what: format!("{name} is {found} and must be {wanted}") });
        }
    }
    Ok(())
}

/// Brings a schema to the present layout, or only looks whether it has that. Nothing is changed in one that this version does
/// not know.
pub(super) async fn migrate(
    client: &mut Client,
    schema: &str,
    migrations: Migrations,
    upgrade: bool,
) -> Result<(), OpenError> {
    let transaction = client.transaction().await?;
    // A step may take its time, and so may another process that is at it.
    transaction.batch_execute("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0").await?;
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await?;
    let applied = applied(&transaction, schema).await?;
    if applied.len() > migrations.len() {
        return Err(OpenError::Newer { found: applied.len(), known: migrations.len() });
    }
    if !upgrade && applied.len() < migrations.len() {
        return Err(OpenError::Older { found: applied.len(), known: migrations.len() });
    }
    for (place, migration) in migrations.iter().enumerate() {
        let (number, checksum) = (place + 1, checksum(migration));
        match applied.get(place) {
            Some(found) if *found == checksum => {}
            Some(_) => return Err(OpenError::Changed { number }),
            None => apply(&transaction, schema, number, migration, &checksum).await?,
        }
    }
    Ok(transaction.commit().await?)
}

/// The checksums of the migrations that a schema has seen, in order.
async fn applied(transaction: &Transaction<'_>, schema: &str) -> Result<Vec<String>, OpenError> {
    let tables = "SELECT count(*), count(*) FILTER (WHERE relname = 'migration') FROM pg_class
        WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)";
    let row = transaction.query_one(tables, &[&schema]).await?;
    let (all, known): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    if known == 0 {
        let what = "tables of another program".to_owned();
        return if all == 0 { Ok(Vec::new()) } else { Err(OpenError::Damaged { what }) };
    }
    let rows = transaction.query("SELECT checksum FROM migration ORDER BY number", &[]).await?;
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}

async fn apply(
    transaction: &Transaction<'_>,
    schema: &str,
    number: usize,
    migration: &str,
    checksum: &str,
) -> Result<(), OpenError> {
    if number == 1 {
        make_schema(transaction, schema).await?;
        let table = "CREATE TABLE migration (number INTEGER PRIMARY KEY, checksum TEXT NOT NULL,
            applied TIMESTAMPTZ NOT NULL DEFAULT now())";
        transaction.batch_execute(table).await?;
    }
    transaction.batch_execute(migration).await?;
    let number = i32::try_from(number).unwrap_or(i32::MAX);
    let remember = "INSERT INTO migration (number, checksum) VALUES ($1, $2)";
    transaction.execute(remember, &[&number, &checksum]).await?;
    Ok(())
}

/// A role that may not make schemas can be given an empty one.
async fn make_schema(transaction: &Transaction<'_>, schema: &str) -> Result<(), OpenError> {
    let there = transaction.query_opt("SELECT 1 FROM pg_namespace WHERE nspname = $1", &[&schema]).await?;
    if there.is_none() {
        transaction.batch_execute(&format!("CREATE SCHEMA \"{schema}\"")).await?;
    }
    Ok(())
}

impl From<tokio_postgres::Error> for OpenError {
    fn from(error: tokio_postgres::Error) -> Self {
        Fault::from(error).into()
    }
}
