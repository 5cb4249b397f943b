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
/// The narrowest type that holds the column: bins are described in its width, and read in it.
const COMPRESSED_16: u8 = 3;
const COMPRESSED_32: u8 = 4;
const COMPRESSED_64: u8 = 5;

/// Up to here packed steps are tried too: what pco writes about a column weighs more than what it saves on a short one.
pub(super) const SHORT_ROWS_MAX: usize = 512;
/// What share of its size a column may grow to be read faster.
const SPEED_SHARE: usize = 16;
const FRACTION_BITS: u32 = 16;

/// Appends a column; nothing if it is empty.
pub(super) fn write(out: &mut Vec<u8>, numbers: &[i64]) {
    let [first, rest @ ..] = numbers else { return };
    if rest.iter().all(|number| number == first) {
        out.push(CONSTANT);
        return write_signed(out, *first);
    }
    let mut best = compressed(numbers);
    // Packed is read several times faster than compressed.
    if packed_length(numbers) <= best.len() + best.len() / SPEED_SHARE {
        best = packed(numbers);
    } else if numbers.len() <= SHORT_ROWS_MAX {
        let deltas = deltas(*first, numbers);
        if deltas.len() < best.len() {
            best = deltas;
        }
    }
    out.append(&mut best);
}

/// Reads [`write()`].
pub(super) fn read(input: &mut Input<'_>, rows: usize) -> Result<Vec<i64>, ChunkError> {
    read_as(input, rows, |number| number)
}

/// Reads [`write()`] as another type.
#[inline]
pub(super) fn read_as<T>(input: &mut Input<'_>, rows: usize, of: impl Fn(i64) -> T) -> Result<Vec<T>, ChunkError> {
    if rows == 0 {
        return Ok(Vec::new());
    }
    match input.byte()? {
        COMPRESSED_16 => Ok(decompress::<i16>(input, rows)?.into_iter().map(|number| of(number.into())).collect()),
        COMPRESSED_32 => Ok(decompress::<i32>(input, rows)?.into_iter().map(|number| of(number.into())).collect()),
        COMPRESSED_64 => Ok(decompress::<i64>(input, rows)?.into_iter().map(of).collect()),
        tag => Ok(read_short(tag, input, rows)?.into_iter().map(of).collect()),
    }
}

fn read_short(tag: u8, input: &mut Input<'_>, rows: usize) -> Result<Vec<i64>, ChunkError> {
    match tag {
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
    // The sum is `on_line` without its multiplication, which 64-bit vectors lack on most machines.
    let mut line = 0_i64;
    for number in &mut numbers {
        *number = first.wrapping_add(number.wrapping_add(line >> FRACTION_BITS).wrapping_mul(unit));
        line = line.wrapping_add(slope);
    }
    Ok(numbers)
}

fn compressed(numbers: &[i64]) -> Vec<u8> {
    let narrow: Option<Vec<i16>> = numbers.iter().map(|number| i16::try_from(*number).ok()).collect();
    if let Some(numbers) = narrow {
        let mut out = vec![COMPRESSED_16];
        compress(&mut out, &numbers);
        return out;
    }
    let narrow: Option<Vec<i32>> = numbers.iter().map(|number| i32::try_from(*number).ok()).collect();
    let mut out = vec![if narrow.is_some() { COMPRESSED_32 } else { COMPRESSED_64 }];
    match narrow {
        Some(numbers) => compress(&mut out, &numbers),
        None => compress(&mut out, numbers),
    }
    out
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

/// The least, and the bits that the others take above it.
fn frame(numbers: &[i64]) -> (i64, u32) {
    let (least, greatest) = numbers.iter().fold((i64::MAX, i64::MIN), |(l, g), n| (l.min(*n), g.max(*n)));
    (least, u64::BITS - greatest.wrapping_sub(least).cast_unsigned().leading_zeros())
}

/// Roughly.
fn packed_length(numbers: &[i64]) -> usize {
    4 + (numbers.len() * frame(numbers).1 as usize).div_ceil(8)
}

fn packed(numbers: &[i64]) -> Vec<u8> {
    let (least, width) = frame(numbers);
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
    let length = (rows * width as usize).div_ceil(8);
    let mut bytes = input.take(length)?.to_vec();
    bytes.resize(length + size_of::<u128>(), 0);
    let places = (0..rows).map(|row| row * width as usize);
    if width <= WORD_WIDTH_MAX {
        let mask = (1_u64 << width) - 1;
        let word = |bit: usize| u64::from_le_bytes(at(&bytes, bit / 8)) >> (bit % 8) & mask;
        return Ok(places.map(|bit| least.wrapping_add(word(bit).cast_signed())).collect());
    }
    let mask = u128::from(u64::MAX >> (u64::BITS - width));
    let word = |bit: usize| u64::try_from(u128::from_le_bytes(at(&bytes, bit / 8)) >> (bit % 8) & mask).unwrap_or(0);
    Ok(places.map(|bit| least.wrapping_add(word(bit).cast_signed())).collect())
}

/// Up to here a number is within the eight bytes from where it begins.
const WORD_WIDTH_MAX: u32 = 57;

// The bytes end with as many as are read at once.
fn at<const N: usize>(bytes: &[u8], start: usize) -> [u8; N] {
    bytes.get(start..).and_then(|bytes| bytes.first_chunk()).copied().unwrap_or([0; N])
}
