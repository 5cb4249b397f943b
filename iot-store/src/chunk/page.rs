//! One page of a chunk as it is read.

use iot_core::event::Value;

use super::{
    CHUNK_TEXT_BYTES_MAX, CHUNK_VALUES_MAX, ChunkError, PAGE_ROWS, bools,
    bytes::Input,
    floats, ints,
    layout::{AT, DEVICE_SEQUENCE, FIXED_SECTIONS, Kind, Layout, RECEIVED, SEQUENCE, SHAPE},
    texts::Texts,
};

/// What one call may still take.
#[derive(Debug)]
pub(super) struct Budget {
    values: usize,
    text_bytes: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { values: CHUNK_VALUES_MAX, text_bytes: CHUNK_TEXT_BYTES_MAX }
    }
}

/// Of each row, which shape its report has.
#[derive(Debug)]
pub(super) enum Shapes {
    /// The only one there is.
    One,
    Each(Vec<usize>),
}

impl Shapes {
    pub(super) fn of(&self, row: usize) -> usize {
        match self {
            Self::One => 0,
            Self::Each(shapes) => shapes[row],
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Page<'a> {
    pub(super) layout: &'a Layout,
    body: &'a [u8],
    number: usize,
    pub(super) rows: usize,
}

impl<'a> Page<'a> {
    pub(super) fn new(layout: &'a Layout, body: &'a [u8], number: usize) -> Self {
        let rows = (layout.rows - number * PAGE_ROWS).min(PAGE_ROWS);
        Self { layout, body, number, rows }
    }

    pub(super) fn times(&self) -> Result<Vec<i64>, ChunkError> {
        let times = self.section(AT, |input| ints::read_line(input, self.rows))?;
        if times.is_sorted() { Ok(times) } else { Err(ChunkError::Damaged("times are not in order")) }
    }

    pub(super) fn sequences(&self) -> Result<Vec<u64>, ChunkError> {
        let sequences = self.section(SEQUENCE, |input| ints::read_line(input, self.rows))?;
        Ok(sequences.into_iter().map(i64::cast_unsigned).collect())
    }

    /// When the reports were received, by when they were.
    pub(super) fn received(&self, times: &[i64]) -> Result<Vec<i64>, ChunkError> {
        let mut received = self.section(RECEIVED, |input| ints::read(input, self.rows))?;
        received.iter_mut().zip(times).for_each(|(delay, at)| *delay = delay.wrapping_add(*at));
        Ok(received)
    }

    /// Of each row; empty if none has one.
    pub(super) fn device_sequences(&self) -> Result<Vec<Option<u64>>, ChunkError> {
        self.section(DEVICE_SEQUENCE, |input| {
            if input.0.is_empty() {
                return Ok(Vec::new());
            }
            let counted = bools::read(input, self.rows)?;
            let counts = ints::read_line(input, counted.iter().filter(|counted| **counted).count())?;
            let mut counts = counts.into_iter().map(i64::cast_unsigned);
            Ok(counted.into_iter().map(|counted| if counted { counts.next() } else { None }).collect())
        })
    }

    /// Of each row, which entry of a dictionary of so many.
    pub(super) fn indices(&self, section: usize, entries: usize) -> Result<Vec<usize>, ChunkError> {
        if entries == 1 {
            return self.section(section, |_| Ok(vec![0; self.rows]));
        }
        let index = |index| usize::try_from(index).ok().filter(|index| *index < entries);
        let indices = self.section(section, |input| ints::read(input, self.rows))?;
        indices.into_iter().map(index).collect::<Option<_>>().ok_or(ChunkError::Damaged("an index"))
    }

    pub(super) fn shapes(&self, budget: &mut Budget) -> Result<Shapes, ChunkError> {
        let lengths: Vec<usize> = self.layout.shapes.iter().map(Vec::len).collect();
        let (shapes, values) = match lengths[..] {
            [length] => (Shapes::One, self.rows.saturating_mul(length)),
            _ => {
                let each = self.indices(SHAPE, lengths.len())?;
                let values = each.iter().fold(0_usize, |sum, shape| sum.saturating_add(lengths[*shape]));
                (Shapes::Each(each), values)
            }
        };
        budget.values = budget.values.checked_sub(values).ok_or(ChunkError::Damaged("too many values"))?;
        Ok(shapes)
    }

    /// How many values a column has here.
    pub(super) fn column_rows(&self, column: usize, shapes: &Shapes) -> usize {
        let in_shape = |shape: &Vec<usize>| shape.iter().filter(|other| **other == column).count();
        let each: Vec<usize> = self.layout.shapes.iter().map(in_shape).collect();
        match shapes {
            Shapes::One => each[0] * self.rows,
            Shapes::Each(shapes) => shapes.iter().map(|shape| each[*shape]).sum(),
        }
    }

    pub(super) fn column(&self, column: usize, rows: usize, budget: &mut Budget) -> Result<Values, ChunkError> {
        self.section(FIXED_SECTIONS + column, |input| match self.layout.columns[column].kind {
            Kind::Bool => bools::read(input, rows).map(Values::Bools),
            Kind::Int => ints::read(input, rows).map(Values::Ints),
            Kind::Float => floats::read(input, rows).map(Values::Floats),
            Kind::Number => floats::read(input, rows).map(Values::Numbers),
            Kind::Text => Texts::read(input, rows, &mut budget.text_bytes).map(Values::Texts),
            Kind::Json | Kind::Event => Texts::read(input, rows, &mut budget.text_bytes).map(Values::Jsons),
        })
    }

    /// A column of numbers, as [`Value::as_f64`] has them.
    #[expect(clippy::cast_precision_loss, reason = "aggregates are f64 by definition")]
    pub(super) fn numbers(&self, column: usize, rows: usize) -> Result<Vec<f64>, ChunkError> {
        self.section(FIXED_SECTIONS + column, |input| match self.layout.columns[column].kind {
            Kind::Bool => Ok(bools::read(input, rows)?.into_iter().map(|bit| f64::from(u8::from(bit))).collect()),
            Kind::Int => ints::read_as(input, rows, |int| int as f64),
            _ => floats::read(input, rows),
        })
    }

    fn section<T>(
        &self,
        section: usize,
        read: impl FnOnce(&mut Input<'a>) -> Result<T, ChunkError>,
    ) -> Result<T, ChunkError> {
        let range = self.layout.sections[self.number * self.layout.sections_per_page() + section].clone();
        let mut input = Input(self.body.get(range).ok_or(ChunkError::Damaged("a section is missing"))?);
        let found = read(&mut input)?;
        input.end()?;
        Ok(found)
    }
}

/// The values of a column in a page.
#[derive(Debug)]
pub(super) enum Values {
    Bools(Vec<bool>),
    Ints(Vec<i64>),
    Floats(Vec<f64>),
    Numbers(Vec<f64>),
    Texts(Texts),
    Jsons(Texts),
}

impl Values {
    pub(super) fn value(&self, row: usize) -> Result<Value, ChunkError> {
        Ok(match self {
            Self::Bools(bools) => Value::Bool(bools[row]),
            Self::Ints(ints) => Value::Int(ints[row]),
            Self::Floats(floats) => Value::Float(floats[row]),
            Self::Numbers(floats) => number(floats[row]),
            Self::Texts(texts) => Value::Text(texts.text(row)?.to_owned()),
            Self::Jsons(_) => Value::Json(self.json(row)?),
        })
    }

    pub(super) fn json(&self, row: usize) -> Result<serde_json::Value, ChunkError> {
        let Self::Jsons(texts) = self else { return Err(ChunkError::Damaged("a column of JSON")) };
        serde_json::from_str(texts.text(row)?).map_err(|_| ChunkError::Damaged("a JSON value"))
    }
}

/// Up to here, both ways, every whole number is a float.
pub(super) const WHOLE_MAX: f64 = (1_i64 << 53) as f64;

#[expect(clippy::cast_possible_truncation, reason = "a whole number up to 2^53")]
fn number(float: f64) -> Value {
    if is_whole(float) { Value::Int(float as i64) } else { Value::Float(float) }
}

/// Whether a float is one of those that a column of numbers gives back as whole.
pub(super) fn is_whole(float: f64) -> bool {
    float.abs() <= WHOLE_MAX && float.fract() == 0.0 && (float != 0.0 || float.is_sign_positive())
}
