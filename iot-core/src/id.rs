//! Identifiers: a type for each, parsed once at the edge; their existence is the proof that the text is well-formed.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// The longest identifier, in bytes.
pub const ID_BYTES_MAX: usize = 64;

/// The text is not an identifier of this kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} must be 1 to {ID_BYTES_MAX} characters of {alphabet}")]
pub struct InvalidId {
    kind: &'static str,
    alphabet: &'static str,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $alphabet:literal, $allowed:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            #[doc = concat!("Parses a ", $kind, ": 1 to 64 characters of ", $alphabet, ".")]
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                let allowed: fn(&u8) -> bool = $allowed;
                if text.is_empty() || text.len() > ID_BYTES_MAX || !text.as_bytes().iter().all(allowed) {
                    return Err(InvalidId { kind: $kind, alphabet: $alphabet });
                }
                Ok(Self(text.into()))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.as_ref().to_owned()
            }
        }
    };
}

fn word(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

text_id!(
    /// A vendor: the outermost boundary. Nothing of one tenant is visible to another.
    TenantId, "tenant id", "a-z, A-Z, 0-9, '-' and '_'", word
);
text_id!(
    /// A product of a tenant.
    ProductId, "product id", "a-z, A-Z, 0-9, '-' and '_'", word
);
text_id!(
    /// One unit. Unique within its tenant.
    DeviceId, "device id", "a-z, A-Z, 0-9, '-' and '_'", word
);
text_id!(
    /// A home: the group of devices that people share.
    HomeId, "home id", "a-z, A-Z, 0-9, '-' and '_'", word
);
text_id!(
    /// The public code printed on one unit. Unique within its tenant; it names the unit and authorises nothing.
    PCode, "P code", "A-Z, 0-9 and '-'", |b| b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b'-'
);
text_id!(
    /// One command, on every path it takes.
    CommandId, "command id", "a-z, A-Z, 0-9, '-' and '_'", word
);
text_id!(
    /// The public part of an API token or a claim token.
    TokenId, "token id", "a-z, A-Z, 0-9, '-' and '_'", word
);
text_id!(
    /// A person's account. Random; says nothing about the person.
    AccountId, "account id", "a-z, A-Z, 0-9, '-' and '_'", word
);
text_id!(
    /// One sign-in of an account, until it signs out.
    LoginId, "login id", "a-z, A-Z, 0-9, '-' and '_'", word
);
text_id!(
    /// An invitation to a home.
    InviteId, "invite id", "a-z, A-Z, 0-9, '-' and '_'", word
);
text_id!(
    /// A registered webhook.
    WebhookId, "webhook id", "a-z, A-Z, 0-9, '-' and '_'", word
);
text_id!(
    /// A release of a product's firmware.
    ReleaseId, "release id", "a-z, A-Z, 0-9, '-' and '_'", word
);
text_id!(
    /// One rollout of a release.
    RolloutId, "rollout id", "a-z, A-Z, 0-9, '-' and '_'", word
);
text_id!(
    /// A service that devices ask through the cloud, such as `twin`.
    ServiceName, "service name", "a-z, A-Z, 0-9, '-' and '_'", word
);
text_id!(
    /// One running server of a cluster, stable over its restarts.
    NodeId, "node id", "a-z, A-Z, 0-9, '-' and '_'", word
);
text_id!(
    /// A consumer of the ingest log, the name of its checkpoint.
    ConsumerId, "consumer id", "a-z, A-Z, 0-9, '-' and '_'", word
);
text_id!(
    /// The name of a measured quantity or of an event within a product.
    Metric, "metric name", "a-z, A-Z, 0-9, '-', '_' and '.'", |b| word(b) || *b == b'.'
);

/// Counts the owners of a device: a change of owner increments it, and whatever carries an older one is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct OwnershipEpoch(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_bounded_and_has_no_topic_characters() {
        assert_eq!(DeviceId::parse("lamp-1").unwrap().as_str(), "lamp-1");
        for bad in ["", "a/b", "a+b", "#", "a b", "ä", &"x".repeat(65)] {
            assert!(DeviceId::parse(bad).is_err(), "{bad:?}");
        }
        assert!(PCode::parse("AB12-CD34").is_ok());
        assert!(PCode::parse("ab12").is_err());
    }

    #[test]
    fn deserializing_checks_too() {
        assert!(serde_json::from_str::<DeviceId>("\"a/b\"").is_err());
        assert_eq!(serde_json::from_str::<DeviceId>("\"ab\"").unwrap(), DeviceId::parse("ab").unwrap());
    }
}
