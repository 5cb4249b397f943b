//! Removal of what has no name. What stores and what removes meet at a mark: a removal writes the mark, then looks at the
//! blob's age; a store writes the blob, then looks for the mark.

use std::{
    collections::BTreeMap,
    fs, io,
    path::Path as FilePath,
    time::{Instant, SystemTime},
};

use futures_util::TryStreamExt;
use iot_core::{
    store::{BlobError, BlobId, BlobNames, Collected},
    time::Timestamp,
};
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload, path::Path};

use super::{Blobs, CONDEMNED, CONDEMNED_FOR, DATA, PARTS, PAUSES, modified, path};

pub(super) async fn collect(
    blobs: &Blobs,
    names: &dyn BlobNames,
    now: Timestamp,
    before: Timestamp,
) -> Result<Collected, BlobError> {
    let mut collected = Collected::default();
    for (id, seen) in seen(blobs).await? {
        collected.seen += 1;
        if seen.stored >= before || named(names, &id).await? {
            continue;
        }
        match remove(blobs, names, &id, now, before).await? {
            Removal::Done => {
                collected.removed += 1;
                collected.removed_bytes += seen.size_bytes;
            }
            Removal::Kept => {}
            Removal::Paused => {
                collected.paused = true;
                return Ok(collected);
            }
        }
    }
    sweep_broken(blobs, before).await?;
    Ok(collected)
}

struct Seen {
    stored: Timestamp,
    size_bytes: u64,
}

/// Blobs, bytes without parts, and marks without either: all that a write or a removal may have left.
async fn seen(blobs: &Blobs) -> Result<BTreeMap<BlobId, Seen>, BlobError> {
    let mut all = BTreeMap::new();
    for (id, mark) in blobs.listed(CONDEMNED).await? {
        all.insert(id, Seen { stored: modified(&mark), size_bytes: 0 });
    }
    for (id, data) in blobs.listed(DATA).await? {
        all.insert(id, Seen { stored: modified(&data), size_bytes: data.size });
    }
    for (id, parts) in blobs.listed(PARTS).await? {
        let size_bytes = all.get(&id).map_or(0, |seen| seen.size_bytes);
        all.insert(id, Seen { stored: modified(&parts), size_bytes });
    }
    Ok(all)
}

enum Removal {
    Done,
    Kept,
    Paused,
}

async fn remove(
    blobs: &Blobs,
    names: &dyn BlobNames,
    id: &BlobId,
    now: Timestamp,
    before: Timestamp,
) -> Result<Removal, BlobError> {
    let mark = path(CONDEMNED, id);
    if !condemn(blobs, &mark, now).await? {
        return Ok(Removal::Kept);
    }
    let removal = carry_out(blobs, names, id, now, before).await;
    // Also after a failure: otherwise the mark would keep others from storing this blob.
    blobs.delete(&mark).await?;
    removal
}

/// Writes the mark, unless another process is at it.
async fn condemn(blobs: &Blobs, mark: &Path, now: Timestamp) -> Result<bool, BlobError> {
    match blobs.objects.put_opts(mark, PutPayload::new(), PutMode::Create.into()).await {
        Ok(_) => Ok(true),
        Err(object_store::Error::AlreadyExists { .. }) => {
            let left = blobs.head(mark).await?.is_some_and(|mark| now.since(modified(&mark)) >= CONDEMNED_FOR);
            if left {
                blobs.objects.put(mark, PutPayload::new()).await.map_err(|error| blobs.failed(error))?;
            }
            Ok(left)
        }
        Err(error) => Err(blobs.failed(error)),
    }
}

async fn carry_out(
    blobs: &Blobs,
    names: &dyn BlobNames,
    id: &BlobId,
    now: Timestamp,
    before: Timestamp,
) -> Result<Removal, BlobError> {
    let begun = Instant::now();
    let (parts, data) = (path(PARTS, id), path(DATA, id));
    let newest = match blobs.head(&parts).await? {
        Some(parts) => Some(parts),
        None => blobs.head(&data).await?,
    };
    if newest.is_some_and(|newest| modified(&newest) >= before) || named(names, id).await? {
        return Ok(Removal::Kept);
    }
    // After the names: what a pause protects had a name when it began, or was stored after the mark.
    if paused(blobs, now).await? {
        return Ok(Removal::Paused);
    }
    // Whoever stores this blob does not wait for a mark of that age.
    if begun.elapsed() >= CONDEMNED_FOR / 2 {
        return Ok(Removal::Kept);
    }
    blobs.delete(&parts).await?;
    blobs.delete(&data).await?;
    Ok(Removal::Done)
}

async fn named(names: &dyn BlobNames, id: &BlobId) -> Result<bool, BlobError> {
    names.is_named(id).await.map_err(BlobError::Names)
}

/// A pause that cannot be read counts until an operator has looked.
async fn paused(blobs: &Blobs, now: Timestamp) -> Result<bool, BlobError> {
    let found = blobs.objects.list(Some(&Path::from(PAUSES))).map_err(|error| blobs.failed(error));
    for pause in found.try_collect::<Vec<_>>().await? {
        let Some((_, text)) = blobs.bytes(&pause.location).await? else { continue };
        let until = std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
        if until.is_none_or(|until| now < Timestamp::from_micros(until)) {
            return Ok(true);
        }
        blobs.delete(&pause.location).await?;
    }
    Ok(false)
}

/// In a folder, a write that ended with its process has left a file that is never seen: `NAME#NUMBER`.
async fn sweep_broken(blobs: &Blobs, before: Timestamp) -> Result<(), BlobError> {
    let Some(folder) = blobs.folder.clone() else { return Ok(()) };
    let sweep =
        move || [DATA, PARTS, CONDEMNED, PAUSES].iter().try_for_each(|sub| sweep_folder(&folder.join(sub), before));
    let swept = tokio::task::spawn_blocking(sweep).await.unwrap_or_else(|stopped| Err(io::Error::other(stopped)));
    swept.map_err(|error| BlobError::Unavailable { backend: blobs.backend, source: error.into() })
}

fn sweep_folder(folder: &FilePath, before: Timestamp) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().contains('#') {
            continue;
        }
        match sweep_file(&entry, before) {
            // Its writer was not broken: it has got its name meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            swept => swept?,
        }
    }
    Ok(())
}

fn sweep_file(entry: &fs::DirEntry, before: Timestamp) -> io::Result<()> {
    if changed(&entry.metadata()?.modified()?) < before { fs::remove_file(entry.path()) } else { Ok(()) }
}

fn changed(at: &SystemTime) -> Timestamp {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::EPOCH.plus(since)
}
