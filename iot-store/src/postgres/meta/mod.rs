mod group;
mod write;

use async_trait::async_trait;
use iot_core::{
    id::TenantId,
    problem::Cursor,
    store::{
        Audit, Batch, Change, Committed, INDEX_PAGE_MAX, Index, Key, MetaStore, Page, Record, Revision, StoreError,
    },
    time::Timestamp,
};
use tokio_postgres::Row;

use self::group::Prepared;
pub(super) use self::write::Records;
use super::{
    Postgres,
    fault::Fault,
    ordered,
    pool::{number, rows},
    text,
};
use crate::rules::{count_cursor, page_size, read_count};

/// The most commits of one answer about changes.
const CHANGES_MAX: u32 = 10 * INDEX_PAGE_MAX;

#[async_trait]
impl MetaStore for Postgres {
    async fn get(&self, keys: &[Key]) -> Result<Vec<Option<Record>>, StoreError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        // One statement, and so one moment; a key that is asked for twice is found twice.
        let sql = "SELECT record.kind, record.key, version, format, body
            FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS wanted (kind, key, place)
            LEFT JOIN record ON record.kind = wanted.kind AND record.key = wanted.key ORDER BY place";
        let kinds: Vec<_> = keys.iter().map(|key| text::stored(&key.kind)).collect();
        let names: Vec<_> = keys.iter().map(|key| text::stored(&key.key)).collect();
        let rows = rows(&self.inner.pool, sql, &[&kinds, &names]).await?;
        let records = rows.iter().map(|row| match row.try_get::<_, Option<i64>>(2)? {
            Some(_) => record(row).map(Some),
            None => Ok(None),
        });
        Ok(records.collect::<Result<_, Fault>>()?)
    }

    async fn list(&self, index: &Index, after: Option<&Cursor>, limit: u32) -> Result<Page<Record>, StoreError> {
        // A cursor may hold any bytes: those that are text lead to the place in the index, and all are compared.
        let sql = "SELECT record.kind, record.key, version, format, body FROM index_key
            JOIN record ON record.kind = index_key.kind AND record.key = index_key.key
            WHERE index_key.kind = $1 AND name = $2 AND value = $3 AND index_key.key >= $4
            AND ($5::bytea IS NULL OR convert_to(index_key.key, 'UTF8') > $5)
            ORDER BY index_key.key LIMIT $6";
        let limit = page_size(limit);
        let place = after.map(|cursor| cursor.key().utf8_chunks().next().map_or("", |chunk| chunk.valid()));
        let bytes = after.map(|cursor| text::stored_bytes(cursor.key()));
        let (kind, value) = (text::stored(index.kind), text::stored(&index.value));
        let place = text::stored(place.unwrap_or_default());
        let parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
            &[&kind, &index.index, &value, &place, &bytes, &ordered(limit as u64 + 1)];
        let rows = rows(&self.inner.pool, sql, parameters).await?;
        let mut items = rows.iter().map(record).collect::<Result<Vec<Record>, Fault>>()?;
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| more).map(|last| Cursor::after(last.key.key.as_bytes()));
        Ok(Page { items, next })
    }

    async fn count(&self, index: &Index) -> Result<u64, StoreError> {
        let sql = "SELECT count(*) FROM index_key WHERE kind = $1 AND name = $2 AND value = $3";
        let (kind, value) = (text::stored(index.kind), text::stored(&index.value));
        let rows = rows(&self.inner.pool, sql, &[&kind, &index.index, &value]).await?;
        Ok(number(&rows)?.cast_unsigned())
    }

    async fn commit(&self, batch: Batch) -> Result<Committed, StoreError> {
        self.inner.records.run(Prepared::new(batch)).await
    }

    async fn changes(&self, after: Revision, limit: u32) -> Result<Vec<Change>, StoreError> {
        let sql = "SELECT revision, kind, key FROM change WHERE revision > $1 AND revision <=
            (SELECT max(revision) FROM
                (SELECT DISTINCT revision FROM change WHERE revision > $1 ORDER BY revision LIMIT $2) AS page)
            ORDER BY revision, place";
        let limit = ordered(limit.min(CHANGES_MAX).into());
        let rows = rows(&self.inner.pool, sql, &[&ordered(after.0), &limit]).await?;
        let mut changes: Vec<Change> = Vec::new();
        for row in &rows {
            let revision = Revision(row.try_get::<_, i64>(0).map_err(Fault::from)?.cast_unsigned());
            if changes.last().is_none_or(|last| last.revision != revision) {
                changes.push(Change { revision, keys: Vec::new() });
            }
            let key = key(row, 1)?;
            changes.last_mut().into_iter().for_each(|change| change.keys.push(key.clone()));
        }
        // Looked at afterwards: what is remembered now was so when the changes were read.
        self.check_remembered(after).await?;
        Ok(changes)
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        let rows = rows(&self.inner.pool, "SELECT value FROM counter WHERE name = 'revision'", &[]).await?;
        Ok(Revision(number(&rows)?.cast_unsigned()))
    }

    async fn audit(&self, tenant: &TenantId, before: Option<&Cursor>, limit: u32) -> Result<Page<Audit>, StoreError> {
        let before = match before.map(read_count) {
            None => i64::MAX,
            Some(Some(id)) => ordered(id),
            Some(None) => return Ok(Page { items: Vec::new(), next: None }),
        };
        let sql = "SELECT id, at, actor, action, subject, refused FROM audit
            WHERE tenant = $1 AND id < $2 ORDER BY id DESC LIMIT $3";
        let limit = page_size(limit);
        let rows = rows(&self.inner.pool, sql, &[&tenant.as_str(), &before, &ordered(limit as u64 + 1)]).await?;
        let mut entries = rows.iter().map(|row| audit_entry(tenant, row)).collect::<Result<Vec<_>, Fault>>()?;
        let more = entries.len() > limit;
        entries.truncate(limit);
        let next = entries.last().filter(|_| more).map(|(id, _)| count_cursor(id.cast_unsigned()));
        Ok(Page { items: entries.into_iter().map(|(_, entry)| entry).collect(), next })
    }
}

impl Postgres {
    /// Other processes may remember fewer changes than this one: the database says how many are forgotten.
    async fn check_remembered(&self, after: Revision) -> Result<(), Fault> {
        let sql = "SELECT greatest((SELECT value FROM counter WHERE name = 'changes_forgotten'),
            (SELECT value FROM counter WHERE name = 'revision') - $1)";
        let forgotten = number(&rows(&self.inner.pool, sql, &[&ordered(self.inner.limits.changes_kept)]).await?)?;
        if ordered(after.0) < forgotten {
            return Err(Fault::Damaged(format!("the changes after revision {} are forgotten", after.0)));
        }
        Ok(())
    }
}

/// Reads kind, key, version, format and body.
fn record(row: &Row) -> Result<Record, Fault> {
    let format: i32 = row.try_get(3)?;
    Ok(Record {
        key: key(row, 0)?,
        version: row.try_get::<_, i64>(2)?.cast_unsigned(),
        format: u16::try_from(format).map_err(|_| Fault::Damaged(format!("a record of format {format}")))?,
        body: text::read(row.try_get(4)?),
    })
}

/// Reads kind and key.
fn key(row: &Row, column: usize) -> Result<Key, Fault> {
    Ok(Key { kind: text::read(row.try_get(column)?), key: text::read(row.try_get(column + 1)?) })
}

fn audit_entry(tenant: &TenantId, row: &Row) -> Result<(i64, Audit), Fault> {
    let entry = Audit {
        at: Timestamp::from_micros(row.try_get(1)?),
        tenant: tenant.clone(),
        actor: text::read(row.try_get(2)?),
        action: text::read(row.try_get(3)?),
        subject: text::read(row.try_get(4)?),
        refused: row.try_get::<_, Option<String>>(5)?.map(text::read),
    };
    Ok((row.try_get(0)?, entry))
}
