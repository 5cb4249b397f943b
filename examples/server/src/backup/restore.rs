use std::{fs, io::Read, os::unix::fs::PermissionsExt, path::Path};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use iot_core::{
    clock::{Clock, SystemClock},
    device::Device,
    logic::BoxError,
    store::{BlobId, BlobPut, BlobSource, BlobStore, MetaStoreExt, TelemetryStore},
};
use iot_store::{StoreLimits, blobs::Blobs, sqlite::Sqlite};

use super::{
    BLOBS, DUMP, STORE, failed, files,
    manifest::{Entry, Manifest},
};
use crate::{data_folder::RESTORING, database::postgres, failure::Failure, options::Options};

/// How much of a blob is read at once, in bytes.
const PIECE_BYTES: usize = 1024 * 1024;
/// How many series are looked at at once.
const SERIES_PER_PAGE: u32 = 1_000;

/// Makes a data folder from a backup. Nothing is written before every file was verified; and until all of it is there, the
/// folder holds one that is named [`RESTORING`], with which no server starts. Answers a line for people.
pub(crate) async fn restore(from: &Path, options: &Options) -> Result<String, Failure> {
    let data = &options.data;
    let manifest = Manifest::read_verified(from)?;
    let has_dump = manifest.files.iter().any(|file| file.path == DUMP);
    match &options.postgres {
        None if has_dump => {
            let text = "--from: is the backup of a PostgreSQL database; name one to restore into with --postgres";
            return Err(Failure::options(text));
        }
        Some(_) if !has_dump => {
            return Err(Failure::options("--from: is the backup of embedded stores; leave --postgres out"));
        }
        Some(url) => postgres::check_vacant(url, options.postgres_ca.as_deref()).await?,
        None => {}
    }
    let made = !data.exists();
    let _alone = begin(data)?;
    match make(from, options, &manifest).await {
        Ok(dropped) => {
            let (taken, revision, count) = (manifest.taken, manifest.revision.0, manifest.files.len());
            Ok(format!(
                "{}: as of {taken}, revision {revision}, {count} files; {dropped} series without a device dropped",
                data.display()
            ))
        }
        Err(failure) => {
            files::discard(data, made);
            Err(failure)
        }
    }
}

/// The folder must be empty, or hold nothing but an earlier attempt. Two at once are refused as long as the answer is held.
fn begin(data: &Path) -> Result<fs::File, Failure> {
    let refused = |what: &str| {
        Failure::options(format!("--data {}: {what}; name a folder that is empty or not there", data.display()))
    };
    let unusable = |error: std::io::Error| refused(&error.to_string());
    files::make_folder(data).map_err(unusable)?;
    let alone = fs::File::open(data).map_err(unusable)?;
    alone.try_lock().map_err(|_| refused("is being restored by another process"))?;
    let restoring = data.join(RESTORING);
    if restoring.exists() {
        files::discard(data, false);
    }
    if !files::is_vacant(data).map_err(unusable)? {
        return Err(refused("is not empty"));
    }
    fs::set_permissions(data, fs::Permissions::from_mode(0o700)).map_err(unusable)?;
    files::make_folder(&restoring).map_err(unusable)?;
    files::sync(data).map_err(unusable)?;
    Ok(alone)
}

async fn make(from: &Path, options: &Options, manifest: &Manifest) -> Result<usize, Failure> {
    let data = &options.data;
    let restoring = data.join(RESTORING);
    let blobs = Blobs::local(&restoring.join(BLOBS)).map_err(failed(&restoring))?;
    for entry in manifest.files.iter().filter(|file| file.path != DUMP) {
        match entry.path.strip_prefix("blobs/").and_then(BlobId::parse) {
            Some(id) => put(&blobs, &id, entry, &from.join(&entry.path)).await?,
            None => copy(entry, &from.join(&entry.path), &restoring.join(&entry.path))?,
        }
    }
    let dropped = match options.postgres {
        None => renew(&restoring.join(STORE)).await?,
        Some(_) => 0,
    };
    files::sync_folders(&restoring).map_err(failed(&restoring))?;
    if let Some(url) = &options.postgres {
        postgres::restore(url, options.postgres_ca.as_deref(), &from.join(DUMP)).await?;
    }
    finish(data, &restoring).map_err(failed(data))?;
    Ok(dropped)
}

/// The mark goes last: a broken restore is begun again, never used.
fn finish(data: &Path, restoring: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(restoring)? {
        let entry = entry?;
        fs::rename(entry.path(), data.join(entry.file_name()))?;
    }
    files::sync(data)?;
    fs::remove_dir(restoring)?;
    files::sync(data)
}

fn copy(entry: &Entry, from: &Path, to: &Path) -> Result<(), Failure> {
    if let Some(folder) = to.parent() {
        files::make_folder(folder).map_err(failed(folder))?;
    }
    let measured = files::copy(from, to).map_err(failed(to))?;
    if entry.is(&measured) { Ok(()) } else { Err(changed(from)) }
}

async fn put(blobs: &Blobs, id: &BlobId, entry: &Entry, from: &Path) -> Result<(), Failure> {
    let bytes = source(fs::File::open(from).map_err(failed(from))?);
    let put = blobs.put(id, entry.size_bytes, bytes).await;
    match put.map_err(|error| Failure::part(Failure::of("", &error).to_string()))? {
        BlobPut::Done => Ok(()),
        _ => Err(changed(from)),
    }
}

fn source(file: fs::File) -> BlobSource {
    stream::unfold(Some(file), |file| async move {
        let mut file = file?;
        let mut piece = vec![0; PIECE_BYTES];
        match file.read(&mut piece) {
            Ok(0) => None,
            Ok(count) => {
                piece.truncate(count);
                Some((Ok(Bytes::from(piece)), Some(file)))
            }
            Err(error) => Some((Err(BoxError::from(error)), None)),
        }
    })
    .boxed()
}

fn changed(path: &Path) -> Failure {
    Failure::part(format!("{}: has changed since it was verified; leave the backup alone meanwhile", path.display()))
}

/// Raises the session epochs, and drops the telemetry of devices and owners that the records do not know: it came between the
/// two copies, and the next owner in that epoch must not read it.
async fn renew(store: &Path) -> Result<usize, Failure> {
    let opened = Sqlite::open(store, StoreLimits::default()).await;
    let sqlite = opened.map_err(|error| Failure::part(error.to_string().replace('\n', " ")))?;
    let failed = |error| Failure::part(Failure::of("", &error).to_string());
    sqlite.raise_session_epochs(SystemClock::default().timestamp()).await.map_err(failed)?;
    let (mut dropped, mut last) = (0, None);
    loop {
        let page = sqlite.series(last.as_ref(), SERIES_PER_PAGE).await.map_err(failed)?;
        for series in &page {
            let device =
                sqlite.find::<Device>(&Device::key_of(&series.tenant, &series.device)).await.map_err(failed)?;
            if device.is_none_or(|device| series.epoch > device.document.epoch) {
                sqlite.erase(series).await.map_err(failed)?;
                dropped += 1;
            }
        }
        match page.into_iter().last() {
            Some(series) => last = Some(series),
            None => break,
        }
    }
    sqlite.close().await;
    Ok(dropped)
}
