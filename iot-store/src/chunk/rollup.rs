use std::time::Duration;

use iot_core::{event::Sequence, time::Timestamp};

use super::{
    ChunkError, ROLLUPS_MAX,
    bytes::{Input, begin, open, seal, write_unsigned},
    floats, ints,
    stats::{Point, Summary},
};

/// All rows in full.
const KIND: u8 = b'R';
/// Rows of one value have it once.
const KIND_SHORT: u8 = b'S';

/// The statistics of one metric in one bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rollup {
    /// Where the bucket begins.
    pub start: Timestamp,
    /// Of the values in it.
    pub summary: Summary,
}

/// Rollups of one metric of one series at one resolution, in ascending order of their starts.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollups {
    /// The width of a bucket, in whole microseconds.
    pub resolution: Duration,
    /// Each start once; buckets without values are left out.
    pub rows: Vec<Rollup>,
}

impl Rollup {
    /// Takes what another has of the same bucket; see [`Summary::merge`].
    pub fn merge(&mut self, other: &Self) {
        debug_assert_eq!(self.start, other.start, "rollups of two buckets are not one");
        self.summary.merge(&other.summary);
    }
}

impl Rollups {
    /// Encodes 1 to [`ROLLUPS_MAX`] rows.
    pub fn encode(&self) -> Result<Vec<u8>, ChunkError> {
        if self.rows.is_empty() {
            return Err(ChunkError::Empty);
        }
        if self.rows.len() > ROLLUPS_MAX {
            return Err(ChunkError::TooLarge { what: "rollups", max: ROLLUPS_MAX });
        }
        if let Some(row) = self.rows.windows(2).position(|pair| pair[0].start >= pair[1].start) {
            return Err(ChunkError::OutOfOrder { row: row + 1 });
        }
        let (singles, others): (Vec<&Rollup>, Vec<&Rollup>) = self.rows.iter().partition(|row| row.summary.count == 1);
        let is_short = !singles.is_empty() && singles.iter().all(|row| is_of_one_value(&row.summary));
        let mut out = begin(if is_short { KIND_SHORT } else { KIND });
        write_unsigned(&mut out, u64::try_from(self.resolution.as_micros()).unwrap_or(u64::MAX));
        write_unsigned(&mut out, self.rows.len() as u64);
        ints::write_line(&mut out, &ints_of(self.rows.iter(), |row| row.start.as_micros()));
        ints::write(&mut out, &ints_of(self.rows.iter(), |row| row.summary.count.cast_signed()));
        if is_short {
            write_points(&mut out, &singles, |summary| &summary.first);
            if !others.is_empty() {
                write_columns(&mut out, &others);
            }
        } else {
            write_columns(&mut out, &self.rows.iter().collect::<Vec<_>>());
        }
        Ok(seal(out))
    }

    /// Reads [`encode`](Self::encode).
    pub fn decode(bytes: &[u8]) -> Result<Self, ChunkError> {
        let is_short = bytes.first() == Some(&KIND_SHORT);
        let input = &mut Input(open(if is_short { KIND_SHORT } else { KIND }, bytes)?);
        let resolution = Duration::from_micros(input.unsigned()?);
        let count = input.count(ROLLUPS_MAX)?;
        if count == 0 {
            return Err(ChunkError::Damaged("no rows"));
        }
        let starts = ints::read_line(input, count)?;
        let counts = ints::read(input, count)?;
        let is_single = |count: &i64| is_short && *count == 1;
        let singles: Vec<i64> =
            starts.iter().zip(&counts).filter(|(_, c)| is_single(c)).map(|(start, _)| *start).collect();
        let others: Vec<i64> =
            starts.iter().zip(&counts).filter(|(_, c)| !is_single(c)).map(|(start, _)| *start).collect();
        let mut points = if singles.is_empty() { Vec::new() } else { read_points(input, &singles)? }.into_iter();
        let mut columns = if others.is_empty() { Vec::new() } else { read_columns(input, &others)? }.into_iter();
        input.end()?;
        let row = |(start, count): (i64, i64)| {
            let summary = if is_single(&count) { points.next().map(Summary::of) } else { columns.next() };
            let summary = summary.ok_or(ChunkError::Damaged("a row is missing"))?;
            let summary = Summary { count: count.cast_unsigned(), ..summary };
            Ok(Rollup { start: Timestamp::from_micros(start), summary })
        };
        let rows = starts.into_iter().zip(counts).map(row).collect::<Result<_, ChunkError>>()?;
        Ok(Self { resolution, rows })
    }

    /// Takes what another has at the same resolution: rows of the same bucket are merged, the others are added.
    pub fn merge(&mut self, other: &Self) {
        for row in &other.rows {
            match self.rows.binary_search_by_key(&row.start, |row| row.start) {
                Ok(index) => self.rows[index].merge(row),
                Err(index) => self.rows.insert(index, *row),
            }
        }
    }
}

/// Whether nothing is lost when only its first value is kept.
fn is_of_one_value(summary: &Summary) -> bool {
    let bits = summary.first.value.to_bits();
    let values = [summary.min, summary.max, summary.sum, summary.last.value];
    values.iter().all(|value| value.to_bits() == bits) && summary.first.place() == summary.last.place()
}

fn ints_of<'a>(rows: impl Iterator<Item = &'a Rollup>, of: impl Fn(&Rollup) -> i64) -> Vec<i64> {
    rows.map(of).collect()
}

/// All but starts and counts.
fn write_columns(out: &mut Vec<u8>, rows: &[&Rollup]) {
    let of: [fn(&Summary) -> f64; 5] = [|s| s.min, |s| s.max, |s| s.sum, |s| s.first.value, |s| s.last.value];
    for of in of {
        floats::write(out, &rows.iter().map(|row| of(&row.summary)).collect::<Vec<f64>>());
    }
    write_places(out, rows, |summary| &summary.first);
    write_places(out, rows, |summary| &summary.last);
}

fn write_points(out: &mut Vec<u8>, rows: &[&Rollup], of: fn(&Summary) -> &Point) {
    floats::write(out, &rows.iter().map(|row| of(&row.summary).value).collect::<Vec<f64>>());
    write_places(out, rows, of);
}

fn write_places(out: &mut Vec<u8>, rows: &[&Rollup], of: fn(&Summary) -> &Point) {
    let since_start = |row: &Rollup| of(&row.summary).at.as_micros().wrapping_sub(row.start.as_micros());
    ints::write(out, &ints_of(rows.iter().copied(), since_start));
    ints::write_line(out, &ints_of(rows.iter().copied(), |row| of(&row.summary).sequence.0.cast_signed()));
}

/// Reads [`write_points`], in buckets that begin so.
fn read_points(input: &mut Input<'_>, starts: &[i64]) -> Result<Vec<Point>, ChunkError> {
    let values = floats::read(input, starts.len())?;
    read_places(input, starts, values)
}

fn read_places(input: &mut Input<'_>, starts: &[i64], values: Vec<f64>) -> Result<Vec<Point>, ChunkError> {
    let offsets = ints::read(input, starts.len())?;
    let sequences = ints::read_line(input, starts.len())?;
    let point = |(row, value): (usize, f64)| Point {
        at: Timestamp::from_micros(starts[row].wrapping_add(offsets[row])),
        sequence: Sequence(sequences[row].cast_unsigned()),
        value,
    };
    Ok(values.into_iter().enumerate().map(point).collect())
}

/// Reads [`write_columns`]; the counts are not among them.
fn read_columns(input: &mut Input<'_>, starts: &[i64]) -> Result<Vec<Summary>, ChunkError> {
    let [min, max, sum, first, last]: [Vec<f64>; 5] = read_each(|| floats::read(input, starts.len()))?;
    let (first, last) = (read_places(input, starts, first)?, read_places(input, starts, last)?);
    let summary = |row: usize| Summary {
        count: 0,
        min: min[row],
        max: max[row],
        sum: sum[row],
        first: first[row],
        last: last[row],
    };
    Ok((0..starts.len()).map(summary).collect())
}

fn read_each<T, const N: usize>(mut read: impl FnMut() -> Result<T, ChunkError>) -> Result<[T; N], ChunkError> {
    let read: Vec<T> = (0..N).map(|_| read()).collect::<Result<_, _>>()?;
    read.try_into().map_err(|_| ChunkError::Damaged("a column is missing"))
}
