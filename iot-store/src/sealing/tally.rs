use std::collections::BTreeMap;

use iot_core::{
    event::Sequence,
    id::Metric,
    store::{Aggregate, Bucket, Form},
    time::Timestamp,
};

use crate::{
    chunk::{ChunkError, Point, Reader, Summary},
    codec::{self, Damage},
    rules::rolled,
};

/// From a time, included, until another, excluded, in microseconds since 1970.
type Span = (i64, i64);

/// Statistics by the start of their buckets.
pub(crate) struct Tally {
    width: i128,
    limit: usize,
    sums: BTreeMap<i64, Summary>,
}

/// A chunk as the catalogue has it.
pub(crate) struct Entry {
    pub(crate) id: i64,
    pub(crate) part: i64,
    pub(crate) first: i64,
    pub(crate) last: i64,
    pub(crate) stats: Vec<u8>,
}

/// Tells of chunks, in the order of their beginnings, whether one is alone in its time.
pub(crate) struct Neighbours {
    /// The latest end of those before.
    reached: i64,
}

impl Neighbours {
    pub(crate) fn none() -> Self {
        Self { reached: i64::MIN }
    }

    pub(crate) fn is_alone(&mut self, entry: &Entry, next: Option<&Entry>) -> bool {
        let is_alone = self.reached < entry.first && next.is_none_or(|next| next.first > entry.last);
        self.reached = self.reached.max(entry.last);
        is_alone
    }
}

impl Tally {
    pub(crate) fn new(aggregate: &Aggregate, limit: u32) -> Self {
        let width = i128::try_from(aggregate.bucket.as_micros()).unwrap_or(i128::MAX).max(1);
        Self { width, limit: limit as usize, sums: BTreeMap::new() }
    }

    /// The earliest buckets, so many as were asked for.
    pub(crate) fn finish(self) -> Vec<Bucket> {
        let found = self.sums.iter().take(self.limit);
        found.map(|(start, sum)| sum.bucket(Timestamp::from_micros(*start))).collect()
    }

    /// The spans of which reports are read; and the rollup, with its span, of which the rest is.
    pub(crate) fn spans(&self, (from, until): Span) -> ([Span; 2], Option<(Form, Span)>) {
        let rolled = rolled(self.width, (from, until));
        let raw = match rolled {
            Some((_, (first, end))) => [(from, first), (end, until)],
            None => [(from, until), (until, until)],
        };
        (raw, rolled)
    }

    /// Whether what stands beside a chunk says all that is to be known of it.
    pub(crate) fn is_known(&self, entry: &Entry, (from, until): Span) -> bool {
        from <= entry.first && entry.last < until && self.start(entry.first) == self.start(entry.last)
    }

    /// Adds a chunk that [is known](Self::is_known) without its body.
    pub(crate) fn add_entry(&mut self, entry: &Entry, metric: &Metric) -> Result<(), Damage> {
        let stats = codec::read_metric_stats(&entry.stats)?;
        let numbers = stats.iter().find(|stats| stats.metric == *metric).and_then(|stats| stats.numbers.as_ref());
        numbers.into_iter().for_each(|numbers| self.add(entry.first, numbers));
        Ok(())
    }

    /// Adds the values of a chunk in a span. Where it is alone in its time, times order its values without their sequences.
    pub(crate) fn add_body(
        &mut self,
        body: &[u8],
        metric: &Metric,
        (from, until): Span,
        is_alone: bool,
    ) -> Result<(), ChunkError> {
        let reader = Reader::open(body)?;
        let (from, until) = (Timestamp::from_micros(from), Timestamp::from_micros(until));
        if is_alone {
            let add = |at: &[i64], values: &[f64]| self.add_run(at, values, |_| Sequence(0));
            return reader.visit_values(metric, from, until, add);
        }
        let numbers = reader.numbers_between(metric, from, until)?;
        self.add_run(&numbers.at, &numbers.values, |row| Sequence(numbers.sequence[row]));
        Ok(())
    }

    // A bucket that would begin before the first timestamp begins there.
    fn start(&self, at: i64) -> i64 {
        match i64::try_from(self.width) {
            Ok(width) => at.div_euclid(width).checked_mul(width).unwrap_or(i64::MIN),
            Err(_) if at < 0 => i64::MIN,
            Err(_) => 0,
        }
    }

    /// Where the bucket of a time ends; the last one has no end.
    fn end(&self, at: i64) -> i64 {
        let width = i64::try_from(self.width).ok();
        let next = width.and_then(|width| at.div_euclid(width).checked_add(1)?.checked_mul(width));
        next.unwrap_or(if at < 0 && width.is_none() { 0 } else { i64::MAX })
    }

    /// Adds values that are all in the bucket of a time.
    pub(crate) fn add(&mut self, at: i64, summary: &Summary) {
        let start = self.start(at);
        self.sums.entry(start).and_modify(|known| known.merge(summary)).or_insert(*summary);
    }

    /// Adds values in order of time.
    fn add_run(&mut self, at: &[i64], values: &[f64], sequence: impl Fn(usize) -> Sequence) {
        let point =
            |row: usize| Point { at: Timestamp::from_micros(at[row]), sequence: sequence(row), value: values[row] };
        let mut first = 0;
        while first < at.len() {
            let end = self.end(at[first]);
            let (mut min, mut max, mut sum) = (values[first], values[first], values[first]);
            let mut next = first + 1;
            while next < at.len() && (at[next] < end || end == i64::MAX) {
                min = min.min(values[next]);
                max = max.max(values[next]);
                sum += values[next];
                next += 1;
            }
            let count = (next - first) as u64;
            self.add(at[first], &Summary { count, min, max, sum, first: point(first), last: point(next - 1) });
            first = next;
        }
    }

    /// The buckets that were asked for are all before a time.
    pub(crate) fn is_complete_before(&self, at: i64) -> bool {
        // Asked of each chunk: the keys are walked only when there are enough of them.
        let last = self.limit.checked_sub(1).filter(|_| self.sums.len() >= self.limit);
        last.and_then(|last| self.sums.keys().nth(last)).is_some_and(|last| *last < self.start(at))
    }
}
