use std::{
    fs,
    io::{self, Write},
    path::{Component, Path},
};

use iot_core::{store::Revision, time::Timestamp};
use serde::{Deserialize, Serialize};

use super::files::{self, Measured};
use crate::failure::Failure;

/// The layout that this version writes, and the only one that it reads.
const FORMAT: u32 = 1;
const NAME: &str = "manifest.json";

/// What is in a backup.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// The layout.
    pub(super) format: u32,
    /// What has written it.
    pub(super) program: String,
    /// When it was begun.
    pub(super) taken: Timestamp,
    /// The last commit of records in it.
    pub(super) revision: Revision,
    pub(super) files: Vec<Entry>,
}

/// A file of a backup.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Within the backup, with `/`.
    pub(super) path: String,
    pub(super) size_bytes: u64,
    /// In hexadecimal.
    pub(super) sha256: String,
}

impl Entry {
    pub(super) fn new(path: String, Measured { size_bytes, sha256 }: Measured) -> Self {
        Self { path, size_bytes, sha256 }
    }

    pub(super) fn is(&self, measured: &Measured) -> bool {
        self.size_bytes == measured.size_bytes && self.sha256 == measured.sha256
    }
}

impl Manifest {
    pub(super) fn new(taken: Timestamp) -> Self {
        let program = concat!("iot-server ", env!("CARGO_PKG_VERSION")).to_owned();
        Self { format: FORMAT, program, taken, revision: Revision::default(), files: Vec::new() }
    }

    /// Writes it whole or not at all, after everything that it names; synced.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        files::sync_folders(folder)?;
        let written = folder.join(format!(".{NAME}"));
        let mut file = files::create(&written)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()?;
        fs::rename(&written, folder.join(NAME))?;
        files::sync(folder)
    }

    /// Reads it, and compares every file with it.
    pub(super) fn read_verified(folder: &Path) -> Result<Self, Failure> {
        let manifest = Self::read(folder)?;
        for entry in &manifest.files {
            verify(folder, entry)?;
        }
        Ok(manifest)
    }

    fn read(folder: &Path) -> Result<Self, Failure> {
        let path = folder.join(NAME);
        let refused = |what: &str| Failure::options(format!("{}: {what}", path.display()));
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(refused("is not there: this is no backup, or one that was broken off; name another"));
            }
            text => text.map_err(|error| refused(&error.to_string()))?,
        };
        #[derive(Deserialize)]
        struct Any {
            format: u32,
        }
        match serde_json::from_slice(&text) {
            Ok(Any { format: FORMAT }) => {}
            Ok(Any { format }) => {
                return Err(refused(&format!(
                    "is of format {format}, and this version reads {FORMAT}; use the version that wrote it"
                )));
            }
            Err(error) => return Err(refused(&format!("is damaged: {error}; name another backup"))),
        }
        serde_json::from_slice(&text).map_err(|error| refused(&format!("is damaged: {error}; name another backup")))
    }
}

fn verify(folder: &Path, entry: &Entry) -> Result<(), Failure> {
    let path = folder.join(&entry.path);
    let damaged = |what: String| Failure::options(format!("{}: {what}; name another backup", path.display()));
    // A path out of the folder would be written to on the way back.
    let within = Path::new(&entry.path).components().all(|part| matches!(part, Component::Normal(_)));
    if !within || entry.path.is_empty() {
        return Err(damaged("is not within the backup".to_owned()));
    }
    let measured = files::measure(&path).map_err(|error| damaged(error.to_string()))?;
    match entry.is(&measured) {
        true => Ok(()),
        false if measured.size_bytes != entry.size_bytes => {
            Err(damaged(format!("is damaged: it has {} bytes of {}", measured.size_bytes, entry.size_bytes)))
        }
        false => Err(damaged("is damaged: its SHA-256 is not that of the manifest".to_owned())),
    }
}
