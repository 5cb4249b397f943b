//! Carries out what cloud logic wants done.

use std::{sync::Arc, time::Duration};

use iot_core::{
    command::{COMMAND_TIMEOUT_DEFAULT, CommandRequest, Offline},
    device::Device,
    id::{CommandId, DeviceId, OwnershipEpoch, TenantId},
    logic::{Action, Effect},
    store::{Batch, Committed, Document, IndexKey, Key, MetaStoreExt, StoreError, Stored},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

use super::{Inner, commander::Commanded};

/// How long a command of logic waits for a device that is not connected.
const WAIT: Duration = Duration::from_secs(3_600);

/// An alarm of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// Whose.
    pub tenant: TenantId,
    /// Of which device.
    pub device: DeviceId,
    /// In which of its ownership epochs it was raised or cleared: in another one it is nobody's.
    #[serde(default)]
    pub epoch: OwnershipEpoch,
    /// Which of its alarms.
    pub name: String,
    /// Raised or cleared.
    pub active: bool,
    /// Since when it is so.
    pub since: Timestamp,
    /// For people.
    pub text: String,
    /// The event that raised or cleared it.
    pub cause: String,
}

impl Alarm {
    /// Its key in a store.
    pub fn key_of(tenant: &TenantId, device: &DeviceId, name: &str) -> Key {
        Key::new(Self::KIND, format!("{tenant}/{device}/{name}"))
    }

    /// Whether it is raised for the owner with whom this epoch began.
    pub fn is_raised_in(&self, epoch: OwnershipEpoch) -> bool {
        self.active && self.epoch == epoch
    }
}

impl Document for Alarm {
    const KIND: &'static str = "alarm";
    const FORMAT: u16 = 1;

    fn key(&self) -> Key {
        Self::key_of(&self.tenant, &self.device, &self.name)
    }

    /// `tenant`; `active`: the tenant's, while raised.
    fn index_keys(&self) -> Vec<IndexKey> {
        let mut keys = vec![IndexKey::many("tenant", self.tenant.as_str())];
        keys.extend(self.active.then(|| IndexKey::many("active", self.tenant.as_str())));
        keys
    }
}

/// Carries out effects in order. A repeat of an effect changes nothing: commands are known by their ids, alarms by their
/// state.
pub(crate) async fn carry_out(node: Arc<Inner>, effects: Vec<Effect>) -> Result<(), StoreError> {
    for effect in effects {
        match &effect.action {
            Action::Command { tenant, device, name, args, offline } => {
                let request = CommandRequest {
                    by: None,
                    id: command_id(&effect),
                    tenant: tenant.clone(),
                    device: device.clone(),
                    name: name.clone(),
                    args: args.clone(),
                    timeout: if *offline == Offline::Wait { WAIT } else { COMMAND_TIMEOUT_DEFAULT },
                    offline: *offline,
                    supersede: false,
                };
                let commanded = node.commander.submit(request).await?;
                if !matches!(commanded, Commanded::Receipt(_)) {
                    tracing::info!(%device, command = name, outcome = ?commanded, "a command of logic was not taken");
                }
            }
            Action::Alarm { tenant, device, epoch, name, active, text } => {
                let alarm = Alarm {
                    tenant: tenant.clone(),
                    device: device.clone(),
                    epoch: *epoch,
                    name: name.clone(),
                    active: *active,
                    since: node.clock.timestamp(),
                    text: text.clone(),
                    cause: effect.cause.to_string(),
                };
                set_alarm(&node, &effect, alarm).await?;
            }
            _ => tracing::warn!("an effect of an unknown kind was dropped"),
        }
    }
    // The checkpoint must not pass an announcement that is not durable.
    node.offers.flushed().await;
    Ok(())
}

fn command_id(effect: &Effect) -> CommandId {
    let text = format!("{}-{}", effect.cause, effect.index);
    let short = if text.len() <= iot_core::id::ID_BYTES_MAX {
        text.as_str()
    } else {
        &text[text.len() - iot_core::id::ID_BYTES_MAX..]
    };
    short.parse().expect("event ids are made of node ids, digits and '-'")
}

/// A batch that is given again after a change of owner still asks for what was so under the one before: it is dropped, and what is
/// left of an alarm of the former owner counts as cleared for the new one.
async fn set_alarm(node: &Inner, effect: &Effect, alarm: Alarm) -> Result<(), StoreError> {
    let key = alarm.key();
    // Nearly every effect says what is so already: that costs no look at the store.
    let known = node.directory.alarm(&*node.stores.meta, key.clone()).await?;
    if known.as_ref().map_or(!alarm.active, |known| says_the_same(known, &alarm) && known.cause != alarm.cause) {
        return Ok(());
    }
    loop {
        let device: Option<Stored<Device>> =
            node.stores.meta.find(&Device::key_of(&alarm.tenant, &alarm.device)).await?;
        let Some(device) = device.filter(|device| device.document.epoch == alarm.epoch) else {
            metrics::counter!("iot_alarms_of_former_owners_total").increment(1);
            return Ok(());
        };
        let present: Option<Stored<Alarm>> = node.stores.meta.find(&key).await?;
        if present.as_ref().map_or(!alarm.active, |present| says_the_same(&present.document, &alarm)) {
            // A crash may have come between the record and its announcement.
            if let Some(present) = present.filter(|present| present.document.cause == alarm.cause) {
                announce_alarm(node, &present.document);
                notify_alarm(node, &present.document, &device.document, effect.index).await?;
            }
            return Ok(());
        }
        let batch = match &present {
            Some(present) => Batch::default().replace(present, &alarm),
            None => Batch::default().create(&alarm),
        };
        let committed = node.stores.meta.commit(batch.unchanged(&device)).await?;
        node.directory.invalidate(&key);
        if let Committed::Done(_) = committed {
            // What the former owner's alarm left behind is tidied up: for this one nothing was raised.
            if !alarm.active && present.is_some_and(|present| present.document.epoch != alarm.epoch) {
                retain_alarm(node, &alarm);
                return Ok(());
            }
            metrics::counter!("iot_alarms_total", "active" => if alarm.active { "true" } else { "false" }).increment(1);
            announce_alarm(node, &alarm);
            return notify_alarm(node, &alarm, &device.document, effect.index).await;
        }
    }
}

fn says_the_same(known: &Alarm, alarm: &Alarm) -> bool {
    known.active == alarm.active && (known.epoch == alarm.epoch || !known.active)
}

async fn notify_alarm(node: &Inner, alarm: &Alarm, device: &Device, index: u16) -> Result<(), StoreError> {
    let Some(notifier) = &node.notifier else { return Ok(()) };
    let pushed = notifier.alarm(alarm, device, index).await;
    pushed.map_err(|error| StoreError::Unavailable { backend: "push", source: Box::new(error) })
}

fn announce_alarm(node: &Inner, alarm: &Alarm) {
    node.live.alarm(alarm);
    retain_alarm(node, alarm);
}

fn retain_alarm(node: &Inner, alarm: &Alarm) {
    let payload = serde_json::to_vec(alarm).unwrap_or_default();
    node.announce(&alarm.tenant, &format!("alarm/{}", alarm.device), payload.into(), true);
}
