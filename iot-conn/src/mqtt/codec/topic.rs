//! The syntax of topic names and filters (MQTT 5 §4.7 and §4.8.2).

use crate::mqtt::reason::ReasonCode;
use crate::mqtt::wire::DecodeError;

const SHARE: &str = "$share";

/// Checks a topic name: not empty, no wildcards, no U+0000.
///
/// # Errors
///
/// [`ReasonCode::TopicNameInvalid`] and the statement it breaks.
pub fn check_topic_name(name: &str) -> Result<(), DecodeError> {
    let invalid = |statement| Err(DecodeError::new(ReasonCode::TopicNameInvalid, statement));
    if name.is_empty() {
        return invalid("a topic name has at least one character [MQTT-4.7.3-1]");
    }
    if name.bytes().any(|byte| matches!(byte, b'+' | b'#')) {
        return invalid("a topic name holds no wildcards [MQTT-3.3.2-2]");
    }
    if name.contains('\0') {
        return invalid("a topic name holds no U+0000 [MQTT-4.7.3-2]");
    }
    Ok(())
}

/// Checks a topic filter, with or without `$share/name/` in front.
///
/// 3.1.1 knows no shared subscriptions. As the prefix is in use there too, what starts with
/// `$share/` is held to the same syntax in both versions.
///
/// # Errors
///
/// [`ReasonCode::TopicFilterInvalid`] and the statement it breaks.
pub fn check_topic_filter(filter: &str) -> Result<(), DecodeError> {
    match filter.split_once('/') {
        Some((SHARE, shared)) => check_shared(shared),
        None if filter == SHARE => {
            invalid("a shared subscription has a name and a filter [MQTT-4.8.2-1]")
        }
        _ => check_plain(filter),
    }
}

/// Whether the filter makes a shared subscription.
pub(super) fn is_shared(filter: &str) -> bool {
    filter
        .split_once('/')
        .is_some_and(|(first, _)| first == SHARE)
}

fn check_shared(shared: &str) -> Result<(), DecodeError> {
    let Some((name, filter)) = shared.split_once('/') else {
        return invalid("a shared subscription has a name and a filter [MQTT-4.8.2-2]");
    };
    if name.is_empty() {
        return invalid("a share name has at least one character [MQTT-4.8.2-1]");
    }
    if name.contains(['+', '#']) {
        return invalid("a share name holds no wildcards [MQTT-4.8.2-2]");
    }
    check_plain(filter)
}

fn check_plain(filter: &str) -> Result<(), DecodeError> {
    if filter.is_empty() {
        return invalid("a topic filter has at least one character [MQTT-4.7.3-1]");
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        match level {
            "+" => {}
            "#" if levels.peek().is_none() => {}
            _ if level.contains('#') => {
                return invalid("# is a whole level, and the last one [MQTT-4.7.1-1]");
            }
            _ if level.contains('+') => return invalid("+ is a whole level [MQTT-4.7.1-2]"),
            _ if level.contains('\0') => {
                return invalid("a topic filter holds no U+0000 [MQTT-4.7.3-2]");
            }
            _ => {}
        }
    }
    Ok(())
}

fn invalid(statement: &'static str) -> Result<(), DecodeError> {
    Err(DecodeError::new(ReasonCode::TopicFilterInvalid, statement))
}
