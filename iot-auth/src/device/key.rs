//! The private key that a device makes for itself and never sends.

use std::fmt;

use iot_core::secret::Secret;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData};

/// The text is not a private key, or the key cannot sign.
#[derive(Debug, thiserror::Error)]
#[error("not an ECDSA P-256 private key in PKCS#8 PEM")]
pub struct InvalidKey(#[source] rcgen::Error);

/// An ECDSA P-256 key pair. `Debug` shows no part of it.
pub struct DeviceKey {
    pair: KeyPair,
}

impl DeviceKey {
    /// Makes a key from the random source of aws-lc-rs.
    pub fn generate() -> Result<Self, InvalidKey> {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(InvalidKey)?;
        Ok(Self { pair })
    }

    /// Reads what [`DeviceKey::to_pem`] wrote.
    pub fn from_pem(pem: &Secret) -> Result<Self, InvalidKey> {
        let pair = KeyPair::from_pem(pem.expose()).map_err(InvalidKey)?;
        if !pair.is_compatible(&rcgen::PKCS_ECDSA_P256_SHA256) {
            return Err(InvalidKey(rcgen::Error::UnsupportedSignatureAlgorithm));
        }
        Ok(Self { pair })
    }

    /// The private key as PKCS#8 PEM.
    pub fn to_pem(&self) -> Secret {
        Secret::new(self.pair.serialize_pem())
    }

    /// A PKCS#10 request (RFC 2986) in PEM: the public key and the proof that its private part is at hand. It asks for no
    /// name, since the cloud would ignore it.
    pub fn signing_request(&self) -> Result<String, InvalidKey> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.serialize_request(&self.pair).and_then(|request| request.pem()).map_err(InvalidKey)
    }

    /// The public part as a DER SubjectPublicKeyInfo (RFC 5280 §4.1.2.7).
    pub fn public_key_info(&self) -> Vec<u8> {
        self.pair.subject_public_key_info()
    }
}

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeviceKey")
    }
}

#[cfg(test)]
mod tests {
    use x509_parser::{certification_request::X509CertificationRequest, pem::parse_x509_pem, prelude::FromDer};

    use super::*;

    #[test]
    fn the_request_carries_the_key_and_no_name() {
        let key = DeviceKey::generate().unwrap();
        let request = key.signing_request().unwrap();
        let (_, pem) = parse_x509_pem(request.as_bytes()).unwrap();
        assert_eq!(pem.label, "CERTIFICATE REQUEST");
        let (_, parsed) = X509CertificationRequest::from_der(&pem.contents).unwrap();
        assert_eq!(parsed.certification_request_info.subject_pki.raw, key.public_key_info());
        assert_eq!(parsed.certification_request_info.subject.iter_rdn().count(), 0);
    }

    #[test]
    fn a_key_reads_back_and_prints_as_nothing() {
        let key = DeviceKey::generate().unwrap();
        let again = DeviceKey::from_pem(&key.to_pem()).unwrap();
        assert_eq!(again.public_key_info(), key.public_key_info());
        assert_eq!(format!("{key:?}"), "DeviceKey");
    }

    #[test]
    fn keys_of_other_kinds_are_refused() {
        let other = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        assert!(DeviceKey::from_pem(&Secret::new(other.serialize_pem())).is_err());
        let pem = DeviceKey::generate().unwrap().to_pem();
        assert!(DeviceKey::from_pem(&Secret::new(&pem.expose()[..pem.expose().len() / 2])).is_err());
    }
}
