//! What [`TelemetryStore::maintain`] promises: older reports change their form and are forgotten in time, and nothing else.

use std::{sync::Arc, time::Duration};

use iot_core::{
    event::{Event, Report, Sequence, StoredEvent, Value},
    id::ConsumerId,
    store::{Aggregate, Bucket, LatestValue, Maintained, Page, Policies, Range, Retention, Series, TelemetryStore},
    time::Timestamp,
};
use serde_json::json;

use super::samples::{counted, event, metric, node, sample, series};

pub(super) type Store = Arc<dyn TelemetryStore>;

pub(super) const MINUTE: i64 = 60;
pub(super) const HOUR: i64 = 3_600;
pub(super) const DAY: i64 = 86_400;

/// All that can be asked of a series.
#[derive(Debug, PartialEq)]
pub(super) struct Answers {
    latest: Vec<LatestValue>,
    ranges: Vec<Page<StoredEvent>>,
    buckets: Vec<Vec<Bucket>>,
}

/// Of a span of some days from 1970 on, whole and in pieces, in buckets that a rollup has and in others.
pub(super) async fn answers(store: &Store, of: &Series) -> Answers {
    let spans = [(-DAY, 40 * DAY), (0, HOUR), (30, 3 * HOUR + 7), (5 * MINUTE, 90 * MINUTE)];
    let (mut ranges, mut buckets) = (Vec::new(), Vec::new());
    for (from, until) in spans.map(|(from, until)| (time(from), time(until))) {
        for name in [None, Some(metric("m"))] {
            let range = Range { series: of.clone(), metric: name, from, until };
            for (newest_first, limit) in [(false, 1_000), (true, 1_000), (false, 3), (true, 3)] {
                let mut cursor = None;
                for _ in 0..4 {
                    let page = store.range(&range, newest_first, cursor.as_ref(), limit).await.unwrap();
                    cursor.clone_from(&page.next);
                    ranges.push(page);
                    if cursor.is_none() {
                        break;
                    }
                }
            }
        }
        for width in [7, MINUTE, 100, HOUR, 6 * HOUR, DAY] {
            let bucket = Duration::from_secs(width.unsigned_abs());
            let aggregate = Aggregate { series: of.clone(), metric: metric("m"), from, until, bucket };
            for limit in [1, 3, 10_000] {
                buckets.push(store.aggregate(&aggregate, limit).await.unwrap());
            }
        }
    }
    Answers { latest: store.latest(of).await.unwrap(), ranges, buckets }
}

/// Neither ranges in both directions and in pages, nor statistics, nor latest values; nor does doing it again.
pub async fn maintenance_changes_no_answer(store: &Store) {
    let s = series("d", 1);
    let values = |n: i64| Report::Telemetry(vec![(metric("m"), half(n)), (metric("other"), Value::Int(n))]);
    let events: Vec<Event> = (0..300).map(|n| event(&s, time(n * 37 % 9_000), values(n))).collect();
    append(store, &events).await;
    append(store, &[event(&s, time(50), Report::Event { name: metric("door"), data: json!({"open": true}) })]).await;
    let before = answers(store, &s).await;
    for _ in 0..2 {
        assert_eq!(maintain(store, DAY).await.forgotten, 0);
        assert_eq!(answers(store, &s).await, before);
    }
}

/// Whether it is sealed or not; and an empty store is no special one.
pub async fn usage_grows_with_what_is_kept(store: &Store) {
    let empty = store.usage().await.unwrap().bytes;
    let fill = async |device: &str| {
        let events: Vec<Event> =
            (0..5_000).map(|n| sample(&series(device, 1), time(n), "m", half(n * n % 977))).collect();
        append(store, &events).await;
    };
    fill("d").await;
    let hot = store.usage().await.unwrap().bytes;
    assert!(hot > empty, "{empty} {hot}");
    maintain(store, DAY).await;
    let sealed = store.usage().await.unwrap().bytes;
    for device in 0..10 {
        fill(&format!("e{device}")).await;
        maintain(store, DAY).await;
    }
    assert!(store.usage().await.unwrap().bytes > sealed.max(empty));
}

/// In raw form and in rollups, whether it is sealed yet or not; and the latest stays the latest.
pub async fn what_arrives_late_is_found_and_counted(store: &Store) {
    let (s, other) = (series("d", 1), series("e", 1));
    let late = |n: i64| Event { received: time(n * HOUR), ..sample(&s, time(n * 11 % 7_200), "m", half(n)) };
    let events: Vec<Event> = (0..120).map(late).collect();
    for (portion, events) in events.chunks(17).enumerate() {
        append(store, events).await;
        let same: Vec<Event> =
            events.iter().map(|event| Event { device: other.device.clone(), ..event.clone() }).collect();
        append(store, &same).await;
        if portion % 2 == 0 {
            maintain(store, 200 * HOUR).await;
        }
        let answers = answers(store, &s).await;
        let hour = answers.buckets[11].clone();
        let expected: Vec<i64> =
            (0..120_i64.min(17 * (portion as i64 + 1))).filter(|n| n * 11 % 7_200 < HOUR).collect();
        assert_eq!(hour[0].count, expected.len() as u64);
        let newest = expected.iter().max_by_key(|n| (*n * 11 % 7_200, **n)).unwrap();
        assert_eq!(hour[0].last, as_f64(*newest));
        assert_eq!(answers.buckets[17].iter().map(|bucket| bucket.count).sum::<u64>(), events_so_far(portion, 17, 120));
    }
    let reference = answers(store, &s).await;
    maintain(store, 400 * HOUR).await;
    assert_eq!(answers(store, &s).await, reference);
}

/// Reports of a day are kept for their days after its end, to the microsecond; latest values stay for ever.
pub async fn nothing_is_forgotten_early_and_everything_in_the_end(store: &Store) {
    let s = series("d", 1);
    let policies = kept(2, 2, 2, 2);
    let received = |n: i64, at: Timestamp| Event { received: at, ..sample(&s, time(1_000 - n), "m", Value::Int(n)) };
    let moment = Timestamp::from_micros(DAY * 1_000_000 - 1);
    append(store, &[received(1, time(0)), received(2, moment), received(3, time(DAY))]).await;
    let latest = store.latest(&s).await.unwrap();
    let all = |store: Store, s: Series| async move { ints(&store, &s).await };
    let early = Timestamp::from_micros(3 * DAY * 1_000_000 - 1);
    assert_eq!(store.maintain(early, &policies).await.unwrap().forgotten, 0);
    assert_eq!(all(store.clone(), s.clone()).await, [3, 2, 1]);
    assert_eq!(store.maintain(time(3 * DAY), &policies).await.unwrap().forgotten, 2);
    assert_eq!(all(store.clone(), s.clone()).await, [3]);
    assert_eq!(store.maintain(time(4 * DAY), &policies).await.unwrap().forgotten, 1);
    assert_eq!(all(store.clone(), s.clone()).await, [0; 0]);
    assert_eq!(store.latest(&s).await.unwrap(), latest);
}

/// Who has asked where it stands sees all that it has not seen, though it was sealed; but not for ever.
pub async fn the_log_waits_for_its_consumers_for_a_week(store: &Store) {
    let s = series("d", 1);
    let consumer = ConsumerId::parse("twin").unwrap();
    assert_eq!(store.checkpoint(&node("n"), &consumer).await.unwrap(), Sequence(0));
    append(store, &(0..50).map(|n| sample(&s, time(n), "m", Value::Int(n))).collect::<Vec<_>>()).await;
    let seen = store.after(&node("n"), Sequence(0), 20).await.unwrap();
    store.advance(&node("n"), &consumer, seen[19].sequence).await.unwrap();
    maintain(store, 6 * DAY).await;
    let rest = store.after(&node("n"), seen[19].sequence, 100).await.unwrap();
    assert_eq!(rest.len(), 30);
    store.advance(&node("n"), &consumer, rest[29].sequence).await.unwrap();
    append(store, &[sample(&s, time(6 * DAY), "m", Value::Int(50))]).await;
    assert_eq!(store.after(&node("n"), rest[29].sequence, 100).await.unwrap().len(), 1);
    maintain(store, 30 * DAY).await;
    assert_eq!(ints(store, &s).await.len(), 51, "what was dropped from the log is there");

    // What is forgotten waits as well.
    let received = |n: i64| Event { received: time(40 * DAY), ..sample(&s, time(n), "short", Value::Int(n)) };
    let given = append(store, &(0..10).map(received).collect::<Vec<_>>()).await;
    store.advance(&node("n"), &consumer, given[3].unwrap()).await.unwrap();
    let of_short = Range { series: s.clone(), metric: Some(metric("short")), from: time(0), until: time(DAY) };
    for (days, left) in [(41, 10), (42, 0), (46, 0)] {
        let _ = store.maintain(time(days * DAY), &kept(1, 1, 1, 1)).await.unwrap();
        assert_eq!(store.range(&of_short, false, None, 100).await.unwrap().items.len(), left);
        let unseen = store.after(&node("n"), given[3].unwrap(), 100).await.unwrap();
        assert_eq!(unseen.iter().map(|stored| Some(stored.sequence)).collect::<Vec<_>>(), given[4..]);
    }
    store.advance(&node("n"), &consumer, given[7].unwrap()).await.unwrap();
    let _ = store.maintain(time(46 * DAY), &kept(1, 1, 1, 1)).await.unwrap();
    assert_eq!(store.after(&node("n"), given[7].unwrap(), 100).await.unwrap().len(), 2);
    let _ = store.maintain(time(48 * DAY), &kept(1, 1, 1, 1)).await.unwrap();
    assert_eq!(store.after(&node("n"), given[3].unwrap(), 100).await.unwrap(), []);
}

/// Whether or not it is sealed by then is the backend's own affair.
pub async fn repeats_are_recognised_while_the_report_is_young(store: &Store) {
    let s = series("d", 1);
    let first: Vec<Event> = (0..10).map(|n| counted(&s, time(n), n.unsigned_abs(), Value::Int(n))).collect();
    append(store, &first).await;
    let _ = store.maintain(time(10), &Policies::default()).await.unwrap();
    assert!(store.append(&node("n"), &first).await.unwrap().iter().all(Option::is_none));
    assert_eq!(ints(store, &s).await.len(), 10);
    // However many gaps a device leaves, and from whichever end it sends.
    let gaps: Vec<Event> =
        (0..1_000).rev().map(|n| counted(&s, time(20 + n), 100 + 2 * n.unsigned_abs(), half(n))).collect();
    assert!(append(store, &gaps).await.iter().all(Option::is_some));
    assert!(append(store, &gaps).await.iter().all(Option::is_none));
}

/// Not even if the whole log is gone.
pub async fn sequences_are_not_reused_after_forgetting(store: &Store) {
    let s = series("d", 1);
    let before = append(store, &[counted(&s, time(1), 1, Value::Int(1)), counted(&s, time(1), 2, Value::Int(1))]).await;
    assert_eq!(store.maintain(Timestamp::MAX, &Policies::default()).await.unwrap().forgotten, 2);
    let after = append(store, &[counted(&s, time(1), 3, Value::Int(1))]).await;
    assert!(after[0] > before[1], "{before:?} {after:?}");
}

/// A device that reports seldom is sealed a few reports at a time; days with any number of portions read as one.
pub async fn many_small_portions_are_one_series(store: &Store) {
    let s = series("d", 1);
    for n in 0..40 {
        append(store, &[sample(&s, time(n * HOUR), "m", half(n)), sample(&s, time(n * HOUR), "m", half(n))]).await;
        maintain(store, (n + 2) * HOUR).await;
    }
    let found = all(store, &s).await;
    assert_eq!(found.len(), 80);
    assert!(found.windows(2).all(|pair| (pair[0].event.at, pair[0].sequence) < (pair[1].event.at, pair[1].sequence)));
    let seen = answers(store, &s).await;
    maintain(store, 400 * HOUR).await;
    assert_eq!(answers(store, &s).await, seen);
}

/// Every kind of value, names twice in one report, no values at all, the ends of time.
pub async fn odd_reports_survive_maintenance(store: &Store) {
    let s = series("d", 1);
    let floats = [0.0, -0.0, 5e-324, f64::MAX, f64::INFINITY, f64::NEG_INFINITY, 0.1, 21.5];
    let values = floats.into_iter().map(Value::Float).chain([i64::MIN, i64::MAX, 0].map(Value::Int)).chain([
        Value::Bool(true),
        Value::Text(String::new()),
        Value::Text("ä \u{0}".to_owned()),
        Value::Json(json!([1, {"a": null}])),
    ]);
    let mut events: Vec<Event> = values.enumerate().map(|(n, value)| sample(&s, time(n as i64), "m", value)).collect();
    let twice = vec![(metric("m"), Value::Int(1)), (metric("n"), Value::Bool(false)), (metric("m"), Value::Int(2))];
    events.push(event(&s, time(20), Report::Telemetry(twice)));
    events.push(event(&s, time(21), Report::Telemetry(Vec::new())));
    events.push(event(&s, time(22), Report::Event { name: metric("door"), data: json!(null) }));
    for at in [i64::MIN, i64::MIN + 1, -1, i64::MAX - 1] {
        events.push(Event { at: Timestamp::from_micros(at), ..sample(&s, time(23), "far", Value::Int(at)) });
    }
    append(store, &events).await;
    let (before, latest) = (all(store, &s).await, store.latest(&s).await.unwrap());
    assert_eq!(before.len(), events.len());
    maintain(store, DAY).await;
    assert_eq!(all(store, &s).await, before);
    assert_eq!(store.latest(&s).await.unwrap(), latest);
    let aggregate = Aggregate {
        series: s.clone(),
        metric: metric("far"),
        from: Timestamp::from_micros(i64::MIN),
        until: Timestamp::MAX,
        bucket: Duration::from_secs(60),
    };
    assert_eq!(store.aggregate(&aggregate, 10).await.unwrap().iter().map(|bucket| bucket.count).sum::<u64>(), 4);
}

pub(super) fn time(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}

// Exact in whatever order such values are added.
pub(super) fn half(n: i64) -> Value {
    Value::Float(as_f64(n))
}

fn as_f64(n: i64) -> f64 {
    f64::from(i32::try_from(n).unwrap()) / 2.0
}

pub(super) fn kept(raw: u32, minute: u32, hour: u32, day: u32) -> Policies {
    Policies { default: Retention::new(raw, minute, hour, day).unwrap(), ..Policies::default() }
}

fn events_so_far(portion: usize, size: usize, all: usize) -> u64 {
    ((portion + 1) * size).min(all) as u64
}

async fn maintain(store: &Store, seconds: i64) -> Maintained {
    store.maintain(time(seconds), &Policies::default()).await.unwrap()
}

pub(super) async fn append(store: &Store, events: &[Event]) -> Vec<Option<Sequence>> {
    store.append(&node("n"), events).await.unwrap()
}

async fn all(store: &Store, of: &Series) -> Vec<StoredEvent> {
    let (from, until) = (Timestamp::from_micros(i64::MIN), Timestamp::MAX);
    let range = Range { series: of.clone(), metric: None, from, until };
    store.range(&range, false, None, 1_000).await.unwrap().items
}

pub(super) async fn reports(store: &Store, of: &Series) -> Vec<Report> {
    all(store, of).await.into_iter().map(|stored| stored.event.report).collect()
}

pub(super) async fn ints(store: &Store, of: &Series) -> Vec<i64> {
    let value = |report: &Report| match report {
        Report::Telemetry(values) => match values.first() {
            Some((_, Value::Int(value))) => *value,
            other => panic!("not a whole number: {other:?}"),
        },
        Report::Event { .. } => panic!("not a sample"),
    };
    reports(store, of).await.iter().map(value).collect()
}
