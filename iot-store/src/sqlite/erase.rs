//! What is left of one device's data when it is erased: nothing.

use iot_core::store::{Series, StoreError};
use rusqlite::{Connection, OptionalExtension, params};

use super::{Sqlite, fault::Fault, telemetry::Known, writer::Outcome};

/// How many events are erased in one transaction, so that appends need not wait for all.
const ERASED_PER_JOB: u32 = 5_000;

pub(super) async fn erase(sqlite: &Sqlite, series: &Series) -> Result<u64, StoreError> {
    let mut erased = 0;
    loop {
        let step = series.clone();
        let gone = sqlite.inner.data.run(move |connection, known| erase_some(connection, known, &step)).await?;
        erased += gone;
        if gone < u64::from(ERASED_PER_JOB) {
            return Ok(erased);
        }
    }
}

/// Events first: as long as there are some, a broken erasure can be begun again.
fn erase_some(connection: &Connection, known: &mut Known, series: &Series) -> Result<Outcome<u64>, Fault> {
    let Some(id) = id_of(connection, series)? else { return Ok(Outcome::Keep(0)) };
    let sql = "DELETE FROM event WHERE sequence IN (SELECT sequence FROM event WHERE series = ?1 LIMIT ?2)";
    let gone = connection.prepare_cached(sql)?.execute(params![id, ERASED_PER_JOB])? as u64;
    if gone < u64::from(ERASED_PER_JOB) {
        for sql in [
            "DELETE FROM latest WHERE series = ?1",
            "DELETE FROM run WHERE series = ?1",
            "DELETE FROM series WHERE id = ?1",
        ] {
            connection.prepare_cached(sql)?.execute([id])?;
        }
        // The number of the series must not come back.
        *known = Known::default();
    }
    Ok(Outcome::Keep(gone))
}

fn id_of(connection: &Connection, series: &Series) -> Result<Option<i64>, Fault> {
    let sql = "SELECT id FROM series WHERE tenant = ?1 AND device = ?2 AND epoch = ?3";
    let key = params![series.tenant.as_str(), series.device.as_str(), series.epoch.0.cast_signed()];
    Ok(connection.prepare_cached(sql)?.query_row(key, |row| row.get(0)).optional()?)
}
