use std::{fmt, time::Duration};

use async_trait::async_trait;

use super::{Maintained, Page, Policies, StoreError, Usage};
use crate::{
    event::{Event, Sequence, StoredEvent, Value},
    id::{ConsumerId, DeviceId, Metric, NodeId, OwnershipEpoch, TenantId},
    problem::Cursor,
    time::Timestamp,
};

/// What one device reported in one ownership epoch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Series {
    /// Whose.
    pub tenant: TenantId,
    /// From which device.
    pub device: DeviceId,
    /// In which epoch; nothing of another is read.
    pub epoch: OwnershipEpoch,
}

/// The newest value of a metric.
#[derive(Debug, Clone, PartialEq)]
pub struct LatestValue {
    /// Which metric.
    pub metric: Metric,
    /// When it was, by the device.
    pub at: Timestamp,
    /// What it was.
    pub value: Value,
}

/// A half-open span of a series: from `from` until just before `until`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// Of which device.
    pub series: Series,
    /// Only samples with this metric, and only this value of them; everything, named events included, if `None`.
    pub metric: Option<Metric>,
    /// Included.
    pub from: Timestamp,
    /// Excluded.
    pub until: Timestamp,
}

/// Statistics over equal buckets of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aggregate {
    /// Of which device.
    pub series: Series,
    /// Of which metric.
    pub metric: Metric,
    /// Included.
    pub from: Timestamp,
    /// Excluded.
    pub until: Timestamp,
    /// The width of a bucket; buckets begin at multiples of it since 1970. At least a microsecond.
    pub bucket: Duration,
}

/// Statistics of the numeric values (see [`Value::as_f64`]) in one bucket. Buckets without any are left out. NaN counts,
/// and makes the sum NaN; `min` and `max` leave it out unless there is nothing else.
#[derive(Debug, Clone, PartialEq)]
pub struct Bucket {
    /// Where it begins.
    pub start: Timestamp,
    /// How many values.
    pub count: u64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// Of all.
    pub sum: f64,
    /// The earliest, by the device's time, then by sequence.
    pub first: f64,
    /// The latest.
    pub last: f64,
}

/// What devices report: a log per node, and series per device.
#[async_trait]
pub trait TelemetryStore: fmt::Debug + Send + Sync + 'static {
    /// Appends to the log of `node`, all or nothing; durable when it returns. The answer holds, for each event in order,
    /// its sequence, or `None` if the series has an event with the same `device_sequence` already (the first one stays). Such
    /// counts are remembered at least until the event is [sealed](Self::maintain).
    /// Sequences grow within the answer and are above all earlier ones of the node. An event that this returned is seen
    /// by every later read; no reader of [`after`](Self::after) that has seen a sequence will see a lower one appear.
    async fn append(&self, node: &NodeId, events: &[Event]) -> Result<Vec<Option<Sequence>>, StoreError>;

    /// The node's log after `after`, in order, at most `limit`. What was sealed may be missing; see
    /// [`checkpoint`](Self::checkpoint).
    async fn after(&self, node: &NodeId, after: Sequence, limit: u32) -> Result<Vec<StoredEvent>, StoreError>;

    /// The newest value of each metric of a series, by the device's time; of equal times the later in the log. Ordered by
    /// metric.
    async fn latest(&self, series: &Series) -> Result<Vec<LatestValue>, StoreError>;

    /// Events in a range, ordered by the device's time, then by sequence; `newest_first` turns both round. From after
    /// `cursor`, at most `limit`. A page may hold fewer, even none, and still name a next one. A cursor of another list
    /// finds nothing.
    async fn range(
        &self,
        range: &Range,
        newest_first: bool,
        cursor: Option<&Cursor>,
        limit: u32,
    ) -> Result<Page<StoredEvent>, StoreError>;

    /// Statistics in ascending order of buckets, at most `limit` of them, the earliest. Where buckets are whole multiples of a
    /// rollup's, and for what lies in whole buckets of it, reports that have been forgotten count too, as long as the rollup is
    /// kept.
    async fn aggregate(&self, aggregate: &Aggregate, limit: u32) -> Result<Vec<Bucket>, StoreError>;

    /// Brings the store in order, to be called about once a minute: seals older reports into a compact form, which changes no
    /// answer, adds them to the rollups, late and out-of-order ones too, and forgets the [partitions](super::Partition) that are
    /// over. A report belongs to the partitions that `policies` say when it is sealed; the values of one whose metrics are kept
    /// for different times come in the order of their names from then on. Latest values stay. Goes in steps, between
    /// which others are served: a cancelled call has done some of them. Of two calls at a time one waits.
    async fn maintain(&self, now: Timestamp, policies: &Policies) -> Result<Maintained, StoreError>;

    /// Forgets everything of a series: its events, its latest values, and by what repeats are recognised; nothing of another
    /// epoch or device. Answers how many events that were. May go in steps: a cancelled call has forgotten some, and a second
    /// one forgets the rest. What is appended later begins anew; sequences are not given again.
    async fn erase(&self, series: &Series) -> Result<u64, StoreError>;

    /// What telemetry takes now, and how much room is left for it, about. Cheap enough to be asked every minute.
    async fn usage(&self) -> Result<Usage, StoreError>;

    /// How far a consumer of a node's log has come; `Sequence(0)` at first. Who has asked is known: until it has
    /// [come](Self::advance) so far, [`after`](Self::after) shows what it has not seen, for a week after it was received.
    async fn checkpoint(&self, node: &NodeId, consumer: &ConsumerId) -> Result<Sequence, StoreError>;

    /// Records how far a consumer has come; never goes back. Durable when it returns.
    async fn advance(&self, node: &NodeId, consumer: &ConsumerId, to: Sequence) -> Result<(), StoreError>;
}
