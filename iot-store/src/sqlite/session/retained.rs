//! Retained messages.

use iot_core::{id::TenantId, message::Message, time::Timestamp, topic};
use rusqlite::{Connection, OptionalExtension, params};

use super::super::{fault::Fault, ordered};
use crate::{StoreLimits, codec, rules::literal_prefix};

pub(super) struct Retaining<'a> {
    connection: &'a Connection,
    limits: &'a StoreLimits,
}

/// How much of a tenant there is.
#[derive(Default)]
struct Count {
    messages: i64,
    size: i64,
}

impl<'a> Retaining<'a> {
    pub(super) fn new(connection: &'a Connection, limits: &'a StoreLimits) -> Self {
        Self { connection, limits }
    }

    /// Sets or removes the retained message of a topic; `false` if there is no room.
    pub(super) fn retain(&self, message: &Message) -> Result<bool, Fault> {
        let tenant = &message.tenant;
        let former = self.size_of(message)?;
        if message.payload.is_empty() {
            if let Some(size) = former {
                let mut delete =
                    self.connection.prepare_cached("DELETE FROM retained WHERE tenant = ?1 AND topic = ?2")?;
                delete.execute([tenant.as_str(), &*message.topic])?;
                self.count(tenant, &Count { messages: -1, size: -size })?;
            }
            return Ok(true);
        }
        let size = ordered(message.size() as u64);
        let more = Count { messages: i64::from(former.is_none()), size: size - former.unwrap_or(0) };
        if !self.has_room(message, &more)? {
            return Ok(false);
        }
        let sql = "INSERT OR REPLACE INTO retained (tenant, topic, expires, body, size) VALUES (?1, ?2, ?3, ?4, ?5)";
        let expires = message.expires.map(Timestamp::as_micros);
        let row = params![tenant.as_str(), &*message.topic, expires, codec::message(message), size];
        self.connection.prepare_cached(sql)?.execute(row)?;
        self.count(tenant, &more)?;
        Ok(true)
    }

    /// Of the present message of the topic, if there is one.
    fn size_of(&self, message: &Message) -> Result<Option<i64>, Fault> {
        let sql = "SELECT size FROM retained WHERE tenant = ?1 AND topic = ?2";
        let mut statement = self.connection.prepare_cached(sql)?;
        Ok(statement.query_row([message.tenant.as_str(), &*message.topic], |row| row.get(0)).optional()?)
    }

    /// Whether so much more fits, if need be after expired ones are forgotten.
    fn has_room(&self, message: &Message, more: &Count) -> Result<bool, Fault> {
        let (tenant, now) = (&message.tenant, message.published.as_micros());
        if self.fits(tenant, more)? {
            return Ok(true);
        }
        // Not its own former one, which stays if there is no room for this one.
        let expired = "FROM retained WHERE tenant = ?1 AND expires <= ?2 AND topic <> ?3";
        let of = params![tenant.as_str(), now, &*message.topic];
        let counted = format!("SELECT count(*), coalesce(sum(size), 0) {expired}");
        let gone = self.connection.prepare_cached(&counted)?.query_row(of, |row| {
            let (messages, size): (i64, i64) = (row.get(0)?, row.get(1)?);
            Ok(Count { messages: -messages, size: -size })
        })?;
        self.connection.prepare_cached(&format!("DELETE {expired}"))?.execute(of)?;
        self.count(tenant, &gone)?;
        self.fits(tenant, more)
    }

    fn fits(&self, tenant: &TenantId, more: &Count) -> Result<bool, Fault> {
        if more.messages <= 0 && more.size <= 0 {
            return Ok(true);
        }
        let sql = "SELECT messages, size FROM retained_count WHERE tenant = ?1";
        let mut statement = self.connection.prepare_cached(sql)?;
        let there =
            statement.query_row([tenant.as_str()], |row| Ok(Count { messages: row.get(0)?, size: row.get(1)? }));
        let there = there.optional()?.unwrap_or_default();
        let has_place = more.messages <= 0 || there.messages < ordered(self.limits.retained_max as u64);
        Ok(has_place && there.size < ordered(self.limits.retained_bytes_max as u64))
    }

    fn count(&self, tenant: &TenantId, more: &Count) -> Result<(), Fault> {
        if more.messages != 0 || more.size != 0 {
            let sql = "INSERT INTO retained_count (tenant, messages, size) VALUES (?1, ?2, ?3)
                ON CONFLICT DO UPDATE SET messages = messages + excluded.messages, size = size + excluded.size";
            self.connection.prepare_cached(sql)?.execute(params![tenant.as_str(), more.messages, more.size])?;
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
