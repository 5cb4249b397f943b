//! Telemetry in `data.db`.
//!
//! Events are appended to the log, a row of tables without indexes: what a query needs to find them there is in memory (the
//! window). An hour later, or when a table is full, it takes no more; [`maintain`](TelemetryStore::maintain) then seals it,
//! series by series, into compressed chunks and rollups, and drops it. Chunks are in tables by partition, of which retention
//! drops whole ones.

mod aggregate;
mod append;
mod counts;
mod erase;
mod part;
mod read;
mod recover;
mod rollup;
mod rows;
mod seal;
mod segment;
mod usage;
mod window;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use iot_core::{
    event::{Event, Sequence, StoredEvent},
    id::{ConsumerId, NodeId},
    problem::Cursor,
    store::{
        Aggregate, Bucket, LatestValue, Maintained, Page, Policies, Range, Series, StoreError, TelemetryStore, Usage,
    },
    time::Timestamp,
};
use rusqlite::{Connection, OptionalExtension, params};

pub(in crate::sqlite) use self::{
    append::{Known, recover},
    window::Window,
};
use self::{
    read::{RANGE_EVENTS_MAX, Wanted},
    rows::Prepared,
    seal::Sealed,
    window::Place,
};
use super::{Sqlite, ordered, writer::Outcome};
use crate::{chunk, rules::read_place};

/// A segment of the log takes no more once its first event was received so long ago.
const SEGMENT_AGE: Duration = Duration::from_secs(3_600);
/// So long after it was received an event may be dropped from the log although a consumer has not come so far.
const LOG_KEPT: Duration = Duration::from_secs(7 * 86_400);
/// While so many full segments wait to be sealed, who appends seals first.
const SEGMENTS_WAITING_MAX: i64 = 8;

/// What sealing needs that is not in the file.
#[derive(Default)]
pub(super) struct Maintenance {
    /// Held by who seals.
    one: tokio::sync::Mutex<()>,
    /// As they were given last. Nothing is sealed before: it could be forgotten too early.
    policies: std::sync::Mutex<Option<Arc<Policies>>>,
}

impl Maintenance {
    fn policies(&self) -> std::sync::MutexGuard<'_, Option<Arc<Policies>>> {
        self.policies.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Sqlite {
    /// Only who holds [`Maintenance::one`] may call it.
    async fn seal_step(&self, policies: &Arc<Policies>) -> Result<Sealed, StoreError> {
        let data = &self.inner.data;
        let next = |connection: &Connection, known: &mut Known| Ok(Outcome::Keep(seal::next(connection, known)?));
        let Some(batch) = data.run(next).await? else { return Ok(Sealed::Nothing) };
        let policies = Arc::clone(policies);
        let compress = move |connection: &Connection| seal::compress(connection, batch, &policies);
        let sealed = self.inner.data_readers.run(compress).await?;
        data.run(move |connection, known| Ok(Outcome::Keep(seal::put(connection, known, sealed)?))).await
    }

    /// Sealing keeps up with those who append: they wait for it when it falls behind.
    async fn relieve(&self) -> Result<(), StoreError> {
        while self.inner.window.waiting.load(Ordering::Relaxed) >= SEGMENTS_WAITING_MAX {
            let _one = self.inner.maintenance.one.lock().await;
            let Some(policies) = self.inner.maintenance.policies().clone() else { break };
            if let Sealed::Nothing = self.seal_step(&policies).await? {
                break;
            }
        }
        Ok(())
    }

    /// The places of unsealed reports of a series from `from`, included, until `until`, excluded.
    fn hot(&self, series: &Series, from: i64, until: i64) -> Vec<Place> {
        self.inner.window.get(series).map(|hot| hot.state().between(from, until).collect()).unwrap_or_default()
    }
}

impl Sqlite {
    /// The places of unsealed reports of a range beyond `after`, in the order asked for: the first [`RANGE_EVENTS_MAX`].
    fn hot_page(&self, range: &Range, newest_first: bool, after: Option<chunk::Place>) -> Vec<Place> {
        let Some(hot) = self.inner.window.get(&range.series) else { return Vec::new() };
        let (mut from, mut until) = (range.from.as_micros(), range.until.as_micros());
        let after = after.map(|(at, sequence)| (at.as_micros(), ordered(sequence.0)));
        match after {
            Some((at, _)) if newest_first => until = until.min(at.saturating_add(1)),
            Some((at, _)) => from = from.max(at),
            None => {}
        }
        let state = hot.state();
        let places = state.between(from, until);
        if newest_first {
            let beyond = |place: &Place| after.is_none_or(|after| *place < after);
            places.rev().filter(beyond).take(RANGE_EVENTS_MAX).collect()
        } else {
            let beyond = |place: &Place| after.is_none_or(|after| *place > after);
            places.filter(beyond).take(RANGE_EVENTS_MAX).collect()
        }
    }
}

#[async_trait]
impl TelemetryStore for Sqlite {
    async fn append(&self, node: &NodeId, events: &[Event]) -> Result<Vec<Option<Sequence>>, StoreError> {
        self.relieve().await?;
        let node = node.clone();
        let events: Vec<Prepared> = events.iter().map(Prepared::new).collect();
        self.inner.data.run(move |connection, known| Ok(Outcome::Keep(known.append(connection, &node, events)?))).await
    }

    async fn after(&self, node: &NodeId, after: Sequence, limit: u32) -> Result<Vec<StoredEvent>, StoreError> {
        let node = node.clone();
        self.inner.data_readers.run(move |connection| read::after(connection, &node, after, limit)).await
    }

    async fn latest(&self, series: &Series) -> Result<Vec<LatestValue>, StoreError> {
        let series = series.clone();
        let newest = self.inner.window.get(&series).map(|hot| hot.state().newest().to_vec()).unwrap_or_default();
        self.inner.data_readers.run(move |connection| read::latest(connection, &series, &newest)).await
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
        let hot = self.hot_page(range, newest_first, after);
        let wanted = Wanted { range: range.clone(), newest_first, after, limit: limit.max(1) as usize, hot };
        self.inner.data_readers.run(move |connection| read::page(connection, &wanted)).await
    }

    async fn aggregate(&self, aggregate: &Aggregate, limit: u32) -> Result<Vec<Bucket>, StoreError> {
        let hot = self.hot(&aggregate.series, aggregate.from.as_micros(), aggregate.until.as_micros());
        let aggregate = aggregate.clone();
        let read = move |connection: &Connection| aggregate::buckets(connection, &aggregate, limit, &hot);
        self.inner.data_readers.run(read).await
    }

    async fn maintain(&self, now: Timestamp, policies: &Policies) -> Result<Maintained, StoreError> {
        let _one = self.inner.maintenance.one.lock().await;
        let policies = Arc::new(policies.clone());
        *self.inner.maintenance.policies() = Some(Arc::clone(&policies));
        let (old, abandoned) = (now.minus(SEGMENT_AGE).as_micros(), now.minus(LOG_KEPT).as_micros());
        let data = &self.inner.data;
        data.run(move |connection, known| Ok(Outcome::Keep(known.close_old(connection, old)?))).await?;
        let mut maintained = Maintained::default();
        while let Sealed::Some(rows) = self.seal_step(&policies).await? {
            maintained.sealed += rows;
        }
        let drop = move |connection: &Connection, _: &mut Known| {
            Ok(Outcome::Keep(segment::drop_oldest(connection, abandoned)?))
        };
        while data.run(drop).await? {}
        let forget = move |connection: &Connection, _: &mut Known| Ok(Outcome::Keep(part::forget(connection, now)?));
        while let Some(reports) = data.run(forget).await? {
            maintained.forgotten += reports;
        }
        Ok(maintained)
    }

    async fn erase(&self, series: &Series) -> Result<u64, StoreError> {
        let _one = self.inner.maintenance.one.lock().await;
        let series = series.clone();
        let erase = move |connection: &Connection, known: &mut Known| {
            Ok(Outcome::Keep(erase::erase(connection, known, &series)?))
        };
        self.inner.data.run(erase).await
    }

    async fn usage(&self) -> Result<Usage, StoreError> {
        let folder = self.inner.folder.clone();
        self.inner.data_readers.run(move |connection| usage::usage(connection, &folder)).await
    }

    async fn checkpoint(&self, node: &NodeId, consumer: &ConsumerId) -> Result<Sequence, StoreError> {
        let (known, asked) = ((node.clone(), consumer.clone()), (node.clone(), consumer.clone()));
        let read = move |connection: &Connection| {
            let sql = "SELECT sequence FROM checkpoint WHERE node = ?1 AND consumer = ?2";
            let mut statement = connection.prepare_cached(sql)?;
            let key = [known.0.as_str(), known.1.as_str()];
            Ok(statement.query_row(key, |row| row.get::<_, i64>(0)).optional()?)
        };
        if let Some(at) = self.inner.data_readers.run(read).await? {
            return Ok(Sequence(at.cast_unsigned()));
        }
        self.advance(&asked.0, &asked.1, Sequence(0)).await?;
        Ok(Sequence(0))
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
