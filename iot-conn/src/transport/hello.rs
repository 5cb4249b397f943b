//! A client's first message of TLS: read on its own, so that who is slow with it holds up nobody, and looked at before anything
//! is computed with keys.

use std::{io, time::Duration};

use rustls::{
    ServerConfig,
    server::{Accepted, Acceptor},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::proxy::ProxyError;

/// How long telling a client why it is refused may take.
const ALERT_WITHIN: Duration = Duration::from_secs(1);

/// What one read may bring; a first message is some hundred bytes long.
const READ_BYTES: usize = 2_048;

/// RFC 8446, section 6.
const FATAL: u8 = 2;
const UNRECOGNIZED_NAME: u8 = 112;
const NO_APPLICATION_PROTOCOL: u8 = 120;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// See [`AcceptorLimits::hello_timeout`](super::AcceptorLimits::hello_timeout).
    #[error("the client was not heard in time")]
    Silent,
    /// It asks for a name that the certificate is not for.
    #[error("the client asks for another server")]
    Name,
    /// It speaks none of our protocols.
    #[error("the client offers other protocols")]
    Protocol,
    /// It comes from elsewhere than the listener's balancers.
    #[error("the listener takes connections from its balancers only")]
    NoBalancer,
    /// The balancer does not say from where it comes.
    #[error("the balancer does not say where the connection comes from: {0}")]
    Proxy(ProxyError),
    /// What it sent is no handshake, or the connection was lost.
    #[error(transparent)]
    Broken(#[from] io::Error),
}

impl Refused {
    /// For metrics.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Silent => "hello_timeout",
            Self::Name => "server_name",
            Self::Protocol => "protocol",
            Self::NoBalancer => "no_balancer",
            Self::Proxy(_) => "proxy_header",
            Self::Broken(_) => "handshake",
        }
    }
}

/// Waits for the first message. A client that names no server and no protocol (RFC 6066 section 3, RFC 7301) is welcome. Answers
/// what was read, for the handshake.
pub(super) async fn hello(
    io: &mut (impl AsyncRead + AsyncWrite + Unpin),
    config: &ServerConfig,
    within: Duration,
) -> Result<Vec<u8>, Refused> {
    let (accepted, read) = timeout(within, read(io)).await.map_err(|_| Refused::Silent)??;
    let hello = accepted.client_hello();
    let offered = hello.alpn().map(Iterator::collect::<Vec<_>>);
    let is_known = |protocol: &&[u8]| config.alpn_protocols.iter().any(|ours| ours == protocol);
    if !config.alpn_protocols.is_empty() && offered.is_some_and(|offered| !offered.iter().any(is_known)) {
        return Err(refuse(io, &alert(NO_APPLICATION_PROTOCOL), Refused::Protocol).await);
    }
    if config.cert_resolver.resolve(hello).is_none() {
        return Err(refuse(io, &alert(UNRECOGNIZED_NAME), Refused::Name).await);
    }
    Ok(read)
}

async fn read(io: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<(Accepted, Vec<u8>), Refused> {
    let (mut acceptor, mut read) = (Acceptor::default(), Vec::new());
    loop {
        let mut space = [0; READ_BYTES];
        let count = io.read(&mut space).await?;
        if count == 0 {
            return Err(Refused::Broken(io::ErrorKind::UnexpectedEof.into()));
        }
        read.extend_from_slice(&space[..count]);
        let mut rest = &space[..count];
        while !rest.is_empty() {
            // It takes no more than a message may be long.
            acceptor.read_tls(&mut rest)?;
            match acceptor.accept() {
                Ok(Some(accepted)) => return Ok((accepted, read)),
                Ok(None) => {}
                Err((error, mut alert)) => {
                    let mut bytes = Vec::new();
                    alert.write_all(&mut bytes)?;
                    return Err(refuse(io, &bytes, Refused::Broken(io::Error::other(error))).await);
                }
            }
        }
    }
}

/// A record of two bytes, in the clear, as it must be before a handshake.
fn alert(description: u8) -> [u8; 7] {
    [21, 3, 3, 0, 2, FATAL, description]
}

async fn refuse(io: &mut (impl AsyncWrite + Unpin), alert: &[u8], why: Refused) -> Refused {
    let tell = async {
        io.write_all(alert).await?;
        io.shutdown().await
    };
    // Who does not take it is not told.
    let _told = timeout(ALERT_WITHIN, tell).await;
    why
}
