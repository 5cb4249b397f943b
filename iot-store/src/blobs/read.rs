use std::ops::Range;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use iot_core::store::{BlobError, BlobId, BlobStream};
use object_store::{ObjectStoreExt, path::Path};

use super::{Blobs, DATA, id, parts::Parts, path};

/// How many parts are asked for at once: what is held in memory per reader.
const PARTS_AT_ONCE: u64 = 16;

pub(super) async fn read(
    blobs: &Blobs,
    id: &BlobId,
    range: Option<Range<u64>>,
) -> Result<Option<BlobStream>, BlobError> {
    let Some((_, parts)) = blobs.parts(id).await? else { return Ok(None) };
    let whole = range.is_none().then(|| Context::new(&SHA256));
    let range = range.unwrap_or(0..parts.size_bytes);
    if range.start > range.end || range.end > parts.size_bytes {
        return Err(BlobError::Range { id: *id, range, size_bytes: parts.size_bytes });
    }
    let left = if range.is_empty() { 0..0 } else { parts.touched(&range) };
    let (blobs, from) = (blobs.clone(), path(DATA, id));
    let reading = Reading { blobs, id: *id, from, parts, range, left, whole, begun: false };
    Ok(Some(stream::unfold(Some(reading), next).boxed()))
}

struct Reading {
    blobs: Blobs,
    id: BlobId,
    from: Path,
    parts: Parts,
    range: Range<u64>,
    left: Range<u64>,
    whole: Option<Context>,
    begun: bool,
}

/// The stream ends after an error.
async fn next(reading: Option<Reading>) -> Option<(Result<Bytes, BlobError>, Option<Reading>)> {
    let mut reading = reading?;
    match reading.step().await {
        Ok(Some(bytes)) => Some((Ok(bytes), Some(reading))),
        Ok(None) => None,
        Err(error) => Some((Err(error), None)),
    }
}

impl Reading {
    async fn step(&mut self) -> Result<Option<Bytes>, BlobError> {
        if self.left.is_empty() {
            // A blob without bytes has no part that would be compared.
            return if std::mem::replace(&mut self.begun, true) { Ok(None) } else { self.compare().map(|()| None) };
        }
        self.begun = true;
        let now = self.left.start..self.left.end.min(self.left.start + PARTS_AT_ONCE);
        let span = self.parts.span(&now);
        let bytes = match self.blobs.objects.get_range(&self.from, span.clone()).await {
            Ok(bytes) => bytes,
            Err(error) => return Err(self.unreadable(error).await),
        };
        if bytes.len() as u64 != span.end - span.start {
            return Err(self.damaged("it ends too early"));
        }
        if let Some(part) = self.parts.wrong(now.start, &bytes) {
            return Err(self.damaged(format!("part {part} has another digest")));
        }
        self.left.start = now.end;
        if let Some(whole) = &mut self.whole {
            whole.update(&bytes);
        }
        if self.left.is_empty() {
            self.compare()?;
        }
        let cut = |at: u64| usize::try_from(at.saturating_sub(span.start)).unwrap_or(usize::MAX).min(bytes.len());
        Ok(Some(bytes.slice(cut(self.range.start)..cut(self.range.end))))
    }

    fn compare(&self) -> Result<(), BlobError> {
        match &self.whole {
            Some(whole) if id(&whole.clone().finish()) != self.id => Err(self.damaged("it has another digest")),
            _ => Ok(()),
        }
    }

    /// A file that has become shorter is told as a range that is not there, by words that differ from store to store.
    async fn unreadable(&self, error: object_store::Error) -> BlobError {
        if matches!(error, object_store::Error::NotFound { .. }) {
            return self.damaged("its bytes are missing");
        }
        match self.blobs.head(&self.from).await {
            Ok(Some(data)) if data.size < self.parts.size_bytes => {
                self.damaged(format!("it has {} bytes of {}", data.size, self.parts.size_bytes))
            }
            _ => self.blobs.failed(error),
        }
    }

    fn damaged(&self, what: impl Into<String>) -> BlobError {
        self.blobs.damaged(&self.id, what)
    }
}
