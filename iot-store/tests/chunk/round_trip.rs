//! What was put in comes out, bit for bit.

use iot_core::{
    event::{Report, Value},
    time::Timestamp,
};
use iot_store::chunk::{CHUNK_ROWS_MAX, JSON_DEPTH_MAX, PAGE_ROWS, Reader, encode, merge};
use proptest::prelude::*;
use serde_json::json;

use super::samples::{any_run, assert_survives, column, is_same, metric, number, sample, series, stored};

proptest! {
    #[test]
    fn any_run_of_reports_survives(events in any_run()) {
        assert_survives(&events);
    }

    #[test]
    fn runs_that_overlap_become_one(events in any_run(), assigned in prop::collection::vec(1..8_u8, 1..700)) {
        let part = |bit: u8| {
            let is_in = |row: usize| assigned[row % assigned.len()] & bit != 0;
            let part: Vec<_> = events.iter().enumerate().filter(|(row, _)| is_in(*row)).map(|(_, e)| e.clone()).collect();
            (!part.is_empty()).then(|| encode(&part).unwrap().bytes)
        };
        let chunks: Vec<Vec<u8>> = [1, 2, 4].into_iter().filter_map(part).collect();
        let chunks: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
        let merged = merge(&series(), &chunks).unwrap();
        prop_assert_eq!(&merged.bytes, &encode(&events).unwrap().bytes);
    }
}

#[test]
fn extremes_of_time_and_sequence_survive() {
    let times = [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX - 1, i64::MAX];
    let sequences = [u64::MAX, 0, 1, 1 << 63, (1 << 63) - 1, 7, u64::MAX - 1];
    let events: Vec<_> = times.into_iter().zip(sequences).map(|(at, sequence)| sample(at, sequence, &[])).collect();
    assert_survives(&events);
    let crossed = events.into_iter().zip(times.into_iter().rev()).map(|(mut stored, received)| {
        stored.event.received = Timestamp::from_micros(received);
        stored.event.device_sequence = Some(stored.sequence.0.wrapping_mul(3));
        stored
    });
    assert_survives(&crossed.collect::<Vec<_>>());
}

#[test]
fn each_length_around_a_byte_and_around_a_short_column_survives() {
    for rows in (1..35).chain(510..515) {
        let noise = |n: i64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15_u64.cast_signed()) >> (n % 60);
        assert_survives(&column((0..rows).map(|n| Value::Int(noise(n)))));
        assert_survives(&column((0..rows).map(|n| Value::Bool(noise(n) & 4 == 0))));
        assert_survives(&column((0..rows).map(|n| Value::Float(f64::from_bits(noise(n).cast_unsigned())))));
        assert_survives(&column((0..rows).map(|n| Value::Text(format!("{}", noise(n))))));
    }
}

/// A column of decimals with a few others among them, and one with more than a few.
#[test]
fn odd_floats_survive_among_decimals() {
    let odd = [f64::NAN, -0.0, f64::INFINITY, f64::NEG_INFINITY, 0.1 + 0.2, f64::MAX, 5e-324];
    for every in [1, 3, 40] {
        let value = |n: usize| if n.is_multiple_of(every) { odd[n / every % odd.len()] } else { n as f64 / 10.0 };
        assert_survives(&column((0..600).map(|n| Value::Float(value(n)))));
    }
    let other_nan = f64::from_bits(f64::NAN.to_bits() | 1);
    assert_survives(&column([1.5, other_nan].map(Value::Float)));
}

/// Devices that write JSON send 21 and 21.5: the types stay, and both are one column.
#[test]
fn whole_numbers_among_decimals_keep_their_type_and_cost_nothing() {
    let values: Vec<f64> = (0..2_000).map(|n| f64::from(n * n % 97) / 2.0).collect();
    let floats = assert_survives(&column(values.iter().copied().map(Value::Float)));
    let mixed = assert_survives(&column(values.iter().copied().map(number)));
    assert!(mixed.len() <= floats.len() + 2, "{} {}", mixed.len(), floats.len());
    for ambiguous in [Value::Float(2.0), Value::Int((1 << 53) + 1), Value::Float(-0.0), Value::Float(1e300)] {
        assert_survives(&column(values.iter().copied().map(number).chain([ambiguous])));
    }
}

#[test]
fn the_order_and_the_repeats_of_metrics_survive() {
    let (a, b, c) = (("a", Value::Int(1)), ("b", Value::Bool(true)), ("a", Value::Float(0.5)));
    let orders = [vec![], vec![a.clone(), b.clone()], vec![b.clone(), a.clone(), c.clone(), a.clone()], vec![c, b, a]];
    let mut events: Vec<_> =
        (0..).zip(0..40).map(|(row, n)| sample(n, n.unsigned_abs(), &orders[row * 7 % 4])).collect();
    events.insert(20, stored(20, 0, Report::Event { name: metric("a"), data: json!({"open": [true, null]}) }));
    events.insert(21, stored(20, 1, Report::Event { name: metric("door"), data: json!(null) }));
    assert_survives(&events);
}

#[test]
fn every_kind_of_json_survives() {
    let mut deep = json!([]);
    for _ in 1..JSON_DEPTH_MAX {
        deep = if deep.is_array() { json!({ "a": deep }) } else { json!([deep]) };
    }
    let values = [
        json!([1, [null, {"a": [0.1, u64::MAX, i64::MIN, -0.5, "", -0.0, 1e300, 5e-324]}]]),
        json!({}),
        json!([]),
        json!(null),
        json!(1),
        json!(1.0),
        json!("text"),
        json!({"\u{0}\"\\": "\u{10ffff}\n"}),
        deep,
    ];
    assert_survives(&column(values.into_iter().map(Value::Json)));
}

#[test]
fn many_pages_survive_whole_and_full() {
    for rows in [PAGE_ROWS, PAGE_ROWS + 1, CHUNK_ROWS_MAX] {
        let events: Vec<_> = (0..rows as i64)
            .map(|n| {
                sample(
                    n / 3 * 1_000,
                    n.unsigned_abs(),
                    &[if n % 5_000 < 4_000 { ("a", Value::Int(n)) } else { ("m", Value::Bool(true)) }],
                )
            })
            .collect();
        let bytes = encode(&events).unwrap().bytes;
        let reader = Reader::open(&bytes).unwrap();
        assert_eq!((reader.rows(), reader.span().1), (rows, events[rows - 1].event.at));
        assert!(is_same(&reader.events(&series()).unwrap(), &events));
    }
}

/// Regular reports take no room for their times, sequences, receipts and counts.
#[test]
fn what_is_regular_costs_nothing() {
    let length = |rows: i64| {
        let events = (0..rows).map(|n| {
            let mut stored =
                sample(1_700_000_000_000_000 + n * 10_000_000, 5 + n.unsigned_abs() * 100, &[("m", Value::Bool(true))]);
            stored.event.received = stored.event.at.plus(std::time::Duration::from_millis(20));
            stored.event.device_sequence = Some(n.unsigned_abs() + 1);
            stored
        });
        assert_survives(&events.collect::<Vec<_>>()).len()
    };
    assert!(length(2_000) <= length(20) + 4, "{} {}", length(2_000), length(20));
    assert!(length(20) < 100, "{}", length(20));
}
