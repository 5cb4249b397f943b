//! Retained messages.

use iot_core::{id::TenantId, message::Message, time::Timestamp, topic};
use rusqlite::{Connection, OptionalExtension, params};

use super::super::{fault::Fault, ordered};
use crate::codec;
use crate::rules::literal_prefix;

pub(super) struct Retaining<'a> {
    connection: &'a Connection,
    retained_max: usize,
}

impl<'a> Retaining<'a> {
    pub(super) fn new(connection: &'a Connection, retained_max: usize) -> Self {
        Self { connection, retained_max }
    }

    /// Sets or removes the retained message of a topic; `false` if there is no room.
    pub(super) fn retain(&self, message: &Message) -> Result<bool, Fault> {
        let tenant = &message.tenant;
        if message.payload.is_empty() {
            let mut delete = self.connection.prepare_cached("DELETE FROM retained WHERE tenant = ?1 AND topic = ?2")?;
            let removed = delete.execute([tenant.as_str(), &*message.topic])?;
            self.count(tenant, -ordered(removed as u64))?;
            return Ok(true);
        }
        let is_new = !self.is_there(message)?;
        if is_new && !self.has_room(tenant, message.published)? {
            return Ok(false);
        }
        let sql = "INSERT OR REPLACE INTO retained (tenant, topic, expires, body) VALUES (?1, ?2, ?3, ?4)";
        let expires = message.expires.map(Timestamp::as_micros);
        let row = params![tenant.as_str(), &*message.topic, expires, codec::message(message)];
        self.connection.prepare_cached(sql)?.execute(row)?;
        self.count(tenant, i64::from(is_new))?;
        Ok(true)
    }

    fn is_there(&self, message: &Message) -> Result<bool, Fault> {
        let sql = "SELECT 1 FROM retained WHERE tenant = ?1 AND topic = ?2";
        Ok(self.connection.prepare_cached(sql)?.exists([message.tenant.as_str(), &*message.topic])?)
    }

    /// Whether one more fits, if need be after expired ones are forgotten.
    fn has_room(&self, tenant: &TenantId, now: Timestamp) -> Result<bool, Fault> {
        let max = ordered(self.retained_max as u64);
        if self.counted(tenant)? < max {
            return Ok(true);
        }
        let sql = "DELETE FROM retained WHERE tenant = ?1 AND expires <= ?2";
        let expired = self.connection.prepare_cached(sql)?.execute(params![tenant.as_str(), now.as_micros()])?;
        self.count(tenant, -ordered(expired as u64))?;
        Ok(self.counted(tenant)? < max)
    }

    fn counted(&self, tenant: &TenantId) -> Result<i64, Fault> {
        let mut statement = self.connection.prepare_cached("SELECT messages FROM retained_count WHERE tenant = ?1")?;
        Ok(statement.query_row([tenant.as_str()], |row| row.get(0)).optional()?.unwrap_or(0))
    }

    fn count(&self, tenant: &TenantId, more: i64) -> Result<(), Fault> {
        if more != 0 {
            let sql = "INSERT INTO retained_count (tenant, messages) VALUES (?1, ?2)
                ON CONFLICT DO UPDATE SET messages = messages + excluded.messages";
            self.connection.prepare_cached(sql)?.execute(params![tenant.as_str(), more])?;
        }
        Ok(())
    }
}

pub(super) fn matching(
    connection: &Connection,
    tenant: &TenantId,
    filter: &str,
    after: &str,
    limit: u32,
    now: Timestamp,
) -> Result<Vec<Message>, Fault> {
    let prefix = literal_prefix(filter);
    let beyond = |topic: &str| if prefix == filter { topic != filter } else { !topic.starts_with(prefix) };
    let sql = "SELECT topic, body FROM retained
        WHERE tenant = ?1 AND topic > ?2 AND topic >= ?3 AND (expires IS NULL OR expires > ?4) ORDER BY topic";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![tenant.as_str(), after, prefix, now.as_micros()])?;
    let mut messages = Vec::new();
    while let Some(row) = rows.next()? {
        let topic = row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?;
        if messages.len() == limit as usize || beyond(topic) {
            break;
        }
        if topic::matches(filter, topic) {
            messages.push(codec::read_message(row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?)?);
        }
    }
    Ok(messages)
}
