use std::time::Duration;

/// What one connection may make the node hold.
#[derive(Debug, Clone)]
pub struct ConnectionLimits {
    /// The largest packet from the client, in bytes; told to MQTT 5 clients. A larger one ends the connection.
    pub packet_bytes_max: usize,
    /// The most inbound QoS 1 and 2 messages that are not finished. An MQTT 5 client is told and disconnected when it
    /// exceeds it; of a 3.1.1 client no more is read until some are finished.
    pub receive_maximum: u16,
    /// The most topic aliases that the client may set; told to MQTT 5 clients.
    pub topic_alias_maximum: u16,
    /// The most outbound QoS 1 and 2 messages in flight to a client that names no Receive Maximum of its own.
    pub inflight_max: u16,
    /// From the first byte of MQTT to CONNECT.
    pub connect_timeout: Duration,
    /// The longest session expiry that is granted, in seconds.
    pub session_expiry_s_max: u32,
    /// Events that wait to be polled before no more is read.
    pub events_max: usize,
    /// Output that waits to be written before no more is read, in bytes.
    pub output_bytes_max: usize,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            packet_bytes_max: 256 * 1024,
            receive_maximum: 256,
            topic_alias_maximum: 16,
            inflight_max: 64,
            connect_timeout: Duration::from_secs(5),
            session_expiry_s_max: 7 * 24 * 3_600,
            events_max: 256,
            output_bytes_max: 256 * 1024,
        }
    }
}
