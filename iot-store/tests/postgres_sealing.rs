//! Sealing in PostgreSQL: broken off anywhere, by two at a time, beside readers, and of nodes that count each for itself.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use iot_core::{
    event::{Event, Report, Sequence, StoredEvent, Value},
    id::{ConsumerId, DeviceId, Metric, NodeId, OwnershipEpoch},
    store::{Aggregate, Policies, Range, Series, StoreError, TelemetryStore},
    time::Timestamp,
};
use iot_store::{StoreLimits, postgres::Postgres};
use tokio::task::JoinSet;

const DEVICES: i64 = 30;
const REPORTS: i64 = 40;
const HOUR: i64 = 3_600_000_000;

/// Connections are cut at moments all over the way: each time everything is there, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sealing_that_is_cut_anywhere_loses_nothing_and_doubles_nothing() {
    let settings = cluster::fresh();
    let store = Postgres::open(&settings, StoreLimits::default()).await.unwrap();
    let beside = cluster::connect(&settings).await;
    let (mut cuts, mut rounds) = (0, 0);
    while cuts < 12 {
        rounds += 1;
        assert!(rounds < 400, "nothing was cut");
        fill(&store, rounds).await;
        let before = answers(&store, rounds).await;
        let sealing = tokio::spawn({
            let store = store.clone();
            async move { store.maintain(at(3 * HOUR), &Policies::default()).await }
        });
        let [seen, cut] = ["count(*)", "count(pg_terminate_backend(pid))"].map(|what| {
            format!(
                "SELECT {what} FROM pg_locks JOIN pg_class ON pg_class.oid = relation
                WHERE relname IN ('part', 'chunk', 'rollup') AND relnamespace = $1::text::regnamespace
                AND pid <> pg_backend_pid()"
            )
        });
        // Looks so many times at a step that is under way before it cuts.
        let mut looks = rounds % 7;
        while !sealing.is_finished() {
            let sql = if looks > 0 { &seen } else { &cut };
            if beside.query_one(sql, &[&settings.schema]).await.unwrap().get::<_, i64>(0) == 0 {
                continue;
            }
            if looks == 0 {
                break;
            }
            looks -= 1;
        }
        match sealing.await.unwrap() {
            Ok(_) => {}
            Err(StoreError::Unavailable { .. }) => cuts += 1,
            Err(other) => panic!("{other:?}"),
        }
        assert_eq!(answers(&store, rounds).await, before);
        store.maintain(at(3 * HOUR), &Policies::default()).await.unwrap();
        assert_eq!(answers(&store, rounds).await, before);
        let left = beside.query_one("SELECT count(*) FROM event", &[]).await.unwrap();
        assert_eq!(left.get::<_, i64>(0), 0);
    }
    println!("count: sealing was cut {cuts} times in {rounds} rounds, nothing lost or doubled");
}

/// Two stores seal, one erases, one reads: a reader sees each event of what is not erased once, at every moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_while_others_seal_and_erase_sees_everything_once() {
    let settings = cluster::fresh();
    let one = Postgres::open(&settings, StoreLimits::default()).await.unwrap();
    let other = Postgres::open(&settings, StoreLimits::default()).await.unwrap();
    for round in 1..=6 {
        fill(&one, round).await;
        let before = answers(&one, round).await;
        let mut tasks = JoinSet::new();
        for store in [one.clone(), other.clone()] {
            tasks.spawn(async move {
                let _ = store.maintain(at(3 * HOUR), &Policies::default()).await.unwrap();
            });
        }
        let gone = Series { epoch: OwnershipEpoch(1_000), ..series(0, round) };
        let erased: Vec<Event> =
            (0..200).map(|n| Event { epoch: gone.epoch, ..event(0, round, n, Value::Int(n)) }).collect();
        other.append(&node(1), &erased).await.unwrap();
        let store = other.clone();
        tasks.spawn(async move { assert_eq!(store.erase(&gone).await.unwrap(), 200) });
        while !tasks.is_empty() {
            assert_eq!(answers(&other, round).await, before);
            while let Some(ended) = tasks.try_join_next() {
                ended.unwrap();
            }
        }
    }
    let beside = cluster::connect(&settings).await;
    let sql = "SELECT (SELECT count(*) FROM event) + (SELECT count(*) FROM series WHERE epoch = 1000)";
    assert_eq!(beside.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 0);
}

/// Each node counts for itself: two events have one time and one sequence, in the log, in chunks, and one here and one there.
#[tokio::test]
async fn events_of_two_nodes_in_one_place_are_both_there_in_one_order() {
    let store = Postgres::open(&cluster::fresh(), StoreLimits::default()).await.unwrap();
    let twice = |n: i64| [(1, n), (2, n + 100)];
    let mut pages = Vec::new();
    for sealed_through in [0, 1, 2] {
        let device = sealed_through + 1;
        for (of, base) in [(0, 0), (1, 10)] {
            for n in 0..10 {
                for (on, value) in twice(base + n) {
                    let report = Event { at: at(7 * n), ..event(device, 1, base + n, Value::Int(value)) };
                    let received = at(of * 3 * HOUR);
                    store.append(&node(on), &[Event { received, device_sequence: None, ..report }]).await.unwrap();
                }
            }
            if of < sealed_through {
                store.maintain(at((3 * of + 2) * HOUR), &Policies::default()).await.unwrap();
            }
        }
        let values = |events: Vec<StoredEvent>| -> Vec<String> {
            events.iter().map(|stored| format!("{:?} {:?}", stored.event.at, stored.event.report)).collect()
        };
        let forward = values(paged(&store, &series(device, 1), false).await);
        let mut backward = values(paged(&store, &series(device, 1), true).await);
        backward.reverse();
        assert_eq!(forward, backward);
        assert_eq!(forward.len(), 40);
        pages.push(forward);
    }
    assert!(pages[0] == pages[1] && pages[1] == pages[2]);
}

/// As long as somebody waits for it, and no longer; a repeat is known even then.
#[tokio::test]
async fn what_is_sealed_stays_in_the_log_for_a_consumer_and_repeats_are_known_for_ever() {
    let settings = cluster::fresh();
    let store = Postgres::open(&settings, StoreLimits::default()).await.unwrap();
    let beside = cluster::connect(&settings).await;
    let consumer = ConsumerId::parse("twin").unwrap();
    assert_eq!(store.checkpoint(&node(1), &consumer).await.unwrap(), Sequence(0));
    fill(&store, 1).await;
    let before = answers(&store, 1).await;
    let rows = async || beside.query_one("SELECT count(*) FROM event", &[]).await.unwrap().get::<_, i64>(0);
    let seal = async |now| store.maintain(now, &Policies::default()).await.unwrap().sealed;
    assert_eq!(seal(at(3 * HOUR)).await, (DEVICES * REPORTS).unsigned_abs());
    assert_eq!(rows().await, DEVICES * REPORTS / 2, "those of the node that is waited for");
    assert_eq!(answers(&store, 1).await, before);
    let seen = store.after(&node(1), Sequence(0), 100).await.unwrap();
    store.advance(&node(1), &consumer, seen[99].sequence).await.unwrap();
    assert_eq!(seal(at(3 * HOUR)).await, 0);
    assert_eq!(rows().await, DEVICES * REPORTS / 2 - 100);
    assert_eq!(seal(at(8 * 24 * HOUR)).await, 0);
    assert_eq!(rows().await, 0);
    assert_eq!(answers(&store, 1).await, before);
    let again: Vec<Event> = (0..REPORTS).map(|n| event(3, 1, n, Value::Int(0))).collect();
    assert!(store.append(&node(2), &again).await.unwrap().iter().all(Option::is_none));
    assert_eq!(answers(&store, 1).await, before);
}

/// All that is known of the devices of a round.
async fn answers(store: &Postgres, round: i64) -> Vec<String> {
    let mut answers = Vec::new();
    for device in 0..DEVICES {
        let of = series(device, round);
        let range = Range { series: of.clone(), metric: None, from: at(i64::MIN), until: at(i64::MAX) };
        let page = store.range(&range, device % 2 == 0, None, 1_000).await.unwrap();
        assert!(page.next.is_none() && page.items.len() == usize::try_from(REPORTS).unwrap(), "{}", page.items.len());
        answers.push(format!("{:?}", page.items));
        for width in [60, 7] {
            let aggregate = Aggregate {
                series: of.clone(),
                metric: metric(),
                from: at(0),
                until: at(HOUR),
                bucket: std::time::Duration::from_secs(width),
            };
            answers.push(format!("{:?}", store.aggregate(&aggregate, 1_000).await.unwrap()));
        }
        answers.push(format!("{:?}", store.latest(&of).await.unwrap()));
    }
    answers
}

/// Half of them from each of two nodes.
async fn fill(store: &Postgres, round: i64) {
    for on in [1, 2] {
        let mine = (0..DEVICES * REPORTS).filter(|n| n % 2 == i64::from(on) - 1);
        let events: Vec<Event> = mine
            .map(|n| (n % DEVICES, n / DEVICES))
            .map(|(device, n)| event(device, round, n, Value::Float((n * 5 % 17) as f64)))
            .collect();
        assert!(store.append(&node(on), &events).await.unwrap().iter().all(Option::is_some));
    }
}

async fn paged(store: &Postgres, series: &Series, newest_first: bool) -> Vec<StoredEvent> {
    let range = Range { series: series.clone(), metric: None, from: at(0), until: at(HOUR) };
    let (mut found, mut cursor) = (Vec::new(), None);
    loop {
        let page = store.range(&range, newest_first, cursor.as_ref(), 1).await.unwrap();
        found.extend(page.items);
        cursor = page.next;
        if cursor.is_none() {
            return found;
        }
    }
}

fn event(device: i64, round: i64, n: i64, value: Value) -> Event {
    let Series { tenant, device, epoch } = series(device, round);
    Event {
        tenant,
        product: "p".parse().unwrap(),
        device,
        epoch,
        home: None,
        at: at(n * 11_000_000),
        received: at(n),
        device_sequence: Some(n.unsigned_abs()),
        report: Report::Telemetry(vec![(metric(), value)]),
    }
}

fn series(device: i64, round: i64) -> Series {
    let device = DeviceId::parse(&format!("d{device}")).unwrap();
    Series { tenant: "t".parse().unwrap(), device, epoch: OwnershipEpoch(round.unsigned_abs()) }
}

fn metric() -> Metric {
    Metric::parse("m").unwrap()
}

fn node(number: u8) -> NodeId {
    NodeId::parse(&format!("n{number}")).unwrap()
}

fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}
