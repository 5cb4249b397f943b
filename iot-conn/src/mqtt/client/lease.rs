use std::time::Duration;

use iot_core::time::Monotonic;

/// Until when the server keeps the session, as far as the client can know.
///
/// A client that comes back later asks for a clean start. Otherwise the server makes a new session, and if the CONNACK that says so is
/// lost, the next one says that a session is present: the client would take it for its own, and be subscribed to nothing.
#[derive(Debug, Default)]
pub(super) struct Lease {
    /// When the server was heard last; `None` without a session that outlives its connection for a limited time.
    heard: Option<Monotonic>,
    expiry: Duration,
}

impl Lease {
    /// The server has a session and lets it go so long after the connection.
    pub(super) fn granted(&mut self, now: Monotonic, expiry_s: u32) {
        self.expiry = Duration::from_secs(expiry_s.into());
        self.heard = (expiry_s > 0 && expiry_s < u32::MAX).then_some(now);
    }

    pub(super) fn heard(&mut self, now: Monotonic) {
        if let Some(heard) = &mut self.heard {
            *heard = now;
        }
    }

    /// Whether the session may be gone by now. What was heard may have been under way for as long as `under_way`; of a short
    /// session half is kept.
    pub(super) fn is_over(&self, now: Monotonic, under_way: Duration) -> bool {
        let kept = self.expiry - under_way.min(self.expiry / 2);
        self.heard.is_some_and(|heard| now.since(heard) >= kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Monotonic {
        Monotonic::from_duration(Duration::from_secs(seconds))
    }

    #[test]
    fn it_is_over_before_the_server_lets_the_session_go() {
        let (mut lease, under_way) = (Lease::default(), Duration::from_secs(8));
        assert!(!lease.is_over(at(1_000_000), under_way), "there was no session");
        lease.granted(at(10), 20);
        assert!(!lease.is_over(at(21), under_way) && lease.is_over(at(22), under_way));
        lease.heard(at(15));
        assert!(!lease.is_over(at(26), under_way) && lease.is_over(at(27), under_way));
        lease.granted(at(100), 4);
        assert!(!lease.is_over(at(101), under_way) && lease.is_over(at(102), under_way));
        for forever_or_never in [u32::MAX, 0] {
            lease.granted(at(100), forever_or_never);
            assert!(!lease.is_over(at(1_000_000), under_way));
        }
    }
}
