//! Parts of a chunk are what a filter over the whole would give.

use iot_core::{
    event::{Report, Sequence, StoredEvent, Value},
    id::Metric,
    time::Timestamp,
};
use iot_store::chunk::{Numbers, PAGE_ROWS, Place, Point, Reader, Selection, encode};
use proptest::prelude::*;
use serde_json::json;

use super::{
    samples::{any_run, int, is_same, metric, sample, series, stored},
    stats::numbers,
};

fn selected(events: &[StoredEvent], selection: &Selection<'_>) -> Vec<StoredEvent> {
    let mut found: Vec<StoredEvent> = events.to_vec();
    found.retain(|stored| stored.event.at >= selection.from);
    found.retain(|stored| selection.until.is_none_or(|until| stored.event.at < until));
    if let Some(metric) = selection.metric {
        found.retain_mut(|stored| {
            let Report::Telemetry(values) = &mut stored.event.report else { return false };
            values.retain(|(name, _)| name == metric);
            !values.is_empty()
        });
    }
    let place = |stored: &StoredEvent| (stored.event.at, stored.sequence);
    if selection.newest_first {
        found.reverse();
        found.retain(|stored| selection.after.is_none_or(|after| place(stored) < after));
    } else {
        found.retain(|stored| selection.after.is_none_or(|after| place(stored) > after));
    }
    found.truncate(selection.limit);
    found
}

fn is_same_numbers(found: &Numbers, expected: &[Point]) -> bool {
    let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    found.at == expected.iter().map(|point| point.at.as_micros()).collect::<Vec<_>>()
        && found.sequence == expected.iter().map(|point| point.sequence.0).collect::<Vec<_>>()
        && bits(&found.values) == bits(&expected.iter().map(|point| point.value).collect::<Vec<_>>())
}

#[derive(Debug, Clone)]
struct Wanted {
    from: Timestamp,
    until: Option<Timestamp>,
    metric: Option<Metric>,
    newest_first: bool,
    after: Option<Place>,
    limit: usize,
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let time = || int().prop_map(Timestamp::from_micros);
    let name = prop::sample::select(vec!["a", "b", "m", "nowhere"]).prop_map(metric);
    let after = prop::option::of((time(), 0..40_u64).prop_map(|(at, sequence)| (at, Sequence(sequence))));
    let from = prop_oneof![Just(Timestamp::from_micros(i64::MIN)), time()];
    (from, prop::option::of(time()), prop::option::of(name), any::<bool>(), after, 0..20_usize).prop_map(
        |(from, until, metric, newest_first, after, limit)| Wanted { from, until, metric, newest_first, after, limit },
    )
}

proptest! {
    #[test]
    fn any_selection_is_a_filter(events in any_run(), wanted in wanted()) {
        let bytes = encode(&events).unwrap().bytes;
        let Wanted { from, until, ref metric, newest_first, after, limit } = wanted;
        let selection = Selection { from, until, metric: metric.as_ref(), newest_first, after, limit };
        let found = Reader::open(&bytes).unwrap().select(&series(), &selection).unwrap();
        prop_assert!(is_same(&found, &selected(&events, &selection)), "{found:?}");
    }

    #[test]
    fn numbers_are_those_of_the_reports(events in any_run(), from in int(), until in int()) {
        let bytes = encode(&events).unwrap().bytes;
        let reader = Reader::open(&bytes).unwrap();
        let (from, until) = (Timestamp::from_micros(from), Timestamp::from_micros(until));
        for name in ["a", "b", "m", "nowhere"].map(metric) {
            let expected = numbers(&events, &name);
            let all = reader.numbers(&name).unwrap();
            prop_assert!(is_same_numbers(&all, &expected), "{all:?} {expected:?}");
            let within: Vec<Point> = expected.into_iter().filter(|point| point.at >= from && point.at < until).collect();
            let found = reader.numbers_between(&name, from, until).unwrap();
            prop_assert!(is_same_numbers(&found, &within), "{found:?} {within:?}");
            let (at, values) = reader.values_between(&name, from, until).unwrap();
            let mut visited = Numbers { sequence: found.sequence.clone(), ..Numbers::default() };
            let visit = |at: &[i64], values: &[f64]| {
                visited.at.extend(at);
                visited.values.extend(values);
            };
            reader.visit_values(&name, from, until, visit).unwrap();
            prop_assert!(is_same_numbers(&visited, &within));
            let found = Numbers { at, values, ..found };
            prop_assert!(is_same_numbers(&found, &within));
        }
    }
}

/// Three pages, of which equal times lie on both sides of a border.
fn pages() -> Vec<StoredEvent> {
    let report = |n: i64| match n % 7 {
        0 => Report::Event { name: metric("m"), data: json!(n) },
        1 => Report::Telemetry(vec![(metric("a"), Value::Text("off".to_owned()))]),
        2 => Report::Telemetry(vec![(metric("m"), Value::Bool(n % 2 == 0)), (metric("m"), Value::Int(n))]),
        _ => Report::Telemetry(vec![(metric("a"), Value::Float(0.5)), (metric("m"), Value::Int(n))]),
    };
    (0..2 * PAGE_ROWS as i64 + 100).map(|n| stored(n / 10, n.unsigned_abs(), report(n))).collect()
}

#[test]
fn across_pages_too() {
    let events = pages();
    let bytes = encode(&events).unwrap().bytes;
    let reader = Reader::open(&bytes).unwrap();
    let border = PAGE_ROWS as i64 / 10;
    let m = metric("m");
    assert!(is_same_numbers(&reader.numbers(&m).unwrap(), &numbers(&events, &m)));
    for (from, until) in
        [(border - 1, border + 2), (border, border + 1), (0, 1), (2 * border, i64::MAX), (border, border)]
    {
        let (from, until) = (Timestamp::from_micros(from), Timestamp::from_micros(until));
        let mut within = numbers(&events, &m);
        within.retain(|point| point.at >= from && point.at < until);
        assert!(is_same_numbers(&reader.numbers_between(&m, from, until).unwrap(), &within));
        for newest_first in [false, true] {
            let selection =
                Selection { from, until: Some(until), metric: Some(&m), newest_first, ..Selection::default() };
            let found = reader.select(&series(), &selection).unwrap();
            assert!(is_same(&found, &selected(&events, &selection)));
        }
    }
}

#[test]
fn pages_of_an_answer_follow_one_another() {
    let events = pages();
    let bytes = encode(&events).unwrap().bytes;
    let reader = Reader::open(&bytes).unwrap();
    for newest_first in [false, true] {
        let (mut after, mut seen) = (None, Vec::new());
        loop {
            let found = reader
                .select(&series(), &Selection { newest_first, after, limit: 5_000, ..Selection::default() })
                .unwrap();
            let Some(last) = found.last() else { break };
            after = Some((last.event.at, last.sequence));
            seen.extend(found);
        }
        if newest_first {
            seen.reverse();
        }
        assert!(is_same(&seen, &events));
    }
}

#[test]
fn the_names_are_there_without_decoding() {
    let events = [
        sample(-5, 9, &[("b", Value::Int(1)), ("a", Value::Int(1))]),
        stored(7, 3, Report::Event { name: metric("door"), data: json!({}) }),
    ];
    let bytes = encode(&events).unwrap().bytes;
    let reader = Reader::open(&bytes).unwrap();
    assert_eq!(reader.names(), ["b", "a", "door"].map(metric));
    assert_eq!(reader.span(), (Timestamp::from_micros(-5), Timestamp::from_micros(7)));
    assert_eq!(reader.numbers(&metric("door")).unwrap(), Numbers::default());
}
