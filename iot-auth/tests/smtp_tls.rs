//! Mail by SMTP over TLS, with a server of a few lines: what it is told, and what it is not told when it cannot be believed.

#![cfg(feature = "smtp")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{net::SocketAddr, sync::Arc};

use iot_auth::mail::{Smtp, SmtpOptions, SmtpSecurity};
use iot_core::{
    mail::{Mail, MailError, Mailer},
    secret::Secret,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

const PASSWORD: &str = "correct horse";
/// `\0cloud\0correct horse` in base64: RFC 4616.
const PLAIN: &str = "AGNsb3VkAGNvcnJlY3QgaG9yc2U=";

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(vec![]).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = parameters.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(parameters, key), pem }
    }

    /// Speaks for a host with a certificate of this authority.
    fn acceptor(&self, host: &str) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let parameters = CertificateParams::new(vec![host.to_owned()]).unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// What a server does about TLS.
enum Tls {
    /// From the first byte.
    Implicit(TlsAcceptor),
    /// When it is asked.
    OnRequest(TlsAcceptor),
    /// It says that it can, and then that it cannot.
    NotNow,
    /// It knows nothing of it.
    Never,
}

/// What a server was told, without and with TLS.
#[derive(Debug, Default)]
struct Told {
    plain: String,
    protected: String,
}

/// A server for one connection.
async fn server(tls: Tls) -> (SocketAddr, JoinHandle<Told>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let told = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut told = Told::default();
        if let Tls::Implicit(acceptor) = &tls {
            if let Ok(stream) = acceptor.accept(stream).await {
                converse(stream, true, true, &mut told.protected).await;
            }
            return told;
        }
        let offers = !matches!(tls, Tls::Never);
        let begins = converse(&mut stream, true, !offers, &mut told.plain).await;
        match tls {
            Tls::OnRequest(acceptor) if begins => {
                stream.write_all(b"220 go on\r\n").await.unwrap();
                if let Ok(stream) = acceptor.accept(stream).await {
                    converse(stream, false, true, &mut told.protected).await;
                }
            }
            _ if begins => {
                stream.write_all(b"454 not now\r\n").await.unwrap();
                converse(stream, false, true, &mut told.plain).await;
            }
            _ => {}
        }
        told
    });
    (address, told)
}

/// Speaks until the client has gone or asks for TLS; whether it did that.
async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    greets: bool,
    knows_who: bool,
    told: &mut String,
) -> bool {
    let mut stream = BufReader::new(stream);
    if greets {
        stream.write_all(b"220 test\r\n").await.unwrap();
    }
    let (mut line, mut in_message) = (String::new(), false);
    loop {
        stream.flush().await.unwrap();
        line.clear();
        if !matches!(stream.read_line(&mut line).await, Ok(1..)) {
            return false;
        }
        told.push_str(&line);
        let answer = match (in_message, line.trim_end()) {
            (true, ".") => "250 taken",
            (true, _) => continue,
            (false, "STARTTLS") => return true,
            (false, "DATA") => "354 go on",
            (false, "QUIT") => "221 bye",
            (false, hello) if hello.starts_with("EHLO") && knows_who => "250-test\r\n250 AUTH PLAIN",
            (false, hello) if hello.starts_with("EHLO") => "250-test\r\n250-AUTH PLAIN\r\n250 STARTTLS",
            (false, who) if who.starts_with("AUTH") => "235 it is you",
            (false, _) => "250 ok",
        };
        in_message = line.trim_end() == "DATA";
        stream.write_all(format!("{answer}\r\n").as_bytes()).await.unwrap();
    }
}

fn smtp(at: SocketAddr, security: SmtpSecurity, authority: &Authority) -> Smtp {
    let credentials = Some(("cloud".to_owned(), Secret::new(PASSWORD)));
    let from = "Cloud <cloud@example.org>".to_owned();
    let (host, port, authorities_pem) = ("localhost".to_owned(), Some(at.port()), Some(authority.pem.clone()));
    Smtp::new(&SmtpOptions { host, port, security, authorities_pem, credentials, from }).unwrap()
}

fn mail() -> Mail {
    let text = Secret::new("Your code is\n\n    abcd-efgh\n");
    Mail { to: Secret::new("ann@example.net"), subject: "Your code".to_owned(), text }
}

/// Nothing that is anybody's business: at most a greeting and a goodbye.
fn is_nothing(told: &str) -> bool {
    let harmless = |line: &str| ["EHLO ", "STARTTLS", "QUIT"].iter().any(|word| line.starts_with(word));
    told.lines().all(harmless)
}

#[tokio::test]
async fn mail_and_password_go_out_over_tls_from_the_first_byte_or_on_request() {
    let authority = Authority::new();
    for security in [SmtpSecurity::Tls, SmtpSecurity::StartTls] {
        let acceptor = authority.acceptor("localhost");
        let tls = if security == SmtpSecurity::Tls { Tls::Implicit(acceptor) } else { Tls::OnRequest(acceptor) };
        let (at, told) = server(tls).await;
        smtp(at, security, &authority).send(mail()).await.unwrap();
        let Told { plain, protected } = told.await.unwrap();
        let said = [&*format!("AUTH PLAIN {PLAIN}"), "RCPT TO:<ann@example.net>", "Subject: Your code", "abcd-efgh"];
        assert!(said.iter().all(|part| protected.contains(part)), "{security:?}: {protected}");
        assert!(is_nothing(&plain), "{security:?}: {plain}");
        assert_eq!(plain.contains("STARTTLS"), security == SmtpSecurity::StartTls);
    }
}

#[tokio::test]
async fn a_server_that_cannot_protect_the_connection_gets_nothing() {
    let authority = Authority::new();
    for tls in [Tls::Never, Tls::NotNow] {
        let (at, told) = server(tls).await;
        let error = smtp(at, SmtpSecurity::StartTls, &authority).send(mail()).await.unwrap_err();
        assert!(matches!(error, MailError::Unavailable { .. }), "{error:?}");
        let Told { plain, protected } = told.await.unwrap();
        assert!(plain.starts_with("EHLO ") && is_nothing(&plain) && protected.is_empty(), "{plain}");
    }
    // One that speaks plainly where TLS is expected from the first byte hears a handshake and no word.
    let (at, told) = server(Tls::Never).await;
    assert!(smtp(at, SmtpSecurity::Tls, &authority).send(mail()).await.is_err());
    let told = told.await.unwrap();
    assert!(!told.plain.contains("EHLO") && !told.plain.contains("ann@"), "{told:?}");
}

#[tokio::test]
async fn a_certificate_of_a_stranger_or_for_another_host_is_refused() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    for security in [SmtpSecurity::Tls, SmtpSecurity::StartTls] {
        for (acceptor, what) in [
            (stranger.acceptor("localhost"), "of another authority"),
            (authority.acceptor("mail.example.org"), "for another host"),
        ] {
            let tls = if security == SmtpSecurity::Tls { Tls::Implicit(acceptor) } else { Tls::OnRequest(acceptor) };
            let (at, told) = server(tls).await;
            let error = smtp(at, security, &authority).send(mail()).await.unwrap_err();
            assert!(matches!(error, MailError::Unavailable { .. }), "{what}: {error:?}");
            let shown = format!("{error:?}");
            assert!(!shown.contains(PASSWORD) && !shown.contains("abcd") && !shown.contains("ann@"), "{shown}");
            let Told { plain, protected } = told.await.unwrap();
            assert!(is_nothing(&plain) && protected.is_empty(), "{security:?}, {what}: {plain} {protected}");
        }
    }
}
