//! Blobs over any object store: a folder, memory, or a cloud's.
//!
//! ```text
//! data/<id>        the bytes
//! parts/<id>       their length and a SHA-256 per part of 256 KiB; written last: without it the blob is not there
//! condemned/<id>   is being removed
//! pauses/<by>      until when nothing is removed
//! ```
//!
//! Bytes are verified when they come and when they go: a range against the digests of its parts, a whole blob against its
//! name too. The digests of parts guard against decay and mistakes; against somebody who writes to the store's place only
//! the name does.
//!
//! In a folder, what [`put`](BlobStore::put) has returned is on disk: the file, then its name, are synced. The store must be
//! strongly consistent, as folders of one machine and the clouds' stores are; several processes may use it at once.
//!
//! ```
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use iot_core::store::{BlobPut, BlobStore};
//! use iot_store::blobs::{Blobs, id_of, source_of};
//!
//! let blobs = Blobs::memory();
//! let id = id_of(b"an image");
//! assert_eq!(blobs.put(&id, 8, source_of("an image")).await?, BlobPut::Done);
//! assert!(blobs.stat(&id).await?.is_some());
//! # Ok(())
//! # }
//! # tokio::runtime::Runtime::new().unwrap().block_on(run()).unwrap();
//! ```

mod collect;
mod fault;
mod parts;
mod read;
mod write;

use std::{
    fmt, fs, io,
    ops::Range,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use iot_core::{
    store::{BlobError, BlobId, BlobInfo, BlobNames, BlobPut, BlobSource, BlobStore, BlobStream, Collected},
    time::Timestamp,
};
use object_store::{
    ObjectMeta, ObjectStore, ObjectStoreExt, PutPayload, local::LocalFileSystem, memory::InMemory, path::Path,
};

use self::parts::Parts;

/// The largest blob, in bytes.
pub const BLOB_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;
/// The length of a part, in bytes: what is read to verify one byte.
pub const PART_BYTES: u32 = 256 * 1024;
/// After so long a mark of a removal is one that was broken off.
pub const CONDEMNED_FOR: Duration = Duration::from_secs(600);

/// A [`BlobStore`] over an object store. Cheap to clone. Needs a tokio runtime.
#[derive(Clone)]
pub struct Blobs {
    objects: Arc<dyn ObjectStore>,
    backend: &'static str,
    folder: Option<PathBuf>,
}

impl Blobs {
    /// In a folder of this machine, which is made if it is not there.
    pub fn local(folder: &FilePath) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let folder = folder.canonicalize()?;
        if let Some(parent) = folder.parent() {
            fs::File::open(parent)?.sync_all()?;
        }
        let objects = LocalFileSystem::new_with_prefix(&folder).map_err(io::Error::other)?.with_fsync(true);
        Ok(Self { objects: Arc::new(objects), backend: "folder", folder: Some(folder) })
    }

    /// In memory, gone at the end.
    pub fn memory() -> Self {
        Self::over(Arc::new(InMemory::new()), "memory")
    }

    /// In any object store. `backend` is what errors call it. It must be strongly consistent, and durable when it says so.
    pub fn over(objects: Arc<dyn ObjectStore>, backend: &'static str) -> Self {
        Self { objects, backend, folder: None }
    }

    /// In a cloud: `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or `az://CONTAINER/PREFIX`, with the options that
    /// `object_store` knows, such as `aws_region`. Nothing is read from the environment.
    #[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
    pub fn cloud(
        url: &url::Url,
        options: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let backend = match url.scheme() {
            "s3" | "s3a" => "s3",
            "gs" => "gcs",
            "az" | "azure" | "abfs" | "abfss" => "azure",
            other => return Err(format!("{other}: is not s3:, gs: or az:").into()),
        };
        let (objects, prefix) = object_store::parse_url_opts(url, options)?;
        Ok(Self::over(Arc::new(object_store::prefix::PrefixStore::new(objects, prefix)), backend))
    }

    fn failed(&self, error: object_store::Error) -> BlobError {
        fault::of(self.backend, error)
    }

    fn damaged(&self, id: &BlobId, what: impl Into<String>) -> BlobError {
        BlobError::Damaged { backend: self.backend, id: *id, what: what.into() }
    }

    /// What there is at a path; `None` if nothing is.
    async fn head(&self, path: &Path) -> Result<Option<ObjectMeta>, BlobError> {
        match self.objects.head(path).await {
            Ok(meta) => Ok(Some(meta)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed(error)),
        }
    }

    async fn delete(&self, path: &Path) -> Result<(), BlobError> {
        match self.objects.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed(error)),
        }
    }

    async fn bytes(&self, path: &Path) -> Result<Option<(ObjectMeta, Bytes)>, BlobError> {
        let found = match self.objects.get(path).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(self.failed(error)),
        };
        let meta = found.meta.clone();
        Ok(Some((meta, found.bytes().await.map_err(|error| self.failed(error))?)))
    }

    async fn parts(&self, id: &BlobId) -> Result<Option<(ObjectMeta, Parts)>, BlobError> {
        let Some((meta, bytes)) = self.bytes(&path(PARTS, id)).await? else { return Ok(None) };
        let parts = Parts::read(&bytes).ok_or_else(|| self.damaged(id, "its list of parts is not whole"))?;
        Ok(Some((meta, parts)))
    }

    /// Everything below a folder, in no order.
    async fn listed(&self, folder: &str) -> Result<Vec<(BlobId, ObjectMeta)>, BlobError> {
        let id_of = |meta: ObjectMeta| Some((BlobId::parse(meta.location.filename()?)?, meta));
        let found = self.objects.list(Some(&Path::from(folder))).map_err(|error| self.failed(error));
        found.try_filter_map(|meta| std::future::ready(Ok(id_of(meta)))).try_collect().await
    }
}

const DATA: &str = "data";
const PARTS: &str = "parts";
const CONDEMNED: &str = "condemned";
const PAUSES: &str = "pauses";

fn path(folder: &str, id: &BlobId) -> Path {
    Path::from_iter([folder, &id.to_string()])
}

fn modified(meta: &ObjectMeta) -> Timestamp {
    Timestamp::from_micros(meta.last_modified.timestamp_micros())
}

#[async_trait]
impl BlobStore for Blobs {
    async fn put(&self, id: &BlobId, size_bytes: u64, bytes: BlobSource) -> Result<BlobPut, BlobError> {
        write::put(self, id, size_bytes, bytes).await
    }

    async fn stat(&self, id: &BlobId) -> Result<Option<BlobInfo>, BlobError> {
        let Some((meta, parts)) = self.parts(id).await? else { return Ok(None) };
        match self.head(&path(DATA, id)).await? {
            Some(data) if data.size == parts.size_bytes => {}
            Some(data) => return Err(self.damaged(id, format!("it has {} bytes of {}", data.size, parts.size_bytes))),
            None => return Err(self.damaged(id, "its bytes are missing")),
        }
        Ok(Some(BlobInfo { id: *id, size_bytes: parts.size_bytes, stored: modified(&meta) }))
    }

    async fn read(&self, id: &BlobId, range: Option<Range<u64>>) -> Result<Option<BlobStream>, BlobError> {
        read::read(self, id, range).await
    }

    async fn list(&self, after: Option<&BlobId>, limit: u32) -> Result<Vec<BlobInfo>, BlobError> {
        let mut found = self.listed(PARTS).await?;
        found.retain(|(id, _)| after.is_none_or(|after| id > after));
        found.sort_unstable_by_key(|(id, _)| *id);
        found.truncate(limit as usize);
        let mut infos = Vec::with_capacity(found.len());
        for (id, _) in found {
            // One that was removed meanwhile is left out.
            if let Some((meta, parts)) = self.parts(&id).await? {
                infos.push(BlobInfo { id, size_bytes: parts.size_bytes, stored: modified(&meta) });
            }
        }
        Ok(infos)
    }

    async fn collect(&self, names: &dyn BlobNames, now: Timestamp, before: Timestamp) -> Result<Collected, BlobError> {
        collect::collect(self, names, now, before).await
    }

    async fn pause(&self, by: &str, until: Timestamp) -> Result<(), BlobError> {
        let until = PutPayload::from(until.as_micros().to_string());
        let put = self.objects.put(&Path::from_iter([PAUSES, by]), until).await;
        put.map(drop).map_err(|error| self.failed(error))
    }

    async fn resume(&self, by: &str) -> Result<(), BlobError> {
        self.delete(&Path::from_iter([PAUSES, by])).await
    }
}

impl fmt::Debug for Blobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blobs").field("backend", &self.backend).finish_non_exhaustive()
    }
}

/// The id of bytes that are in memory.
pub fn id_of(bytes: &[u8]) -> BlobId {
    id(&digest(&SHA256, bytes))
}

/// Bytes that are in memory, for [`BlobStore::put`].
pub fn source_of(bytes: impl Into<Bytes>) -> BlobSource {
    futures_util::stream::iter([Ok(bytes.into())]).boxed()
}

fn id(digest: &aws_lc_rs::digest::Digest) -> BlobId {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    BlobId::new(bytes)
}
