//! A set of whole numbers, kept as runs without gaps.

use std::collections::BTreeMap;

/// The most runs that are kept of a series whose reports are sealed. With more gaps than this the lowest numbers are forgotten;
/// those of reports that are not sealed stay in memory and are found again in the log.
const RUNS_MAX: usize = 256;

/// The counts by which a device numbers its events: as a rule one run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// First and last, both included, with gaps between.
    runs: BTreeMap<i64, i64>,
}

impl Counts {
    #[cfg(any(feature = "sqlite", test))]
    pub(crate) fn contains(&self, number: i64) -> bool {
        self.below(number).is_some_and(|(_, last)| last >= number)
    }

    pub(crate) fn insert(&mut self, number: i64) {
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

    /// Runs that were [kept](Self::kept) before.
    pub(crate) fn of(runs: impl IntoIterator<Item = (i64, i64)>) -> Self {
        Self { runs: runs.into_iter().collect() }
    }

    /// First and last of each run that is kept of what is sealed.
    pub(crate) fn kept(&self) -> impl Iterator<Item = (i64, i64)> {
        self.runs.iter().rev().take(RUNS_MAX).map(|(first, last)| (*first, *last))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

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
            prop_assert_eq!(&Counts::of(counts.kept()), &counts);
        }
    }

    #[test]
    fn the_lowest_are_not_kept_beyond_the_bound() {
        let mut counts = Counts::default();
        (0..1_000).for_each(|number| counts.insert(2 * number));
        assert!(counts.contains(0) && counts.runs.len() == 1_000);
        let kept = Counts::of(counts.kept());
        assert!(kept.runs.len() == RUNS_MAX && kept.contains(1_998) && !kept.contains(0));
    }
}
