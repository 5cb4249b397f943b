//! What every released layout holds is there after the upgrade.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use iot_core::{
    event::{Event, Report, Sequence, Value},
    id::{ConsumerId, DeviceId, Metric, NodeId, OwnershipEpoch, ProductId, TenantId},
    store::{LatestValue, Range, Series, TelemetryStore},
    time::Timestamp,
};
use iot_store::{StoreLimits, sqlite::Sqlite};

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
