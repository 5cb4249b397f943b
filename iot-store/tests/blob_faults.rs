//! Blobs over a store that fails at its n-th call, before or after it was carried out, for every n until the way is over: what
//! was acknowledged is there, what was not is not half there, and storing again mends it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use async_trait::async_trait;
use futures_util::{StreamExt, stream::BoxStream};
use iot_core::{
    store::{BlobError, BlobId, BlobPut, BlobStore},
    time::Timestamp,
};
use iot_store::{
    blobs::{Blobs, id_of, source_of},
    conformance::blob::{Names, bytes, keep, load},
};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart, memory::InMemory, path::Path,
};

/// How the n-th call fails.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// Nothing was done: the disk is full.
    Before,
    /// It was done, and the answer was lost.
    After,
}

#[derive(Debug)]
struct Plan {
    fault: Fault,
    left: AtomicU32,
}

impl Plan {
    fn fails(&self, when: Fault) -> Result<()> {
        let now = when == self.fault && self.left.fetch_sub(1, Ordering::Relaxed) == 1;
        if !now {
            return Ok(());
        }
        let source: Box<dyn std::error::Error + Send + Sync> = match when {
            Fault::Before => Box::new(io::Error::from(io::ErrorKind::StorageFull)),
            Fault::After => "connection reset".into(),
        };
        Err(Error::Generic { store: "test", source })
    }
}

#[derive(Debug, Clone)]
struct Faulty {
    inner: Arc<InMemory>,
    plan: Arc<Plan>,
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, to: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.plan.fails(Fault::Before)?;
        let put = self.inner.put_opts(to, payload, options).await?;
        self.plan.fails(Fault::After).map(|()| put)
    }

    async fn put_multipart_opts(&self, to: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.plan.fails(Fault::Before)?;
        let inner = self.inner.put_multipart_opts(to, options).await?;
        Ok(Box::new(FaultyUpload { inner, plan: self.plan.clone() }))
    }

    async fn get_opts(&self, from: &Path, options: GetOptions) -> Result<GetResult> {
        self.plan.fails(Fault::Before)?;
        self.inner.get_opts(from, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let of = self.clone();
        paths
            .then(move |path| {
                let of = of.clone();
                async move {
                    let path = path?;
                    of.plan.fails(Fault::Before)?;
                    let mut deleted = of.inner.delete_stream(futures_util::stream::iter([Ok(path.clone())]).boxed());
                    while let Some(one) = deleted.next().await {
                        one?;
                    }
                    of.plan.fails(Fault::After).map(|()| path)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.plan.fails(Fault::Before) {
            Ok(()) => self.inner.list(prefix),
            Err(error) => futures_util::stream::iter([Err(error)]).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    plan: Arc<Plan>,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        match self.plan.fails(Fault::Before) {
            Ok(()) => self.inner.put_part(data),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.plan.fails(Fault::Before)?;
        let put = self.inner.complete().await?;
        self.plan.fails(Fault::After).map(|()| put)
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

struct Site {
    sound: Blobs,
    inner: Arc<InMemory>,
}

impl Site {
    fn new() -> Self {
        let inner = Arc::new(InMemory::new());
        Self { sound: Blobs::over(inner.clone(), "test"), inner }
    }

    fn failing(&self, fault: Fault, at: u32) -> Blobs {
        let plan = Arc::new(Plan { fault, left: AtomicU32::new(at) });
        Blobs::over(Arc::new(Faulty { inner: self.inner.clone(), plan }), "test")
    }

    async fn objects(&self) -> usize {
        self.inner.list(None).count().await
    }
}

/// A blob is whole or not there; never an error that only an operator could mend.
async fn whole_or_absent(blobs: &Blobs, id: &BlobId, whole: &bytes::Bytes) -> bool {
    match blobs.stat(id).await.unwrap() {
        Some(_) => {
            assert_eq!(load(blobs, id, None).await.unwrap(), whole);
            true
        }
        None => false,
    }
}

#[tokio::test]
async fn a_write_that_fails_anywhere_is_told_and_is_mended_by_another() {
    for size in [1_000, 17 * 1024 * 1024] {
        let whole = bytes(size);
        let id = id_of(&whole);
        for fault in [Fault::Before, Fault::After] {
            let mut faults = 0;
            for at in 1.. {
                let site = Site::new();
                let put = site.failing(fault, at).put(&id, size as u64, source_of(whole.clone())).await;
                match (put, fault) {
                    (Ok(BlobPut::Done), _) => {
                        assert!(whole_or_absent(&site.sound, &id, &whole).await);
                        break;
                    }
                    (Err(BlobError::Full { .. }), Fault::Before)
                    | (Err(BlobError::Unavailable { .. }), Fault::After) => {}
                    other => panic!("{other:?}"),
                }
                faults += 1;
                whole_or_absent(&site.sound, &id, &whole).await;
                // What it left is no more than a later collection takes away.
                let now = Timestamp::EPOCH;
                site.sound.collect(&Names::default(), now, Timestamp::MAX).await.unwrap();
                assert_eq!(site.objects().await, 0, "call {at}");
                keep(&site.sound, &whole).await;
                assert!(whole_or_absent(&site.sound, &id, &whole).await);
            }
            assert!(faults >= 2, "only {faults} faults");
        }
    }
}

/// And does no harm to a copy that was there, of which a record has the name.
#[tokio::test]
async fn a_write_that_fails_leaves_what_was_there() {
    let whole = bytes(1_000);
    for fault in [Fault::Before, Fault::After] {
        for at in 1.. {
            let site = Site::new();
            let id = keep(&site.sound, &whole).await;
            let done = site.failing(fault, at).put(&id, 1_000, source_of(whole.clone())).await.is_ok();
            assert!(whole_or_absent(&site.sound, &id, &whole).await, "call {at}");
            if done {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_collection_that_fails_anywhere_takes_nothing_that_has_a_name() {
    let (named, other) = (bytes(1_000), bytes(2_000));
    for fault in [Fault::Before, Fault::After] {
        let mut faults = 0;
        for at in 1.. {
            let site = Site::new();
            let (kept, gone) = (keep(&site.sound, &named).await, keep(&site.sound, &other).await);
            let names = Names::of([kept]);
            let collected = site.failing(fault, at).collect(&names, Timestamp::EPOCH, Timestamp::MAX).await;
            assert!(whole_or_absent(&site.sound, &kept, &named).await);
            whole_or_absent(&site.sound, &gone, &other).await;
            if collected.is_ok() {
                assert!(site.sound.stat(&gone).await.unwrap().is_none());
                break;
            }
            faults += 1;
            // A mark that is left keeps another collection away for ten minutes, by the store's clock.
            let later = site.sound.stat(&kept).await.unwrap().unwrap().stored.plus(iot_store::blobs::CONDEMNED_FOR * 2);
            site.sound.collect(&names, later, Timestamp::MAX).await.unwrap();
            assert_eq!(site.objects().await, 2, "call {at}: the parts and the bytes of the named one");
        }
        assert!(faults >= 3, "only {faults} faults");
    }
}
