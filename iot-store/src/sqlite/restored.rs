//! What a folder needs that comes from the past.

use iot_core::{
    id::{DeviceId, OwnershipEpoch, TenantId},
    session::SessionEpoch,
    store::{Series, StoreError},
    time::Timestamp,
};
use rusqlite::{Connection, params};

use super::{Sqlite, fault::Fault, ordered, writer::Outcome};
use crate::rules::epochs_after_restore;

impl Sqlite {
    /// Gives every stored session a new epoch, above all that were handed out before or after the copy was made: what still
    /// holds an older one is fenced. Answers the highest. `at` is now; a clock that was set back costs only room, since at
    /// least 2⁴⁰ epochs are skipped.
    pub async fn raise_session_epochs(&self, at: Timestamp) -> Result<SessionEpoch, StoreError> {
        let raised = self.inner.control.run(move |connection, _| Ok(Outcome::Keep(raise(connection, at)?))).await?;
        Ok(SessionEpoch(raised.cast_unsigned()))
    }

    /// All series of telemetry, in the order of tenant, device and epoch, from after `after`, at most `limit`.
    pub async fn series(&self, after: Option<&Series>, limit: u32) -> Result<Vec<Series>, StoreError> {
        let after = after.cloned();
        self.inner.data_readers.run(move |connection| series(connection, after.as_ref(), limit)).await
    }
}

fn raise(connection: &Connection, at: Timestamp) -> Result<i64, Fault> {
    let sql = "SELECT value FROM counter WHERE name = 'session_epoch'";
    let counter: i64 = connection.query_row(sql, [], |row| row.get(0))?;
    let base = epochs_after_restore(counter, at);
    let sessions: i64 = connection.query_row("SELECT count(*) FROM session", [], |row| row.get(0))?;
    let Some(highest) = base.checked_add(sessions) else {
        return Err(Fault::damaged(format!("session epochs end at {counter}")));
    };
    let sql = "UPDATE session SET epoch = ?1 + numbered.number
        FROM (SELECT id, row_number() OVER (ORDER BY id) AS number FROM session) AS numbered
        WHERE numbered.id = session.id";
    connection.execute(sql, [base])?;
    connection.execute("UPDATE counter SET value = ?1 WHERE name = 'session_epoch'", [highest])?;
    Ok(highest)
}

fn series(connection: &Connection, after: Option<&Series>, limit: u32) -> Result<Vec<Series>, Fault> {
    let sql = "SELECT tenant, device, epoch FROM series WHERE (tenant, device, epoch) > (?1, ?2, ?3)
        ORDER BY tenant, device, epoch LIMIT ?4";
    let after = after.map_or(("", "", 0), |of| (of.tenant.as_str(), of.device.as_str(), ordered(of.epoch.0)));
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![after.0, after.1, after.2, limit])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let text = |column| row.get::<_, String>(column);
        found.push(Series {
            tenant: TenantId::parse(&text(0)?).map_err(|error| Fault::damaged(error.to_string()))?,
            device: DeviceId::parse(&text(1)?).map_err(|error| Fault::damaged(error.to_string()))?,
            epoch: OwnershipEpoch(row.get::<_, i64>(2)?.cast_unsigned()),
        });
    }
    Ok(found)
}
