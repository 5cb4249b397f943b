//! Records in [redb](https://docs.rs/redb): a backend as a third party would write it, in one file.
//!
//! It implements [`MetaStore`] and leaves telemetry and sessions to others:
//!
//! ```
//! # async fn run(folder: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use iot_core::store::Stores;
//! use iot_custom_store::Redb;
//! use iot_store::{StoreLimits, sqlite::Sqlite};
//!
//! let sqlite = Stores::new(Sqlite::open(folder, StoreLimits::default()).await?);
//! let records = Redb::open(&folder.join("records.redb"), 1_000_000)?;
//! let stores = Stores { meta: Arc::new(records), ..sqlite };
//! # drop(stores);
//! # Ok(())
//! # }
//! # let folder = tempfile::tempdir().unwrap();
//! # tokio::runtime::Runtime::new().unwrap().block_on(run(folder.path())).unwrap();
//! ```
//!
//! The book's chapter "A store of your own" walks through it. What it leaves out: each commit is synced alone, where
//! `iot_store::sqlite` syncs many at once.

use std::{
    collections::{BTreeMap, HashSet},
    fmt, io,
    path::Path,
    sync::Arc,
};

use async_trait::async_trait;
use iot_core::{
    id::TenantId,
    problem::Cursor,
    store::{
        Audit, Batch, Change, Check, Committed, INDEX_PAGE_MAX, Index, IndexKey, Key, MetaStore, Page, Record,
        Revision, StoreError, Write,
    },
};
use redb::{Database, Error, ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction};

const BACKEND: &str = "redb";

/// Kind and key of a record: version, format, body, and what [`INDEX`] has of it, as JSON.
const RECORDS: TableDefinition<'_, (&str, &str), (u64, u16, &str, &str)> = TableDefinition::new("records");
/// Kind, index, value and key: whether the value is unique. The key is bytes, since a cursor may hold any.
const INDEX: TableDefinition<'_, (&str, &str, &str, &[u8]), bool> = TableDefinition::new("index");
/// Revision: the keys that it wrote, as JSON.
const CHANGES: TableDefinition<'_, u64, &str> = TableDefinition::new("changes");
/// Tenant and number: an entry as JSON.
const AUDIT: TableDefinition<'_, (&str, u64), &str> = TableDefinition::new("audit");
/// The newest revision, and the number of audit entries.
const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");

/// Records in one file, of one process.
#[derive(Clone)]
pub struct Redb {
    database: Arc<Database>,
    changes_kept: u64,
}

impl Redb {
    /// Opens a file, or makes it. The newest `changes_kept` revisions are remembered for
    /// [`changes`](MetaStore::changes). Fails if it is open already, or no such file.
    pub fn open(path: &Path, changes_kept: u64) -> Result<Self, StoreError> {
        let open = || -> Result<Database, Error> {
            let database = Database::create(path)?;
            let transaction = database.begin_write()?;
            transaction.open_table(RECORDS)?;
            transaction.open_table(INDEX)?;
            transaction.open_table(CHANGES)?;
            transaction.open_table(AUDIT)?;
            transaction.open_table(COUNTERS)?;
            transaction.commit()?;
            Ok(database)
        };
        Ok(Self { database: Arc::new(open().map_err(failed)?), changes_kept })
    }

    /// Carries out work that blocks. It goes on to its end also if the caller does not wait for it.
    async fn run<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Database) -> Result<T, Error> + Send + 'static,
    {
        let database = Arc::clone(&self.database);
        match tokio::task::spawn_blocking(move || work(&database)).await {
            Ok(answer) => answer.map_err(failed),
            Err(stopped) => Err(StoreError::Unavailable { backend: BACKEND, source: Box::new(stopped) }),
        }
    }
}

#[async_trait]
impl MetaStore for Redb {
    async fn get(&self, keys: &[Key]) -> Result<Vec<Option<Record>>, StoreError> {
        let keys = keys.to_vec();
        self.run(move |database| {
            // One transaction is one snapshot: all records are read as of one revision.
            let records = database.begin_read()?.open_table(RECORDS)?;
            keys.into_iter().map(|key| read(&records, key)).collect()
        })
        .await
    }

    async fn list(&self, index: &Index, after: Option<&Cursor>, limit: u32) -> Result<Page<Record>, StoreError> {
        let (index, after) = (index.clone(), after.map(|cursor| cursor.key().to_vec()));
        let limit = limit.clamp(1, INDEX_PAGE_MAX) as usize;
        self.run(move |database| {
            let transaction = database.begin_read()?;
            let (records, entries) = (transaction.open_table(RECORDS)?, transaction.open_table(INDEX)?);
            let mut keys = keys_of(&entries, &index, after.as_deref(), limit + 1)?;
            let more = keys.len() > limit;
            keys.truncate(limit);
            let next = if more { keys.last().map(|last| Cursor::after(last.as_bytes())) } else { None };
            let found: Result<Vec<_>, Error> =
                keys.into_iter().map(|key| read(&records, Key::new(index.kind, key))).collect();
            Ok(Page { items: found?.into_iter().flatten().collect(), next })
        })
        .await
    }

    async fn count(&self, index: &Index) -> Result<u64, StoreError> {
        let index = index.clone();
        self.run(move |database| {
            let entries = database.begin_read()?.open_table(INDEX)?;
            Ok(keys_of(&entries, &index, None, usize::MAX)?.len() as u64)
        })
        .await
    }

    async fn commit(&self, batch: Batch) -> Result<Committed, StoreError> {
        let changes_kept = self.changes_kept;
        self.run(move |database| {
            // One writer at a time; a transaction that is dropped has done nothing.
            let transaction = database.begin_write()?;
            let committed = carry_out(&transaction, batch, changes_kept)?;
            if matches!(committed, Committed::Done(_)) {
                transaction.commit()?;
            }
            Ok(committed)
        })
        .await
    }

    async fn changes(&self, after: Revision, limit: u32) -> Result<Vec<Change>, StoreError> {
        let changes_kept = self.changes_kept;
        let changes = self.run(move |database| {
            let transaction = database.begin_read()?;
            if after.0 < counter(&transaction.open_table(COUNTERS)?, "revision")?.saturating_sub(changes_kept) {
                return Ok(None);
            }
            let changes = transaction.open_table(CHANGES)?;
            let told = changes.range(after.0.saturating_add(1)..)?.take(limit as usize).map(|entry| {
                let (revision, keys) = entry?;
                Ok(Change { revision: Revision(revision.value()), keys: from_json(keys.value())? })
            });
            told.collect::<Result<Vec<_>, Error>>().map(Some)
        });
        let forgotten = || format!("the changes after revision {} are forgotten", after.0);
        changes.await?.ok_or_else(|| StoreError::Damaged { backend: BACKEND, what: forgotten() })
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.run(|database| Ok(Revision(counter(&database.begin_read()?.open_table(COUNTERS)?, "revision")?))).await
    }

    async fn audit(&self, tenant: &TenantId, before: Option<&Cursor>, limit: u32) -> Result<Page<Audit>, StoreError> {
        let tenant = tenant.to_string();
        let limit = limit.clamp(1, INDEX_PAGE_MAX) as usize;
        // A cursor of another list finds nothing.
        let before = before.map_or(u64::MAX, |cursor| cursor.key().try_into().map_or(0, u64::from_be_bytes));
        self.run(move |database| {
            let entries = database.begin_read()?.open_table(AUDIT)?;
            let mut newest = entries.range((tenant.as_str(), 0)..(tenant.as_str(), before))?.rev();
            let (mut items, mut last) = (Vec::new(), None);
            for entry in newest.by_ref().take(limit) {
                let (place, entry) = entry?;
                items.push(from_json(entry.value())?);
                last = Some(place.value().1);
            }
            let next = newest.next().transpose()?.and(last);
            Ok(Page { items, next: next.map(|place| Cursor::after(&place.to_be_bytes())) })
        })
        .await
    }
}

impl fmt::Debug for Redb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redb").finish_non_exhaustive()
    }
}

/// All of a batch, into a transaction that is not committed yet.
fn carry_out(transaction: &WriteTransaction, batch: Batch, changes_kept: u64) -> Result<Committed, Error> {
    let mut records = transaction.open_table(RECORDS)?;
    let mut entries = transaction.open_table(INDEX)?;
    let mut counters = transaction.open_table(COUNTERS)?;
    for check in &batch.checks {
        let (key, expected) = match check {
            Check::Version(key, version) => (key, Some(*version)),
            Check::Absent(key) => (key, None),
        };
        if read(&records, key.clone())?.map(|record| record.version) != expected {
            return Ok(Committed::Conflict(key.clone()));
        }
    }
    let revision = counter(&counters, "revision")?;
    let writes = last_of_each(batch.writes);
    if writes.is_empty() && batch.audit.is_empty() {
        return Ok(Committed::Done(Revision(revision)));
    }
    // First all former index keys go, then the new ones come: unique values are compared as they are after the batch.
    for write in &writes {
        forget_index_keys(&records, &mut entries, write.key())?;
    }
    for write in &writes {
        if !carry_out_one(&mut records, &mut entries, write)? {
            return Ok(Committed::Conflict(write.key().clone()));
        }
    }
    let revision = revision + 1;
    counters.insert("revision", revision)?;
    let mut changes = transaction.open_table(CHANGES)?;
    if !writes.is_empty() {
        let keys: Vec<&Key> = writes.iter().map(Write::key).collect();
        changes.insert(revision, to_json(&keys).as_str())?;
    }
    changes.retain_in(..revision.saturating_sub(changes_kept).saturating_add(1), |_, _| false)?;
    let mut audit = transaction.open_table(AUDIT)?;
    let mut number = counter(&counters, "audit")?;
    for entry in &batch.audit {
        audit.insert((&*entry.tenant.to_string(), number), to_json(entry).as_str())?;
        number += 1;
    }
    counters.insert("audit", number)?;
    Ok(Committed::Done(Revision(revision)))
}

type Records<'t> = Table<'t, (&'static str, &'static str), (u64, u16, &'static str, &'static str)>;
type Entries<'t> = Table<'t, (&'static str, &'static str, &'static str, &'static [u8]), bool>;

/// One write; `false` if another record has one of its unique values.
fn carry_out_one(records: &mut Records<'_>, entries: &mut Entries<'_>, write: &Write) -> Result<bool, Error> {
    let (key, format, body, index_keys) = match write {
        Write::Put { key, format, body, index_keys } => (key, *format, body, index_keys),
        Write::Delete(key) => {
            records.remove((key.kind.as_str(), key.key.as_str()))?;
            return Ok(true);
        }
    };
    let distinct = distinct(index_keys);
    for ((index, value), unique) in &distinct {
        if *unique && is_unique_elsewhere(entries, &key.kind, index, value)? {
            return Ok(false);
        }
        entries.insert((key.kind.as_str(), *index, *value, key.key.as_bytes()), *unique)?;
    }
    let version = read(records, key.clone())?.map_or(1, |record| record.version + 1);
    let names: Vec<_> = distinct.keys().collect();
    records
        .insert((key.kind.as_str(), key.key.as_str()), (version, format, body.as_str(), to_json(&names).as_str()))?;
    Ok(true)
}

fn is_unique_elsewhere(entries: &Entries<'_>, kind: &str, index: &str, value: &str) -> Result<bool, Error> {
    for entry in entries.range((kind, index, value, &[][..])..)? {
        let (place, unique) = entry?;
        let (its_kind, its_index, its_value, _) = place.value();
        if (its_kind, its_index, its_value) != (kind, index, value) {
            break;
        }
        if unique.value() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn forget_index_keys(records: &Records<'_>, entries: &mut Entries<'_>, key: &Key) -> Result<(), Error> {
    let Some(record) = records.get((key.kind.as_str(), key.key.as_str()))? else { return Ok(()) };
    let names: Vec<(String, String)> = from_json(record.value().3)?;
    for (index, value) in &names {
        entries.remove((key.kind.as_str(), index.as_str(), value.as_str(), key.key.as_bytes()))?;
    }
    Ok(())
}

fn read(
    records: &impl ReadableTable<(&'static str, &'static str), (u64, u16, &'static str, &'static str)>,
    key: Key,
) -> Result<Option<Record>, Error> {
    let Some(found) = records.get((key.kind.as_str(), key.key.as_str()))? else { return Ok(None) };
    let (version, format, body, _) = found.value();
    let body = body.to_owned();
    Ok(Some(Record { key, version, format, body }))
}

/// The keys that an index value has, in order, from after `after`.
fn keys_of(
    entries: &impl ReadableTable<(&'static str, &'static str, &'static str, &'static [u8]), bool>,
    index: &Index,
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<String>, Error> {
    let mut keys = Vec::new();
    for entry in entries.range((index.kind, index.index, index.value.as_str(), after.unwrap_or_default())..)? {
        let (place, _) = entry?;
        let (kind, name, value, key) = place.value();
        if (kind, name, value) != (index.kind, index.index, index.value.as_str()) || keys.len() == limit {
            break;
        }
        if Some(key) != after {
            keys.push(String::from_utf8_lossy(key).into_owned());
        }
    }
    Ok(keys)
}

/// Of each record the last write, in order.
fn last_of_each(writes: Vec<Write>) -> Vec<Write> {
    let mut seen = HashSet::new();
    let mut kept: Vec<Write> = writes.into_iter().rev().filter(|write| seen.insert(write.key().clone())).collect();
    kept.reverse();
    kept
}

/// Each index key once; unique if it was said once.
fn distinct(index_keys: &[IndexKey]) -> BTreeMap<(&str, &str), bool> {
    let mut distinct = BTreeMap::new();
    for key in index_keys {
        *distinct.entry((key.index, key.value.as_str())).or_default() |= key.unique;
    }
    distinct
}

fn counter(counters: &impl ReadableTable<&'static str, u64>, name: &str) -> Result<u64, Error> {
    Ok(counters.get(name)?.map_or(0, |count| count.value()))
}

fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("keys and audit entries are plain data")
}

fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|error| Error::Corrupted(error.to_string()))
}

/// By what the caller will do next: restore, make room, or try again.
fn failed(error: Error) -> StoreError {
    match error {
        Error::Corrupted(what) => StoreError::Damaged { backend: BACKEND, what },
        Error::Io(cause) if cause.kind() == io::ErrorKind::StorageFull => {
            StoreError::Full { backend: BACKEND, source: Box::new(cause) }
        }
        error => StoreError::Unavailable { backend: BACKEND, source: Box::new(error) },
    }
}
