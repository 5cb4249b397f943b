//! What happens to a folder between two starts: torn, foreign, newer, shared, unusable.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::Path};

use iot_core::store::{Batch, Committed, Key, MetaStore, StoreError, Write};
use iot_store::{
    StoreLimits,
    sqlite::{OpenError, Sqlite},
};

async fn open(folder: &Path) -> Result<Sqlite, OpenError> {
    Sqlite::open(folder, StoreLimits::default()).await
}

async fn refusal(folder: &Path) -> OpenError {
    let error = open(folder).await.unwrap_err();
    assert!(!error.to_string().contains('\n'), "{error}");
    error
}

async fn put(store: &Sqlite, name: u32) {
    let key = Key::new("thing", name.to_string());
    let put = Write::Put { key, format: 1, body: "{}".to_owned(), index_keys: Vec::new() };
    let committed = store.commit(Batch { writes: vec![put], ..Batch::default() }).await.unwrap();
    assert!(matches!(committed, Committed::Done(_)));
}

async fn there(store: &Sqlite) -> usize {
    let keys: Vec<Key> = (0..100).map(|name| Key::new("thing", name.to_string())).collect();
    let found = store.get(&keys).await.unwrap();
    let count = found.iter().flatten().count();
    assert!(found[..count].iter().all(Option::is_some), "a commit without an earlier one");
    count
}

/// A copy of a folder in use is what a crash leaves: the log not yet moved into the file.
fn crashed(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in ["control.db", "control.db-wal", "data.db", "data.db-wal"] {
        fs::copy(folder.join(file), copy.path().join(file)).unwrap();
    }
    copy
}

#[tokio::test]
async fn a_torn_log_loses_only_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await.unwrap();
    for name in 0..50 {
        put(&store, name).await;
    }
    let length = fs::metadata(folder.path().join("control.db-wal")).unwrap().len();
    let mut last = 0;
    for tenth in 0..=10 {
        let copy = crashed(folder.path());
        let log = fs::File::options().write(true).open(copy.path().join("control.db-wal")).unwrap();
        log.set_len(length * tenth / 10).unwrap();
        drop(log);
        let reopened = open(copy.path()).await.unwrap();
        let count = there(&reopened).await;
        assert!(count >= last, "{tenth}/10");
        last = count;
    }
    assert_eq!(last, 50);
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused() {
    for name in ["control.db", "data.db"] {
        let folder = tempfile::tempdir().unwrap();
        open(folder.path()).await.unwrap().close().await;
        let garbage = "not a database, but long enough to be one ".repeat(1_000);
        fs::write(folder.path().join(name), &garbage).unwrap();
        let error = refusal(folder.path()).await;
        assert!(matches!(&error, OpenError::Damaged { path, .. } if path.ends_with(name)), "{error}");
        assert_eq!(fs::read_to_string(folder.path().join(name)).unwrap(), garbage);
    }
}

#[tokio::test]
async fn a_file_cut_short_is_refused_or_damaged_never_empty() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await.unwrap();
    for name in 0..50 {
        put(&store, name).await;
    }
    store.close().await;
    let file = fs::File::options().write(true).open(folder.path().join("control.db")).unwrap();
    file.set_len(file.metadata().unwrap().len() / 3).unwrap();
    drop(file);
    match open(folder.path()).await {
        Err(error) => assert!(matches!(error, OpenError::Damaged { .. }), "{error}"),
        Ok(store) => {
            let read = store.get(&[Key::new("thing", "1")]).await;
            assert!(matches!(read, Err(StoreError::Damaged { .. })), "{read:?}");
        }
    }
}

#[tokio::test]
async fn a_database_of_another_program_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.db");
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    let error = refusal(folder.path()).await;
    assert!(matches!(&error, OpenError::Damaged { what, .. } if what.contains("another program")), "{error}");
}

#[tokio::test]
async fn a_newer_layout_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path()).await.unwrap().close().await;
    let later = "INSERT INTO migration (number, checksum) SELECT max(number) + 1, 'x' FROM migration";
    rusqlite::Connection::open(folder.path().join("control.db")).unwrap().execute_batch(later).unwrap();
    let error = refusal(folder.path()).await;
    assert!(matches!(error, OpenError::Newer { found, known, .. } if found == known + 1), "{error}");
}

#[tokio::test]
async fn a_folder_has_one_owner_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await.unwrap();
    assert!(matches!(refusal(folder.path()).await, OpenError::Locked { .. }));
    let clone = store.clone();
    drop(store);
    assert!(matches!(refusal(folder.path()).await, OpenError::Locked { .. }));
    drop(clone);
    open(folder.path()).await.unwrap();
}

#[tokio::test]
async fn a_folder_that_cannot_be_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(refusal(&file).await, OpenError::Unusable { .. }));
    fs::create_dir(folder.path().join("control.db")).unwrap();
    assert!(matches!(refusal(folder.path()).await, OpenError::Unusable { .. }));
}

#[tokio::test]
async fn closing_finishes_what_was_begun_and_refuses_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await.unwrap();
    let clone = store.clone();
    let writes: Vec<_> = (0..100)
        .map(|name| {
            let store = store.clone();
            tokio::spawn(async move { put(&store, name).await })
        })
        .collect();
    for write in writes {
        write.await.unwrap();
    }
    store.close().await;
    store.close().await;
    assert!(matches!(clone.commit(Batch::default()).await, Err(StoreError::Closed { .. })));
    assert!(matches!(clone.revision().await, Err(StoreError::Closed { .. })));
    let log = fs::metadata(folder.path().join("control.db-wal")).map_or(0, |metadata| metadata.len());
    assert_eq!(log, 0, "the log was not moved into the file");
    let reopened = open(folder.path()).await.unwrap();
    assert_eq!(there(&reopened).await, 100);
}

/// A cancelled write has happened wholly or not at all, and the store goes on.
#[tokio::test]
async fn a_cancelled_write_leaves_the_store_whole() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await.unwrap();
    for name in 0..20 {
        let mut write = std::pin::pin!(put(&store, name));
        // One poll sends the job or nothing; then the caller is gone.
        let polled = std::future::poll_fn(|context| std::task::Poll::Ready(write.as_mut().poll(context))).await;
        assert!(polled.is_pending());
    }
    put(&store, 99).await;
    assert_eq!(store.revision().await.unwrap().0, 21);
}
