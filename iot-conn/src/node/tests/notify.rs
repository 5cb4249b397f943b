use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use async_trait::async_trait;
use iot_core::{
    access::{Principal, Standing, Subject},
    device::Device,
    event::{EventId, Sequence},
    id::{DeviceId, OwnershipEpoch},
    logic::{Action, BoxError, Effect, EventBatch},
    message::QoS,
    push::{Announcement, Kind, Notification, Push, PushError, Pushed},
    store::{Batch, Document, Index, MetaStore, MetaStoreExt, Stored},
    time::Timestamp,
};
use iot_store::{StoreLimits, memory::Memory};
use tokio::sync::mpsc;
use tower::{service_fn, util::BoxCloneSyncService};

use super::{
    client::soon,
    cloud::{Cloud, tenant},
};
use crate::{
    mqtt::ReasonCode,
    node::{Alarm, LiveFilter, LiveKind, LiveStream, effects::carry_out},
};

/// Takes everything, after some failures.
#[derive(Debug)]
struct Taker {
    taken: mpsc::UnboundedSender<Notification>,
    failures: AtomicU32,
}

#[async_trait]
impl Push for Taker {
    async fn push(&self, notification: &Notification) -> Result<Pushed, PushError> {
        let less = |left: u32| left.checked_sub(1);
        if self.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok() {
            return Err(PushError::Unavailable("down".into()));
        }
        self.taken.send(notification.clone()).unwrap();
        Ok(Pushed::Taken)
    }
}

fn taker(failures: u32) -> (Arc<Taker>, mpsc::UnboundedReceiver<Notification>) {
    let (taken, notifications) = mpsc::unbounded_channel();
    (Arc::new(Taker { taken, failures: AtomicU32::new(failures) }), notifications)
}

/// Raises an alarm for whatever comes.
async fn alarmed(batch: EventBatch) -> Result<Vec<Effect>, BoxError> {
    let raise = |event| Effect {
        cause: batch.id_of(event),
        index: 0,
        action: Action::Alarm {
            tenant: event.event.tenant.clone(),
            device: event.event.device.clone(),
            epoch: event.event.epoch,
            name: "heat".to_owned(),
            active: true,
            text: "hot".to_owned(),
        },
    };
    Ok(batch.events.iter().map(raise).collect())
}

#[tokio::test]
async fn presence_and_alarms_reach_the_push_backend_even_if_it_fails_first() {
    let (taker, mut notifications) = taker(1);
    let memory = Arc::new(Memory::new(StoreLimits::default()));
    let cloud = Cloud::with(memory, |builder| {
        let logic = BoxCloneSyncService::new(service_fn(alarmed));
        builder.notify(taker.clone()).consumer("logic".parse().unwrap(), logic)
    })
    .await;
    let mut lamp = cloud.client("dev-lamp", "lamp").await;
    let online = soon("online", notifications.recv()).await.unwrap();
    assert_eq!((online.kind, &online.tenant), (Kind::DeviceOnline, &tenant()));
    assert_eq!(online.device.as_ref().unwrap().0.as_str(), "lamp");

    taker.failures.store(1, Ordering::Relaxed);
    lamp.publish("up/telemetry", r#"{"values":{"n":1}}"#, QoS::AtLeastOnce).await;
    let raised = soon("the alarm", notifications.recv()).await.unwrap();
    assert_eq!((raised.kind, raised.text().as_str()), (Kind::AlarmRaised, "lamp: heat: hot"));
    assert!(raised.id.as_str().starts_with("alarm-n-") && raised.id.as_str().ends_with("-0"), "{}", raised.id);

    lamp.leave(ReasonCode::Success).await;
    let offline = soon("offline", notifications.recv()).await.unwrap();
    assert_eq!(offline.kind, Kind::DeviceOffline);
    assert_ne!(offline.id, online.id);
    cloud.stop().await;
}

async fn device_of(cloud: &Cloud, id: &str) -> Device {
    let key = Device::key_of(&tenant(), &id.parse().unwrap());
    cloud.node.stores().meta.find::<Device>(&key).await.unwrap().unwrap().document
}

fn bound(id: &str, epoch: u64) -> Notification {
    let device = Device {
        tenant: tenant(),
        product: "p".parse().unwrap(),
        id: DeviceId::parse(id).unwrap(),
        p_code: id.to_uppercase().parse().unwrap(),
        stage: iot_core::device::Stage::Activated,
        epoch: OwnershipEpoch(epoch),
        home: Some("h".parse().unwrap()),
        keys: vec![],
        created: Timestamp::EPOCH,
    };
    Notification::bound(&device, Timestamp::EPOCH)
}

async fn waiting(meta: &dyn MetaStore) -> u64 {
    meta.count(&Index::new(Announcement::KIND, "waiting", Announcement::WAITING)).await.unwrap()
}

/// What was committed before a crash and what is committed while the node runs; the backend is down at first.
#[tokio::test]
async fn what_is_announced_with_a_change_is_pushed_however_often_that_fails_and_then_forgotten() {
    let (taker, mut notifications) = taker(1);
    let memory = Arc::new(Memory::new(StoreLimits::default()));
    let early = [bound("lamp", 1), bound("door", 1)];
    for told in &early {
        assert!(memory.commit_or_conflict(Batch::default().announced(told.clone())).await.unwrap());
    }
    let cloud = Cloud::with(memory, |builder| builder.notify(taker)).await;
    let mut heard = vec![];
    for _ in &early {
        heard.push(soon("what was announced before", notifications.recv()).await.unwrap());
    }
    heard.sort_by(|one, other| other.id.cmp(&one.id));
    assert_eq!(heard, early, "the one that fails holds the other not up, and comes again");

    let meta = cloud.node.stores().meta.clone();
    let late = bound("lamp", 2);
    assert!(meta.commit_or_conflict(Batch::default().announced(late.clone())).await.unwrap());
    assert_eq!(soon("what is announced now", notifications.recv()).await.unwrap(), late);
    cloud.settled().await;
    soon("the records to go", async {
        while waiting(&*meta).await > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    cloud.stop().await;
    assert!(notifications.recv().await.is_none(), "each was pushed once");
}

#[tokio::test]
async fn a_node_that_tells_nobody_keeps_no_announcements() {
    let cloud = Cloud::start().await;
    let meta = cloud.node.stores().meta.clone();
    assert!(meta.commit_or_conflict(Batch::default().announced(bound("lamp", 1))).await.unwrap());
    soon("the record to go", async {
        while waiting(&*meta).await > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    cloud.stop().await;
}

fn heat(sequence: u64, epoch: u64, active: bool) -> Vec<Effect> {
    let (name, text) = ("heat".to_owned(), format!("in epoch {epoch}"));
    let device = DeviceId::parse("lamp").unwrap();
    let epoch = OwnershipEpoch(epoch);
    let action = Action::Alarm { tenant: tenant(), device, epoch, name, active, text };
    let cause = EventId { node: "n".parse().unwrap(), sequence: Sequence(sequence) };
    vec![Effect { cause, index: 0, action }]
}

async fn alarms(cloud: &Cloud) -> LiveStream {
    let who = Principal { tenant: tenant(), subject: Subject::Token("app-a".parse().unwrap()) };
    let Standing::Current(grants) = cloud.node.inner.access.standing(&who).await.unwrap() else { panic!("revoked") };
    let filter = LiveFilter { kinds: [LiveKind::Alarm].into(), ..LiveFilter::default() };
    cloud.node.live(who, grants, filter, None).await.unwrap()
}

#[tokio::test]
async fn bd_17_an_alarm_of_the_former_owner_is_not_told_to_the_next() {
    let (taker, mut notifications) = taker(0);
    let cloud = Cloud::with(Arc::new(Memory::new(StoreLimits::default())), |builder| builder.notify(taker)).await;
    let inner = &cloud.node.inner;
    let record = async || -> Alarm {
        let key = Alarm::key_of(&tenant(), &"lamp".parse().unwrap(), "heat");
        let stored: Stored<Alarm> = cloud.node.stores().meta.find(&key).await.unwrap().unwrap();
        stored.document
    };
    let mut stream = alarms(&cloud).await;
    carry_out(inner.clone(), heat(1, 0, true)).await.unwrap();
    let first = soon("the honest alarm", notifications.recv()).await.unwrap();
    assert_eq!(first.device, Some(("lamp".parse().unwrap(), OwnershipEpoch(0))));
    assert_eq!(soon("it", stream.next()).await.unwrap().data["text"], "in epoch 0");
    drop(stream);

    // The device gets another owner. What was to be done for the former one comes late, and comes again.
    cloud.change("lamp", |device| device.epoch = OwnershipEpoch(1)).await;
    cloud.settled().await;
    assert_eq!(device_of(&cloud, "lamp").await.epoch, OwnershipEpoch(1));
    let before = record().await;
    let mut stream = alarms(&cloud).await;
    for late in [heat(1, 0, true), heat(2, 0, true), heat(3, 0, false), heat(4, 0, true)] {
        carry_out(inner.clone(), late).await.unwrap();
        assert_eq!(record().await, before, "nothing is raised or cleared");
    }

    // That its own report is cool tells the next owner nothing of an alarm before.
    carry_out(inner.clone(), heat(5, 1, false)).await.unwrap();
    assert_eq!((record().await.active, record().await.epoch), (false, OwnershipEpoch(1)));
    carry_out(inner.clone(), heat(6, 1, true)).await.unwrap();
    let next = soon("the next owner's alarm", notifications.recv()).await.unwrap();
    assert_eq!(
        (next.device.clone(), next.text().as_str()),
        (Some(("lamp".parse().unwrap(), OwnershipEpoch(1))), "lamp: heat: in epoch 1")
    );
    assert_eq!(
        soon("it", stream.next()).await.unwrap().data["text"],
        "in epoch 1",
        "neither raised before nor cleared"
    );
    cloud.stop().await;
}
