//! The built-in certificate authority: signs the keys of devices and of the deployment's own servers.
//!
//! Whether a certificate is still good is not asked here but in the registry, at every handshake: there are no revocation lists.

mod request;
mod server;

use std::{fmt, path::Path, time::Duration};

use aws_lc_rs::rand;
use data_encoding::HEXLOWER;
use iot_core::{
    id::{DeviceId, TenantId},
    keys::{KeyRing, Purpose},
    secret::Secret,
    time::Timestamp,
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

pub use self::{
    request::{CsrInvalid, SigningRequest, fingerprint},
    server::{SERVER_RENEWAL, ServerIdentity},
};
use crate::files::{SetupError, create_folder, read_private, write_private};

/// The authority's certificate, for devices and applications to pin. Written anew at each start.
pub const CERTIFICATE_FILE: &str = "ca.pem";

/// Key and certificate of the authority, sealed.
pub const SEALED_FILE: &str = "ca.key";

const FORMAT: u16 = 1;
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// How long the authority's own certificate is valid.
pub const CA_VALIDITY: Duration = Duration::from_secs(3_652 * 24 * 3_600);

/// How long a device's certificate is valid.
pub const DEVICE_VALIDITY: Duration = Duration::from_secs(365 * 24 * 3_600);

/// How long a server's certificate is valid.
pub const SERVER_VALIDITY: Duration = Duration::from_secs(365 * 24 * 3_600);

/// Certificates begin this long before they are made, for peers whose clocks are late.
pub const BACKDATED: Duration = Duration::from_secs(3_600);

/// The certificate authority of a deployment: ECDSA P-256, ten years.
pub struct DeviceCa {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    not_after: Timestamp,
}

/// What is sealed: both together, so that neither can be lost without the other.
#[derive(Serialize, Deserialize)]
struct SealedCa {
    format: u16,
    key_pem: String,
    certificate_pem: String,
    not_after: Timestamp,
}

/// A device's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceCertificate {
    /// PEM.
    pub pem: String,
    /// Lower-case hex.
    pub serial: String,
    /// Its end.
    pub not_after: Timestamp,
}

impl DeviceCa {
    /// Opens the authority of a data folder, or makes one if there is none. Blocks on the file system.
    pub async fn open_or_create(folder: &Path, keys: &dyn KeyRing, now: Timestamp) -> Result<Self, SetupError> {
        let path = folder.join(SEALED_FILE);
        let ca = match read_private(&path)? {
            Some(sealed) => Self::unseal(&path, keys, &sealed).await?,
            None => {
                create_folder(folder)?;
                let (ca, text) = Self::create(now)?;
                write_private(&path, &seal(keys, SEALED_FILE, text.expose()).await?)?;
                ca
            }
        };
        write_private(&folder.join(CERTIFICATE_FILE), ca.certificate_pem.as_bytes())?;
        Ok(ca)
    }

    async fn unseal(path: &Path, keys: &dyn KeyRing, sealed: &[u8]) -> Result<Self, SetupError> {
        let text = unseal(path, keys, SEALED_FILE, sealed).await?;
        let ca: SealedCa = serde_json::from_str(text.expose()).map_err(|e| SetupError::broken(path, &e))?;
        if ca.format != FORMAT {
            return Err(SetupError::broken(path, &format_args!("format {} is not of this version", ca.format)));
        }
        let key = KeyPair::from_pem(&ca.key_pem).map_err(|e| SetupError::broken(path, &e))?;
        let issuer = Issuer::from_ca_cert_pem(&ca.certificate_pem, key).map_err(|e| SetupError::broken(path, &e))?;
        Ok(Self { issuer, certificate_pem: ca.certificate_pem, not_after: ca.not_after })
    }

    fn create(now: Timestamp) -> Result<(Self, Secret), SetupError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(SetupError::crypto)?;
        let (serial, bytes) = new_serial().map_err(SetupError::crypto)?;
        let not_after = now.plus(CA_VALIDITY);
        let mut params = params(now, not_after, &bytes);
        // The serial tells the authorities of several deployments apart where people look at certificates.
        params.distinguished_name = common_name(&format!("IoT cloud CA {}", &serial[..8]));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate_pem = params.self_signed(&key).map_err(SetupError::crypto)?.pem();
        let key_pem = key.serialize_pem();
        let sealed = SealedCa { format: FORMAT, key_pem, certificate_pem: certificate_pem.clone(), not_after };
        let text = Secret::new(serde_json::to_string(&sealed).map_err(SetupError::crypto)?);
        Ok((Self { issuer: Issuer::new(params, key), certificate_pem, not_after }, text))
    }

    /// The authority's certificate.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Signs a device's key for one year: `CN=<device>`, `URI:urn:iot:<tenant>:<device>`, digitalSignature, clientAuth. The
    /// caller has decided that the device may have it.
    pub fn issue_device(
        &self,
        tenant: &TenantId,
        device: &DeviceId,
        request: &SigningRequest,
        now: Timestamp,
    ) -> Result<DeviceCertificate, SetupError> {
        let name = urn(tenant, device).as_str().try_into().map_err(SetupError::crypto)?;
        let not_after = now.plus(DEVICE_VALIDITY).min(self.not_after);
        let (serial, bytes) = new_serial().map_err(SetupError::crypto)?;
        let mut params = params(now, not_after, &bytes);
        params.distinguished_name = common_name(device.as_str());
        params.subject_alt_names = vec![SanType::URI(name)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let pem = self.sign(&params, request.public_key())?;
        Ok(DeviceCertificate { pem, serial, not_after })
    }

    fn sign(&self, params: &CertificateParams, key: &impl PublicKeyData) -> Result<String, SetupError> {
        Ok(params.signed_by(key, &self.issuer).map_err(SetupError::crypto)?.pem())
    }
}

impl fmt::Debug for DeviceCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceCa").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// The name of a device in its certificate.
pub(crate) fn urn(tenant: &TenantId, device: &DeviceId) -> String {
    format!("urn:iot:{tenant}:{device}")
}

/// What all our end-entity certificates have in common.
fn params(now: Timestamp, not_after: Timestamp, serial: &[u8]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = date(now.minus(BACKDATED));
    params.not_after = date(not_after);
    params.serial_number = Some(SerialNumber::from_slice(serial));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// 128 bits of which all but the sign and a leading one are random (RFC 5280 §4.1.2.2: positive, at most 20 bytes), as hex and as bytes.
fn new_serial() -> Result<(String, [u8; 16]), aws_lc_rs::error::Unspecified> {
    let mut serial = [0; 16];
    rand::fill(&mut serial)?;
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok((HEXLOWER.encode(&serial), serial))
}

/// Certificates count whole seconds.
fn date(at: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(at.as_micros().div_euclid(1_000_000)).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

async fn seal(keys: &dyn KeyRing, name: &str, text: &str) -> Result<Vec<u8>, SetupError> {
    keys.seal(Purpose::PrivateKey, name.as_bytes(), text.as_bytes()).await.map_err(SetupError::crypto)
}

async fn unseal(path: &Path, keys: &dyn KeyRing, name: &str, sealed: &[u8]) -> Result<Secret, SetupError> {
    let opened = keys.open(Purpose::PrivateKey, name.as_bytes(), sealed).await;
    let text = opened.map_err(|source| SetupError::Sealed { path: path.to_owned(), source })?;
    String::from_utf8(text).map(Secret::new).map_err(|_| SetupError::broken(path, &"it is no text"))
}

#[cfg(test)]
mod tests;
