use std::time::Duration;

use iot_core::{
    device::Device,
    id::{DeviceId, HomeId, OwnershipEpoch, TenantId, WebhookId},
    push::{Kind, Notification, NotificationId},
    store::{Document, IndexKey, Key},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The most webhooks of a tenant as a whole, and of each home.
pub const WEBHOOKS_MAX: u32 = 16;

/// How long the former secret still signs after a rotation.
pub const ROTATION: Duration = Duration::from_secs(24 * 3_600);

/// A registration: who hears of what, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Webhook {
    /// Whose.
    pub tenant: TenantId,
    /// Of which home; of the whole tenant if of none.
    pub home: Option<HomeId>,
    /// Only about this device, and only in this of its ownership epochs.
    pub device: Option<(DeviceId, OwnershipEpoch)>,
    /// Which.
    pub id: WebhookId,
    /// Its place among those of its tenant or home: below [`WEBHOOKS_MAX`], which is how that bound holds against races.
    pub slot: u32,
    /// Where deliveries go.
    pub url: String,
    /// Which kinds; all, if empty.
    pub kinds: Vec<Kind>,
    /// What signs deliveries, sealed, base64.
    pub secret: String,
    /// What signed them before, and signs them too for a while.
    pub previous: Option<PreviousSecret>,
    /// Since when.
    pub created: Timestamp,
    /// Whether it gets nothing any more, and why.
    pub disabled: Option<Disabled>,
    /// When the first delivery was given up after which none succeeded.
    pub failing_since: Option<Timestamp>,
}

/// A secret that was rotated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviousSecret {
    /// Sealed, base64.
    pub secret: String,
    /// Until when it signs.
    pub until: Timestamp,
}

/// A webhook that gets nothing any more until it is enabled again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disabled {
    /// Since when.
    pub at: Timestamp,
    /// Why.
    pub reason: DisabledReason,
}

/// Why a webhook was disabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DisabledReason {
    /// The receiver answered 410 Gone.
    Gone,
    /// For days, nothing was delivered.
    Failing,
    /// It has as many dead letters as may be.
    DeadLetters,
}

impl DisabledReason {
    /// Stable, `snake_case`.
    pub fn code(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Failing => "failing",
            Self::DeadLetters => "dead_letters",
        }
    }
}

impl Webhook {
    /// Its key in a store.
    pub fn key_of(tenant: &TenantId, id: &WebhookId) -> Key {
        Key::new(Self::KIND, format!("{tenant}/{id}"))
    }

    /// The index value of those of a tenant as a whole, or of a home.
    pub(super) fn place(tenant: &TenantId, home: Option<&HomeId>) -> String {
        home.map_or_else(|| tenant.to_string(), |home| format!("{tenant}/{home}"))
    }

    /// Whether it is to hear of a notification. Its place was compared by whoever found it.
    pub(super) fn wants(&self, notification: &Notification) -> bool {
        self.disabled.is_none()
            && (self.kinds.is_empty() || self.kinds.contains(&notification.kind))
            && (self.device.is_none() || self.device == notification.device)
    }
}

impl Document for Webhook {
    const KIND: &'static str = "webhook";
    const FORMAT: u16 = 1;

    fn key(&self) -> Key {
        Self::key_of(&self.tenant, &self.id)
    }

    /// `place`: `<tenant>` or `<tenant>/<home>`; `slot` (unique): the same and its slot.
    fn index_keys(&self) -> Vec<IndexKey> {
        let place = Self::place(&self.tenant, self.home.as_ref());
        vec![IndexKey::many("place", &place), IndexKey::unique("slot", &format!("{place}#{}", self.slot))]
    }
}

/// One notification on its way to one webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Whose.
    pub tenant: TenantId,
    /// To which webhook.
    pub webhook: WebhookId,
    /// Of which notification: the `webhook-id` of every attempt.
    pub id: NotificationId,
    /// Of what kind.
    pub kind: Kind,
    /// About which home.
    pub home: Option<HomeId>,
    /// About which device, in which epoch.
    pub device: Option<(DeviceId, OwnershipEpoch)>,
    /// What is sent, to the byte.
    pub body: String,
    /// When it was taken.
    pub created: Timestamp,
    /// From when its day counts: when it was taken or replayed.
    pub begun: Timestamp,
    /// Where it is.
    pub state: DeliveryState,
    /// How often it was tried since `begun`.
    pub attempts: u32,
    /// When it is tried next, while it waits.
    pub next: Timestamp,
    /// When it was last tried, or came to its end.
    pub changed: Timestamp,
    /// How the last attempt ended, `snake_case`.
    pub last: Option<String>,
}

/// Where a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DeliveryState {
    /// It will be tried.
    Waiting,
    /// The receiver has it. Kept for a day, so that a repeat is recognised.
    Delivered,
    /// It was given up; it can be replayed.
    Dead,
}

impl DeliveryState {
    /// Stable, `snake_case`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }
}

impl Delivery {
    pub(super) fn of(webhook: &Webhook, notification: &Notification, now: Timestamp) -> Self {
        Self {
            tenant: webhook.tenant.clone(),
            webhook: webhook.id.clone(),
            id: notification.id.clone(),
            kind: notification.kind,
            home: notification.home.clone(),
            device: notification.device.clone(),
            body: body(notification),
            created: now,
            begun: now,
            state: DeliveryState::Waiting,
            attempts: 0,
            next: now,
            changed: now,
            last: None,
        }
    }

    /// Its key in a store.
    pub fn key_of(tenant: &TenantId, webhook: &WebhookId, id: &NotificationId) -> Key {
        Key::new(Self::KIND, format!("{tenant}/{webhook}/{id}"))
    }

    /// The key of its webhook.
    pub(super) fn endpoint(&self) -> String {
        format!("{}/{}", self.tenant, self.webhook)
    }
}

impl Document for Delivery {
    const KIND: &'static str = "webhook_delivery";
    const FORMAT: u16 = 1;

    fn key(&self) -> Key {
        Self::key_of(&self.tenant, &self.webhook, &self.id)
    }

    /// `state`: of all tenants; `webhook`: `<tenant>/<webhook>`; `dead`: the same, while it is a dead letter.
    fn index_keys(&self) -> Vec<IndexKey> {
        let mut keys = vec![IndexKey::many("state", self.state.name()), IndexKey::many("webhook", &self.endpoint())];
        keys.extend((self.state == DeliveryState::Dead).then(|| IndexKey::many("dead", &self.endpoint())));
        keys
    }
}

/// `type`, `timestamp` and `data`, as Standard Webhooks recommends.
fn body(notification: &Notification) -> String {
    let mut data = Map::new();
    for (name, value) in &notification.fields {
        data.insert((*name).to_owned(), json!(value));
    }
    data.insert("notification".to_owned(), json!(notification.id));
    data.insert("tenant".to_owned(), json!(notification.tenant));
    data.insert("home".to_owned(), json!(notification.home));
    data.insert("device".to_owned(), json!(notification.device.as_ref().map(|(id, _)| id)));
    data.insert("message".to_owned(), Value::String(notification.text()));
    json!({"type": notification.kind, "timestamp": notification.at, "data": data}).to_string()
}

pub(super) const WEBHOOK_DELETED: &str = "webhook_deleted";

/// Whether a delivery may still be made.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It may.
    Stands,
    /// Not now; it is kept for those who enable the webhook again.
    Disabled,
    /// Never: what it tells is not for the receiver any more. Why, `snake_case`.
    Ended(&'static str),
}

/// Decides with the records as they are now. `device` is the record of the delivery's device; `home_exists` that of the
/// webhook's home.
pub(super) fn standing(
    delivery: &Delivery,
    webhook: Option<&Webhook>,
    device: Option<&Device>,
    home_exists: bool,
) -> Standing {
    let Some(webhook) = webhook else { return Standing::Ended(WEBHOOK_DELETED) };
    if webhook.device.is_some() && webhook.device != delivery.device {
        return Standing::Ended("device_not_of_webhook");
    }
    if webhook.home.is_some() && (webhook.home != delivery.home || !home_exists) {
        return Standing::Ended("home_not_of_webhook");
    }
    if let Some((_, epoch)) = &delivery.device {
        match device {
            Some(device) if device.epoch != *epoch => return Standing::Ended("epoch_ended"),
            Some(device) if webhook.home.is_some() && webhook.home != device.home => {
                return Standing::Ended("device_left_home");
            }
            Some(_) => {}
            None => return Standing::Ended("device_deleted"),
        }
    }
    if webhook.disabled.is_some() { Standing::Disabled } else { Standing::Stands }
}
