//! Rollups survive, and merge to what the values themselves would give.

use std::{collections::BTreeMap, time::Duration};

use iot_core::{event::Sequence, time::Timestamp};
use iot_store::chunk::{ChunkError, Point, ROLLUPS_MAX, Rollup, Rollups, Summary};
use proptest::prelude::*;

use super::{
    samples::{float, int},
    stats::is_same_summary,
};

const MINUTE: Duration = Duration::from_secs(60);

fn rollups(values: impl IntoIterator<Item = (i64, u64, f64)>) -> Rollups {
    let mut rows: BTreeMap<i64, Summary> = BTreeMap::new();
    for (at, sequence, value) in values {
        let point = Point { at: Timestamp::from_micros(at), sequence: Sequence(sequence), value };
        rows.entry(at.div_euclid(60_000_000))
            .and_modify(|summary| summary.add(point))
            .or_insert_with(|| Summary::of(point));
    }
    let row = |(start, summary): (i64, Summary)| Rollup { start: Timestamp::from_micros(start * 60_000_000), summary };
    Rollups { resolution: MINUTE, rows: rows.into_iter().map(row).collect() }
}

fn is_same(one: &Rollups, other: &Rollups) -> bool {
    one.resolution == other.resolution
        && one.rows.len() == other.rows.len()
        && one
            .rows
            .iter()
            .zip(&other.rows)
            .all(|(one, other)| one.start == other.start && is_same_summary(&one.summary, &other.summary))
}

fn values() -> impl Strategy<Value = Vec<(i64, u64, f64)>> {
    prop::collection::vec((-400_000_000..400_000_000_i64, any::<u64>(), float()), 1..200)
}

proptest! {
    #[test]
    fn survive(values in values()) {
        let rollups = rollups(values);
        let found = Rollups::decode(&rollups.encode().unwrap()).unwrap();
        prop_assert!(is_same(&found, &rollups), "{found:?} {rollups:?}");
    }

    #[test]
    fn of_extremes_survive(starts in prop::collection::btree_set(int(), 1..20), count in any::<u64>(), at in int(), value in float()) {
        let point = Point { at: Timestamp::from_micros(at), sequence: Sequence(count), value };
        let row = |start| Rollup { start: Timestamp::from_micros(start), summary: Summary { count, ..Summary::of(point) } };
        let rollups = Rollups { resolution: Duration::from_secs(86_400), rows: starts.into_iter().map(row).collect() };
        prop_assert!(is_same(&Rollups::decode(&rollups.encode().unwrap()).unwrap(), &rollups));
    }

    /// Of whole numbers, whose sums are not rounded.
    #[test]
    fn merge_late_and_out_of_order_data(values in prop::collection::btree_map((-400_000_000..400_000_000_i64, any::<u64>()), (-99..99_i32, any::<bool>()), 1..100)) {
        let value = |(&(at, sequence), &(value, _)): (&(i64, u64), &(i32, bool))| (at, sequence, f64::from(value));
        let early = rollups(values.iter().filter(|(_, (_, is_late))| !is_late).map(value));
        let late = rollups(values.iter().filter(|(_, (_, is_late))| *is_late).map(value));
        let whole = rollups(values.iter().map(value));
        let (mut one, mut other) = (early.clone(), late.clone());
        one.merge(&late);
        other.merge(&early);
        prop_assert!(is_same(&one, &whole), "{one:?} {whole:?}");
        prop_assert!(is_same(&other, &whole), "{other:?} {whole:?}");
    }

    #[test]
    fn damage_is_an_error(values in values(), bit in any::<prop::sample::Index>(), length in any::<prop::sample::Index>()) {
        let mut bytes = rollups(values).encode().unwrap();
        prop_assert!(Rollups::decode(&bytes[..length.index(bytes.len())]).is_err());
        let bit = bit.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(Rollups::decode(&bytes).is_err());
        let body = bytes.len() - 4;
        let checksum = crc32fast::hash(&bytes[..body]);
        bytes[body..].copy_from_slice(&checksum.to_le_bytes());
        let _ = Rollups::decode(&bytes);
    }
}

/// As with reports every hour in buckets of a minute; the other form is read as well.
#[test]
fn buckets_of_one_value_are_short() {
    let hourly = |n: i64| {
        (n * 3_600_000_000 + n * n % 999, n.unsigned_abs() + 1, f64::from(i32::try_from(n * n % 97).unwrap()) / 10.0)
    };
    let short = rollups((0..2_000).map(hourly));
    let bytes = short.encode().unwrap();
    assert!(is_same(&Rollups::decode(&bytes).unwrap(), &short));
    let mut odd = short;
    odd.rows[7].summary.max = 1e9;
    let full = odd.encode().unwrap();
    assert_eq!((bytes[0], full[0]), (b'S', b'R'));
    assert!(is_same(&Rollups::decode(&full).unwrap(), &odd));
    assert!(bytes.len() * 2 < full.len(), "{} {}", bytes.len(), full.len());
    let mixed = rollups((0..2_000).map(hourly).chain([(5, 9_000, 1.0)]));
    assert!(is_same(&Rollups::decode(&mixed.encode().unwrap()).unwrap(), &mixed));
}

#[test]
fn what_cannot_be_kept_is_refused() {
    assert_eq!(rollups([]).encode(), Err(ChunkError::Empty));
    let mut twice = rollups([(0, 1, 1.0)]);
    twice.rows.push(twice.rows[0]);
    assert_eq!(twice.encode(), Err(ChunkError::OutOfOrder { row: 1 }));
    let many = rollups((0..=ROLLUPS_MAX as i64).map(|n| (n * 60_000_000, 1, 1.0)));
    assert_eq!(many.encode(), Err(ChunkError::TooLarge { what: "rollups", max: ROLLUPS_MAX }));
    let kept = Rollups { rows: many.rows[1..].to_vec(), ..many };
    assert!(is_same(&Rollups::decode(&kept.encode().unwrap()).unwrap(), &kept));
}
