//! A bounded cache in front of any [`MetaStore`], which never answers with less than the contract promises.
//!
//! Entries are exact as of a watermark: the newest revision whose changes the cache has followed with
//! [`MetaStore::changes`]. Keys that a change names are dropped, whoever wrote them. So the answer to
//! [`get`](MetaStore::get) is of one revision, and the only question is how far the watermark must have come before a
//! hit may be given:
//!
//! - [`Writers::Here`]: all commits go through this cache, and each follows the changes before it returns. A hit costs no
//!   call of the store. A commit costs one small read more.
//! - [`Writers::Elsewhere`]: other processes write too. Every `get` follows the changes first, so a hit costs one small
//!   read in place of one as large as the records. No answer is stale: what had returned anywhere is seen.
//!
//! A miss costs one small read more. Lists, counts, changes and the audit log are not cached.
//!
//! With `Writers::Here`, a commit that its caller cancelled, or that failed without saying whether it happened, may be
//! missed until the next commit through the cache; the contract promises nothing about it until then, and a decision made
//! on the old record ends in a conflict, which brings the cache up to date.
//!
//! ```
//! use std::sync::Arc;
//! use iot_core::store::Stores;
//! use iot_store::{StoreLimits, cache::{Cache, Writers}, memory::Memory};
//!
//! let stores = Stores::new(Memory::new(StoreLimits::default()));
//! let cached = Stores { meta: Arc::new(Cache::new(stores.meta.clone(), Writers::Here, 10_000)), ..stores };
//! # let _ = cached;
//! ```

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use iot_core::{
    id::TenantId,
    problem::Cursor,
    store::{Audit, Batch, Change, Committed, Index, Key, MetaStore, Page, Record, Revision, StoreError},
};

/// How many changes are read at once.
const CHANGES_AT_ONCE: u32 = 256;

/// Who writes to the store that is cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "either nobody else writes, or somebody does")]
pub enum Writers {
    /// Only this process, and only through this cache.
    Here,
    /// Others too.
    Elsewhere,
}

/// A [`MetaStore`] that remembers records, and that some do not exist.
#[derive(Debug)]
pub struct Cache {
    inner: Arc<dyn MetaStore>,
    writers: Writers,
    // Small sections, never across an await.
    known: Mutex<Known>,
}

impl Cache {
    /// Remembers at most `records_max` records, those that were asked for last.
    pub fn new(inner: Arc<dyn MetaStore>, writers: Writers, records_max: usize) -> Self {
        Self { inner, writers, known: Mutex::new(Known { half_max: (records_max / 2).max(1), ..Known::default() }) }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the watermark to a revision that is not older than any commit that had returned before the call.
    async fn follow(&self) -> Result<(), StoreError> {
        loop {
            let Some(watermark) = self.known().watermark else { return self.begin().await };
            let changes = match self.inner.changes(watermark, CHANGES_AT_ONCE).await {
                Ok(changes) => changes,
                // So far behind that changes are forgotten, or really damaged, which the reads that follow will say.
                Err(StoreError::Damaged { .. }) => return self.begin().await,
                Err(error) => return Err(error),
            };
            self.known().apply(&changes);
            if changes.len() < CHANGES_AT_ONCE as usize {
                return Ok(());
            }
        }
    }

    async fn begin(&self) -> Result<(), StoreError> {
        // What is read later than this revision is at least as new.
        let revision = self.inner.revision().await?;
        self.known().begin(revision);
        Ok(())
    }
}

#[async_trait]
impl MetaStore for Cache {
    async fn get(&self, keys: &[Key]) -> Result<Vec<Option<Record>>, StoreError> {
        if self.writers == Writers::Elsewhere || self.known().watermark.is_none() {
            self.follow().await?;
        }
        let ticket = match self.known().answer_or_expect(keys) {
            Ok(answer) => return Ok(answer),
            Err(ticket) => ticket,
        };
        let records = self.inner.get(keys).await?;
        // What was read may be newer than the watermark, and what lies beside it in the cache older.
        self.follow().await?;
        self.known().remember(ticket, keys, &records);
        Ok(records)
    }

    async fn list(&self, index: &Index, after: Option<&Cursor>, limit: u32) -> Result<Page<Record>, StoreError> {
        self.inner.list(index, after, limit).await
    }

    async fn count(&self, index: &Index) -> Result<u64, StoreError> {
        self.inner.count(index).await
    }

    async fn commit(&self, batch: Batch) -> Result<Committed, StoreError> {
        let committed = self.inner.commit(batch).await;
        // A conflict, too, says that something has changed. What is done is done, though: if the changes cannot be read,
        // nothing that is remembered may be used any more.
        if self.follow().await.is_err() {
            self.known().forget();
        }
        committed
    }

    async fn changes(&self, after: Revision, limit: u32) -> Result<Vec<Change>, StoreError> {
        self.inner.changes(after, limit).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.inner.revision().await
    }

    async fn audit(&self, tenant: &TenantId, before: Option<&Cursor>, limit: u32) -> Result<Page<Audit>, StoreError> {
        self.inner.audit(tenant, before, limit).await
    }
}

/// Two halves: what is asked for moves to the young one; when that is full, the old one is dropped and they change places.
#[derive(Debug, Default)]
struct Known {
    watermark: Option<Revision>,
    half_max: usize,
    young: HashMap<Key, Slot>,
    old: HashMap<Key, Slot>,
    tickets: u64,
}

#[derive(Debug, Clone)]
enum Slot {
    /// Somebody with this ticket reads it. Dropped by a change, and so is then what was read.
    Expected(u64),
    /// As of the watermark.
    Read(Option<Record>),
}

impl Known {
    /// The records as of the watermark, if all are known; else a ticket with which they will be.
    fn answer_or_expect(&mut self, keys: &[Key]) -> Result<Vec<Option<Record>>, u64> {
        let found: Option<Vec<_>> = keys
            .iter()
            .map(|key| match self.touch(key) {
                Some(Slot::Read(record)) => Some(record),
                Some(Slot::Expected(_)) | None => None,
            })
            .collect();
        if let Some(records) = found.filter(|_| self.watermark.is_some()) {
            return Ok(records);
        }
        self.tickets += 1;
        for key in keys {
            if !matches!(self.young.get(key), Some(Slot::Read(_))) {
                self.insert(key.clone(), Slot::Expected(self.tickets));
            }
        }
        Err(self.tickets)
    }

    fn remember(&mut self, ticket: u64, keys: &[Key], records: &[Option<Record>]) {
        for (key, record) in keys.iter().zip(records) {
            let slot = self.young.get_mut(key).or_else(|| self.old.get_mut(key));
            if let Some(slot) = slot.filter(|slot| matches!(slot, Slot::Expected(by) if *by == ticket)) {
                *slot = Slot::Read(record.clone());
            }
        }
    }

    fn touch(&mut self, key: &Key) -> Option<Slot> {
        if let Some(slot) = self.young.get(key) {
            return Some(slot.clone());
        }
        let slot = self.old.remove(key)?;
        self.insert(key.clone(), slot.clone());
        Some(slot)
    }

    fn insert(&mut self, key: Key, slot: Slot) {
        if self.young.len() >= self.half_max {
            self.old = mem::take(&mut self.young);
        }
        self.old.remove(&key);
        self.young.insert(key, slot);
    }

    fn apply(&mut self, changes: &[Change]) {
        for key in changes.iter().flat_map(|change| &change.keys) {
            self.young.remove(key);
            self.old.remove(key);
        }
        let newest = changes.last().map(|change| change.revision);
        // `None` while somebody begins anew: then this is too late, and all that it names is forgotten anyway.
        self.watermark = self.watermark.map(|watermark| newest.map_or(watermark, |newest| newest.max(watermark)));
    }

    fn begin(&mut self, revision: Revision) {
        self.forget();
        self.watermark = Some(revision);
    }

    fn forget(&mut self) {
        self.young.clear();
        self.old.clear();
        self.watermark = None;
    }
}
