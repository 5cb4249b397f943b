//! The bounds that several crates share. Each has a name and a default; a bound that concerns one crate lives there.

/// What one node accepts. `Default` gives the values of `docs/protocol.md`.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The largest MQTT packet, in bytes, both ways.
    pub packet_bytes_max: usize,
    /// The longest topic name or filter, in bytes.
    pub topic_bytes_max: usize,
    /// The most levels in a topic name or filter.
    pub topic_levels_max: usize,
    /// The longest client identifier, in bytes.
    pub client_id_bytes_max: usize,
    /// The most subscriptions that one session holds.
    pub subscriptions_max: usize,
    /// The most unacknowledged QoS 1 and 2 messages that a client may have in flight towards the node.
    pub receive_maximum: u16,
    /// The most messages at QoS 1 and 2 that wait in one session's queue; a further one is refused to that session and counted.
    pub queue_messages_max: usize,
    /// The most bytes of these, as [`Message::size`](crate::message::Message::size) counts; one message may go beyond.
    pub queue_bytes_max: usize,
    /// The most retained messages of one tenant; a further topic is refused with "quota exceeded".
    pub retained_max: usize,
    /// The most bytes of these; one message may go beyond. What would make them more is refused with "quota exceeded".
    pub retained_bytes_max: usize,
    /// The most sessions of a node, connected or not. Who has none yet is refused with "quota exceeded" then; those that come at the same
    /// time may go beyond it by one each.
    pub sessions_max: usize,
    /// The longest that a session outlives its connection, in seconds.
    pub session_expiry_s_max: u32,
    /// The most values in one telemetry sample.
    pub values_max: usize,
    /// The most samples in one telemetry message.
    pub samples_max: usize,
    /// The longest text or JSON value in telemetry, in bytes.
    pub value_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            packet_bytes_max: 256 * 1024,
            topic_bytes_max: 1_024,
            topic_levels_max: 32,
            client_id_bytes_max: 128,
            subscriptions_max: 1_000,
            receive_maximum: 256,
            queue_messages_max: 10_000,
            queue_bytes_max: 64 * 1024 * 1024,
            retained_max: 100_000,
            retained_bytes_max: 256 * 1024 * 1024,
            sessions_max: 1_000_000,
            session_expiry_s_max: 7 * 24 * 3_600,
            values_max: 64,
            samples_max: 100,
            value_bytes_max: 4_096,
        }
    }
}
