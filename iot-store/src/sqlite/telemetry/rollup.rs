//! Statistics of all sealed values of a metric, in buckets of a minute, an hour and a day.

use iot_core::{id::Metric, store::Form};
use rusqlite::{Connection, OptionalExtension, params};

use crate::{
    chunk::{Rollup, Rollups},
    sealing::{self, Sums, era},
    sqlite::fault::Fault,
};

/// Rows of a metric in a partition: their eras, their numbers if they are there already, their bodies.
pub(super) type NewRollups = Vec<(i64, Option<i64>, Vec<u8>)>;

/// New statistics together with those of a metric that are in a partition.
pub(super) fn merged(
    connection: &Connection,
    part: Option<i64>,
    series: i64,
    metric: &Metric,
    form: Form,
    sums: &Sums,
) -> Result<NewRollups, Fault> {
    let sql = "SELECT id, body FROM rollup WHERE series = ?1 AND metric = ?2 AND part = ?3 AND era = ?4";
    let mut find = connection.prepare_cached(sql)?;
    let mut rows = Vec::new();
    for (era, new) in sums.by_era(form) {
        // A partition that is not there has no rows.
        let key = params![series, metric.as_str(), part, era];
        let known: Option<(i64, Vec<u8>)> = find.query_row(key, |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        rows.push(match known {
            Some((id, body)) => {
                let mut rollups = Rollups::decode(&body)?;
                rollups.merge(&new);
                (era, Some(id), rollups.encode()?)
            }
            None => (era, None, new.encode()?),
        });
    }
    Ok(rows)
}

pub(super) fn put(
    connection: &Connection,
    part: i64,
    series: i64,
    metric: &Metric,
    rows: &NewRollups,
) -> Result<(), Fault> {
    for (era, known, body) in rows {
        if let Some(id) = known {
            connection.prepare_cached("UPDATE rollup SET body = ?1 WHERE id = ?2")?.execute(params![body, id])?;
        } else {
            let sql = "INSERT INTO rollup (part, series, metric, era, body) VALUES (?1, ?2, ?3, ?4, ?5)";
            connection.prepare_cached(sql)?.execute(params![part, series, metric.as_str(), era, body])?;
        }
    }
    Ok(())
}

/// Shows the statistics of a metric whose buckets begin from `from`, included, until `until`, excluded, in no order.
pub(super) fn visit(
    connection: &Connection,
    series: i64,
    metric: &Metric,
    form: Form,
    (from, until): (i64, i64),
    mut visit: impl FnMut(&Rollup),
) -> Result<(), Fault> {
    let sql = "SELECT body FROM rollup JOIN part ON part.id = rollup.part
        WHERE series = ?1 AND metric = ?2 AND form = ?3 AND era BETWEEN ?4 AND ?5";
    let mut statement = connection.prepare_cached(sql)?;
    let key = params![series, metric.as_str(), sealing::number(form), era(form, from), era(form, until)];
    let mut rows = statement.query(key)?;
    while let Some(row) = rows.next()? {
        let body = row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?;
        let rollups = Rollups::decode(body)?;
        rollups.rows.iter().filter(|row| (from..until).contains(&row.start.as_micros())).for_each(&mut visit);
    }
    Ok(())
}
