use std::fmt;

use serde::{Deserialize, Serialize};

use super::FIELD_BYTES_MAX;
use crate::time::Timestamp;

/// Kinds of notifications.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
#[non_exhaustive]
pub enum Kind {
    /// An alarm of a device was raised.
    AlarmRaised,
    /// An alarm of a device was cleared.
    AlarmCleared,
    /// A device has connected.
    DeviceOnline,
    /// A device's connection has ended.
    DeviceOffline,
    /// A device got an owner; the epoch is the one that began with it.
    DeviceBound,
    /// A device lost its owner. The epoch is the one that began with it, so that the tenant hears of it and the former
    /// owner's home does not.
    DeviceUnbound,
    /// Somebody has tried to bind a device that has its owner, who is told at most once in
    /// [`ATTEMPT_TOLD_EVERY`](crate::binding::ATTEMPT_TOLD_EVERY).
    BindingAttempted,
    /// A device runs a new release and is well.
    UpdateConfirmed,
    /// A device could not be updated.
    UpdateFailed,
    /// Sent on request, to try a receiver.
    Test,
}

/// A field that the notifications of a kind have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Its name, stable.
    pub name: &'static str,
    /// The type of its values.
    pub of: FieldType,
}

/// Types of fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FieldType {
    /// Text of at most [`FIELD_BYTES_MAX`] bytes.
    Text,
    /// A number.
    Number,
    /// A time.
    Time,
}

/// A field's value.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum FieldValue {
    /// Text.
    Text(String),
    /// A number.
    Number(f64),
    /// A time.
    Time(Timestamp),
}

/// There is no kind of this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no such kind of notification: {0:?}")]
pub struct UnknownKind(String);

const fn text(name: &'static str) -> Field {
    Field { name, of: FieldType::Text }
}

const SINCE: Field = Field { name: "since", of: FieldType::Time };
const ALARM: &[Field] = &[text("name"), text("text"), SINCE];

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::AlarmRaised,
        Self::AlarmCleared,
        Self::DeviceOnline,
        Self::DeviceOffline,
        Self::DeviceBound,
        Self::DeviceUnbound,
        Self::BindingAttempted,
        Self::UpdateConfirmed,
        Self::UpdateFailed,
        Self::Test,
    ];

    /// Its name, stable.
    pub fn name(self) -> &'static str {
        match self {
            Self::AlarmRaised => "alarm.raised",
            Self::AlarmCleared => "alarm.cleared",
            Self::DeviceOnline => "device.online",
            Self::DeviceOffline => "device.offline",
            Self::DeviceBound => "device.bound",
            Self::DeviceUnbound => "device.unbound",
            Self::BindingAttempted => "binding.attempted",
            Self::UpdateConfirmed => "update.confirmed",
            Self::UpdateFailed => "update.failed",
            Self::Test => "test",
        }
    }

    /// The fields that its notifications have, beside id, tenant, home, device and time.
    pub fn fields(self) -> &'static [Field] {
        match self {
            Self::AlarmRaised | Self::AlarmCleared => ALARM,
            Self::DeviceOnline => &[SINCE],
            Self::DeviceOffline => &[SINCE, const { text("cause") }],
            Self::UpdateConfirmed => &[const { text("version") }],
            Self::UpdateFailed => &[const { text("version") }, const { text("reason") }],
            Self::DeviceBound | Self::DeviceUnbound | Self::BindingAttempted | Self::Test => &[],
        }
    }

    /// One of its fields.
    pub fn field(self, name: &str) -> Option<Field> {
        self.fields().iter().copied().find(|field| field.name == name)
    }

    /// The text of its notifications where nobody wrote another template.
    pub fn template(self) -> &'static str {
        match self {
            Self::AlarmRaised => "{device}: {name}: {text}",
            Self::AlarmCleared => "{device}: {name} is over: {text}",
            Self::DeviceOnline => "{device} is online",
            Self::DeviceOffline => "{device} is offline: {cause}",
            Self::DeviceBound => "{device} was bound",
            Self::DeviceUnbound => "{device} was unbound",
            Self::BindingAttempted => "somebody tried to bind {device}, which has its owner",
            Self::UpdateConfirmed => "{device} runs {version}",
            Self::UpdateFailed => "{device} could not be updated to {version}: {reason}",
            Self::Test => "This is a test",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<Kind> for &'static str {
    fn from(kind: Kind) -> Self {
        kind.name()
    }
}

impl TryFrom<String> for Kind {
    type Error = UnknownKind;
    fn try_from(name: String) -> Result<Self, UnknownKind> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or(UnknownKind(name))
    }
}

impl FieldValue {
    /// Reads a value of this type; `None` if it is of another.
    pub(super) fn read(of: FieldType, value: &serde_json::Value) -> Option<Self> {
        match of {
            FieldType::Text => value.as_str().map(Self::from),
            FieldType::Number => value.as_f64().map(Self::Number),
            FieldType::Time => Timestamp::deserialize(value).ok().map(Self::Time),
        }
    }

    /// Its type.
    pub fn of(&self) -> FieldType {
        match self {
            Self::Text(_) => FieldType::Text,
            Self::Number(_) => FieldType::Number,
            Self::Time(_) => FieldType::Time,
        }
    }

    pub(super) fn bounded(self) -> Self {
        match self {
            Self::Text(text) if text.len() > FIELD_BYTES_MAX => Self::Text(cut(&text, FIELD_BYTES_MAX)),
            other => other,
        }
    }
}

/// The beginning of a text that is too long, with `…` after it.
pub(super) fn cut(text: &str, bytes_max: usize) -> String {
    let mut end = bytes_max - '…'.len_utf8();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

impl From<&str> for FieldValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl fmt::Display for FieldValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => number.fmt(f),
            Self::Time(time) => time.fmt(f),
        }
    }
}
