use std::sync::{Arc, Mutex, PoisonError};

use iot_core::{clock::Clock, time::Monotonic};

use super::{
    mailbox::Mailbox,
    wheel::{TICK, TimerKey, Wheel},
};

/// When connections are to look at the time.
#[derive(Debug)]
pub(crate) struct Timers {
    // Small sections, never across an await.
    wheel: Mutex<Wheel<Arc<Mailbox>>>,
}

impl Default for Timers {
    fn default() -> Self {
        Self { wheel: Mutex::new(Wheel::new()) }
    }
}

impl Timers {
    /// The mailbox is nudged at `due` or soon after, or before if that is far ahead.
    pub(crate) fn set(&self, due: Monotonic, mailbox: &Arc<Mailbox>) -> Option<(TimerKey, Monotonic)> {
        let mut wheel = self.wheel.lock().unwrap_or_else(PoisonError::into_inner);
        wheel.set(due, mailbox.clone())
    }

    #[cfg(all(test, feature = "device"))]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[cfg(all(test, feature = "device"))]
    pub(crate) fn len(&self) -> usize {
        self.wheel.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(crate) fn cancel(&self, key: TimerKey) {
        // Dropped after the wheel is unlocked.
        let _mailbox = self.wheel.lock().unwrap_or_else(PoisonError::into_inner).cancel(key);
    }

    /// Turns the wheel, for as long as the node runs.
    pub(crate) async fn run(&self, clock: &dyn Clock) {
        let mut fired = Vec::new();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.wheel.lock().unwrap_or_else(PoisonError::into_inner).advance(clock.monotonic(), &mut fired);
            fired.drain(..).for_each(|mailbox| mailbox.nudge());
        }
    }
}
