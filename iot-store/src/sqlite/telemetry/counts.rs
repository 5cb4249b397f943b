//! A set of whole numbers, kept as runs without gaps.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};

use crate::sqlite::fault::Fault;

/// The most runs that are kept of a series whose reports are sealed. With more gaps than this the lowest numbers are forgotten;
/// those of reports that are not sealed stay in memory and are found again in the log.
const RUNS_MAX: usize = 256;

/// The counts by which a device numbers its events: as a rule one run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// First and last, both included, with gaps between.
    runs: BTreeMap<i64, i64>,
}

impl Counts {
    pub(super) fn contains(&self, number: i64) -> bool {
        self.below(number).is_some_and(|(_, last)| last >= number)
    }

    pub(super) fn insert(&mut self, number: i64) {
        let below = self.below(number);
        if below.is_some_and(|(_, last)| last >= number) {
            return;
        }
        let above = number.checked_add(1).and_then(|next| self.runs.remove(&next));
        let first = below.filter(|(_, last)| last.checked_add(1) == Some(number)).map_or(number, |(first, _)| first);
        self.runs.insert(first, above.unwrap_or(number));
    }

    /// The run that begins at or before a number.
    fn below(&self, number: i64) -> Option<(i64, i64)> {
        self.runs.range(..=number).next_back().map(|(first, last)| (*first, *last))
    }

    pub(super) fn read(connection: &Connection, series: i64) -> Result<Self, Fault> {
        let mut statement = connection.prepare_cached("SELECT first, last FROM run WHERE series = ?1")?;
        let runs = statement.query_map([series], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(Self { runs: runs.collect::<Result<_, _>>()? })
    }

    pub(super) fn write(&self, connection: &Connection, series: i64) -> Result<(), Fault> {
        connection.prepare_cached("DELETE FROM run WHERE series = ?1")?.execute([series])?;
        let mut insert = connection.prepare_cached("INSERT INTO run (series, first, last) VALUES (?1, ?2, ?3)")?;
        for (first, last) in self.runs.iter().rev().take(RUNS_MAX) {
            insert.execute(params![series, first, last])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::sqlite::migrate;

    proptest! {
        #[test]
        fn counts_are_a_set(numbers in prop::collection::vec(0..12_i64, 0..80), base in prop::sample::select(vec![0, -6, i64::MIN, i64::MAX - 11])) {
            let (mut counts, mut model) = (Counts::default(), BTreeSet::new());
            for number in numbers {
                let number = base + number;
                prop_assert_eq!(counts.contains(number), !model.insert(number));
                counts.insert(number);
                let ends = model.iter().filter(|n| n.checked_add(1).is_none_or(|next| !model.contains(&next)));
                prop_assert_eq!(counts.runs.len(), ends.count());
            }
            for number in (0..12).map(|number| base + number) {
                prop_assert_eq!(counts.contains(number), model.contains(&number));
            }
            let connection = Connection::open_in_memory().unwrap();
            connection.execute_batch(migrate::DATA[0]).unwrap();
            for _ in 0..2 {
                counts.write(&connection, 1).unwrap();
                prop_assert_eq!(&Counts::read(&connection, 1).unwrap(), &counts);
            }
        }
    }

    #[test]
    fn the_lowest_are_forgotten_beyond_the_bound_once_they_are_written() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(migrate::DATA[0]).unwrap();
        let mut counts = Counts::default();
        (0..1_000).for_each(|number| counts.insert(2 * number));
        assert!(counts.contains(0) && counts.runs.len() == 1_000);
        counts.write(&connection, 1).unwrap();
        let read = Counts::read(&connection, 1).unwrap();
        assert!(read.runs.len() == RUNS_MAX && read.contains(1_998) && !read.contains(0));
    }
}
