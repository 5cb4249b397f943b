//! How events stand in the tables of the log.

use iot_core::{
    event::{Event, Report, Sequence, StoredEvent},
    id::{DeviceId, HomeId, Metric, OwnershipEpoch, ProductId, TenantId},
    store::Series,
    time::Timestamp,
};
use rusqlite::{Connection, OptionalExtension, Row, params, types::ValueRef};

use crate::{codec, sqlite::fault::Fault};

/// An event in the form in which it is stored, made before it goes to the writer.
pub(super) struct Prepared {
    pub(super) series: Series,
    pub(super) at: i64,
    pub(super) received: i64,
    pub(super) device_sequence: Option<i64>,
    pub(super) product: ProductId,
    pub(super) home: Option<HomeId>,
    pub(super) body: Vec<u8>,
    pub(super) metrics: Vec<Metric>,
}

impl Prepared {
    pub(super) fn new(event: &Event) -> Self {
        let metrics = match &event.report {
            Report::Telemetry(values) => values.iter().map(|(metric, _)| metric.clone()).collect(),
            Report::Event { .. } => Vec::new(),
        };
        Self {
            series: series_of_event(event),
            at: event.at.as_micros(),
            received: event.received.as_micros(),
            // Only compared for equality, so that the bits may be read as a signed number.
            device_sequence: event.device_sequence.map(u64::cast_signed),
            product: event.product.clone(),
            home: event.home.clone(),
            body: codec::report(&event.report),
            metrics,
        }
    }
}

fn series_of_event(event: &Event) -> Series {
    Series { tenant: event.tenant.clone(), device: event.device.clone(), epoch: event.epoch }
}

/// The columns that [`stored_event`] reads.
pub(super) const COLUMNS: &str = "sequence, at, received, device_sequence, product, home, body";

pub(super) fn stored_event(row: &Row<'_>, series: &Series) -> Result<StoredEvent, Fault> {
    let has_home = row.get_ref(5)? != ValueRef::Null;
    let event = Event {
        tenant: series.tenant.clone(),
        product: parsed(row, 4, ProductId::parse)?,
        device: series.device.clone(),
        epoch: series.epoch,
        home: has_home.then(|| parsed(row, 5, HomeId::parse)).transpose()?,
        at: Timestamp::from_micros(row.get(1)?),
        received: Timestamp::from_micros(row.get(2)?),
        device_sequence: row.get::<_, Option<i64>>(3)?.map(i64::cast_unsigned),
        report: codec::read_report(row.get_ref(6)?.as_blob().map_err(rusqlite::Error::from)?)?,
    };
    Ok(StoredEvent { sequence: Sequence(row.get::<_, i64>(0)?.cast_unsigned()), event })
}

pub(super) fn find_series(connection: &Connection, series: &Series) -> Result<Option<i64>, Fault> {
    let sql = "SELECT id FROM series WHERE tenant = ?1 AND device = ?2 AND epoch = ?3";
    let mut statement = connection.prepare_cached(sql)?;
    let key = params![series.tenant.as_str(), series.device.as_str(), series.epoch.0.cast_signed()];
    Ok(statement.query_row(key, |row| row.get(0)).optional()?)
}

/// Reads tenant, device and epoch from a column on.
pub(super) fn series_of(row: &Row<'_>, column: usize) -> Result<Series, Fault> {
    Ok(Series {
        tenant: parsed(row, column, TenantId::parse)?,
        device: parsed(row, column + 1, DeviceId::parse)?,
        epoch: OwnershipEpoch(row.get::<_, i64>(column + 2)?.cast_unsigned()),
    })
}

pub(super) fn parsed<T, E: std::fmt::Display>(
    row: &Row<'_>,
    column: usize,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, Fault> {
    let text = row.get_ref(column)?.as_str().map_err(rusqlite::Error::from)?;
    parse(text).map_err(|error| Fault::damaged(error.to_string()))
}
