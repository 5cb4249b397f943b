//! [`Ota`]: releases, rollouts and their delivery, as a node and an HTTP face hold them.
//!
//! ```text
//!  operator                     Ota                                device
//!     │ PUT  …/trust             │                                   │
//!     │ POST …/releases          │ enough of these keys signed it    │
//!     │ PUT  …/image             │ it is the image that was signed   │
//!     │ POST …/rollouts, start   │ first group: its devices pending  │
//!     │                          │◀──────────── hello ───────────────│
//!     │                          │───── offer, signed; link ────────▶│ verifies
//!     │                          │◀──── GET …/firmware, ranges ──────│ loads, hashes
//!     │                          │◀──── report: installed … ─────────│ tries it
//!     │                          │◀──── report: confirmed ───────────│ is well
//!     │                          │ one vote; gate; next group        │
//! ```
//!
//! A device's part and the count of its vote are written in one batch, or neither is.

mod devices;
mod known;
mod link;
mod present;
mod records;
mod releases;
mod rollouts;
mod tick;
mod upload;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use iot_core::{
    access::Principal,
    clock::Clock,
    id::TenantId,
    keys::{KeyError, KeyRing},
    store::{self, Audit, Batch, BlobError, BlobStore, Contended, Key, MetaStore, MetaStoreExt, Step, StoreError},
    time::Timestamp,
};

use self::present::Present;
pub use self::{
    link::{DownloadLink, LINK_VALIDITY, Opened},
    records::{ProductTrust, ReleaseRecord, ReleaseState, Runs},
    releases::{Created, RELEASES_MAX, TrustPut, Withdrawn},
    rollouts::{ROLLOUTS_MAX, RolloutCreated, RolloutOrdered},
    tick::{OFFERS_MAX, TICK, WALK_PAGES_MAX},
    upload::{UploadError, Uploaded, WrongImage},
};

/// The operation could not be carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OtaError {
    /// Try again later.
    #[error("the store of records failed")]
    Store(#[from] StoreError),
    /// Try again later, or repair the ring.
    #[error("the key ring failed")]
    Keys(#[from] KeyError),
    /// Try again later.
    #[error("the store of images failed")]
    Blobs(#[from] BlobError),
    /// What was stored does not read back: an operator must look.
    #[error("damaged: {0}")]
    Damaged(String),
    /// The system has no randomness.
    #[error("no randomness")]
    Random,
    /// Others changed the same records again and again. Nothing was written; try again.
    #[error(transparent)]
    Contended(#[from] Contended),
}

/// Keeps releases and carries rollouts out. One for a node; several may work over the same records.
pub struct Ota {
    pub(crate) meta: Arc<dyn MetaStore>,
    pub(crate) blobs: Arc<dyn BlobStore>,
    pub(crate) keys: Arc<dyn KeyRing>,
    pub(crate) clock: Arc<dyn Clock>,
    address: String,
    /// Changes of one node to a rollout's counts do not race each other; between nodes the versions of records decide.
    counting: tokio::sync::Mutex<()>,
    // Small sections, never across an await.
    present: Mutex<Present>,
    wake: tokio::sync::Notify,
}

impl Ota {
    /// Over a deployment's records and images. `address` is where devices reach the routes of [`crate::http`]: scheme, host and
    /// port, such as `https://cloud.example:8443`.
    pub fn new(
        meta: Arc<dyn MetaStore>,
        blobs: Arc<dyn BlobStore>,
        keys: Arc<dyn KeyRing>,
        clock: Arc<dyn Clock>,
        address: &str,
    ) -> Self {
        let address = address.trim_end_matches('/').to_owned();
        let (counting, present, wake) = (tokio::sync::Mutex::default(), Mutex::default(), tokio::sync::Notify::new());
        Self { meta, blobs, keys, clock, address, counting, present, wake }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.timestamp()
    }

    /// An entry that goes into the batch of a change.
    fn done(&self, by: &Principal, action: &str, subject: &Key) -> Audit {
        self.entry(&by.tenant, by, action, subject)
    }

    fn entry(&self, tenant: &TenantId, actor: impl fmt::Display, action: &str, subject: impl fmt::Display) -> Audit {
        Audit::done(self.now(), tenant, actor, action, subject)
    }

    /// Records that a principal was refused.
    async fn refused(&self, entry: Audit, why: &str) -> Result<(), OtaError> {
        let entry = entry.refused(why);
        tracing::info!(actor = entry.actor, action = entry.action, subject = entry.subject, why, "refused");
        // Without checks and writes nothing can conflict.
        self.meta.commit_or_conflict(Batch::default().audited(entry)).await?;
        Ok(())
    }

    /// Decides and commits until nothing that was decided by has changed in between.
    async fn settle<T, F>(&self, decide: impl FnMut() -> F) -> Result<T, OtaError>
    where
        F: Future<Output = Result<Step<T>, OtaError>>,
    {
        store::settle(&*self.meta, decide).await
    }

    /// A new id: its first characters grow with time, so that lists are in the order of creation.
    fn new_id(&self) -> Result<String, OtaError> {
        let mut random = [0; 8];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| OtaError::Random)?;
        let time = self.now().as_millis().to_be_bytes();
        let text = data_encoding::BASE32HEX_NOPAD.encode(&[&time[2..], &random].concat());
        Ok(text.to_ascii_lowercase())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Ota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ota").field("blobs", &self.blobs).finish_non_exhaustive()
    }
}
