//! Twins over stores: who is told what, races, a restart, a new owner, bounds.

#[cfg(feature = "http")]
mod http;

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use iot_core::{
    access::{Principal, Subject},
    clock::{Clock, ManualClock},
    device::{Device, Stage},
    id::{DeviceId, OwnershipEpoch, ServiceName, TenantId, TokenId},
    service::{Call, DeviceCall, Downlink, Told},
    store::{Batch, MetaStore, MetaStoreExt, Write},
    time::Timestamp,
    twin::{Object, Twin, TwinLimits, Written},
};
use iot_store::{StoreLimits, memory::Memory, sqlite::Sqlite};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{Desire, TwinWritten, Twins};

/// Keeps what devices are told, while they are connected.
#[derive(Debug, Default)]
struct Recorder {
    online: AtomicBool,
    told: Mutex<Vec<(String, Value)>>,
}

#[async_trait]
impl Downlink for Recorder {
    async fn tell(&self, tenant: &TenantId, device: &DeviceId, service: &ServiceName, payload: Bytes) -> Told {
        if !self.online.load(Ordering::SeqCst) {
            return Told::NotConnected;
        }
        let to = format!("{tenant}/{device}/{service}");
        self.told.lock().unwrap().push((to, serde_json::from_slice(&payload).unwrap()));
        Told::Sent
    }
}

struct Site {
    meta: Arc<dyn MetaStore>,
    clock: Arc<ManualClock>,
    downlink: Arc<Recorder>,
    twins: Arc<Twins>,
    lamp: Device,
}

impl Site {
    async fn new() -> Self {
        Self::over(Arc::new(Memory::new(StoreLimits::default())), TwinLimits::default()).await
    }

    async fn over(meta: Arc<dyn MetaStore>, limits: TwinLimits) -> Self {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_763_856_000_000)));
        let downlink = Arc::new(Recorder::default());
        downlink.online.store(true, Ordering::SeqCst);
        let twins = Arc::new(Twins::new(meta.clone(), clock.clone(), downlink.clone()).with_limits(limits));
        let site = Self { meta, clock, downlink, twins, lamp: lamp(0) };
        site.put(&site.lamp).await;
        site
    }

    async fn put(&self, device: &Device) {
        let batch = Batch { writes: vec![Write::put(device)], ..Batch::default() };
        assert!(self.meta.commit_or_conflict(batch).await.unwrap());
    }

    async fn desire(&self, patch: Value, expected_version: Option<u64>, expires: Option<Timestamp>) -> TwinWritten {
        let desire = Desire { patch: object(patch), expected_version, expires };
        self.twins.write_desired(&app(), &self.lamp, &desire).await.unwrap()
    }

    async fn call(&self, device: &Device, call: Call) -> Option<Value> {
        let call = DeviceCall { device: Arc::new(device.clone()), call };
        let answer = self.twins.device_service().oneshot(call).await.unwrap();
        answer.map(|payload| serde_json::from_slice(&payload).unwrap())
    }

    async fn ask(&self, question: impl ToString) -> Value {
        self.call(&self.lamp, Call::Asked(question.to_string().into())).await.unwrap()
    }

    fn told(&self) -> Vec<Value> {
        let told = std::mem::take(&mut *self.downlink.told.lock().unwrap());
        told.into_iter().map(|(to, payload)| (assert_eq!(to, "acme/lamp/twin"), payload).1).collect()
    }
}

fn lamp(epoch: u64) -> Device {
    Device {
        tenant: "acme".parse().unwrap(),
        product: "lamps".parse().unwrap(),
        id: "lamp".parse().unwrap(),
        p_code: "LAMP".parse().unwrap(),
        stage: Stage::Activated,
        epoch: OwnershipEpoch(epoch),
        home: None,
        keys: vec![],
        created: Timestamp::EPOCH,
    }
}

fn app() -> Principal {
    let subject = Subject::Token(TokenId::parse("app").unwrap());
    Principal { tenant: "acme".parse().unwrap(), subject }
}

fn object(value: Value) -> Object {
    match value {
        Value::Object(members) => members,
        other => panic!("{other} is no object"),
    }
}

fn done(written: &TwinWritten) -> u64 {
    match written {
        TwinWritten::Decided(Written::Done { version, .. }) => *version,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_connected_device_is_told_and_one_that_comes_back_learns_what_is_left() {
    let site = Site::new().await;
    assert_eq!(site.call(&site.lamp, Call::Connected).await, None, "nothing is desired yet");
    assert_eq!(done(&site.desire(json!({"on": true, "level": 3}), None, None).await), 1);
    let delta = json!({"type": "delta", "version": 1, "desired": {"on": true, "level": 3}});
    assert_eq!(site.told(), [delta]);

    site.downlink.online.store(false, Ordering::SeqCst);
    assert_eq!(done(&site.desire(json!({"level": 4}), None, None).await), 2);
    assert_eq!(site.told(), [] as [Value; 0]);
    let left = json!({"type": "delta", "version": 2, "desired": {"on": true, "level": 4}});
    assert_eq!(site.call(&site.lamp, Call::Connected).await, Some(left));

    let report = json!({"type": "report", "reported": {"on": true, "level": 4.0}});
    assert_eq!(site.ask(report).await, json!({"type": "accepted", "version": 3}));
    assert_eq!(site.call(&site.lamp, Call::Connected).await, None, "it has done what it was told");
    let twin = json!({"type": "twin", "version": 3, "desired": {"on": true, "level": 4}, "reported": {"on": true, "level": 4.0}});
    assert_eq!(site.ask(json!({"type": "get"})).await, twin);
}

#[tokio::test]
async fn a_write_without_effect_tells_nobody_and_a_repeated_report_gets_a_new_time() {
    let site = Site::new().await;
    let _done = site.desire(json!({"on": true}), None, None).await;
    let report = json!({"type": "report", "reported": {"on": true}});
    assert_eq!(site.ask(&report).await["version"], 2);
    site.told();
    let revision = site.meta.revision().await.unwrap();
    let again = site.desire(json!({"on": true}), None, None).await;
    assert_eq!(again, TwinWritten::Decided(Written::Unchanged { version: 2 }));
    assert_eq!(site.meta.revision().await.unwrap(), revision, "nothing was written");
    assert_eq!(site.told(), [] as [Value; 0]);

    site.clock.advance(Duration::from_secs(60));
    assert_eq!(site.ask(&report).await, json!({"type": "accepted", "version": 2}));
    let twin = site.twins.read(&site.lamp).await.unwrap();
    assert_eq!(twin.reported_meta["/on"].at, site.clock.timestamp());
}

#[tokio::test]
async fn each_change_of_what_is_desired_is_in_the_audit_log_with_its_writer() {
    let site = Site::new().await;
    let _done = site.desire(json!({"on": true}), None, None).await;
    let _unchanged = site.desire(json!({"on": true}), None, None).await;
    let _mismatch = site.desire(json!({"on": false}), Some(9), None).await;
    let audit = site.meta.audit(&site.lamp.tenant, None, 10).await.unwrap().items;
    let entries: Vec<_> = audit.iter().map(|e| (e.actor.as_str(), e.action.as_str(), e.subject.as_str())).collect();
    assert_eq!(entries, [("acme/token/app", "twin_desired_write", "twin:acme/lamp/0")]);
}

#[tokio::test]
async fn an_expired_desire_is_delivered_to_nobody() {
    let site = Site::new().await;
    site.downlink.online.store(false, Ordering::SeqCst);
    let end = site.clock.timestamp().plus(Duration::from_secs(10));
    let _done = site.desire(json!({"boost": true}), None, Some(end)).await;
    assert_eq!(site.call(&site.lamp, Call::Connected).await.unwrap()["desired"], json!({"boost": true}));
    site.clock.advance(Duration::from_secs(10));
    assert_eq!(site.call(&site.lamp, Call::Connected).await, None);
    assert_eq!(site.ask(json!({"type": "get"})).await["desired"], json!({}));
    site.downlink.online.store(true, Ordering::SeqCst);
    // Read as version 2, although the store has not followed yet.
    assert_eq!(done(&site.desire(json!({"on": true}), Some(2), None).await), 3);
    assert_eq!(site.told(), [json!({"type": "delta", "version": 3, "desired": {"on": true}})]);
}

#[tokio::test]
async fn malformed_questions_and_writes_beyond_the_rules_are_refused_and_change_nothing() {
    let limits = TwinLimits { bytes_max: 1_000, depth_max: 3, keys_max: 5, key_bytes_max: 8 };
    let site = Site::over(Arc::new(Memory::new(StoreLimits::default())), limits).await;
    assert_eq!(site.ask(json!({"type": "report", "reported": {"on": true}})).await["type"], "accepted");
    let before = site.meta.revision().await.unwrap();
    let report = |reported: Value| json!({"type": "report", "reported": reported}).to_string();
    for (question, code) in [
        ("{".to_owned(), "payload_invalid"),
        (String::new(), "payload_invalid"),
        ("[]".to_owned(), "payload_invalid"),
        (json!({"type": "desire", "desired": {}}).to_string(), "payload_invalid"),
        (json!({"type": "get", "of": "other"}).to_string(), "payload_invalid"),
        (json!({"type": "report"}).to_string(), "payload_invalid"),
        (report(json!([1])), "payload_invalid"),
        (report(json!(null)), "payload_invalid"),
        (json!({"type": "report", "reported": {}, "version": -1}).to_string(), "payload_invalid"),
        (json!({"type": "report", "reported": {"on": false}, "version": 7}).to_string(), "version_mismatch"),
        (report(json!({"text": "x".repeat(1_000)})), "twin_too_large"),
        (report(json!({"a": {"b": {"c": {}}}})), "twin_too_deep"),
        (report(json!({"a": 1, "b": 1, "c": 1, "d": 1, "e": 1})), "twin_too_many_keys"),
        (report(json!({"ninebytes": 1})), "twin_key_too_long"),
        (
            format!("{{\"type\":\"report\",\"reported\":{}{}}}", "{\"a\":".repeat(5_000), "}".repeat(5_000)),
            "payload_invalid",
        ),
    ] {
        let answer = site.ask(&question).await;
        assert_eq!((&answer["type"], &answer["code"]), (&json!("refused"), &json!(code)), "{question:.60}");
    }
    assert_eq!(site.meta.revision().await.unwrap(), before);
    assert_eq!(site.ask(report(json!({"a": 1, "b": 1, "c": 1, "d": 1}))).await["type"], "accepted", "the bound itself");
}

#[tokio::test]
async fn a_new_owner_sees_a_new_twin_and_the_former_one_reaches_nothing() {
    let site = Site::new().await;
    let _done = site.desire(json!({"on": true, "name": "ann's"}), None, None).await;
    assert_eq!(site.ask(json!({"type": "report", "reported": {"wifi": "ann"}})).await["version"], 2);
    site.told();

    let sold = lamp(1);
    site.put(&sold).await;
    assert_eq!(site.call(&sold, Call::Connected).await, None);
    let empty = json!({"type": "twin", "version": 0, "desired": {}, "reported": {}});
    assert_eq!(site.call(&sold, Call::Asked(json!({"type": "get"}).to_string().into())).await, Some(empty));

    // Who still holds the device of the former epoch writes nothing, and the device is told nothing.
    let before = site.meta.revision().await.unwrap();
    assert_eq!(site.desire(json!({"on": false}), None, None).await, TwinWritten::OwnerChanged);
    assert_eq!(site.ask(json!({"type": "report", "reported": {"on": true}})).await["code"], "owner_changed");
    assert_eq!((site.meta.revision().await.unwrap(), site.told()), (before, vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_fifty_writers_for_one_version_one_wins_each_time() {
    let site = Arc::new(Site::new().await);
    for version in 0..5 {
        let writers: Vec<_> = (0..50)
            .map(|writer| {
                let site = site.clone();
                let patch = json!({"winner": [version, writer]});
                tokio::spawn(async move { site.desire(patch, Some(version), None).await })
            })
            .collect();
        let mut won = 0;
        for writer in writers {
            match writer.await.unwrap() {
                TwinWritten::Decided(Written::Done { version: new, .. }) => {
                    assert_eq!(new, version + 1);
                    won += 1;
                }
                lost => assert_eq!(lost, TwinWritten::Decided(Written::VersionMismatch { version: version + 1 })),
            }
        }
        assert_eq!(won, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_writers_without_a_version_all_write_each_its_own() {
    let site = Arc::new(Site::new().await);
    let writers: Vec<_> = (0..50)
        .map(|writer| {
            let site = site.clone();
            tokio::spawn(async move { done(&site.desire(json!({format!("w{writer}"): 1}), None, None).await) })
        })
        .collect();
    let mut versions = BTreeSet::new();
    for writer in writers {
        assert!(versions.insert(writer.await.unwrap()), "a version was given twice");
    }
    assert!(versions.into_iter().eq(1..=50));
    assert_eq!(site.twins.read(&site.lamp).await.unwrap().desired.len(), 50);
}

#[tokio::test]
async fn a_twin_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let open = async |folder: &Path| Arc::new(Sqlite::open(folder, StoreLimits::default()).await.unwrap());
    let before = {
        let site = Site::over(open(folder.path()).await, TwinLimits::default()).await;
        let _done = site.desire(json!({"on": true, "level": 0.1, "big": u64::MAX}), None, None).await;
        assert_eq!(site.ask(json!({"type": "report", "reported": {"on": true}})).await["version"], 2);
        site.twins.read(&site.lamp).await.unwrap()
    };
    let site = Site::over(open(folder.path()).await, TwinLimits::default()).await;
    assert_eq!(site.twins.read(&site.lamp).await.unwrap(), before);
    let delta = json!({"type": "delta", "version": 2, "desired": {"level": 0.1, "big": u64::MAX}});
    assert_eq!(site.call(&site.lamp, Call::Connected).await, Some(delta));
    let stored = site.meta.find::<Twin>(&Twin::key_of(&site.lamp)).await.unwrap().unwrap();
    assert_eq!(stored.document, before);
}
