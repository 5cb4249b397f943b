//! What the tests write.

use std::time::Duration;

use iot_core::{
    event::{Event, Report, Value},
    id::{DeviceId, Metric, NodeId, OwnershipEpoch, ProductId, TenantId},
    message::{Message, QoS},
    session::SessionId,
    store::{Batch, Committed, IndexKey, Key, MetaStore, Opening, Write},
    time::Timestamp,
};
use iot_store::{
    StoreLimits,
    postgres::{Postgres, PostgresSettings},
};

pub(crate) async fn open(settings: &PostgresSettings) -> Postgres {
    Postgres::open(settings, StoreLimits::default()).await.unwrap()
}

pub(crate) async fn done(store: &Postgres, name: &str) {
    let committed = store.commit(batch([put(name, "{}", &[])])).await.unwrap();
    assert!(matches!(committed, Committed::Done(_)), "{committed:?}");
}

pub(crate) fn key(name: &str) -> Key {
    Key::new("thing", name)
}

pub(crate) fn put(name: &str, body: &str, index_keys: &[IndexKey]) -> Write {
    Write::Put { key: key(name), format: 1, body: body.to_owned(), index_keys: index_keys.to_vec() }
}

pub(crate) fn batch(writes: impl IntoIterator<Item = Write>) -> Batch {
    Batch { writes: writes.into_iter().collect(), ..Batch::default() }
}

pub(crate) fn tenant() -> TenantId {
    TenantId::parse("t").unwrap()
}

pub(crate) fn node() -> NodeId {
    NodeId::parse("n").unwrap()
}

pub(crate) fn session(name: &str) -> SessionId {
    SessionId::anonymous(&tenant(), name)
}

pub(crate) fn opening(session: &SessionId) -> Opening {
    Opening {
        session: session.clone(),
        clean: false,
        keep: Duration::from_secs(3_600),
        will: None,
        at: Timestamp::from_micros(0),
    }
}

pub(crate) fn message(payload: &str) -> Message {
    Message {
        tenant: tenant(),
        topic: "a".into(),
        payload: bytes::Bytes::copy_from_slice(payload.as_bytes()),
        qos: QoS::AtLeastOnce,
        retain: false,
        properties: None,
        published: Timestamp::from_micros(0),
        expires: None,
        device: None,
    }
}

pub(crate) fn event(device: &str) -> Event {
    Event {
        tenant: tenant(),
        product: ProductId::parse("p").unwrap(),
        device: DeviceId::parse(device).unwrap(),
        epoch: OwnershipEpoch(1),
        home: None,
        at: Timestamp::from_micros(0),
        received: Timestamp::from_micros(0),
        device_sequence: Some(1),
        report: Report::Telemetry(vec![(Metric::parse("m").unwrap(), Value::Int(1))]),
    }
}
