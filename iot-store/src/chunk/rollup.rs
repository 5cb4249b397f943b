use std::time::Duration;

use iot_core::{event::Sequence, time::Timestamp};

use super::{
    ChunkError, ROLLUPS_MAX,
    bytes::{Input, begin, open, seal, write_unsigned},
    floats, ints,
    stats::{Point, Summary},
};

const KIND: u8 = b'R';

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
        let mut out = begin(KIND);
        write_unsigned(&mut out, u64::try_from(self.resolution.as_micros()).unwrap_or(u64::MAX));
        write_unsigned(&mut out, self.rows.len() as u64);
        self.write_columns(&mut out);
        Ok(seal(out))
    }

    /// Reads [`encode`](Self::encode).
    pub fn decode(bytes: &[u8]) -> Result<Self, ChunkError> {
        let input = &mut Input(open(KIND, bytes)?);
        let resolution = Duration::from_micros(input.unsigned()?);
        let rows = input.count(ROLLUPS_MAX)?;
        if rows == 0 {
            return Err(ChunkError::Damaged("no rows"));
        }
        let starts = ints::read_line(input, rows)?;
        let counts = ints::read(input, rows)?;
        let floats: [Vec<f64>; 5] = read_each(|| floats::read(input, rows))?;
        let places: [Vec<i64>; 4] = [
            ints::read(input, rows)?,
            ints::read_line(input, rows)?,
            ints::read(input, rows)?,
            ints::read_line(input, rows)?,
        ];
        input.end()?;
        let [min, max, sum, first, last] = floats;
        let point = |row: usize, place: usize, value: f64| Point {
            at: Timestamp::from_micros(starts[row].wrapping_add(places[place][row])),
            sequence: Sequence(places[place + 1][row].cast_unsigned()),
            value,
        };
        let rollup = |row: usize| Rollup {
            start: Timestamp::from_micros(starts[row]),
            summary: Summary {
                count: counts[row].cast_unsigned(),
                min: min[row],
                max: max[row],
                sum: sum[row],
                first: point(row, 0, first[row]),
                last: point(row, 2, last[row]),
            },
        };
        Ok(Self { resolution, rows: (0..rows).map(rollup).collect() })
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

    fn write_columns(&self, out: &mut Vec<u8>) {
        let ints = |of: fn(&Rollup) -> i64| self.rows.iter().map(of).collect::<Vec<i64>>();
        let floats = |of: fn(&Summary) -> f64| self.rows.iter().map(|row| of(&row.summary)).collect::<Vec<f64>>();
        ints::write_line(out, &ints(|row| row.start.as_micros()));
        ints::write(out, &ints(|row| row.summary.count.cast_signed()));
        let of: [fn(&Summary) -> f64; 5] = [|s| s.min, |s| s.max, |s| s.sum, |s| s.first.value, |s| s.last.value];
        of.into_iter().for_each(|of| floats::write(out, &floats(of)));
        ints::write(out, &ints(|row| since_start(row, &row.summary.first)));
        ints::write_line(out, &ints(|row| row.summary.first.sequence.0.cast_signed()));
        ints::write(out, &ints(|row| since_start(row, &row.summary.last)));
        ints::write_line(out, &ints(|row| row.summary.last.sequence.0.cast_signed()));
    }
}

fn since_start(row: &Rollup, point: &Point) -> i64 {
    point.at.as_micros().wrapping_sub(row.start.as_micros())
}

fn read_each<T, const N: usize>(mut read: impl FnMut() -> Result<T, ChunkError>) -> Result<[T; N], ChunkError> {
    let read: Vec<T> = (0..N).map(|_| read()).collect::<Result<_, _>>()?;
    read.try_into().map_err(|_| ChunkError::Damaged("a column is missing"))
}
