use metrics::Counter;

/// What is counted for every message: looked up once, not each time. Whoever records metrics is there before the node is built.
pub(crate) struct Counters {
    pub(crate) received: Counter,
    pub(crate) sent: Counter,
    pub(crate) shed: Counter,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            received: metrics::counter!("iot_messages_received_total"),
            sent: metrics::counter!("iot_messages_sent_total"),
            shed: metrics::counter!("iot_messages_dropped_total", "reason" => "mailbox_full"),
        }
    }
}
