//! TLS, from its first byte on.

use std::{io, sync::Arc};

use iot_device::tls::provider;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};
use tokio_rustls::rustls::{
    ClientConfig,
    client::ResolvesClientCert,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
    sign::CertifiedKey,
    version::TLS12,
};

use super::{
    behaviours,
    bytes::{Hello, V5},
    field::{Field, Hostile, SOON, Verdict, Wrong, wrong},
};

behaviours! {
    /// Another server's name
    tls_unknown_name,
    /// Protocols that nobody speaks
    tls_unknown_protocol,
    /// MQTT without TLS
    tls_plain_mqtt,
    /// HTTP without TLS
    tls_plain_http,
    /// Records of nonsense
    tls_garbage_records,
    /// A ClientHello of the largest size that can be announced
    tls_giant_hello,
    /// The first record of SSL 2
    tls_ssl_2,
    /// A ClientHello, and the connection is cut
    tls_cut_after_hello,
    /// A handshake, and then nonsense
    tls_garbage_after_handshake,
    /// A handshake, and the writing half is closed without a goodbye
    tls_half_close,
    /// Handshakes one after another, and nothing else
    tls_handshake_churn,
    /// New keys asked for all the time, in TLS 1.3
    tls_key_updates,
    /// A second ClientHello in the open connection: renegotiation, in TLS 1.2
    tls_renegotiation,
    /// A chain of a hundred certificates that nobody has signed
    tls_long_chain,
}

/// So many handshakes at most.
const TIMES_MAX: u32 = 1_000;

fn config(field: &Field) -> ClientConfig {
    ClientConfig::clone(&field.tls)
}

/// Shakes hands again and again; each must fail with this in the error.
async fn refused(field: &Field, config: &ClientConfig, name: &ServerName<'static>, says: &str) -> Verdict {
    let (until, mut count) = (field.until(), 0);
    while count == 0 || (Instant::now() < until && count < TIMES_MAX) {
        match field.shake(config.clone(), name.clone()).await {
            Ok(_) => return wrong("the handshake succeeded"),
            Err(error) if error.to_string().contains(says) => count += 1,
            Err(error) => return wrong(format!("{error} instead of {says}")),
        }
    }
    Ok(format!("alert {says}, {count} times"))
}

async fn tls_unknown_name(field: &Field) -> Verdict {
    let name = ServerName::try_from("elsewhere.example").map_err(io::Error::other)?;
    refused(field, &config(field), &name, "UnrecognisedName").await
}

async fn tls_unknown_protocol(field: &Field) -> Verdict {
    let mut config = config(field);
    config.alpn_protocols = vec![b"gopher".to_vec(); 50];
    refused(field, &config, &field.mqtts.name(), "NoApplicationProtocol").await
}

/// Sends it on new connections, again and again; each must be closed.
async fn closed(field: &Field, bytes: &[u8]) -> Verdict {
    let (until, mut count) = (field.until(), 0);
    while count == 0 || (Instant::now() < until && count < TIMES_MAX) {
        let mut hostile = Hostile::new(Field::tcp_to(&field.mqtts).await?);
        // The end may come before all is written.
        let _cut = hostile.send(bytes).await;
        hostile.rest(SOON).await?;
        count += 1;
    }
    Ok(format!("closed, {count} times"))
}

async fn tls_plain_mqtt(field: &Field) -> Verdict {
    closed(field, &Hello::new(V5, "plain").packet()).await
}

async fn tls_plain_http(field: &Field) -> Verdict {
    closed(field, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await
}

async fn tls_garbage_records(field: &Field) -> Verdict {
    closed(field, &[&[0x16, 3, 1, 0x40, 0][..], &[0xaa; 0x4000]].concat()).await
}

async fn tls_giant_hello(field: &Field) -> Verdict {
    let record = [&[0x16, 3, 1, 0x40, 0][..], &[0; 0x4000]].concat();
    let first = [&[0x16, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff][..], &[0; 0x4000 - 4]].concat();
    closed(field, &[first, record.repeat(20)].concat()).await
}

async fn tls_ssl_2(field: &Field) -> Verdict {
    closed(field, &[0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10]).await
}

/// What a client says first.
async fn hello(field: &Field) -> io::Result<Vec<u8>> {
    let (client, mut server) = tokio::io::duplex(16 * 1_024);
    let shaking = tokio_rustls::TlsConnector::from(Arc::clone(&field.tls)).connect(field.mqtts.name(), client);
    let mut bytes = vec![0; 16 * 1_024];
    let read = async {
        let count = server.read(&mut bytes).await?;
        bytes.truncate(count);
        Ok::<_, io::Error>(bytes)
    };
    tokio::select! {
        _ = shaking => Err(io::ErrorKind::UnexpectedEof.into()),
        read = read => read,
    }
}

async fn tls_cut_after_hello(field: &Field) -> Verdict {
    let (until, hello, mut count) = (field.until(), hello(field).await?, 0);
    while count == 0 || (Instant::now() < until && count < TIMES_MAX) {
        let mut hostile = Hostile::new(Field::tcp_to(&field.mqtts).await?);
        hostile.send(&hello).await?;
        count += 1;
    }
    Ok(format!("{count} handshakes were begun"))
}

async fn tls_garbage_after_handshake(field: &Field) -> Verdict {
    let (until, mut count) = (field.until(), 0);
    while count == 0 || (Instant::now() < until && count < TIMES_MAX) {
        let tls = field.shake(config(field), field.mqtts.name()).await?;
        let (tcp, _) = tls.into_inner();
        let mut hostile = Hostile::new(tcp);
        hostile.send(&[&[0x17, 3, 3, 1, 0][..], &[0x55; 256]].concat()).await?;
        hostile.rest(SOON).await?;
        count += 1;
    }
    Ok(format!("closed, {count} times"))
}

async fn tls_half_close(field: &Field) -> Verdict {
    let (until, mut count) = (field.until(), 0);
    while count == 0 || (Instant::now() < until && count < TIMES_MAX) {
        let tls = field.shake(config(field), field.mqtts.name()).await?;
        let (tcp, _) = tls.into_inner();
        let mut hostile = Hostile::new(tcp);
        hostile.shut().await?;
        hostile.rest(SOON).await?;
        count += 1;
    }
    Ok(format!("closed, {count} times"))
}

async fn tls_handshake_churn(field: &Field) -> Verdict {
    let (until, mut count) = (field.until(), 0);
    while count == 0 || (Instant::now() < until && count < 10 * TIMES_MAX) {
        field.secure().await?;
        count += 1;
    }
    Ok(format!("{count} handshakes"))
}

async fn tls_key_updates(field: &Field) -> Verdict {
    let mut tls = field.shake(config(field), field.mqtts.name()).await?;
    tls.write_all(&Hello::new(V5, &field.id()).packet()).await?;
    let until = Instant::now() + SOON;
    for count in 0_u32.. {
        let asked = tls.get_mut().1.refresh_traffic_keys();
        let written = match asked {
            Ok(()) => tls.flush().await,
            Err(error) => return wrong(error.to_string()),
        };
        if written.is_err() {
            return Ok(format!("closed after {count}"));
        }
        if Instant::now() > until {
            return Ok(format!("{count} times, bounded"));
        }
        tokio::task::yield_now().await;
    }
    wrong("never")
}

async fn tls_renegotiation(field: &Field) -> Verdict {
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS12]);
    let roots = authority(field)?;
    let old = builder.map_err(io::Error::other)?.with_root_certificates(roots).with_no_client_auth();
    let hello = hello(field).await?;
    let (until, mut count) = (field.until(), 0);
    while count == 0 || (Instant::now() < until && count < TIMES_MAX) {
        let (tcp, _) = field.shake(old.clone(), field.mqtts.name()).await?.into_inner();
        let mut hostile = Hostile::new(tcp);
        hostile.send(&hello).await?;
        hostile.rest(SOON).await?;
        count += 1;
    }
    Ok(format!("closed, {count} times"))
}

fn authority(field: &Field) -> Result<tokio_rustls::rustls::RootCertStore, Wrong> {
    use tokio_rustls::rustls::{RootCertStore, pki_types::pem::PemObject};
    let Some(path) = &field.broker.ca else { return wrong("--ca is missing") };
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path).map_err(io::Error::other)?;
    for certificate in certificates {
        roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
    }
    Ok(roots)
}

/// Shows what it has, whoever asks.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[tokio_rustls::rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

async fn tls_long_chain(field: &Field) -> Verdict {
    let chain = chain().map_err(io::Error::other)?;
    let mut config = config(field);
    config.client_auth_cert_resolver = Arc::new(Shown(Arc::new(chain)));
    let (until, mut count) = (field.until(), 0);
    while count == 0 || (Instant::now() < until && count < TIMES_MAX) {
        // In TLS 1.3 the client has shaken hands before the server has looked.
        if let Ok(mut tls) = field.shake(config.clone(), field.mqtts.name()).await {
            let _cut = tls.write_all(&Hello::new(V5, &field.id()).packet()).await;
            let mut hostile = Hostile::new(tls);
            if hostile.rest(SOON).await?.first() == Some(&0x20) {
                return wrong("the client was let in");
            }
        }
        count += 1;
    }
    Ok(format!("refused, {count} times"))
}

fn chain() -> Result<CertifiedKey, Box<dyn std::error::Error + Send + Sync>> {
    let key = rcgen::KeyPair::generate()?;
    let certificate = rcgen::CertificateParams::default().self_signed(&key)?.der().clone();
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let signing = provider().key_provider.load_private_key(private)?;
    Ok(CertifiedKey::new(vec![certificate; 100], signing))
}
