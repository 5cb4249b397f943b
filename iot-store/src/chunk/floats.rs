//! Columns of floats; every bit of every value survives.

use super::{
    ChunkError,
    bytes::{Input, write_unsigned},
    ints,
};

const COMPRESSED: u8 = 0;
/// The bits, as whole numbers.
const BITS: u8 = 1;
const DECIMAL: u8 = 2;

const EXPONENT_MAX: usize = 14;
/// Up to here decimals are taken to be shorter without a comparison.
const EXPONENT_PLAIN_MAX: usize = 4;
const POWERS: [f64; EXPONENT_MAX + 1] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14];
/// Beyond this a float has no room for the rounding below.
const DIGITS_MAX: f64 = (1_i64 << 51) as f64;
/// Added and taken away again, it rounds to a whole number.
const ROUNDER: f64 = 6_755_399_441_055_744.0;

/// Appends a column; nothing if it is empty.
pub(super) fn write(out: &mut Vec<u8>, floats: &[f64]) {
    if floats.is_empty() {
        return;
    }
    match Decimals::of(floats) {
        Some(decimals) if decimals.exponent <= EXPONENT_PLAIN_MAX => decimals.write(out),
        Some(decimals) => {
            let (mut one, mut other) = (Vec::new(), Vec::new());
            decimals.write(&mut one);
            write_bits(&mut other, floats);
            out.append(if one.len() <= other.len() { &mut one } else { &mut other });
        }
        None => write_bits(out, floats),
    }
}

/// Reads [`write()`].
pub(super) fn read(input: &mut Input<'_>, rows: usize) -> Result<Vec<f64>, ChunkError> {
    if rows == 0 {
        return Ok(Vec::new());
    }
    match input.byte()? {
        COMPRESSED => ints::decompress(input, rows),
        BITS => ints::read_as(input, rows, |bits| f64::from_bits(bits.cast_unsigned())),
        DECIMAL => read_decimals(input, rows),
        _ => Err(ChunkError::Damaged("a column of an unknown kind")),
    }
}

fn write_bits(out: &mut Vec<u8>, floats: &[f64]) {
    let mut compressed = vec![COMPRESSED];
    ints::compress(&mut compressed, floats);
    if floats.len() <= ints::SHORT_ROWS_MAX {
        let bits: Vec<i64> = floats.iter().map(|float| float.to_bits().cast_signed()).collect();
        let mut plain = vec![BITS];
        ints::write(&mut plain, &bits);
        if plain.len() < compressed.len() {
            compressed = plain;
        }
    }
    out.append(&mut compressed);
}

/// Values as `digits / 10^exponent`, but for a few.
struct Decimals {
    exponent: usize,
    digits: Vec<i64>,
    /// Which are not, with their bits.
    exceptions: Vec<(usize, u64)>,
}

impl Decimals {
    /// `None` if too many are not decimals.
    fn of(floats: &[f64]) -> Option<Self> {
        let exceptions_max = floats.len() / 16 + 1;
        let (mut exponent, mut odd) = (0, 0);
        for float in floats {
            match (exponent..=EXPONENT_MAX).find(|exponent| digits(*float, *exponent).is_some()) {
                Some(found) => exponent = found,
                None => odd += 1,
            }
            if odd > exceptions_max {
                return None;
            }
        }
        let mut decimals = Self { exponent, digits: Vec::with_capacity(floats.len()), exceptions: Vec::new() };
        let mut last = 0;
        for (row, float) in floats.iter().enumerate() {
            match digits(*float, exponent) {
                Some(digits) => last = digits,
                None => decimals.exceptions.push((row, float.to_bits())),
            }
            decimals.digits.push(last);
        }
        (decimals.exceptions.len() <= exceptions_max).then_some(decimals)
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.push(DECIMAL);
        write_unsigned(out, self.exponent as u64);
        write_unsigned(out, self.exceptions.len() as u64);
        for (row, bits) in &self.exceptions {
            write_unsigned(out, *row as u64);
            out.extend_from_slice(&bits.to_le_bytes());
        }
        ints::write(out, &self.digits);
    }
}

#[expect(clippy::cast_precision_loss, reason = "what was written is below 2^51")]
fn read_decimals(input: &mut Input<'_>, rows: usize) -> Result<Vec<f64>, ChunkError> {
    let power = POWERS[input.count(EXPONENT_MAX)?];
    let exceptions = input.listed()?;
    let odd = (0..exceptions).map(|_| {
        let row = input.count(rows - 1)?;
        let bits = input.take(8)?.try_into().map_err(|_| ChunkError::Damaged("a float"))?;
        Ok((row, f64::from_le_bytes(bits)))
    });
    let odd: Vec<(usize, f64)> = odd.collect::<Result<_, ChunkError>>()?;
    let mut floats = ints::read_as(input, rows, |digits| digits as f64 / power)?;
    for (row, float) in odd {
        floats[row] = float;
    }
    Ok(floats)
}

// Not for -0, infinities and NaN, whose bits never come out again.
#[expect(clippy::cast_possible_truncation, reason = "a whole number below 2^51")]
fn digits(float: f64, exponent: usize) -> Option<i64> {
    let scaled = float * POWERS[exponent];
    let whole = (scaled + ROUNDER) - ROUNDER;
    let is_same = scaled.abs() < DIGITS_MAX && (whole / POWERS[exponent]).to_bits() == float.to_bits();
    is_same.then_some(whole as i64)
}
