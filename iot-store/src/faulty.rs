//! Stores that fail on purpose: for tests of what is built on them.
//!
//! [`Faulty`] wraps all three stores. By a seed it delays operations, refuses them before they reach the store, and lets
//! others happen and then says that they failed, as a connection does that is lost before the answer comes. The faults are
//! the same for the same seed and the same order of calls; [`Faulty::told`] counts them.
//!
//! ```
//! use std::sync::Arc;
//! use iot_core::store::Stores;
//! use iot_store::{StoreLimits, faulty::{Faults, Faulty, Odds, Operation}, memory::Memory};
//!
//! let faults = Faults::with_seed(7).writes(Odds { refused: 0.1, crashed: 0.1, ..Odds::NONE });
//! let faults = faults.at(Operation::Append, Odds::NONE);
//! let faulty = Arc::new(Faulty::new(Stores::new(Memory::new(StoreLimits::default())), faults));
//! let stores = Stores { meta: faulty.clone(), telemetry: faulty.clone(), sessions: faulty.clone() };
//! # let _ = stores;
//! ```

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use iot_core::{
    event::{Event, Sequence, StoredEvent},
    id::{ConsumerId, NodeId, TenantId},
    message::Message,
    problem::Cursor,
    session::{Position, SessionEpoch, SessionId},
    store::{
        Aggregate, Audit, Batch, Bucket, Change, Closing, Committed, Due, Fenced, Index, Key, LatestValue, Maintained,
        MetaStore, Offered, Opened, Opening, Page, Policies, Publication, Queued, Range, Record, Revision, Series,
        SessionStore, Settlement, StoreError, StoredSession, StoredSubscription, Stores, TelemetryStore, Usage,
    },
    time::Timestamp,
};

const BACKEND: &str = "faulty";

/// How likely it is that something goes wrong with one call, each from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Odds {
    /// It is delayed, by anything up to [`delay_max`](Self::delay_max).
    pub delayed: f64,
    /// The longest delay.
    pub delay_max: Duration,
    /// It does not happen, and the caller is told [`StoreError::Unavailable`].
    pub refused: f64,
    /// It happens, and the caller is told [`StoreError::Unavailable`].
    pub crashed: f64,
}

impl Odds {
    /// Nothing goes wrong.
    pub const NONE: Self = Self { delayed: 0.0, delay_max: Duration::ZERO, refused: 0.0, crashed: 0.0 };
}

/// A method of one of the three stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each is named like its method; those of sessions say so")]
pub enum Operation {
    Commit,
    Get,
    List,
    Count,
    Changes,
    Revision,
    Audit,
    Append,
    Maintain,
    Erase,
    /// What telemetry takes.
    Usage,
    Advance,
    After,
    Latest,
    Range,
    Aggregate,
    Checkpoint,
    SessionOpen,
    SessionClose,
    Subscribe,
    Unsubscribe,
    Offer,
    Settle,
    Discharge,
    Peek,
    Retained,
    Sessions,
    Due,
}

impl Operation {
    /// The last of them.
    const LAST: Self = Self::Due;
}

/// What goes wrong, and how often.
#[derive(Debug, Clone, PartialEq)]
pub struct Faults {
    seed: u64,
    odds: [Odds; Operation::LAST as usize + 1],
}

impl Faults {
    /// Nothing goes wrong yet.
    #[must_use]
    pub fn with_seed(seed: u64) -> Self {
        Self { seed, odds: [Odds::NONE; Operation::LAST as usize + 1] }
    }

    /// For every operation.
    #[must_use]
    pub fn everywhere(mut self, odds: Odds) -> Self {
        self.odds = [odds; Operation::LAST as usize + 1];
        self
    }

    /// For every operation that writes.
    #[must_use]
    pub fn writes(self, odds: Odds) -> Self {
        WRITES.into_iter().fold(self, |faults, operation| faults.at(operation, odds))
    }

    /// For one operation.
    #[must_use]
    pub fn at(mut self, operation: Operation, odds: Odds) -> Self {
        self.odds[operation as usize] = odds;
        self
    }
}

/// Those that change what is stored.
const WRITES: [Operation; 12] = [
    Operation::Commit,
    Operation::Append,
    Operation::Maintain,
    Operation::Erase,
    Operation::Advance,
    Operation::SessionOpen,
    Operation::SessionClose,
    Operation::Subscribe,
    Operation::Unsubscribe,
    Operation::Offer,
    Operation::Settle,
    Operation::Discharge,
];

/// How often it went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Told {
    /// Delays.
    pub delayed: u64,
    /// Refusals.
    pub refused: u64,
    /// Operations that happened and were said to have failed.
    pub crashed: u64,
}

/// All three stores, with faults.
#[derive(Debug)]
pub struct Faulty {
    stores: Stores,
    faults: Faults,
    // Small sections, never across an await.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    random: u64,
    told: Told,
}

/// What becomes of one call.
struct Fate {
    delay: Option<Duration>,
    refused: bool,
    crashed: bool,
}

impl Faulty {
    /// Wraps stores.
    pub fn new(stores: Stores, faults: Faults) -> Self {
        let state = Mutex::new(State { random: faults.seed, told: Told::default() });
        Self { stores, faults, state }
    }

    /// How often it went wrong until now.
    pub fn told(&self) -> Told {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).told
    }

    async fn carry_out<T>(
        &self,
        operation: Operation,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let fate = self.fate(operation);
        if let Some(delay) = fate.delay {
            tokio::time::sleep(delay).await;
        }
        if fate.refused {
            return Err(unavailable("refused before it happened"));
        }
        let answer = call.await?;
        if fate.crashed { Err(unavailable("lost the answer")) } else { Ok(answer) }
    }

    /// Draws as many numbers for each call, so that one probability does not move the others' faults.
    fn fate(&self, operation: Operation) -> Fate {
        let odds = self.faults.odds[operation as usize];
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let [delayed, length, refused, crashed] = std::array::from_fn(|_| state.draw());
        let fate = Fate {
            delay: (delayed < odds.delayed).then(|| odds.delay_max.mul_f64(length)),
            refused: refused < odds.refused,
            crashed: refused >= odds.refused && crashed < odds.crashed,
        };
        state.told.delayed += u64::from(fate.delay.is_some());
        state.told.refused += u64::from(fate.refused);
        state.told.crashed += u64::from(fate.crashed);
        fate
    }
}

impl State {
    /// From 0 until just before 1: splitmix64.
    fn draw(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        f64::from(u32::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap_or(u32::MAX)) / f64::from(u32::MAX).next_up()
    }
}

fn unavailable(what: &'static str) -> StoreError {
    StoreError::Unavailable { backend: BACKEND, source: what.into() }
}

#[async_trait]
impl MetaStore for Faulty {
    async fn get(&self, keys: &[Key]) -> Result<Vec<Option<Record>>, StoreError> {
        self.carry_out(Operation::Get, self.stores.meta.get(keys)).await
    }

    async fn list(&self, index: &Index, after: Option<&Cursor>, limit: u32) -> Result<Page<Record>, StoreError> {
        self.carry_out(Operation::List, self.stores.meta.list(index, after, limit)).await
    }

    async fn count(&self, index: &Index) -> Result<u64, StoreError> {
        self.carry_out(Operation::Count, self.stores.meta.count(index)).await
    }

    async fn commit(&self, batch: Batch) -> Result<Committed, StoreError> {
        self.carry_out(Operation::Commit, self.stores.meta.commit(batch)).await
    }

    async fn changes(&self, after: Revision, limit: u32) -> Result<Vec<Change>, StoreError> {
        self.carry_out(Operation::Changes, self.stores.meta.changes(after, limit)).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.carry_out(Operation::Revision, self.stores.meta.revision()).await
    }

    async fn audit(&self, tenant: &TenantId, before: Option<&Cursor>, limit: u32) -> Result<Page<Audit>, StoreError> {
        self.carry_out(Operation::Audit, self.stores.meta.audit(tenant, before, limit)).await
    }
}

#[async_trait]
impl TelemetryStore for Faulty {
    async fn append(&self, node: &NodeId, events: &[Event]) -> Result<Vec<Option<Sequence>>, StoreError> {
        self.carry_out(Operation::Append, self.stores.telemetry.append(node, events)).await
    }

    async fn after(&self, node: &NodeId, after: Sequence, limit: u32) -> Result<Vec<StoredEvent>, StoreError> {
        self.carry_out(Operation::After, self.stores.telemetry.after(node, after, limit)).await
    }

    async fn latest(&self, series: &Series) -> Result<Vec<LatestValue>, StoreError> {
        self.carry_out(Operation::Latest, self.stores.telemetry.latest(series)).await
    }

    async fn range(
        &self,
        range: &Range,
        newest_first: bool,
        cursor: Option<&Cursor>,
        limit: u32,
    ) -> Result<Page<StoredEvent>, StoreError> {
        self.carry_out(Operation::Range, self.stores.telemetry.range(range, newest_first, cursor, limit)).await
    }

    async fn aggregate(&self, aggregate: &Aggregate, limit: u32) -> Result<Vec<Bucket>, StoreError> {
        self.carry_out(Operation::Aggregate, self.stores.telemetry.aggregate(aggregate, limit)).await
    }

    async fn maintain(&self, now: Timestamp, policies: &Policies) -> Result<Maintained, StoreError> {
        self.carry_out(Operation::Maintain, self.stores.telemetry.maintain(now, policies)).await
    }

    async fn erase(&self, series: &Series) -> Result<u64, StoreError> {
        self.carry_out(Operation::Erase, self.stores.telemetry.erase(series)).await
    }

    async fn usage(&self) -> Result<Usage, StoreError> {
        self.carry_out(Operation::Usage, self.stores.telemetry.usage()).await
    }

    async fn checkpoint(&self, node: &NodeId, consumer: &ConsumerId) -> Result<Sequence, StoreError> {
        self.carry_out(Operation::Checkpoint, self.stores.telemetry.checkpoint(node, consumer)).await
    }

    async fn advance(&self, node: &NodeId, consumer: &ConsumerId, to: Sequence) -> Result<(), StoreError> {
        self.carry_out(Operation::Advance, self.stores.telemetry.advance(node, consumer, to)).await
    }
}

#[async_trait]
impl SessionStore for Faulty {
    async fn open(&self, opening: Opening) -> Result<Opened, StoreError> {
        self.carry_out(Operation::SessionOpen, self.stores.sessions.open(opening)).await
    }

    async fn close(&self, closing: Closing) -> Result<Fenced, StoreError> {
        self.carry_out(Operation::SessionClose, self.stores.sessions.close(closing)).await
    }

    async fn subscribe(
        &self,
        session: &SessionId,
        epoch: SessionEpoch,
        subscriptions: &[StoredSubscription],
    ) -> Result<Fenced, StoreError> {
        self.carry_out(Operation::Subscribe, self.stores.sessions.subscribe(session, epoch, subscriptions)).await
    }

    async fn unsubscribe(
        &self,
        session: &SessionId,
        epoch: SessionEpoch,
        filters: &[String],
    ) -> Result<Fenced, StoreError> {
        self.carry_out(Operation::Unsubscribe, self.stores.sessions.unsubscribe(session, epoch, filters)).await
    }

    async fn offer(&self, publications: &[Publication]) -> Result<Vec<Offered>, StoreError> {
        self.carry_out(Operation::Offer, self.stores.sessions.offer(publications)).await
    }

    async fn peek(
        &self,
        session: &SessionId,
        after: Option<Position>,
        limit: u32,
        bytes: usize,
    ) -> Result<Vec<Queued>, StoreError> {
        self.carry_out(Operation::Peek, self.stores.sessions.peek(session, after, limit, bytes)).await
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<(), StoreError> {
        self.carry_out(Operation::Settle, self.stores.sessions.settle(settlements)).await
    }

    async fn retained(
        &self,
        tenant: &TenantId,
        filter: &str,
        after: Option<&str>,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<Message>, StoreError> {
        self.carry_out(Operation::Retained, self.stores.sessions.retained(tenant, filter, after, limit, now)).await
    }

    async fn sessions(&self, after: Option<&SessionId>, limit: u32) -> Result<Vec<StoredSession>, StoreError> {
        self.carry_out(Operation::Sessions, self.stores.sessions.sessions(after, limit)).await
    }

    async fn due(&self, now: Timestamp, limit: u32) -> Result<Vec<Due>, StoreError> {
        self.carry_out(Operation::Due, self.stores.sessions.due(now, limit)).await
    }

    async fn discharge(&self, due: &Due) -> Result<Fenced, StoreError> {
        self.carry_out(Operation::Discharge, self.stores.sessions.discharge(due)).await
    }
}
