//! Reading sessions, queues and retained messages.

use std::time::Duration;

use deadpool_postgres::Pool;
use iot_core::{
    id::TenantId,
    message::{Message, QoS},
    session::{Position, SessionEpoch, SessionId},
    store::{Due, Queued, StoredSession, StoredSubscription},
    time::Timestamp,
    topic,
};
use tokio_postgres::Row;

use super::super::{fault::Fault, ordered, pool::rows, text};
use crate::{codec, rules::literal_prefix};

/// How many retained messages are looked at in one statement.
const RETAINED_PER_STATEMENT: i64 = 1_000;

pub(super) async fn peek(
    pool: &Pool,
    session: &SessionId,
    after: Option<Position>,
    limit: u32,
    bytes: usize,
) -> Result<Vec<Queued>, Fault> {
    let sql = "SELECT position, qos, retain, identifiers, released, body
        FROM (
            SELECT queue.*, (sum(size) OVER (ORDER BY position) - size)::bigint AS before FROM queue
            WHERE session = (SELECT id FROM session WHERE name = $1) AND position > $2 ORDER BY position LIMIT $3
        ) AS queue
        JOIN message ON message.id = queue.message
        WHERE before < $4 ORDER BY position";
    let name = text::stored(session.as_str());
    let after = after.map_or(-1, |after| ordered(after.0));
    let rows = rows(pool, sql, &[&name, &after, &i64::from(limit), &ordered(bytes as u64)]).await?;
    rows.iter().map(queued).collect()
}

fn queued(row: &Row) -> Result<Queued, Fault> {
    Ok(Queued {
        position: Position(row.try_get::<_, i64>(0)?.cast_unsigned()),
        message: codec::read_message(row.try_get(5)?)?,
        qos: qos(row.try_get(1)?)?,
        retain: row.try_get(2)?,
        identifiers: codec::read_identifiers(row.try_get(3)?),
        released: row.try_get(4)?,
    })
}

pub(super) async fn retained(
    pool: &Pool,
    tenant: &TenantId,
    filter: &str,
    after: &str,
    limit: u32,
    now: Timestamp,
) -> Result<Vec<Message>, Fault> {
    let sql = "SELECT topic, body FROM retained
        WHERE tenant = $1 AND topic > $2 AND topic >= $3 AND (expires IS NULL OR expires > $4)
        ORDER BY topic LIMIT $5";
    let prefix = literal_prefix(filter);
    let beyond = |topic: &str| if prefix == filter { topic != filter } else { !topic.starts_with(prefix) };
    let from = text::stored(prefix);
    let (mut messages, mut after) = (Vec::new(), text::stored(after).into_owned());
    loop {
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
            [&tenant.as_str(), &after, &from, &now.as_micros(), &RETAINED_PER_STATEMENT];
        let page = rows(pool, sql, &parameters).await?;
        for row in &page {
            after = row.try_get(0)?;
            let topic = text::read(after.clone());
            if messages.len() == limit as usize || beyond(&topic) {
                return Ok(messages);
            }
            if topic::matches(filter, &topic) {
                messages.push(codec::read_message(row.try_get(1)?)?);
            }
        }
        if ordered(page.len() as u64) < RETAINED_PER_STATEMENT {
            return Ok(messages);
        }
    }
}

pub(super) async fn sessions(pool: &Pool, after: &str, limit: u32) -> Result<Vec<StoredSession>, Fault> {
    // One statement, so that a session and its subscriptions are of one moment.
    let sql = "SELECT name, epoch, expires_at IS NULL, keep, filter, qos, no_local, retain_as_published, identifier
        FROM (SELECT * FROM session WHERE name > $1 ORDER BY name LIMIT $2) AS page
        LEFT JOIN subscription ON subscription.session = page.id ORDER BY name, filter";
    let rows = rows(pool, sql, &[&text::stored(after), &i64::from(limit)]).await?;
    let mut sessions: Vec<StoredSession> = Vec::new();
    for row in &rows {
        let session = SessionId::from_stored(&text::read(row.try_get(0)?));
        if sessions.last().is_none_or(|last| last.session != session) {
            sessions.push(StoredSession {
                session,
                epoch: SessionEpoch(row.try_get::<_, i64>(1)?.cast_unsigned()),
                subscriptions: Vec::new(),
                open: row.try_get(2)?,
                keep: Duration::from_micros(row.try_get::<_, i64>(3)?.try_into().unwrap_or(0)),
            });
        }
        if row.try_get::<_, Option<&str>>(4)?.is_some() {
            let subscription = subscription(row, 4)?;
            sessions.last_mut().into_iter().for_each(|last| last.subscriptions.push(subscription.clone()));
        }
    }
    Ok(sessions)
}

/// Reads filter, qos, no_local, retain_as_published and identifier.
pub(super) fn subscription(row: &Row, column: usize) -> Result<StoredSubscription, Fault> {
    let identifier = row.try_get::<_, Option<i64>>(column + 4)?;
    Ok(StoredSubscription {
        filter: text::read(row.try_get(column)?),
        qos: qos(row.try_get(column + 1)?)?,
        no_local: row.try_get(column + 2)?,
        retain_as_published: row.try_get(column + 3)?,
        identifier: identifier.and_then(|identifier| u32::try_from(identifier).ok()),
    })
}

pub(super) async fn due(pool: &Pool, now: Timestamp, limit: u32) -> Result<Vec<Due>, Fault> {
    let sql = "SELECT name, epoch, will, expires_at FROM session WHERE due_at <= $1 ORDER BY due_at, name LIMIT $2";
    let rows = rows(pool, sql, &[&now.as_micros(), &i64::from(limit)]).await?;
    let due = rows.iter().map(|row| {
        let will: Option<&[u8]> = row.try_get(2)?;
        Ok(Due {
            session: SessionId::from_stored(&text::read(row.try_get(0)?)),
            epoch: SessionEpoch(row.try_get::<_, i64>(1)?.cast_unsigned()),
            will: will.map(codec::read_message).transpose()?,
            expired: row.try_get::<_, i64>(3)? <= now.as_micros(),
        })
    });
    due.collect()
}

fn qos(bits: i16) -> Result<QoS, Fault> {
    let qos = u8::try_from(bits).ok().and_then(QoS::from_bits);
    qos.ok_or_else(|| Fault::Damaged(format!("quality of service {bits}")))
}
