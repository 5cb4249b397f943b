//! TLS of the listeners: rustls with aws-lc-rs, TLS 1.2 and 1.3.

use std::sync::Arc;

use iot_auth::ca::ServerIdentity;
use iot_conn::transport::ServerCertificate;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
    sign::CertifiedKey,
};

use crate::failure::Failure;

/// How many resumable sessions are kept in memory for clients that do not take tickets.
const SESSIONS_KEPT: usize = 10_000;

/// The certificate of all listeners.
pub(crate) fn certificate(identity: &ServerIdentity) -> Result<Arc<ServerCertificate>, Failure> {
    Ok(Arc::new(ServerCertificate::new(&identity.names, key(identity)?)))
}

/// Shows this one from now on.
pub(crate) fn replace(certificate: &ServerCertificate, identity: &ServerIdentity) -> Result<(), Failure> {
    certificate.replace(&identity.names, key(identity)?);
    Ok(())
}

/// For MQTT: a client certificate may be shown and is then verified against the device CA.
pub(crate) fn mqtt(certificate: &Arc<ServerCertificate>, ca_pem: &str) -> Result<Arc<ServerConfig>, Failure> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots.add(certificate.map_err(broken)?).map_err(broken)?;
    }
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().build().map_err(broken)?;
    let mut config =
        ServerConfig::builder().with_client_cert_verifier(verifier).with_cert_resolver(certificate.clone());
    resumable(&mut config)?;
    // The second is what clients of AWS IoT with a certificate of their own offer on port 443.
    config.alpn_protocols = vec![b"mqtt".to_vec(), b"x-amzn-mqtt-ca".to_vec()];
    Ok(Arc::new(config))
}

/// For MQTT over WebSocket: the same, where a browser asks for HTTP.
pub(crate) fn websocket(mqtt: &ServerConfig) -> Arc<ServerConfig> {
    let mut config = mqtt.clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// For HTTP: no client certificates.
pub(crate) fn http(certificate: &Arc<ServerCertificate>) -> Result<Arc<ServerConfig>, Failure> {
    let mut config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(certificate.clone());
    resumable(&mut config)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn resumable(config: &mut ServerConfig) -> Result<(), Failure> {
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(broken)?;
    config.session_storage = rustls::server::ServerSessionMemoryCache::new(SESSIONS_KEPT);
    Ok(())
}

fn key(identity: &ServerIdentity) -> Result<Arc<CertifiedKey>, Failure> {
    let chain = CertificateDer::pem_slice_iter(identity.certificate_pem.as_bytes());
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(broken)?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.expose().as_bytes()).map_err(broken)?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    CertifiedKey::from_der(chain, key, &provider).map(Arc::new).map_err(broken)
}

fn broken(error: impl std::error::Error + 'static) -> Failure {
    Failure::of("the server's certificate cannot be used: ", &error)
}
