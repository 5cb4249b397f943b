use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use async_trait::async_trait;
use iot_core::{
    logic::{Action, BoxError, Effect, EventBatch},
    message::QoS,
    push::{Kind, Notification, Push, PushError, Pushed},
};
use iot_store::{StoreLimits, memory::Memory};
use tokio::sync::mpsc;
use tower::{service_fn, util::BoxCloneSyncService};

use super::cloud::{Cloud, soon, tenant};
use crate::mqtt::ReasonCode;

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
