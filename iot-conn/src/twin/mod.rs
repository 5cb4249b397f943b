//! Twins of devices ([`iot_core::twin`]) over a store: what applications read and desire, what devices report and are told.
//!
//! Devices speak to it as the service [`SERVICE`]; `docs/protocol.md` has the messages. Messages are JSON, whatever the product's
//! encoding is. Only the present ownership epoch is read or written, and a change of owner during a write undoes the write.
//!
//! Desired values that have expired are gone for everybody who looks, and are told to no device; the store follows with the next
//! write. No timer runs for them: to a device their end means that there is nothing to do.

mod device;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use iot_core::{
    access::Principal,
    clock::Clock,
    device::Device,
    id::ServiceName,
    service::Downlink,
    store::{Audit, Batch, Document, MetaStore, MetaStoreExt, StoreError, Stored},
    time::Timestamp,
    twin::{Object, Twin, TwinLimits, Written},
};
use serde_json::json;

use crate::node::{LiveChange, LiveHub, LiveKind};

/// The name under which devices ask: `up/service/twin`.
pub const SERVICE: &str = "twin";

/// How often a write is decided again because the twin or its device has changed meanwhile. More writers of one twin at the
/// same moment than this are told to try again.
pub const ATTEMPTS_MAX: u32 = 64;

/// The operation could not be carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TwinError {
    /// Try again later; a write may have happened.
    #[error("the store of twins failed")]
    Store(#[from] StoreError),
    /// Others changed the same twin again and again. Nothing was written; try again.
    #[error("the twin changed {ATTEMPTS_MAX} times while a write was decided")]
    Contended,
    /// The node stops; a write may have happened.
    #[error("the node stopped during a write")]
    Stopped,
}

/// What somebody wants a device to be.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Desire {
    /// A merge patch (RFC 7396).
    pub patch: Object,
    /// Only if the twin is at this version.
    pub expected_version: Option<u64>,
    /// From when on the values of this patch are not desired any more.
    pub expires: Option<Timestamp>,
}

/// What became of a write.
#[must_use]
#[derive(Debug, Clone, PartialEq)]
pub enum TwinWritten {
    /// As the twin's rules decided. A change is durable.
    Decided(Written),
    /// The device is not in the ownership epoch that the writer knows, or gone. Nothing was written.
    OwnerChanged,
}

/// The twins of a deployment. One for a node; several over one store agree by the versions of records.
pub struct Twins {
    meta: Arc<dyn MetaStore>,
    clock: Arc<dyn Clock>,
    downlink: Arc<dyn Downlink>,
    limits: TwinLimits,
    service: ServiceName,
    live: OnceLock<LiveHub>,
}

impl Twins {
    /// Over a deployment's records, with the way to its devices.
    pub fn new(meta: Arc<dyn MetaStore>, clock: Arc<dyn Clock>, downlink: Arc<dyn Downlink>) -> Self {
        let service = ServiceName::parse(SERVICE).expect("it is an identifier");
        Self { meta, clock, downlink, limits: TwinLimits::default(), service, live: OnceLock::new() }
    }

    /// Other bounds than the default ones. What is stored already stays.
    #[must_use]
    pub fn with_limits(self, limits: TwinLimits) -> Self {
        Self { limits, ..self }
    }

    /// From now on every new version is told on `hub`. A second hub is ignored.
    pub fn announce_on(&self, hub: LiveHub) {
        let _first_stays = self.live.set(hub);
    }

    /// The twin of a device in its present epoch, without what has expired; an empty one at version 0 if nobody has written.
    pub async fn read(&self, device: &Device) -> Result<Twin, TwinError> {
        let stored = self.meta.find::<Twin>(&Twin::key_of(device)).await?;
        let mut twin = stored.map_or_else(|| new_twin(device), |stored| stored.document);
        twin.expire(self.clock.timestamp());
        Ok(twin)
    }

    /// Writes what `by` wants a device to be, and tells the device what it has yet to do if it is connected; if not, it learns it
    /// when it connects. The caller has checked that `by` may. Leaves an audit entry with each change. Cancelling has no effect:
    /// what is written is also told.
    pub async fn write_desired(
        self: &Arc<Self>,
        by: &Principal,
        device: &Device,
        desire: &Desire,
    ) -> Result<TwinWritten, TwinError> {
        let (twins, by, device, desire) = (self.clone(), by.clone(), device.clone(), desire.clone());
        let writing = tokio::spawn(async move { twins.desire(&by, &device, &desire).await });
        match writing.await {
            Ok(written) => written,
            Err(ended) => match ended.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_stopped) => Err(TwinError::Stopped),
            },
        }
    }

    async fn desire(&self, by: &Principal, device: &Device, desire: &Desire) -> Result<TwinWritten, TwinError> {
        let actor = by.to_string();
        let audit = |now| Audit {
            at: now,
            tenant: device.tenant.clone(),
            actor: actor.clone(),
            action: "twin_desired_write".to_owned(),
            subject: Twin::key_of(device).to_string(),
            refused: None,
        };
        let decide = |twin: &mut Twin, now| {
            let patch = desire.patch.clone();
            twin.write_desired(now, &actor, patch, desire.expected_version, desire.expires, &self.limits)
        };
        let written = self.settle(device, decide, |now| Some(audit(now))).await?;
        if let TwinWritten::Decided(Written::Done { version, delta }) = &written {
            self.tell(device, *version, delta).await?;
        }
        Ok(written)
    }

    /// Writes what a device says that it is. The caller has checked that it is that device who says so.
    pub async fn write_reported(
        &self,
        device: &Device,
        patch: &Object,
        expected_version: Option<u64>,
    ) -> Result<TwinWritten, TwinError> {
        let decide = |twin: &mut Twin, now| twin.write_reported(now, patch.clone(), expected_version, &self.limits);
        self.settle(device, decide, |_| None).await
    }

    /// Decides and commits until nothing that was decided by has changed in between.
    async fn settle(
        &self,
        device: &Device,
        decide: impl Fn(&mut Twin, Timestamp) -> Written,
        audit: impl Fn(Timestamp) -> Option<Audit>,
    ) -> Result<TwinWritten, TwinError> {
        for _ in 0..ATTEMPTS_MAX {
            let Some(owned) = self.still_owned(device).await? else { return Ok(TwinWritten::OwnerChanged) };
            let stored = self.meta.find::<Twin>(&Twin::key_of(device)).await?;
            let mut twin = stored.as_ref().map_or_else(|| new_twin(device), |stored| stored.document.clone());
            let now = self.clock.timestamp();
            let written = decide(&mut twin, now);
            let before = stored.as_ref().map(|stored| &stored.document);
            if before == Some(&twin) || twin == new_twin(device) {
                return Ok(TwinWritten::Decided(written));
            }
            let mut batch = Batch::default().unchanged(&owned);
            batch = match &stored {
                Some(read) => batch.replace(read, &twin),
                None => batch.create(&twin),
            };
            batch.audit.extend(audit(now).filter(|_| matches!(written, Written::Done { .. })));
            if self.meta.commit_or_conflict(batch).await? {
                if before.map_or(0, |before| before.version) != twin.version {
                    self.announce(&twin);
                }
                return Ok(TwinWritten::Decided(written));
            }
        }
        Err(TwinError::Contended)
    }

    /// The device's record, if it is still in the epoch of `device`.
    async fn still_owned(&self, device: &Device) -> Result<Option<Stored<Device>>, StoreError> {
        let found = self.meta.find::<Device>(&device.key()).await?;
        Ok(found.filter(|found| found.document.epoch == device.epoch))
    }

    /// What one owner desires does not reach the device of the next one.
    async fn tell(&self, device: &Device, version: u64, delta: &Object) -> Result<(), TwinError> {
        if delta.is_empty() || self.still_owned(device).await?.is_none() {
            return Ok(());
        }
        // A device that is not connected asks when it connects.
        let _told = self.downlink.tell(&device.tenant, &device.id, &self.service, device::delta(version, delta)).await;
        Ok(())
    }

    fn announce(&self, twin: &Twin) {
        let Some(hub) = self.live.get() else { return };
        hub.tell(LiveChange {
            tenant: twin.tenant.clone(),
            device: twin.device.clone(),
            epoch: Some(twin.epoch),
            kind: LiveKind::Twin,
            data: json!({
                "device": twin.device, "version": twin.version, "desired": twin.desired, "reported": twin.reported,
            }),
        });
    }
}

fn new_twin(device: &Device) -> Twin {
    Twin::new(device.tenant.clone(), device.id.clone(), device.epoch)
}

impl fmt::Debug for Twins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Twins").field("limits", &self.limits).finish_non_exhaustive()
    }
}
