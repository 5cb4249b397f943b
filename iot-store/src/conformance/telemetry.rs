//! What [`TelemetryStore`] promises.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use iot_core::{
    event::{Event, Report, Sequence, StoredEvent, Value},
    id::{ConsumerId, HomeId, TenantId},
    problem::Cursor,
    store::{Aggregate, Bucket, LatestValue, Range, Series, TelemetryStore},
    time::Timestamp,
};
use serde_json::json;
use tokio::task::JoinSet;

use super::samples::{at, counted, event, metric, node, sample, series};

type Store = Arc<dyn TelemetryStore>;

const ALL: (Timestamp, Timestamp) = (Timestamp::from_micros(i64::MIN), Timestamp::MAX);

/// Within an answer, and from one to the next.
pub async fn sequences_grow_within_a_node(store: &Store) {
    let s = series("d", 1);
    let mut last = Sequence(0);
    for round in 0..3 {
        let events: Vec<Event> = (0..10).map(|n| sample(&s, at(-round), "m", Value::Int(n))).collect();
        for sequence in append(store, "n", &events).await {
            assert!(sequence.unwrap() > last);
            last = sequence.unwrap();
        }
    }
    assert_eq!(append(store, "n", &[]).await, []);
}

/// Within one batch and from batch to batch; the first stays. Events without a count are never repeats.
pub async fn a_repeat_is_stored_once(store: &Store) {
    let s = series("d", 1);
    let first = [
        counted(&s, at(1), 7, Value::Int(1)),
        counted(&s, at(2), 7, Value::Int(2)),
        counted(&s, at(3), 8, Value::Int(3)),
    ];
    let placed = append(store, "n", &first).await;
    assert!(placed[0].is_some() && placed[1].is_none() && placed[2] > placed[0], "{placed:?}");
    let again = [
        counted(&s, at(9), 8, Value::Int(9)),
        counted(&s, at(4), u64::MAX, Value::Int(4)),
        counted(&s, at(9), u64::MAX, Value::Int(9)),
    ];
    let placed = append(store, "n", &again).await;
    assert!(placed[0].is_none() && placed[1].is_some() && placed[2].is_none(), "{placed:?}");
    let same = sample(&s, at(5), "m", Value::Int(5));
    assert!(append(store, "n", &[same.clone(), same]).await.iter().all(Option::is_some));
    let values: Vec<Value> = all(store, &s).await.into_iter().map(|stored| value(&stored)).collect();
    assert_eq!(values, [1, 3, 4, 5, 5].map(Value::Int));
    assert_eq!(all(store, &s).await[2].event.device_sequence, Some(u64::MAX));
}

/// The same device in another ownership epoch, and the same name in another tenant, are other series.
pub async fn epochs_and_tenants_are_apart(store: &Store) {
    let one = series("d", 1);
    let others = [
        series("d", 2),
        series("e", 1),
        Series { tenant: TenantId::parse("u").unwrap(), ..one.clone() },
        series("d", u64::MAX),
    ];
    let events: Vec<Event> = others.iter().chain([&one]).map(|s| counted(s, at(1), 1, Value::Int(1))).collect();
    assert!(append(store, "n", &events).await.iter().all(Option::is_some));
    for s in others.iter().chain([&one]) {
        let stored = all(store, s).await;
        assert_eq!(stored.len(), 1);
        assert_eq!(
            (&stored[0].event.tenant, &stored[0].event.device, stored[0].event.epoch),
            (&s.tenant, &s.device, s.epoch)
        );
        assert_eq!(store.latest(s).await.unwrap().len(), 1);
        assert_eq!(buckets(store, s, ALL, 10).await.len(), 1);
    }
    assert_eq!(store.latest(&series("d", 3)).await.unwrap(), []);
    assert_eq!(all(store, &series("x", 1)).await, []);
}

/// Bit for bit, but that NaNs are one.
pub async fn every_value_survives(store: &Store) {
    let s = series("d", 1);
    let floats = [0.0, -0.0, 1.5, f64::MIN_POSITIVE, 5e-324, f64::MAX, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 0.1];
    let values: Vec<Value> = floats
        .into_iter()
        .map(Value::Float)
        .chain([0, 23, 24, -1, 255, 65_536, i64::MAX, i64::MIN].map(Value::Int))
        .chain([true, false].map(Value::Bool))
        .chain(["", "ä \u{0} \u{10ffff}"].map(|text| Value::Text(text.to_owned())))
        .chain([json!([1, [null, {"a": [0.1, u64::MAX, i64::MIN, -0.5, ""]}]]), json!({}), json!([])].map(Value::Json))
        .collect();
    let events: Vec<Event> =
        (0..).zip(&values).map(|(n, value)| sample(&s, at(n), &format!("m{n:02}"), value.clone())).collect();
    append(store, "n", &events).await;
    let latest = store.latest(&s).await.unwrap();
    for ((stored, latest), written) in all(store, &s).await.iter().zip(latest).zip(&values) {
        assert!(is_same(&value(stored), written), "{stored:?} {written:?}");
        assert!(is_same(&latest.value, written), "{latest:?} {written:?}");
    }
    assert_eq!(all(store, &s).await.len(), values.len());
}

/// Of samples with many values, and of named events.
pub async fn every_field_survives(store: &Store) {
    let s = series("d", 3);
    let full = Event {
        home: Some(HomeId::parse("h").unwrap()),
        received: at(9),
        device_sequence: Some(0),
        ..event(&s, at(-7), Report::Telemetry((0..40).map(|n| (metric(&format!("m.{n}")), Value::Int(n))).collect()))
    };
    let named = event(&s, at(1), Report::Event { name: metric("door"), data: json!({"open": true, "by": null}) });
    let bare = event(&s, at(2), Report::Event { name: metric("door"), data: json!(null) });
    let written = vec![full, named, bare];
    append(store, "n", &written).await;
    let stored: Vec<Event> = all(store, &s).await.into_iter().map(|stored| stored.event).collect();
    assert_eq!(stored, written);
    let log: Vec<Event> =
        store.after(&node("n"), Sequence(0), 10).await.unwrap().into_iter().map(|stored| stored.event).collect();
    assert_eq!(log, written);
}

/// From included, until excluded; an empty or inverted span has nothing.
pub async fn a_range_is_half_open(store: &Store) {
    let s = series("d", 1);
    let events: Vec<Event> = (-2..3).map(|n| sample(&s, at(n), "m", Value::Int(n))).collect();
    append(store, "n", &events).await;
    for (from, until, expected) in [
        (-2, 3, vec![-2, -1, 0, 1, 2]),
        (-1, 1, vec![-1, 0]),
        (0, 0, vec![]),
        (2, -2, vec![]),
        (2, 9, vec![2]),
        (-9, -2, vec![]),
    ] {
        for newest_first in [false, true] {
            let found = range(store, &s, (at(from), at(until)), newest_first, None, 10).await;
            let mut values: Vec<i64> = found.0.iter().map(int).collect();
            values.sort_unstable();
            assert_eq!(values, expected, "{from}..{until}");
        }
    }
}

/// Ordered by time, then by sequence, across pages, also while events arrive behind the cursor.
pub async fn a_range_is_paged_both_ways(store: &Store) {
    let s = series("d", 1);
    let times = [5, 1, 3, 3, 3, 2, 3, 4, 0, 5];
    let events: Vec<Event> = (0..).zip(times).map(|(n, seconds)| sample(&s, at(seconds), "m", Value::Int(n))).collect();
    append(store, "n", &events).await;
    let forward = vec![8, 1, 5, 2, 3, 4, 6, 7, 0, 9];
    for limit in [1, 2, 3, 10, 11] {
        assert_eq!(walk(store, &s, false, limit).await, forward, "{limit}");
        assert_eq!(walk(store, &s, true, limit).await, forward.iter().rev().copied().collect::<Vec<_>>(), "{limit}");
    }
    let (first, cursor) = range(store, &s, ALL, false, None, 3).await;
    assert_eq!(first.iter().map(int).collect::<Vec<_>>(), forward[..3]);
    append(store, "n", &[sample(&s, at(1), "m", Value::Int(99))]).await;
    let (rest, _) = range(store, &s, ALL, false, cursor, 10).await;
    assert_eq!(rest.iter().map(int).collect::<Vec<_>>(), forward[3..]);
    let foreign = range(store, &s, ALL, false, Some(Cursor::after(b"odd")), 10).await;
    assert_eq!(foreign, (Vec::new(), None));
}

/// Samples without the metric are left out, and of the others the other values; named events are left out.
pub async fn a_range_of_a_metric_shows_only_it(store: &Store) {
    let s = series("d", 1);
    let both = Report::Telemetry(vec![(metric("a"), Value::Int(1)), (metric("m"), Value::Int(2))]);
    let named = Report::Event { name: metric("m"), data: json!({}) };
    append(
        store,
        "n",
        &[
            event(&s, at(1), both),
            event(&s, at(2), named),
            sample(&s, at(3), "a", Value::Int(3)),
            sample(&s, at(4), "m", Value::Int(4)),
        ],
    )
    .await;
    let of_metric = Range { series: s.clone(), metric: Some(metric("m")), from: ALL.0, until: ALL.1 };
    let (mut found, mut cursor) = (Vec::new(), None);
    loop {
        let page = store.range(&of_metric, false, cursor.as_ref(), 1).await.unwrap();
        found.extend(page.items.iter().map(|stored| stored.event.report.clone()));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(found, [2, 4].map(|n| Report::Telemetry(vec![(metric("m"), Value::Int(n))])));
    assert_eq!(all(store, &s).await.len(), 4);
}

/// Count, min, max, sum, first and last, by the device's time and then by sequence; text does not count.
pub async fn a_bucket_has_all_statistics(store: &Store) {
    let s = series("d", 1);
    let values =
        [(3, Value::Float(2.5)), (1, Value::Int(4)), (3, Value::Bool(true)), (2, Value::Int(-1)), (1, Value::Int(3))];
    let mut events: Vec<Event> =
        values.into_iter().map(|(seconds, value)| sample(&s, at(seconds), "m", value)).collect();
    events.extend([sample(&s, at(0), "m", Value::Text("9".to_owned())), sample(&s, at(0), "x", Value::Int(100))]);
    append(store, "n", &events).await;
    let expected = Bucket { start: at(0), count: 5, min: -1.0, max: 4.0, sum: 9.5, first: 4.0, last: 1.0 };
    assert_eq!(buckets(store, &s, ALL, 10).await, [expected]);
    assert_eq!(buckets(store, &s, (at(4), at(9)), 10).await, []);
}

/// Half-open like the range, which cuts the buckets at its ends without moving them.
pub async fn buckets_begin_at_multiples_also_before_1970(store: &Store) {
    let s = series("d", 1);
    let events: Vec<Event> = (-25..25).map(|n| sample(&s, at(n), "m", Value::Int(n))).collect();
    append(store, "n", &events).await;
    append(store, "n", &[sample(&s, Timestamp::from_micros(-1), "m", Value::Int(0))]).await;
    let found = buckets(store, &s, (at(-21), at(10)), 10).await;
    let counts: Vec<(Timestamp, u64)> = found.iter().map(|bucket| (bucket.start, bucket.count)).collect();
    assert_eq!(counts, [(at(-30), 1), (at(-20), 10), (at(-10), 11), (at(0), 10)]);
}

/// At most so many, the earliest.
pub async fn buckets_are_limited_to_the_earliest(store: &Store) {
    let s = series("d", 1);
    let events: Vec<Event> = (0..50).rev().map(|n| sample(&s, at(n), "m", Value::Int(n))).collect();
    append(store, "n", &events).await;
    let found = buckets(store, &s, ALL, 2).await;
    let counts: Vec<(Timestamp, u64)> = found.iter().map(|bucket| (bucket.start, bucket.count)).collect();
    assert_eq!(counts, [(at(0), 10), (at(10), 10)]);
}

/// Infinities and NaN go into the sum; min and max leave NaN out unless there is nothing else.
pub async fn odd_numbers_are_aggregated_as_ieee_754_says(store: &Store) {
    let s = series("d", 1);
    let values =
        [(0, f64::NAN), (1, 1.0), (2, f64::INFINITY), (10, f64::NAN), (20, f64::NEG_INFINITY), (21, f64::INFINITY)];
    let events: Vec<Event> = values.into_iter().map(|(n, value)| sample(&s, at(n), "m", Value::Float(value))).collect();
    append(store, "n", &events).await;
    let found = buckets(store, &s, ALL, 10).await;
    assert_eq!((found[0].min, found[0].max, found[0].count), (1.0, f64::INFINITY, 3));
    assert!(found[0].sum.is_nan() && found[0].first.is_nan());
    assert!(found[1].min.is_nan() && found[1].max.is_nan());
    assert!(found[2].sum.is_nan() && found[2].min == f64::NEG_INFINITY && found[2].last == f64::INFINITY);
}

/// An older one that comes later does not count; of equal times the later in the log does.
pub async fn latest_goes_by_the_time_of_the_device(store: &Store) {
    let s = series("d", 1);
    let log = [(5, "b", 1), (3, "b", 2), (5, "b", 3), (1, "a", 4), (4, "b", 5), (0, "a", 6)];
    for chunk in log.chunks(3) {
        let events: Vec<Event> =
            chunk.iter().map(|(when, name, n)| sample(&s, at(*when), name, Value::Int(*n))).collect();
        append(store, "n", &events).await;
    }
    let latest = |name, when, n| LatestValue { metric: metric(name), at: at(when), value: Value::Int(n) };
    assert_eq!(store.latest(&s).await.unwrap(), [latest("a", 1, 4), latest("b", 5, 3)]);
    append(store, "n", &[sample(&s, at(5), "b", Value::Text("x".to_owned()))]).await;
    assert_eq!(store.latest(&s).await.unwrap()[1].value, Value::Text("x".to_owned()));
}

/// A repeat changes nothing, and a named event has no value.
pub async fn latest_ignores_repeats_and_events(store: &Store) {
    let s = series("d", 1);
    append(store, "n", &[counted(&s, at(1), 1, Value::Int(1)), counted(&s, at(2), 1, Value::Int(2))]).await;
    append(store, "n", &[counted(&s, at(3), 1, Value::Int(3))]).await;
    append(store, "n", &[event(&s, at(4), Report::Event { name: metric("m"), data: json!(4) })]).await;
    let expected = LatestValue { metric: metric("m"), at: at(1), value: Value::Int(1) };
    assert_eq!(store.latest(&s).await.unwrap(), [expected]);
}

/// In order, from after a sequence, only what this node has appended.
pub async fn the_log_is_paged_by_node(store: &Store) {
    let s = series("d", 1);
    for n in 0..20 {
        append(store, if n % 4 == 3 { "other" } else { "n" }, &[sample(&s, at(-n), "m", Value::Int(n))]).await;
    }
    let (mut seen, mut last) = (Vec::new(), Sequence(0));
    loop {
        let page = store.after(&node("n"), last, 4).await.unwrap();
        assert!(page.len() <= 4 && page.iter().all(|stored| stored.sequence > last));
        let Some(newest) = page.last() else { break };
        last = newest.sequence;
        seen.extend(page.iter().map(int));
    }
    assert_eq!(seen, (0..20).filter(|n| n % 4 != 3).collect::<Vec<_>>());
    assert_eq!(store.after(&node("n"), Sequence(u64::MAX), 4).await.unwrap(), []);
    assert_eq!(store.after(&node("stranger"), Sequence(0), 4).await.unwrap(), []);
}

/// Each consumer of each node has its own.
pub async fn a_checkpoint_never_goes_back(store: &Store) {
    let (twin, logic) = (ConsumerId::parse("twin").unwrap(), ConsumerId::parse("logic").unwrap());
    for (to, expected) in [(0, 0), (5, 5), (3, 5), (5, 5), (6, 6)] {
        store.advance(&node("n"), &twin, Sequence(to)).await.unwrap();
        assert_eq!(store.checkpoint(&node("n"), &twin).await.unwrap(), Sequence(expected));
    }
    assert_eq!(store.checkpoint(&node("n"), &logic).await.unwrap(), Sequence(0));
    assert_eq!(store.checkpoint(&node("m"), &twin).await.unwrap(), Sequence(0));
}

/// A reader that has seen a sequence never sees a lower one appear, and in the end has seen all.
pub async fn concurrent_appends_show_no_gap_to_a_reader(store: &Store) {
    const WRITERS: i64 = 6;
    const BATCHES: i64 = 20;
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let store = Arc::clone(store);
        writers.spawn(async move {
            let s = series(&format!("d{writer}"), 1);
            for n in 0..BATCHES {
                append(&store, "n", &[sample(&s, at(n), "m", Value::Int(n)), sample(&s, at(n), "m", Value::Int(n))])
                    .await;
            }
        });
    }
    let (mut seen, mut last) = (BTreeMap::<String, Vec<i64>>::new(), Sequence(0));
    while seen.values().map(Vec::len).sum::<usize>() < usize::try_from(WRITERS * BATCHES * 2).unwrap() {
        for stored in store.after(&node("n"), last, 9).await.unwrap() {
            assert!(stored.sequence > last);
            last = stored.sequence;
            seen.entry(stored.event.device.to_string()).or_default().push(int(&stored));
        }
        tokio::task::yield_now().await;
    }
    writers.join_all().await;
    let expected: Vec<i64> = (0..BATCHES).flat_map(|n| [n, n]).collect();
    assert!(seen.values().all(|values| *values == expected));
}

async fn append(store: &Store, to: &str, events: &[Event]) -> Vec<Option<Sequence>> {
    store.append(&node(to), events).await.unwrap()
}

async fn range(
    store: &Store,
    of: &Series,
    (from, until): (Timestamp, Timestamp),
    newest_first: bool,
    cursor: Option<Cursor>,
    limit: u32,
) -> (Vec<StoredEvent>, Option<Cursor>) {
    let range = Range { series: of.clone(), metric: None, from, until };
    let page = store.range(&range, newest_first, cursor.as_ref(), limit).await.unwrap();
    assert!(page.items.len() <= limit as usize);
    (page.items, page.next.map(|next| Cursor::decode(&next.encode()).unwrap()))
}

async fn all(store: &Store, of: &Series) -> Vec<StoredEvent> {
    range(store, of, ALL, false, None, 1_000).await.0
}

async fn walk(store: &Store, of: &Series, newest_first: bool, limit: u32) -> Vec<i64> {
    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let (items, next) = range(store, of, ALL, newest_first, cursor, limit).await;
        seen.extend(items.iter().map(int));
        cursor = next;
        if cursor.is_none() {
            return seen;
        }
    }
}

/// Of ten seconds.
async fn buckets(store: &Store, of: &Series, (from, until): (Timestamp, Timestamp), limit: u32) -> Vec<Bucket> {
    let aggregate = Aggregate { series: of.clone(), metric: metric("m"), from, until, bucket: Duration::from_secs(10) };
    store.aggregate(&aggregate, limit).await.unwrap()
}

fn value(stored: &StoredEvent) -> Value {
    let Report::Telemetry(values) = &stored.event.report else { panic!("not a sample: {stored:?}") };
    assert_eq!(values.len(), 1);
    values[0].1.clone()
}

fn int(stored: &StoredEvent) -> i64 {
    let Value::Int(value) = value(stored) else { panic!("not a whole number: {stored:?}") };
    value
}

fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Float(one), Value::Float(other)) => one.to_bits() == other.to_bits() || one.is_nan() && other.is_nan(),
        _ => one == other,
    }
}

/// Of one epoch of one device, by every way of reading.
pub async fn what_is_erased_is_gone_and_nothing_else(store: &Store) {
    let (gone, other, next) = (series("d", 1), series("e", 1), series("d", 2));
    for of in [&gone, &other, &next] {
        let events: Vec<Event> = (0..20).map(|n| sample(of, at(n), "m", Value::Int(n))).collect();
        append(store, "n", &events).await;
    }
    store.advance(&node("n"), &ConsumerId::parse("c").unwrap(), Sequence(7)).await.unwrap();
    assert_eq!(store.erase(&gone).await.unwrap(), 20);
    assert_eq!(store.erase(&gone).await.unwrap(), 0);
    assert!(all(store, &gone).await.is_empty());
    assert!(store.latest(&gone).await.unwrap().is_empty());
    let log = store.after(&node("n"), Sequence(0), 100).await.unwrap();
    assert_eq!(log.len(), 40);
    assert!(log.iter().all(|stored| (stored.event.device != gone.device) || stored.event.epoch != gone.epoch));
    for of in [&other, &next] {
        assert_eq!(all(store, of).await.len(), 20);
        assert_eq!(store.latest(of).await.unwrap()[0].value, Value::Int(19));
    }
    let checkpoint = store.checkpoint(&node("n"), &ConsumerId::parse("c").unwrap()).await.unwrap();
    assert_eq!(checkpoint, Sequence(7), "consumers stay where they are");
}

/// A count that was seen before the erasure is not a repeat after it, and no sequence comes twice.
pub async fn an_erased_series_begins_anew(store: &Store) {
    let of = series("d", 1);
    let before = append(store, "n", &[counted(&of, at(9), 1, Value::Int(1))]).await[0].unwrap();
    assert_eq!(store.erase(&of).await.unwrap(), 1);
    let after = append(store, "n", &[counted(&of, at(1), 1, Value::Int(2))]).await[0];
    assert!(after.expect("it is no repeat") > before);
    assert_eq!(all(store, &of).await.len(), 1);
    assert_eq!(store.latest(&of).await.unwrap()[0].value, Value::Int(2));
}
