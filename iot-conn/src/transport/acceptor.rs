use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use iot_core::{clock::Clock, rate::Rate};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};

use super::{
    Listener, Peer, Stream,
    admission::{Admission, NETWORKS_MAX},
    hello::{Refused, hello},
    proxy::client_address,
    tls::{self, TlsStream},
    websocket::{self, WebSocket},
};

/// How much the acceptor takes on.
#[derive(Debug, Clone)]
pub struct AcceptorLimits {
    /// The most connections of the node. A further one is told that the server is busy, and when to come back.
    pub connections_max: usize,
    /// The most connections beyond these that are being told so; a further one is closed at once and counted.
    pub refusals_max: usize,
    /// How fast clients are let in, over all networks: after their credentials were checked, before their sessions are taken. A
    /// further one is told when to come back. A quarter of the burst is for clients of critical products alone.
    pub connects: Rate,
    /// How fast a network may open connections: an IPv4 address, or 56 bits of IPv6. A further one is closed at once and
    /// counted. Loopback is exempt.
    pub connects_per_network: Rate,
    /// The most TLS handshakes at the same time, from a client's first message on; the others wait, within
    /// `handshake_timeout`.
    pub handshakes_max: usize,
    /// From the TCP connection to the whole of the client's first message of TLS.
    pub hello_timeout: Duration,
    /// From the TCP connection to the first byte of MQTT.
    pub handshake_timeout: Duration,
}

impl Default for AcceptorLimits {
    fn default() -> Self {
        Self {
            connections_max: 19_500,
            refusals_max: 256,
            connects: Rate { per_s: 2_000, burst: 30_000 },
            // A house that comes back after a power cut, or a whole office behind one address.
            connects_per_network: Rate { per_s: 200, burst: 2_000 },
            handshakes_max: 256,
            hello_timeout: Duration::from_secs(2),
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

/// A connection's place among those that there may be.
#[derive(Debug)]
pub(crate) enum Permit {
    /// It is served.
    Served(OwnedSemaphorePermit),
    /// There are too many: it is told so.
    Refused(#[expect(dead_code, reason = "given back when dropped")] OwnedSemaphorePermit),
}

/// Accepts for all listeners of a node. A handshake is never awaited where connections are accepted.
#[derive(Debug, Clone)]
pub(crate) struct Acceptor {
    limits: AcceptorLimits,
    packet_bytes_max: usize,
    connections: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    // A small section, never across an await.
    admission: Arc<Mutex<Admission>>,
    clock: Arc<dyn Clock>,
}

impl Acceptor {
    pub(crate) fn new(limits: AcceptorLimits, packet_bytes_max: usize, clock: Arc<dyn Clock>) -> Self {
        Self {
            admission: Arc::new(Mutex::new(Admission::new(limits.connects_per_network, NETWORKS_MAX))),
            clock,
            connections: Arc::new(Semaphore::new(limits.connections_max)),
            refusals: Arc::new(Semaphore::new(limits.refusals_max)),
            handshakes: Arc::new(Semaphore::new(limits.handshakes_max)),
            limits,
            packet_bytes_max,
        }
    }

    /// Accepts until shutdown. Each connection has a task of its own: it shakes hands, `begin` makes of it what is then served by
    /// `serve`. What only the beginning needs is gone when it is served.
    pub(crate) async fn run<B, S, Served>(
        self,
        listener: Listener,
        socket: TcpListener,
        mut shutdown: watch::Receiver<bool>,
        begin: impl Fn(Stream, Peer, Permit) -> B + Clone + Send + 'static,
        serve: fn(S) -> Served,
    ) where
        B: Future<Output = Option<S>> + Send + 'static,
        S: Send + 'static,
        Served: Future<Output = ()> + Send + 'static,
    {
        loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                _ = shutdown.changed() => return,
            };
            let (tcp, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(listener = listener.name, %error, "a connection was not accepted");
                    pause_if_exhausted(&error).await;
                    continue;
                }
            };
            // Behind a balancer all have its address; the client's is looked at once it is known.
            if listener.balancers.is_empty() && !self.admits(address) {
                continue;
            }
            let Some(permit) = self.permit() else {
                metrics::counter!("iot_connects_refused_total", "reason" => "too_many").increment(1);
                continue;
            };
            let (acceptor, listener, begin) = (self.clone(), listener.clone(), begin.clone());
            let beginning = Box::pin(async move {
                match acceptor.shake_hands(&listener, tcp, address).await? {
                    Shaken::Mqtt(stream, peer) => begin(*stream, peer, permit).await,
                    Shaken::Http(stream, address) => {
                        if let (Some(serve), Permit::Served(_permit)) = (&listener.http, permit) {
                            serve(*stream, address).await;
                        }
                        None
                    }
                }
            });
            tokio::spawn(async move {
                let begun = beginning.await;
                if let Some(begun) = begun {
                    serve(begun).await;
                }
            });
        }
    }

    /// Resolves when no connection is left.
    pub(crate) async fn all_ended(&self, connections_max: u32) {
        let _all = self.connections.acquire_many(connections_max).await;
    }

    pub(crate) fn permit(&self) -> Option<Permit> {
        let served = self.connections.clone().try_acquire_owned().map(Permit::Served);
        served.or_else(|_| self.refusals.clone().try_acquire_owned().map(Permit::Refused)).ok()
    }

    fn admits(&self, address: SocketAddr) -> bool {
        let now = self.clock.monotonic();
        let mut admission = self.admission.lock().unwrap_or_else(PoisonError::into_inner);
        let admitted = admission.admit(address.ip(), now).is_ok();
        if !admitted {
            metrics::counter!("iot_connects_refused_total", "reason" => "network_rate").increment(1);
        }
        admitted
    }

    /// Where the connection comes from; `None` if too many come from there.
    async fn origin(
        &self,
        listener: &Listener,
        tcp: &mut TcpStream,
        address: SocketAddr,
    ) -> Result<Option<SocketAddr>, Refused> {
        if listener.balancers.is_empty() {
            return Ok(Some(address));
        }
        if !listener.balancers.iter().any(|network| network.contains(address.ip())) {
            return Err(Refused::NoBalancer);
        }
        match client_address(tcp, self.limits.hello_timeout).await.map_err(Refused::Proxy)? {
            Some(client) => Ok(self.admits(client).then_some(client)),
            None => Ok(Some(address)),
        }
    }

    /// In time, or not at all.
    async fn shake_hands(&self, listener: &Listener, tcp: TcpStream, address: SocketAddr) -> Option<Shaken> {
        let handshake = self.handshake(listener, tcp, address);
        match tokio::time::timeout(self.limits.handshake_timeout, handshake).await {
            Ok(Ok(shaken)) => return shaken,
            Ok(Err(refused)) => refuse(listener, address, refused.code(), &refused),
            Err(_) => refuse(listener, address, "handshake_timeout", &Refused::Silent),
        }
        None
    }

    async fn handshake(
        &self,
        listener: &Listener,
        mut tcp: TcpStream,
        address: SocketAddr,
    ) -> Result<Option<Shaken>, Refused> {
        tcp.set_nodelay(true)?;
        let Some(address) = self.origin(listener, &mut tcp, address).await? else { return Ok(None) };
        let mut peer = Peer {
            address,
            listener: listener.name,
            encrypted: listener.tls.is_some(),
            certificate: None,
            anonymous_allowed: listener.anonymous,
        };
        let Some(config) = &listener.tls else {
            let stream = match listener.websocket {
                true => Stream::WebSocket(Box::new(WebSocket::accept(tcp, self.packet_bytes_max).await?)),
                false => Stream::Tcp(tcp),
            };
            return Ok(Some(Shaken::Mqtt(Box::new(stream), peer)));
        };
        let read = hello(&mut tcp, config, self.limits.hello_timeout).await?;
        let permit = self.handshakes.acquire().await.map_err(io::Error::other)?;
        metrics::counter!("iot_tls_handshakes_begun_total").increment(1);
        let (mut stream, agreed) = TlsStream::accept(tcp, config.clone(), read).await?;
        drop(permit);
        let resumed = if agreed.is_resumed { "true" } else { "false" };
        metrics::counter!("iot_tls_handshakes_total", "resumed" => resumed).increment(1);
        peer.certificate = agreed.certificate;
        let spoken = match (&listener.http, listener.websocket, agreed.protocol.as_deref()) {
            (_, true, _) => Spoken::WebSocket,
            (Some(_), _, None | Some(tls::HTTP)) => listen_to(&mut stream).await?,
            _ => Spoken::Mqtt,
        };
        let stream = match spoken {
            Spoken::Http => return Ok(Some(Shaken::Http(Box::new(stream), address))),
            Spoken::WebSocket => {
                Stream::SecureWebSocket(Box::new(WebSocket::accept(stream, self.packet_bytes_max).await?))
            }
            Spoken::Mqtt => Stream::Tls(Box::new(stream)),
        };
        Ok(Some(Shaken::Mqtt(Box::new(stream), peer)))
    }
}

/// What a connection is, once hands are shaken.
enum Shaken {
    Mqtt(Box<Stream>, Peer),
    Http(Box<TlsStream<TcpStream>>, SocketAddr),
}

/// What is spoken inside of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spoken {
    Mqtt,
    WebSocket,
    Http,
}

/// Tells by the first bytes; these are left to be read.
async fn listen_to(stream: &mut TlsStream<TcpStream>) -> io::Result<Spoken> {
    let mut head = Vec::new();
    loop {
        let mut space = [0; 256];
        let count = stream.read(&mut space).await?;
        head.extend_from_slice(&space[..count]);
        if let Some(spoken) = spoken(&head, count == 0) {
            stream.unread(head);
            return Ok(spoken);
        }
    }
}

/// A method of HTTP begins with a capital letter, and no first packet of MQTT does.
fn spoken(head: &[u8], is_all: bool) -> Option<Spoken> {
    match head.first() {
        Some(first) if !first.is_ascii_uppercase() => Some(Spoken::Mqtt),
        _ if is_all => Some(Spoken::Http),
        _ => websocket::is_request(head).map(|is_request| if is_request { Spoken::WebSocket } else { Spoken::Http }),
    }
}

fn refuse(listener: &Listener, peer: SocketAddr, reason: &'static str, why: &Refused) {
    metrics::counter!("iot_connects_refused_total", "reason" => reason).increment(1);
    tracing::debug!(listener = listener.name, %peer, reason, %why, "a handshake failed");
}

/// Without file descriptors every accept fails at once: a pause lets connections end.
async fn pause_if_exhausted(error: &io::Error) {
    let of_the_peer = [io::ErrorKind::ConnectionAborted, io::ErrorKind::ConnectionReset, io::ErrorKind::Interrupted];
    if !of_the_peer.contains(&error.kind()) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
