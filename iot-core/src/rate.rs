//! Rates with room for a burst, and the schedule by which they are kept.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::Monotonic;

/// A rate with room for a burst. What is counted is said where it is used: messages, bytes, connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "a rate has no other part")]
pub struct Rate {
    /// In the long run, per second; 0 counts as 1.
    pub per_s: u32,
    /// At once, after a pause; 0 counts as 1.
    pub burst: u32,
}

impl Rate {
    /// In which time so many come at this rate, rounded up to a nanosecond.
    pub fn time_of(self, count: u32) -> Duration {
        let nanos = (u64::from(count) * NANOS_PER_S).div_ceil(u64::from(self.per_s.max(1)));
        Duration::from_nanos(nanos)
    }

    /// The whole burst, in the time in which it comes again.
    fn room(self) -> Duration {
        Duration::from_nanos(u64::from(self.burst.max(1)) * NANOS_PER_S / u64::from(self.per_s.max(1)))
    }
}

const NANOS_PER_S: u64 = 1_000_000_000;

/// Each that is taken may be rounded up by a nanosecond: so that a burst of them comes at once all the same.
const ROUNDING: Duration = Duration::from_micros(1);

/// How far a rate is used up: GCRA as a virtual schedule (ITU-T I.371, annex A), for one or more at a time.
///
/// In any span of time `t`, no more than `burst + (t + 1 µs) × per_s` find [no wait](Self::wait), if each is [taken](Self::take).
/// The rate is given with each call, so that it can be another one from now on. Neither waits: the time is given, and what to do is answered.
///
/// ```
/// use std::time::Duration;
/// use iot_core::{rate::{Rate, Schedule}, time::Monotonic};
///
/// let rate = Rate { per_s: 10, burst: 2 };
/// let (mut schedule, now) = (Schedule::default(), Monotonic::ZERO);
/// schedule.take(rate, now, 2);
/// assert_eq!(schedule.wait(rate, now, 1), Some(Duration::from_millis(100)));
/// assert_eq!(schedule.wait(rate, now, 3), None, "never more at once than the burst");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Schedule {
    /// When the next one would come that keeps exactly to the rate.
    due: Monotonic,
}

impl Schedule {
    /// How long it takes until there is room for `count`; nothing if there is; `None` if there never is, as it is more than a
    /// burst.
    pub fn wait(&self, rate: Rate, now: Monotonic, count: u32) -> Option<Duration> {
        if count > rate.burst.max(1) {
            return None;
        }
        let until = self.due.since(now) + rate.time_of(count);
        let wait = until.saturating_sub(rate.room());
        Some(if wait > ROUNDING { wait } else { Duration::ZERO })
    }

    /// Takes room for `count`, whether there is some or not: what there is not, those who come later wait for.
    pub fn take(&mut self, rate: Rate, now: Monotonic, count: u32) {
        self.due = self.due.max(now).plus(rate.time_of(count));
    }

    /// Takes room for `count` as far as there is some: nobody waits for longer than after a burst because of it.
    pub fn charge(&mut self, rate: Rate, now: Monotonic, count: u32) {
        let before = self.due;
        self.take(rate, now, count);
        self.due = self.due.min(now.plus(rate.room())).max(before);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(nanos: u64) -> Monotonic {
        Monotonic::from_duration(Duration::from_nanos(nanos))
    }

    #[test]
    fn a_burst_comes_at_once_and_then_the_rate() {
        let (rate, mut schedule) = (Rate { per_s: 3, burst: 7 }, Schedule::default());
        for _ in 0..7 {
            assert_eq!(schedule.wait(rate, at(0), 1), Some(Duration::ZERO));
            schedule.take(rate, at(0), 1);
        }
        let wait = schedule.wait(rate, at(0), 1).unwrap();
        assert!(wait >= Duration::from_micros(333_333) && wait < Duration::from_micros(333_400), "{wait:?}");
        assert_eq!(schedule.wait(rate, at(3_000_000_000), 7), Some(Duration::ZERO), "after a pause a burst again");
        assert_eq!(schedule.wait(rate, at(3_000_000_000), 8), None);
    }

    #[test]
    fn another_rate_counts_from_now_on() {
        let (slow, fast, mut schedule) =
            (Rate { per_s: 1, burst: 1 }, Rate { per_s: 100, burst: 1 }, Schedule::default());
        schedule.take(slow, at(0), 1);
        let second = Duration::from_secs(1);
        assert_eq!(schedule.wait(slow, at(0), 1), Some(second));
        assert_eq!(schedule.wait(fast, at(0), 1), Some(second), "what was taken was taken");
        schedule.take(fast, at(1_000_000_000), 1);
        assert_eq!(schedule.wait(fast, at(1_000_000_000), 1), Some(Duration::from_millis(10)));
    }

    #[test]
    fn what_is_charged_takes_no_more_room_than_there_is() {
        let (rate, mut schedule) = (Rate { per_s: 10, burst: 5 }, Schedule::default());
        (0..1_000).for_each(|_| schedule.charge(rate, at(0), 1));
        assert_eq!(schedule.wait(rate, at(0), 1), Some(Duration::from_millis(100)));
        schedule.take(rate, at(0), 5);
        let taken = schedule;
        schedule.charge(rate, at(0), 1);
        assert_eq!(schedule, taken, "and nothing is given back by it");
    }

    #[test]
    fn nothing_overflows_at_the_ends_of_the_range() {
        let rates = [
            Rate { per_s: u32::MAX, burst: u32::MAX },
            Rate { per_s: 0, burst: 0 },
            Rate { per_s: 1, burst: u32::MAX },
        ];
        for rate in rates {
            let mut schedule = Schedule::default();
            schedule.take(rate, at(u64::MAX), u32::MAX);
            assert!(schedule.wait(rate, at(u64::MAX), 1).is_some());
        }
    }

    proptest! {
        /// In any window no more than the burst and what the rate gives, whatever the sizes; and who keeps to the rate never waits.
        #[test]
        fn never_more_than_the_rate(
            per_s in 1_u32..5_000,
            burst in 1_u32..5_000,
            asks in proptest::collection::vec((0_u64..400_000_000, 1_u32..2_000), 1..120),
        ) {
            let (rate, mut schedule, mut now, mut taken) = (Rate { per_s, burst }, Schedule::default(), 0, Vec::new());
            for (gap, count) in asks {
                now += gap;
                match schedule.wait(rate, at(now), count) {
                    Some(Duration::ZERO) => {
                        schedule.take(rate, at(now), count);
                        taken.push((now, u64::from(count)));
                    }
                    Some(_) => prop_assert!(u128::from(gap) < rate.time_of(count).as_nanos(), "it kept to the rate"),
                    None => prop_assert!(count > burst),
                }
            }
            for (index, (first, _)) in taken.iter().enumerate() {
                let mut sum = 0;
                for (last, count) in &taken[index..] {
                    sum += count;
                    let allowed = u128::from(burst) + u128::from(last - first + 1_000) * u128::from(per_s) / 1_000_000_000;
                    prop_assert!(u128::from(sum) <= allowed, "{sum} from {first} to {last}");
                }
            }
        }

        /// Whoever waits as long as was said finds room then.
        #[test]
        fn a_wait_is_as_long_as_needed(per_s in 1_u32..2_000_000_000, burst in 1_u32..2_000_000_000, count in 1_u32..2_000_000_000) {
            let (rate, mut schedule, count) = (Rate { per_s, burst }, Schedule::default(), count.min(burst));
            schedule.take(rate, at(5), burst);
            let wait = schedule.wait(rate, at(5), count).unwrap();
            let then = at(5).plus(wait);
            prop_assert_eq!(schedule.wait(rate, then, count), Some(Duration::ZERO));
            prop_assert!(wait <= rate.time_of(count) + Duration::from_nanos(1), "{:?}", wait);
        }
    }
}
