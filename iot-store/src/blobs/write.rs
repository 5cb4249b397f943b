use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use iot_core::store::{BlobError, BlobId, BlobPut, BlobSource};
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload, path::Path};

use super::{
    BLOB_BYTES_MAX, Blobs, CONDEMNED, CONDEMNED_FOR, DATA, PART_BYTES, PARTS, id, modified, parts::Parts, path,
};

/// What goes to the store at once: above the least that every cloud takes as a part, 5 MiB; a smaller blob goes in one piece.
const WRITE_BYTES: usize = 8 * 1024 * 1024;
/// For how long a removal that is under way is waited for.
const LOOKS_MAX: u32 = 100;
const LOOK_AGAIN: Duration = Duration::from_millis(50);

pub(super) async fn put(
    blobs: &Blobs,
    id: &BlobId,
    size_bytes: u64,
    mut bytes: BlobSource,
) -> Result<BlobPut, BlobError> {
    if size_bytes > BLOB_BYTES_MAX {
        return Err(BlobError::TooLarge { bytes: size_bytes, bytes_max: BLOB_BYTES_MAX });
    }
    let mut examiner = Examiner::of(*id, size_bytes);
    let mut upload = Upload { blobs, to: path(DATA, id), begun: None, waiting: BytesMut::new() };
    let answer = take_in(&mut upload, &mut examiner, &mut bytes).await;
    if !matches!(answer, Ok(BlobPut::Done)) {
        upload.abort().await;
        return answer;
    }
    upload.end().await?;
    let parts = PutPayload::from(examiner.parts().write());
    blobs.objects.put(&path(PARTS, id), parts).await.map_err(|error| blobs.failed(error))?;
    survived(blobs, id).await?;
    Ok(BlobPut::Done)
}

async fn take_in(
    upload: &mut Upload<'_>,
    examiner: &mut Examiner,
    bytes: &mut BlobSource,
) -> Result<BlobPut, BlobError> {
    while let Some(bytes) = bytes.next().await {
        let bytes = bytes.map_err(BlobError::Source)?;
        if !examiner.take(&bytes) {
            return Ok(BlobPut::TooLong);
        }
        upload.take(&bytes).await?;
    }
    Ok(examiner.end())
}

/// A removal that has begun before the parts were written may have taken the bytes along. Its mark was written before it
/// looked at the age, and we look at the mark after we have written: one of both sees the other.
async fn survived(blobs: &Blobs, id: &BlobId) -> Result<(), BlobError> {
    let gone = |what: &str| BlobError::Unavailable { backend: blobs.backend, source: what.into() };
    let mut looks = 0;
    while condemned(blobs, id).await? {
        looks += 1;
        if looks == LOOKS_MAX {
            return Err(gone("the blob is being removed; store it again later"));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    if blobs.head(&path(DATA, id)).await?.is_some() && blobs.head(&path(PARTS, id)).await?.is_some() {
        return Ok(());
    }
    blobs.delete(&path(PARTS, id)).await?;
    Err(gone("the blob was removed while it was stored; store it again"))
}

async fn condemned(blobs: &Blobs, id: &BlobId) -> Result<bool, BlobError> {
    let Some(mark) = blobs.head(&path(CONDEMNED, id)).await? else { return Ok(false) };
    // By one clock, the store's.
    let now = blobs.head(&path(PARTS, id)).await?.map(|parts| modified(&parts));
    Ok(now.is_none_or(|now| now.since(modified(&mark)) < CONDEMNED_FOR))
}

/// Passes bytes on in pieces that a store takes.
struct Upload<'a> {
    blobs: &'a Blobs,
    to: Path,
    begun: Option<Box<dyn MultipartUpload>>,
    waiting: BytesMut,
}

impl Upload<'_> {
    async fn take(&mut self, bytes: &Bytes) -> Result<(), BlobError> {
        self.waiting.extend_from_slice(bytes);
        while self.waiting.len() >= WRITE_BYTES {
            let piece = self.waiting.split_to(WRITE_BYTES).freeze();
            self.pass_on(piece).await.map_err(|error| self.blobs.failed(error))?;
        }
        Ok(())
    }

    async fn pass_on(&mut self, piece: Bytes) -> Result<(), object_store::Error> {
        if self.begun.is_none() {
            self.begun = Some(self.blobs.objects.put_multipart(&self.to).await?);
        }
        match &mut self.begun {
            Some(begun) => begun.put_part(piece.into()).await,
            None => Ok(()),
        }
    }

    async fn end(mut self) -> Result<(), BlobError> {
        let ended = self.complete().await.map_err(|error| self.blobs.failed(error));
        if ended.is_err() {
            self.abort().await;
        }
        ended
    }

    async fn complete(&mut self) -> Result<(), object_store::Error> {
        let last = std::mem::take(&mut self.waiting).freeze();
        if self.begun.is_none() {
            return self.blobs.objects.put(&self.to, last.into()).await.map(drop);
        }
        if !last.is_empty() {
            self.pass_on(last).await?;
        }
        match &mut self.begun {
            Some(begun) => begun.complete().await.map(drop),
            None => Ok(()),
        }
    }

    /// What cannot be removed now is removed by the next collection, or by the cloud's own rules.
    async fn abort(mut self) {
        if let Some(mut begun) = self.begun.take() {
            let _left = begun.abort().await;
        }
    }
}

/// Compares what comes with what was announced.
struct Examiner {
    id: BlobId,
    size_bytes: u64,
    seen: u64,
    whole: Context,
    part: Context,
    part_seen: usize,
    digests: Vec<[u8; 32]>,
}

impl Examiner {
    fn of(id: BlobId, size_bytes: u64) -> Self {
        let fresh = || Context::new(&SHA256);
        Self { id, size_bytes, seen: 0, whole: fresh(), part: fresh(), part_seen: 0, digests: Vec::new() }
    }

    /// Whether there are no more than were announced.
    fn take(&mut self, mut bytes: &[u8]) -> bool {
        self.seen = self.seen.saturating_add(bytes.len() as u64);
        if self.seen > self.size_bytes {
            return false;
        }
        self.whole.update(bytes);
        while !bytes.is_empty() {
            let room = PART_BYTES as usize - self.part_seen;
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            self.part.update(now);
            self.part_seen += now.len();
            bytes = rest;
            if self.part_seen == PART_BYTES as usize {
                self.end_part();
            }
        }
        true
    }

    fn end_part(&mut self) {
        let digest = std::mem::replace(&mut self.part, Context::new(&SHA256)).finish();
        self.digests.push(*id(&digest).as_bytes());
        self.part_seen = 0;
    }

    fn end(&mut self) -> BlobPut {
        if self.seen < self.size_bytes {
            return BlobPut::TooShort { has_bytes: self.seen };
        }
        if self.part_seen > 0 {
            self.end_part();
        }
        match id(&self.whole.clone().finish()) == self.id {
            true => BlobPut::Done,
            false => BlobPut::OtherDigest,
        }
    }

    fn parts(self) -> Parts {
        Parts::of(self.size_bytes, self.digests)
    }
}
