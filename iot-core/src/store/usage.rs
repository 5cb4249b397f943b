use std::{collections::VecDeque, time::Duration};

use crate::time::Timestamp;

/// What telemetry takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// How many bytes, indexes included.
    pub bytes: u64,
    /// How many more there is room for, as far as the backend can tell.
    pub bytes_free: Option<u64>,
}

/// What is to be expected of the room for telemetry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forecast {
    /// It has not been watched for long enough, or nobody knows how much room there is.
    Unknown,
    /// It does not fill up within [`DAYS_MAX`](Growth::DAYS_MAX) days: as much is forgotten as comes, or nearly.
    Steady,
    /// It is full then, if it goes on like this.
    Full {
        /// In so many whole days.
        in_days: u32,
    },
}

/// How usage grew over the last week. What is forgotten in time is part of it: once retention has been reached, a steady fleet
/// grows no more.
#[derive(Debug, Clone, Default)]
pub struct Growth {
    /// In the order of their times.
    samples: VecDeque<(Timestamp, Usage)>,
}

impl Growth {
    /// How many samples are kept: a week of hours.
    pub const SAMPLES_MAX: usize = 168;
    /// How far apart they are at least; those between are left out.
    pub const EVERY: Duration = Duration::from_secs(3_600);
    /// How long it must have been watched for a forecast.
    pub const WATCHED_MIN: Duration = Duration::from_secs(6 * 3_600);
    /// Beyond so many days nothing is foretold.
    pub const DAYS_MAX: u32 = 3_650;

    /// Takes what was measured at a time. When the clock has gone back, it begins anew.
    pub fn observe(&mut self, at: Timestamp, usage: Usage) {
        if let Some((last, _)) = self.samples.back() {
            if at < *last {
                self.samples.clear();
            } else if at < last.plus(Self::EVERY) {
                return;
            }
        }
        if self.samples.len() == Self::SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back((at, usage));
    }

    /// By the line that is nearest to all samples (least squares), so that it matters little that room is taken in steps.
    pub fn forecast(&self) -> Forecast {
        let (Some((first, _)), Some((last, usage))) = (self.samples.front(), self.samples.back()) else {
            return Forecast::Unknown;
        };
        let Some(free) = usage.bytes_free.filter(|_| *last >= first.plus(Self::WATCHED_MIN)) else {
            return Forecast::Unknown;
        };
        let days = self.per_day(*first).map_or(f64::INFINITY, |per_day| as_f64(free) / per_day);
        if days >= f64::from(Self::DAYS_MAX) {
            return Forecast::Steady;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between zero and the bound")]
        let in_days = days as u32;
        Forecast::Full { in_days }
    }

    /// By how many bytes it grows in a day; `None` if it does not.
    fn per_day(&self, first: Timestamp) -> Option<f64> {
        let days = |at: Timestamp| at.since(first).as_secs_f64() / 86_400.0;
        let count = as_f64(self.samples.len() as u64);
        let mean = |of: &dyn Fn(&(Timestamp, Usage)) -> f64| self.samples.iter().map(of).sum::<f64>() / count;
        let (mean_day, mean_bytes) = (mean(&|(at, _)| days(*at)), mean(&|(_, usage)| as_f64(usage.bytes)));
        let together = mean(&|(at, usage)| (days(*at) - mean_day) * (as_f64(usage.bytes) - mean_bytes));
        let alone = mean(&|(at, _)| (days(*at) - mean_day).powi(2));
        Some(together / alone).filter(|per_day| *per_day > 0.0)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a forecast")]
fn as_f64(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn hour(hour: i64) -> Timestamp {
        Timestamp::from_micros(hour * 3_600_000_000)
    }

    /// Watched each hour.
    fn watched(hours: i64, usage: impl Fn(i64) -> Usage) -> Growth {
        let mut growth = Growth::default();
        (0..hours).for_each(|n| growth.observe(hour(n), usage(n)));
        growth
    }

    #[test]
    fn a_gibibyte_a_day_fills_fourteen_of_them_in_fourteen_days() {
        let usage = |n: i64| Usage { bytes: n.unsigned_abs() * GIB / 24, bytes_free: Some(14 * GIB + GIB / 2) };
        assert_eq!(watched(48, usage).forecast(), Forecast::Full { in_days: 14 });
        // Hourly steps, and a dip at each.
        let stepped = |n: i64| Usage { bytes: usage(n).bytes + (n.unsigned_abs() % 2) * GIB / 100, ..usage(n) };
        assert_eq!(watched(48, stepped).forecast(), Forecast::Full { in_days: 14 });
        let full = |n: i64| Usage { bytes_free: Some(0), ..usage(n) };
        assert_eq!(watched(48, full).forecast(), Forecast::Full { in_days: 0 });
    }

    #[test]
    fn what_does_not_grow_is_steady() {
        for bytes in
            [|_| 5 * GIB, |n: i64| 200 * GIB - n.unsigned_abs() * GIB, |n: i64| 1_000 + n.unsigned_abs(), |_| u64::MAX]
        {
            let usage = |n| Usage { bytes: bytes(n), bytes_free: Some(GIB) };
            assert_eq!(watched(100, usage).forecast(), Forecast::Steady);
        }
    }

    #[test]
    fn nothing_is_foretold_early_or_without_a_bound() {
        let usage = |n: i64| Usage { bytes: n.unsigned_abs() * GIB, bytes_free: Some(GIB) };
        assert_eq!(Growth::default().forecast(), Forecast::Unknown);
        assert_eq!(watched(6, usage).forecast(), Forecast::Unknown);
        assert_eq!(watched(7, usage).forecast(), Forecast::Full { in_days: 0 });
        assert_eq!(watched(100, |n| Usage { bytes_free: None, ..usage(n) }).forecast(), Forecast::Unknown);
    }

    #[test]
    fn a_week_is_remembered_and_a_clock_that_goes_back_begins_anew() {
        // It grew, and has not for a week.
        let usage = |n: i64| Usage { bytes: n.min(100).unsigned_abs() * GIB, bytes_free: Some(GIB) };
        let mut growth = watched(300, usage);
        assert_eq!(growth.samples.len(), Growth::SAMPLES_MAX);
        assert_eq!(growth.forecast(), Forecast::Steady);
        growth.observe(Timestamp::from_micros(hour(299).as_micros() + 1), usage(0));
        assert_eq!(growth.samples.back(), Some(&(hour(299), usage(299))));
        growth.observe(hour(1), usage(1));
        assert_eq!(growth.samples.len(), 1);
    }
}
