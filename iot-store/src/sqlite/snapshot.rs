//! A copy of a folder that may be in use, by this process or another.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use iot_core::store::{BLOB_INDEX, BlobId, Revision};
use rusqlite::{Connection, OpenFlags, params};

use super::{OpenError, Sqlite};

/// How long a copy waits for a moment at which another process has not locked the file whole, as it does for instants only.
const BUSY_FOR: Duration = Duration::from_secs(10);

/// What a copy holds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The last commit of records in it.
    pub revision: Revision,
    /// The blobs that its records name, in order.
    pub blobs: Vec<BlobId>,
    /// The copied files, synced.
    pub files: Vec<PathBuf>,
}

impl Sqlite {
    /// Copies a folder into another, which must be there and have no `control.db` and `data.db`; also while a process uses the
    /// first, which goes on reading and writing. Records, sessions and queues are as at one moment, telemetry as at a later
    /// one; consumers of telemetry stand where they stood before the first, so that what they did in between is done again
    /// and nothing is left out. What was acknowledged before the call is in it. Synced when it returns; after an error the
    /// target holds nothing of use.
    pub async fn snapshot(folder: &Path, to: &Path) -> Result<Snapshot, OpenError> {
        let (from, target) = (folder.to_owned(), to.to_owned());
        let taken = tokio::task::spawn_blocking(move || take(&from, &target)).await;
        taken.unwrap_or_else(|stopped| Err(OpenError::unusable(folder, stopped)))
    }
}

fn take(folder: &Path, to: &Path) -> Result<Snapshot, OpenError> {
    let (control, data) = (folder.join("control.db"), folder.join("data.db"));
    let (control_copy, data_copy) = (to.join("control.db"), to.join("data.db"));
    let positions = positions(&data)?;
    copy(&control, &control_copy)?;
    copy(&data, &data_copy)?;
    set_positions(&data_copy, &positions)?;
    let (revision, blobs) = contents(&control_copy)?;
    for path in [&control_copy, &data_copy] {
        synced(path)?;
    }
    synced(to)?;
    Ok(Snapshot { revision, blobs, files: vec![control_copy, data_copy] })
}

/// `VACUUM INTO` reads in one transaction, in which it sees one moment; in WAL mode it holds nobody up.
fn copy(from: &Path, to: &Path) -> Result<(), OpenError> {
    let target = to.to_str().ok_or_else(|| OpenError::unusable(to, "its name is not UTF-8"))?;
    let copied = open(from)?.execute("VACUUM INTO ?1", [target]);
    // Also where the target has no room: then the text says so.
    copied.map(drop).map_err(|error| match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => OpenError::unusable(to, error),
        _ => OpenError::of_file(from, error),
    })
}

fn open(path: &Path) -> Result<Connection, OpenError> {
    let failed = |error| OpenError::of_file(path, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(BUSY_FOR).map_err(failed)?;
    Ok(connection)
}

type Positions = Vec<(String, String, i64)>;

fn positions(path: &Path) -> Result<Positions, OpenError> {
    let failed = |error| OpenError::of_file(path, error);
    let connection = open(path)?;
    let mut statement = connection.prepare("SELECT node, consumer, sequence FROM checkpoint").map_err(failed)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).map_err(failed)?;
    rows.collect::<Result<_, _>>().map_err(failed)
}

fn set_positions(path: &Path, positions: &Positions) -> Result<(), OpenError> {
    let set = || {
        let connection = Connection::open(path)?;
        connection.execute_batch("BEGIN; DELETE FROM checkpoint;")?;
        for (node, consumer, sequence) in positions {
            let row = params![node, consumer, sequence];
            connection.execute("INSERT INTO checkpoint (node, consumer, sequence) VALUES (?1, ?2, ?3)", row)?;
        }
        connection.execute_batch("COMMIT")
    };
    set().map_err(|error| OpenError::of_file(path, error))
}

fn contents(path: &Path) -> Result<(Revision, Vec<BlobId>), OpenError> {
    let failed = |error| OpenError::of_file(path, error);
    let connection = open(path)?;
    let revision = "SELECT value FROM counter WHERE name = 'revision'";
    let revision: i64 = connection.query_row(revision, [], |row| row.get(0)).map_err(failed)?;
    let mut statement = connection.prepare("SELECT value FROM index_key WHERE name = ?1").map_err(failed)?;
    let rows = statement.query_map([BLOB_INDEX], |row| row.get::<_, String>(0)).map_err(failed)?;
    let named = rows.collect::<Result<BTreeSet<_>, _>>().map_err(failed)?;
    // An index of this name with other values is another's.
    let blobs = named.iter().filter_map(|id| BlobId::parse(id)).collect();
    Ok((Revision(revision.cast_unsigned()), blobs))
}

fn synced(path: &Path) -> Result<(), OpenError> {
    let sync = || fs::File::open(path)?.sync_all();
    sync().map_err(|source| OpenError::unusable(path, source))
}
