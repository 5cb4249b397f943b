use std::{fs, path::Path};

use iot_core::store::Usage;
use rusqlite::Connection;

use crate::sqlite::fault::Fault;

/// Pages of the file that are free will be used before it grows.
pub(super) fn usage(connection: &Connection, folder: &Path) -> Result<Usage, Fault> {
    let number = |name: &str| connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0));
    let page = number("page_size")?;
    let (pages, free) = (number("page_count")?, number("freelist_count")?);
    let bytes = |pages: i64| pages.saturating_mul(page).unsigned_abs();
    let log = fs::metadata(folder.join("data.db-wal")).map_or(0, |file| file.len());
    Ok(Usage {
        bytes: bytes(pages - free).saturating_add(log),
        bytes_free: free_on_disk(folder).map(|disk| disk.saturating_add(bytes(free))),
    })
}

/// For who is not root.
#[cfg(unix)]
fn free_on_disk(folder: &Path) -> Option<u64> {
    rustix::fs::statvfs(folder).ok().map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(not(unix))]
fn free_on_disk(_: &Path) -> Option<u64> {
    None
}
