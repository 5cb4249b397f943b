//! Opening, closing and the end of sessions, and their subscriptions.

use std::time::Duration;

use iot_core::{
    message::QoS,
    session::{Position, SessionEpoch, SessionId},
    store::{Closing, Due, Opened, Opening, Resumed, StoredSession, StoredSubscription},
    time::Timestamp,
};
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    super::{fault::Fault, ordered},
    queue,
};
use crate::codec;

pub(super) fn open(connection: &Connection, opening: &Opening) -> Result<Opened, Fault> {
    let epoch = next_epoch(connection)?;
    let former = former(connection, &opening.session)?;
    let persistent = !opening.keep.is_zero();
    let resumes = |former: &Former| {
        persistent && !opening.clean && former.expires_at.is_none_or(|at| at > opening.at.as_micros())
    };
    let resumed =
        former.as_ref().filter(|former| resumes(former)).map(|former| resume(connection, former)).transpose()?;
    if let Some(former) = &former
        && resumed.is_none()
    {
        remove(connection, former.id)?;
    }
    if persistent {
        take(connection, opening, epoch)?;
    }
    let ended = former.filter(|_| resumed.is_none());
    let will = ended.and_then(|former| former.waiting_will()).map(|body| codec::read_message(&body)).transpose()?;
    Ok(Opened { epoch: SessionEpoch(epoch.cast_unsigned()), resumed, will })
}

/// The session as it was before it was opened; `expires_at` only if it had been closed.
struct Former {
    id: i64,
    last_position: i64,
    sent_through: i64,
    expires_at: Option<i64>,
    will: Option<Vec<u8>>,
    will_delay: Option<i64>,
}

impl Former {
    fn waiting_will(self) -> Option<Vec<u8>> {
        self.will.filter(|_| self.expires_at.is_some() || self.will_delay.is_some_and(|delay| delay > 0))
    }
}

fn former(connection: &Connection, session: &SessionId) -> Result<Option<Former>, Fault> {
    let sql = "SELECT id, last_position, sent_through, expires_at, will, will_delay FROM session WHERE name = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let former = statement.query_row([session.as_str()], |row| {
        Ok(Former {
            id: row.get(0)?,
            last_position: row.get(1)?,
            sent_through: row.get(2)?,
            expires_at: row.get(3)?,
            will: row.get(4)?,
            will_delay: row.get(5)?,
        })
    });
    Ok(former.optional()?)
}

/// Of a session that was never closed anything in the queue may have been sent.
fn resume(connection: &Connection, former: &Former) -> Result<Resumed, Fault> {
    let sent_through = if former.expires_at.is_some() { former.sent_through } else { former.last_position };
    let mut statement =
        connection.prepare_cached("SELECT packet_id FROM received WHERE session = ?1 ORDER BY packet_id")?;
    let received = statement.query_map([former.id], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(Resumed {
        subscriptions: subscriptions(connection, former.id)?,
        received,
        sent_through: Position(sent_through.cast_unsigned()),
    })
}

/// Counts for all sessions, so that epochs grow also when a session is removed and made again.
fn next_epoch(connection: &Connection) -> Result<i64, Fault> {
    let sql = "UPDATE counter SET value = value + 1 WHERE name = 'session_epoch' RETURNING value";
    Ok(connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
}

fn take(connection: &Connection, opening: &Opening, epoch: i64) -> Result<(), Fault> {
    let (will, delay) = match &opening.will {
        Some((message, delay)) => (Some(codec::message(message)), Some(micros(*delay))),
        None => (None, None),
    };
    let sql = "INSERT INTO session (name, epoch, will, will_delay, keep) VALUES (?1, ?2, ?3, ?4, ?5)
        ON CONFLICT DO UPDATE SET epoch = excluded.epoch, will = excluded.will, will_delay = excluded.will_delay,
        keep = excluded.keep, expires_at = NULL, due_at = NULL";
    connection.prepare_cached(sql)?.execute(params![
        opening.session.as_str(),
        epoch,
        will,
        delay,
        micros(opening.keep)
    ])?;
    Ok(())
}

pub(super) fn close(connection: &Connection, id: i64, closing: &Closing) -> Result<(), Fault> {
    if closing.keep.is_zero() {
        return remove(connection, id);
    }
    let delay: Option<i64> =
        connection.prepare_cached("SELECT will_delay FROM session WHERE id = ?1")?.query_row([id], |row| row.get(0))?;
    let delay = delay.filter(|_| closing.will);
    let expires_at = closing.at.plus(closing.keep).as_micros();
    let due_at = delay.map_or(expires_at, |delay| closing.at.as_micros().saturating_add(delay).min(expires_at));
    let sql = "UPDATE session SET sent_through = ?2, expires_at = ?3, due_at = ?4, will_delay = ?5,
        will = CASE WHEN ?5 IS NULL THEN NULL ELSE will END WHERE id = ?1";
    let row = params![id, ordered(closing.sent_through.0), expires_at, due_at, delay];
    connection.prepare_cached(sql)?.execute(row)?;
    Ok(())
}

pub(super) fn subscribe(connection: &Connection, id: i64, subscriptions: &[StoredSubscription]) -> Result<(), Fault> {
    let sql = "INSERT OR REPLACE INTO subscription (session, filter, qos, no_local, retain_as_published, identifier)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let mut put = connection.prepare_cached(sql)?;
    for StoredSubscription { filter, qos, no_local, retain_as_published, identifier } in subscriptions {
        put.execute(params![id, filter, *qos as u8, no_local, retain_as_published, identifier])?;
    }
    Ok(())
}

fn subscriptions(connection: &Connection, id: i64) -> Result<Vec<StoredSubscription>, Fault> {
    let sql = "SELECT filter, qos, no_local, retain_as_published, identifier FROM subscription
        WHERE session = ?1 ORDER BY filter";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([id])?;
    let mut subscriptions = Vec::new();
    while let Some(row) = rows.next()? {
        subscriptions.push(StoredSubscription {
            filter: row.get(0)?,
            qos: qos(row.get(1)?)?,
            no_local: row.get(2)?,
            retain_as_published: row.get(3)?,
            identifier: row.get(4)?,
        });
    }
    Ok(subscriptions)
}

pub(super) fn sessions(connection: &Connection, after: &str, limit: u32) -> Result<Vec<StoredSession>, Fault> {
    let sql = "SELECT id, name, epoch, expires_at IS NULL, keep FROM session WHERE name > ?1 ORDER BY name LIMIT ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![after, limit])?;
    let mut sessions = Vec::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(1)?;
        sessions.push(StoredSession {
            session: SessionId::from_stored(&name),
            epoch: SessionEpoch(row.get::<_, i64>(2)?.cast_unsigned()),
            subscriptions: subscriptions(connection, row.get(0)?)?,
            open: row.get(3)?,
            keep: Duration::from_micros(row.get::<_, i64>(4)?.try_into().unwrap_or(0)),
        });
    }
    Ok(sessions)
}

pub(super) fn due(connection: &Connection, now: Timestamp, limit: u32) -> Result<Vec<Due>, Fault> {
    let sql = "SELECT name, epoch, will, expires_at FROM session WHERE due_at <= ?1 ORDER BY due_at, name LIMIT ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![now.as_micros(), limit])?;
    let mut due = Vec::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        let will: Option<Vec<u8>> = row.get(2)?;
        due.push(Due {
            session: SessionId::from_stored(&name),
            epoch: SessionEpoch(row.get::<_, i64>(1)?.cast_unsigned()),
            will: will.map(|body| codec::read_message(&body)).transpose()?,
            expired: row.get::<_, i64>(3)? <= now.as_micros(),
        });
    }
    Ok(due)
}

pub(super) fn discharge(connection: &Connection, id: i64, expired: bool) -> Result<(), Fault> {
    if expired {
        return remove(connection, id);
    }
    let sql = "UPDATE session SET will = NULL, will_delay = NULL, due_at = expires_at WHERE id = ?1";
    connection.prepare_cached(sql)?.execute([id])?;
    Ok(())
}

fn remove(connection: &Connection, id: i64) -> Result<(), Fault> {
    queue::clear(connection, id)?;
    for sql in [
        "DELETE FROM subscription WHERE session = ?1",
        "DELETE FROM received WHERE session = ?1",
        "DELETE FROM session WHERE id = ?1",
    ] {
        connection.prepare_cached(sql)?.execute([id])?;
    }
    Ok(())
}

pub(super) fn qos(bits: u8) -> Result<QoS, Fault> {
    QoS::from_bits(bits).ok_or_else(|| Fault::damaged(format!("quality of service {bits}")))
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
