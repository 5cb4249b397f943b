//! The bounds of a connection.

use std::time::Duration;

/// What one connection may hold and ask for. The defaults suit devices.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "made with `..Default::default()`")]
pub struct ConnectionLimits {
    /// The largest packet in bytes that is taken; MQTT 5 clients are told. Default: 256 KiB.
    pub packet_bytes_max: usize,
    /// The largest CONNECT in bytes, will included: what anybody may have a server keep for the connect timeout. Default: 32 KiB.
    pub connect_bytes_max: usize,
    /// How many inbound messages of QoS 1 and 2 may be unfinished; 0 counts as 1. MQTT 5 clients are told, and one more
    /// is an error (MQTT 5 §3.3.4). A 3.1.1 client cannot know, so for it the connection is
    /// [saturated](super::Connection::is_saturated) there. Also bounds unanswered SUBSCRIBE, UNSUBSCRIBE and PUBREL
    /// packets, by saturation. Default: 256.
    pub receive_maximum: u16,
    /// How many inbound QoS 2 messages may wait for their PUBREL. MQTT 5 clients are held to the receive maximum
    /// before; a 3.1.1 client is disconnected at this. Default: 4,096.
    pub unreleased_max: u16,
    /// The highest topic alias a client may use, 0 for none. Default: 16.
    pub topic_alias_maximum: u16,
    /// How many outbound messages of QoS 1 and 2 may be in flight; a client's Receive Maximum lowers it. Default: 64.
    pub inflight_max: u16,
    /// How long a client may take to send its CONNECT. Default: 5 s.
    pub connect_timeout: Duration,
    /// The longest session expiry interval that is granted, in seconds; [`u32::MAX`] is for ever. Default: 7 days.
    pub session_expiry_s_max: u32,
    /// The longest keep alive in seconds. An MQTT 5 client that asks for longer, or none, is told; a 3.1.1 client
    /// cannot be. Default: none.
    pub keep_alive_s_max: Option<u16>,
    /// While so many events wait, nothing more is taken from the input. Default: 256.
    pub events_max: usize,
    /// While so many bytes wait to be written, nothing is taken from the input and nothing delivered; one packet may
    /// go beyond. Default: 256 KiB.
    pub output_bytes_max: usize,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            packet_bytes_max: 256 * 1024,
            connect_bytes_max: 32 * 1024,
            receive_maximum: 256,
            unreleased_max: 4_096,
            topic_alias_maximum: 16,
            inflight_max: 64,
            connect_timeout: Duration::from_secs(5),
            session_expiry_s_max: 7 * 24 * 3_600,
            keep_alive_s_max: None,
            events_max: 256,
            output_bytes_max: 256 * 1024,
        }
    }
}
