//! A session store that outlives the node: each operation takes a while before and after it happens, so that a crash finds it
//! done or not done, and at times none works.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use iot_core::{
    id::TenantId,
    message::Message,
    session::{Position, SessionEpoch, SessionId},
    store::{
        Closing, Due, Fenced, Offered, Opened, Opening, Publication, Queued, SessionStore, Settlement, StoreError,
        StoredSession, StoredSubscription,
    },
    time::Timestamp,
};
use iot_store::memory::Memory;

use super::rng::Rng;

#[derive(Debug)]
pub(super) struct Slow {
    inner: Arc<Memory>,
    rng: Mutex<Rng>,
    pub(super) down: AtomicBool,
}

impl Slow {
    pub(super) fn new(inner: Arc<Memory>, rng: Rng) -> Self {
        Self { inner, rng: Mutex::new(rng), down: AtomicBool::new(false) }
    }

    async fn pause(&self) {
        let pause = {
            let mut rng = self.rng.lock().unwrap();
            (!rng.once_in(3)).then(|| rng.millis(0, 15))
        };
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
    }

    async fn around<T>(&self, operation: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.pause().await;
        if self.down.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable { backend: "simulation", source: "told to".into() });
        }
        let answer = operation.await;
        self.pause().await;
        answer
    }
}

#[async_trait]
impl SessionStore for Slow {
    async fn open(&self, opening: Opening) -> Result<Opened, StoreError> {
        self.around(self.inner.open(opening)).await
    }
    async fn close(&self, closing: Closing) -> Result<Fenced, StoreError> {
        self.around(self.inner.close(closing)).await
    }
    async fn subscribe(
        &self,
        session: &SessionId,
        epoch: SessionEpoch,
        subscriptions: &[StoredSubscription],
    ) -> Result<Fenced, StoreError> {
        self.around(self.inner.subscribe(session, epoch, subscriptions)).await
    }
    async fn unsubscribe(
        &self,
        session: &SessionId,
        epoch: SessionEpoch,
        filters: &[String],
    ) -> Result<Fenced, StoreError> {
        self.around(self.inner.unsubscribe(session, epoch, filters)).await
    }
    async fn offer(&self, publications: &[Publication]) -> Result<Vec<Offered>, StoreError> {
        self.around(self.inner.offer(publications)).await
    }
    async fn peek(
        &self,
        session: &SessionId,
        after: Option<Position>,
        limit: u32,
        bytes: usize,
    ) -> Result<Vec<Queued>, StoreError> {
        self.around(self.inner.peek(session, after, limit, bytes)).await
    }
    async fn settle(&self, settlements: &[Settlement]) -> Result<(), StoreError> {
        self.around(self.inner.settle(settlements)).await
    }
    async fn retained(
        &self,
        tenant: &TenantId,
        filter: &str,
        after: Option<&str>,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<Message>, StoreError> {
        self.around(self.inner.retained(tenant, filter, after, limit, now)).await
    }
    async fn sessions(&self, after: Option<&SessionId>, limit: u32) -> Result<Vec<StoredSession>, StoreError> {
        self.around(self.inner.sessions(after, limit)).await
    }
    async fn due(&self, now: Timestamp, limit: u32) -> Result<Vec<Due>, StoreError> {
        self.around(self.inner.due(now, limit)).await
    }
    async fn discharge(&self, due: &Due) -> Result<Fenced, StoreError> {
        self.around(self.inner.discharge(due)).await
    }
}
