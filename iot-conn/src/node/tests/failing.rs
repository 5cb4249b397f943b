//! A session store that fails when it is told to.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
};

use async_trait::async_trait;
use iot_core::{
    id::TenantId,
    message::Message,
    session::{Position, SessionEpoch, SessionId},
    store::{
        Closing, Due, Fenced, Offered, Opened, Opening, Publication as Stored, Queued, SessionStore, Settlement,
        StoreError, StoredSession, StoredSubscription,
    },
    time::Timestamp,
};
use iot_store::memory::Memory;

/// A session store of which operations fail while it is told so.
#[derive(Debug)]
pub(super) struct Failing {
    inner: Arc<Memory>,
    /// So many writes fail from now on.
    pub(super) failures: AtomicU32,
    /// No write works.
    pub(super) down: AtomicBool,
    /// How often messages were to be stored.
    pub(super) offers: AtomicU32,
    /// How many retained messages were read.
    pub(super) retained: AtomicUsize,
}

impl Failing {
    /// One that works.
    pub(super) fn new(inner: Arc<Memory>) -> Self {
        Self {
            inner,
            failures: AtomicU32::default(),
            down: AtomicBool::default(),
            offers: AtomicU32::default(),
            retained: AtomicUsize::default(),
        }
    }

    fn check(&self) -> Result<(), StoreError> {
        let less = |n: u32| n.checked_sub(1);
        let fails = self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok();
        if fails || self.down.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable { backend: "failing", source: "told to".into() });
        }
        Ok(())
    }
}

#[async_trait]
impl SessionStore for Failing {
    async fn open(&self, opening: Opening) -> Result<Opened, StoreError> {
        self.check()?;
        self.inner.open(opening).await
    }
    async fn close(&self, closing: Closing) -> Result<Fenced, StoreError> {
        self.check()?;
        self.inner.close(closing).await
    }
    async fn subscribe(
        &self,
        session: &SessionId,
        epoch: SessionEpoch,
        subscriptions: &[StoredSubscription],
    ) -> Result<Fenced, StoreError> {
        self.check()?;
        self.inner.subscribe(session, epoch, subscriptions).await
    }
    async fn unsubscribe(
        &self,
        session: &SessionId,
        epoch: SessionEpoch,
        filters: &[String],
    ) -> Result<Fenced, StoreError> {
        self.check()?;
        self.inner.unsubscribe(session, epoch, filters).await
    }
    async fn offer(&self, publications: &[Stored]) -> Result<Vec<Offered>, StoreError> {
        self.offers.fetch_add(1, Ordering::SeqCst);
        self.check()?;
        self.inner.offer(publications).await
    }
    async fn peek(
        &self,
        session: &SessionId,
        after: Option<Position>,
        limit: u32,
        bytes: usize,
    ) -> Result<Vec<Queued>, StoreError> {
        self.inner.peek(session, after, limit, bytes).await
    }
    async fn settle(&self, settlements: &[Settlement]) -> Result<(), StoreError> {
        self.check()?;
        self.inner.settle(settlements).await
    }
    async fn retained(
        &self,
        tenant: &TenantId,
        filter: &str,
        after: Option<&str>,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<Message>, StoreError> {
        let page = self.inner.retained(tenant, filter, after, limit, now).await?;
        self.retained.fetch_add(page.len(), Ordering::SeqCst);
        Ok(page)
    }
    async fn sessions(&self, after: Option<&SessionId>, limit: u32) -> Result<Vec<StoredSession>, StoreError> {
        self.inner.sessions(after, limit).await
    }
    async fn due(&self, now: Timestamp, limit: u32) -> Result<Vec<Due>, StoreError> {
        self.inner.due(now, limit).await
    }
    async fn discharge(&self, due: &Due) -> Result<Fenced, StoreError> {
        self.inner.discharge(due).await
    }
}
