use std::{
    io::{self, Read},
    ops::Range,
};

use serde::{Deserialize, Serialize};

use super::{
    Refused,
    digest::{Digest, Hasher},
};

/// The largest image, in bytes.
pub const IMAGE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// The smallest chunk, in bytes. Only the last one may be shorter.
pub const CHUNK_BYTES_MIN: u32 = 1024;
/// The largest chunk, in bytes: what a device holds in memory at once.
pub const CHUNK_BYTES_MAX: u32 = 1024 * 1024;
/// The most chunks, so that a signed release fits into one MQTT packet of 256 KiB.
pub const CHUNKS_MAX: u32 = 2048;

/// What a device loads: bytes in chunks of one size, the last one shorter or equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Image {
    /// Its length, in bytes.
    pub size_bytes: u64,
    /// Of all of it.
    pub sha256: Digest,
    /// The length of every chunk but the last, in bytes.
    pub chunk_bytes: u32,
    /// Of each chunk, in order.
    pub chunks: Vec<Digest>,
}

impl Image {
    /// Describes `bytes`.
    pub fn of(bytes: &[u8], chunk_bytes: u32) -> Result<Self, NotAnImage> {
        let mut measure = Measure::new(chunk_bytes)?;
        measure.update(bytes)?;
        measure.finish()
    }

    /// Where a chunk lies in the image, in bytes; `None` beyond the last.
    pub fn range(&self, chunk: u32) -> Option<Range<u64>> {
        let start = u64::from(chunk).checked_mul(u64::from(self.chunk_bytes))?;
        (start < self.size_bytes).then(|| start..self.size_bytes.min(start + u64::from(self.chunk_bytes)))
    }

    /// How many chunks there are.
    pub fn count(&self) -> u32 {
        u32::try_from(self.chunks.len()).unwrap_or(u32::MAX)
    }

    /// Whether the numbers agree with each other and keep the bounds.
    pub(super) fn check(&self) -> Result<(), Refused> {
        if self.size_bytes > IMAGE_BYTES_MAX {
            return Err(Refused::ImageTooLarge { bytes: self.size_bytes, bytes_max: IMAGE_BYTES_MAX });
        }
        if !(CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&self.chunk_bytes) {
            return Err(Refused::Manifest("the chunk size is out of its bounds"));
        }
        let count = self.size_bytes.div_ceil(u64::from(self.chunk_bytes));
        if count == 0 || count > u64::from(CHUNKS_MAX) || count != self.chunks.len() as u64 {
            return Err(Refused::Manifest("the number of chunks does not fit the size"));
        }
        Ok(())
    }
}

/// The bytes cannot be described as an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotAnImage {
    /// There are none.
    #[error("the image is empty")]
    Empty,
    /// There are more than [`IMAGE_BYTES_MAX`].
    #[error("the image is larger than {IMAGE_BYTES_MAX} bytes")]
    TooLarge,
    /// The chunk size is out of bounds.
    #[error("the chunk size must be {CHUNK_BYTES_MIN} to {CHUNK_BYTES_MAX} bytes")]
    ChunkSize,
    /// There are more chunks than [`CHUNKS_MAX`].
    #[error("the image has more than {CHUNKS_MAX} chunks; use larger chunks")]
    TooManyChunks,
}

/// Describes an image that comes piece by piece, however it is cut.
#[derive(Debug, Clone)]
pub struct Measure {
    chunk_bytes: u32,
    size_bytes: u64,
    whole: Hasher,
    chunk: Hasher,
    chunks: Vec<Digest>,
}

impl Measure {
    /// In chunks of `chunk_bytes`.
    pub fn new(chunk_bytes: u32) -> Result<Self, NotAnImage> {
        if !(CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&chunk_bytes) {
            return Err(NotAnImage::ChunkSize);
        }
        Ok(Self { chunk_bytes, size_bytes: 0, whole: Hasher::new(), chunk: Hasher::new(), chunks: Vec::new() })
    }

    /// The next piece. Stops at the first byte too many.
    pub fn update(&mut self, mut piece: &[u8]) -> Result<(), NotAnImage> {
        if self.size_bytes + piece.len() as u64 > IMAGE_BYTES_MAX {
            return Err(NotAnImage::TooLarge);
        }
        self.whole.update(piece);
        while !piece.is_empty() {
            let room = u64::from(self.chunk_bytes) - self.size_bytes % u64::from(self.chunk_bytes);
            let taken = piece.len().min(usize::try_from(room).unwrap_or(usize::MAX));
            self.chunk.update(&piece[..taken]);
            self.size_bytes += taken as u64;
            piece = &piece[taken..];
            if self.size_bytes.is_multiple_of(u64::from(self.chunk_bytes)) {
                self.end_chunk()?;
            }
        }
        Ok(())
    }

    /// The description.
    pub fn finish(mut self) -> Result<Image, NotAnImage> {
        if self.size_bytes == 0 {
            return Err(NotAnImage::Empty);
        }
        if !self.size_bytes.is_multiple_of(u64::from(self.chunk_bytes)) {
            self.end_chunk()?;
        }
        let Self { chunk_bytes, size_bytes, whole, chunks, .. } = self;
        Ok(Image { size_bytes, sha256: whole.finish(), chunk_bytes, chunks })
    }

    fn end_chunk(&mut self) -> Result<(), NotAnImage> {
        if self.chunks.len() >= CHUNKS_MAX as usize {
            return Err(NotAnImage::TooManyChunks);
        }
        self.chunks.push(std::mem::replace(&mut self.chunk, Hasher::new()).finish());
        Ok(())
    }
}

/// Describes what `reader` gives until its end. [`NotAnImage`] is inside an [`io::ErrorKind::InvalidData`].
pub fn measure(mut reader: impl Read, chunk_bytes: u32) -> io::Result<Image> {
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let mut measure = Measure::new(chunk_bytes).map_err(invalid)?;
    let mut piece = vec![0; 64 * 1024];
    loop {
        match reader.read(&mut piece) {
            Ok(0) => return measure.finish().map_err(invalid),
            Ok(count) => measure.update(&piece[..count]).map_err(invalid)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
