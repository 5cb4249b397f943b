use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Bound,
};

use async_trait::async_trait;
use iot_core::{
    id::TenantId,
    problem::Cursor,
    store::{
        Audit, Batch, Change, Check, Committed, Index, IndexKey, Key, MetaStore, Page, Record, Revision, StoreError,
        Write,
    },
};

use super::{Memory, lock};
use crate::rules::{count_cursor, distinct, last_writes, page_size, read_count};

#[derive(Debug, Default)]
pub(super) struct Records {
    revision: u64,
    records: BTreeMap<Key, Record>,
    entries: BTreeMap<Entry, Holders>,
    entries_of: HashMap<Key, Vec<Entry>>,
    changes: BTreeMap<u64, Vec<Key>>,
    audit: Vec<Audit>,
}

/// Kind, index, value.
type Entry = (String, String, String);
/// Keys of the records that have the value, and whether they have it as a unique one.
type Holders = BTreeMap<String, bool>;

#[async_trait]
impl MetaStore for Memory {
    async fn get(&self, keys: &[Key]) -> Result<Vec<Option<Record>>, StoreError> {
        let records = lock(&self.records);
        Ok(keys.iter().map(|key| records.records.get(key).cloned()).collect())
    }

    async fn list(&self, index: &Index, after: Option<&Cursor>, limit: u32) -> Result<Page<Record>, StoreError> {
        let records = lock(&self.records);
        let Some(holders) = records.entries.get(&entry(index)) else {
            return Ok(Page { items: Vec::new(), next: None });
        };
        let after = after.map(Cursor::key);
        let mut keys = holders.keys().filter(|key| after.is_none_or(|after| key.as_bytes() > after));
        let items: Vec<Record> = keys
            .by_ref()
            .take(page_size(limit))
            .map(|key| records.records[&Key::new(index.kind, key)].clone())
            .collect();
        let next = keys.next().and(items.last()).map(|last| Cursor::after(last.key.key.as_bytes()));
        Ok(Page { items, next })
    }

    async fn count(&self, index: &Index) -> Result<u64, StoreError> {
        Ok(lock(&self.records).entries.get(&entry(index)).map_or(0, |holders| holders.len() as u64))
    }

    async fn commit(&self, batch: Batch) -> Result<Committed, StoreError> {
        Ok(lock(&self.records).commit(batch, self.limits.changes_kept))
    }

    async fn changes(&self, after: Revision, limit: u32) -> Result<Vec<Change>, StoreError> {
        let records = lock(&self.records);
        if after.0 < records.revision.saturating_sub(self.limits.changes_kept) {
            let what = format!("the changes after revision {} are forgotten", after.0);
            return Err(StoreError::Damaged { backend: "memory", what });
        }
        Ok(records
            .changes
            .range((Bound::Excluded(after.0), Bound::Unbounded))
            .take(limit as usize)
            .map(|(revision, keys)| Change { revision: Revision(*revision), keys: keys.clone() })
            .collect())
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        Ok(Revision(lock(&self.records).revision))
    }

    async fn audit(&self, tenant: &TenantId, before: Option<&Cursor>, limit: u32) -> Result<Page<Audit>, StoreError> {
        let records = lock(&self.records);
        let before = match before {
            None => records.audit.len(),
            Some(cursor) => read_count(cursor).and_then(|count| usize::try_from(count).ok()).unwrap_or(0),
        };
        let mut entries =
            records.audit.iter().enumerate().take(before).rev().filter(|(_, entry)| entry.tenant == *tenant);
        let page: Vec<(usize, &Audit)> = entries.by_ref().take(page_size(limit)).collect();
        let next = entries.next().and(page.last()).map(|(place, _)| count_cursor(*place as u64));
        Ok(Page { items: page.into_iter().map(|(_, entry)| entry.clone()).collect(), next })
    }
}

impl Records {
    fn commit(&mut self, batch: Batch, changes_kept: u64) -> Committed {
        let writes = last_writes(batch.writes);
        if let Some(key) = self.refuted(&batch.checks).or_else(|| self.contested(&writes)) {
            return Committed::Conflict(key);
        }
        if writes.is_empty() && batch.audit.is_empty() {
            return Committed::Done(Revision(self.revision));
        }
        self.revision += 1;
        if !writes.is_empty() {
            self.changes.insert(self.revision, writes.iter().map(|write| write.key().clone()).collect());
        }
        self.changes = self.changes.split_off(&(self.revision.saturating_sub(changes_kept) + 1));
        for write in writes {
            self.write(write);
        }
        self.audit.extend(batch.audit);
        Committed::Done(Revision(self.revision))
    }

    fn refuted(&self, checks: &[Check]) -> Option<Key> {
        let version = |key| self.records.get(key).map(|record| record.version);
        checks.iter().find_map(|check| match check {
            Check::Version(key, expected) => (version(key) != Some(*expected)).then(|| key.clone()),
            Check::Absent(key) => version(key).map(|_| key.clone()),
        })
    }

    /// The record that wants a unique value which another one has, after all writes.
    fn contested(&self, writes: &[Write]) -> Option<Key> {
        let written: HashSet<&Key> = writes.iter().map(Write::key).collect();
        let mut claimed = HashSet::new();
        for write in writes {
            let Write::Put { key, index_keys, .. } = write else { continue };
            for ((index, value), _) in distinct(index_keys).into_iter().filter(|(_, unique)| *unique) {
                let entry = (key.kind.clone(), index.to_owned(), value.to_owned());
                let held = self.entries.get(&entry).into_iter().flatten().any(|(holder, unique)| {
                    *unique && holder != &key.key && !written.contains(&Key::new(&*key.kind, holder.as_str()))
                });
                if held || !claimed.insert(entry) {
                    return Some(key.clone());
                }
            }
        }
        None
    }

    fn write(&mut self, write: Write) {
        self.forget_entries(write.key());
        match write {
            Write::Put { key, format, body, index_keys } => {
                self.add_entries(&key, &index_keys);
                let version = self.records.get(&key).map_or(1, |record| record.version + 1);
                self.records.insert(key.clone(), Record { key, version, format, body });
            }
            Write::Delete(key) => {
                self.records.remove(&key);
            }
        }
    }

    fn add_entries(&mut self, key: &Key, index_keys: &[IndexKey]) {
        for ((index, value), unique) in distinct(index_keys) {
            let entry = (key.kind.clone(), index.to_owned(), value.to_owned());
            self.entries.entry(entry.clone()).or_default().insert(key.key.clone(), unique);
            self.entries_of.entry(key.clone()).or_default().push(entry);
        }
    }

    fn forget_entries(&mut self, key: &Key) {
        for entry in self.entries_of.remove(key).unwrap_or_default() {
            if let Some(holders) = self.entries.get_mut(&entry) {
                holders.remove(&key.key);
                if holders.is_empty() {
                    self.entries.remove(&entry);
                }
            }
        }
    }
}

fn entry(index: &Index) -> Entry {
    (index.kind.to_owned(), index.index.to_owned(), index.value.clone())
}
