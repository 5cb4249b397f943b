//! The statistics beside a chunk, against a plain model.

use std::collections::BTreeMap;

use iot_core::{
    event::{Report, Sequence, StoredEvent, Value},
    id::Metric,
    time::Timestamp,
};
use iot_store::chunk::{MetricStats, Point, Summary, encode};
use proptest::prelude::*;

use super::samples::{any_run, column, metric, sample};

/// All values of a metric that are numbers, in order.
pub(crate) fn numbers(events: &[StoredEvent], of: &Metric) -> Vec<Point> {
    let mut found = Vec::new();
    for stored in events {
        let Report::Telemetry(values) = &stored.event.report else { continue };
        for (name, value) in values {
            let value = match value {
                Value::Bool(true) => 1.0,
                Value::Bool(false) => 0.0,
                Value::Int(int) => *int as f64,
                Value::Float(float) => *float,
                Value::Text(_) | Value::Json(_) => continue,
            };
            if name == of {
                found.push(Point { at: stored.event.at, sequence: stored.sequence, value });
            }
        }
    }
    found
}

fn summary(points: &[Point]) -> Option<Summary> {
    let values = || points.iter().map(|point| point.value);
    let real: Vec<f64> = values().filter(|value| !value.is_nan()).collect();
    let best = |better: fn(f64, f64) -> f64| real.iter().copied().reduce(better).unwrap_or(f64::NAN);
    Some(Summary {
        count: points.len() as u64,
        min: best(|one, other| if other < one { other } else { one }),
        max: best(|one, other| if other > one { other } else { one }),
        sum: values().skip(1).fold(points.first()?.value, |sum, value| sum + value),
        first: *points.first()?,
        last: *points.last()?,
    })
}

/// Bit for bit, but that NaNs are one, and zeros are.
pub(crate) fn is_same_summary(one: &Summary, other: &Summary) -> bool {
    let same = |one: f64, other: f64| one == other || one.is_nan() && other.is_nan();
    let same_point = |one: &Point, other: &Point| one.place() == other.place() && same(one.value, other.value);
    one.count == other.count
        && same(one.min, other.min)
        && same(one.max, other.max)
        && same(one.sum, other.sum)
        && same_point(&one.first, &other.first)
        && same_point(&one.last, &other.last)
}

proptest! {
    #[test]
    fn of_any_run_are_those_of_the_model(events in any_run()) {
        let stats = encode(&events).unwrap().stats;
        let places: Vec<_> = events.iter().map(|stored| (stored.event.at, stored.sequence)).collect();
        let received: Vec<Timestamp> = events.iter().map(|stored| stored.event.received).collect();
        prop_assert_eq!(stats.rows as usize, events.len());
        prop_assert_eq!((stats.first, stats.last), (places[0], places[places.len() - 1]));
        prop_assert_eq!(Some(stats.lowest_sequence), places.iter().map(|place| place.1).min());
        prop_assert_eq!(Some(stats.highest_sequence), places.iter().map(|place| place.1).max());
        prop_assert_eq!(Some(stats.earliest_received), received.iter().copied().min());
        prop_assert_eq!(Some(stats.latest_received), received.iter().copied().max());

        let mut counts: BTreeMap<Metric, u64> = BTreeMap::new();
        for stored in &events {
            let Report::Telemetry(values) = &stored.event.report else { continue };
            values.iter().for_each(|(name, _)| *counts.entry(name.clone()).or_default() += 1);
        }
        prop_assert_eq!(stats.metrics.len(), counts.len());
        for (name, count) in counts {
            let MetricStats { values, numbers: found, .. } = stats.metric(&name).unwrap();
            prop_assert_eq!(*values, count);
            let expected = summary(&numbers(&events, &name));
            prop_assert_eq!(found.is_some(), expected.is_some());
            prop_assert!(found.iter().zip(&expected).all(|(one, other)| is_same_summary(one, other)), "{found:?} {expected:?}");
        }
    }

    /// Late, out of order, in any division: except for the rounding of the sum, which small integers don't have.
    #[test]
    fn merge_in_any_order_to_the_same(
        values in prop::collection::vec((0..9_i64, prop_oneof![(-99..99_i32).prop_map(f64::from), Just(f64::NAN)]), 1..30),
        order in prop::collection::vec(any::<prop::sample::Index>(), 30),
    ) {
        let mut points: Vec<Point> = (0..).zip(values)
            .map(|(n, (at, value))| Point { at: Timestamp::from_micros(at), sequence: Sequence(n), value })
            .collect();
        let mut parts: Vec<Summary> = points.iter().copied().map(Summary::of).collect();
        for index in order {
            if parts.len() > 1 {
                let part = parts.remove(index.index(parts.len()));
                let into = index.index(parts.len());
                parts[into].merge(&part);
            }
        }
        let mut merged = parts.remove(0);
        parts.iter().for_each(|part| merged.merge(part));
        points.sort_by_key(Point::place);
        prop_assert!(is_same_summary(&merged, &summary(&points).unwrap()), "{merged:?}");
    }
}

#[test]
fn odd_numbers_are_aggregated_as_ieee_754_says() {
    let of = |values: &[f64]| {
        let stats = encode(&column(values.iter().copied().map(Value::Float))).unwrap().stats;
        stats.metric(&metric("m")).unwrap().numbers.unwrap()
    };
    let with_nan = of(&[f64::NAN, 1.0, f64::INFINITY]);
    assert_eq!((with_nan.count, with_nan.min, with_nan.max), (3, 1.0, f64::INFINITY));
    assert!(with_nan.sum.is_nan() && with_nan.first.value.is_nan());
    let only_nan = of(&[f64::NAN, f64::NAN]);
    assert!(only_nan.min.is_nan() && only_nan.max.is_nan() && only_nan.count == 2);
    assert!(of(&[f64::NEG_INFINITY, f64::INFINITY]).sum.is_nan());
}

#[test]
fn text_counts_as_a_value_and_not_as_a_number() {
    let events = [sample(0, 1, &[("m", Value::Text("9".to_owned())), ("m", Value::Bool(true))])];
    let stats = encode(&events).unwrap().stats;
    let of_metric = stats.metric(&metric("m")).unwrap();
    assert_eq!((of_metric.values, of_metric.numbers.unwrap().count), (2, 1));
    assert_eq!(stats.metric(&metric("n")), None);
    let bucket = of_metric.numbers.unwrap().bucket(Timestamp::EPOCH);
    assert_eq!((bucket.start, bucket.count, bucket.first, bucket.last), (Timestamp::EPOCH, 1, 1.0, 1.0));
}
