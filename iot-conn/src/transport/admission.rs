//! How many new connections a network may open.

use std::{net::IpAddr, time::Duration};

use iot_core::{
    network::Network,
    rate::{Rate, Schedule},
    time::Monotonic,
};

use crate::recent::Recent;

/// The most networks that are counted at once, 40 bytes each. When as many are known, the half that was touched longest ago is
/// forgotten: a stranger gains by that only by coming from as many networks.
pub(super) const NETWORKS_MAX: usize = 65_536;

/// Counts new connections by network, in bounded memory, with a constant amount of work for each.
#[derive(Debug)]
pub(super) struct Admission {
    rate: Rate,
    networks: Recent<Network, Schedule>,
}

impl Admission {
    pub(super) fn new(rate: Rate, networks_max: usize) -> Self {
        Self { rate, networks: Recent::new(networks_max) }
    }

    /// Counts a connection, or answers when the next one may come. Loopback is not counted: whoever is on this machine has other
    /// ways to be a burden.
    pub(super) fn admit(&mut self, from: IpAddr, now: Monotonic) -> Result<(), Duration> {
        if from.to_canonical().is_loopback() {
            return Ok(());
        }
        let network = Network::of_customer(from);
        let mut schedule = self.networks.get(&network).copied().unwrap_or_default();
        match schedule.wait(self.rate, now, 1) {
            None | Some(Duration::ZERO) => {
                schedule.take(self.rate, now, 1);
                self.networks.insert(network, schedule);
                Ok(())
            }
            Some(wait) => Err(wait),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate { per_s: 10, burst: 5 };

    fn at(millis: u64) -> Monotonic {
        Monotonic::from_duration(Duration::from_millis(millis))
    }

    fn from(n: u32) -> IpAddr {
        IpAddr::V4((0xCB00_0000 + n).into())
    }

    #[test]
    fn a_burst_is_let_in_and_then_the_rate() {
        let mut admission = Admission::new(RATE, 10);
        assert!((0..5).all(|_| admission.admit(from(1), at(0)).is_ok()));
        assert_eq!(admission.admit(from(1), at(0)), Err(Duration::from_millis(100)));
        assert_eq!(admission.admit(from(1), at(40)), Err(Duration::from_millis(60)), "a refusal costs nothing");
        assert!(admission.admit(from(2), at(40)).is_ok(), "another network has its own");
        assert!(admission.admit(from(1), at(100)).is_ok());
        assert!(admission.admit(from(1), at(101)).is_err());
        assert!((0..5).all(|_| admission.admit(from(1), at(10_000)).is_ok()), "after a pause a burst again, not more");
        assert!(admission.admit(from(1), at(10_000)).is_err());
    }

    #[test]
    fn neighbours_in_one_ipv6_network_share_and_loopback_is_free() {
        let mut admission = Admission::new(RATE, 10);
        let admitted = (0..100_u16).filter(|n| {
            let address = IpAddr::from([0x2001, 0xdb8, 0, 0x1200, *n, 0, 0, 1]);
            admission.admit(address, at(0)).is_ok()
        });
        assert_eq!(admitted.count(), 5);
        for loopback in ["127.0.0.9", "::1", "::ffff:127.0.0.1"] {
            assert!((0..100).all(|_| admission.admit(loopback.parse().unwrap(), at(0)).is_ok()));
        }
    }

    #[test]
    fn a_full_table_forgets_and_stays_bounded() {
        let mut admission = Admission::new(RATE, 10);
        for n in 0..1_000 {
            admission.admit(from(n), at(u64::from(n))).unwrap();
            assert!(admission.networks.iter().count() <= 10);
        }
    }

    proptest! {
        /// In any window no more than the burst and what the rate gives; and who keeps to the rate is never refused.
        #[test]
        fn never_more_than_the_rate(gaps in proptest::collection::vec(0_u64..300, 1..200)) {
            let (mut admission, mut now, mut admitted) = (Admission::new(RATE, 10), 0, Vec::new());
            for gap in gaps {
                now += gap;
                if admission.admit(from(1), at(now)).is_ok() {
                    admitted.push(now);
                } else {
                    prop_assert!(gap < 100, "refused after a whole interval");
                }
            }
            for (index, first) in admitted.iter().enumerate() {
                for (count, last) in (1..).zip(&admitted[index..]) {
                    prop_assert!(count <= 5 + (last - first) / 100, "{count} from {first} to {last}");
                }
            }
        }
    }
}
