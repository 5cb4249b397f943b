//! What the contracts leave to be decided in one way by all backends here.

use std::collections::{BTreeMap, HashSet};

use iot_core::{
    event::{Event, Report, Sequence, Value},
    id::Metric,
    problem::Cursor,
    store::{Aggregate, Bucket, Form, INDEX_PAGE_MAX, IndexKey, Key, Write},
    time::Timestamp,
};

/// The writes of a batch, of each record only the last.
pub(crate) fn last_writes(writes: Vec<Write>) -> Vec<Write> {
    let mut seen: HashSet<Key> = HashSet::with_capacity(writes.len());
    let mut kept: Vec<Write> = writes.into_iter().rev().filter(|write| seen.insert(write.key().clone())).collect();
    kept.reverse();
    kept
}

/// The index keys of a record, each once; unique if it was said once.
pub(crate) fn distinct(index_keys: &[IndexKey]) -> BTreeMap<(&'static str, &str), bool> {
    let mut distinct = BTreeMap::new();
    for key in index_keys {
        *distinct.entry((key.index, key.value.as_str())).or_default() |= key.unique;
    }
    distinct
}

/// The size of a page that was asked for, within bounds.
pub(crate) fn page_size(limit: u32) -> usize {
    limit.clamp(1, INDEX_PAGE_MAX) as usize
}

/// A cursor that holds a count.
pub(crate) fn count_cursor(count: u64) -> Cursor {
    Cursor::after(&count.to_be_bytes())
}

/// Reads [`count_cursor`]; `None` for the cursor of another list.
pub(crate) fn read_count(cursor: &Cursor) -> Option<u64> {
    cursor.key().try_into().ok().map(u64::from_be_bytes)
}

/// A cursor that holds a place in a series.
pub(crate) fn place_cursor(at: Timestamp, sequence: Sequence) -> Cursor {
    let mut key = at.as_micros().to_be_bytes().to_vec();
    key.extend_from_slice(&sequence.0.to_be_bytes());
    Cursor::after(&key)
}

/// Reads [`place_cursor`]; `None` for the cursor of another list.
pub(crate) fn read_place(cursor: &Cursor) -> Option<(Timestamp, Sequence)> {
    let (at, sequence) = cursor.key().split_first_chunk::<8>()?;
    let sequence = u64::from_be_bytes(sequence.try_into().ok()?);
    Some((Timestamp::from_micros(i64::from_be_bytes(*at)), Sequence(sequence)))
}

/// An event as a range with this metric shows it; `None` if it does not.
pub(crate) fn narrowed(mut event: Event, metric: Option<&Metric>) -> Option<Event> {
    let Some(metric) = metric else { return Some(event) };
    let Report::Telemetry(values) = &mut event.report else { return None };
    values.retain(|(name, _)| name == metric);
    (!values.is_empty()).then_some(event)
}

/// Adds the values of another part of one report: metrics that are kept for different times come in the order of their names.
pub(crate) fn join(values: &mut Vec<(Metric, Value)>, more: Vec<(Metric, Value)>) {
    values.extend(more);
    values.sort_by(|(one, _), (other, _)| one.cmp(other));
}

/// The coarsest rollup of which buckets are whole multiples, and the part of the span that is whole buckets of it.
pub(crate) fn rolled(width: i128, (from, until): (i64, i64)) -> Option<(Form, (i64, i64))> {
    let micros = |form: Form| form.bucket_micros().unwrap_or(i64::MAX);
    let form = [Form::Day, Form::Hour, Form::Minute].into_iter().find(|form| width % i128::from(micros(*form)) == 0)?;
    let step = i128::from(micros(form));
    let first = -(-i128::from(from)).div_euclid(step) * step;
    let end = i128::from(until).div_euclid(step) * step;
    let (first, end) = (i64::try_from(first).ok()?, i64::try_from(end).ok()?);
    (first < end).then_some((form, (first, end)))
}

/// The literal levels at the beginning of a filter: every topic that matches begins with them.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) fn literal_prefix(filter: &str) -> &str {
    let Some(wildcard) = filter.find(['+', '#']) else { return filter };
    let prefix = &filter[..wildcard];
    prefix.strip_suffix('/').unwrap_or(prefix)
}

/// How many epochs of sessions a restored store skips at least: more than were handed out since any copy that is worth
/// restoring, 10,000 a second for three years.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
const EPOCHS_SKIPPED: i64 = 1 << 40;
/// Epochs per millisecond since 1970. A store that is restored later, from the same copy too, begins above all that an earlier
/// one can have handed out.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
const EPOCHS_PER_MS: i64 = 1 << 20;

/// Where the epochs of sessions begin in a store that was restored at this time, and whose counter is this.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) fn epochs_after_restore(counter: i64, at: Timestamp) -> i64 {
    counter.saturating_add(EPOCHS_SKIPPED).max(at.as_millis().saturating_mul(EPOCHS_PER_MS))
}

/// FNV-1a, 64 bits: it detects an edited file, not an attack.
#[cfg(any(feature = "clickhouse", feature = "postgres", feature = "sqlite"))]
pub(crate) fn checksum(text: &str) -> String {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{hash:016x}")
}

/// Gathers statistics from values that come in order of time and sequence.
#[derive(Debug)]
pub(crate) struct Buckets {
    width: i128,
    limit: usize,
    done: Vec<Bucket>,
}

impl Buckets {
    pub(crate) fn new(aggregate: &Aggregate, limit: u32) -> Self {
        let width = i128::try_from(aggregate.bucket.as_micros()).unwrap_or(i128::MAX).max(1);
        Self { width, limit: limit as usize, done: Vec::new() }
    }

    /// Takes one value; `false` if it, and all that follow, are beyond the last bucket that was asked for.
    pub(crate) fn add(&mut self, at: Timestamp, value: f64) -> bool {
        let start = self.start(at);
        let full = self.done.len() == self.limit;
        match self.done.last_mut() {
            Some(bucket) if bucket.start == start => {
                bucket.count += 1;
                bucket.min = bucket.min.min(value);
                bucket.max = bucket.max.max(value);
                bucket.sum += value;
                bucket.last = value;
            }
            _ if full => return false,
            _ => self.done.push(Bucket {
                start,
                count: 1,
                min: value,
                max: value,
                sum: value,
                first: value,
                last: value,
            }),
        }
        true
    }

    pub(crate) fn finish(self) -> Vec<Bucket> {
        self.done
    }

    // A bucket that would begin before the first timestamp begins there.
    fn start(&self, at: Timestamp) -> Timestamp {
        let start = i128::from(at.as_micros()).div_euclid(self.width) * self.width;
        Timestamp::from_micros(i64::try_from(start).unwrap_or(i64::MIN))
    }
}
