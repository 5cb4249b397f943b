//! What a database needs that comes from the past.

use iot_core::{session::SessionEpoch, store::StoreError, time::Timestamp};

use super::{Postgres, fault::Fault, pool::number};
use crate::rules::epochs_after_restore;

const LOCK_EPOCH: &str = "SELECT value FROM counter WHERE name = 'session_epoch' FOR UPDATE";
const LOCK_SESSIONS: &str = "SELECT count(*) FROM (SELECT FROM session ORDER BY name FOR UPDATE) AS locked";
const RAISE: &str = "UPDATE session SET epoch = $1 + numbered.number
    FROM (SELECT id, row_number() OVER (ORDER BY id) AS number FROM session) AS numbered
    WHERE numbered.id = session.id";
const COUNT_EPOCH: &str = "UPDATE counter SET value = $1 WHERE name = 'session_epoch'";

impl Postgres {
    /// To be called once after the database was restored, or brought back to a point in time, and before a server uses it.
    /// Gives every stored session a new epoch, above all that were handed out before or after the copy was made: what still
    /// holds an older one is fenced. Answers the highest. `at` is now; a clock that was set back costs only room, since at
    /// least 2⁴⁰ epochs are skipped.
    pub async fn raise_session_epochs(&self, at: Timestamp) -> Result<SessionEpoch, StoreError> {
        Ok(self.raise(at).await?)
    }

    async fn raise(&self, at: Timestamp) -> Result<SessionEpoch, Fault> {
        let mut client = self.inner.pool.get().await?;
        // A rollback if anything fails.
        let transaction = client.transaction().await?;
        let counter = number(&transaction.query(LOCK_EPOCH, &[]).await?)?;
        let sessions = number(&transaction.query(LOCK_SESSIONS, &[]).await?)?;
        let base = epochs_after_restore(counter, at);
        let Some(highest) = base.checked_add(sessions) else {
            return Err(Fault::Damaged(format!("session epochs end at {counter}")));
        };
        transaction.execute(RAISE, &[&base]).await?;
        transaction.execute(COUNT_EPOCH, &[&highest]).await?;
        transaction.commit().await?;
        Ok(SessionEpoch(highest.cast_unsigned()))
    }
}
