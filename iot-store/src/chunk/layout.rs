//! What stands before the sections: the dictionaries and the directory.

use std::ops::Range;

use iot_core::id::{HomeId, Metric, ProductId};

use super::{
    CHUNK_ROWS_MAX, ChunkError, PAGE_ROWS,
    bytes::{Input, write_signed, write_text, write_unsigned},
};

pub(super) const AT: usize = 0;
pub(super) const SEQUENCE: usize = 1;
pub(super) const RECEIVED: usize = 2;
pub(super) const DEVICE_SEQUENCE: usize = 3;
pub(super) const PRODUCT: usize = 4;
pub(super) const HOME: usize = 5;
pub(super) const SHAPE: usize = 6;
/// The sections of a page before those of its columns.
pub(super) const FIXED_SECTIONS: usize = 7;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Bool,
    Int,
    Float,
    /// Both: whole numbers are `Int`, all others, and -0, are `Float`, as devices that write JSON send them.
    Number,
    Text,
    Json,
    /// The details of a named event.
    Event,
}

const KINDS: [Kind; 7] = [Kind::Bool, Kind::Int, Kind::Float, Kind::Number, Kind::Text, Kind::Json, Kind::Event];

impl Kind {
    pub(super) fn is_number(self) -> bool {
        matches!(self, Self::Bool | Self::Int | Self::Float | Self::Number)
    }
}

/// The values of one type of one metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Column {
    pub(super) metric: usize,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Layout {
    pub(super) rows: usize,
    /// The first time in each page.
    pub(super) starts: Vec<i64>,
    pub(super) last: i64,
    pub(super) products: Vec<ProductId>,
    pub(super) homes: Vec<Option<HomeId>>,
    pub(super) metrics: Vec<Metric>,
    pub(super) columns: Vec<Column>,
    /// The columns of a report, in its order.
    pub(super) shapes: Vec<Vec<usize>>,
    /// Of each page, one after the other.
    pub(super) sections: Vec<Range<usize>>,
}

impl Layout {
    pub(super) fn pages(&self) -> usize {
        self.rows.div_ceil(PAGE_ROWS)
    }

    pub(super) fn sections_per_page(&self) -> usize {
        FIXED_SECTIONS + self.columns.len()
    }

    /// Whether reports of this shape have values of the metric.
    pub(super) fn shape_has(&self, shape: usize, metric: usize) -> bool {
        self.shapes[shape].iter().any(|column| {
            let column = self.columns[*column];
            column.metric == metric && column.kind != Kind::Event
        })
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        write_unsigned(out, self.rows as u64);
        write_signed(out, self.starts[0]);
        let times = self.starts.iter().chain([&self.last]);
        times.clone().zip(times.skip(1)).for_each(|(time, next)| write_signed(out, next.wrapping_sub(*time)));
        write_texts(out, self.products.iter().map(ProductId::as_str));
        write_texts(out, self.homes.iter().map(|home| home.as_ref().map_or("", HomeId::as_str)));
        write_texts(out, self.metrics.iter().map(Metric::as_str));
        write_unsigned(out, self.columns.len() as u64);
        for column in &self.columns {
            write_unsigned(out, (column.metric * KINDS.len()) as u64 + column.kind as u64);
        }
        write_unsigned(out, self.shapes.len() as u64);
        for shape in &self.shapes {
            write_unsigned(out, shape.len() as u64);
            shape.iter().for_each(|column| write_unsigned(out, *column as u64));
        }
        self.sections.iter().for_each(|section| write_unsigned(out, section.len() as u64));
    }

    /// Reads [`write`](Self::write); answers also the bytes of the sections.
    pub(super) fn read(body: &[u8]) -> Result<(Self, &[u8]), ChunkError> {
        let input = &mut Input(body);
        let rows = input.count(CHUNK_ROWS_MAX)?;
        let mut layout = Self { rows, ..Self::default() };
        let mut time = input.signed()?;
        for _ in 0..layout.pages() {
            layout.starts.push(time);
            time = time.wrapping_add(input.signed()?);
        }
        layout.last = time;
        layout.products = read_list(input, |input| ProductId::parse(input.text()?).map_err(|_| BROKEN))?;
        layout.homes = read_list(input, |input| match input.text()? {
            "" => Ok(None),
            home => HomeId::parse(home).map(Some).map_err(|_| BROKEN),
        })?;
        layout.metrics = read_list(input, |input| Metric::parse(input.text()?).map_err(|_| BROKEN))?;
        layout.columns = read_list(input, |input| {
            let column = input.count(layout.metrics.len() * KINDS.len())?;
            let metric = column / KINDS.len();
            let kind = KINDS[column % KINDS.len()];
            if metric < layout.metrics.len() { Ok(Column { metric, kind }) } else { Err(BROKEN) }
        })?;
        layout.shapes = read_list(input, |input| read_shape(input, &layout.columns))?;
        layout.read_sections(input)?;
        layout.check()?;
        Ok((layout, input.0))
    }

    fn read_sections(&mut self, input: &mut Input<'_>) -> Result<(), ChunkError> {
        let count = self.pages() * self.sections_per_page();
        if count > input.0.len() {
            return Err(BROKEN);
        }
        let mut end = 0;
        for _ in 0..count {
            let start = end;
            end += input.listed()?;
            self.sections.push(start..end);
        }
        if end == input.0.len() { Ok(()) } else { Err(BROKEN) }
    }

    fn check(&self) -> Result<(), ChunkError> {
        let is_complete =
            self.rows > 0 && !self.products.is_empty() && !self.homes.is_empty() && !self.shapes.is_empty();
        let is_sorted = self.starts.is_sorted() && self.starts.last() <= Some(&self.last);
        if is_complete && is_sorted { Ok(()) } else { Err(BROKEN) }
    }
}

fn write_texts<'a>(out: &mut Vec<u8>, texts: impl ExactSizeIterator<Item = &'a str>) {
    write_unsigned(out, texts.len() as u64);
    texts.for_each(|text| write_text(out, text));
}

fn read_list<'a, T>(
    input: &mut Input<'a>,
    mut item: impl FnMut(&mut Input<'a>) -> Result<T, ChunkError>,
) -> Result<Vec<T>, ChunkError> {
    let count = input.listed()?;
    (0..count).map(|_| item(input)).collect()
}

// A named event stands alone.
fn read_shape(input: &mut Input<'_>, columns: &[Column]) -> Result<Vec<usize>, ChunkError> {
    let shape = read_list(input, |input| match input.count(columns.len())? {
        column if column < columns.len() => Ok(column),
        _ => Err(BROKEN),
    })?;
    let has_event = shape.iter().any(|column| columns[*column].kind == Kind::Event);
    if has_event && shape.len() > 1 { Err(BROKEN) } else { Ok(shape) }
}

const BROKEN: ChunkError = ChunkError::Damaged("the directory");
