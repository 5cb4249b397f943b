//! The digests of a blob's parts, as they are kept beside it: a mark with the format, the blob's length, the length of a
//! part, a SHA-256 per part, and the SHA-256 of all that.

use std::ops::Range;

use aws_lc_rs::digest::{SHA256, digest};

use super::PART_BYTES;

const MARK: &[u8; 8] = b"iotblob\x01";
const DIGEST_BYTES: usize = 32;
/// Mark, two lengths.
const HEAD_BYTES: usize = 8 + 8 + 4;

/// What one blob's parts must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) size_bytes: u64,
    pub(super) part_bytes: u32,
    pub(super) digests: Vec<[u8; DIGEST_BYTES]>,
}

impl Parts {
    pub(super) fn of(size_bytes: u64, digests: Vec<[u8; DIGEST_BYTES]>) -> Self {
        Self { size_bytes, part_bytes: PART_BYTES, digests }
    }

    pub(super) fn write(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD_BYTES + (self.digests.len() + 1) * DIGEST_BYTES);
        out.extend_from_slice(MARK);
        out.extend_from_slice(&self.size_bytes.to_be_bytes());
        out.extend_from_slice(&self.part_bytes.to_be_bytes());
        out.extend(self.digests.iter().flatten());
        let own = digest(&SHA256, &out);
        out.extend_from_slice(own.as_ref());
        out
    }

    /// Reads [`write`](Self::write); `None` if a byte of it has changed.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (rest, own) = bytes.split_last_chunk::<DIGEST_BYTES>()?;
        if digest(&SHA256, rest).as_ref() != own {
            return None;
        }
        let (mark, rest) = rest.split_first_chunk::<8>()?;
        let (size, rest) = rest.split_first_chunk::<8>()?;
        let (part, rest) = rest.split_first_chunk::<4>()?;
        let (digests, []) = rest.as_chunks::<DIGEST_BYTES>() else { return None };
        let (size_bytes, part_bytes) = (u64::from_be_bytes(*size), u32::from_be_bytes(*part));
        let count = size_bytes.checked_div(u64::from(part_bytes))? + u64::from(size_bytes % u64::from(part_bytes) > 0);
        let whole = mark == MARK && digests.len() as u64 == count;
        whole.then(|| Self { size_bytes, part_bytes, digests: digests.to_vec() })
    }

    /// The parts that a range touches.
    pub(super) fn touched(&self, range: &Range<u64>) -> Range<u64> {
        let part = u64::from(self.part_bytes);
        range.start / part..range.end.div_ceil(part)
    }

    /// Where these parts lie.
    pub(super) fn span(&self, parts: &Range<u64>) -> Range<u64> {
        let part = u64::from(self.part_bytes);
        parts.start * part..self.size_bytes.min(parts.end * part)
    }

    /// The first part that is not what it must be, of these bytes that begin with part `first`.
    pub(super) fn wrong(&self, first: u64, bytes: &[u8]) -> Option<u64> {
        let parts = bytes.chunks(self.part_bytes as usize);
        let mut numbered = (first..).zip(parts);
        numbered.find_map(|(number, part)| {
            let wanted = usize::try_from(number).ok().and_then(|number| self.digests.get(number));
            wanted.is_none_or(|wanted| digest(&SHA256, part).as_ref() != wanted).then_some(number)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(size_bytes: u64) -> Parts {
        let count = size_bytes.div_ceil(u64::from(PART_BYTES));
        Parts::of(size_bytes, (0..count).map(|number| [u8::try_from(number % 256).unwrap(); 32]).collect())
    }

    #[test]
    fn what_is_written_reads_the_same() {
        let part = u64::from(PART_BYTES);
        for size in [0, 1, part - 1, part, part + 1, 3 * part] {
            assert_eq!(Parts::read(&parts(size).write()), Some(parts(size)), "{size}");
        }
    }

    #[test]
    fn no_changed_byte_and_no_cut_is_read() {
        let written = parts(3 * u64::from(PART_BYTES)).write();
        for at in 0..written.len() {
            let mut changed = written.clone();
            changed[at] ^= 0x40;
            assert_eq!(Parts::read(&changed), None, "byte {at}");
            assert_eq!(Parts::read(&written[..at]), None, "cut at {at}");
        }
    }

    #[test]
    fn a_range_touches_the_parts_that_it_lies_in() {
        let part = u64::from(PART_BYTES);
        let parts = parts(2 * part + 5);
        assert_eq!(parts.touched(&(0..1)), 0..1);
        assert_eq!(parts.touched(&(part - 1..part + 1)), 0..2);
        assert_eq!(parts.touched(&(part..2 * part)), 1..2);
        assert_eq!(parts.span(&(1..3)), part..2 * part + 5);
    }
}
