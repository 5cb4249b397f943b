use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use data_encoding::HEXLOWER;
use futures_util::TryStreamExt;
use iot_core::{
    clock::{Clock, SystemClock},
    store::{BlobError, BlobId, BlobStore},
};
use iot_store::{blobs::Blobs, sqlite::Sqlite};

use super::{
    BLOBS, STORE, failed,
    files::{self, Measured},
    manifest::{Entry, Manifest},
};
use crate::{
    data_folder::{DEMO_DEVICES, RESTORING},
    failure::Failure,
};

/// How long no blob is removed for the sake of a backup. One that takes longer fails; of one that was killed it is what it
/// leaves behind.
const PAUSE: Duration = Duration::from_secs(24 * 3_600);

/// Copies a data folder, also while a server uses it. Answers a line for people.
pub(crate) async fn take(data: &Path, to: &Path) -> Result<String, Failure> {
    check(data, to)?;
    let made = !to.exists();
    files::make_folder(to).map_err(failed(to))?;
    match copy(data, to).await {
        Ok(manifest) => {
            let bytes: u64 = manifest.files.iter().map(|file| file.size_bytes).sum();
            let count = manifest.files.len();
            Ok(format!("{}: revision {}, {count} files, {bytes} bytes", to.display(), manifest.revision.0))
        }
        Err(failure) => {
            files::discard(to, made);
            Err(failure)
        }
    }
}

fn check(data: &Path, to: &Path) -> Result<(), Failure> {
    if !data.join(STORE).join("control.db").is_file() || data.join(RESTORING).exists() {
        return Err(Failure::options(format!(
            "--data {}: holds no store; name the folder of a server",
            data.display()
        )));
    }
    let refused = |what: &str| Failure::options(format!("--to {}: {what}", to.display()));
    if !files::is_vacant(to).map_err(|error| refused(&format!("{error}; name a folder that is empty or not there")))? {
        return Err(refused("is not empty; name a folder that is empty or not there"));
    }
    let absolute = |path: &Path| std::path::absolute(path).map_err(|error| refused(&error.to_string()));
    let real = data.canonicalize().map_err(failed(data))?;
    if absolute(to)?.starts_with(absolute(data)?) || absolute(to)?.starts_with(real) {
        return Err(refused("is within the data folder; name one beside it"));
    }
    Ok(())
}

/// Records first, then telemetry, then what records name, then keys: each holds all that those before it need.
async fn copy(data: &Path, to: &Path) -> Result<Manifest, Failure> {
    let clock = SystemClock::default();
    let (began, by) = (clock.timestamp(), format!("backup-{}", std::process::id()));
    let blobs = Blobs::local(&data.join(BLOBS)).map_err(failed(&data.join(BLOBS)))?;
    blobs.pause(&by, began.plus(PAUSE)).await.map_err(|error| blob_failed(&error))?;
    let mut manifest = Manifest::new(began);
    let copied = copy_all(data, &blobs, to, &mut manifest).await;
    let resumed = blobs.resume(&by).await;
    copied?;
    resumed.map_err(|error| blob_failed(&error))?;
    if clock.timestamp().since(began) >= PAUSE {
        return Err(Failure::part(
            "the backup took longer than a day, and what it copied may have changed; give it a faster target",
        ));
    }
    manifest.write(to).map_err(failed(to))?;
    Ok(manifest)
}

async fn copy_all(data: &Path, blobs: &Blobs, to: &Path, manifest: &mut Manifest) -> Result<(), Failure> {
    let store = to.join(STORE);
    files::make_folder(&store).map_err(failed(&store))?;
    let snapshot = Sqlite::snapshot(&data.join(STORE), &store).await;
    let snapshot = snapshot.map_err(|error| Failure::part(error.to_string().replace('\n', " ")))?;
    manifest.revision = snapshot.revision;
    for file in &snapshot.files {
        let measured = files::measure(file).map_err(failed(file))?;
        manifest.files.push(Entry::new(name(to, file), measured));
    }
    let kept = to.join(BLOBS);
    files::make_folder(&kept).map_err(failed(&kept))?;
    for id in &snapshot.blobs {
        if let Some(measured) = copy_blob(blobs, id, &kept.join(id.to_string())).await? {
            manifest.files.push(Entry::new(format!("{BLOBS}/{id}"), measured));
        }
    }
    for file in keys(data)? {
        let target = to.join(name(data, &file));
        if let Some(folder) = target.parent() {
            files::make_folder(folder).map_err(failed(folder))?;
        }
        let measured = files::copy(&file, &target).map_err(failed(&target))?;
        manifest.files.push(Entry::new(name(data, &file), measured));
    }
    Ok(())
}

/// Nothing if it is not there: its release waits for it.
async fn copy_blob(blobs: &Blobs, id: &BlobId, to: &Path) -> Result<Option<Measured>, Failure> {
    let Some(mut bytes) = blobs.read(id, None).await.map_err(|error| blob_failed(&error))? else { return Ok(None) };
    let mut file = files::create(to).map_err(failed(to))?;
    let mut size_bytes = 0;
    while let Some(piece) = bytes.try_next().await.map_err(|error| blob_failed(&error))? {
        size_bytes += piece.len() as u64;
        file.write_all(&piece).map_err(failed(to))?;
    }
    file.sync_all().map_err(failed(to))?;
    Ok(Some(Measured { size_bytes, sha256: HEXLOWER.encode(id.as_bytes()) }))
}

fn blob_failed(error: &BlobError) -> Failure {
    let advice = match error {
        BlobError::Damaged { .. } => "; withdraw the release that names it",
        _ => "",
    };
    Failure::part(format!("{}{advice}", Failure::of("", error)))
}

/// The files that lie in the data folder itself, and the keys of simulated devices. Mail that was written to files is not kept.
fn keys(data: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut found = plain_files(data)?;
    let demo = data.join(DEMO_DEVICES);
    if demo.is_dir() {
        found.extend(plain_files(&demo)?);
        for entry in fs::read_dir(&demo).map_err(failed(&demo))? {
            let device = entry.map_err(failed(&demo))?.path();
            if device.is_dir() {
                found.extend(plain_files(&device)?);
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// But for those that are being written.
fn plain_files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed(folder))? {
        let entry = entry.map_err(failed(folder))?;
        let name = entry.file_name();
        let passing = name.to_string_lossy().starts_with('.') || name.to_string_lossy().ends_with(".new");
        if !passing && entry.file_type().map_err(failed(folder))?.is_file() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn name(folder: &Path, file: &Path) -> String {
    file.strip_prefix(folder).unwrap_or(file).to_string_lossy().into_owned()
}
