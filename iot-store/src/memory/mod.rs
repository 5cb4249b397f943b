//! Everything in memory: the reference model of the contracts.
//!
//! Answers at once and forgets everything when it is dropped. For tests, and for those who want to read what a backend
//! must do without SQL in between.

mod meta;
mod session;
mod telemetry;

use std::sync::{Mutex, MutexGuard, PoisonError};

use self::{meta::Records, session::Sessions, telemetry::Telemetry};
use crate::StoreLimits;

/// All three stores in memory.
#[derive(Debug)]
pub struct Memory {
    limits: StoreLimits,
    // Small sections, never across an await.
    records: Mutex<Records>,
    telemetry: Mutex<Telemetry>,
    sessions: Mutex<Sessions>,
}

impl Memory {
    /// Empty stores.
    pub fn new(limits: StoreLimits) -> Self {
        Self { limits, records: Mutex::default(), telemetry: Mutex::default(), sessions: Mutex::default() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
