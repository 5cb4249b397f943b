//! What every released layout holds is there after the upgrade.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use iot_core::{
    event::{Event, Report, Sequence, Value},
    id::{ConsumerId, DeviceId, Metric, NodeId, OwnershipEpoch, ProductId, TenantId},
    message::QoS,
    session::Position,
    store::{
        LatestValue, MetaStore, Publication, Range, Series, SessionStore, Settled, Settlement, StoredSubscription,
        Target, TelemetryStore,
    },
    time::Timestamp,
};
use iot_store::{StoreLimits, sqlite::Sqlite};
use support::{opening, session, tenant};

fn series(device: &str, epoch: u64) -> Series {
    Series {
        tenant: TenantId::parse("t").unwrap(),
        device: DeviceId::parse(device).unwrap(),
        epoch: OwnershipEpoch(epoch),
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1_000)
}

fn latest(metric: &str, seconds_tenths: i64, value: Value) -> LatestValue {
    LatestValue { metric: Metric::parse(metric).unwrap(), at: Timestamp::from_millis(seconds_tenths * 100), value }
}

#[tokio::test]
async fn telemetry_of_layout_1_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let old = rusqlite::Connection::open(folder.path().join("data.db")).unwrap();
    old.execute_batch(include_str!("fixtures/data_1.sql")).unwrap();
    drop(old);

    for _ in 0..2 {
        let store = Sqlite::open(folder.path(), StoreLimits::default()).await.unwrap();
        let (node, one, other) = (NodeId::parse("n").unwrap(), series("d", 1), series("e", 2));
        let range = Range { series: one.clone(), metric: None, from: at(0), until: at(9) };
        let found = store.range(&range, false, None, 9).await.unwrap().items;
        let sequences: Vec<u64> = found.iter().map(|stored| stored.sequence.0).collect();
        assert_eq!(sequences, [2, 4, 3]);
        assert_eq!(found[2].event.home.as_ref().unwrap().as_str(), "h");
        let expected = [latest("m", 30, Value::Float(22.5)), latest("x", 5, Value::Int(5))];
        assert_eq!(store.latest(&one).await.unwrap(), expected);
        assert_eq!(store.latest(&other).await.unwrap(), [latest("n", 10, Value::Int(5))]);
        assert_eq!(store.after(&node, Sequence(3), 9).await.unwrap().len(), 2);
        assert_eq!(store.checkpoint(&node, &ConsumerId::parse("twin").unwrap()).await.unwrap(), Sequence(3));
        let repeat = Event {
            tenant: one.tenant.clone(),
            product: ProductId::parse("p").unwrap(),
            device: one.device.clone(),
            epoch: one.epoch,
            home: None,
            at: at(1),
            received: at(5),
            device_sequence: Some(9),
            report: Report::Telemetry(vec![(Metric::parse("m").unwrap(), Value::Int(1))]),
        };
        assert_eq!(store.append(&node, &[repeat]).await.unwrap(), [None]);
        store.close().await;
    }
}

#[tokio::test]
async fn records_and_sessions_of_layout_1_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let old = rusqlite::Connection::open(folder.path().join("control.db")).unwrap();
    old.execute_batch(include_str!("fixtures/control_1.sql")).unwrap();
    drop(old);

    let store = Sqlite::open(folder.path(), StoreLimits::default()).await.unwrap();
    let keys: Vec<_> = (0..3).map(|n| support::record("x", n)).collect();
    assert!(store.get(&keys).await.unwrap().into_iter().all(|record| record.unwrap().body == "{}"));
    assert_eq!(store.audit(&tenant(), None, 9).await.unwrap().items[0].subject, "x");
    let retained = store.retained(&tenant(), "#", None, 9, Timestamp::EPOCH).await.unwrap();
    assert_eq!((&*retained[0].topic, &retained[0].payload[..], retained.len()), ("a/b", &b"retained"[..], 1));

    let opened = store.open(opening(1)).await.unwrap();
    assert_eq!(opened.epoch.0, 3);
    let subscription = StoredSubscription {
        filter: "a/#".to_owned(),
        qos: QoS::ExactlyOnce,
        no_local: false,
        retain_as_published: true,
        identifier: Some(7),
    };
    assert_eq!(opened.resumed.unwrap().subscriptions, [subscription]);
    let queued = async |number| -> Vec<(Position, Vec<u8>)> {
        let found = store.peek(&session(number), None, 9, usize::MAX).await.unwrap();
        found.into_iter().map(|queued| (queued.position, queued.message.payload.to_vec())).collect()
    };
    let (both, one) = ((Position(1), b"both".to_vec()), (Position(2), b"one".to_vec()));
    assert_eq!(queued(1).await, [both.clone(), one.clone()]);
    assert_eq!(queued(2).await, std::slice::from_ref(&both));

    // What the former layout left goes as what is written now does, and a new message stands behind it.
    let target = Target { session: session(1), qos: QoS::AtLeastOnce, retain: false, identifiers: Vec::new() };
    let message = store.peek(&session(1), None, 1, usize::MAX).await.unwrap().remove(0).message;
    let more = Publication { message, to: vec![target], received: None };
    let _ = store.offer(&[more]).await.unwrap();
    assert_eq!(queued(1).await, [both.clone(), one, (Position(3), b"both".to_vec())]);
    let settled = [Settled::Finished(Position(1)), Settled::Finished(Position(2)), Settled::Forgotten(7)];
    let settled = settled.map(|step| Settlement { session: session(1), epoch: opened.epoch, step });
    store.settle(&settled).await.unwrap();
    assert_eq!(queued(1).await, [(Position(3), b"both".to_vec())]);
    assert_eq!(queued(2).await, [both]);
    let last = Settlement { session: session(1), epoch: opened.epoch, step: Settled::Finished(Position(3)) };
    store.settle(&[last]).await.unwrap();
    store.close().await;

    let store = Sqlite::open(folder.path(), StoreLimits::default()).await.unwrap();
    assert_eq!(store.peek(&session(1), None, 9, usize::MAX).await.unwrap(), []);
    assert_eq!(store.peek(&session(2), None, 9, usize::MAX).await.unwrap().len(), 1);
}
