//! What a TLS handshake costs rustls alone: the bound for any server that is made with it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection,
    client::Resumption,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
    server::WebPkiClientVerifier,
};

use crate::{BenchError, Outcome, options::Handshake};

/// Left out of the count.
const WARM_UP: u32 = 100;

const NAME: &str = "localhost";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Full,
    Mutual,
    Resumed,
}

/// Both ends in this thread, TLS 1.3 with P-256; only the server's part is timed.
pub(crate) fn measure(options: &Handshake) -> Result<Outcome, BenchError> {
    let failed = |error: &dyn std::error::Error| BenchError::Target(error.to_string());
    let mut json = json!({"bench": "handshake", "handshakes": options.handshakes});
    let mut text = "handshake, rustls alone:".to_owned();
    for (name, kind) in [("full", Kind::Full), ("mutual", Kind::Mutual), ("resumed", Kind::Resumed)] {
        let ends = Ends::new(kind).map_err(|error| failed(&*error))?;
        let mut spent = Duration::ZERO;
        for n in 0..options.handshakes + WARM_UP {
            let one = ends.shake().map_err(|error| failed(&*error))?;
            spent += if n < WARM_UP { Duration::ZERO } else { one };
        }
        let micros = spent.as_secs_f64() * 1e6 / f64::from(options.handshakes);
        json[name] = json!({"cpu_us": (micros * 10.0).round() / 10.0, "per_cpu_s": (1e6 / micros).round()});
        text += &format!(" {name} {micros:.0} µs,");
    }
    Ok(Outcome { json, text: text.trim_end_matches(',').to_owned(), is_complete: true })
}

type Failure = Box<dyn std::error::Error>;

struct Ends {
    kind: Kind,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Ends {
    fn new(kind: Kind) -> Result<Self, Failure> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let issued = |name: &str| -> Result<_, Failure> {
            let key = KeyPair::generate()?;
            let certificate = CertificateParams::new([name.to_owned()])?.signed_by(&key, &issuer)?;
            let key = PrivateKeyDer::try_from(key.serialize_der())?;
            Ok((vec![CertificateDer::from(certificate.der().to_vec())], key))
        };
        let mut roots = RootCertStore::empty();
        roots.add(issuer.der().clone())?;
        let roots = Arc::new(roots);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let server = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .allow_unauthenticated()
            .build()?;
        let (chain, key) = issued(NAME)?;
        let mut server = server.with_client_cert_verifier(verifier).with_single_cert(chain, key)?;
        server.ticketer = aws_lc_rs::Ticketer::new()?;
        let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let client = client.with_root_certificates(roots);
        let mut client = match kind {
            Kind::Mutual => {
                let (chain, key) = issued("device")?;
                client.with_client_auth_cert(chain, key)?
            }
            Kind::Full | Kind::Resumed => client.with_no_client_auth(),
        };
        if kind != Kind::Resumed {
            client.resumption = Resumption::disabled();
        }
        Ok(Self { kind, server: Arc::new(server), client: Arc::new(client) })
    }

    /// The server's time for one handshake, tickets included.
    fn shake(&self) -> Result<Duration, Failure> {
        let mut client = ClientConnection::new(self.client.clone(), ServerName::try_from(NAME)?)?;
        let began = Instant::now();
        let mut server = ServerConnection::new(self.server.clone())?;
        let mut spent = began.elapsed();
        let mut bytes = Vec::new();
        while client.is_handshaking() || server.is_handshaking() || server.wants_write() {
            bytes.clear();
            while client.wants_write() {
                client.write_tls(&mut bytes)?;
            }
            let began = Instant::now();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                server.read_tls(&mut rest)?;
                server.process_new_packets()?;
            }
            let mut answer = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut answer)?;
            }
            spent += began.elapsed();
            let mut rest = &answer[..];
            while !rest.is_empty() {
                client.read_tls(&mut rest)?;
                client.process_new_packets()?;
            }
        }
        let is_resumed = server.handshake_kind() == Some(HandshakeKind::Resumed);
        let is_first = self.kind == Kind::Resumed && !is_resumed;
        Ok(if is_first { Duration::ZERO } else { spent })
    }
}
