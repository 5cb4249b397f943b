//! Durations by logarithmic classes: constant memory, at most 1.6 % too long.

use std::time::Duration;

use serde_json::{Value, json};

/// Each power of two has so many classes.
const CLASSES: u64 = 64;

/// Counts of durations, in microseconds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Histogram {
    pub(crate) fn record(&mut self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let class = class(micros);
        if class >= self.counts.len() {
            self.counts.resize(class + 1, 0);
        }
        self.counts[class] += 1;
        self.total += 1;
        self.max = self.max.max(micros);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        self.counts.iter_mut().zip(&other.counts).for_each(|(mine, theirs)| *mine += theirs);
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// The duration, in microseconds, that `per_mille` of a thousand do not exceed; 0 without any.
    pub(crate) fn quantile(&self, per_mille: u64) -> u64 {
        let rank = self.total.saturating_mul(per_mille).div_ceil(1_000).max(1);
        let mut seen = 0;
        for (class, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper(class).min(self.max);
            }
        }
        self.max
    }

    pub(crate) fn count(&self) -> u64 {
        self.total
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({"count": self.total, "p50_us": self.quantile(500), "p99_us": self.quantile(990),
            "p999_us": self.quantile(999), "max_us": self.max})
    }
}

impl std::fmt::Display for Histogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (p50, p99) = (Duration::from_micros(self.quantile(500)), Duration::from_micros(self.quantile(990)));
        write!(f, "p50 {p50:.1?}, p99 {p99:.1?}, max {:.1?}", Duration::from_micros(self.max))
    }
}

/// Below 64 exact; above, the six bits after the leading one.
fn class(micros: u64) -> usize {
    let octave = u64::from(micros.checked_ilog2().unwrap_or(0).saturating_sub(CLASSES.ilog2()));
    let within = micros >> octave;
    usize::try_from(octave * CLASSES + within).unwrap_or(usize::MAX)
}

/// The longest duration of a class.
fn upper(class: usize) -> u64 {
    let class = class as u64;
    let octave = (class / CLASSES).saturating_sub(1);
    let within = class - octave * CLASSES;
    ((within + 1) << octave) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_is_in_its_class() {
        for micros in (0..5_000).chain([65_535, 65_536, 1_000_000, 3_600_000_000, u64::MAX >> 8]) {
            let upper = upper(class(micros));
            assert!(upper >= micros && upper - micros <= micros / 63, "{micros} {upper}");
            assert_eq!(class(upper), class(micros));
            assert_eq!(class(upper + 1), class(micros) + 1);
        }
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_list() {
        let mut histogram = Histogram::default();
        (1..=1_000).rev().for_each(|micros| histogram.record(Duration::from_micros(micros)));
        for (per_mille, exact) in [(500, 500), (990, 990), (999, 999), (1_000, 1_000)] {
            let measured = histogram.quantile(per_mille);
            assert!(measured >= exact && measured <= exact + exact / 50, "{per_mille}: {measured}");
        }
        let mut sum = Histogram::default();
        sum.add(&histogram);
        sum.add(&histogram);
        assert_eq!((sum.count(), sum.quantile(1_000)), (2_000, 1_000));
        assert_eq!(Histogram::default().quantile(990), 0);
    }
}
