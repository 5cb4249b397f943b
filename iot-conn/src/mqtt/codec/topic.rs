//! What a broken topic is called in MQTT; the syntax itself is that of [`iot_core::topic`].

use iot_core::topic::{InvalidTopic, check_filter, check_name};

use crate::mqtt::{reason::ReasonCode, wire::DecodeError};

/// Checks a topic name: not empty, no wildcards, no U+0000.
///
/// # Errors
///
/// [`ReasonCode::TopicNameInvalid`] and the statement it breaks.
pub fn check_topic_name(name: &str) -> Result<(), DecodeError> {
    check_name(name, usize::MAX, usize::MAX).map_err(|invalid| {
        let statement = match invalid {
            InvalidTopic::Wildcard => "a topic name holds no wildcards [MQTT-3.3.2-2]",
            other => broken(other),
        };
        DecodeError::new(ReasonCode::TopicNameInvalid, statement)
    })
}

/// Checks a topic filter, with or without `$share/name/` in front.
///
/// 3.1.1 knows no shared subscriptions. As the prefix is in use there too, what starts with `$share/` is held to the
/// same syntax in both versions.
///
/// # Errors
///
/// [`ReasonCode::TopicFilterInvalid`] and the statement it breaks.
pub fn check_topic_filter(filter: &str) -> Result<(), DecodeError> {
    check_filter(filter, usize::MAX, usize::MAX)
        .map_err(|invalid| DecodeError::new(ReasonCode::TopicFilterInvalid, broken(invalid)))
}

fn broken(invalid: InvalidTopic) -> &'static str {
    match invalid {
        InvalidTopic::Empty => "a topic has at least one character [MQTT-4.7.3-1]",
        InvalidTopic::Null => "a topic holds no U+0000 [MQTT-4.7.3-2]",
        InvalidTopic::Wildcard => "a wildcard is a whole level, and # the last one [MQTT-4.7.1-1] [MQTT-4.7.1-2]",
        InvalidTopic::Share => "a shared subscription has a name and a filter [MQTT-4.8.2-1] [MQTT-4.8.2-2]",
        _ => "a topic is well formed (MQTT 5 §4.7)",
    }
}
