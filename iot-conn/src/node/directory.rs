use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use super::effects::Alarm;
use iot_core::{
    device::{Device, Product},
    id::{DeviceId, TenantId},
    store::{Document, Key, MetaStore, MetaStoreExt, StoreError},
};

/// The most records of a kind that are kept in memory; beyond it all are forgotten and read again.
pub(crate) const CACHED_MAX: usize = 200_000;

/// The records of devices as of the last change that the node has seen.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    devices: Cache<Device>,
    products: Cache<Product>,
    alarms: Cache<Alarm>,
}

#[derive(Debug)]
struct Cache<T> {
    // Small sections, never across an await. By the name within the kind. `None`: known not to exist.
    documents: RwLock<HashMap<Box<str>, Option<Arc<T>>>>,
    // Counts what was forgotten, so that a read that began before does not bring it back.
    forgotten: AtomicU64,
}

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self { documents: RwLock::default(), forgotten: AtomicU64::new(0) }
    }
}

impl Directory {
    /// A device's record, as of the last change that this node has seen.
    pub(crate) async fn device(
        &self,
        meta: &dyn MetaStore,
        tenant: &TenantId,
        device: &DeviceId,
    ) -> Result<Option<Arc<Device>>, StoreError> {
        // What the connection has anyway is not kept a second time.
        let compact = |record: &mut Device| {
            record.tenant.clone_from(tenant);
            record.id.clone_from(device);
            record.keys.shrink_to_fit();
        };
        self.devices.read(meta, Device::key_of(tenant, device), compact).await
    }

    /// The same, if it was read before; `Some(None)` if it is known not to exist.
    pub(crate) fn known_device(&self, tenant: &TenantId, device: &DeviceId) -> Option<Option<Arc<Device>>> {
        self.devices.known(&Device::key_of(tenant, device))
    }

    /// A product's record, likewise.
    pub(crate) async fn product(&self, meta: &dyn MetaStore, key: Key) -> Result<Option<Arc<Product>>, StoreError> {
        self.products.read(meta, key, |_| {}).await
    }

    /// An alarm's record, likewise.
    pub(crate) async fn alarm(&self, meta: &dyn MetaStore, key: Key) -> Result<Option<Arc<Alarm>>, StoreError> {
        self.alarms.read(meta, key, |_| {}).await
    }

    /// Forgets a record that has changed.
    pub(crate) fn invalidate(&self, key: &Key) {
        match key.kind.as_str() {
            Device::KIND => self.devices.forget(Some(key)),
            Product::KIND => self.products.forget(Some(key)),
            Alarm::KIND => self.alarms.forget(Some(key)),
            _ => {}
        }
    }

    /// Forgets all records.
    pub(crate) fn invalidate_all(&self) {
        self.devices.forget(None);
        self.products.forget(None);
        self.alarms.forget(None);
    }
}

impl<T: Document> Cache<T> {
    fn forget(&self, key: Option<&Key>) {
        let mut documents = self.documents.write().unwrap_or_else(PoisonError::into_inner);
        self.forgotten.fetch_add(1, Ordering::AcqRel);
        match key {
            Some(key) => drop(documents.remove(key.key.as_str())),
            None => documents.clear(),
        }
    }

    fn known(&self, key: &Key) -> Option<Option<Arc<T>>> {
        self.documents.read().unwrap_or_else(PoisonError::into_inner).get(key.key.as_str()).cloned()
    }

    /// `compact` makes a record smaller that is read from the store.
    async fn read(
        &self,
        meta: &dyn MetaStore,
        key: Key,
        compact: impl FnOnce(&mut T) + Send,
    ) -> Result<Option<Arc<T>>, StoreError> {
        if let Some(known) = self.known(&key) {
            return Ok(known);
        }
        let before = self.forgotten.load(Ordering::Acquire);
        let document = meta.find::<T>(&key).await?.map(|stored| {
            let mut document = stored.document;
            compact(&mut document);
            Arc::new(document)
        });
        let mut documents = self.documents.write().unwrap_or_else(PoisonError::into_inner);
        if documents.len() >= CACHED_MAX {
            documents.clear();
        }
        if self.forgotten.load(Ordering::Acquire) == before {
            documents.insert(key.key.into_boxed_str(), document.clone());
        }
        Ok(document)
    }
}
