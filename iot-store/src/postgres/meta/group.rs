//! Deciding about a group of batches, one after the other, over what was read for all of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use iot_core::store::{Audit, Batch, Check, Committed, IndexKey, Key, Revision, Write};

use crate::rules::{distinct, last_writes};

/// What a record needs beside its body, and so do each of its index keys and an audit entry, about.
const RECORD_BYTES: usize = 200;

/// A batch of which each record is written once.
pub(in crate::postgres) struct Prepared {
    checks: Vec<Check>,
    writes: Vec<Write>,
    audit: Vec<Audit>,
}

/// A unique value: kind, index, value.
pub(super) type Unique<'a> = (&'a str, &'a str, &'a str);

impl Prepared {
    pub(super) fn new(batch: Batch) -> Self {
        Self { checks: batch.checks, writes: last_writes(batch.writes), audit: batch.audit }
    }

    /// How many bytes it writes, about.
    pub(super) fn weight(&self) -> usize {
        let of = |write: &Write| match write {
            Write::Put { body, index_keys, .. } => body.len() + RECORD_BYTES * (1 + index_keys.len()),
            Write::Delete(_) => RECORD_BYTES,
        };
        self.writes.iter().map(of).sum::<usize>() + RECORD_BYTES * self.audit.len()
    }

    fn keys(&self) -> impl Iterator<Item = &Key> {
        let checked = self.checks.iter().map(|(Check::Version(key, _) | Check::Absent(key))| key);
        checked.chain(self.writes.iter().map(Write::key))
    }

    fn uniques(&self) -> impl Iterator<Item = Unique<'_>> {
        self.writes.iter().flat_map(uniques)
    }
}

/// The records that a group looks at, in order.
pub(super) fn keys(batches: &[Prepared]) -> BTreeSet<&Key> {
    batches.iter().flat_map(Prepared::keys).collect()
}

/// The unique values that a group wants, in order.
pub(super) fn wanted(batches: &[Prepared]) -> BTreeSet<Unique<'_>> {
    batches.iter().flat_map(Prepared::uniques).collect()
}

fn uniques(write: &Write) -> impl Iterator<Item = Unique<'_>> {
    let (key, index_keys) = match write {
        Write::Put { key, index_keys, .. } => (key, &index_keys[..]),
        Write::Delete(key) => (key, &[][..]),
    };
    let unique = distinct(index_keys).into_iter().filter(|(_, unique)| *unique);
    unique.map(|((index, value), _)| (key.kind.as_str(), index, value))
}

/// What was found, and what the batches that were accepted so far have made of it.
pub(super) struct Group<'a> {
    pub(super) revision: u64,
    /// Of the records that the group looks at.
    versions: HashMap<Key, u64>,
    /// Who has the unique values that the group wants.
    holders: HashMap<(String, String, String), Key>,
    held: HashMap<Key, Vec<(String, String, String)>>,
    /// What each record that was written has become.
    pub(super) written: BTreeMap<&'a Key, State<'a>>,
    /// The revisions that wrote records, with their writes.
    pub(super) changes: Vec<(u64, &'a [Write])>,
    pub(super) audit: Vec<&'a Audit>,
}

/// What a record has become.
pub(super) enum State<'a> {
    Put(Put<'a>),
    Deleted,
}

/// A record as it is written.
pub(super) struct Put<'a> {
    pub(super) version: u64,
    pub(super) format: u16,
    pub(super) body: &'a str,
    pub(super) index_keys: &'a [IndexKey],
}

impl<'a> State<'a> {
    pub(super) fn put(&self) -> Option<&Put<'a>> {
        match self {
            Self::Put(put) => Some(put),
            Self::Deleted => None,
        }
    }
}

impl<'a> Group<'a> {
    pub(super) fn new(revision: u64) -> Self {
        Self {
            revision,
            versions: HashMap::new(),
            holders: HashMap::new(),
            held: HashMap::new(),
            written: BTreeMap::new(),
            changes: Vec::new(),
            audit: Vec::new(),
        }
    }

    /// A record that is there.
    pub(super) fn found(&mut self, key: Key, version: u64) {
        self.versions.insert(key, version);
    }

    /// A unique value that a record has.
    pub(super) fn hold(&mut self, index: String, value: String, holder: Key) {
        let unique = (holder.kind.clone(), index, value);
        self.held.entry(holder.clone()).or_default().push(unique.clone());
        self.holders.insert(unique, holder);
    }

    pub(super) fn decide(&mut self, batch: &'a Prepared) -> Committed {
        if let Some(key) = self.refuted(&batch.checks).or_else(|| self.contested(&batch.writes)) {
            return Committed::Conflict(key.clone());
        }
        if batch.writes.is_empty() && batch.audit.is_empty() {
            return Committed::Done(Revision(self.revision));
        }
        self.revision += 1;
        if !batch.writes.is_empty() {
            self.changes.push((self.revision, &batch.writes));
        }
        // All old values go first, so that one can pass from one record of the batch to another.
        batch.writes.iter().for_each(|write| self.let_go(write.key()));
        batch.writes.iter().for_each(|write| self.write(write));
        self.audit.extend(&batch.audit);
        Committed::Done(Revision(self.revision))
    }

    fn refuted<'b>(&self, checks: &'b [Check]) -> Option<&'b Key> {
        checks.iter().find_map(|check| match check {
            Check::Version(key, expected) => (self.versions.get(key) != Some(expected)).then_some(key),
            Check::Absent(key) => self.versions.contains_key(key).then_some(key),
        })
    }

    /// The record that wants a unique value which another one has, after all writes.
    fn contested<'b>(&self, writes: &'b [Write]) -> Option<&'b Key> {
        let written: BTreeSet<&Key> = writes.iter().map(Write::key).collect();
        let mut claimed = BTreeSet::new();
        writes
            .iter()
            .find(|write| {
                uniques(write).any(|unique @ (kind, index, value)| {
                    let holder = self.holders.get(&(kind.to_owned(), index.to_owned(), value.to_owned()));
                    holder.is_some_and(|holder| !written.contains(holder)) || !claimed.insert(unique)
                })
            })
            .map(Write::key)
    }

    fn let_go(&mut self, key: &Key) {
        for unique in self.held.remove(key).unwrap_or_default() {
            self.holders.remove(&unique);
        }
    }

    fn write(&mut self, write: &'a Write) {
        let key = write.key();
        let state = match write {
            Write::Put { format, body, index_keys, .. } => {
                let version = self.versions.get(key).map_or(1, |version| version + 1);
                self.versions.insert(key.clone(), version);
                for (_, index, value) in uniques(write) {
                    self.hold(index.to_owned(), value.to_owned(), key.clone());
                }
                State::Put(Put { version, format: *format, body, index_keys })
            }
            Write::Delete(_) => {
                self.versions.remove(key);
                State::Deleted
            }
        };
        self.written.insert(key, state);
    }
}
