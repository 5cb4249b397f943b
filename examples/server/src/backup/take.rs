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
    BLOBS, DUMP, STORE, failed,
    files::{self, Measured},
    manifest::{Entry, Manifest},
};
use crate::{
    data_folder::{DEMO_DEVICES, DEPLOYMENT, RESTORING},
    database::postgres,
    failure::Failure,
    options::Options,
};

/// How long no blob is removed for the sake of a backup. One that takes longer fails; of one that was killed it is what it
/// leaves behind.
const PAUSE: Duration = Duration::from_secs(24 * 3_600);

/// How many blobs are looked for at once.
const BLOBS_PER_PAGE: u32 = 1_000;

/// Copies a data folder and the database that belongs to it, also while a server uses them. Answers a line for people.
pub(crate) async fn take(options: &Options, to: &Path) -> Result<String, Failure> {
    check(options, to)?;
    let made = !to.exists();
    files::make_folder(to).map_err(failed(to))?;
    match copy(options, to).await {
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

fn check(options: &Options, to: &Path) -> Result<(), Failure> {
    let data = &options.data;
    let no_folder = |what: &str| Failure::options(format!("--data {}: {what}", data.display()));
    let holds = |name: &str| data.join(name).is_file();
    match &options.postgres {
        _ if data.join(RESTORING).exists() => return Err(no_folder("its restore was broken off")),
        None if holds(DEPLOYMENT) => {
            return Err(no_folder("belongs to a PostgreSQL database; name it with --postgres"));
        }
        None if !holds("store/control.db") => return Err(no_folder("holds no store; name the folder of a server")),
        Some(_) if !holds(DEPLOYMENT) => return Err(no_folder("belongs to no database; name the folder of a server")),
        _ => {}
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
async fn copy(options: &Options, to: &Path) -> Result<Manifest, Failure> {
    let data = &options.data;
    let clock = SystemClock::default();
    let (began, by) = (clock.timestamp(), format!("backup-{}", std::process::id()));
    let blobs = Blobs::local(&data.join(BLOBS)).map_err(failed(&data.join(BLOBS)))?;
    blobs.pause(&by, began.plus(PAUSE)).await.map_err(|error| blob_failed(&error))?;
    let mut manifest = Manifest::new(began);
    let copied = copy_all(options, &blobs, to, &mut manifest).await;
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

async fn copy_all(options: &Options, blobs: &Blobs, to: &Path, manifest: &mut Manifest) -> Result<(), Failure> {
    let data = &options.data;
    for folder in [STORE, BLOBS] {
        files::make_folder(&to.join(folder)).map_err(failed(&to.join(folder)))?;
    }
    let named = match &options.postgres {
        None => copy_stores(data, to, manifest).await?,
        Some(url) => {
            let (dump, ca) = (to.join(DUMP), options.postgres_ca.as_deref());
            manifest.revision = postgres::dump(url, ca, data, &dump).await?;
            manifest.files.push(Entry::new(DUMP.to_owned(), files::measure(&dump).map_err(failed(&dump))?));
            all(blobs).await?
        }
    };
    for id in &named {
        if let Some(measured) = copy_blob(blobs, id, &to.join(BLOBS).join(id.to_string())).await? {
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

/// Answers the blobs that the copied records name.
async fn copy_stores(data: &Path, to: &Path, manifest: &mut Manifest) -> Result<Vec<BlobId>, Failure> {
    let snapshot = Sqlite::snapshot(&data.join(STORE), &to.join(STORE)).await;
    let snapshot = snapshot.map_err(|error| Failure::part(error.to_string().replace('\n', " ")))?;
    manifest.revision = snapshot.revision;
    for file in &snapshot.files {
        let measured = files::measure(file).map_err(failed(file))?;
        manifest.files.push(Entry::new(name(to, file), measured));
    }
    Ok(snapshot.blobs.into_iter().collect())
}

/// Every blob there is: what the records in a dump name is among them, since none is removed meanwhile.
async fn all(blobs: &Blobs) -> Result<Vec<BlobId>, Failure> {
    let mut found: Vec<BlobId> = Vec::new();
    loop {
        let page = blobs.list(found.last(), BLOBS_PER_PAGE).await.map_err(|error| blob_failed(&error))?;
        if page.is_empty() {
            return Ok(found);
        }
        found.extend(page.into_iter().map(|blob| blob.id));
    }
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
