use std::{borrow::Cow, ops::Range};

use iot_core::{
    event::{Report, StoredEvent, Value},
    store::Series,
};

use super::{
    CHUNK_ROWS_MAX, CHUNK_TEXT_BYTES_MAX, ChunkError, JSON_DEPTH_MAX, PAGE_ROWS, Reader, bools,
    bytes::{begin, seal},
    floats, ints,
    layout::{Kind, Layout},
    plan::{Dictionary, Plan},
    reader::KIND,
    stats::{ChunkStats, MetricStats, add_values, place},
    texts,
};

/// A chunk and what it holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    /// For [`Reader::open`].
    pub bytes: Vec<u8>,
    /// To be kept beside it.
    pub stats: ChunkStats,
}

/// Encodes reports of one series, which must be in order of (time, sequence), each once. At most [`CHUNK_ROWS_MAX`]
/// reports, [`CHUNK_VALUES_MAX`](super::CHUNK_VALUES_MAX) values and [`CHUNK_TEXT_BYTES_MAX`](super::CHUNK_TEXT_BYTES_MAX) bytes of text go into one chunk; when one of these
/// is passed, encode the two halves.
pub fn encode(events: &[StoredEvent]) -> Result<Encoded, ChunkError> {
    let (first, last) = check(events)?;
    let mut stats = ChunkStats::of_rows(events, first, last);
    let plan = Plan::of(events)?;
    stats.metrics = plan
        .layout
        .metrics
        .iter()
        .map(|metric| MetricStats { metric: metric.clone(), values: 0, numbers: None })
        .collect();
    let metric_of = |column: &usize| plan.layout.columns[*column].metric;
    let metrics: Vec<Vec<usize>> =
        plan.layout.shapes.iter().map(|shape| shape.iter().map(metric_of).collect()).collect();
    for (stored, shape) in events.iter().zip(&plan.shapes) {
        add_values(&mut stats.metrics, stored, &metrics[*shape]);
    }
    stats.metrics.retain(|stats| stats.values > 0);
    Ok(Encoded { bytes: write(plan, events)?, stats })
}

/// Encodes the reports of several chunks of `series` as one. What is in more than one of them is kept once.
pub fn merge(series: &Series, chunks: &[&[u8]]) -> Result<Encoded, ChunkError> {
    let mut events = Vec::new();
    for chunk in chunks {
        let reader = Reader::open(chunk)?;
        if events.len() + reader.rows() > CHUNK_ROWS_MAX {
            return Err(ChunkError::TooLarge { what: "reports", max: CHUNK_ROWS_MAX });
        }
        events.append(&mut reader.events(series)?);
    }
    events.sort_by_key(place);
    events.dedup_by_key(|stored| place(stored));
    encode(&events)
}

fn check(events: &[StoredEvent]) -> Result<(&StoredEvent, &StoredEvent), ChunkError> {
    let (Some(first), Some(last)) = (events.first(), events.last()) else { return Err(ChunkError::Empty) };
    if events.len() > CHUNK_ROWS_MAX {
        return Err(ChunkError::TooLarge { what: "reports", max: CHUNK_ROWS_MAX });
    }
    let of = |stored: &StoredEvent| {
        (stored.event.epoch, stored.event.device == first.event.device, stored.event.tenant == first.event.tenant)
    };
    if let Some(row) = events.iter().position(|stored| of(stored) != (first.event.epoch, true, true)) {
        return Err(ChunkError::MixedSeries { row });
    }
    match events.windows(2).position(|pair| place(&pair[0]) >= place(&pair[1])) {
        Some(row) => Err(ChunkError::OutOfOrder { row: row + 1 }),
        None => Ok((first, last)),
    }
}

fn write(Plan { mut layout, shapes }: Plan, events: &[StoredEvent]) -> Result<Vec<u8>, ChunkError> {
    let mut sections = Sections::default();
    for (page, shapes) in events.chunks(PAGE_ROWS).zip(shapes.chunks(PAGE_ROWS)) {
        layout.starts.push(page[0].event.at.as_micros());
        write_rows(&mut sections, page, &layout);
        sections.put(|out| write_indices(out, shapes.iter().copied(), layout.shapes.len()));
        write_columns(&mut sections, page, shapes, &layout)?;
    }
    layout.sections = sections.ranges;
    let mut out = begin(KIND);
    layout.write(&mut out);
    out.append(&mut sections.bytes);
    Ok(seal(out))
}

#[derive(Default)]
struct Sections {
    bytes: Vec<u8>,
    ranges: Vec<Range<usize>>,
    text_bytes: usize,
}

impl Sections {
    fn put(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        write(&mut self.bytes);
        self.ranges.push(start..self.bytes.len());
    }
}

/// The sections that every row has, in their order.
fn write_rows(sections: &mut Sections, page: &[StoredEvent], layout: &Layout) {
    let column = |of: fn(&StoredEvent) -> i64| page.iter().map(of).collect::<Vec<i64>>();
    sections.put(|out| ints::write_line(out, &column(|stored| stored.event.at.as_micros())));
    sections.put(|out| ints::write_line(out, &column(|stored| stored.sequence.0.cast_signed())));
    let delay = |stored: &StoredEvent| stored.event.received.as_micros().wrapping_sub(stored.event.at.as_micros());
    sections.put(|out| ints::write(out, &column(delay)));
    let counted: Vec<bool> = page.iter().map(|stored| stored.event.device_sequence.is_some()).collect();
    let counts: Vec<i64> =
        page.iter().filter_map(|stored| stored.event.device_sequence).map(u64::cast_signed).collect();
    sections.put(|out| {
        if !counts.is_empty() {
            bools::write(out, &counted);
            ints::write_line(out, &counts);
        }
    });
    let mut products = Dictionary::with(&layout.products);
    let indices = page.iter().map(|stored| products.index(&stored.event.product));
    sections.put(|out| write_indices(out, indices, layout.products.len()));
    let mut homes = Dictionary::with(&layout.homes);
    let indices = page.iter().map(|stored| homes.index(&stored.event.home));
    sections.put(|out| write_indices(out, indices, layout.homes.len()));
}

// Of a dictionary of one, there is nothing to say.
fn write_indices(out: &mut Vec<u8>, indices: impl Iterator<Item = usize>, entries: usize) {
    if entries > 1 {
        ints::write(out, &indices.map(|index| i64::try_from(index).unwrap_or(i64::MAX)).collect::<Vec<i64>>());
    }
}

fn write_columns(
    sections: &mut Sections,
    page: &[StoredEvent],
    shapes: &[usize],
    layout: &Layout,
) -> Result<(), ChunkError> {
    let mut columns: Vec<Values<'_>> = layout.columns.iter().map(|column| Values::new(column.kind)).collect();
    for (stored, shape) in page.iter().zip(shapes) {
        let shape = &layout.shapes[*shape];
        match &stored.event.report {
            Report::Telemetry(values) => {
                for ((_, value), column) in values.iter().zip(shape) {
                    columns[*column].push(value)?;
                }
            }
            Report::Event { data, .. } => columns[shape[0]].push_json(data)?,
        }
    }
    sections.text_bytes += columns.iter().map(Values::text_bytes).sum::<usize>();
    if sections.text_bytes > CHUNK_TEXT_BYTES_MAX {
        return Err(ChunkError::TooLarge { what: "bytes of text", max: CHUNK_TEXT_BYTES_MAX });
    }
    columns.iter().for_each(|column| sections.put(|out| column.write(out)));
    Ok(())
}

/// The values of a column in a page, to be written.
enum Values<'a> {
    Bools(Vec<bool>),
    Ints(Vec<i64>),
    Floats(Vec<f64>),
    Texts(Vec<Cow<'a, str>>),
}

impl<'a> Values<'a> {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Bool => Self::Bools(Vec::new()),
            Kind::Int => Self::Ints(Vec::new()),
            Kind::Float | Kind::Number => Self::Floats(Vec::new()),
            Kind::Text | Kind::Json | Kind::Event => Self::Texts(Vec::new()),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "in a column of numbers, integers are at most 2^53")]
    fn push(&mut self, value: &'a Value) -> Result<(), ChunkError> {
        match (self, value) {
            (Self::Bools(bools), Value::Bool(value)) => bools.push(*value),
            (Self::Ints(ints), Value::Int(value)) => ints.push(*value),
            (Self::Floats(floats), Value::Int(value)) => floats.push(*value as f64),
            (Self::Floats(floats), Value::Float(value)) => floats.push(*value),
            (Self::Texts(texts), Value::Text(value)) => texts.push(value.into()),
            (values, Value::Json(value)) => values.push_json(value)?,
            (_, _) => unreachable!("the plan put a value into a column of another type"),
        }
        Ok(())
    }

    fn push_json(&mut self, value: &serde_json::Value) -> Result<(), ChunkError> {
        if !is_shallow(value, JSON_DEPTH_MAX) {
            return Err(ChunkError::TooDeep);
        }
        if let Self::Texts(texts) = self {
            texts.push(value.to_string().into());
        }
        Ok(())
    }

    fn text_bytes(&self) -> usize {
        if let Self::Texts(texts) = self { texts.iter().map(|text| text.len()).sum() } else { 0 }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Bools(bools) => bools::write(out, bools),
            Self::Ints(ints) => ints::write(out, ints),
            Self::Floats(floats) => floats::write(out, floats),
            Self::Texts(texts) => texts::write(out, texts),
        }
    }
}

fn is_shallow(value: &serde_json::Value, depth: usize) -> bool {
    match value {
        serde_json::Value::Array(items) => depth > 0 && items.iter().all(|item| is_shallow(item, depth - 1)),
        serde_json::Value::Object(members) => depth > 0 && members.values().all(|item| is_shallow(item, depth - 1)),
        _ => true,
    }
}
