//! Images on their way in.

use std::sync::{Arc, Mutex};

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use iot_core::{
    access::Principal,
    id::ReleaseId,
    logic::BoxError,
    store::{Batch, BlobError, BlobPut, BlobSource, Document, MetaStoreExt, Step, Stored},
};

use crate::release::Image;

use super::{
    Ota, OtaError, lock,
    records::{ReleaseRecord, ReleaseState},
};

/// The answer to an image.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uploaded {
    /// It is what the manifest says, and is kept: the release is ready.
    Done(Box<ReleaseRecord>),
    /// It is not what the manifest says. Nothing is kept.
    Wrong(WrongImage),
    /// The release has its image already. It is not read again.
    AlreadyThere(Box<ReleaseRecord>),
    /// There is no such release, or it was withdrawn.
    NoSuchRelease,
}

/// How an image differs from its manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WrongImage {
    /// It has more bytes.
    #[error("the image has more than the {0} bytes of its manifest")]
    TooLong(u64),
    /// It has fewer bytes.
    #[error("the image has {has} bytes, and its manifest says {wants}")]
    TooShort {
        /// What came.
        has: u64,
        /// What was signed.
        wants: u64,
    },
    /// This chunk, counted from 0, has another hash.
    #[error("chunk {0} of the image does not have the hash of its manifest")]
    Chunk(usize),
    /// Every chunk is right and the whole is not: the manifest contradicts itself.
    #[error("the image does not have the hash of its manifest")]
    Hash,
}

/// The image could not be taken in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UploadError {
    /// The sender broke off. Nothing is kept; send it again.
    #[error("the image broke off")]
    Broken(#[source] BoxError),
    /// Ours.
    #[error(transparent)]
    Ota(#[from] OtaError),
}

impl Ota {
    /// Takes an image in, from its first byte: hashed chunk by chunk against the signed manifest as it comes, refused at the first
    /// byte that cannot be right, and visible to nobody before all of it is. Two that come at once both end well.
    pub async fn upload(
        &self,
        by: &Principal,
        id: &ReleaseId,
        bytes: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
    ) -> Result<Uploaded, UploadError> {
        let read = self.meta.find::<ReleaseRecord>(&ReleaseRecord::key_of(&by.tenant, id)).await;
        let Some(Stored { document: release, .. }) = read.map_err(OtaError::from)? else {
            return Ok(Uploaded::NoSuchRelease);
        };
        match release.state {
            ReleaseState::Withdrawn => return Ok(Uploaded::NoSuchRelease),
            ReleaseState::Ready => return Ok(Uploaded::AlreadyThere(Box::new(release))),
            ReleaseState::Uploading => {}
        }
        let image = self.manifest(&release).await?.image;
        let (examined, wrong) = examine(Examiner::of(image), bytes);
        let put = self.blobs.put(&release.image(), release.size_bytes, examined).await;
        let found = lock(&wrong).take();
        match (found, put) {
            (Some(wrong), _) => {
                let entry = self.done(by, "release_upload", &release.key());
                self.refused(entry, "image_mismatch").await?;
                Ok(Uploaded::Wrong(wrong))
            }
            (None, Ok(BlobPut::Done)) => Ok(self.uploaded(by, id).await?),
            // The examiner is stricter than the store.
            (None, Ok(other)) => Err(OtaError::Damaged(format!("an image that was examined: {other:?}")).into()),
            (None, Err(BlobError::Source(broken))) => Err(UploadError::Broken(broken)),
            (None, Err(error)) => Err(OtaError::from(error).into()),
        }
    }

    async fn uploaded(&self, by: &Principal, id: &ReleaseId) -> Result<Uploaded, OtaError> {
        self.settle(|| async {
            let Some(read) = self.meta.find::<ReleaseRecord>(&ReleaseRecord::key_of(&by.tenant, id)).await? else {
                return Ok(Step::Answer(Uploaded::NoSuchRelease));
            };
            if read.document.state != ReleaseState::Uploading {
                return Ok(Step::Answer(Uploaded::AlreadyThere(Box::new(read.document))));
            }
            let ready = ReleaseRecord { state: ReleaseState::Ready, ..read.document.clone() };
            let batch = Batch::default().replace(&read, &ready);
            let batch = batch.audited(self.done(by, "release_upload", &ready.key()));
            Ok(Step::Commit(batch, Uploaded::Done(Box::new(ready))))
        })
        .await
    }
}

/// The image as long as it is right. At the first byte that cannot be it breaks off, and why is left beside it.
fn examine(
    examiner: Examiner,
    image: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
) -> (BlobSource, Arc<Mutex<Option<WrongImage>>>) {
    let wrong = Arc::new(Mutex::new(None));
    let found = wrong.clone();
    let broken = move |why: WrongImage| {
        *lock(&found) = Some(why);
        Some((Err(BoxError::from(why)), None))
    };
    let examined = stream::unfold(Some((Box::pin(image), examiner)), move |state| {
        let broken = broken.clone();
        async move {
            let (mut image, mut examiner) = state?;
            match image.next().await {
                Some(Ok(bytes)) => match examiner.take(&bytes) {
                    Ok(()) => Some((Ok(bytes), Some((image, examiner)))),
                    Err(why) => broken(why),
                },
                Some(Err(error)) => Some((Err(error), None)),
                None => examiner.end().err().and_then(broken),
            }
        }
    });
    (examined.boxed(), wrong)
}

/// Compares what comes with what was signed.
struct Examiner {
    image: Image,
    seen: u64,
    whole: Context,
    chunk: Context,
    chunk_seen: u64,
    chunk_number: usize,
}

impl Examiner {
    fn of(image: Image) -> Self {
        let fresh = || Context::new(&SHA256);
        Self { image, seen: 0, whole: fresh(), chunk: fresh(), chunk_seen: 0, chunk_number: 0 }
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), WrongImage> {
        self.seen += bytes.len() as u64;
        if self.seen > self.image.size_bytes {
            return Err(WrongImage::TooLong(self.image.size_bytes));
        }
        let chunk_bytes = u64::from(self.image.chunk_bytes);
        self.whole.update(bytes);
        while !bytes.is_empty() {
            let room = usize::try_from(chunk_bytes - self.chunk_seen).unwrap_or(usize::MAX);
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            self.chunk.update(now);
            self.chunk_seen += now.len() as u64;
            bytes = rest;
            if self.chunk_seen == chunk_bytes {
                self.end_chunk()?;
            }
        }
        Ok(())
    }

    fn end_chunk(&mut self) -> Result<(), WrongImage> {
        let hash = std::mem::replace(&mut self.chunk, Context::new(&SHA256)).finish();
        let number = self.chunk_number;
        if self.image.chunks.get(number).is_none_or(|chunk| chunk.as_bytes() != hash.as_ref()) {
            return Err(WrongImage::Chunk(number));
        }
        self.chunk_number += 1;
        self.chunk_seen = 0;
        Ok(())
    }

    fn end(mut self) -> Result<(), WrongImage> {
        if self.seen < self.image.size_bytes {
            return Err(WrongImage::TooShort { has: self.seen, wants: self.image.size_bytes });
        }
        if self.chunk_seen > 0 {
            self.end_chunk()?;
        }
        match self.whole.finish().as_ref() == self.image.sha256.as_bytes() {
            true => Ok(()),
            false => Err(WrongImage::Hash),
        }
    }
}
