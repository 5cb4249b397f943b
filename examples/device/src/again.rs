//! Asking services of the cloud again that could not answer: an engine, without a clock and without the questions themselves.

use std::collections::BTreeMap;

use iot_core::time::Monotonic;

use crate::backoff;

/// How often in a row a service is asked again; with the waits of [`backoff`] that is about six minutes. Then it is left alone until
/// the next connection, or until the device has something new to say.
pub const ASKED_AGAIN_MAX: u32 = 12;

/// The services that this device asks.
pub const SERVICES: [&str; 3] = ["binding", "twin", "update"];

/// What follows an answer that a service is not available.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a service is asked again or it is not")]
pub enum Next {
    /// It is asked again then.
    At(Monotonic),
    /// It has been asked [`ASKED_AGAIN_MAX`] times.
    GiveUp,
}

/// The services that could not answer.
#[derive(Debug, Default)]
pub struct Again {
    services: BTreeMap<&'static str, Failing>,
}

#[derive(Debug, Default)]
struct Failing {
    failures: u32,
    due: Option<Monotonic>,
}

impl Again {
    /// A service of [`SERVICES`] could not answer. Several questions that fail while it waits count as one.
    pub fn unavailable(&mut self, now: Monotonic, service: &'static str, random: u64) -> Next {
        let failing = self.services.entry(service).or_default();
        if let Some(due) = failing.due {
            return Next::At(due);
        }
        if failing.failures >= ASKED_AGAIN_MAX {
            return Next::GiveUp;
        }
        failing.failures += 1;
        let due = now.plus(backoff::wait(failing.failures, random));
        failing.due = Some(due);
        Next::At(due)
    }

    /// A service has answered: what it was asked meanwhile need not be asked again, and its next failure is a first one.
    pub fn answered(&mut self, service: &str) {
        self.services.remove(service);
    }

    /// The connection has ended. In the next one the device introduces itself to all services.
    pub fn disconnected(&mut self) {
        self.services.clear();
    }

    /// A service that is to be asked now.
    pub fn due(&mut self, now: Monotonic) -> Option<&'static str> {
        let (service, failing) =
            self.services.iter_mut().find(|(_, failing)| failing.due.is_some_and(|due| due <= now))?;
        failing.due = None;
        Some(service)
    }

    /// When [`due`](Self::due) has something next.
    pub fn next_at(&self) -> Option<Monotonic> {
        self.services.values().filter_map(|failing| failing.due).min()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(ms: u64) -> Monotonic {
        Monotonic::from_duration(Duration::from_millis(ms))
    }

    /// A service that never answers: when it is asked, until it is given up.
    fn asked(random: u64) -> Vec<Monotonic> {
        let (mut again, mut now, mut asked) = (Again::default(), at(0), vec![]);
        for _ in 0..1_000 {
            match again.unavailable(now, "twin", random) {
                Next::GiveUp => return asked,
                Next::At(due) => {
                    assert_eq!(again.next_at(), Some(due));
                    let before = Monotonic::from_duration(due.as_duration() - Duration::from_nanos(1));
                    assert_eq!(again.due(before), None, "not before its time");
                    now = due;
                    assert_eq!(again.due(now), Some("twin"));
                    assert_eq!((again.due(now), again.next_at()), (None, None), "once");
                    asked.push(now);
                }
            }
        }
        panic!("for ever");
    }

    #[test]
    fn a_service_that_never_answers_is_asked_later_and_later_and_then_left_alone() {
        for random in [0, 7, 59_499, u64::MAX] {
            let asked = asked(random);
            assert_eq!(asked.len(), ASKED_AGAIN_MAX as usize);
            let from = [&[at(0)], &asked[..]].concat();
            for wait in from.iter().zip(&asked).map(|(from, to)| to.since(*from)) {
                assert!((backoff::WAIT_MIN..=backoff::WAIT_MAX).contains(&wait), "{wait:?}");
            }
        }
        // The longest of all: each wait at its ceiling.
        let longest = (1..=ASKED_AGAIN_MAX).map(|n| (0..60_000).map(|random| backoff::wait(n, random)).max().unwrap());
        assert_eq!(longest.sum::<Duration>(), Duration::from_secs(1 + 2 + 4 + 8 + 16 + 32 + 6 * 60));
    }

    #[test]
    fn an_answer_ends_the_waiting_and_the_counting() {
        let mut again = Again::default();
        for _ in 0..ASKED_AGAIN_MAX {
            let Next::At(due) = again.unavailable(at(0), "binding", 0) else { panic!() };
            assert_eq!(again.due(due), Some("binding"));
        }
        assert_eq!(again.unavailable(at(0), "binding", 0), Next::GiveUp);
        again.answered("binding");
        assert_eq!(again.unavailable(at(9), "binding", 0), Next::At(at(509)), "as a first one");
        again.answered("binding");
        assert_eq!((again.next_at(), again.due(at(60_000))), (None, None));
    }

    #[test]
    fn questions_that_fail_together_are_one_failure_and_services_are_apart() {
        let mut again = Again::default();
        let first = again.unavailable(at(0), "twin", 0);
        for ms in 1..400 {
            assert_eq!(again.unavailable(at(ms), "twin", u64::MAX), first);
        }
        assert_eq!(again.unavailable(at(100), "update", 0), Next::At(at(600)));
        assert_eq!((again.next_at(), again.due(at(550))), (Some(at(500)), Some("twin")));
        again.answered("twin");
        assert_eq!(again.due(at(600)), Some("update"));
    }

    #[test]
    fn a_new_connection_begins_anew() {
        let mut again = Again::default();
        let _waits = again.unavailable(at(0), "update", 0);
        again.disconnected();
        assert_eq!((again.next_at(), again.due(at(60_000))), (None, None));
        assert_eq!(again.unavailable(at(0), "update", 0), Next::At(at(500)));
    }
}
