//! What is left of a series when it is erased: nothing.

use std::sync::Arc;

use iot_core::store::Series;
use rusqlite::{Connection, params};

use super::{append::Known, rows::find_series, segment::Segments};
use crate::sqlite::fault::Fault;

/// Erases a series in one transaction; answers how many reports it had.
pub(super) fn erase(connection: &Connection, known: &mut Known, series: &Series) -> Result<u64, Fault> {
    let Some(id) = find_series(connection, series)? else { return Ok(0) };
    let sql = "SELECT coalesce(sum(rows), 0) FROM chunk WHERE series = ?1";
    let mut reports: i64 = connection.prepare_cached(sql)?.query_row([id], |row| row.get(0))?;
    for segment in Segments::read(connection)?.0 {
        // What is sealed may still be in the log.
        let sql = format!("DELETE FROM event_{} WHERE series = ?1", segment.id);
        let gone = connection.prepare(&sql)?.execute([id])?;
        if segment.sealed < id {
            reports += i64::try_from(gone).unwrap_or(i64::MAX);
        }
    }
    let sql = "SELECT DISTINCT part FROM chunk WHERE series = ?1";
    let parts: Vec<i64> =
        connection.prepare_cached(sql)?.query_map([id], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for part in parts {
        let sql =
            format!("DELETE FROM chunk_{part} WHERE id IN (SELECT id FROM chunk WHERE part = ?1 AND series = ?2)");
        connection.prepare(&sql)?.execute(params![part, id])?;
    }
    for table in ["chunk", "rollup", "latest", "run"] {
        connection.prepare(&format!("DELETE FROM {table} WHERE series = ?1"))?.execute([id])?;
    }
    connection.prepare_cached("DELETE FROM series WHERE id = ?1")?.execute([id])?;
    known.erased(series, id);
    Ok(reports.unsigned_abs())
}

impl Known {
    /// Nothing of a series is in the file any more, in the transaction that is under way. Its number may come back.
    fn erased(&mut self, series: &Series, id: i64) {
        self.sealing = None;
        self.made.remove(series);
        self.counted.retain(|(of, _)| *of != id);
        self.erased.insert(series.clone());
    }

    /// The series as it is known, unless it was erased since.
    pub(super) fn find(&self, series: &Series) -> Option<Arc<super::window::Hot>> {
        let known = self.window.get(series).filter(|_| !self.erased.contains(series));
        known.or_else(|| self.made.get(series).cloned())
    }
}
