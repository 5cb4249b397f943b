//! How reports become chunks and rollups, and how statistics are gathered from them, in one way in all backends. Pure.

mod counts;
mod divide;
mod rollup;
mod tally;

use std::collections::BTreeMap;

use iot_core::{
    event::{Report, StoredEvent},
    store::Form,
};

#[cfg(feature = "sqlite")]
pub(crate) use self::rollup::Sums;
pub(crate) use self::{
    counts::Counts,
    divide::by_partition,
    rollup::{era, rollups},
    tally::{Entry, Neighbours, Tally},
};
use crate::{
    chunk::{self, ChunkError, Encoded},
    rules::join,
};

/// How many reports a chunk has at most; smaller ones of a series in a partition are merged.
pub(crate) const CHUNK_ROWS: usize = 8_192;

/// How a form is kept in a table.
pub(crate) fn number(form: Form) -> i64 {
    match form {
        Form::Raw => 0,
        Form::Minute => 1,
        Form::Hour => 2,
        Form::Day => 3,
    }
}

/// Reads [`number`].
pub(crate) fn form(known: i64) -> Option<Form> {
    Form::ALL.into_iter().find(|form| number(*form) == known)
}

/// Whether so many new reports are sealed together with those of a chunk. A report is merged into a chunk at least twice as
/// large each time, so about as often as that can be doubled.
pub(crate) fn is_merged(chunk: i64, new: usize) -> bool {
    usize::try_from(chunk).unwrap_or(usize::MAX) <= 2 * new
}

/// Adds a report, or a part of one: with metrics that are kept for different times it comes in parts.
pub(crate) fn add_part<P: Ord>(found: &mut BTreeMap<P, StoredEvent>, place: P, stored: StoredEvent) {
    let Some(known) = found.get_mut(&place) else {
        found.insert(place, stored);
        return;
    };
    if let (Report::Telemetry(values), Report::Telemetry(more)) = (&mut known.event.report, stored.event.report) {
        join(values, more);
    }
}

/// Seals reports of one series, in any order.
pub(crate) fn encode(mut events: Vec<StoredEvent>) -> Result<Vec<Encoded>, ChunkError> {
    events.sort_by_key(|stored| (stored.event.at, stored.sequence));
    let mut encoded = Vec::with_capacity(events.len().div_ceil(CHUNK_ROWS));
    events.chunks(CHUNK_ROWS).try_for_each(|events| encode_into(&mut encoded, events))?;
    Ok(encoded)
}

fn encode_into(encoded: &mut Vec<Encoded>, events: &[StoredEvent]) -> Result<(), ChunkError> {
    match chunk::encode(events) {
        Err(ChunkError::TooLarge { .. }) if events.len() > 1 => {
            let (one, other) = events.split_at(events.len() / 2);
            encode_into(encoded, one)?;
            encode_into(encoded, other)
        }
        chunk => {
            encoded.push(chunk?);
            Ok(())
        }
    }
}
