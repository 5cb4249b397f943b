//! Tells a [`Push`] of alarms, of devices that come and go, and of what is announced in the store.

use std::{error::Error, sync::Arc, time::Duration};

use iot_core::{
    device::Device,
    id::TenantId,
    push::{FieldMismatch, FieldValue, Kind, Notification, NotificationId, Push, PushError, relay},
};
use tokio::sync::{Mutex, mpsc};

use super::{Inner, Presence, effects::Alarm, endpoint::DeviceContext};

/// The most notifications of presence that wait. A further one is dropped and counted: presence is told again by the next
/// change.
const PRESENCE_WAITING_MAX: usize = 10_000;

const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Notifier {
    push: Arc<dyn Push>,
    sender: mpsc::Sender<Notification>,
    waiting: Mutex<mpsc::Receiver<Notification>>,
}

impl Notifier {
    pub(crate) fn new(push: Arc<dyn Push>) -> Self {
        let (sender, waiting) = mpsc::channel(PRESENCE_WAITING_MAX);
        Self { push, sender, waiting: Mutex::new(waiting) }
    }

    /// Takes a change of presence along, if there is room. It is lost if the node ends before it was pushed.
    pub(crate) fn presence(&self, tenant: &TenantId, device: &DeviceContext, presence: &Presence) {
        let Some(notification) = presence_notification(tenant, device, presence) else { return };
        if self.sender.try_send(notification).is_err() {
            metrics::counter!("iot_presence_notifications_dropped_total").increment(1);
        }
    }

    /// Returns once the notification of an alarm's change is kept; after an error the effect must be carried out again.
    pub(crate) async fn alarm(&self, alarm: &Alarm, device: &Device, index: u16) -> Result<(), PushError> {
        let Some(notification) = alarm_notification(alarm, device, index) else { return Ok(()) };
        let _kept_or_unwanted = self.push.push(&notification).await?;
        Ok(())
    }

    /// Pushes what waits, for as long as the node runs.
    pub(crate) async fn run(&self) {
        let mut waiting = self.waiting.lock().await;
        while let Some(notification) = waiting.recv().await {
            while let Err(error) = self.push.push(&notification).await {
                tracing::warn!(error = &error as &dyn Error, "a notification cannot be pushed yet");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Carries what is announced in the store over to the backend, or away where there is none, for as long as the node runs: at its
/// start, whenever an announcement is written, and again after a failure.
pub(crate) async fn relay_announcements(node: Arc<Inner>) {
    let push = node.notifier.as_ref().map(|notifier| &*notifier.push);
    loop {
        let whole = match relay(&*node.stores.meta, push).await {
            Ok(relayed) => {
                metrics::counter!("iot_announcements_relayed_total").increment(relayed.done as u64);
                relayed.why.map_or(Ok(()), |error| Err(Box::new(error) as Box<dyn Error + Send + Sync>))
            }
            Err(error) => Err(error.into()),
        };
        match whole {
            Ok(()) => node.announced.notified().await,
            Err(error) => {
                tracing::warn!(error = &*error as &dyn Error, "announcements cannot be pushed yet");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

fn presence_notification(tenant: &TenantId, device: &DeviceContext, presence: &Presence) -> Option<Notification> {
    let since = ("since", FieldValue::Time(presence.since));
    let (kind, word, cause) = match presence.is_online() {
        true => (Kind::DeviceOnline, "online", None),
        false => (Kind::DeviceOffline, "offline", Some(presence.cause.as_deref().unwrap_or("unknown"))),
    };
    let fields = std::iter::once(since).chain(cause.map(|cause| ("cause", FieldValue::from(cause))));
    let id = NotificationId::parse(&format!("{word}-{}-{}", device.id, presence.since.as_micros())).ok()?;
    let mut notification = told(Notification::new(id, tenant.clone(), kind, presence.since, fields))?;
    notification.device = Some((device.id.clone(), device.epoch));
    notification.home.clone_from(&device.home);
    Some(notification)
}

/// `index`: of the effect among those of its cause.
fn alarm_notification(alarm: &Alarm, device: &Device, index: u16) -> Option<Notification> {
    let kind = if alarm.active { Kind::AlarmRaised } else { Kind::AlarmCleared };
    let fields = [
        ("name", FieldValue::from(alarm.name.as_str())),
        ("text", FieldValue::from(alarm.text.as_str())),
        ("since", FieldValue::Time(alarm.since)),
    ];
    let id = NotificationId::parse(&format!("alarm-{}-{index}", alarm.cause)).ok()?;
    Some(told(Notification::new(id, alarm.tenant.clone(), kind, alarm.since, fields))?.about(device))
}

fn told(made: Result<Notification, FieldMismatch>) -> Option<Notification> {
    made.inspect_err(|error| tracing::error!(%error, "a notification cannot be made")).ok()
}
