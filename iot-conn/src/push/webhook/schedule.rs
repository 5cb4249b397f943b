//! When deliveries are tried: an engine without a clock, whose timers are wall-clock times because they outlive the
//! process.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use iot_core::time::Timestamp;

/// How long after a failed attempt the next one comes; after the last of them, the last again.
pub const RETRY_DELAYS: [Duration; 6] = [
    Duration::from_secs(5),
    Duration::from_secs(5 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(2 * 3_600),
    Duration::from_secs(5 * 3_600),
    Duration::from_secs(10 * 3_600),
];

/// How long a delivery is tried. The last attempt is made at its end.
pub const RETRY_SPAN: Duration = Duration::from_secs(24 * 3_600);

/// What follows a failed attempt.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Another attempt, then.
    Again(Timestamp),
    /// None: the delivery is a dead letter.
    GiveUp,
}

/// Decides after the failure of the `attempts`-th attempt of a delivery that began at `begun`. `jitter` is random and
/// adds up to a fifth to the delay, so that what failed together is not tried together.
pub fn after_failure(attempts: u32, begun: Timestamp, now: Timestamp, jitter: u8) -> Next {
    let end = begun.plus(RETRY_SPAN);
    if now >= end {
        return Next::GiveUp;
    }
    let place = usize::try_from(attempts.saturating_sub(1)).unwrap_or(usize::MAX);
    let delay = RETRY_DELAYS[place.min(RETRY_DELAYS.len() - 1)];
    Next::Again(now.plus(delay + delay * u32::from(jitter) / (5 * u32::from(u8::MAX))).min(end))
}

/// What a [`Schedule`] holds.
#[derive(Debug, Clone, Copy)]
pub struct ScheduleLimits {
    /// The most attempts under way at once.
    pub in_flight_max: usize,
    /// The most attempts under way at once to one endpoint.
    pub in_flight_per_endpoint_max: usize,
    /// The most deliveries of one endpoint that wait, those under way included; a further one is refused.
    pub waiting_per_endpoint_max: usize,
}

/// The deliveries that wait, by endpoint and time. An endpoint that answers slowly holds up no other.
#[derive(Debug)]
pub struct Schedule {
    limits: ScheduleLimits,
    endpoints: HashMap<String, Waiting>,
    /// The next attempt of each endpoint that may have one more under way.
    heads: BTreeSet<(Timestamp, String)>,
    in_flight: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    due: BTreeSet<(Timestamp, String)>,
    reserved: usize,
    in_flight: usize,
    head: Option<Timestamp>,
}

impl Schedule {
    /// An empty one.
    pub fn new(limits: ScheduleLimits) -> Self {
        Self { limits, endpoints: HashMap::new(), heads: BTreeSet::new(), in_flight: 0 }
    }

    /// Keeps a place for a delivery that is about to be stored; `false` if the endpoint has as many as it may.
    /// [`add`](Self::add) fills it, [`release`](Self::release) gives it back.
    #[must_use]
    pub fn reserve(&mut self, endpoint: &str) -> bool {
        let limit = self.limits.waiting_per_endpoint_max;
        let waiting = self.endpoints.entry(endpoint.to_owned()).or_default();
        let room = waiting.due.len() + waiting.in_flight + waiting.reserved < limit;
        waiting.reserved += usize::from(room);
        room
    }

    /// Gives a place back.
    pub fn release(&mut self, endpoint: &str) {
        if let Some(waiting) = self.endpoints.get_mut(endpoint) {
            waiting.reserved = waiting.reserved.saturating_sub(1);
        }
        self.settle(endpoint);
    }

    /// Adds a delivery for which a place was reserved.
    pub fn add(&mut self, endpoint: &str, delivery: &str, at: Timestamp) {
        let waiting = self.endpoints.entry(endpoint.to_owned()).or_default();
        waiting.reserved = waiting.reserved.saturating_sub(1);
        waiting.due.insert((at, delivery.to_owned()));
        self.settle(endpoint);
    }

    /// The (endpoint, delivery) to try now, if there is one. It counts as under way until [`finish`](Self::finish).
    pub fn take(&mut self, now: Timestamp) -> Option<(String, String)> {
        if self.in_flight >= self.limits.in_flight_max || self.heads.first()?.0 > now {
            return None;
        }
        let (_, endpoint) = self.heads.first()?.clone();
        let waiting = self.endpoints.get_mut(&endpoint)?;
        let (_, delivery) = waiting.due.pop_first()?;
        waiting.in_flight += 1;
        self.in_flight += 1;
        self.settle(&endpoint);
        Some((endpoint, delivery))
    }

    /// Ends an attempt; the delivery waits again if `again` says until when.
    pub fn finish(&mut self, endpoint: &str, delivery: &str, again: Option<Timestamp>) {
        let Some(waiting) = self.endpoints.get_mut(endpoint) else { return };
        waiting.in_flight = waiting.in_flight.saturating_sub(1);
        self.in_flight = self.in_flight.saturating_sub(1);
        waiting.due.extend(again.map(|at| (at, delivery.to_owned())));
        self.settle(endpoint);
    }

    /// When [`take`](Self::take) has something next, as far as is known; `None` while everything is under way.
    pub fn next_at(&self) -> Option<Timestamp> {
        let free = self.in_flight < self.limits.in_flight_max;
        self.heads.first().filter(|_| free).map(|(at, _)| *at)
    }

    /// How many deliveries wait or are under way.
    pub fn len(&self) -> usize {
        self.in_flight + self.endpoints.values().map(|waiting| waiting.due.len()).sum::<usize>()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes `heads` true again for an endpoint, and forgets the endpoint if nothing is left of it.
    fn settle(&mut self, endpoint: &str) {
        let Some(waiting) = self.endpoints.get_mut(endpoint) else { return };
        let free = waiting.in_flight < self.limits.in_flight_per_endpoint_max;
        let head = waiting.due.first().filter(|_| free).map(|(at, _)| *at);
        if head != waiting.head {
            let former = std::mem::replace(&mut waiting.head, head);
            former.map(|at| self.heads.remove(&(at, endpoint.to_owned())));
            self.heads.extend(head.map(|at| (at, endpoint.to_owned())));
        }
        if waiting.due.is_empty() && waiting.in_flight == 0 && waiting.reserved == 0 {
            self.endpoints.remove(endpoint);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ScheduleLimits =
        ScheduleLimits { in_flight_max: 3, in_flight_per_endpoint_max: 2, waiting_per_endpoint_max: 4 };

    fn at(seconds: u64) -> Timestamp {
        Timestamp::EPOCH.plus(Duration::from_secs(seconds))
    }

    fn add(schedule: &mut Schedule, endpoint: &str, delivery: &str, seconds: u64) {
        assert!(schedule.reserve(endpoint));
        schedule.add(endpoint, delivery, at(seconds));
    }

    #[test]
    fn a_delivery_that_always_fails_is_tried_eight_times_in_a_day() {
        let mut schedule = Schedule::new(LIMITS);
        add(&mut schedule, "hook", "one", 0);
        let mut tried = Vec::new();
        for _ in 0..100 {
            let Some(now) = schedule.next_at() else { break };
            assert_eq!(schedule.take(now.minus(Duration::from_micros(1))), None, "not before its time");
            let (endpoint, delivery) = schedule.take(now).unwrap();
            tried.push(now.since(Timestamp::EPOCH).as_secs());
            let attempts = u32::try_from(tried.len()).unwrap();
            let again = match after_failure(attempts, Timestamp::EPOCH, now, 0) {
                Next::Again(at) => Some(at),
                Next::GiveUp => None,
            };
            schedule.finish(&endpoint, &delivery, again);
        }
        assert_eq!(tried, [0, 5, 305, 2_105, 9_305, 27_305, 63_305, 86_400]);
        assert!(schedule.is_empty());
    }

    #[test]
    fn jitter_delays_by_at_most_a_fifth_and_never_past_the_day() {
        for (attempts, delay) in (1..).zip(RETRY_DELAYS) {
            for jitter in [0, 1, 128, 255] {
                let Next::Again(next) = after_failure(attempts, at(0), at(60), jitter) else { panic!() };
                let waited = next.since(at(60));
                assert!(delay <= waited && waited <= delay * 6 / 5, "{attempts} {jitter} {waited:?}");
            }
        }
        assert_eq!(after_failure(7, at(0), at(80_000), 255), Next::Again(at(86_400)));
        assert_eq!(after_failure(8, at(0), at(86_400), 0), Next::GiveUp);
        assert_eq!(after_failure(u32::MAX, at(0), at(90_000), 0), Next::GiveUp);
    }

    #[test]
    fn a_slow_endpoint_holds_up_no_other() {
        let mut schedule = Schedule::new(LIMITS);
        for delivery in ["a", "b", "c"] {
            add(&mut schedule, "slow", delivery, 0);
        }
        add(&mut schedule, "quick", "d", 1);
        add(&mut schedule, "quick", "e", 1);
        let taken: Vec<_> = std::iter::from_fn(|| schedule.take(at(9))).map(|(_, delivery)| delivery).collect();
        assert_eq!(taken, ["a", "b", "d"], "two of the slow one, then the bound of all");
        assert_eq!(schedule.next_at(), None);
        schedule.finish("quick", "d", None);
        assert_eq!(schedule.take(at(9)).unwrap().1, "e");
        schedule.finish("slow", "a", None);
        assert_eq!(schedule.take(at(9)).unwrap().1, "c");
        assert_eq!(schedule.len(), 3);
    }

    #[test]
    fn an_endpoint_that_is_full_takes_no_more_until_one_ends() {
        let mut schedule = Schedule::new(LIMITS);
        for delivery in ["a", "b", "c"] {
            add(&mut schedule, "hook", delivery, 0);
        }
        assert!(schedule.reserve("hook"));
        assert!(!schedule.reserve("hook"));
        assert!(schedule.reserve("other"));
        schedule.release("hook");
        assert!(schedule.reserve("hook"));
        let (endpoint, delivery) = schedule.take(at(0)).unwrap();
        assert!(!schedule.reserve("hook"), "what is under way counts");
        schedule.finish(&endpoint, &delivery, None);
        assert!(schedule.reserve("hook"));
    }
}
