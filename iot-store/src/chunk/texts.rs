//! Columns of texts.

use std::{collections::HashMap, ops::Range};

use miniz_oxide::{deflate, inflate};

use super::{
    CHUNK_TEXT_BYTES_MAX, ChunkError,
    bytes::{Input, write_unsigned},
    ints,
};

const DICTIONARY: u8 = 1;
const DEFLATED: u8 = 2;
const LEVEL: u8 = 6;

/// Appends a column; nothing if it is empty. Texts that occur again are written once.
pub(super) fn write(out: &mut Vec<u8>, texts: &[impl AsRef<str>]) {
    if texts.is_empty() {
        return;
    }
    let (mut distinct, mut indices, mut places) = (Vec::new(), Vec::with_capacity(texts.len()), HashMap::new());
    for text in texts.iter().map(AsRef::as_ref) {
        let index = *places.entry(text).or_insert_with(|| {
            distinct.push(text);
            distinct.len() - 1
        });
        indices.push(index.cast_signed() as i64);
    }
    let is_dictionary = distinct.len() < texts.len();
    let mut raw = Vec::new();
    distinct.iter().for_each(|text| write_unsigned(&mut raw, text.len() as u64));
    distinct.iter().for_each(|text| raw.extend_from_slice(text.as_bytes()));
    let deflated = deflate::compress_to_vec(&raw, LEVEL);
    let is_deflated = deflated.len() + 1 < raw.len();
    out.push(if is_dictionary { DICTIONARY } else { 0 } | if is_deflated { DEFLATED } else { 0 });
    if is_dictionary {
        write_unsigned(out, distinct.len() as u64);
    }
    write_unsigned(out, raw.len() as u64);
    if is_deflated {
        write_unsigned(out, deflated.len() as u64);
    }
    out.extend_from_slice(if is_deflated { &deflated } else { &raw });
    if is_dictionary {
        ints::write(out, &indices);
    }
}

/// A column as it is read.
#[derive(Debug, Default)]
pub(super) struct Texts {
    raw: Vec<u8>,
    entries: Vec<Range<usize>>,
    /// Of each row, which entry; the rows are the entries if there are none.
    indices: Vec<i64>,
}

impl Texts {
    /// Reads [`write()`]. What the texts take together is taken from `budget`.
    pub(super) fn read(input: &mut Input<'_>, rows: usize, budget: &mut usize) -> Result<Self, ChunkError> {
        if rows == 0 {
            return Ok(Self::default());
        }
        let flags = input.byte()?;
        let is_dictionary = flags & DICTIONARY != 0;
        let entries = if is_dictionary { input.count(rows)? } else { rows };
        let raw = read_raw(input, flags & DEFLATED != 0)?;
        let mut texts = Self { entries: entries_of(&raw, entries)?, raw, indices: Vec::new() };
        if is_dictionary {
            texts.indices = ints::read(input, rows)?;
        }
        for row in 0..rows {
            let length = texts.entry(row).ok_or(BROKEN)?.len();
            *budget = budget.checked_sub(length).ok_or(BROKEN)?;
        }
        Ok(texts)
    }

    /// The text of a row.
    pub(super) fn text(&self, row: usize) -> Result<&str, ChunkError> {
        let bytes = self.entry(row).and_then(|entry| self.raw.get(entry)).ok_or(BROKEN)?;
        str::from_utf8(bytes).map_err(|_| ChunkError::Damaged("not UTF-8"))
    }

    fn entry(&self, row: usize) -> Option<Range<usize>> {
        let index = if self.indices.is_empty() { row } else { usize::try_from(*self.indices.get(row)?).ok()? };
        self.entries.get(index).cloned()
    }
}

fn read_raw(input: &mut Input<'_>, is_deflated: bool) -> Result<Vec<u8>, ChunkError> {
    // Beside the texts themselves there is a length for each, of at most five bytes.
    let length = input.count(CHUNK_TEXT_BYTES_MAX + 5 * super::CHUNK_VALUES_MAX)?;
    if !is_deflated {
        return Ok(input.take(length)?.to_vec());
    }
    let deflated = input.listed()?;
    let raw = inflate::decompress_to_vec_with_limit(input.take(deflated)?, length).map_err(|_| BROKEN)?;
    if raw.len() == length { Ok(raw) } else { Err(BROKEN) }
}

fn entries_of(raw: &[u8], count: usize) -> Result<Vec<Range<usize>>, ChunkError> {
    let mut input = Input(raw);
    let lengths: Vec<usize> = (0..count).map(|_| input.count(raw.len())).collect::<Result<_, _>>()?;
    let mut start = raw.len() - input.0.len();
    let entries = lengths.into_iter().map(|length| {
        let entry = start..start + length;
        start = entry.end;
        entry
    });
    let entries: Vec<Range<usize>> = entries.collect();
    if start == raw.len() { Ok(entries) } else { Err(BROKEN) }
}

const BROKEN: ChunkError = ChunkError::Damaged("a column of texts");
