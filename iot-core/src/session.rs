//! MQTT sessions as stores and nodes name them.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::id::{AccountId, DeviceId, TenantId, TokenId};

/// Names a session. The principal is part of the name, so that a client can take over only sessions of its own.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(Arc<str>);

impl SessionId {
    /// The one session of a device.
    pub fn device(tenant: &TenantId, device: &DeviceId) -> Self {
        Self(format!("{tenant}/d/{device}").into())
    }

    /// A session of an application that signed in with a token.
    pub fn token(tenant: &TenantId, token: &TokenId, client_id: &str) -> Self {
        Self(format!("{tenant}/t/{token}/{client_id}").into())
    }

    /// A session of an account.
    pub fn account(tenant: &TenantId, account: &AccountId, client_id: &str) -> Self {
        Self(format!("{tenant}/a/{account}/{client_id}").into())
    }

    /// A session of a client without credentials.
    pub fn anonymous(tenant: &TenantId, client_id: &str) -> Self {
        Self(format!("{tenant}/n/{client_id}").into())
    }

    /// From a store that holds what [`as_str`](Self::as_str) gave.
    pub fn from_stored(text: &str) -> Self {
        Self(text.into())
    }

    /// Whose it is.
    pub fn tenant(&self) -> &str {
        self.0.split_once('/').map_or("", |(tenant, _)| tenant)
    }

    /// The device whose session it is, if it is one's.
    pub fn as_device(&self) -> Option<(TenantId, DeviceId)> {
        let (tenant, rest) = self.0.split_once('/')?;
        Some((tenant.parse().ok()?, rest.strip_prefix("d/")?.parse().ok()?))
    }

    /// The text under which a store keeps it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({})", self.0)
    }
}

/// A fencing number: each opening of a session gets a higher one, and writes with a lower one are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct SessionEpoch(pub u64);

/// A place in a session's queue; grows by one with each message and is never reused, even after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Position(pub u64);

impl Position {
    /// The MQTT packet identifier of the message at this place: the same before and after a restart, as MQTT asks of
    /// resent messages (MQTT 5 §4.4), without being stored. Unique among any 65,535 consecutive places.
    pub fn packet_id(self) -> std::num::NonZeroU16 {
        let id = u16::try_from(self.0 % 65_535).unwrap_or(0).saturating_add(1);
        std::num::NonZeroU16::MIN.saturating_add(id - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_ids_cover_the_range_and_repeat_only_after_65535() {
        let ids: std::collections::HashSet<u16> = (0..65_535).map(|p| Position(p).packet_id().get()).collect();
        assert_eq!(ids.len(), 65_535);
        assert_eq!(Position(0).packet_id(), Position(65_535).packet_id());
        assert_eq!(Position(65_534).packet_id().get(), 65_535);
    }

    #[test]
    fn one_principal_cannot_name_the_session_of_another() {
        let tenant = TenantId::parse("t").unwrap();
        let device = SessionId::device(&tenant, &DeviceId::parse("a").unwrap());
        assert_ne!(device, SessionId::anonymous(&tenant, "a"));
        assert_ne!(SessionId::anonymous(&tenant, "../d/a"), device);
    }
}
