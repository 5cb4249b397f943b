//! Trust: the pinned CA, and nothing that the machine brings along.

use std::sync::Arc;

use iot_auth::device::Identity;
use rustls::{
    ClientConfig, ConfigBuilder, RootCertStore,
    client::{Resumption, WantsClientCert},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// How many TLS sessions a device keeps to resume; it talks to one server.
const SESSIONS_MAX: usize = 4;

/// Certificates or keys that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// Not PEM.
    #[error("not a PEM file of certificates")]
    Pem(#[source] rustls::pki_types::pem::Error),
    /// PEM without a certificate.
    #[error("there is no certificate in it")]
    Empty,
    /// Not accepted by the TLS library.
    #[error("certificate or key cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
}

/// The authorities that a device trusts.
#[derive(Debug, Clone)]
pub struct Authority {
    certificates: Vec<CertificateDer<'static>>,
    roots: Arc<RootCertStore>,
}

impl Authority {
    /// Reads one certificate or several.
    pub fn from_pem(pem: &[u8]) -> Result<Self, TlsError> {
        let certificates = certificates(pem)?;
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            roots.add(certificate.clone())?;
        }
        Ok(Self { certificates, roots: Arc::new(roots) })
    }

    /// Whether every authority in `other` is one of these.
    pub fn includes(&self, other: &Self) -> bool {
        other.certificates.iter().all(|certificate| self.certificates.contains(certificate))
    }

    /// The authorities, in DER.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }
}

/// TLS 1.3 or 1.2 with the device's certificate, towards servers that `authority` vouches for.
pub fn client_config(authority: &Authority, identity: &Identity) -> Result<Arc<ClientConfig>, TlsError> {
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.expose().as_bytes()).map_err(TlsError::Pem)?;
    let mut config =
        builder(authority)?.with_client_auth_cert(certificates(identity.certificate_pem.as_bytes())?, key)?;
    config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
    Ok(Arc::new(config))
}

/// The same without a certificate, and without sessions to resume.
pub fn anonymous_config(authority: &Authority) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = builder(authority)?.with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn builder(authority: &Authority) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, TlsError> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(Arc::clone(&authority.roots)))
}

/// The cryptography of aws-lc-rs.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(TlsError::Pem)?;
    if certificates.is_empty() { Err(TlsError::Empty) } else { Ok(certificates) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority() -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        rcgen::CertificateParams::default().self_signed(&key).unwrap().pem()
    }

    #[test]
    fn an_authority_is_known_by_its_certificate() {
        let (a, b) = (authority(), authority());
        let both = Authority::from_pem(format!("{a}{b}").as_bytes()).unwrap();
        let only_a = Authority::from_pem(a.as_bytes()).unwrap();
        assert!(both.includes(&only_a) && !only_a.includes(&both));
    }

    #[test]
    fn files_without_certificates_are_refused() {
        let pem = authority();
        for bad in ["", "hello", &pem[..pem.len() / 2], &pem.replace("CERTIFICATE", "PUBLIC KEY")] {
            assert!(Authority::from_pem(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
