//! Where devices stand, as far as it matters to a client whose grants are about homes.
//!
//! A client with a grant on the whole tenant needs none of this. One with grants on homes may only subscribe to devices by
//! name; each device's home and epoch is remembered on its link, refreshed when the device's record changes, and asked at
//! delivery.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use iot_core::{
    access::{Permission, Resource},
    device::Device,
    id::{DeviceId, OwnershipEpoch, TenantId},
    store::{Key, StoreError},
    time::Timestamp,
    topic,
};

use super::{
    Inner,
    endpoint::{Endpoint, Link},
};

/// The devices that a client has subscribed to by name. Bounded by its subscriptions.
#[derive(Debug, Default)]
pub(crate) struct Places {
    // Small sections, never across an await. Most clients have none.
    by_device: RwLock<BTreeMap<DeviceId, Resource>>,
}

impl Places {
    /// Where a device stands, if it is known and in this epoch.
    pub(crate) fn resource(&self, device: &DeviceId, epoch: OwnershipEpoch) -> Option<Resource> {
        let places = self.by_device.read().unwrap_or_else(PoisonError::into_inner);
        places.get(device).filter(|place| place.device.as_ref().is_some_and(|(_, known)| *known == epoch)).cloned()
    }

    fn devices(&self) -> Vec<DeviceId> {
        self.by_device.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Where a device stands, if it is known.
    pub(crate) fn current(&self, device: &DeviceId) -> Option<Resource> {
        self.by_device.read().unwrap_or_else(PoisonError::into_inner).get(device).cloned()
    }

    fn set(&self, device: &DeviceId, place: Resource) {
        self.by_device.write().unwrap_or_else(PoisonError::into_inner).insert(device.clone(), place);
    }

    fn remove(&self, device: &DeviceId) {
        self.by_device.write().unwrap_or_else(PoisonError::into_inner).remove(device);
    }

    /// The records that they are read from.
    pub(crate) fn keys(&self, tenant: &TenantId) -> Vec<Key> {
        self.devices().iter().map(|device| Device::key_of(tenant, device)).collect()
    }
}

/// The device that a filter names, if it names one.
pub(crate) fn named_device(filter: &str) -> Option<DeviceId> {
    let plain = topic::parse_share(filter).ok().flatten().map_or(filter, |(_, plain)| plain);
    topic::split_device(plain).and_then(|(device, _)| device.parse().ok())
}

impl Inner {
    /// Whether a client may subscribe to a filter below a device that it names. Remembers where that device stands.
    pub(crate) async fn may_watch(
        &self,
        endpoint: &Endpoint,
        link: &Link,
        device: &DeviceId,
    ) -> Result<bool, StoreError> {
        // First, so that no change after the look goes unnoticed.
        self.registry.depend(&endpoint.session, &[Device::key_of(&link.principal.tenant, device)]);
        let place = self.place_of(link, device).await?;
        let now = self.clock.timestamp();
        let allowed = place.as_ref().is_some_and(|place| link.permits(Permission::ReadTelemetry, place, now));
        match place.filter(|_| allowed) {
            Some(place) => link.places.set(device, place),
            None => self.unlearn(endpoint, link, device),
        }
        Ok(allowed)
    }

    fn unlearn(&self, endpoint: &Endpoint, link: &Link, device: &DeviceId) {
        link.places.remove(device);
        self.registry.release(&endpoint.session, &[Device::key_of(&link.principal.tenant, device)]);
    }

    async fn place_of(&self, link: &Link, device: &DeviceId) -> Result<Option<Resource>, StoreError> {
        let found = self.directory.device(&*self.stores.meta, &link.principal.tenant, device).await?;
        Ok(found.map(|device| Resource::device(&device)))
    }

    /// Looks again where devices stand and whether the client may still watch them, and takes away what it may not. Call
    /// it when a record of them, or what the client may do, has changed.
    pub(crate) async fn review(&self, endpoint: &Arc<Endpoint>, link: &Link) -> Result<(), StoreError> {
        if link.device.is_some() || link.sees_everything(self.clock.timestamp()) {
            return Ok(());
        }
        for device in link.places.devices() {
            match self.place_of(link, &device).await? {
                Some(place) => link.places.set(&device, place),
                None => self.unlearn(endpoint, link, &device),
            }
        }
        let now = self.clock.timestamp();
        let filters = endpoint.filters();
        let lost: Vec<String> = filters.into_iter().filter(|filter| !self.still_watches(link, filter, now)).collect();
        if lost.is_empty() {
            return Ok(());
        }
        tracing::info!(principal = %link.principal, subscriptions = lost.len(), "subscriptions ended with their permission");
        if link.persistent {
            // Superseded by another connection: that one is reviewed as well.
            let _fenced = self.stores.sessions.unsubscribe(&endpoint.session, link.epoch, &lost).await?;
        }
        for filter in &lost {
            self.unsubscribe(endpoint, filter);
        }
        Ok(())
    }

    fn still_watches(&self, link: &Link, filter: &str, now: Timestamp) -> bool {
        let Some(device) = named_device(filter) else {
            let everything = Resource::tenant(&link.principal.tenant);
            return link.permits(Permission::Subscribe, &everything, now);
        };
        link.places.current(&device).is_some_and(|place| link.permits(Permission::ReadTelemetry, &place, now))
    }

    /// Remembers where the devices of a resumed session's subscriptions stand, and ends those that it lost meanwhile.
    pub(crate) async fn resume_places(&self, endpoint: &Arc<Endpoint>, link: &Link) -> Result<(), StoreError> {
        if link.device.is_some() || link.sees_everything(self.clock.timestamp()) {
            return Ok(());
        }
        let filters = endpoint.filters();
        for device in filters.iter().filter_map(|filter| named_device(filter)) {
            let _reviewed_below = self.may_watch(endpoint, link, &device).await?;
        }
        self.review(endpoint, link).await
    }
}
