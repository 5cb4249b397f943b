//! Telemetry in tables: what came lately is a row for each event, the rest is in chunks and rollups as everywhere.

mod aggregate;
mod compress;
mod erase;
mod gather;
mod part;
mod range;
mod read;
mod record;
mod seal;
mod write;

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

pub(super) use self::write::Telemetry;
use self::write::{Answer, Job, Prepared};
use super::{Postgres, fault::Fault, pool::reread};

#[async_trait]
impl TelemetryStore for Postgres {
    async fn append(&self, node: &NodeId, events: &[Event]) -> Result<Vec<Option<Sequence>>, StoreError> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let events = events.iter().map(Prepared::new).collect();
        match self.inner.telemetry.run(Job::Append { node: node.clone(), events }).await? {
            Answer::Appended(placed) => Ok(placed),
            Answer::Advanced => Err(Fault::stopped().into()),
        }
    }

    async fn after(&self, node: &NodeId, after: Sequence, limit: u32) -> Result<Vec<StoredEvent>, StoreError> {
        Ok(read::after(&self.inner.pool, node, after, limit).await?)
    }

    async fn latest(&self, series: &Series) -> Result<Vec<LatestValue>, StoreError> {
        Ok(read::latest(&self.inner.pool, series).await?)
    }

    async fn range(
        &self,
        range: &Range,
        newest_first: bool,
        cursor: Option<&Cursor>,
        limit: u32,
    ) -> Result<Page<StoredEvent>, StoreError> {
        let after = match cursor.map(range::read_place) {
            Some(None) => return Ok(Page { items: Vec::new(), next: None }),
            place => place.flatten(),
        };
        let wanted = range::Wanted { range, newest_first, after, limit: limit.max(1) as usize };
        Ok(reread!(range::page(&self.inner.pool, &wanted).await)?)
    }

    async fn aggregate(&self, aggregate: &Aggregate, limit: u32) -> Result<Vec<Bucket>, StoreError> {
        Ok(reread!(aggregate::buckets(&self.inner.pool, aggregate, limit).await)?)
    }

    async fn maintain(&self, now: Timestamp, policies: &Policies) -> Result<Maintained, StoreError> {
        Ok(seal::maintain(&self.inner.pool, now, policies).await?)
    }

    async fn erase(&self, series: &Series) -> Result<u64, StoreError> {
        Ok(erase::erase(&self.inner.pool, series).await?)
    }

    async fn usage(&self) -> Result<Usage, StoreError> {
        Ok(read::usage(&self.inner.pool).await?)
    }

    async fn checkpoint(&self, node: &NodeId, consumer: &ConsumerId) -> Result<Sequence, StoreError> {
        Ok(read::checkpoint(&self.inner.pool, node, consumer).await?)
    }

    async fn advance(&self, node: &NodeId, consumer: &ConsumerId, to: Sequence) -> Result<(), StoreError> {
        let job = Job::Advance { node: node.clone(), consumer: consumer.clone(), to };
        self.inner.telemetry.run(job).await.map(drop)
    }
}
