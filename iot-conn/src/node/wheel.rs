//! Timers of many connections, most of which are moved before they fire.
//!
//! A hashed wheel (Varghese and Lauck, "Hashed and Hierarchical Timing Wheels", SOSP 1987, scheme 6) whose slots are linked lists
//! in one table: setting and cancelling cost the same however many there are, and an entry takes 40 bytes. A timer farther ahead
//! than the wheel fires at its horizon; whoever set it looks at the time and sets it again.

use std::time::Duration;

use iot_core::time::Monotonic;

/// How late a timer may fire.
pub(crate) const TICK: Duration = Duration::from_millis(250);
/// The horizon is 64 s.
const SLOTS: usize = 256;

/// Nothing follows.
const END: u32 = u32::MAX;

/// Names a timer until it has fired or was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimerKey {
    place: u32,
    generation: u32,
}

/// Timers, each with a value that is given back when it fires.
#[derive(Debug)]
pub(crate) struct Wheel<T> {
    /// The first entry of each slot.
    slots: Box<[u32]>,
    entries: Vec<Entry<T>>,
    /// The first of the entries that are free.
    free: u32,
    /// Ticks that have passed.
    now: u64,
}

#[derive(Debug)]
struct Entry<T> {
    value: Option<T>,
    generation: u32,
    slot: u32,
    before: u32,
    next: u32,
}

impl<T> Wheel<T> {
    pub(crate) fn new() -> Self {
        Self { slots: vec![END; SLOTS].into(), entries: Vec::new(), free: END, now: 0 }
    }

    /// Sets a timer that fires within a tick after `due`, or at the horizon if that is before; answers when it does.
    ///
    /// At most 2³² − 1 timers; a further one is not set.
    pub(crate) fn set(&mut self, due: Monotonic, value: T) -> Option<(TimerKey, Monotonic)> {
        let ahead = ticks(due).saturating_add(1).saturating_sub(self.now).clamp(1, SLOTS as u64 - 1);
        let tick = self.now + ahead;
        let slot = self.slot(tick);
        let place = self.take_free()?;
        let next = std::mem::replace(&mut self.slots[slot as usize], place);
        if let Some(follower) = self.entries.get_mut(next as usize) {
            follower.before = place;
        }
        let entry = &mut self.entries[place as usize];
        (entry.value, entry.slot, entry.before, entry.next) = (Some(value), slot, END, next);
        let fires = TICK.saturating_mul(u32::try_from(tick).unwrap_or(u32::MAX));
        Some((TimerKey { place, generation: entry.generation }, Monotonic::from_duration(fires)))
    }

    /// Takes a timer back; nothing if it has fired.
    pub(crate) fn cancel(&mut self, key: TimerKey) -> Option<T> {
        let known = self.entries.get(key.place as usize)?;
        if known.generation != key.generation { None } else { self.remove(key.place) }
    }

    /// Gives what is due to `fired`.
    pub(crate) fn advance(&mut self, now: Monotonic, fired: &mut Vec<T>) {
        let target = ticks(now);
        // A wheel that was not turned for long has nothing beyond one turn.
        let turns = target.saturating_sub(self.now).min(SLOTS as u64);
        for tick in target - turns + 1..=target {
            let slot = self.slot(tick) as usize;
            while self.slots[slot] != END {
                fired.extend(self.remove(self.slots[slot]));
            }
        }
        self.now = self.now.max(target);
    }

    /// How many are set.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.iter().filter(|entry| entry.value.is_some()).count()
    }

    fn slot(&self, tick: u64) -> u32 {
        // Less than the number of slots.
        u32::try_from(tick % self.slots.len() as u64).unwrap_or_default()
    }

    fn take_free(&mut self) -> Option<u32> {
        if let Some(entry) = self.entries.get(self.free as usize) {
            return Some(std::mem::replace(&mut self.free, entry.next));
        }
        let place = u32::try_from(self.entries.len()).ok().filter(|place| *place != END)?;
        self.entries.push(Entry { value: None, generation: 0, slot: 0, before: END, next: END });
        Some(place)
    }

    fn remove(&mut self, place: u32) -> Option<T> {
        let free = self.free;
        let entry = self.entries.get_mut(place as usize)?;
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        let (slot, before, next) = (entry.slot, entry.before, std::mem::replace(&mut entry.next, free));
        self.free = place;
        match self.entries.get_mut(before as usize) {
            Some(leader) => leader.next = next,
            None => self.slots[slot as usize] = next,
        }
        if let Some(follower) = self.entries.get_mut(next as usize) {
            follower.before = before;
        }
        Some(value)
    }
}

fn ticks(at: Monotonic) -> u64 {
    u64::try_from(at.as_duration().as_millis() / TICK.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Monotonic {
        Monotonic::from_duration(Duration::from_millis(ms))
    }

    fn fired<T>(wheel: &mut Wheel<T>, ms: u64) -> Vec<T> {
        let mut fired = Vec::new();
        wheel.advance(at(ms), &mut fired);
        fired
    }

    #[test]
    fn a_timer_fires_once_and_not_before_its_time() {
        let mut wheel = Wheel::new();
        wheel.set(at(1_000), 'a').unwrap();
        assert!(fired(&mut wheel, 999).is_empty());
        assert_eq!(fired(&mut wheel, 1_250), ['a']);
        assert!(fired(&mut wheel, 100_000).is_empty());
    }

    #[test]
    fn one_far_ahead_fires_at_the_horizon() {
        let mut wheel = Wheel::new();
        wheel.set(at(3_600_000), 'a').unwrap();
        assert!(fired(&mut wheel, 63_000).is_empty());
        assert_eq!(fired(&mut wheel, 64_000), ['a']);
    }

    #[test]
    fn a_key_names_no_later_timer() {
        let mut wheel = Wheel::new();
        let (first, _) = wheel.set(at(0), 'a').unwrap();
        assert_eq!(fired(&mut wheel, 500), ['a']);
        let (second, _) = wheel.set(at(0), 'b').unwrap();
        assert_eq!(wheel.cancel(first), None);
        assert_eq!(wheel.cancel(second), Some('b'));
        assert_eq!(wheel.cancel(second), None);
        assert_eq!(wheel.len(), 0);
    }

    #[test]
    fn a_wheel_that_stood_still_gives_everything_that_is_due() {
        let mut wheel = Wheel::new();
        for n in 0..60 {
            assert!(wheel.set(at(n * 1_000), n).is_some());
        }
        let mut all = fired(&mut wheel, 10_000_000);
        all.sort_unstable();
        assert_eq!(all, (0..60).collect::<Vec<_>>());
        wheel.set(at(0), 60).unwrap();
        assert_eq!(fired(&mut wheel, 10_000_500), [60], "past times are due at the next tick");
    }

    proptest! {
        /// Against a plain map.
        #[test]
        fn it_fires_what_a_map_would(steps in prop::collection::vec((0u8..4, 0u64..100_000), 1..300)) {
            let (mut wheel, mut model, mut now) = (Wheel::new(), BTreeMap::new(), 0);
            for (id, (what, ms)) in steps.into_iter().enumerate() {
                match what {
                    0 | 1 => {
                        let (key, fires) = wheel.set(at(now + ms), id).unwrap();
                        prop_assert!(fires > at(now) && (fires >= at(now + ms) || ms > 63_000));
                        model.insert(id, (key, fires));
                    }
                    2 => {
                        if let Some((id, (key, _))) = model.pop_first() {
                            prop_assert_eq!(wheel.cancel(key), Some(id));
                        }
                    }
                    _ => {
                        now += ms;
                        for id in fired(&mut wheel, now) {
                            let (_, fires) = model.remove(&id).unwrap();
                            prop_assert!(fires <= at(now), "{id} fired at {now}, not at {fires:?}");
                        }
                        prop_assert!(model.values().all(|(_, fires)| *fires > at(now)));
                    }
                }
                prop_assert_eq!(wheel.len(), model.len());
            }
        }
    }
}
