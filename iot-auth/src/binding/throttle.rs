use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use iot_core::{access::Principal, time::Monotonic};

/// For how long a wrong code counts.
pub const WRONG_CODES_PERIOD: Duration = Duration::from_secs(600);

/// After how many wrong codes within [`WRONG_CODES_PERIOD`] an account is not listened to until the period is over.
pub const WRONG_CODES_PER_ACCOUNT: u32 = 10;

/// The same for an address (IPv6: the /64 around it), behind which there may be many people.
pub const WRONG_CODES_PER_ADDRESS: u32 = 100;

/// How many accounts and addresses are counted at once. Beyond it the eighth of them that was counted first is forgotten: a code
/// of 128 bits does not fall to guesses, the counting only keeps them from costing much.
pub const WRONG_CODES_SOURCES_MAX: usize = 20_000;

/// Counts the wrong codes that come from accounts and addresses, on one node. Not kept over a restart.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    counts: HashMap<Source, Count>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Source {
    /// As a principal displays.
    Account(String),
    Address(IpAddr),
}

#[derive(Debug, Clone, Copy)]
struct Count {
    since: Monotonic,
    wrong: u32,
}

impl Throttle {
    /// Whether nothing more is taken from this account or address for now.
    pub(crate) fn is_shut(&self, by: &Principal, from: IpAddr, now: Monotonic) -> bool {
        let spent = |(source, most): &(Source, u32)| {
            let count = self.counts.get(source).filter(|count| !count.is_over(now));
            count.is_some_and(|count| count.wrong >= *most)
        };
        sources(by, from).iter().any(spent)
    }

    /// Counts a wrong code.
    pub(crate) fn count(&mut self, by: &Principal, from: IpAddr, now: Monotonic) {
        for (source, _) in sources(by, from) {
            if !self.counts.contains_key(&source) {
                self.make_room(now);
            }
            let count = self.counts.entry(source).or_insert(Count { since: now, wrong: 0 });
            if count.is_over(now) {
                *count = Count { since: now, wrong: 0 };
            }
            count.wrong = count.wrong.saturating_add(1);
        }
    }

    fn make_room(&mut self, now: Monotonic) {
        if self.counts.len() < WRONG_CODES_SOURCES_MAX {
            return;
        }
        self.counts.retain(|_, count| !count.is_over(now));
        let mut ages: Vec<Monotonic> = self.counts.values().map(|count| count.since).collect();
        if ages.len() >= WRONG_CODES_SOURCES_MAX {
            // Many at once, so that a flood of sources does not search the table each time.
            let (_, last, _) = ages.select_nth_unstable(WRONG_CODES_SOURCES_MAX / 8);
            self.counts.retain(|_, count| count.since > *last);
        }
    }
}

impl Count {
    fn is_over(self, now: Monotonic) -> bool {
        now.since(self.since) >= WRONG_CODES_PERIOD
    }
}

fn sources(by: &Principal, from: IpAddr) -> [(Source, u32); 2] {
    let network = match from.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address) & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    };
    [(Source::Account(by.to_string()), WRONG_CODES_PER_ACCOUNT), (Source::Address(network), WRONG_CODES_PER_ADDRESS)]
}

#[cfg(test)]
mod tests {
    use iot_core::{
        access::Subject,
        id::{AccountId, LoginId, TenantId},
    };

    use super::*;

    fn person(n: usize) -> Principal {
        let account = AccountId::parse(&format!("a{n}")).unwrap();
        let subject = Subject::Account { account, login: LoginId::parse("l").unwrap() };
        Principal { tenant: TenantId::parse("t").unwrap(), subject }
    }

    fn address(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    #[test]
    fn an_account_is_shut_out_at_its_bound_until_the_period_is_over() {
        let mut throttle = Throttle::default();
        for n in 0..WRONG_CODES_PER_ACCOUNT {
            assert!(!throttle.is_shut(&person(1), address(n), Monotonic::ZERO));
            throttle.count(&person(1), address(n), Monotonic::ZERO);
        }
        assert!(throttle.is_shut(&person(1), address(99), Monotonic::ZERO), "from wherever it comes");
        assert!(!throttle.is_shut(&person(2), address(0), Monotonic::ZERO), "others are not its victims");
        let over = Monotonic::from_duration(WRONG_CODES_PERIOD);
        assert!(!throttle.is_shut(&person(1), address(0), over));
        throttle.count(&person(1), address(0), over);
        assert!(!throttle.is_shut(&person(1), address(0), over), "it begins anew");
    }

    #[test]
    fn an_address_is_shut_out_whoever_asks_from_it_and_ipv6_by_its_network() {
        let mut throttle = Throttle::default();
        let at = |n: u32| IpAddr::V6(Ipv6Addr::from((0x2001_0db8_u128 << 96) + u128::from(n)));
        for n in 0..WRONG_CODES_PER_ADDRESS {
            throttle.count(&person(n as usize), at(n), Monotonic::ZERO);
        }
        assert!(throttle.is_shut(&person(9_999), at(9_999), Monotonic::ZERO));
        assert!(!throttle.is_shut(&person(9_999), address(1), Monotonic::ZERO));
    }

    #[test]
    fn the_table_forgets_the_first_when_it_is_full() {
        let mut throttle = Throttle::default();
        let at = |n: usize| Monotonic::from_duration(Duration::from_micros(n as u64));
        let count = |throttle: &mut Throttle, n: usize| {
            throttle.count(&person(n), address(u32::try_from(n).unwrap()), at(n));
        };
        for n in 0..WRONG_CODES_SOURCES_MAX {
            count(&mut throttle, n);
            assert!(throttle.counts.len() <= WRONG_CODES_SOURCES_MAX);
        }
        for _ in 0..WRONG_CODES_PER_ACCOUNT {
            count(&mut throttle, WRONG_CODES_SOURCES_MAX);
        }
        assert!(throttle.is_shut(&person(WRONG_CODES_SOURCES_MAX), address(0), Monotonic::ZERO), "the newest stay");
        assert!(throttle.counts.len() > WRONG_CODES_SOURCES_MAX / 2);
        throttle.count(&person(0), address(0), Monotonic::from_duration(2 * WRONG_CODES_PERIOD));
        assert!(!throttle.is_shut(&person(0), address(0), Monotonic::from_duration(2 * WRONG_CODES_PERIOD)));
    }
}
