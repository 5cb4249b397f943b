//! What keeps a crowd of clients from coming all at once, and two clients from taking one session from each other for ever.
//!
//! The two engines neither wait nor tell anybody anything: the time is given, and what to do is answered.

use std::{sync::PoisonError, time::Duration};

use iot_core::{
    rate::{Rate, Schedule},
    session::SessionId,
    time::Monotonic,
};

use super::Inner;
use crate::{
    mqtt::{ReasonCode, server::Farewell},
    recent::Recent,
};

/// The longest that a client is asked to stay away. When so many wait already, the times are handed out from the beginning
/// again: better two clients at a time than one in an hour.
pub(crate) const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);

/// What part of the burst is for critical products alone.
const RESERVED: u32 = 4;

/// Lets clients in at a rate, and gives each that is sent away a time of its own to come back at. Clients of critical products
/// have a quarter of the burst for themselves, so that they come first while the others wait.
#[derive(Debug)]
pub(crate) struct Admittance {
    rate: Rate,
    schedule: Schedule,
    /// The last time that was handed out.
    slot: Monotonic,
}

impl Admittance {
    pub(crate) fn new(rate: Rate) -> Self {
        Self { rate, schedule: Schedule::default(), slot: Monotonic::default() }
    }

    /// Lets a client in, or answers how long it is to stay away.
    pub(crate) fn admit(&mut self, now: Monotonic, is_critical: bool) -> Result<(), Duration> {
        let reserved = if is_critical { 0 } else { self.rate.burst.saturating_sub(1) / RESERVED };
        let rate = Rate { burst: self.rate.burst - reserved, ..self.rate };
        match self.schedule.wait(rate, now, 1) {
            None | Some(Duration::ZERO) => {
                self.schedule.take(rate, now, 1);
                Ok(())
            }
            Some(wait) => Err(self.retry_after(now).max(wait)),
        }
    }

    /// How long a client is to stay away that is sent away now: each a bit longer than the one before, so that they come back
    /// one by one.
    pub(crate) fn retry_after(&mut self, now: Monotonic) -> Duration {
        let next = self.slot.max(now).plus(self.rate.time_of(1));
        self.slot = if next.since(now) > RETRY_AFTER_MAX { now.plus(self.rate.time_of(1)) } else { next };
        self.slot.since(now)
    }
}

/// The most sessions whose take-overs are remembered. Beyond it the half that was not taken over for longest is forgotten.
const TAKEN_OVER_MAX: usize = 4_096;

/// So many take-overs in a row are as quick as ever: a client that has lost its connection often does not know it yet.
const UNDAMPED: u32 = 3;

/// How long it takes until a take-over is forgiven.
const FORGIVEN_AFTER: Duration = Duration::from_secs(30);

const FIRST_DELAY: Duration = Duration::from_millis(250);

/// The longest that a connection waits before it takes a session over: less than clients wait for the answer to their CONNECT.
const DELAY_MAX: Duration = Duration::from_secs(8);

/// Slows down connections that take a session from each other again and again, as two devices with one identity do.
#[derive(Debug)]
pub(crate) struct TakeOvers {
    by_session: Recent<SessionId, Heat>,
}

impl Default for TakeOvers {
    fn default() -> Self {
        Self { by_session: Recent::new(TAKEN_OVER_MAX) }
    }
}

#[derive(Debug, Clone, Copy)]
struct Heat {
    count: u32,
    last: Monotonic,
}

impl TakeOvers {
    /// Counts a take-over, and answers how long it has to wait: nothing for the first few, then twice as long each time.
    pub(crate) fn delay(&mut self, session: &SessionId, now: Monotonic) -> Duration {
        let known = self.by_session.get(session).copied().unwrap_or(Heat { count: 0, last: now });
        let forgiven = now.since(known.last).as_secs() / FORGIVEN_AFTER.as_secs();
        let count = known.count.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX));
        self.by_session.insert(session.clone(), Heat { count: count.saturating_add(1), last: now });
        match count.checked_sub(UNDAMPED) {
            Some(doublings) => FIRST_DELAY.saturating_mul(1 << doublings.min(16)).min(DELAY_MAX),
            None => Duration::ZERO,
        }
    }
}

impl Inner {
    /// Lets a client in, or answers how long it is to stay away.
    pub(crate) fn admit(&self, is_critical: bool) -> Result<(), Duration> {
        let now = self.clock.monotonic();
        self.admittance.lock().unwrap_or_else(PoisonError::into_inner).admit(now, is_critical)
    }

    /// How long a connection has to wait before it takes a session from another.
    pub(crate) fn take_over_delay(&self, session: &SessionId) -> Duration {
        let now = self.clock.monotonic();
        self.take_overs.lock().unwrap_or_else(PoisonError::into_inner).delay(session, now)
    }

    /// A time for a client that is sent away to come back at.
    pub(crate) fn retry_after(&self) -> Duration {
        let now = self.clock.monotonic();
        self.admittance.lock().unwrap_or_else(PoisonError::into_inner).retry_after(now)
    }

    /// What a client is told that is sent away for this reason.
    pub(crate) fn farewell(&self, reason: ReasonCode) -> Farewell {
        let comes_back = matches!(
            reason,
            ReasonCode::ServerUnavailable
                | ReasonCode::ServerBusy
                | ReasonCode::ServerShuttingDown
                | ReasonCode::UseAnotherServer
        );
        if !comes_back {
            return Farewell::default();
        }
        let retry_after = self.retry_after();
        let server_reference = self.drain.server_reference.clone().filter(|_| reason == ReasonCode::UseAnotherServer);
        Farewell { retry_after: Some(retry_after), server_reference }
    }
}

#[cfg(test)]
mod tests {
    use iot_core::id::TenantId;

    use super::*;

    const RATE: Rate = Rate { per_s: 10, burst: 9 };

    fn at(millis: u64) -> Monotonic {
        Monotonic::from_duration(Duration::from_millis(1_000_000 + millis))
    }

    fn millis(duration: Duration) -> u128 {
        duration.as_millis()
    }

    fn session(name: &str) -> SessionId {
        SessionId::anonymous(&TenantId::parse("t").unwrap(), name)
    }

    #[test]
    fn a_crowd_is_let_in_at_the_rate_and_critical_clients_first() {
        let mut admittance = Admittance::new(RATE);
        let plain = (0..20).filter(|_| admittance.admit(at(0), false).is_ok()).count();
        let critical = (0..20).filter(|_| admittance.admit(at(0), true).is_ok()).count();
        assert_eq!((plain, critical), (7, 2));
        assert!(admittance.admit(at(100), false).is_err(), "what comes free is for the critical ones first");
        assert!(admittance.admit(at(100), true).is_ok());
        assert!(admittance.admit(at(10_000), false).is_ok());
    }

    #[test]
    fn each_that_is_sent_away_has_a_time_of_its_own_and_finds_room_then() {
        let mut admittance = Admittance::new(RATE);
        let waits: Vec<_> = (0..50).filter_map(|_| admittance.admit(at(0), false).err()).map(millis).collect();
        assert_eq!(waits.len(), 43);
        assert!(waits.windows(2).all(|pair| pair[1] == pair[0] + 100), "{waits:?}");
        for wait in waits {
            assert_eq!(admittance.admit(at(u64::try_from(wait).unwrap()), false), Ok(()), "back after {wait} ms");
        }
    }

    #[test]
    fn nobody_is_sent_away_for_longer_than_the_bound() {
        let mut admittance = Admittance::new(Rate { per_s: 1, burst: 1 });
        let waits: Vec<_> = (0..1_300).map(|_| admittance.retry_after(at(0))).collect();
        assert_eq!(waits.iter().max(), Some(&RETRY_AFTER_MAX));
        assert_eq!(waits[600], Duration::from_secs(1), "and then from the beginning");
    }

    #[test]
    fn take_overs_in_a_row_wait_longer_and_longer_and_are_forgiven() {
        let mut taken = TakeOvers::default();
        let delays: Vec<_> = (0..12).map(|n| millis(taken.delay(&session("a"), at(n)))).collect();
        assert_eq!(delays, [0, 0, 0, 250, 500, 1_000, 2_000, 4_000, 8_000, 8_000, 8_000, 8_000]);
        assert_eq!(taken.delay(&session("b"), at(12)), Duration::ZERO, "another session has nothing to do with it");
        assert_eq!(millis(taken.delay(&session("a"), at(240_100))), 500, "eight of twelve are forgiven");
        assert_eq!(taken.delay(&session("a"), at(3_600_000)), Duration::ZERO);
    }

    #[test]
    fn a_full_table_forgets_and_stays_bounded() {
        let mut taken = TakeOvers::default();
        for n in 0..3 * TAKEN_OVER_MAX {
            taken.delay(&session(&n.to_string()), at(0));
            assert!(taken.by_session.iter().count() <= TAKEN_OVER_MAX);
        }
    }
}
