//! How a node learns of revocations and other changes: from the store's log of changes. The bus only says when to look.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use iot_core::{
    access::Standing,
    bus::{Bus, CHANGES},
    id::TenantId,
    problem::Cursor,
    push::Announcement,
    store::{Audit, Batch, Change, Committed, Document, Index, Key, MetaStore, Page, Record, Revision, StoreError},
    time::Monotonic,
};

use super::{
    Inner,
    endpoint::{DeviceContext, Endpoint, Link},
};
use crate::mqtt::ReasonCode;

/// How often a node looks without being told.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A node that has not seen the log for so long refuses control.
pub(crate) const LAG_MAX: Duration = Duration::from_secs(1);
const CHANGES_PAGE: u32 = 1_000;

/// A [`MetaStore`] that hints on the bus after each commit, so that nodes look at once. Whatever writes records writes them
/// through it; without it changes are seen within half a second.
#[derive(Debug)]
pub struct Hinting {
    inner: Arc<dyn MetaStore>,
    bus: Arc<dyn Bus>,
    failed: AtomicBool,
}

impl Hinting {
    /// Hints for the commits of `inner`.
    pub fn new(inner: Arc<dyn MetaStore>, bus: Arc<dyn Bus>) -> Self {
        Self { inner, bus, failed: AtomicBool::new(false) }
    }
}

#[async_trait]
impl MetaStore for Hinting {
    async fn get(&self, keys: &[Key]) -> Result<Vec<Option<Record>>, StoreError> {
        self.inner.get(keys).await
    }

    async fn list(&self, index: &Index, after: Option<&Cursor>, limit: u32) -> Result<Page<Record>, StoreError> {
        self.inner.list(index, after, limit).await
    }

    async fn count(&self, index: &Index) -> Result<u64, StoreError> {
        self.inner.count(index).await
    }

    async fn commit(&self, batch: Batch) -> Result<Committed, StoreError> {
        let writes = !batch.writes.is_empty();
        let committed = self.inner.commit(batch).await?;
        if writes && matches!(committed, Committed::Done(_)) {
            let hinted = self.bus.publish(CHANGES, bytes::Bytes::new()).await;
            if hinted.is_err() && !self.failed.swap(true, Ordering::Relaxed) {
                tracing::warn!("the bus takes no hints; changes are seen later");
            }
        }
        Ok(committed)
    }

    async fn changes(&self, after: Revision, limit: u32) -> Result<Vec<Change>, StoreError> {
        self.inner.changes(after, limit).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.inner.revision().await
    }

    async fn audit(&self, tenant: &TenantId, before: Option<&Cursor>, limit: u32) -> Result<Page<Audit>, StoreError> {
        self.inner.audit(tenant, before, limit).await
    }
}

/// Follows the log of changes from `seen`, for as long as the node runs.
pub(crate) async fn run(node: Arc<Inner>, mut seen: Revision) {
    let mut inbox = node.bus.subscribe(CHANGES).await.ok();
    loop {
        match node.stores.meta.changes(seen, CHANGES_PAGE).await {
            Ok(changes) => {
                let full = changes.len() == CHANGES_PAGE as usize;
                for change in changes {
                    seen = seen.max(change.revision);
                    apply(&node, &change).await;
                }
                if full {
                    continue;
                }
                node.looked();
            }
            Err(error @ StoreError::Damaged { .. }) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "changes were missed; asking about everybody"
                );
                if let Ok(revision) = node.stores.meta.revision().await {
                    seen = revision;
                    node.directory.invalidate_all();
                    node.quotas_missed().await;
                    node.live.ring_all(revision);
                    node.announced.notify_one();
                    for endpoint in node.registry.all() {
                        if let Some(link) = endpoint.link() {
                            reconsider(&node, &endpoint, &link).await;
                        }
                    }
                }
            }
            Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "changes cannot be read"),
        }
        wait(&mut inbox).await;
    }
}

async fn wait(inbox: &mut Option<Box<dyn iot_core::bus::Inbox>>) {
    let hint = async {
        match inbox {
            Some(inbox) => drop(inbox.next().await),
            None => std::future::pending().await,
        }
    };
    tokio::select! { () = hint => {}, () = tokio::time::sleep(LOOK_EVERY) => {} }
}

async fn apply(node: &Inner, change: &Change) {
    for key in &change.keys {
        node.directory.invalidate(key);
        node.quota_changed(key).await;
    }
    // The relay's own removals wake it once more: then it finds nothing.
    if change.keys.iter().any(|key| key.kind == Announcement::KIND) {
        node.announced.notify_one();
    }
    node.live.ring(change.revision, &change.keys);
    for key in &change.keys {
        for endpoint in node.registry.dependants(key) {
            if let Some(link) = endpoint.link() {
                reconsider(node, &endpoint, &link).await;
            }
        }
    }
}

async fn reconsider(node: &Inner, endpoint: &Arc<Endpoint>, link: &Link) {
    let reviewed = match node.access.standing(&link.principal).await {
        Ok(Standing::Current(grants)) => {
            link.set_grants(grants);
            match &link.device {
                Some(context) => moved(node, link, context).await,
                None => node.review(endpoint, link).await,
            }
        }
        Ok(Standing::Revoked) => {
            tracing::info!(principal = %link.principal, "revoked while connected");
            link.mailbox.close(ReasonCode::NotAuthorized);
            Ok(())
        }
        Err(error) => Err(error),
    };
    if let Err(error) = reviewed {
        tracing::error!(error = &error as &dyn std::error::Error, "standing cannot be read; disconnecting");
        link.mailbox.close(ReasonCode::ServerBusy);
    }
}

/// A device that has come to another owner or home begins a new connection, which sees nothing of the former's.
async fn moved(node: &Inner, link: &Link, context: &DeviceContext) -> Result<(), StoreError> {
    let found = node.directory.device(&*node.stores.meta, &link.principal.tenant, &context.id).await?;
    if found.is_none_or(|device| device.epoch != context.epoch || device.home != context.home) {
        tracing::info!(device = %context.id, "the device has moved to another owner or home; it connects anew");
        link.mailbox.close(ReasonCode::AdministrativeAction);
    }
    Ok(())
}

impl Inner {
    fn looked(&self) {
        let micros = u64::try_from(self.clock.monotonic().as_duration().as_micros()).unwrap_or(u64::MAX);
        self.looked_at_us.store(micros, Ordering::Relaxed);
    }

    /// Whether the node may have missed a revocation for longer than it may.
    pub(crate) fn lags(&self) -> bool {
        let looked = Monotonic::from_duration(Duration::from_micros(self.looked_at_us.load(Ordering::Relaxed)));
        self.clock.monotonic().since(looked) > LAG_MAX + LOOK_EVERY
    }
}
