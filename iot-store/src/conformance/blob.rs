//! Blobs. Each case is given an empty store, whose blobs are younger than a day.

use std::{collections::HashSet, sync::Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, future, stream};
use iot_core::{
    store::{BlobError, BlobId, BlobNames, BlobPut, BlobStore, Collected, StoreError},
    time::Timestamp,
};

use crate::blobs::{BLOB_BYTES_MAX, PART_BYTES, id_of, source_of};

/// Names for blobs, without records.
#[derive(Debug, Default)]
pub struct Names(Mutex<HashSet<BlobId>>);

impl Names {
    /// These.
    pub fn of(ids: impl IntoIterator<Item = BlobId>) -> Self {
        Self(Mutex::new(ids.into_iter().collect()))
    }
}

#[async_trait]
impl BlobNames for Names {
    async fn is_named(&self, id: &BlobId) -> Result<bool, StoreError> {
        Ok(self.0.lock().unwrap().contains(id))
    }
}

/// Bytes that differ from part to part.
pub fn bytes(count: usize) -> Bytes {
    (0..count).map(|at| u8::try_from((at * 31 + at / 1_000) % 251).unwrap()).collect::<Vec<_>>().into()
}

/// Stores bytes.
pub async fn keep(store: &dyn BlobStore, bytes: &Bytes) -> BlobId {
    let id = id_of(bytes);
    assert_eq!(store.put(&id, bytes.len() as u64, source_of(bytes.clone())).await.unwrap(), BlobPut::Done);
    id
}

/// All bytes of a blob or of a range.
pub async fn load(store: &dyn BlobStore, id: &BlobId, range: Option<std::ops::Range<u64>>) -> Result<Bytes, BlobError> {
    let found = store.read(id, range).await?.expect("the blob is there");
    let pieces: Vec<Bytes> = found.try_collect().await?;
    Ok(pieces.concat().into())
}

const PART: usize = PART_BYTES as usize;

/// Of every length, about the borders of a part and of what a store takes at once.
pub async fn what_was_put_is_read(store: &dyn BlobStore) {
    for count in [0, 1, PART - 1, PART, PART + 1, 17 * PART + 3, 8 * 1024 * 1024, 8 * 1024 * 1024 + 1] {
        let bytes = bytes(count);
        assert!(store.stat(&id_of(&bytes)).await.unwrap().is_none());
        let id = keep(store, &bytes).await;
        assert_eq!(load(store, &id, None).await.unwrap(), bytes, "{count}");
        assert_eq!(store.stat(&id).await.unwrap().unwrap().size_bytes, count as u64);
    }
}

/// In many pieces, as a network gives them.
pub async fn pieces_make_one_blob(store: &dyn BlobStore) {
    let whole = bytes(3 * PART + 77);
    let pieces: Vec<_> = whole.chunks(1_001).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let id = id_of(&whole);
    let put = store.put(&id, whole.len() as u64, stream::iter(pieces).boxed()).await.unwrap();
    assert_eq!(put, BlobPut::Done);
    assert_eq!(load(store, &id, None).await.unwrap(), whole);
}

/// Ranges within a part, over its border, to the end, empty; and none beyond.
pub async fn ranges_are_read(store: &dyn BlobStore) {
    let whole = bytes(20 * PART + 9);
    let id = keep(store, &whole).await;
    let end = whole.len();
    for range in
        [0..0, 0..1, 5..PART, PART - 1..PART + 1, PART..2 * PART, 3..18 * PART + 1, end - 1..end, end..end, 0..end]
    {
        let asked = range.start as u64..range.end as u64;
        assert_eq!(load(store, &id, Some(asked)).await.unwrap(), whole.slice(range.clone()), "{range:?}");
    }
    let beyond = load(store, &id, Some(0..end as u64 + 1)).await;
    assert!(matches!(beyond, Err(BlobError::Range { size_bytes, .. }) if size_bytes == end as u64), "{beyond:?}");
}

/// A blob that is not there is an answer.
pub async fn nothing_is_there_that_was_not_put(store: &dyn BlobStore) {
    let id = id_of(b"never");
    assert!(store.read(&id, None).await.unwrap().is_none());
    assert!(store.read(&id, Some(0..1)).await.unwrap().is_none());
    assert!(store.list(None, 10).await.unwrap().is_empty());
}

/// Longer, shorter, other, broken off, larger than any: nothing is kept; and the right bytes are taken afterwards.
pub async fn what_was_not_announced_is_not_kept(store: &dyn BlobStore) {
    // More than goes to a store at once, so that something has gone there when it shows.
    let whole = bytes(9 * 1024 * 1024);
    let (id, size) = (id_of(&whole), whole.len() as u64);
    let longer = [whole.clone(), Bytes::from_static(b"x")].concat();
    assert_eq!(store.put(&id, size, source_of(longer)).await.unwrap(), BlobPut::TooLong);
    let shorter = whole.slice(..whole.len() - 1);
    assert_eq!(store.put(&id, size, source_of(shorter)).await.unwrap(), BlobPut::TooShort { has_bytes: size - 1 });
    let mut other = whole.to_vec();
    other[0] ^= 1;
    assert_eq!(store.put(&id, size, source_of(other)).await.unwrap(), BlobPut::OtherDigest);
    let broken = stream::iter([Ok(whole.clone()), Err("gone".into())]).boxed();
    assert!(matches!(store.put(&id, size + 1, broken).await, Err(BlobError::Source(_))));
    let large = store.put(&id, BLOB_BYTES_MAX + 1, source_of(whole.clone())).await;
    assert!(matches!(large, Err(BlobError::TooLarge { .. })), "{large:?}");
    assert!(store.stat(&id).await.unwrap().is_none());
    assert!(store.list(None, 10).await.unwrap().is_empty());
    keep(store, &whole).await;
    assert_eq!(load(store, &id, None).await.unwrap(), whole);
}

/// A wrong second one leaves the first, and many at once end as one.
pub async fn the_same_content_is_kept_once(store: &dyn BlobStore) {
    let whole = bytes(2 * PART);
    let id = keep(store, &whole).await;
    let wrong = store.put(&id, 3, source_of("abc")).await.unwrap();
    assert_eq!(wrong, BlobPut::OtherDigest);
    let puts = (0..8).map(|_| store.put(&id, whole.len() as u64, source_of(whole.clone())));
    assert!(future::join_all(puts).await.into_iter().all(|put| put.unwrap() == BlobPut::Done));
    assert_eq!(store.list(None, 10).await.unwrap().len(), 1);
    assert_eq!(load(store, &id, None).await.unwrap(), whole);
}

/// In order, in pages, each once.
pub async fn blobs_are_listed_in_pages(store: &dyn BlobStore) {
    let mut put = Vec::new();
    for count in 0..7 {
        put.push(keep(store, &bytes(count)).await);
    }
    put.sort_unstable();
    let mut listed = Vec::new();
    while let page = store.list(listed.last(), 3).await.unwrap()
        && !page.is_empty()
    {
        assert!(page.len() <= 3);
        listed.extend(page.into_iter().map(|info| info.id));
    }
    assert_eq!(listed, put);
}

/// Removed is what is old and has no name, and can be stored again.
pub async fn what_has_no_name_is_removed_when_it_is_old(store: &dyn BlobStore) {
    let (named, other) = (keep(store, &bytes(10)).await, keep(store, &bytes(11)).await);
    let names = Names::of([named]);
    let now = store.stat(&other).await.unwrap().unwrap().stored;
    let young = store.collect(&names, now, now).await.unwrap();
    assert_eq!(young, Collected { seen: 2, ..Collected::default() }, "both are young");
    let removed = store.collect(&names, now, Timestamp::MAX).await.unwrap();
    assert_eq!(removed, Collected { seen: 2, removed: 1, removed_bytes: 11, paused: false });
    assert!(store.stat(&named).await.unwrap().is_some());
    assert!(store.stat(&other).await.unwrap().is_none());
    assert!(store.read(&other, None).await.unwrap().is_none());
    keep(store, &bytes(11)).await;
    assert_eq!(load(store, &other, None).await.unwrap(), bytes(11));
}

/// As long as one pause lasts, and no longer.
pub async fn a_pause_keeps_everything_until_it_is_over(store: &dyn BlobStore) {
    let id = keep(store, &bytes(10)).await;
    let names = Names::default();
    let at = Timestamp::from_millis;
    store.pause("backup-a", at(1_000)).await.unwrap();
    store.pause("backup-b", at(2_000)).await.unwrap();
    assert!(store.collect(&names, at(999), Timestamp::MAX).await.unwrap().paused);
    store.resume("backup-a").await.unwrap();
    store.resume("backup-a").await.unwrap();
    let paused = store.collect(&names, at(1_999), Timestamp::MAX).await.unwrap();
    assert!(paused.paused && paused.removed == 0);
    assert!(store.stat(&id).await.unwrap().is_some());
    let over = store.collect(&names, at(2_000), Timestamp::MAX).await.unwrap();
    assert!(!over.paused && over.removed == 1, "{over:?}");
}

/// Whoever is told that a blob is stored finds it, also while another removes what was there before: here everything that it
/// finds, without regard to names, until the last moment.
pub async fn what_is_stored_survives_a_removal_at_the_same_time(store: &dyn BlobStore) {
    struct NamedOnceStored<'a>(&'a Mutex<bool>);
    #[async_trait]
    impl BlobNames for NamedOnceStored<'_> {
        async fn is_named(&self, _: &BlobId) -> Result<bool, StoreError> {
            Ok(*self.0.lock().unwrap())
        }
    }
    let whole = bytes(3);
    let id = id_of(&whole);
    let mut kept = 0;
    for round in 0..200 {
        let stored = Mutex::new(false);
        let names = NamedOnceStored(&stored);
        // Old is what was stored before this round.
        let before = keep_until(store, &whole).await;
        let put = async {
            for _ in 0..round % 7 {
                tokio::task::yield_now().await;
            }
            let put = store.put(&id, 3, source_of(whole.clone())).await;
            *stored.lock().unwrap() = matches!(put, Ok(BlobPut::Done));
            put
        };
        let (put, collected) = tokio::join!(put, store.collect(&names, before, before));
        collected.unwrap();
        match put {
            Ok(BlobPut::Done) => {
                assert_eq!(load(store, &id, None).await.unwrap(), whole, "round {round}");
                kept += 1;
            }
            Ok(other) => panic!("{other:?}"),
            Err(BlobError::Unavailable { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert!(kept > 0, "no put came through");
}

/// Stores it, and answers a time after which it counts as stored anew.
async fn keep_until(store: &dyn BlobStore, bytes: &Bytes) -> Timestamp {
    let id = keep(store, bytes).await;
    let stored = store.stat(&id).await.unwrap().unwrap().stored;
    Timestamp::from_micros(stored.as_micros() + 1)
}
