use std::{fmt, ops::Range, pin::Pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use data_encoding::HEXLOWER;
use futures_core::Stream;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Index, MetaStore, StoreError};
use crate::{logic::BoxError, time::Timestamp};

/// The name of the index by which records name blobs: one key per blob, its value the blob's id. What no record names is
/// removed by [`BlobStore::collect`].
pub const BLOB_INDEX: &str = "blob";

/// How old a blob must be before it can be removed for having no name, unless a deployment says otherwise: whoever stores
/// one has so long to name it.
pub const BLOB_GRACE: Duration = Duration::from_secs(24 * 3_600);

/// The SHA-256 (FIPS 180-4) of a blob's bytes. In JSON and as text 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlobId([u8; 32]);

impl BlobId {
    /// From the digest.
    pub const fn new(sha256: [u8; 32]) -> Self {
        Self(sha256)
    }

    /// Reads 64 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok().map(Self)
    }

    /// The digest.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobId({self})")
    }
}

impl Serialize for BlobId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BlobId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?)
            .ok_or_else(|| de::Error::custom("not a SHA-256 in hexadecimal"))
    }
}

/// Bytes on their way into a store.
pub type BlobSource = Pin<Box<dyn Stream<Item = Result<Bytes, BoxError>> + Send>>;

/// Verified bytes on their way out of a store, in order. An error is the last item.
pub type BlobStream = Pin<Box<dyn Stream<Item = Result<Bytes, BlobError>> + Send>>;

/// What is known of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobInfo {
    /// Which.
    pub id: BlobId,
    /// Its length, in bytes.
    pub size_bytes: u64,
    /// When it was last stored, by the store's clock.
    pub stored: Timestamp,
}

/// The answer to bytes that were to be stored.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobPut {
    /// They are what was announced, and are kept.
    Done,
    /// There are more of them than were announced.
    TooLong,
    /// There are fewer.
    TooShort {
        /// How many came, in bytes.
        has_bytes: u64,
    },
    /// They have another digest.
    OtherDigest,
}

/// What a collection did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// How many blobs were looked at.
    pub seen: u64,
    /// How many were removed.
    pub removed: u64,
    /// How many bytes they had.
    pub removed_bytes: u64,
    /// It was paused: what is left waits for another time.
    pub paused: bool,
}

/// The operation could not be carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// The store cannot be reached or is overloaded: try again later. A write may have happened.
    #[error("{backend}: unavailable")]
    Unavailable {
        /// Which store.
        backend: &'static str,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// No room is left: an operator must make some. Nothing was kept.
    #[error("{backend}: no room left")]
    Full {
        /// Which store.
        backend: &'static str,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// The store does not let us: an operator must give this program the permission. Nothing was kept.
    #[error("{backend}: permission denied")]
    Denied {
        /// Which store.
        backend: &'static str,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// What was read back is not what was stored. Storing the blob again mends it.
    #[error("{backend}: blob {id} is damaged: {what}")]
    Damaged {
        /// Which store.
        backend: &'static str,
        /// Which blob.
        id: BlobId,
        /// What was found.
        what: String,
    },
    /// The range does not lie within the blob.
    #[error("the range {}..{} is not within the {size_bytes} bytes of blob {id}", range.start, range.end)]
    Range {
        /// Of which blob.
        id: BlobId,
        /// What was asked for.
        range: Range<u64>,
        /// What there is.
        size_bytes: u64,
    },
    /// It is larger than this store takes. Nothing was kept.
    #[error("a blob may have {bytes_max} bytes, and this one has {bytes}")]
    TooLarge {
        /// What was announced.
        bytes: u64,
        /// What is taken.
        bytes_max: u64,
    },
    /// The bytes that were to be stored broke off. Nothing was kept.
    #[error("the bytes broke off")]
    Source(#[source] BoxError),
    /// Whether a blob has a name cannot be told. It stays.
    #[error("the names of blobs cannot be read")]
    Names(#[source] StoreError),
}

/// Knows which blobs are in use.
#[async_trait]
pub trait BlobNames: Send + Sync {
    /// Whether a record names this blob. Sees every commit that had returned before the call.
    async fn is_named(&self, id: &BlobId) -> Result<bool, StoreError>;
}

/// Large immutable things, each named by the SHA-256 of its bytes: there is one of each content, and it is what its name says
/// or it is an error.
///
/// A blob lives as long as a record names it, by an index key [`BLOB_INDEX`]. Write such a record first and store the blob
/// then, or store it and name it within the grace period: both are safe against a collection that runs at the same time.
#[async_trait]
pub trait BlobStore: fmt::Debug + Send + Sync + 'static {
    /// Stores `size_bytes` bytes. Size and digest are verified while they come, and the blob is there for nobody before all
    /// of it is; durable when it returns [`BlobPut::Done`]. Anything else, a broken source and a cancelled call included, keeps
    /// nothing of these bytes, and leaves a blob that was there. Storing the same again is harmless, mends a damaged blob,
    /// and makes it young for [`collect`](Self::collect).
    async fn put(&self, id: &BlobId, size_bytes: u64, bytes: BlobSource) -> Result<BlobPut, BlobError>;

    /// What is known of a blob; `None` if it is not there.
    async fn stat(&self, id: &BlobId) -> Result<Option<BlobInfo>, BlobError>;

    /// The bytes of a blob, or of a range of it; `None` if it is not there. No byte is handed out before the part that it
    /// belongs to was verified; of a whole blob, the last part is handed out after the digest of all was compared.
    async fn read(&self, id: &BlobId, range: Option<Range<u64>>) -> Result<Option<BlobStream>, BlobError>;

    /// The blobs in the order of their ids, from after `after`, at most `limit`.
    async fn list(&self, after: Option<&BlobId>, limit: u32) -> Result<Vec<BlobInfo>, BlobError>;

    /// Removes the blobs that are not named and were last stored before `before`, and what broken writes left. May go in steps:
    /// a cancelled call has removed some. Removes nothing while the collection is paused.
    async fn collect(&self, names: &dyn BlobNames, now: Timestamp, before: Timestamp) -> Result<Collected, BlobError>;

    /// From when this returns until `until`, nothing is removed, by no process: for a copy of what is there now. `by` is a
    /// word of lower-case letters, digits and hyphens that tells pauses apart; a second one by the same replaces the first.
    async fn pause(&self, by: &str, until: Timestamp) -> Result<(), BlobError>;

    /// Ends a pause; nothing if there is none.
    async fn resume(&self, by: &str) -> Result<(), BlobError>;
}

/// The names that records of these kinds give, by their index keys [`BLOB_INDEX`].
#[derive(Debug, Clone)]
pub struct RecordNames {
    meta: Arc<dyn MetaStore>,
    kinds: Vec<&'static str>,
}

impl RecordNames {
    /// Asks `meta`. A kind that is left out loses its blobs.
    pub fn new(meta: Arc<dyn MetaStore>, kinds: impl IntoIterator<Item = &'static str>) -> Self {
        Self { meta, kinds: kinds.into_iter().collect() }
    }
}

#[async_trait]
impl BlobNames for RecordNames {
    async fn is_named(&self, id: &BlobId) -> Result<bool, StoreError> {
        for kind in &self.kinds {
            if self.meta.count(&Index::new(kind, BLOB_INDEX, id.to_string())).await? > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
