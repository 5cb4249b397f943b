//! Telemetry as [Parquet](https://parquet.apache.org/docs/file-format/), for DuckDB, Spark, pandas and whatever else reads
//! that.
//!
//! A file has a row for each value of each report, in the order in which reports were given. Its columns, whatever the
//! products are:
//!
//! | column | type | |
//! |---|---|---|
//! | `tenant`, `product`, `device` | string | |
//! | `epoch` | unsigned 64 bits | the device's ownership epoch |
//! | `home` | string or null | where the device stood |
//! | `reported_at` | timestamp, µs, UTC | when it was, by the device |
//! | `received_at` | timestamp, µs, UTC | when the node received it |
//! | `sequence` | unsigned 64 bits | its place in the node's log: what belongs to one report has the same |
//! | `device_sequence` | unsigned 64 bits or null | the device's own count |
//! | `kind` | string | `telemetry` or `event` |
//! | `name` | string | the metric, or the event's name |
//! | `value_double`, `value_integer`, `value_boolean`, `value_text`, `value_json` | or null | the value: one of the five is not null. Of an event, its details |
//!
//! Pages are compressed with Snappy, and strings are in dictionaries. What is written is the same for the same reports.

use std::{
    io::{self, Write},
    sync::Arc,
};

use iot_core::{
    event::{Report, StoredEvent, Value},
    store::{Range, StoreError, TelemetryStore},
};
use parquet::{
    basic::Compression,
    data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int64Type},
    errors::ParquetError,
    file::{
        properties::WriterProperties,
        writer::{SerializedFileWriter, SerializedRowGroupWriter},
    },
    schema::parser::parse_message_type,
};

/// The most rows of a row group, and so of what is held in memory: some 10 to 20 MB.
const GROUP_ROWS_MAX: usize = 131_072;
/// The most bytes of texts and JSON in a row group, and one report more.
const GROUP_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How many reports are read from a store at once.
const PAGE: u32 = 1_000;
/// Of a value that is there, and of one that is not.
const PRESENT: i16 = 1;
const ABSENT: i16 = 0;

const SCHEMA: &str = "message telemetry {
    required binary tenant (STRING);
    required binary product (STRING);
    required binary device (STRING);
    required int64 epoch (INTEGER(64,false));
    optional binary home (STRING);
    required int64 reported_at (TIMESTAMP(MICROS,true));
    required int64 received_at (TIMESTAMP(MICROS,true));
    required int64 sequence (INTEGER(64,false));
    optional int64 device_sequence (INTEGER(64,false));
    required binary kind (STRING);
    required binary name (STRING);
    optional double value_double;
    optional int64 value_integer (INTEGER(64,true));
    optional boolean value_boolean;
    optional binary value_text (STRING);
    optional binary value_json (JSON);
}";

/// Why a file was not written whole. What has been written is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// What was to be written to has failed.
    #[error("the file cannot be written")]
    Write(#[source] io::Error),
    /// The telemetry cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<ParquetError> for ExportError {
    fn from(error: ParquetError) -> Self {
        Self::Write(io::Error::other(error))
    }
}

/// What is in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Exported {
    /// How many reports.
    pub reports: u64,
    /// How many values: the file's rows.
    pub values: u64,
}

/// Writes one file. Without [`finish`](Self::finish) it is none.
pub struct Writer<W: Write + Send> {
    file: SerializedFileWriter<W>,
    rows: Rows,
    exported: Exported,
}

impl<W: Write + Send> Writer<W> {
    /// Begins a file. It is written in small pieces: give it a buffer.
    pub fn new(to: W) -> Result<Self, ExportError> {
        let schema = Arc::new(parse_message_type(SCHEMA)?);
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        let file = SerializedFileWriter::new(to, schema, Arc::new(properties))?;
        Ok(Self { file, rows: Rows::default(), exported: Exported::default() })
    }

    /// Adds a report.
    pub fn push(&mut self, stored: &StoredEvent) -> Result<(), ExportError> {
        self.exported.reports += 1;
        self.exported.values += self.rows.push(stored);
        match self.rows.count() >= GROUP_ROWS_MAX || self.rows.bytes >= GROUP_BYTES_MAX {
            true => self.flush(),
            false => Ok(()),
        }
    }

    /// Adds all reports of a range, the oldest first.
    pub async fn push_range(&mut self, store: &dyn TelemetryStore, range: &Range) -> Result<(), ExportError> {
        let mut cursor = None;
        loop {
            let page = store.range(range, false, cursor.as_ref(), PAGE).await?;
            for stored in &page.items {
                self.push(stored)?;
            }
            match page.next {
                Some(next) => cursor = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Writes the rest, and answers what has been written to and what is in it.
    pub fn finish(mut self) -> Result<(W, Exported), ExportError> {
        self.flush()?;
        Ok((self.file.into_inner()?, self.exported))
    }

    fn flush(&mut self) -> Result<(), ExportError> {
        if self.rows.count() == 0 {
            return Ok(());
        }
        let mut group = self.file.next_row_group()?;
        std::mem::take(&mut self.rows).write(&mut group)?;
        group.close()?;
        Ok(())
    }
}

impl<W: Write + Send> std::fmt::Debug for Writer<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("exported", &self.exported).finish_non_exhaustive()
    }
}

/// A column whose values may be missing: those that are there, and for each row whether it has one.
struct Optional<T> {
    values: Vec<T>,
    levels: Vec<i16>,
}

impl<T> Default for Optional<T> {
    fn default() -> Self {
        Self { values: Vec::new(), levels: Vec::new() }
    }
}

impl<T> Optional<T> {
    fn push(&mut self, value: Option<T>) {
        self.levels.push(if value.is_some() { PRESENT } else { ABSENT });
        self.values.extend(value);
    }
}

/// Rows by column, in the order of the schema.
#[derive(Default)]
struct Rows {
    tenant: Vec<ByteArray>,
    product: Vec<ByteArray>,
    device: Vec<ByteArray>,
    epoch: Vec<i64>,
    home: Optional<ByteArray>,
    at: Vec<i64>,
    received: Vec<i64>,
    sequence: Vec<i64>,
    device_sequence: Optional<i64>,
    kind: Vec<ByteArray>,
    name: Vec<ByteArray>,
    double: Optional<f64>,
    integer: Optional<i64>,
    boolean: Optional<bool>,
    text: Optional<ByteArray>,
    json: Optional<ByteArray>,
    /// Of texts and JSON.
    bytes: usize,
}

impl Rows {
    fn count(&self) -> usize {
        self.at.len()
    }

    /// Answers how many rows a report is.
    fn push(&mut self, stored: &StoredEvent) -> u64 {
        let before = self.count();
        let shared = Shared::of(stored);
        match &stored.event.report {
            Report::Telemetry(values) => {
                for (metric, value) in values {
                    self.row(stored, &shared, "telemetry", metric.as_str());
                    self.value(value);
                }
            }
            Report::Event { name, data } => {
                self.row(stored, &shared, "event", name.as_str());
                self.none_but_json(data);
            }
        }
        (self.count() - before) as u64
    }

    fn row(&mut self, stored: &StoredEvent, shared: &Shared, kind: &'static str, name: &str) {
        let event = &stored.event;
        self.tenant.push(shared.tenant.clone());
        self.product.push(shared.product.clone());
        self.device.push(shared.device.clone());
        self.epoch.push(event.epoch.0.cast_signed());
        self.home.push(shared.home.clone());
        self.at.push(event.at.as_micros());
        self.received.push(event.received.as_micros());
        self.sequence.push(stored.sequence.0.cast_signed());
        self.device_sequence.push(event.device_sequence.map(u64::cast_signed));
        self.kind.push(ByteArray::from(kind));
        self.name.push(ByteArray::from(name));
    }

    fn value(&mut self, value: &Value) {
        let (mut double, mut integer, mut boolean, mut text) = (None, None, None, None);
        match value {
            Value::Float(value) => double = Some(*value),
            Value::Int(value) => integer = Some(*value),
            Value::Bool(value) => boolean = Some(*value),
            Value::Text(value) => text = Some(ByteArray::from(value.as_str())),
            Value::Json(value) => return self.none_but_json(value),
        }
        self.bytes += text.as_ref().map_or(0, ByteArray::len);
        self.double.push(double);
        self.integer.push(integer);
        self.boolean.push(boolean);
        self.text.push(text);
        self.json.push(None);
    }

    fn none_but_json(&mut self, value: &serde_json::Value) {
        self.double.push(None);
        self.integer.push(None);
        self.boolean.push(None);
        self.text.push(None);
        let json = ByteArray::from(value.to_string().into_bytes());
        self.bytes += json.len();
        self.json.push(Some(json));
    }

    fn write<W: Write + Send>(self, group: &mut SerializedRowGroupWriter<'_, W>) -> Result<(), ParquetError> {
        let required = None;
        column::<ByteArrayType, _>(group, &self.tenant, required)?;
        column::<ByteArrayType, _>(group, &self.product, required)?;
        column::<ByteArrayType, _>(group, &self.device, required)?;
        column::<Int64Type, _>(group, &self.epoch, required)?;
        column::<ByteArrayType, _>(group, &self.home.values, Some(&self.home.levels))?;
        column::<Int64Type, _>(group, &self.at, required)?;
        column::<Int64Type, _>(group, &self.received, required)?;
        column::<Int64Type, _>(group, &self.sequence, required)?;
        column::<Int64Type, _>(group, &self.device_sequence.values, Some(&self.device_sequence.levels))?;
        column::<ByteArrayType, _>(group, &self.kind, required)?;
        column::<ByteArrayType, _>(group, &self.name, required)?;
        column::<DoubleType, _>(group, &self.double.values, Some(&self.double.levels))?;
        column::<Int64Type, _>(group, &self.integer.values, Some(&self.integer.levels))?;
        column::<BoolType, _>(group, &self.boolean.values, Some(&self.boolean.levels))?;
        column::<ByteArrayType, _>(group, &self.text.values, Some(&self.text.levels))?;
        column::<ByteArrayType, _>(group, &self.json.values, Some(&self.json.levels))
    }
}

/// What all rows of a report have in common.
struct Shared {
    tenant: ByteArray,
    product: ByteArray,
    device: ByteArray,
    home: Option<ByteArray>,
}

impl Shared {
    fn of(stored: &StoredEvent) -> Self {
        let event = &stored.event;
        Self {
            tenant: event.tenant.as_str().into(),
            product: event.product.as_str().into(),
            device: event.device.as_str().into(),
            home: event.home.as_ref().map(|home| home.as_str().into()),
        }
    }
}

fn column<T: DataType, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: &[T::T],
    levels: Option<&[i16]>,
) -> Result<(), ParquetError> {
    let next = group.next_column()?;
    let mut next = next.ok_or_else(|| ParquetError::General("the schema has fewer columns".to_owned()))?;
    next.typed::<T>().write_batch(values, levels, None)?;
    next.close()
}
