mod life;
mod offer;
mod queue;
mod retained;
mod topics;

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
use rusqlite::{Connection, OptionalExtension, params};

pub(super) use self::topics::RetainedTopics;
use super::{Sqlite, fault::Fault, ordered, writer::Outcome};

#[async_trait]
impl SessionStore for Sqlite {
    async fn open(&self, opening: Opening) -> Result<Opened, StoreError> {
        self.write(move |connection| life::open(connection, &opening)).await
    }

    async fn close(&self, closing: Closing) -> Result<Fenced, StoreError> {
        let (session, epoch) = (closing.session.clone(), closing.epoch);
        self.fenced(&session, epoch, move |connection, id| life::close(connection, id, &closing)).await
    }

    async fn subscribe(
        &self,
        session: &SessionId,
        epoch: SessionEpoch,
        subscriptions: &[StoredSubscription],
    ) -> Result<Fenced, StoreError> {
        let subscriptions = subscriptions.to_vec();
        self.fenced(session, epoch, move |connection, id| life::subscribe(connection, id, &subscriptions)).await
    }

    async fn unsubscribe(
        &self,
        session: &SessionId,
        epoch: SessionEpoch,
        filters: &[String],
    ) -> Result<Fenced, StoreError> {
        let filters = filters.to_vec();
        let write = move |connection: &Connection, id: i64| {
            let sql = "DELETE FROM subscription WHERE session = ?1 AND filter = ?2";
            let mut delete = connection.prepare_cached(sql)?;
            filters.iter().try_for_each(|filter| Ok(delete.execute(params![id, filter]).map(drop)?))
        };
        self.fenced(session, epoch, write).await
    }

    async fn offer(&self, publications: &[Publication]) -> Result<Vec<Offered>, StoreError> {
        self.inner.retained_topics.expect(publications);
        let (publications, limits) = (publications.to_vec(), self.inner.limits);
        self.write(move |connection| offer::offer(connection, &publications, &limits)).await
    }

    async fn peek(
        &self,
        session: &SessionId,
        after: Option<Position>,
        limit: u32,
        bytes: usize,
    ) -> Result<Vec<Queued>, StoreError> {
        let session = session.clone();
        self.inner.control_readers.run(move |connection| queue::peek(connection, &session, after, limit, bytes)).await
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<(), StoreError> {
        let settlements = settlements.to_vec();
        self.write(move |connection| queue::settle(connection, &settlements)).await
    }

    async fn retained(
        &self,
        tenant: &TenantId,
        filter: &str,
        after: Option<&str>,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<Message>, StoreError> {
        if !self.inner.retained_topics.may_match(tenant, filter) {
            return self.inner.control_readers.are_open().map(|()| Vec::new());
        }
        let (tenant, filter, after) = (tenant.clone(), filter.to_owned(), after.unwrap_or_default().to_owned());
        let read = move |connection: &Connection| retained::matching(connection, &tenant, &filter, &after, limit, now);
        self.inner.control_readers.run(read).await
    }

    async fn sessions(&self, after: Option<&SessionId>, limit: u32) -> Result<Vec<StoredSession>, StoreError> {
        let after = after.map(|session| session.as_str().to_owned()).unwrap_or_default();
        self.inner.control_readers.run(move |connection| life::sessions(connection, &after, limit)).await
    }

    async fn due(&self, now: Timestamp, limit: u32) -> Result<Vec<Due>, StoreError> {
        self.inner.control_readers.run(move |connection| life::due(connection, now, limit)).await
    }

    async fn discharge(&self, due: &Due) -> Result<Fenced, StoreError> {
        let expired = due.expired;
        self.fenced(&due.session, due.epoch, move |connection, id| life::discharge(connection, id, expired)).await
    }
}

impl Sqlite {
    async fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.inner.control.run(move |connection, _| Ok(Outcome::Keep(write(connection)?))).await
    }

    /// Carries out a step of the session's present epoch; nothing if it has another one or is gone.
    async fn fenced(
        &self,
        session: &SessionId,
        epoch: SessionEpoch,
        step: impl FnOnce(&Connection, i64) -> Result<(), Fault> + Send + 'static,
    ) -> Result<Fenced, StoreError> {
        let session = session.clone();
        let write = move |connection: &Connection| match current(connection, &session, epoch)? {
            Some(id) => step(connection, id).map(|()| Fenced::Done),
            None => Ok(Fenced::Superseded),
        };
        self.write(write).await
    }
}

/// The row of a session, if this is its epoch.
fn current(connection: &Connection, session: &SessionId, epoch: SessionEpoch) -> Result<Option<i64>, Fault> {
    let mut statement = connection.prepare_cached("SELECT id FROM session WHERE name = ?1 AND epoch = ?2")?;
    Ok(statement.query_row(params![session.as_str(), ordered(epoch.0)], |row| row.get(0)).optional()?)
}
