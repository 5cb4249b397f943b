//! The seam to time.

use std::{
    fmt,
    sync::Mutex,
    time::{Duration, Instant, SystemTime},
};

use crate::time::{Monotonic, Timestamp};

/// Where time comes from. The two readings are independent: wall-clock time may be set back, [`Monotonic`] never goes back.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Now, for people and stores.
    fn timestamp(&self) -> Timestamp;
    /// Now, for timers.
    fn monotonic(&self) -> Monotonic;
}

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn timestamp(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Timestamp::EPOCH.plus(since)
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic::from_duration(self.start.elapsed())
    }
}

/// A clock that moves only when told to, for tests.
#[derive(Debug)]
pub struct ManualClock {
    // Small sections, never across an await.
    now: Mutex<(Timestamp, Monotonic)>,
}

impl ManualClock {
    /// Starts at `timestamp`.
    pub fn at(timestamp: Timestamp) -> Self {
        Self { now: Mutex::new((timestamp, Monotonic::ZERO)) }
    }

    /// Moves both readings on.
    pub fn advance(&self, by: Duration) {
        let mut now = self.now.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *now = (now.0.plus(by), now.1.plus(by));
    }
}

impl Clock for ManualClock {
    fn timestamp(&self) -> Timestamp {
        self.now.lock().unwrap_or_else(std::sync::PoisonError::into_inner).0
    }

    fn monotonic(&self) -> Monotonic {
        self.now.lock().unwrap_or_else(std::sync::PoisonError::into_inner).1
    }
}
