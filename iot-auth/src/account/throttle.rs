use std::{collections::HashMap, mem, time::Duration};

use iot_core::time::Monotonic;

/// How many keys are counted at once. When as many are known, the half that was touched longest ago is forgotten: a stranger
/// who floods the table gains tries only by coming from as many networks.
pub const THROTTLED_MAX: usize = 20_000;

/// So many tries within so long.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// The most tries.
    pub tries: u32,
    /// Within which time, from the first of them.
    pub period: Duration,
}

/// Counts tries per key in fixed windows, in bounded memory and with a constant amount of work for each.
#[derive(Debug)]
pub struct Throttle {
    /// Touched since the halves were last exchanged.
    recent: HashMap<String, Window>,
    former: HashMap<String, Window>,
    half: usize,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    until: Monotonic,
    spent: u32,
}

impl Throttle {
    /// Counts at most `keys_max` keys.
    pub fn new(keys_max: usize) -> Self {
        Self { recent: HashMap::new(), former: HashMap::new(), half: (keys_max / 2).max(1) }
    }

    /// Counts a try. Where the limit is reached it is not counted, and the answer is for how long that stays so.
    pub fn spend(&mut self, key: &str, limit: Limit, now: Monotonic) -> Result<(), Duration> {
        let known = self.recent.get(key).or_else(|| self.former.get(key)).filter(|window| window.until > now);
        let window = known.copied().unwrap_or(Window { until: now.plus(limit.period), spent: 0 });
        if window.spent >= limit.tries {
            return Err(window.until.since(now));
        }
        self.former.remove(key);
        if self.recent.len() >= self.half && !self.recent.contains_key(key) {
            self.former = mem::take(&mut self.recent);
        }
        self.recent.insert(key.to_owned(), Window { spent: window.spent + 1, ..window });
        Ok(())
    }

    /// Takes a try back.
    pub fn refund(&mut self, key: &str) {
        if let Some(window) = self.recent.get_mut(key).or_else(|| self.former.get_mut(key)) {
            window.spent = window.spent.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Limit = Limit { tries: 3, period: Duration::from_secs(60) };

    fn at(seconds: u64) -> Monotonic {
        Monotonic::from_duration(Duration::from_secs(seconds))
    }

    #[test]
    fn tries_run_out_and_come_back() {
        let mut throttle = Throttle::new(10);
        assert!((0..3).all(|second| throttle.spend("a", LIMIT, at(second)).is_ok()));
        assert_eq!(throttle.spend("a", LIMIT, at(20)), Err(Duration::from_secs(40)));
        assert!(throttle.spend("b", LIMIT, at(20)).is_ok(), "another key has its own");
        assert!(throttle.spend("a", LIMIT, at(60)).is_ok());
    }

    #[test]
    fn a_good_try_costs_nothing() {
        let mut throttle = Throttle::new(10);
        for _ in 0..100 {
            throttle.spend("a", LIMIT, at(0)).unwrap();
            throttle.refund("a");
        }
        throttle.refund("unknown");
    }

    #[test]
    fn a_full_table_forgets_the_half_that_was_touched_longest_ago() {
        let mut throttle = Throttle::new(10);
        (0..3).for_each(|_| throttle.spend("kept", LIMIT, at(0)).unwrap());
        let mut forgotten = 0;
        for n in 0..1_000 {
            throttle.spend(&format!("k{n}"), LIMIT, at(1)).unwrap();
            assert!(throttle.recent.len() + throttle.former.len() <= 10);
            forgotten += u32::from(throttle.spend("kept", LIMIT, at(1)).is_ok());
        }
        assert!(forgotten > 0, "a key whose tries were refused is not touched by that");
    }
}
