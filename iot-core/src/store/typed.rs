use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};

use super::{Batch, Check, Committed, Index, IndexKey, Key, MetaStore, Page, Record, StoreError, Write};
use crate::problem::Cursor;

/// A kind of record. Own kinds need no change of any backend.
pub trait Document: Serialize + DeserializeOwned + Send + Sync {
    /// The kind's name, `snake_case`, stable.
    const KIND: &'static str;
    /// The format that this version writes; it also reads the one before.
    const FORMAT: u16;

    /// Its key.
    fn key(&self) -> Key;

    /// All values by which it is found.
    fn index_keys(&self) -> Vec<IndexKey>;
}

/// A document with the version that a check needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored<T> {
    /// As stored.
    pub version: u64,
    /// The document.
    pub document: T,
}

impl Write {
    /// Writes a document.
    pub fn put<T: Document>(document: &T) -> Self {
        Self::Put {
            key: document.key(),
            format: T::FORMAT,
            body: serde_json::to_string(document).expect("documents have text keys only"),
            index_keys: document.index_keys(),
        }
    }
}

impl Batch {
    /// Adds a new document, which must not exist.
    #[must_use]
    pub fn create<T: Document>(mut self, document: &T) -> Self {
        self.checks.push(Check::Absent(document.key()));
        self.writes.push(Write::put(document));
        self
    }

    /// Replaces a document, if it is still at the version that was read.
    #[must_use]
    pub fn replace<T: Document>(mut self, read: &Stored<T>, document: &T) -> Self {
        self.checks.push(Check::Version(document.key(), read.version));
        self.writes.push(Write::put(document));
        self
    }

    /// Deletes a document, if it is still at the version that was read.
    #[must_use]
    pub fn remove<T: Document>(mut self, read: &Stored<T>) -> Self {
        let key = read.document.key();
        self.checks.push(Check::Version(key.clone(), read.version));
        self.writes.push(Write::Delete(key));
        self
    }

    /// Demands that a document is still at the version that was read.
    #[must_use]
    pub fn unchanged<T: Document>(mut self, read: &Stored<T>) -> Self {
        self.checks.push(Check::Version(read.document.key(), read.version));
        self
    }

    /// Adds an audit entry.
    #[must_use]
    pub fn audited(mut self, audit: super::Audit) -> Self {
        self.audit.push(audit);
        self
    }
}

/// Typed access over any [`MetaStore`].
#[async_trait]
pub trait MetaStoreExt: MetaStore {
    /// Reads a document.
    async fn find<T: Document>(&self, key: &Key) -> Result<Option<Stored<T>>, StoreError> {
        let records = self.get(std::slice::from_ref(key)).await?;
        records.into_iter().flatten().next().map(|record| read(&record)).transpose()
    }

    /// Reads the document that has a unique index value.
    async fn find_by<T: Document>(&self, index: &'static str, value: &str) -> Result<Option<Stored<T>>, StoreError> {
        let page = self.list(&Index::new(T::KIND, index, value), None, 1).await?;
        page.items.into_iter().next().map(|record| read(&record)).transpose()
    }

    /// Reads a page of documents.
    async fn page<T: Document>(
        &self,
        index: &'static str,
        value: &str,
        after: Option<&Cursor>,
        limit: u32,
    ) -> Result<Page<Stored<T>>, StoreError> {
        let page = self.list(&Index::new(T::KIND, index, value), after, limit).await?;
        let items = page.items.iter().map(read).collect::<Result<_, _>>()?;
        Ok(Page { items, next: page.next })
    }

    /// Commits a batch that has no checks worth deciding again about.
    async fn commit_or_conflict(&self, batch: Batch) -> Result<bool, StoreError> {
        Ok(matches!(self.commit(batch).await?, Committed::Done(_)))
    }
}

impl<S: MetaStore + ?Sized> MetaStoreExt for S {}

fn read<T: Document>(record: &Record) -> Result<Stored<T>, StoreError> {
    let damaged = |what: String| StoreError::Damaged { backend: "records", what };
    if record.key.kind != T::KIND || record.format > T::FORMAT || record.format + 1 < T::FORMAT {
        return Err(damaged(format!("{} has format {}", record.key, record.format)));
    }
    let document = serde_json::from_str(&record.body).map_err(|e| damaged(format!("{}: {e}", record.key)))?;
    Ok(Stored { version: record.version, document })
}
