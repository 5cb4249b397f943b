use iot_core::limits::Limits;

/// The bounds that a backend keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreLimits {
    /// The most messages in one session's queue; a further one is [`Placed::Full`](iot_core::store::Placed::Full).
    pub queue_messages_max: usize,
    /// The most bytes in one session's queue, as [`Message::size`](iot_core::message::Message::size) counts; one message may go
    /// beyond.
    pub queue_bytes_max: usize,
    /// The most retained messages of one tenant that have not expired; a further topic is refused.
    pub retained_max: usize,
    /// The most bytes of these; one message may go beyond. What would make them more is refused.
    pub retained_bytes_max: usize,
    /// How many of the newest revisions are remembered for [`MetaStore::changes`](iot_core::store::MetaStore::changes);
    /// the changes of older ones may be forgotten.
    pub changes_kept: u64,
}

impl Default for StoreLimits {
    /// The first four as in [`Limits`]; a million revisions.
    fn default() -> Self {
        Self::from(&Limits::default())
    }
}

impl From<&Limits> for StoreLimits {
    fn from(limits: &Limits) -> Self {
        Self {
            queue_messages_max: limits.queue_messages_max,
            queue_bytes_max: limits.queue_bytes_max,
            retained_max: limits.retained_max,
            retained_bytes_max: limits.retained_bytes_max,
            changes_kept: 1_000_000,
        }
    }
}
