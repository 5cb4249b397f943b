use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::StoreError;
use crate::{id::TenantId, problem::Cursor, time::Timestamp};

/// The most records of one page.
pub const INDEX_PAGE_MAX: u32 = 1_000;

/// Names a record: a kind, and a key that is unique within it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// Which kind of record.
    pub kind: String,
    /// Which one.
    pub key: String,
}

impl Key {
    /// Names a record.
    pub fn new(kind: impl Into<String>, key: impl Into<String>) -> Self {
        Self { kind: kind.into(), key: key.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.key)
    }
}

/// A value by which a record is found.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IndexKey {
    /// The index, within the record's kind.
    pub index: &'static str,
    /// The value.
    pub value: String,
    /// Whether at most one record of the kind may have this value.
    pub unique: bool,
}

impl IndexKey {
    /// A value that many records may share.
    pub fn many(index: &'static str, value: &str) -> Self {
        Self { index, value: value.to_owned(), unique: false }
    }

    /// A value that one record may have.
    pub fn unique(index: &'static str, value: &str) -> Self {
        Self { index, value: value.to_owned(), unique: true }
    }
}

/// The records of a kind that share a value of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Of which kind.
    pub kind: &'static str,
    /// Which index.
    pub index: &'static str,
    /// Which value.
    pub value: String,
}

impl Index {
    /// Names an index value.
    pub fn new(kind: &'static str, index: &'static str, value: impl Into<String>) -> Self {
        Self { kind, index, value: value.into() }
    }
}

/// A stored record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Which.
    pub key: Key,
    /// 1 when created, one more with each write; starts again at 1 after a deletion.
    pub version: u64,
    /// The format of the body, by its writer.
    pub format: u16,
    /// A JSON text.
    pub body: String,
}

/// Counts commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Revision(pub u64);

/// Something that must hold for a batch to be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// The record exists with this version.
    Version(Key, u64),
    /// No such record exists.
    Absent(Key),
}

/// A change of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Creates or replaces it, with its index keys.
    Put {
        /// Which.
        key: Key,
        /// The format of the body.
        format: u16,
        /// A JSON text.
        body: String,
        /// All of its index keys; former ones are gone.
        index_keys: Vec<IndexKey>,
    },
    /// Removes it; no error if it is not there.
    Delete(Key),
}

impl Write {
    /// The record that is changed.
    pub fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete(key) => key,
        }
    }
}

/// An entry of the audit log: written with the change that it tells of, or alone for a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// When.
    pub at: Timestamp,
    /// In which tenant.
    pub tenant: TenantId,
    /// Who, as [`Principal`](crate::access::Principal) displays.
    pub actor: String,
    /// What was done or tried, `snake_case` and stable.
    pub action: String,
    /// To what: a record's key as text.
    pub subject: String,
    /// Whether it was done; if not, why, `snake_case` and stable.
    pub refused: Option<String>,
}

impl Audit {
    /// Something that was done.
    pub fn done(
        at: Timestamp,
        tenant: &TenantId,
        actor: impl fmt::Display,
        action: &str,
        subject: impl fmt::Display,
    ) -> Self {
        Self {
            at,
            tenant: tenant.clone(),
            actor: actor.to_string(),
            action: action.to_owned(),
            subject: subject.to_string(),
            refused: None,
        }
    }

    /// The same, but refused: `why` is `snake_case` and stable.
    #[must_use]
    pub fn refused(self, why: &str) -> Self {
        Self { refused: Some(why.to_owned()), ..self }
    }
}

/// Checks, writes and audit entries that are carried out together or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// All must hold.
    pub checks: Vec<Check>,
    /// At most one per record; of several the last counts.
    pub writes: Vec<Write>,
    /// Appended to the audit log.
    pub audit: Vec<Audit>,
}

/// How a commit ended.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
    /// It is durable, as this revision.
    Done(Revision),
    /// A check did not hold, or a unique value of this record's index keys belongs to another record. Nothing was
    /// written; read again and decide again.
    Conflict(Key),
}

/// What one commit changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which commit.
    pub revision: Revision,
    /// The records it wrote or deleted.
    pub keys: Vec<Key>,
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// In order.
    pub items: Vec<T>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<Cursor>,
}

/// A small document store: records found by key and by index values, and an ordered log of changes and of audit entries.
#[async_trait]
pub trait MetaStore: fmt::Debug + Send + Sync + 'static {
    /// Reads records, in the order of `keys`, `None` where there is none. All are read as of one revision, which is not
    /// older than any commit that had returned before the call.
    async fn get(&self, keys: &[Key]) -> Result<Vec<Option<Record>>, StoreError>;

    /// Lists records by an index value in ascending byte order of their keys, from after `after`, at most `limit` (and
    /// at most [`INDEX_PAGE_MAX`]). A record that is there during the whole of a walk over the pages is seen exactly once.
    async fn list(&self, index: &Index, after: Option<&Cursor>, limit: u32) -> Result<Page<Record>, StoreError>;

    /// Counts the records that an index value has.
    async fn count(&self, index: &Index) -> Result<u64, StoreError>;

    /// Carries out a batch, all or nothing, against every race; durable when it returns [`Committed::Done`]. Revisions
    /// of commits grow in the order in which they take effect. A batch without writes and audit entries only checks.
    /// Unique values are compared after all writes, so that one can pass from record to record within a batch.
    async fn commit(&self, batch: Batch) -> Result<Committed, StoreError>;

    /// The commits after `after` that wrote records, in order and without gaps: a commit appears before any later one
    /// does, and at the latest when it returns. At most `limit`. A backend may forget all but the newest revisions, whose number is one of its limits; a
    /// reader so far behind gets [`StoreError::Damaged`] and must start from the present.
    async fn changes(&self, after: Revision, limit: u32) -> Result<Vec<Change>, StoreError>;

    /// The newest revision.
    async fn revision(&self) -> Result<Revision, StoreError>;

    /// Audit entries of a tenant, newest first, from before `before`, at most `limit`.
    async fn audit(&self, tenant: &TenantId, before: Option<&Cursor>, limit: u32) -> Result<Page<Audit>, StoreError>;
}
