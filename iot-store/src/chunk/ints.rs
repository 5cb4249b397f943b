//! Columns of whole numbers.

use pco::{
    ChunkConfig, PagingSpec,
    data_types::Number,
    errors::PcoResult,
    wrapped::{FileCompressor, FileDecompressor},
};

use super::{
    ChunkError,
    bytes::{Input, write_signed, write_unsigned},
};

const CONSTANT: u8 = 0;
const PACKED: u8 = 1;
const DELTAS: u8 = 2;
const COMPRESSED: u8 = 3;

/// Up to here packing is tried too: what pco writes about a column weighs more than what it saves on a short one.
pub(super) const SHORT_ROWS_MAX: usize = 512;
const FRACTION_BITS: u32 = 16;

/// Appends a column; nothing if it is empty.
pub(super) fn write(out: &mut Vec<u8>, numbers: &[i64]) {
    let [first, rest @ ..] = numbers else { return };
    if rest.iter().all(|number| number == first) {
        out.push(CONSTANT);
        return write_signed(out, *first);
    }
    let mut best = vec![COMPRESSED];
    compress(&mut best, numbers);
    if numbers.len() <= SHORT_ROWS_MAX {
        for packed in [packed(numbers), deltas(*first, numbers)] {
            if packed.len() < best.len() {
                best = packed;
            }
        }
    }
    out.append(&mut best);
}

/// Reads [`write()`].
pub(super) fn read(input: &mut Input<'_>, rows: usize) -> Result<Vec<i64>, ChunkError> {
    if rows == 0 {
        return Ok(Vec::new());
    }
    match input.byte()? {
        COMPRESSED => decompress(input, rows),
        DELTAS => {
            let mut number = input.signed()?;
            let tag = input.byte()?;
            let mut numbers = Vec::with_capacity(rows);
            numbers.push(number);
            for delta in read_flat(tag, input, rows - 1)? {
                number = number.wrapping_add(delta);
                numbers.push(number);
            }
            Ok(numbers)
        }
        tag => read_flat(tag, input, rows),
    }
}

/// Appends a column that grows, or falls, nearly evenly: what remains of it after a straight line through its ends, in
/// the largest unit that divides all its steps. Even steps cost nothing; uneven ones less than the step before them
/// would tell.
pub(super) fn write_line(out: &mut Vec<u8>, numbers: &[i64]) {
    let (Some(first), Some(last)) = (numbers.first(), numbers.last()) else { return };
    let unit = numbers.iter().map(|number| number.wrapping_sub(*first).unsigned_abs()).fold(0, divisor).max(1);
    let unit = i64::try_from(unit).unwrap_or(1);
    let steps = i128::try_from(numbers.len() - 1).unwrap_or(i128::MAX).max(1);
    let slope = (i128::from(last.wrapping_sub(*first) / unit) << FRACTION_BITS) / steps;
    let slope = i64::try_from(slope).unwrap_or(0);
    write_signed(out, *first);
    write_unsigned(out, unit.unsigned_abs());
    write_signed(out, slope);
    let rest: Vec<i64> =
        (0..).zip(numbers).map(|(row, n)| (n.wrapping_sub(*first) / unit).wrapping_sub(on_line(row, slope))).collect();
    write(out, &rest);
}

/// Reads [`write_line`].
pub(super) fn read_line(input: &mut Input<'_>, rows: usize) -> Result<Vec<i64>, ChunkError> {
    if rows == 0 {
        return Ok(Vec::new());
    }
    let (first, unit, slope) = (input.signed()?, input.unsigned()?.cast_signed(), input.signed()?);
    let mut numbers = read(input, rows)?;
    for (row, number) in (0..).zip(&mut numbers) {
        *number = first.wrapping_add(number.wrapping_add(on_line(row, slope)).wrapping_mul(unit));
    }
    Ok(numbers)
}

/// Appends what pco makes of a column that is not empty.
pub(super) fn compress<T: Number>(out: &mut Vec<u8>, numbers: &[T]) {
    let config = ChunkConfig::default().with_paging_spec(PagingSpec::Exact(vec![numbers.len()]));
    let mut write = || -> PcoResult<()> {
        let file = FileCompressor::default();
        file.write_header(&mut *out)?;
        let mut chunk = file.chunk_compressor(numbers, &config)?;
        chunk.write_meta(&mut *out)?;
        chunk.write_page(0, &mut *out)?;
        Ok(())
    };
    write().expect("a page of 1 to 2^24 numbers can be written to memory");
}

/// Reads [`compress`].
pub(super) fn decompress<T: Number + Default>(input: &mut Input<'_>, rows: usize) -> Result<Vec<T>, ChunkError> {
    let mut numbers = vec![T::default(); rows];
    let mut read = || -> PcoResult<bool> {
        let (file, rest) = FileDecompressor::new(input.0)?;
        let (mut chunk, rest) = file.chunk_decompressor::<T, _>(rest)?;
        let mut page = chunk.page_decompressor(rest, rows)?;
        let progress = page.read(&mut numbers)?;
        input.0 = page.into_src();
        Ok(progress.finished && progress.n_processed == rows)
    };
    match read() {
        Ok(true) => Ok(numbers),
        _ => Err(ChunkError::Damaged("a compressed column")),
    }
}

// Wrapping: what is written is the difference, so that any line is right, if not near.
fn on_line(row: i64, slope: i64) -> i64 {
    row.wrapping_mul(slope) >> FRACTION_BITS
}

fn divisor(mut one: u64, mut other: u64) -> u64 {
    if one == 1 {
        return 1;
    }
    while other != 0 {
        (one, other) = (other, one % other);
    }
    one
}

fn packed(numbers: &[i64]) -> Vec<u8> {
    let (least, greatest) = numbers.iter().fold((i64::MAX, i64::MIN), |(l, g), n| (l.min(*n), g.max(*n)));
    let width = u64::BITS - greatest.wrapping_sub(least).cast_unsigned().leading_zeros();
    let mut out = vec![PACKED];
    write_signed(&mut out, least);
    out.push(width.to_le_bytes()[0]);
    let (mut bits, mut held) = (0_u128, 0);
    for number in numbers {
        bits |= u128::from(number.wrapping_sub(least).cast_unsigned()) << held;
        held += width;
        while held >= 8 {
            out.push(bits.to_le_bytes()[0]);
            bits >>= 8;
            held -= 8;
        }
    }
    if held > 0 {
        out.push(bits.to_le_bytes()[0]);
    }
    out
}

fn deltas(first: i64, numbers: &[i64]) -> Vec<u8> {
    let deltas: Vec<i64> = numbers.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    let mut out = vec![DELTAS];
    write_signed(&mut out, first);
    match deltas.split_first() {
        Some((delta, rest)) if rest.iter().all(|other| other == delta) => {
            out.push(CONSTANT);
            write_signed(&mut out, *delta);
        }
        _ => out.append(&mut packed(&deltas)),
    }
    out
}

fn read_flat(tag: u8, input: &mut Input<'_>, rows: usize) -> Result<Vec<i64>, ChunkError> {
    match tag {
        CONSTANT => Ok(vec![input.signed()?; rows]),
        PACKED => unpack(input, rows),
        _ => Err(ChunkError::Damaged("a column of an unknown kind")),
    }
}

fn unpack(input: &mut Input<'_>, rows: usize) -> Result<Vec<i64>, ChunkError> {
    let least = input.signed()?;
    let width = u32::from(input.byte()?);
    if width > u64::BITS {
        return Err(ChunkError::Damaged("a packed column"));
    }
    let mask = (1_u128 << width) - 1;
    let mut bytes = input.take((rows * width as usize).div_ceil(8))?.iter();
    let (mut bits, mut held) = (0_u128, 0);
    let mut next = || {
        while held < width {
            bits |= u128::from(*bytes.next().unwrap_or(&0)) << held;
            held += 8;
        }
        let number = u64::try_from(bits & mask).unwrap_or(u64::MAX);
        bits >>= width;
        held -= width;
        least.wrapping_add(number.cast_signed())
    };
    Ok((0..rows).map(|_| next()).collect())
}
