use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey},
};
use data_encoding::HEXLOWER;
use rcgen::SubjectPublicKeyInfo;
use x509_parser::{
    certification_request::X509CertificationRequest,
    oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ECDSA_WITH_SHA256},
    pem::parse_x509_pem,
    prelude::FromDer,
};

/// The longest request, in bytes of PEM.
pub(super) const CSR_BYTES_MAX: usize = 16 * 1024;

/// Why a text is no request that this authority signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CsrInvalid {
    /// Not one PEM block with a PKCS#10 request (RFC 2986).
    #[error("csr: send one PKCS#10 request in PEM")]
    Malformed,
    /// Another kind of key or signature.
    #[error("csr: the key must be ECDSA P-256, signed with SHA-256")]
    Algorithm,
    /// Whoever asks does not have the private key.
    #[error("csr: the signature does not belong to the key")]
    Signature,
}

/// A public key whose private key the sender has proved to have. Whatever else the request asked for (names, CA rights) is
/// dropped when it is read.
#[derive(Debug, Clone)]
pub struct SigningRequest {
    key: SubjectPublicKeyInfo,
    fingerprint: String,
}

impl SigningRequest {
    /// Reads a PEM text and verifies its proof of possession.
    pub fn parse(pem: &str) -> Result<Self, CsrInvalid> {
        if pem.len() > CSR_BYTES_MAX {
            return Err(CsrInvalid::Malformed);
        }
        let (rest, block) = parse_x509_pem(pem.as_bytes()).map_err(|_| CsrInvalid::Malformed)?;
        let known_label = matches!(block.label.as_str(), "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST");
        if !known_label || !rest.trim_ascii().is_empty() {
            return Err(CsrInvalid::Malformed);
        }
        let (rest, request) = X509CertificationRequest::from_der(&block.contents).map_err(|_| CsrInvalid::Malformed)?;
        if !rest.is_empty() {
            return Err(CsrInvalid::Malformed);
        }
        Self::verify(&request)
    }

    fn verify(request: &X509CertificationRequest<'_>) -> Result<Self, CsrInvalid> {
        let info = &request.certification_request_info;
        let algorithm = &info.subject_pki.algorithm;
        let curve = algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
        if algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY
            || curve != Some(OID_EC_P256)
            || request.signature_algorithm.algorithm != OID_SIG_ECDSA_WITH_SHA256
            || request.signature_value.unused_bits != 0
        {
            return Err(CsrInvalid::Algorithm);
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &info.subject_pki.subject_public_key.data)
            .verify(info.raw, &request.signature_value.data)
            .map_err(|_| CsrInvalid::Signature)?;
        let key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw).map_err(|_| CsrInvalid::Algorithm)?;
        Ok(Self { key, fingerprint: fingerprint(info.subject_pki.raw) })
    }

    /// SHA-256 of its SubjectPublicKeyInfo, lower-case hex.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    pub(super) fn public_key(&self) -> &SubjectPublicKeyInfo {
        &self.key
    }
}

/// The fingerprint of a DER SubjectPublicKeyInfo: SHA-256 in lower-case hex, as
/// [`DeviceKey::fingerprint`](iot_core::device::DeviceKey::fingerprint).
pub fn fingerprint(public_key_info: &[u8]) -> String {
    HEXLOWER.encode(digest(&SHA256, public_key_info).as_ref())
}
