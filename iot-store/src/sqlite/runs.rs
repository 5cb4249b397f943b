//! Sets of whole numbers, one per series, kept as runs without gaps.

use rusqlite::{Connection, OptionalExtension, params};

use super::fault::Fault;

/// Adds a number; `false` if it is there already.
pub(super) fn add(connection: &Connection, series: i64, number: i64) -> Result<bool, Fault> {
    let next = number.checked_add(1);
    let sql = "SELECT first, last FROM run WHERE series = ?1 AND first <= ?2 ORDER BY first DESC LIMIT 2";
    let mut statement = connection.prepare_cached(sql)?;
    let (mut below, mut above) = (None, None);
    let mut rows = statement.query([series, next.unwrap_or(i64::MAX)])?;
    while let Some(row) = rows.next()? {
        let (first, last): (i64, i64) = (row.get(0)?, row.get(1)?);
        if Some(first) == next {
            above = Some(last);
        } else if below.is_none() {
            below = Some((first, last));
        }
    }
    if below.is_some_and(|(_, last)| last >= number) {
        return Ok(false);
    }
    if let (Some(next), Some(_)) = (next, above) {
        connection.prepare_cached("DELETE FROM run WHERE series = ?1 AND first = ?2")?.execute([series, next])?;
    }
    let last = above.unwrap_or(number);
    match below.filter(|(_, last)| last.checked_add(1) == Some(number)) {
        Some((first, _)) => set_last(connection, series, first, last)?,
        None => insert(connection, series, number, last)?,
    }
    Ok(true)
}

/// Removes a number; nothing if it is not there.
pub(super) fn remove(connection: &Connection, series: i64, number: i64) -> Result<(), Fault> {
    let sql = "SELECT first, last FROM run WHERE series = ?1 AND first <= ?2 ORDER BY first DESC LIMIT 1";
    let run: Option<(i64, i64)> =
        connection.prepare_cached(sql)?.query_row([series, number], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let Some((first, last)) = run.filter(|(_, last)| *last >= number) else { return Ok(()) };
    if first == number {
        connection.prepare_cached("DELETE FROM run WHERE series = ?1 AND first = ?2")?.execute([series, first])?;
    } else {
        set_last(connection, series, first, number - 1)?;
    }
    if last > number { insert(connection, series, number + 1, last) } else { Ok(()) }
}

fn insert(connection: &Connection, series: i64, first: i64, last: i64) -> Result<(), Fault> {
    let mut insert = connection.prepare_cached("INSERT INTO run (series, first, last) VALUES (?1, ?2, ?3)")?;
    insert.execute(params![series, first, last])?;
    Ok(())
}

fn set_last(connection: &Connection, series: i64, first: i64, last: i64) -> Result<(), Fault> {
    let mut update = connection.prepare_cached("UPDATE run SET last = ?3 WHERE series = ?1 AND first = ?2")?;
    update.execute(params![series, first, last])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_are_a_set(steps in prop::collection::vec((any::<bool>(), 0..12_i64), 0..80), base in prop::sample::select(vec![0, -6, i64::MIN, i64::MAX - 11])) {
            let connection = Connection::open_in_memory().unwrap();
            connection.execute_batch(super::super::migrate::DATA[0]).unwrap();
            let mut model = BTreeSet::new();
            for (adds, step) in steps {
                let number = base + step;
                if adds {
                    prop_assert_eq!(add(&connection, 1, number).unwrap(), model.insert(number));
                } else {
                    remove(&connection, 1, number).unwrap();
                    model.remove(&number);
                }
                let gaps = model.iter().filter(|n| n.checked_add(1).is_none_or(|next| !model.contains(&next))).count();
                let rows: i64 = connection.query_row("SELECT count(*) FROM run", [], |row| row.get(0)).unwrap();
                prop_assert_eq!(usize::try_from(rows).unwrap(), gaps);
            }
        }
    }
}
