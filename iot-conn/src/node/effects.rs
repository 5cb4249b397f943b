//! Carries out what cloud logic wants done.

use std::{sync::Arc, time::Duration};

use iot_core::{
    command::{COMMAND_TIMEOUT_DEFAULT, CommandRequest, Offline},
    device::Device,
    id::{CommandId, DeviceId, TenantId},
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
            Action::Alarm { tenant, device, name, active, text } => {
                set_alarm(&node, &effect, tenant, device, name, *active, text).await?;
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

async fn set_alarm(
    node: &Inner,
    effect: &Effect,
    tenant: &TenantId,
    device: &DeviceId,
    name: &str,
    active: bool,
    text: &str,
) -> Result<(), StoreError> {
    let key = Alarm::key_of(tenant, device, name);
    // Nearly every effect says what is so already: that costs no look at the store.
    let known = node.directory.alarm(&*node.stores.meta, key.clone()).await?;
    if known.as_ref().map_or(!active, |alarm| alarm.active == active && alarm.cause != effect.cause.to_string()) {
        return Ok(());
    }
    loop {
        let present: Option<Stored<Alarm>> = node.stores.meta.find(&key).await?;
        if present.as_ref().map_or(!active, |stored| stored.document.active == active) {
            // A crash may have come between the record and its announcement.
            if let Some(stored) = present.filter(|stored| stored.document.cause == effect.cause.to_string()) {
                announce_alarm(node, &stored.document);
                notify_alarm(node, &stored.document, effect.index).await?;
            }
            return Ok(());
        }
        let alarm = Alarm {
            tenant: tenant.clone(),
            device: device.clone(),
            name: name.to_owned(),
            active,
            since: node.clock.timestamp(),
            text: text.to_owned(),
            cause: effect.cause.to_string(),
        };
        let batch = match &present {
            Some(stored) => Batch::default().replace(stored, &alarm),
            None => Batch::default().create(&alarm),
        };
        let committed = node.stores.meta.commit(batch).await?;
        node.directory.invalidate(&key);
        if let Committed::Done(_) = committed {
            metrics::counter!("iot_alarms_total", "active" => if active { "true" } else { "false" }).increment(1);
            announce_alarm(node, &alarm);
            return notify_alarm(node, &alarm, effect.index).await;
        }
    }
}

/// An alarm of a device that is gone is nobody's.
async fn notify_alarm(node: &Inner, alarm: &Alarm, index: u16) -> Result<(), StoreError> {
    let Some(notifier) = &node.notifier else { return Ok(()) };
    let found: Option<Stored<Device>> = node.stores.meta.find(&Device::key_of(&alarm.tenant, &alarm.device)).await?;
    let Some(device) = found else { return Ok(()) };
    let pushed = notifier.alarm(alarm, &device.document, index).await;
    pushed.map_err(|error| StoreError::Unavailable { backend: "push", source: Box::new(error) })
}

fn announce_alarm(node: &Inner, alarm: &Alarm) {
    node.live.alarm(alarm);
    let payload = serde_json::to_vec(alarm).unwrap_or_default();
    node.announce(&alarm.tenant, &format!("alarm/{}", alarm.device), payload.into(), true);
}
