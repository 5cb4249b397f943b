//! One folder, nothing else: the durable backend for a single node.
//!
//! `control.db` holds records, sessions, queues and retained messages; `data.db` holds telemetry. Each has one thread that
//! writes, so that a saturated data plane does not delay the control plane; writes that wait for a thread are committed
//! together. What a method has returned is on disk (WAL, `synchronous=FULL`). Not for several processes: a second one is
//! refused.
//!
//! ```
//! # async fn run(folder: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
//! use iot_core::store::Stores;
//! use iot_store::{StoreLimits, sqlite::Sqlite};
//!
//! let sqlite = Sqlite::open(folder, StoreLimits::default()).await?;
//! let stores = Stores::new(sqlite.clone());
//! # drop(stores);
//! sqlite.close().await;
//! # Ok(())
//! # }
//! # let folder = tempfile::tempdir().unwrap();
//! # tokio::runtime::Runtime::new().unwrap().block_on(run(folder.path())).unwrap();
//! ```

mod fault;
mod meta;
mod migrate;
mod readers;
mod restored;
mod session;
mod snapshot;
mod telemetry;
mod writer;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
};

use rusqlite::{Connection, ErrorCode};

pub use self::snapshot::Snapshot;
use self::{
    fault::Fault,
    meta::Newest,
    migrate::Migrations,
    readers::Readers,
    session::RetainedTopics,
    telemetry::{Known, Maintenance, Window},
    writer::{Undo, Writer},
};
use crate::StoreLimits;

/// The stores of one folder. Cheap to clone; when the last clone is dropped, the writes that wait are finished first,
/// which blocks for a moment.
#[derive(Clone)]
pub struct Sqlite {
    inner: Arc<Inner>,
}

struct Inner {
    limits: StoreLimits,
    folder: PathBuf,
    control: Writer<Newest>,
    revision: Arc<AtomicU64>,
    control_readers: Arc<Readers>,
    retained_topics: RetainedTopics,
    data: Writer<Known>,
    data_readers: Arc<Readers>,
    window: Arc<Window>,
    maintenance: Maintenance,
    // Small sections, never across an await.
    lock: Mutex<Option<fs::File>>,
}

/// Why a folder was not opened. Each text is one line that says what to look at; nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The folder or a file in it cannot be made, read or written.
    #[error("cannot use {}: {source}", path.display())]
    Unusable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another process uses the folder.
    #[error("{} is in use by another process", path.display())]
    Locked {
        /// Which folder.
        path: PathBuf,
    },
    /// A later version of this program has written the file.
    #[error("{} was written by a newer version (layout {found}, this one knows {known})", path.display())]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its layout.
        found: usize,
        /// The newest layout of this version.
        known: usize,
    },
    /// The file was made by steps that differ from those of this version.
    #[error("{} was made by another step {number} than this version has", path.display())]
    Changed {
        /// Which file.
        path: PathBuf,
        /// The first step that differs.
        number: usize,
    },
    /// Not a database, not one of ours, or broken.
    #[error("{} is damaged or not ours: {what}; restore it from a backup", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
}

impl OpenError {
    fn damaged(path: &Path, what: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), what: what.into() }
    }

    fn unusable(path: &Path, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unusable { path: path.to_owned(), source: source.into() }
    }

    fn of_fault(path: &Path, fault: Fault) -> Self {
        match fault {
            Fault::Damaged(what) => Self::damaged(path, what),
            fault => Self::unusable(path, iot_core::store::StoreError::from(fault)),
        }
    }

    fn of_file(path: &Path, error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked { path: path.to_owned() },
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::damaged(path, error.to_string()),
            _ => Self::unusable(path, error),
        }
    }
}

impl Sqlite {
    /// Opens a folder, making it and its files if they are not there. Needs a tokio runtime, here and later.
    pub async fn open(folder: &Path, limits: StoreLimits) -> Result<Self, OpenError> {
        let path = folder.to_owned();
        let opened = tokio::task::spawn_blocking(move || Inner::open(path, limits)).await;
        let inner = opened.unwrap_or_else(|stopped| Err(OpenError::unusable(folder, stopped)))?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The orderly end: finishes reads and writes that were begun, moves the logs into the files, and lets another
    /// process have the folder. All later calls, of all clones, fail with
    /// [`StoreError::Closed`](iot_core::store::StoreError::Closed). A second call does nothing.
    pub async fn close(&self) {
        self.inner.control_readers.end().await;
        self.inner.data_readers.end().await;
        let inner = Arc::clone(&self.inner);
        let _ = tokio::task::spawn_blocking(move || inner.end()).await;
    }
}

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sqlite").field("folder", &self.inner.folder).finish_non_exhaustive()
    }
}

impl Inner {
    fn open(folder: PathBuf, limits: StoreLimits) -> Result<Self, OpenError> {
        let unusable = |source: io::Error| OpenError::unusable(&folder, source);
        fs::create_dir_all(&folder).map_err(unusable)?;
        let lock = lock(&folder)?;
        let (control, data) = (folder.join("control.db"), folder.join("data.db"));
        let control_connection = connect(&control, migrate::CONTROL)?;
        let data_connection = connect(&data, migrate::DATA)?;
        let known = telemetry::recover(&data_connection).map_err(|fault| OpenError::of_fault(&data, fault))?;
        let window = known.window();
        let remembered = RetainedTopics::load(&control_connection)
            .and_then(|topics| Ok((topics, Newest::read(&control_connection)?)));
        let (retained_topics, newest) = remembered.map_err(|fault| OpenError::of_fault(&control, fault))?;
        Ok(Self {
            retained_topics,
            revision: newest.committed(),
            limits,
            control: Writer::start("store-control", control_connection, Undo::Job, newest).map_err(unusable)?,
            control_readers: Readers::new(&control),
            data: Writer::start("store-data", data_connection, Undo::Group, known).map_err(unusable)?,
            data_readers: Readers::new(&data),
            window,
            maintenance: Maintenance::default(),
            lock: Mutex::new(Some(lock)),
            folder,
        })
    }

    fn end(&self) {
        self.control_readers.close_idle();
        self.data_readers.close_idle();
        self.control.end();
        self.data.end();
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.end();
    }
}

fn lock(folder: &Path) -> Result<fs::File, OpenError> {
    let path = folder.join("lock");
    let opened = fs::File::options().create(true).truncate(false).write(true).open(&path);
    let file = opened.map_err(|source| OpenError::unusable(&path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(OpenError::Locked { path: folder.to_owned() }),
        Err(fs::TryLockError::Error(source)) => Err(OpenError::unusable(&path, source)),
    }
}

fn connect(path: &Path, migrations: Migrations) -> Result<Connection, OpenError> {
    let failed = |error| OpenError::of_file(path, error);
    let connection = Connection::open(path).map_err(failed)?;
    // WAL and FULL: COMMIT returns after the log was synced. The log is moved into the file every 16,000 pages (64 MB), which
    // writes a page that many commits have changed once.
    // What is deleted is overwritten where its page is written anyway, so that what was erased is not left beside what is kept.
    let settings = "PRAGMA secure_delete = FAST; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 16000;
        PRAGMA temp_store = MEMORY; PRAGMA cache_size = -32768;";
    connection.execute_batch(settings).map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(writer::STATEMENTS_MAX);
    migrate::migrate(&connection, path, migrations)?;
    Ok(connection)
}

/// A count as SQLite orders it; beyond what it can hold, the greatest.
fn ordered(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
