//! Sealed telemetry: reports of one series in one compressed blob, and rollups in another. Pure: bytes in, bytes out.
//!
//! A chunk gives back every report bit for bit, in order of time and sequence. It is divided into pages of
//! [`PAGE_ROWS`] rows, and a page into columns: the times (once for all metrics), the sequences, the times of receipt,
//! the device's own counts, products, homes, shapes (which metrics of which types a report has, in which order), and one
//! column for each metric and type. A read decodes only the pages and columns that it needs.
//!
//! ```
//! # use iot_core::{event::*, id::*, store::Series, time::Timestamp};
//! use iot_store::chunk::{self, Reader};
//!
//! # let series = Series { tenant: TenantId::parse("t")?, device: DeviceId::parse("d")?, epoch: OwnershipEpoch(1) };
//! # let reports: Vec<StoredEvent> = (1..=60).map(|n| StoredEvent { sequence: Sequence(n), event: Event {
//! #     tenant: series.tenant.clone(), product: ProductId::parse("p").unwrap(), device: series.device.clone(),
//! #     epoch: series.epoch, home: None, at: Timestamp::from_millis(n as i64), received: Timestamp::from_millis(n as i64),
//! #     device_sequence: None, report: Report::Telemetry(vec![(Metric::parse("power").unwrap(), Value::Float(21.5))]),
//! # } }).collect();
//! let sealed = chunk::encode(&reports)?;
//! assert_eq!(sealed.stats.rows, 60);
//!
//! let reader = Reader::open(&sealed.bytes)?;
//! assert_eq!(reader.numbers(&Metric::parse("power")?)?.values, [21.5; 60]);
//! assert_eq!(reader.events(&series)?, reports);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Format
//! Two bytes name the kind and the version of the format ([`FORMAT`]), the last four are a CRC-32 (IEEE) of all before
//! them, in little endian. Between them stand, in a chunk, the dictionaries, a directory of sections, and the sections.
//! Whole numbers are LEB128. Numbers in columns are compressed by pco or, if that is shorter, packed; floats that are
//! decimals with few digits are kept as whole numbers and an exponent; texts are raw DEFLATE (RFC 1951) where that helps.
//!
//! # Damage
//! Whatever the bytes are, reading them neither panics nor allocates beyond what the bounds here say: a blob that
//! was cut, or in which a bit is wrong, is [`ChunkError::Damaged`].

mod bools;
mod bytes;
mod encode;
mod floats;
mod ints;
mod layout;
mod page;
mod plan;
mod reader;
mod rollup;
mod stats;
mod texts;

pub use encode::{Encoded, encode, merge};
pub use reader::{Numbers, Reader, Selection};
pub use rollup::{Rollup, Rollups};
pub use stats::{ChunkStats, MetricStats, Place, Point, Summary};

/// The version of the format that is written, and the only one that is read.
pub const FORMAT: u8 = 1;

/// The most reports in one chunk.
pub const CHUNK_ROWS_MAX: usize = 65_536;

/// The most values in one chunk; a named event counts as one.
pub const CHUNK_VALUES_MAX: usize = 1 << 20;

/// The most bytes of text and JSON in one chunk, before compression.
pub const CHUNK_TEXT_BYTES_MAX: usize = 1 << 25;

/// The rows of a page; the last page of a chunk may have fewer.
pub const PAGE_ROWS: usize = 8_192;

/// The deepest nesting of arrays and objects in a JSON value.
pub const JSON_DEPTH_MAX: usize = 127;

/// The most rows in one blob of rollups.
pub const ROLLUPS_MAX: usize = 65_536;

/// Why something was not encoded or not decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChunkError {
    /// There is nothing to encode.
    #[error("nothing to encode")]
    Empty,
    /// Encode fewer at once.
    #[error("more than {max} {what} in one chunk")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// The bound.
        max: usize,
    },
    /// Sort the reports first, by time and then by sequence, each once; rollups by start.
    #[error("row {row} does not come after the one before it")]
    OutOfOrder {
        /// The first that does not, counted from 0.
        row: usize,
    },
    /// Encode each series on its own.
    #[error("row {row} is of another series than the first")]
    MixedSeries {
        /// The first that is, counted from 0.
        row: usize,
    },
    /// A JSON value cannot be kept.
    #[error("a JSON value is nested deeper than {JSON_DEPTH_MAX}")]
    TooDeep,
    /// Written by a later version, or not of this kind.
    #[error("format {kind:#04x} version {version} is not known here")]
    UnknownFormat {
        /// The first byte.
        kind: u8,
        /// The second.
        version: u8,
    },
    /// The bytes are not what was written; restore them from elsewhere.
    #[error("damaged: {0}")]
    Damaged(&'static str),
}
