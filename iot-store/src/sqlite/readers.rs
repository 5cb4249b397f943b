use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use iot_core::store::StoreError;
use rusqlite::{Connection, OpenFlags};
use tokio::{sync::Semaphore, task};

use super::{fault::Fault, writer::STATEMENTS_MAX};

/// The most reads at a time of one file; further ones wait.
const READERS_MAX: u32 = 4;

/// Read-only connections to one file, opened when they are first needed. Each read is one transaction, which sees every
/// commit that had returned before it began.
pub(super) struct Readers {
    path: PathBuf,
    permits: Arc<Semaphore>,
    // Small sections, never across an await.
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(path: &Path) -> Arc<Self> {
        Arc::new(Self {
            path: path.to_owned(),
            permits: Arc::new(Semaphore::new(READERS_MAX as usize)),
            idle: Mutex::default(),
        })
    }

    /// Runs a read on a thread that may block.
    pub(super) async fn run<T, F>(self: &Arc<Self>, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    {
        let readers = Arc::clone(self);
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| Fault::Closed)?;
        let answer = task::spawn_blocking(move || {
            // Held until the read is over, also if the caller has gone.
            let _permit = permit;
            readers.read(work)
        });
        let answer = answer.await;
        Ok(answer.unwrap_or_else(|_| Err(Fault::stopped()))?)
    }

    /// An error once no reads are begun any more.
    pub(super) fn are_open(&self) -> Result<(), StoreError> {
        if self.permits.is_closed() { Err(Fault::Closed.into()) } else { Ok(()) }
    }

    /// Begins no further reads, and waits for those under way.
    pub(super) async fn end(&self) {
        let _ = self.permits.acquire_many(READERS_MAX).await;
        self.permits.close();
        self.close_idle();
    }

    pub(super) fn close_idle(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, Fault> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = idle.map_or_else(|| self.connect(), Ok)?;
        let transaction = connection.unchecked_transaction()?;
        let answer = work(&connection);
        transaction.finish()?;
        if !self.permits.is_closed() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
        answer
    }

    fn connect(&self) -> Result<Connection, Fault> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        Ok(connection)
    }
}
