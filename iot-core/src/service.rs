//! The seam to services that devices ask through the cloud: binding, twins, updates, and a team's own.
//!
//! A device publishes its question on `up/service/<name>`; the answer goes on `down/service/<name>` to the live connection of
//! that device and to nobody else: it is never stored, retained, or shown to a subscriber. Both are JSON.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    device::Device,
    id::{DeviceId, ServiceName, TenantId},
    logic::BoxError,
};

/// A service as a node holds it: erased once, where the node is built. `None` is no answer. The call has ended before the
/// question is acknowledged; questions of one device come one after another, each as often as its device repeats it. An
/// error means that the question could not be answered: the device learns `unavailable` and asks again.
pub type BoxDeviceService = tower::util::BoxCloneSyncService<DeviceCall, Option<Bytes>, BoxError>;

/// What a service learns of a device.
#[derive(Debug, Clone)]
pub struct DeviceCall {
    /// The device, as its connection proved, in its present ownership epoch.
    pub device: Arc<Device>,
    /// What happened.
    pub call: Call,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Call {
    /// The device has connected. It need not subscribe to be answered.
    Connected,
    /// It asked.
    Asked(Bytes),
}

/// The way from a service to a device that did not ask just now.
#[async_trait]
pub trait Downlink: std::fmt::Debug + Send + Sync + 'static {
    /// Hands `payload` to the live connection of a device, on `down/service/<service>`. At most once: a device that comes
    /// back is told anew by the service when it learns [`Call::Connected`]. Cancelling has no effect.
    async fn tell(&self, tenant: &TenantId, device: &DeviceId, service: &ServiceName, payload: Bytes) -> Told;
}

/// Whether a device could be told.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It was handed to the device's connection.
    Sent,
    /// The device is not connected, or its connection takes no more.
    NotConnected,
}
