use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use aws_lc_rs::digest::{Context, SHA256};
use data_encoding::HEXLOWER;

/// How much is in memory at once.
const BUFFER_BYTES: usize = 1024 * 1024;

/// The length and SHA-256 of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Measured {
    pub(super) size_bytes: u64,
    pub(super) sha256: String,
}

pub(super) fn measure(path: &Path) -> io::Result<Measured> {
    pass(&mut fs::File::open(path)?, &mut io::sink())
}

/// Copies to a new file, for this user alone; synced.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<Measured> {
    let mut source = fs::File::open(from)?;
    let mut target = create(to)?;
    let measured = pass(&mut source, &mut target)?;
    target.sync_all()?;
    Ok(measured)
}

/// A new file, for this user alone.
pub(super) fn create(path: &Path) -> io::Result<fs::File> {
    fs::File::options().write(true).create_new(true).mode(0o600).open(path)
}

fn pass(source: &mut impl Read, target: &mut impl Write) -> io::Result<Measured> {
    let mut digest = Context::new(&SHA256);
    let mut size_bytes = 0;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = source.read(&mut buffer)?;
        if count == 0 {
            let sha256 = HEXLOWER.encode(digest.finish().as_ref());
            return Ok(Measured { size_bytes, sha256 });
        }
        digest.update(&buffer[..count]);
        target.write_all(&buffer[..count])?;
        size_bytes += count as u64;
    }
}

/// With all above it, for this user alone; no error if it is there.
pub(super) fn make_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

pub(super) fn sync(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

/// All folders in a folder, and itself.
pub(super) fn sync_folders(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_folders(&entry.path())?;
        }
    }
    sync(path)
}

/// Whether there is nothing, or a folder with nothing in it.
pub(super) fn is_vacant(path: &Path) -> io::Result<bool> {
    match fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// Removes what is in a folder; the folder too, if `also_itself`. For what is half made: what cannot be removed stays.
pub(super) fn discard(path: &Path, also_itself: bool) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let _left = match entry.file_type() {
            Ok(kind) if kind.is_dir() => fs::remove_dir_all(entry.path()),
            _ => fs::remove_file(entry.path()),
        };
    }
    if also_itself {
        let _left = fs::remove_dir(path);
    }
}
