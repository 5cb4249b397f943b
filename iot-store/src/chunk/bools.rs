//! Columns of bits.

use super::{
    ChunkError,
    bytes::{Input, write_unsigned},
};

const BITS: u8 = 0;
/// The lengths of runs, of which the first is of `false`.
const RUNS: u8 = 1;

/// Appends a column; nothing if it is empty.
pub(super) fn write(out: &mut Vec<u8>, bools: &[bool]) {
    if bools.is_empty() {
        return;
    }
    let mut runs = Vec::new();
    if bools[0] {
        write_unsigned(&mut runs, 0);
    }
    for run in bools.chunk_by(|one, next| one == next) {
        write_unsigned(&mut runs, run.len() as u64);
    }
    if runs.len() <= bools.len().div_ceil(8) {
        out.push(RUNS);
        out.append(&mut runs);
    } else {
        out.push(BITS);
        out.extend(bools.chunks(8).map(|bits| bits.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit))));
    }
}

/// Reads [`write()`].
pub(super) fn read(input: &mut Input<'_>, rows: usize) -> Result<Vec<bool>, ChunkError> {
    if rows == 0 {
        return Ok(Vec::new());
    }
    match input.byte()? {
        BITS => {
            let bits = input.take(rows.div_ceil(8))?;
            Ok((0..rows).map(|row| bits[row / 8] >> (row % 8) & 1 == 1).collect())
        }
        RUNS => {
            let (mut bools, mut bit) = (Vec::with_capacity(rows), false);
            while bools.len() < rows {
                let run = input.count(rows - bools.len())?;
                bools.resize(bools.len() + run, bit);
                bit = !bit;
            }
            Ok(bools)
        }
        _ => Err(ChunkError::Damaged("a column of an unknown kind")),
    }
}
