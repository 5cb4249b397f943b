//! What the cases write.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use iot_core::{
    event::{Event, Report, Value},
    id::{DeviceId, Metric, NodeId, OwnershipEpoch, ProductId, TenantId},
    message::{Message, QoS},
    session::{SessionEpoch, SessionId},
    store::{
        Batch, Closing, Committed, IndexKey, Key, Offered, Opened, Opening, Publication, Revision, Series,
        SessionStore, StoredSubscription, Target, Write,
    },
    time::Timestamp,
};

pub(super) const HOUR: Duration = Duration::from_secs(3_600);

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}

pub(super) fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).unwrap()
}

pub(super) fn node(name: &str) -> NodeId {
    NodeId::parse(name).unwrap()
}

pub(super) fn metric(name: &str) -> Metric {
    Metric::parse(name).unwrap()
}

pub(super) fn key(name: impl std::fmt::Display) -> Key {
    Key::new("thing", name.to_string())
}

pub(super) fn put(name: impl std::fmt::Display, body: &str, index_keys: &[IndexKey]) -> Write {
    Write::Put { key: key(name), format: 1, body: body.to_owned(), index_keys: index_keys.to_vec() }
}

pub(super) fn writes(writes: impl IntoIterator<Item = Write>) -> Batch {
    Batch { writes: writes.into_iter().collect(), ..Batch::default() }
}

#[track_caller]
pub(super) fn done(committed: Committed) -> Revision {
    match committed {
        Committed::Done(revision) => revision,
        Committed::Conflict(key) => panic!("a conflict with {key}"),
    }
}

pub(super) fn series(device: &str, epoch: u64) -> Series {
    Series { tenant: tenant("t"), device: DeviceId::parse(device).unwrap(), epoch: OwnershipEpoch(epoch) }
}

pub(super) fn event(of: &Series, when: Timestamp, report: Report) -> Event {
    Event {
        tenant: of.tenant.clone(),
        product: ProductId::parse("p").unwrap(),
        device: of.device.clone(),
        epoch: of.epoch,
        home: None,
        at: when,
        received: when,
        device_sequence: None,
        report,
    }
}

pub(super) fn sample(of: &Series, when: Timestamp, name: &str, value: Value) -> Event {
    event(of, when, Report::Telemetry(vec![(metric(name), value)]))
}

pub(super) fn counted(of: &Series, when: Timestamp, count: u64, value: Value) -> Event {
    Event { device_sequence: Some(count), ..sample(of, when, "m", value) }
}

pub(super) fn session(name: &str) -> SessionId {
    SessionId::anonymous(&tenant("t"), name)
}

pub(super) fn opening(name: &str, when: Timestamp) -> Opening {
    Opening { session: session(name), clean: false, keep: HOUR, will: None, at: when }
}

pub(super) fn closing(name: &str, epoch: SessionEpoch, when: Timestamp, keep: Duration) -> Closing {
    Closing { session: session(name), epoch, at: when, keep, will: true, sent_through: Default::default() }
}

pub(super) async fn open(store: &Arc<dyn SessionStore>, name: &str) -> Opened {
    store.open(opening(name, at(0))).await.unwrap()
}

pub(super) fn message(topic: &str, payload: &str) -> Message {
    Message {
        tenant: tenant("t"),
        topic: topic.into(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos: QoS::AtLeastOnce,
        retain: false,
        properties: None,
        published: at(0),
        expires: None,
        device: None,
    }
}

pub(super) fn target(name: &str) -> Target {
    Target { session: session(name), qos: QoS::AtLeastOnce, retain: false, identifiers: Vec::new() }
}

pub(super) fn publication(payload: &str, to: &[&str]) -> Publication {
    Publication { message: message("a", payload), to: to.iter().map(|name| target(name)).collect(), received: None }
}

pub(super) async fn offer(store: &Arc<dyn SessionStore>, publication: Publication) -> Offered {
    store.offer(&[publication]).await.unwrap().remove(0)
}

pub(super) async fn retain(store: &Arc<dyn SessionStore>, message: Message) -> bool {
    let publication = Publication { message: Message { retain: true, ..message }, to: Vec::new(), received: None };
    !offer(store, publication).await.retained_full
}

pub(super) fn subscription(filter: &str, qos: QoS) -> StoredSubscription {
    StoredSubscription { filter: filter.to_owned(), qos, no_local: false, retain_as_published: false, identifier: None }
}

pub(super) async fn payloads(store: &Arc<dyn SessionStore>, name: &str) -> Vec<String> {
    let queued = store.peek(&session(name), None, 1_000, usize::MAX).await.unwrap();
    queued.into_iter().map(|queued| String::from_utf8(queued.message.payload.to_vec()).unwrap()).collect()
}
