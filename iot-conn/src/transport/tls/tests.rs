use std::io::Write as _;

use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsConnector, client};

use super::*;

struct Configs {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    /// Shows no certificate.
    stranger: Arc<ClientConfig>,
}

/// Both ends ask for a certificate of the same authority.
fn configs(version: &'static SupportedProtocolVersion) -> Configs {
    configs_with(version, rustls::crypto::aws_lc_rs::default_provider())
}

fn configs_with(version: &'static SupportedProtocolVersion, provider: CryptoProvider) -> Configs {
    let mut authority = CertificateParams::default();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = authority.self_signed(&key).unwrap();
    let issuer = Issuer::new(authority, key);
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let roots = Arc::new(roots);
    let leaf = || -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        (vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
    };
    let provider = Arc::new(provider);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build().unwrap();
    let (chain, key) = leaf();
    let server = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[version]).unwrap();
    let mut server = server.with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap();
    server.enable_secret_extraction = true;
    let client = || {
        let client = ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[version]).unwrap();
        client.with_root_certificates(roots.clone())
    };
    let (chain, key) = leaf();
    Configs {
        server: server.into(),
        client: client().with_client_auth_cert(chain, key).unwrap().into(),
        stranger: client().with_no_client_auth().into(),
    }
}

type Server = TlsStream<DuplexStream>;
type Client = client::TlsStream<DuplexStream>;

/// Both ends of a connection over a pipe of so many bytes.
async fn ends(
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    pipe: usize,
) -> (io::Result<Server>, io::Result<Client>) {
    let (here, there) = tokio::io::duplex(pipe);
    let name = ServerName::try_from("localhost").unwrap();
    let (tell, connected) = tokio::sync::oneshot::channel();
    let accept = async {
        let (mut here, agreed) = TlsStream::accept(here, server, Vec::new()).await?;
        assert!(agreed.certificate.is_some(), "in a resumed handshake as well");
        // Whoever uses it goes on writing while it reads.
        tokio::select! {
            _ = here.flush() => {}
            _ = connected => {}
        }
        Ok(here)
    };
    let connect = async {
        let there = TlsConnector::from(client).connect(name, there).await;
        let _told = tell.send(());
        there
    };
    tokio::join!(accept, connect)
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|n| u8::try_from(n % 251).unwrap()).collect()
}

#[tokio::test]
async fn bytes_go_both_ways_through_any_pipe() {
    for version in [&TLS12, &TLS13] {
        let Configs { server, client, .. } = configs(version);
        for (pipe, count) in [(1, 300), (7, 5_000), (1_000, 100_000), (100_000, 1_000_000)] {
            let (here, there) = ends(server.clone(), client.clone(), pipe).await;
            let (mut here, mut there) = (here.unwrap(), there.unwrap());
            let sent = bytes(count);
            let echo = async {
                let mut seen = vec![0; count];
                here.read_exact(&mut seen).await.unwrap();
                here.write_all(&seen).await.unwrap();
                here.flush().await.unwrap();
                here
            };
            let (mut read, mut write) = tokio::io::split(&mut there);
            let mut back = vec![0; count];
            let (mut here, ..) = tokio::join!(
                echo,
                async { (write.write_all(&sent).await.unwrap(), write.flush().await.unwrap()) },
                async { read.read_exact(&mut back).await.unwrap() },
            );
            assert_eq!(back, sent);
            let mut one = [0];
            let mut later = std::pin::pin!(here.read(&mut one));
            assert!(std::future::poll_fn(|cx| Poll::Ready(later.as_mut().poll(cx).is_pending())).await);
            assert!(here.held.is_none(), "nothing is held at rest");
            match &here.tls {
                Tls::Rustls(_) => assert_eq!(version, &TLS12),
                Tls::Records(records) => assert!(records.is_at_rest()),
            }
        }
    }
}

/// The reader's buffer is smaller than what comes, and what comes is cut anywhere.
#[tokio::test]
async fn a_reader_with_little_room_gets_everything() {
    let Configs { server, client, .. } = configs(&TLS13);
    let (here, there) = ends(server, client, 3_000).await;
    let (mut here, mut there) = (here.unwrap(), there.unwrap());
    let sent = bytes(200_000);
    let expected = sent.clone();
    let write = tokio::spawn(async move {
        there.write_all(&sent).await.unwrap();
        there.shutdown().await.unwrap();
        there
    });
    let mut seen = Vec::new();
    for room in (1..40).cycle() {
        let mut space = vec![0; room];
        match here.read(&mut space).await.unwrap() {
            0 => break,
            count => seen.extend_from_slice(&space[..count]),
        }
    }
    assert_eq!(seen, expected);
    drop(write.await.unwrap());
}

#[tokio::test]
async fn each_end_is_told_of_the_end() {
    for version in [&TLS12, &TLS13] {
        let Configs { server, client, .. } = configs(version);
        let (here, there) = ends(server, client, 4_096).await;
        let (mut here, mut there) = (here.unwrap(), there.unwrap());
        here.shutdown().await.unwrap();
        assert_eq!(there.read(&mut [0; 8]).await.unwrap(), 0, "an end without close_notify would be an error");
        there.shutdown().await.unwrap();
        assert_eq!(here.read(&mut [0; 8]).await.unwrap(), 0);
        here.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn new_keys_are_taken_and_answered() {
    let Configs { server, client, .. } = configs(&TLS13);
    let (here, there) = ends(server, client, 4_096).await;
    let (mut here, mut there) = (here.unwrap(), there.unwrap());
    for _ in 0..3 {
        there.get_mut().1.refresh_traffic_keys().unwrap();
        there.write_all(b"question").await.unwrap();
        there.flush().await.unwrap();
        let mut space = [0; 8];
        here.read_exact(&mut space).await.unwrap();
        assert_eq!(&space, b"question");
        here.write_all(b"answered").await.unwrap();
        here.flush().await.unwrap();
        there.read_exact(&mut space).await.unwrap();
        assert_eq!(&space, b"answered");
    }
}

#[tokio::test]
async fn a_client_is_told_why_it_is_refused() {
    for version in [&TLS12, &TLS13] {
        let Configs { server, stranger, .. } = configs(version);
        let (here, there) = ends(server, stranger, 4_096).await;
        assert!(here.unwrap_err().to_string().contains("certificate"), "{version:?}");
        // With 1.3 the client is through before the server has looked at it.
        let why = match there {
            Ok(mut there) => there.read(&mut [0; 8]).await.unwrap_err(),
            Err(error) => error,
        };
        assert!(
            why.to_string().contains("CertificateRequired") || why.to_string().contains("HandshakeFailure"),
            "{why}"
        );
    }
}

#[tokio::test]
async fn a_record_that_was_changed_ends_the_connection() {
    let Configs { server, client, .. } = configs(&TLS13);
    let (here, there) = ends(server, client, 4_096).await;
    let (mut here, mut there) = (here.unwrap(), there.unwrap());
    let forged = [23, 3, 3, 0, 40].into_iter().chain([0; 40]).collect::<Vec<u8>>();
    there.get_mut().0.write_all(&forged).await.unwrap();
    assert_eq!(here.read(&mut [0; 8]).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    let why = there.read(&mut [0; 8]).await.unwrap_err();
    assert!(why.to_string().contains("BadRecordMac") || why.kind() == io::ErrorKind::UnexpectedEof, "{why}");
}

#[tokio::test]
async fn every_suite_is_spoken() {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let suites = provider.cipher_suites.iter().copied().filter(|suite| suite.tls13().is_some()).collect::<Vec<_>>();
    assert_eq!(suites.len(), 3);
    for suite in suites {
        let provider = CryptoProvider { cipher_suites: vec![suite], ..provider.clone() };
        let Configs { server, client, .. } = configs_with(&TLS13, provider);
        let (here, there) = ends(server, client, 1_000).await;
        let (mut here, mut there) = (here.unwrap(), there.unwrap());
        for length in [0, 1, 15, 16, 17, 700] {
            let sent = bytes(length);
            let mut seen = vec![0; length];
            there.get_mut().1.refresh_traffic_keys().unwrap();
            there.write_all(&sent).await.unwrap();
            there.flush().await.unwrap();
            here.read_exact(&mut seen).await.unwrap();
            here.write_all(&seen).await.unwrap();
            here.flush().await.unwrap();
            seen.fill(0);
            there.read_exact(&mut seen).await.unwrap();
            assert_eq!(seen, sent, "{suite:?}");
        }
    }
}

/// The client's next key each time, and a new one of the server's when the old has served.
#[tokio::test]
async fn a_key_serves_for_so_many_records() {
    let Configs { server, client, .. } = configs(&TLS13);
    let (here, there) = ends(server, client, 100_000).await;
    let (mut here, mut there) = (here.unwrap(), there.unwrap());
    let Tls::Records(records) = &mut here.tls else { panic!("TLS 1.3 goes on with records") };
    records.set_records_max(3);
    for n in 0..20_u8 {
        here.write_all(&[n; 40]).await.unwrap();
        here.flush().await.unwrap();
        let mut space = [0; 40];
        there.read_exact(&mut space).await.unwrap();
        assert_eq!(space, [n; 40]);
    }
}

/// Otherwise a client makes the server compute and answer for nothing.
#[tokio::test]
async fn new_keys_without_end_are_refused() {
    let Configs { server, client, .. } = configs(&TLS13);
    let (here, there) = ends(server, client, 100_000).await;
    let (mut here, mut there) = (here.unwrap(), there.unwrap());
    for _ in 0..40 {
        there.get_mut().1.refresh_traffic_keys().unwrap();
        // Empty application data is not sent.
        there.flush().await.unwrap();
    }
    assert_eq!(here.read(&mut [0; 8]).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    let why = there.read(&mut [0; 8]).await.unwrap_err();
    assert!(why.to_string().contains("UnexpectedMessage"), "{why}");
}

/// What rustls would refuse is refused: another type outside, an empty record, one that is too long.
#[tokio::test]
async fn records_that_cannot_be_are_refused() {
    let long = [&[23, 3, 3, 0x41, 1][..], &[0; 16_641]].concat();
    let cases: [(&[u8], &str); 5] = [
        (&[20, 3, 3, 0, 1, 1], "UnexpectedMessage"),
        (&[22, 3, 3, 0, 5, 24, 0, 0, 1, 0], "UnexpectedMessage"),
        (&[21, 3, 3, 0, 2, 1, 0], "UnexpectedMessage"),
        (&[23, 3, 3, 0, 0], "BadRecordMac"),
        (&long, "RecordOverflow"),
    ];
    for (bytes, alert) in cases {
        let Configs { server, client, .. } = configs(&TLS13);
        let (here, there) = ends(server, client, 100_000).await;
        let (mut here, mut there) = (here.unwrap(), there.unwrap());
        there.get_mut().0.write_all(bytes).await.unwrap();
        assert_eq!(here.read(&mut [0; 8]).await.unwrap_err().kind(), io::ErrorKind::InvalidData, "{alert}");
        let why = there.read(&mut [0; 8]).await.unwrap_err();
        assert!(why.to_string().contains(alert), "{why} instead of {alert}");
    }
}

#[tokio::test]
async fn a_record_counts_once() {
    let Configs { server, client, .. } = configs(&TLS13);
    let (here, there) = ends(server, client, 100_000).await;
    let (mut here, mut there) = (here.unwrap(), there.unwrap());
    let mut record = Vec::new();
    there.get_mut().1.writer().write_all(b"once").unwrap();
    there.get_mut().1.write_tls(&mut record).unwrap();
    there.get_mut().0.write_all(&record).await.unwrap();
    let mut space = [0; 4];
    here.read_exact(&mut space).await.unwrap();
    there.get_mut().0.write_all(&record).await.unwrap();
    assert_eq!(here.read(&mut space).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
}
