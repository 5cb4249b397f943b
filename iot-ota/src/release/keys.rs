use std::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::digest::{Digest, bytes_of_hex};

/// The most keys that a product's devices pin.
pub const KEYS_MAX: usize = 8;

/// Before every manifest that is signed, so that a signature means nothing elsewhere.
const DOMAIN: &[u8] = b"iot-ota/1 release\0";

/// An Ed25519 public key (RFC 8032, 32 bytes). In JSON 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// From its bytes. Whether they are a point of the curve shows when a signature is checked.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its name in signatures: the SHA-256 of its bytes.
    pub fn id(&self) -> Digest {
        Digest::of(&self.0)
    }

    /// Whether this key signed the manifest.
    pub(super) fn verifies(&self, manifest: &str, signature: &Signature) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(&signed_bytes(manifest), &signature.0).is_ok()
    }
}

/// An Ed25519 signature (64 bytes). In JSON 128 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature([u8; 64]);

macro_rules! hex_json {
    ($name:ident, $what:literal) => {
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), HEXLOWER.encode(&self.0))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&HEXLOWER.encode(&self.0))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let bytes = bytes_of_hex(&String::deserialize(deserializer)?);
                bytes.map(Self).ok_or_else(|| de::Error::custom(concat!("not ", $what, " in hexadecimal")))
            }
        }
    };
}

hex_json!(PublicKey, "an Ed25519 key");
hex_json!(Signature, "an Ed25519 signature");

/// The private half of a release key, for the tools of whoever makes releases. It belongs neither on a server nor on a
/// device.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// From 32 secret random bytes (RFC 8032 §5.1.5). The same seed gives the same key.
    ///
    /// `None` if the cryptographic library fails.
    pub fn from_seed(seed: &[u8; 32]) -> Option<Self> {
        Ed25519KeyPair::from_seed_unchecked(seed).ok().map(Self)
    }

    /// The half that devices pin.
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(bytes)
    }

    pub(super) fn sign(&self, manifest: &str) -> Signature {
        let mut bytes = [0; 64];
        bytes.copy_from_slice(self.0.sign(&signed_bytes(manifest)).as_ref());
        Signature(bytes)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey of {:?}", self.public())
    }
}

/// Whose signatures a device believes: at least `threshold` of these keys must have signed a release.
///
/// ```
/// # use iot_ota::release::{SigningKey, Trust};
/// let (a, b) = (SigningKey::from_seed(&[1; 32]).unwrap().public(), SigningKey::from_seed(&[2; 32]).unwrap().public());
/// assert!(Trust::new(2, vec![a, b]).is_ok());
/// assert!(Trust::new(3, vec![a, b]).is_err());
/// assert!(Trust::new(2, vec![a, a]).is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "TrustParts")]
pub struct Trust {
    threshold: u8,
    keys: Vec<PublicKey>,
}

/// The keys cannot be a device's trust.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// No key, or more than [`KEYS_MAX`].
    #[error("there must be 1 to {KEYS_MAX} keys")]
    Keys,
    /// A key is named twice.
    #[error("a key is named twice")]
    Duplicate,
    /// It asks for no signature, or for more than there are keys.
    #[error("the threshold must be between 1 and the number of keys")]
    Threshold,
}

impl Trust {
    /// `threshold` of `keys`.
    pub fn new(threshold: u8, keys: Vec<PublicKey>) -> Result<Self, TrustError> {
        if keys.is_empty() || keys.len() > KEYS_MAX {
            return Err(TrustError::Keys);
        }
        if keys.iter().enumerate().any(|(at, key)| keys[..at].contains(key)) {
            return Err(TrustError::Duplicate);
        }
        if threshold == 0 || usize::from(threshold) > keys.len() {
            return Err(TrustError::Threshold);
        }
        Ok(Self { threshold, keys })
    }

    /// How many keys must have signed.
    pub fn threshold(&self) -> u8 {
        self.threshold
    }

    /// The keys, each once.
    pub fn keys(&self) -> &[PublicKey] {
        &self.keys
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TrustParts {
    threshold: u8,
    keys: Vec<PublicKey>,
}

impl TryFrom<TrustParts> for Trust {
    type Error = TrustError;
    fn try_from(parts: TrustParts) -> Result<Self, TrustError> {
        Self::new(parts.threshold, parts.keys)
    }
}

fn signed_bytes(manifest: &str) -> Vec<u8> {
    [DOMAIN, manifest.as_bytes()].concat()
}
