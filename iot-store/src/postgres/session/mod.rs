mod job;
mod read;
mod retained;
mod state;
mod write;

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

use self::job::{Answer, Job, Offer, Step};
pub(super) use self::write::Sessions;
use super::{Postgres, fault::Fault};

#[async_trait]
impl SessionStore for Postgres {
    async fn open(&self, opening: Opening) -> Result<Opened, StoreError> {
        match self.inner.sessions.run(Job::Open(opening)).await? {
            Answer::Opened(opened) => Ok(opened),
            _ => Err(Fault::stopped().into()),
        }
    }

    async fn close(&self, closing: Closing) -> Result<Fenced, StoreError> {
        self.fenced(closing.session.clone(), closing.epoch, Step::Close(closing)).await
    }

    async fn subscribe(
        &self,
        session: &SessionId,
        epoch: SessionEpoch,
        subscriptions: &[StoredSubscription],
    ) -> Result<Fenced, StoreError> {
        self.fenced(session.clone(), epoch, Step::Subscribe(subscriptions.to_vec())).await
    }

    async fn unsubscribe(
        &self,
        session: &SessionId,
        epoch: SessionEpoch,
        filters: &[String],
    ) -> Result<Fenced, StoreError> {
        self.fenced(session.clone(), epoch, Step::Unsubscribe(filters.to_vec())).await
    }

    async fn offer(&self, publications: &[Publication]) -> Result<Vec<Offered>, StoreError> {
        if publications.is_empty() {
            return Ok(Vec::new());
        }
        match self.inner.sessions.run(Job::Offer(publications.iter().map(Offer::new).collect())).await? {
            Answer::Offered(offered) => Ok(offered),
            _ => Err(Fault::stopped().into()),
        }
    }

    async fn peek(
        &self,
        session: &SessionId,
        after: Option<Position>,
        limit: u32,
        bytes: usize,
    ) -> Result<Vec<Queued>, StoreError> {
        Ok(read::peek(&self.inner.pool, session, after, limit, bytes).await?)
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<(), StoreError> {
        if settlements.is_empty() {
            return Ok(());
        }
        self.inner.sessions.run(Job::Settle(settlements.to_vec())).await.map(drop)
    }

    async fn retained(
        &self,
        tenant: &TenantId,
        filter: &str,
        after: Option<&str>,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<Message>, StoreError> {
        Ok(read::retained(&self.inner.pool, tenant, filter, after.unwrap_or_default(), limit, now).await?)
    }

    async fn sessions(&self, after: Option<&SessionId>, limit: u32) -> Result<Vec<StoredSession>, StoreError> {
        Ok(read::sessions(&self.inner.pool, after.map_or("", SessionId::as_str), limit).await?)
    }

    async fn due(&self, now: Timestamp, limit: u32) -> Result<Vec<Due>, StoreError> {
        Ok(read::due(&self.inner.pool, now, limit).await?)
    }

    async fn discharge(&self, due: &Due) -> Result<Fenced, StoreError> {
        self.fenced(due.session.clone(), due.epoch, Step::Discharge(due.clone())).await
    }
}

impl Postgres {
    async fn fenced(&self, session: SessionId, epoch: SessionEpoch, step: Step) -> Result<Fenced, StoreError> {
        match self.inner.sessions.run(Job::Fenced(session, epoch, step)).await? {
            Answer::Fenced(fenced) => Ok(fenced),
            _ => Err(Fault::stopped().into()),
        }
    }
}
