use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use iot_core::{
    id::TenantId,
    problem::Cursor,
    store::{Audit, Batch, Change, Check, Committed, Index, Key, MetaStore, Page, Record, Revision, StoreError, Write},
    time::Timestamp,
};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, params};

use super::{
    Sqlite,
    fault::Fault,
    ordered,
    writer::{Memo, Outcome},
};
use crate::rules::{count_cursor, distinct, last_writes, page_size, read_count};

/// Forgetting old changes costs a statement, which is done once in so many revisions.
const REVISIONS_PER_FORGETTING: u64 = 256;

#[async_trait]
impl MetaStore for Sqlite {
    async fn get(&self, keys: &[Key]) -> Result<Vec<Option<Record>>, StoreError> {
        let keys = keys.to_vec();
        let read = move |connection: &Connection| {
            let mut statement = connection
                .prepare_cached("SELECT key, version, format, body FROM record WHERE kind = ?1 AND key = ?2")?;
            keys.iter()
                .map(|key| Ok(statement.query_row([&key.kind, &key.key], |row| record(&key.kind, row)).optional()?))
                .collect()
        };
        self.inner.control_readers.run(read).await
    }

    async fn list(&self, index: &Index, after: Option<&Cursor>, limit: u32) -> Result<Page<Record>, StoreError> {
        let (index, limit) = (index.clone(), page_size(limit));
        let after = after.map(|cursor| cursor.key().to_vec()).unwrap_or_default();
        self.inner.control_readers.run(move |connection| list(connection, &index, &after, limit)).await
    }

    async fn count(&self, index: &Index) -> Result<u64, StoreError> {
        let index = index.clone();
        let read = move |connection: &Connection| {
            let sql = "SELECT count(*) FROM index_key WHERE kind = ?1 AND name = ?2 AND value = ?3";
            let count: i64 = connection
                .prepare_cached(sql)?
                .query_row(params![index.kind, index.index, index.value], |row| row.get(0))?;
            Ok(count.cast_unsigned())
        };
        self.inner.control_readers.run(read).await
    }

    async fn commit(&self, batch: Batch) -> Result<Committed, StoreError> {
        let changes_kept = self.inner.limits.changes_kept;
        let write = move |connection: &Connection, newest: &mut Newest| {
            let outcome = commit(connection, batch, changes_kept);
            if let Ok(Outcome::Keep(Committed::Done(revision))) = outcome {
                newest.written = revision.0;
            }
            outcome
        };
        self.inner.control.run(write).await
    }

    async fn changes(&self, after: Revision, limit: u32) -> Result<Vec<Change>, StoreError> {
        let changes_kept = self.inner.limits.changes_kept;
        self.inner.control_readers.run(move |connection| changes(connection, after, limit, changes_kept)).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.inner.control_readers.are_open()?;
        Ok(Revision(self.inner.revision.load(Ordering::Acquire)))
    }

    async fn audit(&self, tenant: &TenantId, before: Option<&Cursor>, limit: u32) -> Result<Page<Audit>, StoreError> {
        let before = match before.map(read_count) {
            None => i64::MAX,
            Some(Some(id)) => ordered(id),
            Some(None) => return Ok(Page { items: Vec::new(), next: None }),
        };
        let (tenant, limit) = (tenant.clone(), page_size(limit));
        self.inner.control_readers.run(move |connection| audit(connection, &tenant, before, limit)).await
    }
}

/// The newest revision, for readers that do not look at the file.
pub(super) struct Newest {
    committed: Arc<AtomicU64>,
    written: u64,
}

impl Newest {
    pub(super) fn read(connection: &Connection) -> Result<Self, Fault> {
        let written = revision(connection)?;
        Ok(Self { committed: Arc::new(written.into()), written })
    }

    pub(super) fn committed(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.committed)
    }
}

impl Memo for Newest {
    fn committed(&mut self) {
        self.committed.store(self.written, Ordering::Release);
    }

    fn rolled_back(&mut self) {
        self.written = self.committed.load(Ordering::Acquire);
    }
}

fn record(kind: &str, row: &Row<'_>) -> rusqlite::Result<Record> {
    Ok(Record {
        key: Key::new(kind, row.get::<_, String>(0)?),
        version: row.get::<_, i64>(1)?.cast_unsigned(),
        format: row.get(2)?,
        body: row.get(3)?,
    })
}

fn list(connection: &Connection, index: &Index, after: &[u8], limit: usize) -> Result<Page<Record>, Fault> {
    // A cursor may hold any bytes: compared as a blob that is called text, they need not be UTF-8.
    let sql = "SELECT record.key, version, format, body FROM index_key
        JOIN record ON record.kind = index_key.kind AND record.key = index_key.key
        WHERE index_key.kind = ?1 AND name = ?2 AND value = ?3 AND index_key.key > CAST(?4 AS TEXT)
        ORDER BY index_key.key LIMIT ?5";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement
        .query_map(params![index.kind, index.index, index.value, after, ordered(limit as u64 + 1)], |row| {
            record(index.kind, row)
        })?;
    let mut items = rows.collect::<Result<Vec<Record>, _>>()?;
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(|last| Cursor::after(last.key.key.as_bytes()));
    Ok(Page { items, next })
}

fn commit(connection: &Connection, batch: Batch, changes_kept: u64) -> Result<Outcome<Committed>, Fault> {
    for check in &batch.checks {
        if !holds(connection, check)? {
            let (Check::Version(key, _) | Check::Absent(key)) = check;
            return Ok(Outcome::Undo(Committed::Conflict(key.clone())));
        }
    }
    let writes = last_writes(batch.writes);
    if writes.is_empty() && batch.audit.is_empty() {
        return Ok(Outcome::Keep(Committed::Done(Revision(revision(connection)?))));
    }
    // All old index keys go first, so that a value can pass from one record of the batch to another.
    for write in &writes {
        forget_index_keys(connection, write.key())?;
    }
    for write in &writes {
        if let Written::Contested = carry_out(connection, write)? {
            return Ok(Outcome::Undo(Committed::Conflict(write.key().clone())));
        }
    }
    let revision = next_revision(connection)?;
    remember_changes(connection, revision, &writes, changes_kept)?;
    add_audit(connection, &batch.audit)?;
    Ok(Outcome::Keep(Committed::Done(Revision(revision))))
}

fn holds(connection: &Connection, check: &Check) -> Result<bool, Fault> {
    let version = |key: &Key| -> Result<Option<u64>, Fault> {
        let mut statement = connection.prepare_cached("SELECT version FROM record WHERE kind = ?1 AND key = ?2")?;
        let version: Option<i64> = statement.query_row([&key.kind, &key.key], |row| row.get(0)).optional()?;
        Ok(version.map(i64::cast_unsigned))
    };
    Ok(match check {
        Check::Version(key, expected) => version(key)? == Some(*expected),
        Check::Absent(key) => version(key)?.is_none(),
    })
}

// Left to itself, SQLite looks at all keys of the kind.
const FORGET_INDEX_KEYS: &str = "DELETE FROM index_key INDEXED BY index_key_of_record WHERE kind = ?1 AND key = ?2";

fn forget_index_keys(connection: &Connection, key: &Key) -> Result<(), Fault> {
    let mut statement = connection.prepare_cached(FORGET_INDEX_KEYS)?;
    statement.execute([&key.kind, &key.key])?;
    Ok(())
}

enum Written {
    Done,
    /// Another record has a unique value of this one.
    Contested,
}

fn carry_out(connection: &Connection, write: &Write) -> Result<Written, Fault> {
    let (key, format, body, index_keys) = match write {
        Write::Put { key, format, body, index_keys } => (key, format, body, index_keys),
        Write::Delete(key) => {
            let mut statement = connection.prepare_cached("DELETE FROM record WHERE kind = ?1 AND key = ?2")?;
            statement.execute([&key.kind, &key.key])?;
            return Ok(Written::Done);
        }
    };
    let put = "INSERT INTO record (kind, key, version, format, body) VALUES (?1, ?2, 1, ?3, ?4)
        ON CONFLICT DO UPDATE SET version = version + 1, format = excluded.format, body = excluded.body";
    connection.prepare_cached(put)?.execute(params![key.kind, key.key, format, body])?;
    let mut add = connection
        .prepare_cached("INSERT INTO index_key (kind, name, value, key, is_unique) VALUES (?1, ?2, ?3, ?4, ?5)")?;
    for ((name, value), unique) in distinct(index_keys) {
        match add.execute(params![key.kind, name, value, key.key, unique]) {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                return Ok(Written::Contested);
            }
            added => added?,
        };
    }
    Ok(Written::Done)
}

fn revision(connection: &Connection) -> Result<u64, Fault> {
    let mut statement = connection.prepare_cached("SELECT value FROM counter WHERE name = 'revision'")?;
    Ok(statement.query_row([], |row| row.get::<_, i64>(0))?.cast_unsigned())
}

fn next_revision(connection: &Connection) -> Result<u64, Fault> {
    let sql = "UPDATE counter SET value = value + 1 WHERE name = 'revision' RETURNING value";
    Ok(connection.prepare_cached(sql)?.query_row([], |row| row.get::<_, i64>(0))?.cast_unsigned())
}

fn remember_changes(connection: &Connection, revision: u64, writes: &[Write], changes_kept: u64) -> Result<(), Fault> {
    let mut add =
        connection.prepare_cached("INSERT INTO change (revision, place, kind, key) VALUES (?1, ?2, ?3, ?4)")?;
    for (place, write) in writes.iter().enumerate() {
        let Key { kind, key } = write.key();
        add.execute(params![ordered(revision), ordered(place as u64), kind, key])?;
    }
    if revision.is_multiple_of(REVISIONS_PER_FORGETTING) {
        let mut forget = connection.prepare_cached("DELETE FROM change WHERE revision <= ?1")?;
        forget.execute([ordered(revision.saturating_sub(changes_kept))])?;
    }
    Ok(())
}

fn changes(connection: &Connection, after: Revision, limit: u32, changes_kept: u64) -> Result<Vec<Change>, Fault> {
    if after.0 < revision(connection)?.saturating_sub(changes_kept) {
        return Err(Fault::damaged(format!("the changes after revision {} are forgotten", after.0)));
    }
    let sql = "SELECT revision, kind, key FROM change WHERE revision > ?1 ORDER BY revision, place";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([ordered(after.0)])?;
    let mut changes: Vec<Change> = Vec::new();
    while let Some(row) = rows.next()? {
        let revision = Revision(row.get::<_, i64>(0)?.cast_unsigned());
        if changes.last().is_none_or(|last| last.revision != revision) {
            if changes.len() == limit as usize {
                break;
            }
            changes.push(Change { revision, keys: Vec::new() });
        }
        let key = Key { kind: row.get(1)?, key: row.get(2)? };
        changes.last_mut().into_iter().for_each(|change| change.keys.push(key.clone()));
    }
    Ok(changes)
}

fn add_audit(connection: &Connection, audit: &[Audit]) -> Result<(), Fault> {
    let sql = "INSERT INTO audit (at, tenant, actor, action, subject, refused) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let mut add = connection.prepare_cached(sql)?;
    for Audit { at, tenant, actor, action, subject, refused } in audit {
        add.execute(params![at.as_micros(), tenant.as_str(), actor, action, subject, refused])?;
    }
    Ok(())
}

fn audit(connection: &Connection, tenant: &TenantId, before: i64, limit: usize) -> Result<Page<Audit>, Fault> {
    let sql = "SELECT id, at, actor, action, subject, refused FROM audit
        WHERE tenant = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map(params![tenant.as_str(), before, ordered(limit as u64 + 1)], |row| {
        let entry = Audit {
            at: Timestamp::from_micros(row.get(1)?),
            tenant: tenant.clone(),
            actor: row.get(2)?,
            action: row.get(3)?,
            subject: row.get(4)?,
            refused: row.get(5)?,
        };
        Ok((row.get::<_, i64>(0)?, entry))
    })?;
    let mut entries = rows.collect::<Result<Vec<_>, _>>()?;
    let more = entries.len() > limit;
    entries.truncate(limit);
    let next = entries.last().filter(|_| more).map(|(id, _)| count_cursor(id.cast_unsigned()));
    Ok(Page { items: entries.into_iter().map(|(_, entry)| entry).collect(), next })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::migrate;

    #[test]
    fn a_commit_costs_the_same_whatever_the_number_of_records() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(migrate::CONTROL[0]).unwrap();
        let steps = |key: &str| {
            let mut statement = connection.prepare(FORGET_INDEX_KEYS).unwrap();
            statement.execute(["kind", key]).unwrap();
            statement.get_status(rusqlite::StatementStatus::VmStep)
        };
        let insert = "INSERT INTO index_key (kind, name, value, key, is_unique) VALUES ('kind', 'home', 'h', ?1, 0)";
        let add = |from: u32, until: u32| {
            for n in from..until {
                connection.prepare_cached(insert).unwrap().execute([n.to_string()]).unwrap();
            }
        };
        add(0, 10);
        let few = steps("5");
        add(10, 2_000);
        assert_eq!(steps("1000"), few);
    }
}
