//! The seams to storage. A method is one whole atomic step; its doc is a contract that every backend keeps, and
//! `iot-store`'s feature `conformance` is the exam.
//!
//! All methods may be cancelled: a cancelled write has then happened wholly or not at all, and the caller does not know
//! which.

mod blob;
mod meta;
mod retention;
mod session;
mod settle;
mod telemetry;
mod typed;
mod usage;

use std::{fmt, sync::Arc};

pub use blob::{
    BLOB_GRACE, BLOB_INDEX, BlobError, BlobId, BlobInfo, BlobNames, BlobPut, BlobSource, BlobStore, BlobStream,
    Collected, RecordNames,
};
pub use meta::{
    Audit, Batch, Change, Check, Committed, INDEX_PAGE_MAX, Index, IndexKey, Key, MetaStore, Page, Record, Revision,
    Write,
};
pub use retention::{Form, KEPT_DAYS_MAX, Maintained, Partition, Policies, Retention, RetentionError};
pub use session::{
    Closing, Due, Fenced, Offered, Opened, Opening, Placed, Publication, Queued, Resumed, SessionStore, Settled,
    Settlement, StoredSession, StoredSubscription, Target,
};
pub use settle::{ATTEMPTS_MAX, Contended, Step, settle};
pub use telemetry::{Aggregate, Bucket, LatestValue, Range, Series, TelemetryStore};
pub use typed::{Document, MetaStoreExt, Stored};
pub use usage::{Forecast, Growth, Usage};

/// The operation could not be carried out. What was written is unknown only where the variant says so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The backend cannot be reached or is overloaded: try again later. A write may have happened.
    #[error("{backend}: unavailable")]
    Unavailable {
        /// Which backend.
        backend: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What was read back is not what this version writes: an operator must look.
    #[error("{backend}: damaged or foreign data: {what}")]
    Damaged {
        /// Which backend.
        backend: &'static str,
        /// What was found.
        what: String,
    },
    /// No room is left: an operator must make some. Nothing was written.
    #[error("{backend}: no room left")]
    Full {
        /// Which backend.
        backend: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store is closed. Nothing was written.
    #[error("{backend}: closed")]
    Closed {
        /// Which backend.
        backend: &'static str,
    },
}

/// The backends of one deployment, freely mixed: `Stores { telemetry: Arc::new(mine), ..stores }`.
#[derive(Clone)]
pub struct Stores {
    /// Records.
    pub meta: Arc<dyn MetaStore>,
    /// What devices report.
    pub telemetry: Arc<dyn TelemetryStore>,
    /// MQTT sessions and retained messages.
    pub sessions: Arc<dyn SessionStore>,
}

impl Stores {
    /// All three from one backend.
    pub fn new<S: MetaStore + TelemetryStore + SessionStore>(store: S) -> Self {
        let store = Arc::new(store);
        Self { meta: store.clone(), telemetry: store.clone(), sessions: store }
    }
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stores").finish_non_exhaustive()
    }
}
