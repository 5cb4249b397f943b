use std::collections::HashMap;

use async_trait::async_trait;
use iot_core::{
    event::{Event, Report, Sequence, StoredEvent},
    id::{ConsumerId, DeviceId, HomeId, Metric, NodeId, OwnershipEpoch, ProductId, TenantId},
    problem::Cursor,
    store::{Aggregate, Bucket, LatestValue, Page, Range, Series, StoreError, TelemetryStore},
    time::Timestamp,
};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{Sqlite, codec, erase, fault::Fault, ordered, runs, writer::Outcome};
use crate::rules::{Buckets, narrowed, place_cursor, read_place};

/// The most series whose numbers the writer remembers; then it begins anew.
const SERIES_KNOWN_MAX: usize = 100_000;
/// The most events that one page of a range looks at; it may then hold fewer than were asked for.
const RANGE_EVENTS_MAX: usize = 100_000;
/// How many events are forgotten in one transaction, so that appends need not wait for all.
const EXPIRED_PER_JOB: u32 = 5_000;

/// What the writer remembers about the file.
#[derive(Default)]
pub(super) struct Known {
    series: HashMap<Series, i64>,
    nodes: HashMap<NodeId, i64>,
}

/// An event in the form in which it is stored, made before it goes to the writer.
struct Prepared {
    series: Series,
    at: i64,
    received: i64,
    device_sequence: Option<i64>,
    product: ProductId,
    home: Option<HomeId>,
    body: Vec<u8>,
    values: codec::Places,
}

#[async_trait]
impl TelemetryStore for Sqlite {
    async fn append(&self, node: &NodeId, events: &[Event]) -> Result<Vec<Option<Sequence>>, StoreError> {
        let node = node.clone();
        let events: Vec<Prepared> = events.iter().map(Prepared::new).collect();
        self.inner
            .data
            .run(move |connection, known| Ok(Outcome::Keep(append(connection, known, &node, &events)?)))
            .await
    }

    async fn after(&self, node: &NodeId, after: Sequence, limit: u32) -> Result<Vec<StoredEvent>, StoreError> {
        let node = node.clone();
        let read = move |connection: &Connection| {
            // The sequence is one for all nodes of the file, which has one as a rule.
            let sql = "SELECT sequence, at, received, device_sequence, product, home, body, tenant, device, epoch
                FROM event JOIN series ON series.id = event.series
                WHERE sequence > ?1 AND node = (SELECT id FROM node WHERE name = ?2) ORDER BY sequence LIMIT ?3";
            let mut statement = connection.prepare_cached(sql)?;
            let mut rows = statement.query(params![ordered(after.0), node.as_str(), limit])?;
            let mut events = Vec::new();
            while let Some(row) = rows.next()? {
                events.push(stored_event(row, &series_of(row, 7)?)?);
            }
            Ok(events)
        };
        self.inner.data_readers.run(read).await
    }

    async fn latest(&self, series: &Series) -> Result<Vec<LatestValue>, StoreError> {
        let series = series.clone();
        let read = move |connection: &Connection| {
            let Some(id) = find_series(connection, &series)? else { return Ok(Vec::new()) };
            let sql = "SELECT metric, at, value FROM latest WHERE series = ?1 ORDER BY metric";
            let mut statement = connection.prepare_cached(sql)?;
            let mut rows = statement.query([id])?;
            let mut latest = Vec::new();
            while let Some(row) = rows.next()? {
                latest.push(LatestValue {
                    metric: parsed(row, 0, Metric::parse)?,
                    at: Timestamp::from_micros(row.get(1)?),
                    value: codec::read_value_at(row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?)?,
                });
            }
            Ok(latest)
        };
        self.inner.data_readers.run(read).await
    }

    async fn range(
        &self,
        range: &Range,
        newest_first: bool,
        cursor: Option<&Cursor>,
        limit: u32,
    ) -> Result<Page<StoredEvent>, StoreError> {
        let after = match cursor.map(read_place) {
            Some(None) => return Ok(Page { items: Vec::new(), next: None }),
            place => place.flatten(),
        };
        let (range, limit) = (range.clone(), limit.max(1) as usize);
        let read = move |connection: &Connection| page(connection, &range, newest_first, after, limit);
        self.inner.data_readers.run(read).await
    }

    async fn aggregate(&self, aggregate: &Aggregate, limit: u32) -> Result<Vec<Bucket>, StoreError> {
        let aggregate = aggregate.clone();
        self.inner.data_readers.run(move |connection| buckets(connection, &aggregate, limit)).await
    }

    async fn expire(&self, before: Timestamp) -> Result<u64, StoreError> {
        let mut expired = 0;
        loop {
            let forgotten = self.inner.data.run(move |connection, _| forget(connection, before)).await?;
            expired += forgotten;
            if forgotten < u64::from(EXPIRED_PER_JOB) {
                return Ok(expired);
            }
        }
    }

    async fn erase(&self, series: &Series) -> Result<u64, StoreError> {
        erase::erase(self, series).await
    }

    async fn checkpoint(&self, node: &NodeId, consumer: &ConsumerId) -> Result<Sequence, StoreError> {
        let (node, consumer) = (node.clone(), consumer.clone());
        let read = move |connection: &Connection| {
            let sql = "SELECT sequence FROM checkpoint WHERE node = ?1 AND consumer = ?2";
            let mut statement = connection.prepare_cached(sql)?;
            let at: Option<i64> =
                statement.query_row([node.as_str(), consumer.as_str()], |row| row.get(0)).optional()?;
            Ok(Sequence(at.unwrap_or_default().cast_unsigned()))
        };
        self.inner.data_readers.run(read).await
    }

    async fn advance(&self, node: &NodeId, consumer: &ConsumerId, to: Sequence) -> Result<(), StoreError> {
        let (node, consumer) = (node.clone(), consumer.clone());
        let write = move |connection: &Connection, _: &mut Known| {
            let sql = "INSERT INTO checkpoint (node, consumer, sequence) VALUES (?1, ?2, ?3)
                ON CONFLICT DO UPDATE SET sequence = max(sequence, excluded.sequence)";
            connection.prepare_cached(sql)?.execute(params![node.as_str(), consumer.as_str(), ordered(to.0)])?;
            Ok(Outcome::Keep(()))
        };
        self.inner.data.run(write).await
    }
}

// === append ===

impl Prepared {
    fn new(event: &Event) -> Self {
        let (body, values) = codec::report(&event.report);
        Self {
            series: Series { tenant: event.tenant.clone(), device: event.device.clone(), epoch: event.epoch },
            at: event.at.as_micros(),
            received: event.received.as_micros(),
            // Only compared for equality, so that the bits may be read as a signed number.
            device_sequence: event.device_sequence.map(u64::cast_signed),
            product: event.product.clone(),
            home: event.home.clone(),
            body,
            values,
        }
    }
}

fn append(
    connection: &Connection,
    known: &mut Known,
    node: &NodeId,
    events: &[Prepared],
) -> Result<Vec<Option<Sequence>>, Fault> {
    let node = known.node(connection, node)?;
    let mut sequence: i64 = connection
        .prepare_cached("SELECT value FROM counter WHERE name = 'sequence'")?
        .query_row([], |row| row.get(0))?;
    let sql = "INSERT INTO event (sequence, node, series, at, received, device_sequence, product, home, body)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    let mut insert = connection.prepare_cached(sql)?;
    let mut newest: HashMap<(i64, &Metric), (i64, &[u8])> = HashMap::new();
    let mut placed = Vec::with_capacity(events.len());
    for event in events {
        let series = known.series(connection, &event.series)?;
        let Prepared { at, received, device_sequence, product, home, body, .. } = event;
        if let Some(count) = device_sequence
            && !runs::add(connection, series, *count)?
        {
            placed.push(None);
            continue;
        }
        let home = home.as_ref().map(HomeId::as_str);
        let row = params![sequence + 1, node, series, at, received, device_sequence, product.as_str(), home, body];
        insert.execute(row)?;
        sequence += 1;
        placed.push(Some(Sequence(sequence.cast_unsigned())));
        for (metric, place) in &event.values {
            let newer = (*at, &body[place.clone()]);
            newest
                .entry((series, metric))
                .and_modify(|old| *old = if newer.0 >= old.0 { newer } else { *old })
                .or_insert(newer);
        }
    }
    connection.prepare_cached("UPDATE counter SET value = ?1 WHERE name = 'sequence'")?.execute([sequence])?;
    keep_newest(connection, newest)?;
    Ok(placed)
}

fn keep_newest(connection: &Connection, newest: HashMap<(i64, &Metric), (i64, &[u8])>) -> Result<(), Fault> {
    let sql = "INSERT INTO latest (series, metric, at, value) VALUES (?1, ?2, ?3, ?4)
        ON CONFLICT DO UPDATE SET at = excluded.at, value = excluded.value WHERE excluded.at >= at";
    let mut upsert = connection.prepare_cached(sql)?;
    for ((series, metric), (at, value)) in newest {
        upsert.execute(params![series, metric.as_str(), at, value])?;
    }
    Ok(())
}

impl Known {
    fn node(&mut self, connection: &Connection, node: &NodeId) -> Result<i64, Fault> {
        if let Some(id) = self.nodes.get(node) {
            return Ok(*id);
        }
        let sql = "INSERT INTO node (name) VALUES (?1) ON CONFLICT DO UPDATE SET name = name RETURNING id";
        let id = connection.prepare_cached(sql)?.query_row([node.as_str()], |row| row.get(0))?;
        self.nodes.insert(node.clone(), id);
        Ok(id)
    }

    fn series(&mut self, connection: &Connection, series: &Series) -> Result<i64, Fault> {
        if let Some(id) = self.series.get(series) {
            return Ok(*id);
        }
        let id = match find_series(connection, series)? {
            Some(id) => id,
            None => {
                let mut insert =
                    connection.prepare_cached("INSERT INTO series (tenant, device, epoch) VALUES (?1, ?2, ?3)")?;
                insert.insert(params![series.tenant.as_str(), series.device.as_str(), series.epoch.0.cast_signed()])?
            }
        };
        if self.series.len() >= SERIES_KNOWN_MAX {
            self.series.clear();
        }
        self.series.insert(series.clone(), id);
        Ok(id)
    }
}

fn forget(connection: &Connection, before: Timestamp) -> Result<Outcome<u64>, Fault> {
    let sql = "SELECT sequence, series, device_sequence FROM event WHERE received < ?1 LIMIT ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map(params![before.as_micros(), EXPIRED_PER_JOB], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, Option<i64>>(2)?))
    })?;
    let expired = rows.collect::<Result<Vec<_>, _>>()?;
    let mut delete = connection.prepare_cached("DELETE FROM event WHERE sequence = ?1")?;
    for (sequence, series, count) in &expired {
        delete.execute([sequence])?;
        if let Some(count) = count {
            runs::remove(connection, *series, *count)?;
        }
    }
    Ok(Outcome::Keep(expired.len() as u64))
}

// === read ===

const ASCENDING: &str = "SELECT sequence, at, received, device_sequence, product, home, body FROM event
    WHERE series = ?1 AND at >= ?2 AND at < ?3 AND (at, sequence) > (?4, ?5) ORDER BY at, sequence";
const DESCENDING: &str = "SELECT sequence, at, received, device_sequence, product, home, body FROM event
    WHERE series = ?1 AND at >= ?2 AND at < ?3 AND (at, sequence) < (?4, ?5) ORDER BY at DESC, sequence DESC";

fn page(
    connection: &Connection,
    range: &Range,
    newest_first: bool,
    after: Option<(Timestamp, Sequence)>,
    limit: usize,
) -> Result<Page<StoredEvent>, Fault> {
    let mut page = Page { items: Vec::new(), next: None };
    let Some(series) = find_series(connection, &range.series)? else { return Ok(page) };
    let (from, mut until) = (range.from.as_micros(), range.until.as_micros());
    // Seeks in the index: the row values alone would be checked only row by row.
    let after = after.map(|(at, sequence)| (at.as_micros(), ordered(sequence.0)));
    let (sql, at, sequence) = if newest_first {
        let (at, sequence) = after.unwrap_or((i64::MAX, i64::MAX));
        until = until.min(at.saturating_add(1));
        (DESCENDING, at, sequence)
    } else {
        let (at, sequence) = after.unwrap_or((i64::MIN, i64::MIN));
        (ASCENDING, at, sequence)
    };
    let from = if newest_first { from } else { from.max(at) };
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![series, from, until, at, sequence])?;
    let mut seen = 0;
    let mut last = None;
    while let Some(row) = rows.next()? {
        if page.items.len() == limit || seen == RANGE_EVENTS_MAX {
            page.next = last.map(|(at, sequence)| place_cursor(at, sequence));
            break;
        }
        let StoredEvent { sequence, event } = stored_event(row, &range.series)?;
        seen += 1;
        last = Some((event.at, sequence));
        page.items.extend(narrowed(event, range.metric.as_ref()).map(|event| StoredEvent { sequence, event }));
    }
    Ok(page)
}

fn buckets(connection: &Connection, aggregate: &Aggregate, limit: u32) -> Result<Vec<Bucket>, Fault> {
    let mut buckets = Buckets::new(aggregate, limit);
    let Some(series) = find_series(connection, &aggregate.series)? else { return Ok(buckets.finish()) };
    let sql = "SELECT at, body FROM event WHERE series = ?1 AND at >= ?2 AND at < ?3 ORDER BY at, sequence";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![series, aggregate.from.as_micros(), aggregate.until.as_micros()])?;
    while let Some(row) = rows.next()? {
        let at = Timestamp::from_micros(row.get(0)?);
        let body = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
        let Report::Telemetry(values) = codec::read_report(body)? else { continue };
        let mut numbers =
            values.iter().filter(|(metric, _)| *metric == aggregate.metric).filter_map(|(_, value)| value.as_f64());
        if !numbers.all(|value| buckets.add(at, value)) {
            break;
        }
    }
    Ok(buckets.finish())
}

fn find_series(connection: &Connection, series: &Series) -> Result<Option<i64>, Fault> {
    let sql = "SELECT id FROM series WHERE tenant = ?1 AND device = ?2 AND epoch = ?3";
    let mut statement = connection.prepare_cached(sql)?;
    let key = params![series.tenant.as_str(), series.device.as_str(), series.epoch.0.cast_signed()];
    Ok(statement.query_row(key, |row| row.get(0)).optional()?)
}

fn series_of(row: &Row<'_>, column: usize) -> Result<Series, Fault> {
    Ok(Series {
        tenant: parsed(row, column, TenantId::parse)?,
        device: parsed(row, column + 1, DeviceId::parse)?,
        epoch: OwnershipEpoch(row.get::<_, i64>(column + 2)?.cast_unsigned()),
    })
}

/// Reads sequence, at, received, device_sequence, product, home and body.
fn stored_event(row: &Row<'_>, series: &Series) -> Result<StoredEvent, Fault> {
    let has_home = row.get_ref(5)? != rusqlite::types::ValueRef::Null;
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

fn parsed<T, E: std::fmt::Display>(
    row: &Row<'_>,
    column: usize,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, Fault> {
    let text = row.get_ref(column)?.as_str().map_err(rusqlite::Error::from)?;
    parse(text).map_err(|error| Fault::damaged(error.to_string()))
}
