//! Statistics of all sealed values of a metric, in buckets of a minute, an hour and a day.

use std::{collections::BTreeMap, time::Duration};

use iot_core::{id::Metric, store::Form, time::Timestamp};
use rusqlite::{Connection, OptionalExtension, params};

use crate::{
    chunk::{Point, Rollup, Rollups, Summary},
    sqlite::fault::Fault,
};

/// How many buckets one row holds at most.
const ERA_BUCKETS: i64 = 32_768;

/// New statistics, by the start of their buckets.
#[derive(Default)]
pub(super) struct Sums(BTreeMap<i64, Summary>);

impl Sums {
    pub(super) fn add(&mut self, form: Form, point: Point) {
        let start = start(point.at.as_micros(), width(form));
        self.0.entry(start).and_modify(|sum| sum.add(point)).or_insert_with(|| Summary::of(point));
    }
}

/// The width of a rollup's buckets in microseconds.
pub(super) fn width(form: Form) -> i64 {
    form.bucket_micros().unwrap_or(1)
}

// The first bucket begins where time does.
fn start(at: i64, width: i64) -> i64 {
    at.div_euclid(width).checked_mul(width).unwrap_or(i64::MIN)
}

/// Adds new statistics to those of a metric in a partition.
pub(super) fn add(
    connection: &Connection,
    part: i64,
    series: i64,
    metric: &Metric,
    form: Form,
    sums: &Sums,
) -> Result<(), Fault> {
    let width = width(form);
    let mut eras: BTreeMap<i64, Vec<Rollup>> = BTreeMap::new();
    for (start, summary) in &sums.0 {
        let row = Rollup { start: Timestamp::from_micros(*start), summary: *summary };
        eras.entry(start.div_euclid(width).div_euclid(ERA_BUCKETS)).or_default().push(row);
    }
    for (era, rows) in eras {
        let new = Rollups { resolution: Duration::from_micros(width.unsigned_abs()), rows };
        let sql = "SELECT id, body FROM rollup WHERE series = ?1 AND metric = ?2 AND part = ?3 AND era = ?4";
        let known: Option<(i64, Vec<u8>)> = connection
            .prepare_cached(sql)?
            .query_row(params![series, metric.as_str(), part, era], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        match known {
            Some((id, body)) => {
                let mut rollups = Rollups::decode(&body)?;
                rollups.merge(&new);
                let body = rollups.encode()?;
                connection.prepare_cached("UPDATE rollup SET body = ?1 WHERE id = ?2")?.execute(params![body, id])?;
            }
            None => {
                let sql = "INSERT INTO rollup (part, series, metric, era, body) VALUES (?1, ?2, ?3, ?4, ?5)";
                let body = new.encode()?;
                connection.prepare_cached(sql)?.execute(params![part, series, metric.as_str(), era, body])?;
            }
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
    let era = |at: i64| at.div_euclid(width(form)).div_euclid(ERA_BUCKETS);
    let sql = "SELECT body FROM rollup JOIN part ON part.id = rollup.part
        WHERE series = ?1 AND metric = ?2 AND form = ?3 AND era BETWEEN ?4 AND ?5";
    let mut statement = connection.prepare_cached(sql)?;
    let key = params![series, metric.as_str(), super::part::number(form), era(from), era(until)];
    let mut rows = statement.query(key)?;
    while let Some(row) = rows.next()? {
        let body = row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?;
        let rollups = Rollups::decode(body)?;
        rollups.rows.iter().filter(|row| (from..until).contains(&row.start.as_micros())).for_each(&mut visit);
    }
    Ok(())
}
