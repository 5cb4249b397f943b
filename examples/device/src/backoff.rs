//! How long to wait before the next attempt: exponential, with the jitter that keeps a thousand devices apart.

use std::time::Duration;

/// The shortest wait.
pub const WAIT_MIN: Duration = Duration::from_millis(500);

/// The longest wait.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// The longest that the cloud may tell a device to stay away; a longer time is taken as this.
pub const TOLD_MAX: Duration = Duration::from_secs(900);

/// A connection that lived so long counts as a success: the next failure is a first one.
pub const STABLE_AFTER: Duration = Duration::from_secs(30);

/// The wait after `failures` failed attempts in a row (the first failure is 1), evenly spread by `random` over
/// [`WAIT_MIN`] up to a ceiling that doubles from one second to [`WAIT_MAX`].
pub fn wait(failures: u32, random: u64) -> Duration {
    let ceiling = WAIT_MIN.saturating_mul(1 << failures.clamp(1, 7)).min(WAIT_MAX);
    let span = u64::try_from((ceiling - WAIT_MIN).as_millis()).unwrap_or(u64::MAX);
    WAIT_MIN + Duration::from_millis(random % (span + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_doubles_to_a_minute_and_stays_there() {
        let ceilings: Vec<_> = (1..=9).map(|failures| longest(failures).as_millis()).collect();
        assert_eq!(ceilings, [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]);
        assert_eq!(longest(u32::MAX), WAIT_MAX);
        assert_eq!(longest(0), longest(1));
    }

    #[test]
    fn the_wait_stays_within_its_bounds_for_any_randomness() {
        for failures in [0, 1, 3, 7, 31, 32, 64, u32::MAX] {
            for random in [0, 1, 499, 500, 501, 59_500, 59_501, u64::MAX / 2, u64::MAX] {
                let wait = wait(failures, random);
                assert!((WAIT_MIN..=WAIT_MAX).contains(&wait), "{failures} {random} {wait:?}");
            }
        }
        assert_eq!(wait(5, 0), WAIT_MIN);
    }

    #[test]
    fn different_randomness_gives_different_waits() {
        let waits: std::collections::HashSet<_> = (0..1_000).map(|random| wait(7, random * 59)).collect();
        assert!(waits.len() > 900);
    }

    fn longest(failures: u32) -> Duration {
        (0..60_000).map(|random| wait(failures, random)).max().unwrap()
    }
}
