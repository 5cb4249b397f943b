//! Numbers and texts in bytes, and the frame around a blob.

use super::{ChunkError, FORMAT};

const CHECKSUM_BYTES: usize = 4;

/// Begins a blob of a kind; [`seal`] ends it.
pub(super) fn begin(kind: u8) -> Vec<u8> {
    vec![kind, FORMAT]
}

pub(super) fn seal(mut out: Vec<u8>) -> Vec<u8> {
    let checksum = crc32fast::hash(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    out
}

/// What is in a blob of this kind.
pub(super) fn open(kind: u8, blob: &[u8]) -> Result<&[u8], ChunkError> {
    let Some((framed, checksum)) = blob.split_last_chunk::<CHECKSUM_BYTES>() else {
        return Err(ChunkError::Damaged("too short"));
    };
    let [found, version, body @ ..] = framed else { return Err(ChunkError::Damaged("too short")) };
    if (*found, *version) != (kind, FORMAT) {
        return Err(ChunkError::UnknownFormat { kind: *found, version: *version });
    }
    if crc32fast::hash(framed) != u32::from_le_bytes(*checksum) {
        return Err(ChunkError::Damaged("the checksum is wrong"));
    }
    Ok(body)
}

/// LEB128.
pub(super) fn write_unsigned(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

/// LEB128 of the number folded at zero, so that small negative numbers are short too.
pub(super) fn write_signed(out: &mut Vec<u8>, number: i64) {
    write_unsigned(out, ((number << 1) ^ (number >> 63)).cast_unsigned());
}

pub(super) fn write_text(out: &mut Vec<u8>, text: &str) {
    write_unsigned(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// What is still to be read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn byte(&mut self) -> Result<u8, ChunkError> {
        let (&byte, rest) = self.0.split_first().ok_or(ENDED)?;
        self.0 = rest;
        Ok(byte)
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], ChunkError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(ENDED)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn unsigned(&mut self) -> Result<u64, ChunkError> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                break;
            }
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(ChunkError::Damaged("a number is too long"))
    }

    pub(super) fn signed(&mut self) -> Result<i64, ChunkError> {
        let folded = self.unsigned()?;
        Ok((folded >> 1).cast_signed() ^ -(folded & 1).cast_signed())
    }

    /// A count of things or a length, at most `max`.
    pub(super) fn count(&mut self, max: usize) -> Result<usize, ChunkError> {
        let count = usize::try_from(self.unsigned()?).map_err(|_| TOO_MANY)?;
        if count > max { Err(TOO_MANY) } else { Ok(count) }
    }

    /// A count of things of which each takes at least a byte of what follows: what is allocated for them is bounded by
    /// what is there.
    pub(super) fn listed(&mut self) -> Result<usize, ChunkError> {
        self.count(self.0.len())
    }

    pub(super) fn text(&mut self) -> Result<&'a str, ChunkError> {
        let length = self.count(self.0.len())?;
        str::from_utf8(self.take(length)?).map_err(|_| ChunkError::Damaged("not UTF-8"))
    }

    pub(super) fn end(&self) -> Result<(), ChunkError> {
        if self.0.is_empty() { Ok(()) } else { Err(ChunkError::Damaged("bytes are left over")) }
    }
}

const ENDED: ChunkError = ChunkError::Damaged("it ends too early");
const TOO_MANY: ChunkError = ChunkError::Damaged("a count is beyond its bound");
