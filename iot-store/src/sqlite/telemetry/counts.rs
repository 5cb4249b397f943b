//! A set of whole numbers, kept as runs without gaps.

use rusqlite::{Connection, params};

use crate::sqlite::fault::Fault;

/// The most runs of one series. With more gaps than this the lowest numbers are forgotten.
const RUNS_MAX: usize = 256;

/// The counts by which a device numbers its events: as a rule one run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// First and last, both included, ascending, with gaps between.
    runs: Vec<(i64, i64)>,
}

impl Counts {
    pub(super) fn contains(&self, number: i64) -> bool {
        let above = self.runs.partition_point(|(first, _)| *first <= number);
        above.checked_sub(1).is_some_and(|below| self.runs[below].1 >= number)
    }

    pub(super) fn insert(&mut self, number: i64) {
        let above = self.runs.partition_point(|(first, _)| *first <= number);
        let joins_above = self.runs.get(above).is_some_and(|(first, _)| number.checked_add(1) == Some(*first));
        match above.checked_sub(1).map(|below| (below, self.runs[below].1)) {
            Some((_, last)) if last >= number => {}
            Some((below, last)) if last.checked_add(1) == Some(number) => {
                self.runs[below].1 = if joins_above { self.runs.remove(above).1 } else { number };
            }
            _ if joins_above => self.runs[above].0 = number,
            _ => {
                self.runs.insert(above, (number, number));
                if self.runs.len() > RUNS_MAX {
                    self.runs.remove(0);
                }
            }
        }
    }

    pub(super) fn read(connection: &Connection, series: i64) -> Result<Self, Fault> {
        let sql = "SELECT first, last FROM run WHERE series = ?1 ORDER BY first";
        let mut statement = connection.prepare_cached(sql)?;
        let runs = statement.query_map([series], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(Self { runs: runs.collect::<Result<_, _>>()? })
    }

    pub(super) fn write(&self, connection: &Connection, series: i64) -> Result<(), Fault> {
        connection.prepare_cached("DELETE FROM run WHERE series = ?1")?.execute([series])?;
        let mut insert = connection.prepare_cached("INSERT INTO run (series, first, last) VALUES (?1, ?2, ?3)")?;
        for (first, last) in &self.runs {
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
    fn the_lowest_are_forgotten_beyond_the_bound() {
        let mut counts = Counts::default();
        (0..1_000).for_each(|number| counts.insert(2 * number));
        assert!(counts.runs.len() == RUNS_MAX && counts.contains(1_998) && !counts.contains(0));
    }
}
