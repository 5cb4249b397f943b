//! The seam to what tells people and other systems that something happened: webhooks, phone push, e-mail.
//!
//! ```
//! use iot_core::{id::TenantId, push::{FieldValue, Kind, Notification, NotificationId, Template}, time::Timestamp};
//!
//! let notification = Notification::new(
//!     NotificationId::parse("alarm-n1-42-0")?,
//!     TenantId::parse("acme")?,
//!     Kind::AlarmRaised,
//!     Timestamp::EPOCH,
//!     [
//!         ("name", FieldValue::from("temperature")),
//!         ("text", FieldValue::from("31.5 is above 30")),
//!         ("since", FieldValue::Time(Timestamp::EPOCH)),
//!     ],
//! )?;
//! let template = Template::parse(Kind::AlarmRaised, "{name}: {text}")?;
//! assert_eq!(template.render(&notification).as_deref(), Some("temperature: 31.5 is above 30"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod announcement;
mod caused;
mod kind;
mod template;

use std::{collections::BTreeMap, fmt, sync::Arc};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    device::Device,
    id::{DeviceId, HomeId, OwnershipEpoch, TenantId},
    logic::BoxError,
    time::Timestamp,
};

pub use announcement::{Announcement, RELAY_PAGE, Relayed, relay};
pub use kind::{Field, FieldType, FieldValue, Kind, UnknownKind};
pub use template::{RENDERED_BYTES_MAX, TEMPLATE_BYTES_MAX, Template, TemplateError};

/// The longest id of a notification, in bytes.
pub const NOTIFICATION_ID_BYTES_MAX: usize = 160;

/// The longest text field, in bytes; a longer text is cut at a character and ends with `…`.
pub const FIELD_BYTES_MAX: usize = 512;

/// Names a notification over all its repeats, within its tenant: made from what caused it, never drawn.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NotificationId(Arc<str>);

/// The text is not the id of a notification.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a notification's id must be 1 to {NOTIFICATION_ID_BYTES_MAX} characters of a-z, A-Z, 0-9, '-' and '_'")]
pub struct InvalidNotificationId;

impl NotificationId {
    /// Parses an id: 1 to 160 characters of a-z, A-Z, 0-9, '-' and '_'. No dot: Standard Webhooks signs
    /// `id.timestamp.body`.
    pub fn parse(text: &str) -> Result<Self, InvalidNotificationId> {
        let allowed = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        if text.is_empty() || text.len() > NOTIFICATION_ID_BYTES_MAX || !text.as_bytes().iter().all(allowed) {
            return Err(InvalidNotificationId);
        }
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for NotificationId {
    type Error = InvalidNotificationId;
    fn try_from(text: String) -> Result<Self, InvalidNotificationId> {
        Self::parse(&text)
    }
}

impl From<NotificationId> for String {
    fn from(id: NotificationId) -> Self {
        id.0.as_ref().to_owned()
    }
}

impl fmt::Display for NotificationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Something that happened and that somebody may want to hear of. Its fields are those of its [`Kind`]: that is checked
/// when it is made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written")]
#[non_exhaustive]
pub struct Notification {
    /// Stable over repeats.
    pub id: NotificationId,
    /// Whose.
    pub tenant: TenantId,
    /// Where the device stood, or which home it is about.
    pub home: Option<HomeId>,
    /// About which device, in which of its ownership epochs. Who has only another epoch must not hear of it.
    pub device: Option<(DeviceId, OwnershipEpoch)>,
    /// What kind of happening.
    pub kind: Kind,
    /// When it happened.
    pub at: Timestamp,
    /// Exactly those that its kind lists.
    pub fields: BTreeMap<&'static str, FieldValue>,
}

/// A notification has other fields than its kind lists.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} needs exactly the fields that it lists: {field}")]
pub struct FieldMismatch {
    /// Of which kind.
    pub kind: Kind,
    /// The field that is missing, unknown, or of another type.
    pub field: String,
}

impl Notification {
    /// A notification about a tenant; see [`about`](Self::about) and [`in_home`](Self::in_home) for more.
    pub fn new<'f>(
        id: NotificationId,
        tenant: TenantId,
        kind: Kind,
        at: Timestamp,
        fields: impl IntoIterator<Item = (&'f str, FieldValue)>,
    ) -> Result<Self, FieldMismatch> {
        let mismatch = |field: &str| FieldMismatch { kind, field: field.to_owned() };
        let mut checked = BTreeMap::new();
        for (name, value) in fields {
            let field = kind.field(name).filter(|field| field.of == value.of()).ok_or_else(|| mismatch(name))?;
            checked.insert(field.name, value.bounded());
        }
        if let Some(missing) = kind.fields().iter().find(|field| !checked.contains_key(field.name)) {
            return Err(mismatch(missing.name));
        }
        Ok(Self { id, tenant, home: None, device: None, kind, at, fields: checked })
    }

    /// The same about a device as it stands now: its epoch and its home.
    #[must_use]
    pub fn about(mut self, device: &Device) -> Self {
        self.device = Some((device.id.clone(), device.epoch));
        self.home = device.home.clone();
        self
    }

    /// The same about a home.
    #[must_use]
    pub fn in_home(mut self, home: HomeId) -> Self {
        self.home = Some(home);
        self
    }
}

/// A notification as it was written: what its kind does not list is refused.
#[derive(Deserialize)]
struct Written {
    id: NotificationId,
    tenant: TenantId,
    home: Option<HomeId>,
    device: Option<(DeviceId, OwnershipEpoch)>,
    kind: Kind,
    at: Timestamp,
    fields: BTreeMap<String, serde_json::Value>,
}

impl TryFrom<Written> for Notification {
    type Error = FieldMismatch;
    fn try_from(written: Written) -> Result<Self, FieldMismatch> {
        let Written { id, tenant, home, device, kind, at, fields } = written;
        let mut read = Vec::new();
        for (name, value) in &fields {
            let value = kind.field(name).and_then(|field| FieldValue::read(field.of, value));
            read.push((name.as_str(), value.ok_or_else(|| FieldMismatch { kind, field: name.clone() })?));
        }
        Ok(Self { home, device, ..Self::new(id, tenant, kind, at, read)? })
    }
}

/// A backend that takes notifications on their way.
///
/// `push` returns [`Pushed::Taken`] once the notification cannot be lost by a crash any more; whoever calls it may
/// forget the notification then. It is called at least once: after an error, a crash or a cancellation the same
/// notification comes again, and an implementor must recognise it by `(tenant, id)` and let it count once, for at least
/// a day. It takes and does not deliver: a call lasts about as long as a commit, however slow the other side is.
/// Nothing is promised about order.
///
/// Delivery happens later, and what was true when the notification was made may have ended: an implementor compares the
/// device's ownership epoch with the notification's **when it delivers**, and drops it when they differ.
#[async_trait]
pub trait Push: fmt::Debug + Send + Sync + 'static {
    /// Takes a notification.
    async fn push(&self, notification: &Notification) -> Result<Pushed, PushError>;
}

/// What became of a notification.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It is kept until it is delivered or given up.
    Taken,
    /// Nobody wants it.
    Nobody,
}

/// The notification was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// Push it again later.
    #[error("the backend cannot take notifications now")]
    Unavailable(#[source] BoxError),
}

/// Several backends as one: each gets every notification.
#[derive(Debug, Clone)]
pub struct Fanout(Vec<Arc<dyn Push>>);

impl Fanout {
    /// Over these, in this order.
    pub fn new(backends: Vec<Arc<dyn Push>>) -> Self {
        Self(backends)
    }
}

#[async_trait]
impl Push for Fanout {
    /// One that fails keeps no other from its turn. After an error all are asked again; those that had taken it
    /// recognise the repeat.
    async fn push(&self, notification: &Notification) -> Result<Pushed, PushError> {
        let mut pushed = Pushed::Nobody;
        let mut failed = None;
        for backend in &self.0 {
            match backend.push(notification).await {
                Ok(Pushed::Taken) => pushed = Pushed::Taken,
                Ok(Pushed::Nobody) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(pushed), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn online(fields: &[(&str, FieldValue)]) -> Result<Notification, FieldMismatch> {
        let id = NotificationId::parse("online-lamp-1").unwrap();
        let tenant = TenantId::parse("t").unwrap();
        Notification::new(id, tenant, Kind::DeviceOnline, Timestamp::EPOCH, fields.iter().cloned())
    }

    #[test]
    fn a_notification_has_the_fields_of_its_kind_and_no_other() {
        let since = ("since", FieldValue::Time(Timestamp::EPOCH));
        assert!(online(std::slice::from_ref(&since)).is_ok());
        assert_eq!(online(&[]).unwrap_err().field, "since");
        assert_eq!(online(&[("since", FieldValue::from("now"))]).unwrap_err().field, "since");
        assert_eq!(online(&[since, ("cause", FieldValue::from("x"))]).unwrap_err().field, "cause");
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let cut = FieldValue::from("é".repeat(FIELD_BYTES_MAX).as_str()).bounded();
        let FieldValue::Text(text) = cut else { panic!("{cut:?}") };
        assert!(text.len() <= FIELD_BYTES_MAX && text.ends_with("é…"), "{}", text.len());
        assert_eq!(FieldValue::from("short").bounded(), FieldValue::from("short"));
    }

    #[test]
    fn an_id_is_bounded_and_has_no_dot() {
        assert!(NotificationId::parse("alarm-n1-42_0").is_ok());
        for bad in ["", "a.b", "a/b", "a b", "é", &"x".repeat(NOTIFICATION_ID_BYTES_MAX + 1)] {
            assert!(NotificationId::parse(bad).is_err(), "{bad:?}");
        }
    }
}
