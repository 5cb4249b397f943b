//! What a listener, a tenant, a product, a device or a user may take of a node.
//!
//! A [`Quota`] is a set of limits, each of which may be left out. A [`Scope`] says for whom it is, and a [`StoredQuota`] puts the two
//! on record. Several hold for one client at once, for instance its tenant's, its product's and its own: the tightest of each limit
//! counts. What is beyond a limit is answered with a reason; how, is said for each limit.
//!
//! A rate holds for all connections of its scope together, on one node. With several nodes each has as much.

mod record;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

pub use self::record::{PutQuota, QUOTAS_MAX, QuotaError, StoredQuota, put, remove};
use crate::{
    id::{AccountId, DeviceId, InvalidId, ProductId, TokenId},
    rate::Rate,
};

/// Limits; what is `None` is not limited here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "made with `..Default::default()`")]
pub struct Quota {
    /// The most connections at a time, by sessions: one that takes its session from another adds none. A further one is refused with
    /// "quota exceeded" and told when to come back. Those that are there when the limit comes stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections_max: Option<u32>,
    /// How many messages are taken. Who is too fast is slowed: nothing more is read from that connection until there is room, if that
    /// is within a second. If not, the message is refused with "quota exceeded".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publishes: Option<Rate>,
    /// How many bytes of topics and payloads are taken, likewise. A message that is larger than the burst is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Rate>,
    /// The largest payload of a message in bytes. A larger one is refused with "quota exceeded".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_bytes_max: Option<u32>,
    /// The most subscriptions of each session. A further one is refused with "quota exceeded"; those that are there stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscriptions_max: Option<u32>,
    /// The most unacknowledged QoS 1 and 2 messages of each connection towards the node, in place of the node's own limit if that is
    /// higher. It is told when a client connects, and holds for that connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inflight_max: Option<u16>,
}

/// The limits contradict themselves, or would let nothing through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{limit}: {why}")]
pub struct InvalidQuota {
    /// Which limit.
    pub limit: &'static str,
    why: &'static str,
}

impl Quota {
    /// Whether the limits make sense: a quota says something, and slows down or bounds, but does not shut out.
    pub fn check(&self) -> Result<(), InvalidQuota> {
        let invalid = |limit, why| Err(InvalidQuota { limit, why });
        if *self == Self::default() {
            return invalid("quota", "at least one limit; to lift all of them, delete the quota");
        }
        for (limit, rate) in [("publishes", self.publishes), ("bytes", self.bytes)] {
            match rate {
                Some(rate) if rate.per_s == 0 => return invalid(limit, "per_s is at least 1"),
                Some(rate) if rate.burst == 0 => return invalid(limit, "burst is at least 1"),
                _ => {}
            }
        }
        for (limit, is_zero) in [
            ("connections_max", self.connections_max == Some(0)),
            ("payload_bytes_max", self.payload_bytes_max == Some(0)),
            ("subscriptions_max", self.subscriptions_max == Some(0)),
            ("inflight_max", self.inflight_max == Some(0)),
        ] {
            if is_zero {
                return invalid(limit, "at least 1; who is to have nothing is not let in: revoke its credentials");
            }
        }
        Ok(())
    }
}

/// For whom a quota is, within a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
#[non_exhaustive]
pub enum Scope {
    /// Everything of the tenant together. Only who runs the server sets it: a tenant does not raise its own.
    Tenant,
    /// All devices of a product together.
    Product(ProductId),
    /// Each device of a product for itself, unless it has a quota of its own.
    EachDevice(ProductId),
    /// One device, wholly in place of what each device of its product has.
    Device(DeviceId),
    /// Each user for itself, unless it has a quota of its own: each account and each API token with all its connections.
    EachUser,
    /// One account, wholly in place of what each user has.
    Account(AccountId),
    /// One API token, likewise.
    Token(TokenId),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant => f.write_str("tenant"),
            Self::Product(product) => write!(f, "products/{product}"),
            Self::EachDevice(product) => write!(f, "products/{product}/devices"),
            Self::Device(device) => write!(f, "devices/{device}"),
            Self::EachUser => f.write_str("users"),
            Self::Account(account) => write!(f, "accounts/{account}"),
            Self::Token(token) => write!(f, "tokens/{token}"),
        }
    }
}

/// The text names no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a scope: tenant, products/<id>, products/<id>/devices, devices/<id>, users, accounts/<id> or tokens/<id>")]
pub struct InvalidScope;

impl From<InvalidId> for InvalidScope {
    fn from(_: InvalidId) -> Self {
        Self
    }
}

impl FromStr for Scope {
    type Err = InvalidScope;

    fn from_str(text: &str) -> Result<Self, InvalidScope> {
        let mut parts = text.split('/');
        let scope = match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("tenant"), None, ..) => Self::Tenant,
            (Some("products"), Some(product), None, _) => Self::Product(product.parse()?),
            (Some("products"), Some(product), Some("devices"), None) => Self::EachDevice(product.parse()?),
            (Some("devices"), Some(device), None, _) => Self::Device(device.parse()?),
            (Some("users"), None, ..) => Self::EachUser,
            (Some("accounts"), Some(account), None, _) => Self::Account(account.parse()?),
            (Some("tokens"), Some(token), None, _) => Self::Token(token.parse()?),
            _ => return Err(InvalidScope),
        };
        Ok(scope)
    }
}

impl TryFrom<String> for Scope {
    type Error = InvalidScope;

    fn try_from(text: String) -> Result<Self, InvalidScope> {
        text.parse()
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        scope.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_reads_back_and_other_text_does_not() {
        for text in ["tenant", "products/p", "products/p/devices", "devices/d", "users", "accounts/a", "tokens/t"] {
            assert_eq!(text.parse::<Scope>().unwrap().to_string(), text);
            assert_eq!(serde_json::from_str::<Scope>(&format!("{text:?}")).unwrap().to_string(), text);
        }
        for text in [
            "",
            "tenant/",
            "tenant/x",
            "products",
            "products/",
            "products/a b",
            "products/p/x",
            "users/u",
            "devices/d/devices",
        ] {
            assert_eq!(text.parse::<Scope>(), Err(InvalidScope), "{text:?}");
        }
    }

    #[test]
    fn a_quota_that_says_nothing_or_shuts_out_is_invalid() {
        let rate = |per_s, burst| Some(Rate { per_s, burst });
        let none = Quota::default();
        for (quota, limit) in [
            (none, "quota"),
            (Quota { publishes: rate(0, 1), ..none }, "publishes"),
            (Quota { publishes: rate(1, 0), ..none }, "publishes"),
            (Quota { bytes: rate(1, 0), ..none }, "bytes"),
            (Quota { connections_max: Some(0), ..none }, "connections_max"),
            (Quota { payload_bytes_max: Some(0), ..none }, "payload_bytes_max"),
            (Quota { subscriptions_max: Some(0), ..none }, "subscriptions_max"),
            (Quota { inflight_max: Some(0), ..none }, "inflight_max"),
        ] {
            assert_eq!(quota.check().unwrap_err().limit, limit);
        }
        let all = Quota {
            connections_max: Some(1),
            publishes: rate(1, 1),
            bytes: rate(u32::MAX, u32::MAX),
            payload_bytes_max: Some(1),
            subscriptions_max: Some(1),
            inflight_max: Some(1),
        };
        assert_eq!(all.check(), Ok(()));
    }

    #[test]
    fn unknown_limits_are_refused_and_missing_ones_are_none() {
        let quota: Quota = serde_json::from_str(r#"{"publishes": {"per_s": 1, "burst": 2}}"#).unwrap();
        assert_eq!(quota, Quota { publishes: Some(Rate { per_s: 1, burst: 2 }), ..Quota::default() });
        assert_eq!(serde_json::to_string(&quota).unwrap(), r#"{"publishes":{"per_s":1,"burst":2}}"#);
        assert!(serde_json::from_str::<Quota>(r#"{"publish": {"per_s": 1, "burst": 2}}"#).is_err());
        assert!(serde_json::from_str::<Quota>(r#"{"publishes": {"per_s": 1}}"#).is_err());
    }
}
