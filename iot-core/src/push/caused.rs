//! Notifications whose cause is a change of records, with the ids that their causes give them.

use super::{FieldValue, Kind, Notification, NotificationId};
use crate::{device::Device, id::RolloutId, time::Timestamp};

impl Notification {
    /// The device has got an owner; `device` is as it is since then.
    pub fn bound(device: &Device, at: Timestamp) -> Self {
        Self::of(Kind::DeviceBound, &format!("bound-{}-{}", device.id, device.epoch.0), device, at, [])
    }

    /// The device has no owner any more; `device` is as it is since then.
    pub fn unbound(device: &Device, at: Timestamp) -> Self {
        Self::of(Kind::DeviceUnbound, &format!("unbound-{}-{}", device.id, device.epoch.0), device, at, [])
    }

    /// Somebody has tried to bind the device, which has its owner.
    pub fn binding_attempted(device: &Device, at: Timestamp) -> Self {
        Self::of(Kind::BindingAttempted, &format!("attempted-{}-{}", device.id, at.as_micros()), device, at, [])
    }

    /// The device runs the release that the rollout brought, and is well.
    pub fn update_confirmed(device: &Device, rollout: &RolloutId, version: &str, at: Timestamp) -> Self {
        let fields = [("version", FieldValue::from(version))];
        Self::of(Kind::UpdateConfirmed, &format!("update-confirmed-{rollout}-{}", device.id), device, at, fields)
    }

    /// The rollout could not bring its release to the device. Once for each of both, however often it is found.
    pub fn update_failed(device: &Device, rollout: &RolloutId, version: &str, reason: &str, at: Timestamp) -> Self {
        let fields = [("version", FieldValue::from(version)), ("reason", FieldValue::from(reason))];
        Self::of(Kind::UpdateFailed, &format!("update-failed-{rollout}-{}", device.id), device, at, fields)
    }

    fn of<const N: usize>(
        kind: Kind,
        id: &str,
        device: &Device,
        at: Timestamp,
        fields: [(&'static str, FieldValue); N],
    ) -> Self {
        let id = NotificationId::parse(id).expect("two ids, a word and a number fit");
        let made = Self::new(id, device.tenant.clone(), kind, at, fields);
        made.expect("the fields are those of the kind").about(device)
    }
}
