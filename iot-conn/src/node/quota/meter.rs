//! How fast a scope publishes: one meter for all of its connections, and a seat on it for each.
//!
//! A meter neither waits nor tells anybody anything: the time is given, and what to do is answered.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use iot_core::{
    quota::Quota,
    rate::{Rate, Schedule},
    time::Monotonic,
};

use crate::router::SubscriberId;

/// The longest that a connection is slowed for one message. What would have to wait longer is refused, so that neither a client nor
/// the memory of the node waits for what a crowd cannot get anyway.
pub(crate) const QUOTA_WAIT_MAX: Duration = Duration::from_secs(1);

/// When the wait is longer, it is kept for those who have not had their part.
const CROWDED: Duration = Duration::from_millis(500);

/// Whoever has asked within so long counts as one of the crowd. Twice as long as anybody is slowed, so that nobody is left out.
const CROWD_WINDOW: Duration = Duration::from_secs(2);

/// What is counted: messages, and bytes.
pub(super) const RATES: usize = 2;

/// Of one message, in the order of [`RATES`].
pub(super) type Counts = [u32; RATES];

/// What the connections of a scope share.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    // Small sections, never across an await. Several are locked at once in the order of `Holder`.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    rates: [Option<Rate>; RATES],
    schedules: [Schedule; RATES],
    crowd: Crowd,
    connections_max: Option<u32>,
    /// Whose connections there are, and how many each has: two while one takes the session from the other.
    sessions: HashMap<SubscriberId, u32>,
}

/// What one connection has of a meter: so that a connection which sends as much as it can leaves as much to each other one.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Share {
    /// When the connection would come next if all that ask had the same.
    due: [Monotonic; RATES],
    /// The last window in which it was counted.
    window: u64,
}

/// How many connections ask.
#[derive(Debug, Clone, Copy, Default)]
struct Crowd {
    window: u64,
    present: u32,
    former: u32,
}

impl Meter {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Holds to these limits from now on.
    pub(super) fn limit(&mut self, quota: &Quota) {
        self.rates = [quota.publishes, quota.bytes];
        self.connections_max = quota.connections_max;
    }

    /// Takes a place for a connection of this session; `false` if there is none. `forced`: it is there already.
    pub(super) fn enter(&mut self, session: SubscriberId, forced: bool) -> bool {
        let is_full = self.connections_max.is_some_and(|max| self.sessions.len() >= max as usize);
        if is_full && !forced && !self.sessions.contains_key(&session) {
            return false;
        }
        *self.sessions.entry(session).or_insert(0) += 1;
        true
    }

    pub(super) fn leave(&mut self, session: SubscriberId) {
        if let Some(count) = self.sessions.get_mut(&session) {
            *count -= 1;
            if *count == 0 {
                self.sessions.remove(&session);
            }
        }
    }

    pub(super) fn connections(&self) -> usize {
        self.sessions.len()
    }

    /// How long a message of this connection has to wait for each of the rates; `None` where it is larger than a burst.
    ///
    /// Whoever comes first goes first. When so many wait that some have to be refused, it is those who have had their part of the
    /// rate, by the number of those that ask: otherwise whoever asks most often would have it all.
    pub(super) fn waits(&mut self, share: &mut Share, now: Monotonic, counts: Counts) -> [Option<Duration>; RATES] {
        self.crowd.count(share, now);
        std::array::from_fn(|at| {
            let Some(rate) = self.rates[at] else { return Some(Duration::ZERO) };
            let wait = self.schedules[at].wait(rate, now, counts[at])?;
            let had_its_part = share.due[at].since(now);
            Some(if wait > CROWDED && had_its_part > QUOTA_WAIT_MAX { wait.max(had_its_part) } else { wait })
        })
    }

    /// Takes room for a message, for which [`waits`](Self::waits) was asked with the same values.
    pub(super) fn take(&mut self, share: &mut Share, now: Monotonic, counts: Counts) {
        for (at, count) in counts.into_iter().enumerate() {
            let Some(rate) = self.rates[at] else { continue };
            let has_room = self.schedules[at].wait(rate, now, count).is_some_and(|wait| wait.is_zero());
            self.schedules[at].take(rate, now, count);
            let part = rate.time_of(count).saturating_mul(self.crowd.len());
            share.due[at] = if has_room { Monotonic::ZERO } else { share.due[at].max(now).plus(part) };
        }
    }

    /// Takes room for a message that does not wait, as far as there is some.
    pub(super) fn charge(&mut self, now: Monotonic, counts: Counts) {
        for (at, count) in counts.into_iter().enumerate() {
            if let Some(rate) = self.rates[at] {
                self.schedules[at].charge(rate, now, count);
            }
        }
    }

    /// The rate of a kind, for people.
    pub(super) fn rate(&self, at: usize) -> Option<Rate> {
        self.rates[at]
    }
}

impl Crowd {
    fn count(&mut self, share: &mut Share, now: Monotonic) {
        // From 1 on: 0 is before all windows.
        let window = now.as_duration().as_secs() / CROWD_WINDOW.as_secs() + 1;
        if window != self.window {
            self.former = if window == self.window + 1 { self.present } else { 0 };
            (self.window, self.present) = (window, 0);
        }
        if share.window != window {
            share.window = window;
            self.present += 1;
        }
    }

    fn len(&self) -> u32 {
        self.present.max(self.former).max(1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> Monotonic {
        Monotonic::from_duration(Duration::from_millis(millis))
    }

    fn limited(quota: Quota) -> State {
        let mut state = State::default();
        state.limit(&quota);
        state
    }

    /// As a connection asks a single meter: when the message goes on, if it does.
    fn ask(state: &mut State, share: &mut Share, now: Monotonic, counts: Counts) -> Option<Monotonic> {
        let waits = state.waits(share, now, counts);
        let wait = waits.into_iter().try_fold(Duration::ZERO, |longest, wait| Some(longest.max(wait?)))?;
        if wait > QUOTA_WAIT_MAX {
            return None;
        }
        state.take(share, now, counts);
        Some(now.plus(wait))
    }

    /// How many messages of each connection go on within `seconds`, if each has always one that waits and comes in a random order,
    /// late by up to `late_ms` when its wait is over.
    fn crowd(rate: Rate, eagerness: &[u32], seconds: u64, late_ms: u64, seed: u64) -> Vec<u64> {
        let mut state = limited(Quota { publishes: Some(rate), ..Quota::default() });
        let mut random = seed | 1;
        let mut below = move |n: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % n
        };
        let mut clients = vec![(Share::default(), at(0), 0_u64); eagerness.len()];
        for now in 0..seconds * 1_000 {
            for _ in 0..eagerness.iter().sum::<u32>() {
                let mut pick = u32::try_from(below(u64::from(eagerness.iter().sum::<u32>()))).unwrap();
                let index = eagerness.iter().position(|weight| {
                    let found = pick < *weight;
                    pick = pick.saturating_sub(*weight);
                    found
                });
                let (share, free, passed) = &mut clients[index.unwrap()];
                if *free > at(now) {
                    continue;
                }
                if let Some(until) = ask(&mut state, share, at(now), [1, 0]) {
                    *passed += 1;
                    *free =
                        if until > at(now) { until.plus(Duration::from_millis(below(late_ms + 1))) } else { at(now) };
                }
            }
        }
        clients.into_iter().map(|(_, _, passed)| passed).collect()
    }

    #[test]
    fn a_lone_connection_has_the_whole_rate_and_is_never_refused() {
        let rate = Rate { per_s: 10, burst: 5 };
        let passed = crowd(rate, &[1], 60, 0, 7);
        assert!((600..=615).contains(&passed[0]), "{passed:?}");
    }

    #[test]
    fn a_greedy_connection_leaves_the_others_their_part() {
        // One that asks a hundred times as often as each of the others.
        let eagerness = [100, 1, 1, 1];
        let passed = crowd(Rate { per_s: 20, burst: 20 }, &eagerness, 60, 250, 3);
        assert!(passed[1..].iter().all(|count| *count >= 60 * 20 / 4 / 2), "{passed:?}");
        assert!(passed.iter().sum::<u64>() <= 20 + 61 * 20, "{passed:?}");
    }

    #[test]
    fn connections_that_are_gone_leave_their_part_to_the_others() {
        let mut state = limited(Quota { publishes: Some(Rate { per_s: 10, burst: 1 }), ..Quota::default() });
        let mut shares = vec![Share::default(); 50];
        for share in &mut shares {
            let _ = ask(&mut state, share, at(0), [1, 0]);
        }
        assert_eq!(state.crowd.len(), 50);
        let mut share = Share::default();
        let (mut now, mut passed) = (at(60_000), 0);
        while now < at(70_000) {
            now = ask(&mut state, &mut share, now, [1, 0]).expect("it is alone");
            passed += 1;
        }
        assert!((100..=102).contains(&passed), "{passed}");
    }

    #[test]
    fn what_is_larger_than_the_burst_finds_no_room_ever() {
        let mut state = limited(Quota { bytes: Some(Rate { per_s: 1_000, burst: 100 }), ..Quota::default() });
        let mut share = Share::default();
        assert_eq!(state.waits(&mut share, at(0), [1, 101]), [Some(Duration::ZERO), None]);
        assert_eq!(ask(&mut state, &mut share, at(0), [1, 100]), Some(at(0)));
        assert_eq!(ask(&mut state, &mut share, at(0), [1, 100]), Some(at(100)));
    }

    #[test]
    fn what_does_not_wait_takes_the_room_that_there_is() {
        let mut state = limited(Quota { publishes: Some(Rate { per_s: 10, burst: 1 }), ..Quota::default() });
        let mut share = Share::default();
        (0..1_000).for_each(|_| state.charge(at(0), [1, 0]));
        assert_eq!(ask(&mut state, &mut share, at(0), [1, 0]), Some(at(100)), "as after a burst");
    }

    #[test]
    fn places_are_counted_by_session_and_given_back() {
        let mut state = limited(Quota { connections_max: Some(2), ..Quota::default() });
        let [first, second, third] = [SubscriberId(1), SubscriberId(2), SubscriberId(3)];
        assert!(state.enter(first, false) && state.enter(second, false));
        assert!(!state.enter(third, false));
        assert!(state.enter(first, false), "it takes its session over");
        state.leave(first);
        assert!(!state.enter(third, false), "the one that took it over is there");
        state.leave(first);
        assert!(state.enter(third, false));
        assert!(state.enter(first, true), "it was there before the limit");
        assert_eq!(state.connections(), 3);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Over any span of time no more goes on than the burst and what the rate gives, however many share the meter.
        #[test]
        fn never_more_than_the_rate(
            (per_s, burst) in (1_u32..200, 1_u32..50),
            (bytes_per_s, bytes_burst) in (1_u32..20_000, 500_u32..5_000),
            asks in prop::collection::vec((0_u64..40, 0_usize..7, 1_u32..500), 1..300),
        ) {
            let rates = [Rate { per_s, burst }, Rate { per_s: bytes_per_s, burst: bytes_burst }];
            let mut state = limited(Quota { publishes: Some(rates[0]), bytes: Some(rates[1]), ..Quota::default() });
            let mut shares = [Share::default(); 7];
            let (mut now, mut gone) = (0, Vec::new());
            for (gap, client, bytes) in asks {
                now += gap;
                let mut waits = [Duration::ZERO; RATES];
                let asked = state.waits(&mut shares[client], at(now), [1, bytes]);
                for (wait, asked) in waits.iter_mut().zip(asked) {
                    *wait = asked.expect("no message is larger than a burst");
                }
                if waits.iter().all(|wait| *wait <= QUOTA_WAIT_MAX) {
                    state.take(&mut shares[client], at(now), [1, bytes]);
                    // Each rate by itself: when its own room is there.
                    gone.push((waits.map(|wait| at(now).plus(wait).as_duration()), [1, bytes]));
                }
            }
            for kind in 0..RATES {
                let mut times: Vec<_> = gone.iter().map(|(times, counts)| (times[kind], u128::from(counts[kind]))).collect();
                times.sort_unstable();
                for (index, (first, _)) in times.iter().enumerate() {
                    let mut sum = 0;
                    for (last, count) in &times[index..] {
                        sum += count;
                        let span = (*last - *first + Duration::from_micros(1)).as_nanos();
                        let allowed = u128::from(rates[kind].burst)
                            + (span * u128::from(rates[kind].per_s)).div_ceil(1_000_000_000);
                        prop_assert!(sum <= allowed, "{sum} from {first:?} to {last:?}, not {allowed}");
                    }
                }
            }
        }

        /// Of connections that all want more than there is, none has less than half of what one has on average, and all together
        /// have the rate.
        #[test]
        fn everybody_has_a_part(count in 1_usize..40, per_s in 1_u32..100, burst in 1_u32..100, late_ms in 0_u64..250, seed: u64) {
            // So long that each has a part of several messages.
            let seconds = (8 * count as u64).div_ceil(u64::from(per_s)).max(10);
            let rate = Rate { per_s, burst };
            let passed = crowd(rate, &vec![1; count], seconds, late_ms, seed);
            let (least, all) = (passed.iter().min().copied().unwrap(), passed.iter().sum::<u64>());
            prop_assert!(least >= all / count as u64 / 2, "{least} of {all}: {passed:?}");
            // Who is late has less than the rate, unless the burst makes up for it.
            if u64::from(burst) * 1_000 >= u64::from(per_s) * 2 * late_ms {
                prop_assert!(all >= seconds * u64::from(per_s) * 9 / 10, "{all} in {seconds} s at {per_s}");
            }
        }
    }
}
