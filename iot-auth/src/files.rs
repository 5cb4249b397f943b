//! Files that only their owner may read, written whole or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use iot_core::keys::KeyError;

/// What the cloud needs at its start cannot be read or made. One line that says what to do; nothing is half made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// The operating system refused.
    #[error("{}: {source}; check the folder and its owner", path.display())]
    File {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what this version writes.
    #[error("{}: {what}; restore it from a backup", path.display())]
    Broken {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Others may read it.
    #[error("{0}: others may read it; run: chmod 600 {0}")]
    Exposed(String),
    /// It was sealed by another key ring.
    #[error("{}: the key ring cannot open it; restore the {} that belongs to it", path.display(), crate::keys::FILE_NAME)]
    Sealed {
        /// Which file.
        path: PathBuf,
        /// As the ring says.
        source: KeyError,
    },
    /// The cryptographic library refused.
    #[error("keys or certificates cannot be made")]
    Crypto(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl SetupError {
    pub(crate) fn crypto(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Crypto(error.into())
    }

    pub(crate) fn broken(path: &Path, what: &dyn std::fmt::Display) -> Self {
        Self::Broken { path: path.to_owned(), what: what.to_string() }
    }
}

/// Reads a file that must be the owner's alone; `None` if there is none.
pub(crate) fn read_private(path: &Path) -> Result<Option<Vec<u8>>, SetupError> {
    match fs::read(path) {
        Ok(bytes) => is_private(path).and_then(|private| match private {
            true => Ok(Some(bytes)),
            false => Err(SetupError::Exposed(path.display().to_string())),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(SetupError::File { path: path.to_owned(), source }),
    }
}

/// Makes the folder if need be.
pub(crate) fn create_folder(path: &Path) -> Result<(), SetupError> {
    fs::create_dir_all(path).map_err(|source| SetupError::File { path: path.to_owned(), source })
}

/// Replaces a file atomically and durably, readable by its owner only.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), SetupError> {
    let new = path.with_added_extension("new");
    let written = (|| {
        // A leftover of an interrupted start may have another mode.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = private_file(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    })();
    written.map_err(|source| SetupError::File { path: path.to_owned(), source })
}

#[cfg(unix)]
fn private_file(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

#[cfg(not(unix))]
fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

#[cfg(unix)]
fn is_private(path: &Path) -> Result<bool, SetupError> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = fs::metadata(path).map_err(|source| SetupError::File { path: path.to_owned(), source })?;
    Ok(metadata.permissions().mode() & 0o077 == 0)
}

#[cfg(not(unix))]
fn is_private(_: &Path) -> Result<bool, SetupError> {
    Ok(true)
}
