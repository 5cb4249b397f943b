//! No bytes make the reader panic, and what is damaged is said to be.

use iot_core::{event::Value, time::Timestamp};
use iot_store::chunk::{ChunkError, Reader, Selection, encode};
use proptest::prelude::*;

use super::samples::{any_run, column, metric, mixed, sample, series};

/// Reads whatever can be read; `false` if anything could not.
fn reads(bytes: &[u8]) -> bool {
    let Ok(reader) = Reader::open(bytes) else { return false };
    let mut is_good = reader.events(&series()).is_ok();
    for name in reader.names() {
        is_good &= reader.numbers(name).is_ok();
        let selection = Selection { metric: Some(name), newest_first: true, limit: 3, ..Selection::default() };
        is_good &= reader.select(&series(), &selection).is_ok();
        is_good &= reader.values_between(name, Timestamp::EPOCH, Timestamp::MAX).is_ok();
    }
    is_good
}

/// As if it had been written so.
fn with_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
    let body = bytes.len().saturating_sub(4);
    let checksum = crc32fast::hash(&bytes[..body]);
    bytes.truncate(body);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

proptest! {
    #[test]
    fn a_wrong_bit_is_found(events in any_run(), bit in any::<prop::sample::Index>()) {
        let mut bytes = encode(&events).unwrap().bytes;
        prop_assert!(reads(&bytes));
        let bit = bit.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        let error = Reader::open(&bytes).unwrap_err();
        prop_assert!(matches!(error, ChunkError::Damaged(_) | ChunkError::UnknownFormat { .. }), "{error:?}");
    }

    #[test]
    fn a_torn_blob_is_found(events in any_run(), length in any::<prop::sample::Index>()) {
        let bytes = encode(&events).unwrap().bytes;
        let error = Reader::open(&bytes[..length.index(bytes.len())]).unwrap_err();
        prop_assert!(matches!(error, ChunkError::Damaged(_)), "{error:?}");
    }

    /// The checksum is right, so that what is behind it has to be safe by itself.
    #[test]
    fn wrong_bytes_with_a_right_checksum_do_no_harm(
        events in prop_oneof![3 => mixed(), 1 => any_run()],
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        length in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let mut bytes = encode(&events).unwrap().bytes;
        for (index, byte) in changes {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        if let Some(length) = length {
            bytes.truncate(length.index(bytes.len()));
        }
        reads(&with_checksum(bytes));
    }

    #[test]
    fn random_bytes_do_no_harm(body in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(!reads(&body));
        reads(&with_checksum([b"C\x01", &body[..], &[0; 4]].concat()));
    }
}

/// Each bit of each byte, of a chunk with a column of every kind.
#[test]
fn every_wrong_bit_of_a_small_chunk_does_no_harm() {
    let values = |n: i64| {
        [
            ("b", Value::Bool(n % 3 == 0)),
            ("i", Value::Int(n * n)),
            ("f", Value::Float(n as f64 / 7.0)),
            ("d", Value::Float(n as f64 / 10.0)),
            ("t", Value::Text(format!("text {}", n % 4))),
            ("j", Value::Json(serde_json::json!({"n": n}))),
        ]
    };
    let events: Vec<_> = (0..30).map(|n| sample(n * n, n.unsigned_abs(), &values(n))).collect();
    let good = encode(&events).unwrap().bytes;
    assert!(reads(&good));
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(!reads(&bytes), "{bit}");
        reads(&with_checksum(bytes));
    }
}

/// Few bytes that claim much: what is refused for its size is refused before room is made for it.
#[test]
fn a_small_chunk_cannot_claim_much() {
    let good = encode(&column((0..40).map(|_| Value::Bool(true)))).unwrap().bytes;
    assert_eq!(good[2], 40, "the count of rows stands first");
    for claim in [&[0xff, 0xff, 3][..], &[0x80, 0x80, 4], &[0xff; 9], &[0]] {
        let bytes = with_checksum([&good[..2], claim, &good[3..]].concat());
        assert!(matches!(Reader::open(&bytes), Err(ChunkError::Damaged(_))), "{claim:?}");
    }
}

#[test]
fn a_metric_that_is_not_there_is_no_damage() {
    let bytes = encode(&column([Value::Text("x".to_owned())])).unwrap().bytes;
    let reader = Reader::open(&bytes).unwrap();
    assert!(reader.numbers(&metric("m")).unwrap().values.is_empty());
    assert!(reader.numbers(&metric("n")).unwrap().values.is_empty());
}
