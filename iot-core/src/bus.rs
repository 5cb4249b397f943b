//! The seam between nodes.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

/// Something went wrong on the way to other nodes; what was published may or may not have arrived.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BusError {
    /// The backplane cannot be reached; try again.
    #[error("the bus is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The node is shutting down.
    #[error("the bus is closed")]
    Closed,
}

/// Carries hints between nodes: at most once, in order between two nodes, bounded.
///
/// Nothing may depend on a message's arrival. What must not be missed is read from a store; the bus only says that it
/// is worth reading now.
#[async_trait]
pub trait Bus: fmt::Debug + Send + Sync + 'static {
    /// Sends to every subscriber of `subject`, the sender's node included. Returns when the message is handed over,
    /// not when it has arrived. May be cancelled; the message is then sent or not.
    async fn publish(&self, subject: &str, payload: Bytes) -> Result<(), BusError>;

    /// Receives what is published on `subject` from when this returns.
    async fn subscribe(&self, subject: &str) -> Result<Box<dyn Inbox>, BusError>;
}

/// What a subscriber receives.
#[async_trait]
pub trait Inbox: Send {
    /// The next message. [`Delivery::Missed`] tells that the subscriber was too slow and some were dropped. Safe to
    /// cancel.
    async fn next(&mut self) -> Result<Delivery, BusError>;
}

/// One answer of an [`Inbox`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delivery {
    /// A message.
    Message(Bytes),
    /// At least one message was dropped.
    Missed,
}

/// The subject on which a node hints that [`changes`](crate::store::MetaStore::changes) has something new.
pub const CHANGES: &str = "changes";
