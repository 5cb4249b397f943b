use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use iot_core::clock::Clock;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};

use super::{
    Listener, Peer, Stream,
    admission::{Admission, NETWORKS_MAX, Rate},
    hello::{Refused, hello},
    proxy::client_address,
    tls::TlsStream,
    websocket::WebSocket,
};

/// How much the acceptor takes on.
#[derive(Debug, Clone)]
pub struct AcceptorLimits {
    /// The most connections of the node; a further one is closed at once and counted.
    pub connections_max: usize,
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
            // A house that comes back after a power cut, or a whole office behind one address.
            connects_per_network: Rate { per_s: 200, burst: 2_000 },
            handshakes_max: 256,
            hello_timeout: Duration::from_secs(2),
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

/// Accepts for all listeners of a node. A handshake is never awaited where connections are accepted.
#[derive(Debug, Clone)]
pub(crate) struct Acceptor {
    limits: AcceptorLimits,
    packet_bytes_max: usize,
    connections: Arc<Semaphore>,
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
        begin: impl Fn(Stream, Peer, OwnedSemaphorePermit) -> B + Clone + Send + 'static,
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
            let Ok(permit) = self.connections.clone().try_acquire_owned() else {
                metrics::counter!("iot_connects_refused_total", "reason" => "too_many").increment(1);
                continue;
            };
            let (acceptor, listener, begin) = (self.clone(), listener.clone(), begin.clone());
            let beginning = Box::pin(async move {
                let (stream, peer) = acceptor.shake_hands(&listener, tcp, address).await?;
                begin(stream, peer, permit).await
            });
            tokio::spawn(async move {
                let begun = beginning.await;
                if let Some(begun) = begun {
                    serve(begun).await;
                }
            });
        }
    }

    /// Leave for one connection more, as `run` gives it.
    #[cfg(all(test, feature = "device"))]
    pub(crate) fn permit(&self) -> Option<OwnedSemaphorePermit> {
        self.connections.clone().try_acquire_owned().ok()
    }

    /// Resolves when no connection is left.
    pub(crate) async fn all_ended(&self, connections_max: u32) {
        let _all = self.connections.acquire_many(connections_max).await;
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
    async fn shake_hands(&self, listener: &Listener, tcp: TcpStream, address: SocketAddr) -> Option<(Stream, Peer)> {
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
    ) -> Result<Option<(Stream, Peer)>, Refused> {
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
            return Ok(Some((stream, peer)));
        };
        let read = hello(&mut tcp, config, self.limits.hello_timeout).await?;
        let permit = self.handshakes.acquire().await.map_err(io::Error::other)?;
        metrics::counter!("iot_tls_handshakes_begun_total").increment(1);
        let (stream, agreed) = TlsStream::accept(tcp, config.clone(), read).await?;
        drop(permit);
        let resumed = if agreed.is_resumed { "true" } else { "false" };
        metrics::counter!("iot_tls_handshakes_total", "resumed" => resumed).increment(1);
        peer.certificate = agreed.certificate;
        let stream = match listener.websocket {
            true => Stream::SecureWebSocket(Box::new(WebSocket::accept(stream, self.packet_bytes_max).await?)),
            false => Stream::Tls(Box::new(stream)),
        };
        Ok(Some((stream, peer)))
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
