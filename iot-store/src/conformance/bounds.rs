//! What holds at the ends: of time, of numbers, of sizes.

use std::time::Duration;

use iot_core::{
    event::{Event, Report, Sequence, StoredEvent, Value},
    message::Message,
    store::{Aggregate, Bucket, Fenced, Index, IndexKey, LatestValue, Opening, Range, Series, Stores},
    time::Timestamp,
};

use super::{
    LIMITS,
    samples::{
        HOUR, at, closing, done, key, message, metric, node, offer, open, opening, payloads, publication, put, sample,
        series, session, tenant, writes,
    },
};

const FIRST: Timestamp = Timestamp::from_micros(i64::MIN);
/// 1970, a microsecond before and after it; 2262, where nanoseconds in 64 bits end.
const MARKS: [i64; 8] = [i64::MIN, i64::MIN + 1, -1, 0, 1, 9_223_372_036_854_775, i64::MAX - 1, i64::MAX];

/// Every timestamp is stored, read and ordered.
pub async fn times_reach_from_the_first_to_the_last(stores: &Stores) {
    let s = series("d", 1);
    let events: Vec<Event> = MARKS
        .iter()
        .rev()
        .map(|micros| sample(&s, Timestamp::from_micros(*micros), "m", Value::Int(*micros)))
        .collect();
    assert!(stores.telemetry.append(&node("n"), &events).await.unwrap().iter().all(Option::is_some));
    let log = stores.telemetry.after(&node("n"), Sequence(0), 20).await.unwrap();
    assert_eq!(log.into_iter().map(|stored| stored.event).collect::<Vec<_>>(), events);
    let latest = LatestValue { metric: metric("m"), at: Timestamp::MAX, value: Value::Int(i64::MAX) };
    assert_eq!(stores.telemetry.latest(&s).await.unwrap(), [latest]);
    let found = within(stores, &s, FIRST, Timestamp::MAX).await;
    assert_eq!(found, MARKS[..7], "the last moment is excluded, as each end is");
}

/// From each mark to each other, half open, a page at a time.
pub async fn ranges_end_where_time_ends(stores: &Stores) {
    let s = series("d", 1);
    let events: Vec<Event> =
        MARKS.iter().map(|micros| sample(&s, Timestamp::from_micros(*micros), "m", Value::Int(*micros))).collect();
    stores.telemetry.append(&node("n"), &events).await.unwrap();
    for from in MARKS {
        for until in MARKS {
            let found = within(stores, &s, Timestamp::from_micros(from), Timestamp::from_micros(until)).await;
            let expected: Vec<i64> = MARKS.into_iter().filter(|mark| (from..until).contains(mark)).collect();
            assert_eq!(found, expected, "{from}..{until}");
        }
    }
}

/// A bucket that would begin before the first timestamp begins there; the widest has everything since 1970 in one.
pub async fn buckets_hold_at_the_ends_of_time(stores: &Stores) {
    let s = series("d", 1);
    let events: Vec<Event> =
        MARKS.iter().map(|micros| sample(&s, Timestamp::from_micros(*micros), "m", Value::Int(1))).collect();
    stores.telemetry.append(&node("n"), &events).await.unwrap();
    let of = |bucket| aggregate(stores, &s, FIRST, Timestamp::MAX, bucket);
    let widest = of(Duration::MAX).await;
    let counts: Vec<(i64, u64)> = widest.iter().map(|bucket| (bucket.start.as_micros(), bucket.count)).collect();
    assert_eq!(counts, [(i64::MIN, 3), (0, 4)]);
    let narrowest = of(Duration::from_micros(1)).await;
    let starts: Vec<i64> = narrowest.iter().map(|bucket| bucket.start.as_micros()).collect();
    assert_eq!(starts, MARKS[..7]);
    let hours = of(HOUR).await;
    assert_eq!(hours.iter().map(|bucket| bucket.count).collect::<Vec<_>>(), [2, 1, 2, 1, 1]);
    assert_eq!(hours[0].start, FIRST);
    assert_eq!(hours[1].start.as_micros(), -3_600_000_000);
}

/// Buckets on both sides of New Year 1970 and at the end of 2262 hold what belongs to them.
pub async fn a_year_is_not_a_bound(stores: &Stores) {
    let day = Duration::from_secs(86_400);
    let s = series("d", 1);
    let last_day_of_2262 = 9_246_095_999_i64;
    let seconds = [-86_401, -86_400, -1, 0, 86_399, 86_400, last_day_of_2262, last_day_of_2262 + 1];
    let events: Vec<Event> = (0..).zip(seconds).map(|(n, s_)| sample(&s, at(s_), "m", Value::Int(n))).collect();
    stores.telemetry.append(&node("n"), &events).await.unwrap();
    let found = aggregate(stores, &s, FIRST, Timestamp::MAX, day).await;
    let days: Vec<(i64, f64, f64)> =
        found.iter().map(|bucket| (bucket.start.as_micros() / 86_400_000_000, bucket.first, bucket.last)).collect();
    let turn = (last_day_of_2262 + 1) / 86_400;
    let expected = [(-2, 0., 0.), (-1, 1., 2.), (0, 3., 4.), (1, 5., 5.), (turn - 1, 6., 6.), (turn, 7., 7.)];
    assert_eq!(days, expected);
}

/// Also those that no float holds, in series, in latest values and in the log.
pub async fn whole_numbers_keep_every_bit(stores: &Stores) {
    let s = series("d", 1);
    let numbers = [i64::MIN, i64::MIN + 1, -(1 << 53) - 1, (1 << 53) + 1, i64::MAX - 1, i64::MAX];
    for (seconds, number) in (0..).zip(numbers) {
        stores.telemetry.append(&node("n"), &[sample(&s, at(seconds), "m", Value::Int(number))]).await.unwrap();
        assert_eq!(stores.telemetry.latest(&s).await.unwrap()[0].value, Value::Int(number));
    }
    assert_eq!(within(stores, &s, FIRST, Timestamp::MAX).await, numbers);
}

/// Index values and topics that differ only at their end, or in case, or by a character of another plane, are apart.
pub async fn texts_are_compared_by_bytes_also_when_long(stores: &Stores) {
    let long = "é".repeat(500);
    let values = [long.clone(), format!("{long}a"), format!("{long}A"), format!("{long}\u{10ffff}"), String::new()];
    let records = values.iter().enumerate().map(|(n, value)| put(n, "{}", &[IndexKey::unique("long", value)]));
    done(stores.meta.commit(writes(records)).await.unwrap());
    for (n, value) in values.iter().enumerate() {
        let page = stores.meta.list(&Index::new("thing", "long", value.as_str()), None, 10).await.unwrap();
        assert_eq!(page.items.iter().map(|record| record.key.clone()).collect::<Vec<_>>(), [key(n)]);
    }
    for topic in ["t/a", "t/A", "t/é", "t/\u{10ffff}"] {
        let retained = Message { retain: true, ..message(topic, topic) };
        stores
            .sessions
            .offer(&[iot_core::store::Publication { message: retained, ..publication("", &[]) }])
            .await
            .unwrap();
    }
    let found = stores.sessions.retained(&tenant("t"), "t/+", None, 9, at(0)).await.unwrap();
    assert_eq!(found.iter().map(|message| &*message.topic).collect::<Vec<_>>(), ["t/A", "t/a", "t/é", "t/\u{10ffff}"]);
}

/// A thousand records in one, with a body of a megabyte among them.
pub async fn batches_may_be_large(stores: &Stores) {
    let body = format!("\"{}\"", "x".repeat(1 << 20));
    let many = (0..1_000).map(|n| put(n, "{}", &[IndexKey::many("home", "h")]));
    let revision = done(stores.meta.commit(writes(many.chain([put("large", &body, &[])]))).await.unwrap());
    let changes = stores.meta.changes(iot_core::store::Revision(0), 10).await.unwrap();
    assert_eq!((changes.len(), changes[0].revision, changes[0].keys.len()), (1, revision, 1_001));
    assert_eq!(stores.meta.get(&[key("large")]).await.unwrap()[0].as_ref().unwrap().body, body);
    assert_eq!(stores.meta.count(&Index::new("thing", "home", "h")).await.unwrap(), 1_000);
    let page = stores.meta.list(&Index::new("thing", "home", "h"), None, u32::MAX).await.unwrap();
    assert_eq!((page.items.len(), page.next), (1_000, None));
}

/// A message whose time is over waits on until its session takes it or ends, since only the connection tells its clock; what
/// comes when the queue is full is refused, and nothing that waits makes room for it.
pub async fn a_queue_drops_nothing_by_itself(stores: &Stores) {
    let store = &stores.sessions;
    let epoch = open(store, "s").await.epoch;
    for n in 0..LIMITS.queue_messages_max + 3 {
        let expiring = Message { expires: Some(at(1)), ..message("a", &n.to_string()) };
        offer(store, iot_core::store::Publication { message: expiring, ..publication("", &["s"]) }).await;
    }
    let expected: Vec<String> = (0..LIMITS.queue_messages_max).map(|n| n.to_string()).collect();
    assert_eq!(payloads(store, "s").await, expected);
    let queued = store.peek(&session("s"), None, 1, usize::MAX).await.unwrap().remove(0);
    assert_eq!(queued.message.expires, Some(at(1)));
    assert_eq!(store.close(closing("s", epoch, at(2), HOUR)).await.unwrap(), Fenced::Done);
    assert!(store.open(opening("s", at(3))).await.unwrap().resumed.is_some());
    assert_eq!(payloads(store, "s").await, expected);
    let epoch = store.open(Opening { keep: HOUR, ..opening("s", at(3)) }).await.unwrap().epoch;
    assert_eq!(store.close(closing("s", epoch, at(3), HOUR)).await.unwrap(), Fenced::Done);
    assert_eq!(store.open(opening("s", at(3).plus(HOUR))).await.unwrap().resumed, None, "the session was over");
    assert_eq!(payloads(store, "s").await, [""; 0]);
}

async fn within(stores: &Stores, of: &Series, from: Timestamp, until: Timestamp) -> Vec<i64> {
    let range = Range { series: of.clone(), metric: None, from, until };
    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let page = stores.telemetry.range(&range, false, cursor.as_ref(), 3).await.unwrap();
        seen.extend(page.items.iter().map(int));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    let mut back = stores.telemetry.range(&range, true, None, 100).await.unwrap().items;
    back.reverse();
    assert_eq!(back.iter().map(int).collect::<Vec<_>>(), seen, "backwards");
    seen
}

fn int(stored: &StoredEvent) -> i64 {
    match &stored.event.report {
        Report::Telemetry(values) => match values[..] {
            [(_, Value::Int(number))] => number,
            ref other => panic!("{other:?}"),
        },
        other @ Report::Event { .. } => panic!("{other:?}"),
    }
}

async fn aggregate(stores: &Stores, of: &Series, from: Timestamp, until: Timestamp, bucket: Duration) -> Vec<Bucket> {
    let aggregate = Aggregate { series: of.clone(), metric: metric("m"), from, until, bucket };
    stores.telemetry.aggregate(&aggregate, 100).await.unwrap()
}
