//! A client's first message of TLS: read on its own, so that who is slow with it holds up nobody, and looked at before anything
//! is computed with keys.

use std::{io, sync::Arc, time::Duration};

use rustls::{ServerConfig, server::Acceptor};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

/// How long telling a client why it is refused may take.
const ALERT_WITHIN: Duration = Duration::from_secs(1);

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
            Self::Broken(_) => "handshake",
        }
    }
}

/// Waits for the first message. A client that names no server and no protocol (RFC 6066 section 3, RFC 7301) is welcome.
pub(super) async fn hello(
    tcp: TcpStream,
    config: &Arc<ServerConfig>,
    within: Duration,
) -> Result<StartHandshake<TcpStream>, Refused> {
    let start = match timeout(within, LazyConfigAcceptor::new(Acceptor::default(), tcp)).await {
        Ok(start) => start.map_err(Refused::Broken)?,
        Err(_) => return Err(Refused::Silent),
    };
    let hello = start.client_hello();
    let offered = hello.alpn().map(Iterator::collect::<Vec<_>>);
    let is_known = |protocol: &&[u8]| config.alpn_protocols.iter().any(|ours| ours == protocol);
    if !config.alpn_protocols.is_empty() && offered.is_some_and(|offered| !offered.iter().any(is_known)) {
        return Err(refuse(start, NO_APPLICATION_PROTOCOL, Refused::Protocol).await);
    }
    if config.cert_resolver.resolve(hello).is_none() {
        return Err(refuse(start, UNRECOGNIZED_NAME, Refused::Name).await);
    }
    Ok(start)
}

async fn refuse(start: StartHandshake<TcpStream>, alert: u8, why: Refused) -> Refused {
    // A record of two bytes, in the clear, as it must be before a handshake.
    let record = [21, 3, 3, 0, 2, FATAL, alert];
    let mut tcp = start.io;
    let tell = async {
        tcp.write_all(&record).await?;
        tcp.shutdown().await
    };
    // Who does not take it is not told.
    let _told = timeout(ALERT_WITHIN, tell).await;
    why
}
