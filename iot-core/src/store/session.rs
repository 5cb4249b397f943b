use std::{fmt, time::Duration};

use async_trait::async_trait;

use super::StoreError;
use crate::{
    id::TenantId,
    message::{Message, QoS},
    session::{Position, SessionEpoch, SessionId},
    time::Timestamp,
};

/// A subscription that outlives its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSubscription {
    /// As given by the client, shared ones with their prefix; for a device's session in full form (`d/<device>/…`).
    pub filter: String,
    /// The highest that is delivered.
    pub qos: QoS,
    /// Not what this session published itself.
    pub no_local: bool,
    /// Keeps the retain flag as published.
    pub retain_as_published: bool,
    /// MQTT 5 subscription identifier.
    pub identifier: Option<u32>,
}

/// A connection takes a session.
#[derive(Debug, Clone)]
pub struct Opening {
    /// Which.
    pub session: SessionId,
    /// Begin anew: drop what is stored of it.
    pub clean: bool,
    /// For how long it is kept after the connection, also after one that ends with its node. Zero: it is not stored, and
    /// only a stored predecessor is dropped.
    pub keep: Duration,
    /// Published if the connection ends without a DISCONNECT; kept with persistent sessions so that it survives a crash.
    pub will: Option<(Message, Duration)>,
    /// Now.
    pub at: Timestamp,
}

/// What there is of a resumed session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resumed {
    /// In no order.
    pub subscriptions: Vec<StoredSubscription>,
    /// Packet ids of inbound QoS 2 messages whose PUBREL has not come.
    pub received: Vec<u16>,
    /// Messages up to here may have been sent before: they are sent again with DUP. All that wait, if the session was
    /// not closed.
    pub sent_through: Position,
}

/// A session was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Higher than any before for this session.
    pub epoch: SessionEpoch,
    /// `None` if there was nothing, it had expired, or it was dropped for [`Opening::clean`].
    pub resumed: Option<Resumed>,
    /// The will of a session that this opening has ended while the will was waiting: to be published now
    /// (MQTT 5 §3.1.2.5). Not one without delay of a session that was never closed: its connection publishes that.
    pub will: Option<Message>,
}

/// A connection leaves its session.
#[derive(Debug, Clone)]
pub struct Closing {
    /// Which.
    pub session: SessionId,
    /// As given by [`SessionStore::open`].
    pub epoch: SessionEpoch,
    /// When.
    pub at: Timestamp,
    /// For how long it is kept.
    pub keep: Duration,
    /// Whether the stored will stays, to be published when its delay or the session is over; otherwise it is forgotten.
    pub will: bool,
    /// See [`Resumed::sent_through`].
    pub sent_through: Position,
}

/// Whether a write was in time.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fenced {
    /// Done.
    Done,
    /// The session has been opened again since, or is gone: nothing was written.
    Superseded,
}

/// A session that a message is meant for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Which.
    pub session: SessionId,
    /// The lower of message and subscription; 1 or 2.
    pub qos: QoS,
    /// The retain flag to deliver with.
    pub retain: bool,
    /// Subscription identifiers to deliver with.
    pub identifiers: Vec<u32>,
}

/// One message and all that must be durable before its sender is acknowledged.
#[derive(Debug, Clone)]
pub struct Publication {
    /// What. `message.retain` sets or removes the topic's retained message.
    pub message: Message,
    /// To whom.
    pub to: Vec<Target>,
    /// The sender's session and packet id, for QoS 2 from a persistent session: remembered until PUBREL.
    /// If this epoch is not the session's, the publication is not carried out ([`Offered::superseded`]) and every target is
    /// [`Placed::Gone`]: the client will send it again to the session's present owner.
    pub received: Option<(SessionId, SessionEpoch, u16)>,
}

/// What became of one target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Placed {
    /// It waits here, in the session as it was opened last. A later opening that resumes it finds it there; one that does not
    /// counts positions anew.
    At(SessionEpoch, Position),
    /// The queue is full; this message does not reach this session.
    Full,
    /// There is no such session any more.
    Gone,
}

/// What became of a publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offered {
    /// In the order of [`Publication::to`].
    pub placed: Vec<Placed>,
    /// Whether the retained message was refused because the tenant has too many that had not expired when this one was
    /// published, or too many bytes of them.
    pub retained_full: bool,
    /// The sender's session has another owner by now, and nothing was done.
    pub superseded: bool,
}

impl Offered {
    /// What becomes of a publication whose sender's session has another owner by now.
    #[must_use]
    pub fn superseded(publication: &Publication) -> Self {
        Self { placed: vec![Placed::Gone; publication.to.len()], retained_full: false, superseded: true }
    }
}

/// A message that waits for a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    /// Where.
    pub position: Position,
    /// What.
    pub message: Message,
    /// At which QoS, 1 or 2.
    pub qos: QoS,
    /// With which retain flag.
    pub retain: bool,
    /// With which subscription identifiers.
    pub identifiers: Vec<u32>,
    /// QoS 2: PUBREC has come, so that only PUBREL may be sent.
    pub released: bool,
}

/// A step in the delivery of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// Of which session.
    pub session: SessionId,
    /// As given by [`SessionStore::open`].
    pub epoch: SessionEpoch,
    /// Which step.
    pub step: Settled,
}

/// Which step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// The client has it (PUBACK, PUBCOMP): removed from the queue.
    Finished(Position),
    /// The client has received it (PUBREC).
    Released(Position),
    /// The client has released its own message (PUBREL): the packet id may be used again.
    Forgotten(u16),
}

/// A session as a starting node reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSession {
    /// Which.
    pub session: SessionId,
    /// Its present epoch.
    pub epoch: SessionEpoch,
    /// Its subscriptions.
    pub subscriptions: Vec<StoredSubscription>,
    /// Whether it was never closed: its node stopped while it was connected.
    pub open: bool,
    /// As given by [`Opening::keep`].
    pub keep: Duration,
}

/// Something that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Of which session.
    pub session: SessionId,
    /// Its epoch.
    pub epoch: SessionEpoch,
    /// A will to publish.
    pub will: Option<Message>,
    /// Whether the session has expired and is to be removed.
    pub expired: bool,
}

/// MQTT sessions that outlive connections, their queues, and retained messages. Linearizable: of two openings of one
/// session the later has the higher epoch, and nothing written with the lower one takes effect after it.
#[async_trait]
pub trait SessionStore: fmt::Debug + Send + Sync + 'static {
    /// Takes a session; durable when it returns. A session that has expired by `at` counts as absent. With `clean`, or with
    /// `keep` zero, the stored state is dropped and nothing is resumed.
    async fn open(&self, opening: Opening) -> Result<Opened, StoreError>;

    /// Leaves a session; with `keep` zero it is removed, will included.
    async fn close(&self, closing: Closing) -> Result<Fenced, StoreError>;

    /// Adds or replaces subscriptions (by filter). Durable when it returns.
    async fn subscribe(
        &self,
        session: &SessionId,
        epoch: SessionEpoch,
        subscriptions: &[StoredSubscription],
    ) -> Result<Fenced, StoreError>;

    /// Removes subscriptions. Durable when it returns.
    async fn unsubscribe(
        &self,
        session: &SessionId,
        epoch: SessionEpoch,
        filters: &[String],
    ) -> Result<Fenced, StoreError>;

    /// Stores publications in order, each wholly or not at all; durable when it returns. A message is placed in every
    /// target's queue at its next position. A queue holds at most the messages and bytes that the backend was made with.
    async fn offer(&self, publications: &[Publication]) -> Result<Vec<Offered>, StoreError>;

    /// The queue of a session from after `after`, in order: at most `limit` messages, and none after the one with which their
    /// [sizes](Message::size) reach `bytes`. Fewer than that only at its end.
    async fn peek(
        &self,
        session: &SessionId,
        after: Option<Position>,
        limit: u32,
        bytes: usize,
    ) -> Result<Vec<Queued>, StoreError>;

    /// Records steps; those with an old epoch are ignored. Durable when it returns.
    async fn settle(&self, settlements: &[Settlement]) -> Result<(), StoreError>;

    /// Retained messages of a tenant whose topics match a filter (a plain one), in ascending byte order of topics from
    /// after `after`, at most `limit`. Expired ones (by `now`) are left out.
    async fn retained(
        &self,
        tenant: &TenantId,
        filter: &str,
        after: Option<&str>,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<Message>, StoreError>;

    /// All sessions by id, from after `after`, at most `limit`: read by a node when it starts.
    async fn sessions(&self, after: Option<&SessionId>, limit: u32) -> Result<Vec<StoredSession>, StoreError>;

    /// Closed sessions whose will is due or that have expired by `now`, earliest first, at most `limit`.
    async fn due(&self, now: Timestamp, limit: u32) -> Result<Vec<Due>, StoreError>;

    /// Forgets the will of a session, after it was published, and the session itself if `due.expired`; nothing if the
    /// session has been opened since.
    async fn discharge(&self, due: &Due) -> Result<Fenced, StoreError>;
}
