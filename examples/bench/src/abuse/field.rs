//! Where the attacks go, and a connection that keeps to nothing.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use iot_device::options::Endpoint;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, pki_types::ServerName},
};

use super::bytes::{Hello, V5, frame, subscribe};
use crate::{options::Broker, peer::Stream};

/// How long an answer may take.
pub(super) const SOON: Duration = Duration::from_secs(30);

/// The server did not do what it should.
#[derive(Debug, thiserror::Error)]
pub(super) enum Wrong {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0}")]
    Server(String),
}

/// What the server did, in a few words.
pub(super) type Verdict = Result<String, Wrong>;

pub(super) fn wrong<T>(what: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong::Server(what.into()))
}

/// The server's doors, and for how long each behaviour goes on.
pub(super) struct Field {
    pub(super) broker: Broker,
    pub(super) mqtts: Endpoint,
    pub(super) ws: Endpoint,
    pub(super) http: Endpoint,
    pub(super) tls: Arc<ClientConfig>,
    pub(super) lasts: Duration,
    pub(super) ids: AtomicU64,
}

/// How a connection came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Without a word.
    Closed,
    /// CONNACK with this code.
    Refused(u8),
    /// DISCONNECT with this reason.
    Told(u8),
    /// It has not.
    Open,
}

/// What comes next.
#[derive(Debug)]
pub(super) enum Heard {
    Packet(u8, Vec<u8>),
    Closed,
    Silence,
}

impl Field {
    /// When the behaviour may end.
    pub(super) fn until(&self) -> Instant {
        Instant::now() + self.lasts
    }

    pub(super) fn id(&self) -> String {
        format!("hostile-{}-{}", std::process::id(), self.ids.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) async fn tcp(&self) -> io::Result<TcpStream> {
        tcp(&self.broker.url.host, self.broker.url.port).await
    }

    pub(super) async fn tcp_to(endpoint: &Endpoint) -> io::Result<TcpStream> {
        tcp(endpoint.host(), endpoint.port()).await
    }

    /// A connection on which nothing was said.
    pub(super) async fn raw(&self) -> io::Result<Hostile> {
        Ok(Hostile::new(self.tcp().await?))
    }

    /// The same over TLS.
    pub(super) async fn secure(&self) -> io::Result<Hostile> {
        let name = self.mqtts.name();
        let tcp = Self::tcp_to(&self.mqtts).await?;
        Ok(Hostile::new(TlsConnector::from(Arc::clone(&self.tls)).connect(name, tcp).await?))
    }

    /// TLS with a configuration and a name of its own; what the handshake ends with.
    pub(super) async fn shake(
        &self,
        config: ClientConfig,
        name: ServerName<'static>,
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let tcp = Self::tcp_to(&self.mqtts).await?;
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await
    }

    /// A client that was let in.
    pub(super) async fn online(&self, version: u8) -> Result<Hostile, Wrong> {
        self.admitted(&Hello::new(version, &self.id())).await
    }

    pub(super) async fn admitted(&self, hello: &Hello<'_>) -> Result<Hostile, Wrong> {
        let mut hostile = self.raw().await?;
        hostile.send(&hello.packet()).await?;
        hostile.connack().await?;
        Ok(hostile)
    }

    /// A client that was let in and is subscribed, and then does not read.
    pub(super) async fn deaf(&self, filter: &str, qos: u8) -> Result<Hostile, Wrong> {
        let mut hostile = self.online(V5).await?;
        hostile.send(&subscribe(1, &[], [(filter, qos)])).await?;
        hostile.expect(0x90).await?;
        Ok(hostile)
    }

    /// A WebSocket, after its handshake.
    pub(super) async fn websocket(&self) -> Result<Hostile, Wrong> {
        let mut hostile = Hostile::new(Self::tcp_to(&self.ws).await?);
        hostile.send(UPGRADE.as_bytes()).await?;
        let head = hostile.head().await?;
        if !head.starts_with("HTTP/1.1 101") {
            return wrong(format!("the WebSocket was refused: {}", head.lines().next().unwrap_or_default()));
        }
        Ok(hostile)
    }

    /// A WebSocket with a client that was let in.
    pub(super) async fn websocket_online(&self) -> Result<Hostile, Wrong> {
        let mut hostile = self.websocket().await?;
        hostile.send(&frame(0x82, true, &Hello::new(V5, &self.id()).packet())).await?;
        if matches!(hostile.some(SOON).await?, 0) {
            return wrong("no CONNACK over the WebSocket");
        }
        Ok(hostile)
    }
}

async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let address = (host.trim_matches(['[', ']']), port);
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    // What is dropped is gone at once: no port is kept.
    tcp.set_zero_linger()?;
    Ok(tcp)
}

/// An upgrade request as it should be.
pub(super) const UPGRADE: &str = "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";

/// A connection on which anything may be said.
pub(super) struct Hostile {
    stream: Box<dyn Stream>,
    input: Vec<u8>,
}

impl Hostile {
    pub(super) fn new(stream: impl Stream + 'static) -> Self {
        Self { stream: Box::new(stream), input: Vec::new() }
    }

    /// Writes all of it, or fails when the server has closed or does not take it.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let write = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        timeout(SOON, write).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Says that nothing more is written.
    pub(super) async fn shut(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }

    /// The next packet.
    pub(super) async fn hear(&mut self, within: Duration) -> Heard {
        let by = Instant::now() + within;
        loop {
            if let Some((first, body)) = self.take() {
                return Heard::Packet(first, body);
            }
            match timeout_at(by, self.stream.read_buf(&mut self.input)).await {
                Err(_) => return Heard::Silence,
                Ok(Ok(count)) if count > 0 => {}
                Ok(_) => return Heard::Closed,
            }
        }
    }

    fn take(&mut self) -> Option<(u8, Vec<u8>)> {
        let first = *self.input.first()?;
        let (mut count, mut at) = (0, 1);
        loop {
            let byte = usize::from(*self.input.get(at)?);
            count |= (byte & 0x7f) << (7 * (at - 1));
            at += 1;
            if byte & 0x80 == 0 || at > 4 {
                break;
            }
        }
        let body = self.input.get(at..at + count)?.to_vec();
        self.input.drain(..at + count);
        Some((first, body))
    }

    /// The next packet of this type; others are passed over.
    pub(super) async fn expect(&mut self, first: u8) -> Result<Vec<u8>, Wrong> {
        loop {
            match self.hear(SOON).await {
                Heard::Packet(kind, body) if kind & 0xf0 == first & 0xf0 => return Ok(body),
                Heard::Packet(0xe0, body) => {
                    return wrong(format!("DISCONNECT {:#04x} instead of {first:#04x}", body.first().unwrap_or(&0)));
                }
                Heard::Packet(..) => {}
                Heard::Closed => return wrong(format!("closed instead of {first:#04x}")),
                Heard::Silence => return wrong(format!("silence instead of {first:#04x}")),
            }
        }
    }

    pub(super) async fn connack(&mut self) -> Result<(), Wrong> {
        match self.expect(0x20).await?.get(1) {
            Some(0) => Ok(()),
            code => wrong(format!("CONNACK {code:02x?}")),
        }
    }

    /// How it ends, if it does within this time; what comes before is passed over.
    pub(super) async fn end(&mut self, within: Duration) -> End {
        let (by, mut said) = (Instant::now() + within, None);
        loop {
            match self.hear(by.saturating_duration_since(Instant::now())).await {
                Heard::Packet(0x20, body) => match body.get(1) {
                    Some(0) | None => {}
                    Some(code) => said = Some(End::Refused(*code)),
                },
                Heard::Packet(0xe0, body) => said = Some(End::Told(body.first().copied().unwrap_or(0))),
                Heard::Packet(..) => {}
                Heard::Closed => return said.unwrap_or(End::Closed),
                Heard::Silence => return End::Open,
            }
        }
    }

    /// Demands an end like this one.
    pub(super) async fn ends(&mut self, as_: End) -> Result<(), Wrong> {
        match self.end(SOON).await {
            end if end == as_ => Ok(()),
            end => wrong(format!("{end} instead of {as_}")),
        }
    }

    /// Demands an end, whatever is said: a reset may have overtaken the reason.
    pub(super) async fn ends_somehow(&mut self, within: Duration) -> Result<End, Wrong> {
        match self.end(within).await {
            End::Open => wrong(format!("still open after {within:?}")),
            end => Ok(end),
        }
    }

    /// How many bytes come next; 0 at the end.
    pub(super) async fn some(&mut self, within: Duration) -> io::Result<usize> {
        let mut space = [0; 4_096];
        match timeout(within, self.stream.read(&mut space)).await {
            Ok(read) => read,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// The head of an HTTP answer.
    pub(super) async fn head(&mut self) -> Result<String, Wrong> {
        let by = Instant::now() + SOON;
        loop {
            if let Some(at) = self.input.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = self.input.drain(..at + 4).collect();
                return Ok(String::from_utf8(head).unwrap_or_default());
            }
            match timeout_at(by, self.stream.read_buf(&mut self.input)).await {
                Ok(Ok(count)) if count > 0 => {}
                Ok(Ok(_)) => return wrong("closed before the head of an answer"),
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => return wrong("no answer to an HTTP request"),
            }
        }
    }

    /// Everything until the server closes; an error if it does not.
    pub(super) async fn rest(&mut self, within: Duration) -> Result<Vec<u8>, Wrong> {
        let by = Instant::now() + within;
        loop {
            match timeout_at(by, self.stream.read_buf(&mut self.input)).await {
                Ok(Ok(count)) if count > 0 => {}
                Ok(_) => return Ok(std::mem::take(&mut self.input)),
                Err(_) => return wrong(format!("still open after {within:?}")),
            }
        }
    }

    /// Writes `chunk` again and again until then, or until the server ends it. Answers how often, and whether it was ended.
    pub(super) async fn pump(&mut self, chunk: &[u8], reads: bool, until: Instant) -> (u64, bool) {
        let (mut reader, mut writer) = tokio::io::split(&mut self.stream);
        let write = async {
            let mut count = 0;
            loop {
                match timeout_at(until, writer.write_all(chunk)).await {
                    Ok(Ok(())) => count += 1,
                    Ok(Err(_)) => return (count, true),
                    Err(_) => return (count, false),
                }
                if Instant::now() >= until {
                    return (count, false);
                }
                tokio::task::yield_now().await;
            }
        };
        let read = async {
            let mut space = vec![0; 16 * 1024];
            while reads && reader.read(&mut space).await.is_ok_and(|count| count > 0) {}
            std::future::pending::<()>().await;
        };
        tokio::select! {
            sent = write => sent,
            () = read => (0, true),
        }
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed => f.write_str("closed"),
            Self::Refused(code) => write!(f, "CONNACK {code:#04x}"),
            Self::Told(reason) => write!(f, "DISCONNECT {reason:#04x}"),
            Self::Open => f.write_str("left open"),
        }
    }
}
