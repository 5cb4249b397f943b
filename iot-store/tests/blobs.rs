//! Blobs in memory and in a folder pass the exam; and what decay, crashes and refusals do to a folder.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use iot_core::{
    store::{BlobError, BlobId, BlobPut, BlobStore},
    time::Timestamp,
};
use iot_store::{
    blobs::{Blobs, PART_BYTES, id_of, source_of},
    conformance::blob::{Names, bytes, keep, load},
};

mod memory {
    iot_store::conformance_blobs!(((), iot_store::blobs::Blobs::memory()));
}

mod folder {
    iot_store::conformance_blobs!({
        let folder = tempfile::tempdir().unwrap();
        let store = iot_store::blobs::Blobs::local(folder.path()).unwrap();
        (folder, store)
    });
}

const PART: usize = PART_BYTES as usize;

fn local() -> (tempfile::TempDir, Blobs) {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::local(folder.path()).unwrap();
    (folder, blobs)
}

fn file(folder: &tempfile::TempDir, what: &str, id: &BlobId) -> PathBuf {
    folder.path().join(what).join(id.to_string())
}

fn damage(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn what(result: Result<Bytes, BlobError>) -> String {
    match result {
        Err(BlobError::Damaged { what, .. }) => what,
        other => panic!("{other:?}"),
    }
}

/// The range that avoids the damage is good, the one that touches its part is not, by one byte; and a good copy mends it.
#[tokio::test]
async fn a_changed_bit_is_found_where_it_is() {
    let (folder, blobs) = local();
    let whole = bytes(40 * PART);
    let id = keep(&blobs, &whole).await;
    damage(&file(&folder, "data", &id), 20 * PART);
    let at = |part: usize| (part * PART) as u64;
    assert_eq!(load(&blobs, &id, Some(0..at(20))).await.unwrap(), whole.slice(..20 * PART));
    assert_eq!(load(&blobs, &id, Some(at(21)..at(40))).await.unwrap(), whole.slice(21 * PART..));
    assert_eq!(what(load(&blobs, &id, Some(at(21) - 1..at(21))).await), "part 20 has another digest");
    // What comes before it has been verified, and comes.
    let mut read = blobs.read(&id, None).await.unwrap().unwrap();
    assert_eq!(read.next().await.unwrap().unwrap(), whole.slice(..16 * PART));
    assert!(matches!(read.next().await, Some(Err(BlobError::Damaged { .. }))));
    assert!(read.next().await.is_none());
    keep(&blobs, &whole).await;
    assert_eq!(load(&blobs, &id, None).await.unwrap(), whole);
}

/// Parts that agree with the bytes do not make a whole that is not what its name says.
#[tokio::test]
async fn bytes_under_the_name_of_others_are_found() {
    let (folder, blobs) = local();
    let (id, other) = (keep(&blobs, &bytes(PART + 1)).await, keep(&blobs, &bytes(PART + 2)).await);
    for what in ["data", "parts"] {
        fs::copy(file(&folder, what, &other), file(&folder, what, &id)).unwrap();
    }
    assert_eq!(what(load(&blobs, &id, None).await), "it has another digest");
    let (empty, one) = (keep(&blobs, &Bytes::new()).await, keep(&blobs, &bytes(1)).await);
    for what in ["data", "parts"] {
        fs::copy(file(&folder, what, &empty), file(&folder, what, &one)).unwrap();
    }
    assert_eq!(what(load(&blobs, &one, None).await), "it has another digest");
}

#[tokio::test]
async fn torn_and_missing_files_are_told() {
    let (folder, blobs) = local();
    let id = keep(&blobs, &bytes(3 * PART)).await;
    let data = file(&folder, "data", &id);
    fs::File::options().write(true).open(&data).unwrap().set_len(PART as u64).unwrap();
    let size = (3 * PART).to_string();
    let torn = format!("it has {PART} bytes of {size}");
    assert_eq!(what(load(&blobs, &id, None).await), "it ends too early");
    assert_eq!(load(&blobs, &id, Some(0..9)).await.unwrap(), bytes(3 * PART).slice(..9), "this part is whole");
    assert_eq!(blobs.stat(&id).await.unwrap_err().to_string(), format!("folder: blob {id} is damaged: {torn}"));
    fs::remove_file(&data).unwrap();
    assert_eq!(what(load(&blobs, &id, None).await), "its bytes are missing");
    assert!(matches!(blobs.stat(&id).await, Err(BlobError::Damaged { .. })));
    keep(&blobs, &bytes(3 * PART)).await;
    damage(&file(&folder, "parts", &id), 30);
    assert_eq!(what(load(&blobs, &id, Some(0..1)).await), "its list of parts is not whole");
}

/// Everything that a write makes on its way is swept when it is old, and until then is no blob.
#[tokio::test]
async fn what_a_killed_write_leaves_is_swept() {
    let (folder, blobs) = local();
    let id = keep(&blobs, &bytes(5)).await;
    let orphan = id_of(b"orphan");
    fs::write(file(&folder, "data", &orphan), b"orphan").unwrap();
    let staged = folder.path().join(format!("data/{orphan}#1"));
    fs::write(&staged, b"orp").unwrap();
    assert!(blobs.stat(&orphan).await.unwrap().is_none());
    assert!(blobs.read(&orphan, None).await.unwrap().is_none());
    let now = blobs.stat(&id).await.unwrap().unwrap().stored;
    let kept = blobs.collect(&Names::of([id]), now, Timestamp::EPOCH).await.unwrap();
    assert_eq!((kept.removed, staged.exists()), (0, true), "a write may be at it");
    let swept = blobs.collect(&Names::of([id]), now, Timestamp::MAX).await.unwrap();
    assert_eq!((swept.removed, swept.removed_bytes, staged.exists()), (1, 6, false));
    assert!(!file(&folder, "data", &orphan).exists());
    assert_eq!(load(&blobs, &id, None).await.unwrap(), bytes(5));
}

/// A removal that ended with its process keeps nobody from storing for good.
#[tokio::test]
async fn a_broken_removal_is_carried_on() {
    let (folder, blobs) = local();
    let id = keep(&blobs, &bytes(5)).await;
    let mark = file(&folder, "condemned", &id);
    fs::create_dir_all(mark.parent().unwrap()).unwrap();
    fs::write(&mark, b"").unwrap();
    let now = blobs.stat(&id).await.unwrap().unwrap().stored;
    assert_eq!(blobs.collect(&Names::default(), now, Timestamp::MAX).await.unwrap().removed, 0, "another is at it");
    let old = std::time::SystemTime::UNIX_EPOCH;
    fs::File::options().write(true).open(&mark).unwrap().set_modified(old).unwrap();
    keep(&blobs, &bytes(5)).await;
    fs::remove_file(file(&folder, "parts", &id)).unwrap();
    assert_eq!(blobs.collect(&Names::default(), now, Timestamp::MAX).await.unwrap().removed, 1);
    assert!(!mark.exists() && !file(&folder, "data", &id).exists());
}

/// A sender that goes away in the middle leaves no file.
#[tokio::test]
async fn a_cancelled_put_leaves_nothing() {
    let (folder, blobs) = local();
    let whole = bytes(9 * 1024 * 1024);
    let (id, size) = (id_of(&whole), whole.len() as u64);
    let (taken, first_taken) = tokio::sync::oneshot::channel();
    let hanging = stream::once(async move { Ok(whole) }).chain(stream::once(async move {
        let _sent = taken.send(());
        std::future::pending().await
    }));
    let task = tokio::spawn({
        let blobs = blobs.clone();
        async move { blobs.put(&id, size + 1, hanging.boxed()).await }
    });
    first_taken.await.unwrap();
    assert_eq!(fs::read_dir(folder.path().join("data")).unwrap().count(), 1, "it had begun");
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    while fs::read_dir(folder.path().join("data")).unwrap().count() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(blobs.stat(&id).await.unwrap().is_none());
}

/// Root may write anywhere; as another user the test means what it says.
#[tokio::test]
async fn a_folder_that_may_not_be_written_is_told() {
    let (folder, blobs) = local();
    let id = keep(&blobs, &bytes(1)).await;
    let data = folder.path().join("data");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o500)).unwrap();
    let may_anyway = fs::write(data.join("probe"), b"").is_ok();
    let put = blobs.put(&id_of(b"x"), 1, source_of("x")).await;
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();
    match put {
        Err(BlobError::Denied { .. }) => {}
        Ok(BlobPut::Done) if may_anyway => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(load(&blobs, &id, None).await.unwrap(), bytes(1));
}
