//! Which devices belong to which share of a fleet.

use iot_core::id::{DeviceId, RolloutId};

/// The whole of a fleet.
pub const PER_MILLE: u16 = 1_000;

/// Where a device stands in the order in which a rollout reaches its fleet: from 0 to 999. Depends on both ids and nothing
/// else, so that it is the same on every node and after every restart, and other devices come first in another rollout.
pub fn place_of(rollout: &RolloutId, device: &DeviceId) -> u16 {
    let bytes = rollout.as_str().bytes().chain([0]).chain(device.as_str().bytes());
    let hash = mixed(bytes.fold(FNV_OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME)));
    u16::try_from(hash % u64::from(PER_MILLE)).unwrap_or(0)
}

/// FNV-1a, 64 bits.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// The finalizer of SplitMix64: FNV alone leaves neighbouring names in neighbouring places.
fn mixed(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(rollout: &str, device: &str) -> u16 {
        place_of(&RolloutId::parse(rollout).unwrap(), &DeviceId::parse(device).unwrap())
    }

    #[test]
    fn shares_are_as_large_as_they_say() {
        let places: Vec<u16> = (0..100_000).map(|n| place("r1", &format!("lamp-{n}"))).collect();
        for share in [10, 100, 500, 900] {
            let within = places.iter().filter(|place| **place < share).count();
            let expected = usize::from(share) * 100;
            // Four standard deviations of a binomial distribution of 100,000 are at most 633.
            assert!(within.abs_diff(expected) < 633, "{share}: {within}");
        }
        assert!(places.iter().all(|place| *place < PER_MILLE));
    }

    #[test]
    fn another_rollout_begins_with_other_devices() {
        let first = |rollout: &'static str| (0..10_000).filter(move |n| place(rollout, &format!("lamp-{n}")) < 100);
        let both = first("r1").filter(|n| place("r2", &format!("lamp-{n}")) < 100).count();
        assert!((50..=150).contains(&both), "a tenth of a tenth, not {both}");
    }

    #[test]
    fn a_place_never_changes() {
        assert_eq!([place("r1", "lamp-1"), place("r1", "lamp-2"), place("r2", "lamp-1")], PLACES);
    }

    /// As first shipped. A change here would move devices between the groups of rollouts that are under way.
    const PLACES: [u16; 3] = [586, 831, 55];
}
