//! Topics: syntax (MQTT 5 §4.7) and the device tree.
//!
//! A device says `up/telemetry`; applications see `d/<device>/up/telemetry`. The device's part of a topic comes from its
//! session, so a device cannot name another.

use std::fmt;

use crate::id::{DeviceId, ServiceName};

/// The text is not a topic name or filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidTopic {
    /// It is empty.
    #[error("the topic is empty")]
    Empty,
    /// It is longer than the limit in bytes, or has more levels.
    #[error("the topic is too long")]
    TooLong,
    /// It contains U+0000.
    #[error("the topic contains a null character")]
    Null,
    /// A topic name contains `+` or `#`, or a filter has one where it must not be.
    #[error("the topic has a misplaced wildcard")]
    Wildcard,
    /// `$share/` without a group or a filter.
    #[error("the shared subscription names no group or no filter")]
    Share,
}

/// Checks a topic name (MQTT 5 §4.7.1, §4.7.3).
pub fn check_name(name: &str, bytes_max: usize, levels_max: usize) -> Result<(), InvalidTopic> {
    if check_text(name, bytes_max, levels_max)?.has_wildcard {
        return Err(InvalidTopic::Wildcard);
    }
    Ok(())
}

/// How many levels a topic name or filter has.
pub fn levels(topic: &str) -> usize {
    survey(topic).levels
}

/// Checks a topic filter, shared ones included (MQTT 5 §4.7.1, §4.8.2).
pub fn check_filter(filter: &str, bytes_max: usize, levels_max: usize) -> Result<(), InvalidTopic> {
    check_text(filter, bytes_max, levels_max)?;
    let plain = match parse_share(filter)? {
        Some((_, plain)) => plain,
        None => filter,
    };
    let mut levels = plain.split('/').peekable();
    while let Some(level) = levels.next() {
        let misplaced = match level {
            "+" => false,
            "#" => levels.peek().is_some(),
            other => other.contains(['+', '#']),
        };
        if misplaced {
            return Err(InvalidTopic::Wildcard);
        }
    }
    Ok(())
}

fn check_text(text: &str, bytes_max: usize, levels_max: usize) -> Result<Survey, InvalidTopic> {
    if text.is_empty() {
        return Err(InvalidTopic::Empty);
    }
    let survey = survey(text);
    if text.len() > bytes_max || survey.levels > levels_max {
        return Err(InvalidTopic::TooLong);
    }
    if survey.has_null {
        return Err(InvalidTopic::Null);
    }
    Ok(survey)
}

/// What matters in a text, wherever it is.
struct Survey {
    levels: usize,
    has_null: bool,
    has_wildcard: bool,
}

/// Each packet's topic comes by here: once over the bytes, without a branch for any of them.
fn survey(text: &str) -> Survey {
    let (mut levels, mut nulls, mut wildcards) = (1, 0, 0);
    // So short that its separators fit into a byte: the compiler looks at many bytes at once.
    for part in text.as_bytes().chunks(usize::from(u8::MAX)) {
        let mut separators = 0_u8;
        for byte in part {
            separators += u8::from(*byte == b'/');
            nulls |= u8::from(*byte == 0);
            wildcards |= u8::from(*byte == b'+') | u8::from(*byte == b'#');
        }
        levels += usize::from(separators);
    }
    Survey { levels, has_null: nulls != 0, has_wildcard: wildcards != 0 }
}

/// Splits `$share/<group>/<filter>`; `None` for any other filter.
pub fn parse_share(filter: &str) -> Result<Option<(&str, &str)>, InvalidTopic> {
    let Some(rest) = filter.strip_prefix("$share/") else {
        return if filter == "$share" { Err(InvalidTopic::Share) } else { Ok(None) };
    };
    let (group, plain) = rest.split_once('/').ok_or(InvalidTopic::Share)?;
    if group.is_empty() || plain.is_empty() || group.contains(['+', '#']) {
        return Err(InvalidTopic::Share);
    }
    Ok(Some((group, plain)))
}

/// Whether a filter (not a shared one) has a wildcard.
pub fn has_wildcard(filter: &str) -> bool {
    filter.bytes().any(|byte| matches!(byte, b'+' | b'#'))
}

/// Whether `topic` matches `filter` (MQTT 5 §4.7.1.2, §4.7.1.3, §4.7.2), neither of them shared.
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut names = topic.split('/');
    for level in filter.split('/') {
        if level == "#" {
            return true;
        }
        match names.next() {
            Some(name) if level == "+" || level == name => {}
            _ => return false,
        }
    }
    names.next().is_none()
}

/// What a topic below a device means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeviceTopic<'a> {
    /// `up/telemetry`: samples of metrics; stored.
    Telemetry,
    /// `up/event`: a named event; stored.
    Event,
    /// `up/reply`: the answer to a command.
    Reply,
    /// `up/custom/<path>`: the vendor's own; routed to subscribers, not stored.
    UpCustom(&'a str),
    /// A question to a service, by its name.
    Ask(&'a str),
    /// `down/command`: commands to the device.
    Command,
    /// `down/error`: what the node refused of the device's messages, and why.
    Error,
    /// `down/custom/<path>`: the vendor's own, from applications that may control the device.
    DownCustom(&'a str),
    /// What a service says, by its name.
    Answer(&'a str),
    /// `status`: retained; whether the device is connected.
    Status,
}

impl<'a> DeviceTopic<'a> {
    /// Reads the part of a topic that follows the device: what a device itself uses.
    pub fn parse(local: &'a str) -> Option<Self> {
        Some(match local {
            "up/telemetry" => Self::Telemetry,
            "up/event" => Self::Event,
            "up/reply" => Self::Reply,
            "down/command" => Self::Command,
            "down/error" => Self::Error,
            "status" => Self::Status,
            other => match (other.strip_prefix("up/custom/"), other.strip_prefix("down/custom/")) {
                (Some(path), _) if !path.is_empty() => Self::UpCustom(path),
                (_, Some(path)) if !path.is_empty() => Self::DownCustom(path),
                _ => return Self::parse_service(other),
            },
        })
    }

    fn parse_service(local: &'a str) -> Option<Self> {
        let name = |prefix| local.strip_prefix(prefix).filter(|name| ServiceName::parse(name).is_ok());
        name("up/service/").map(Self::Ask).or_else(|| name("down/service/").map(Self::Answer))
    }

    /// Whether a device may publish here.
    pub fn is_up(self) -> bool {
        matches!(self, Self::Telemetry | Self::Event | Self::Reply | Self::UpCustom(_) | Self::Ask(_))
    }
}

impl fmt::Display for DeviceTopic<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Telemetry => f.write_str("up/telemetry"),
            Self::Event => f.write_str("up/event"),
            Self::Reply => f.write_str("up/reply"),
            Self::UpCustom(path) => write!(f, "up/custom/{path}"),
            Self::Ask(name) => write!(f, "up/service/{name}"),
            Self::Answer(name) => write!(f, "down/service/{name}"),
            Self::Command => f.write_str("down/command"),
            Self::Error => f.write_str("down/error"),
            Self::DownCustom(path) => write!(f, "down/custom/{path}"),
            Self::Status => f.write_str("status"),
        }
    }
}

/// The root of all device trees, as applications see them.
pub const DEVICE_ROOT: &str = "d/";

/// The full topic of something below a device.
pub fn of_device(device: &DeviceId, local: &str) -> String {
    format!("{DEVICE_ROOT}{device}/{local}")
}

/// Splits a full topic of a device tree into the device's text and the part below it; `None` outside the trees.
pub fn split_device(topic: &str) -> Option<(&str, &str)> {
    topic.strip_prefix(DEVICE_ROOT)?.split_once('/')
}

/// Whether a plain filter can match topics inside a device tree.
pub fn reaches_devices(filter: &str) -> bool {
    matches!(filter.split('/').next(), Some("#" | "+" | "d"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_checked_as_mqtt_says() {
        for good in ["a", "/", "+", "#", "a/+/b", "a/#", "/+", "$share/g/a/#", "$SYS/#"] {
            assert_eq!(check_filter(good, 64, 8), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("", InvalidTopic::Empty),
            ("a+", InvalidTopic::Wildcard),
            ("a/#/b", InvalidTopic::Wildcard),
            ("a#", InvalidTopic::Wildcard),
            ("a\0", InvalidTopic::Null),
            ("$share", InvalidTopic::Share),
            ("$share/g", InvalidTopic::Share),
            ("$share//a", InvalidTopic::Share),
            ("$share/g/", InvalidTopic::Share),
            ("$share/g+/a", InvalidTopic::Share),
            ("a/b/c/d/e/f/g/h/i", InvalidTopic::TooLong),
        ] {
            assert_eq!(check_filter(bad, 64, 8), Err(why), "{bad:?}");
        }
        assert_eq!(check_name("a/+", 64, 8), Err(InvalidTopic::Wildcard));
        assert_eq!(check_name("a\0+", 64, 8), Err(InvalidTopic::Null));
        let long = "x/".repeat(700);
        assert_eq!((levels(&long), levels(""), levels("a")), (701, 1, 1));
        assert_eq!(check_name(&long, usize::MAX, 701), Ok(()));
        assert_eq!(check_name(&format!("{long}#"), usize::MAX, 701), Err(InvalidTopic::Wildcard));
        assert_eq!(check_name(&format!("{long}\0"), usize::MAX, 701), Err(InvalidTopic::Null));
    }

    #[test]
    fn matching_follows_the_examples_of_the_standard() {
        for (filter, topic, expected) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
            ("sport/#", "sport", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/x", false),
            ("+/monitor/Clients", "$SYS/monitor/Clients", false),
            ("$SYS/#", "$SYS/x", true),
        ] {
            assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
        }
    }

    #[test]
    fn the_device_tree_reads_back_what_it_writes() {
        for local in [
            "up/telemetry",
            "up/event",
            "up/reply",
            "up/custom/a/b",
            "down/command",
            "down/error",
            "down/custom/x",
            "up/service/twin",
            "down/service/twin",
            "status",
        ] {
            assert_eq!(DeviceTopic::parse(local).unwrap().to_string(), local);
        }
        for other in ["up", "up/custom/", "up/telemetry/x", "up/service/", "up/service/a/b", "telemetry", ""] {
            assert_eq!(DeviceTopic::parse(other), None, "{other}");
        }
        assert_eq!(split_device("d/lamp/up/telemetry"), Some(("lamp", "up/telemetry")));
        assert_eq!(split_device("e/lamp"), None);
    }
}
