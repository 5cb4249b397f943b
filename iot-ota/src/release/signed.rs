use serde::{Deserialize, Serialize};

use super::{Digest, FORMAT, Manifest, Refused, Signature, SigningKey, Trust};

/// The longest manifest, in bytes.
pub const MANIFEST_BYTES_MAX: usize = 144 * 1024;
/// The longest signed release, in bytes, so that its offer fits into one MQTT packet of 256 KiB.
pub const SIGNED_BYTES_MAX: usize = 192 * 1024;
/// The most signatures of one release, of known and unknown keys.
pub const SIGNATURES_MAX: usize = 16;

/// A manifest as it was signed, and its signatures. Nothing in it is believed until [`verify`] has said so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "the form of a file that tools read and write")]
pub struct SignedRelease {
    /// The exact bytes that were signed: a [`Manifest`] in JSON.
    pub manifest: String,
    /// In any order.
    pub signatures: Vec<KeySignature>,
}

/// One key's signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "the form of a file that tools read and write")]
pub struct KeySignature {
    /// The SHA-256 of the public key's bytes.
    pub key_id: Digest,
    /// Over `iot-ota/1 release`, a zero byte and the manifest's bytes.
    pub signature: Signature,
}

impl SignedRelease {
    /// Reads one from JSON. Refuses what is too long before looking into it.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refused> {
        if bytes.len() > SIGNED_BYTES_MAX {
            return Err(Refused::TooLong { bytes_max: SIGNED_BYTES_MAX });
        }
        serde_json::from_slice(bytes).map_err(|error| Refused::Malformed(error.to_string()))
    }

    /// Signs a manifest with every key. A manifest that no device would take is refused here.
    pub fn sign(manifest: &Manifest, keys: &[&SigningKey]) -> Result<Self, Refused> {
        let text = serde_json::to_string(manifest).map_err(|error| Refused::Malformed(error.to_string()))?;
        let mut signed = Self { manifest: text, signatures: Vec::with_capacity(keys.len()) };
        keys.iter().for_each(|key| signed.add_signature(key));
        signed.read().map(|_| signed)
    }

    /// Adds or renews one key's signature, for keys that are kept at different places. Read the manifest before.
    pub fn add_signature(&mut self, key: &SigningKey) {
        let key_id = key.public().id();
        self.signatures.retain(|other| other.key_id != key_id);
        self.signatures.push(KeySignature { key_id, signature: key.sign(&self.manifest) });
    }

    /// Names these exact manifest bytes.
    pub fn digest(&self) -> Digest {
        Digest::of(self.manifest.as_bytes())
    }

    /// The manifest, well-formed and believed by nobody: for showing it and for finding whose keys must have signed it.
    pub fn read(&self) -> Result<Manifest, Refused> {
        self.check_bounds()?;
        check_format(&self.manifest)?;
        let manifest: Manifest =
            serde_json::from_str(&self.manifest).map_err(|error| Refused::Malformed(error.to_string()))?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check_bounds(&self) -> Result<(), Refused> {
        if self.manifest.len() > MANIFEST_BYTES_MAX {
            return Err(Refused::TooLong { bytes_max: MANIFEST_BYTES_MAX });
        }
        if self.signatures.len() > SIGNATURES_MAX {
            return Err(Refused::Malformed(format!("more than {SIGNATURES_MAX} signatures")));
        }
        Ok(())
    }
}

/// Who made it: the manifest, if at least the threshold of trusted keys signed these exact bytes. A signature of an unknown
/// key is as good as none, and each key counts once, however often it is named. The manifest is read only after that.
pub fn verify(trust: &Trust, signed: &SignedRelease) -> Result<Manifest, Refused> {
    signed.check_bounds()?;
    let signed_it = |key: &&super::PublicKey| {
        let id = key.id();
        let mut its = signed.signatures.iter().filter(|one| one.key_id == id);
        its.any(|one| key.verifies(&signed.manifest, &one.signature))
    };
    let valid = u8::try_from(trust.keys().iter().filter(signed_it).count()).unwrap_or(u8::MAX);
    if valid < trust.threshold() {
        return Err(Refused::Signatures { valid, needed: trust.threshold() });
    }
    signed.read()
}

/// Another format may have other members: it is named as such and not as malformed.
fn check_format(manifest: &str) -> Result<(), Refused> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    match serde_json::from_str::<Format>(manifest) {
        Ok(Format { format: FORMAT }) => Ok(()),
        Ok(Format { format }) => Err(Refused::Format(format)),
        Err(error) => Err(Refused::Malformed(error.to_string())),
    }
}
