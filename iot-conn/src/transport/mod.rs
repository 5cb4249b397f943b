//! Listeners: TCP, TLS, WebSocket. They accept, shake hands and hand a stream with its peer to the node.

mod acceptor;
mod admission;
mod certificate;
mod hello;
mod proxy;
mod stream;
mod tls;
mod websocket;

use std::{io, net::SocketAddr, sync::Arc};

use futures_util::future::BoxFuture;
pub use iot_core::rate::Rate;
use iot_core::{network::Network, quota::Quota};
use tokio::net::TcpStream;

pub use acceptor::AcceptorLimits;
pub(crate) use acceptor::{Acceptor, Permit};
pub use certificate::ServerCertificate;
pub use stream::Stream;
pub use tls::TlsStream;

/// Where and how to listen.
#[derive(Clone)]
pub struct Listener {
    /// For messages, logs and metrics.
    pub name: &'static str,
    /// Port 0 picks a free one.
    pub address: SocketAddr,
    /// TLS, if any. A client certificate, where the configuration asks for one, is verified by it. A client that offers
    /// protocols (ALPN) none of which is the configuration's, or a server name that its resolver has no certificate for, is refused
    /// before anything is computed with keys.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// WebSocket (RFC 6455) with subprotocol `mqtt` on path `/mqtt`, instead of plain MQTT.
    pub websocket: bool,
    /// Who takes clients of HTTP, on a listener with TLS that is for them as well: those that agree on `http/1.1` (ALPN, RFC
    /// 7301), which is offered beside the protocols of the configuration, and those that offer nothing and begin as HTTP does. Of
    /// these, the ones that ask for the WebSocket are clients of MQTT all the same.
    pub http: Option<HttpDoor>,
    /// Whether clients without credentials are let in.
    pub anonymous: bool,
    /// The load balancers in front of the listener. With any, all connections must come from them and begin with a header of the
    /// PROXY protocol, version 2; the client's address is then the one in it. A connection from elsewhere is refused, since it could
    /// say anything. Empty: no balancer.
    pub balancers: Vec<Network>,
    /// What all clients of the listener may take together; no limits by default. One that makes no [sense](Quota::check) is an error
    /// when the listener is bound.
    pub quota: Quota,
}

impl Listener {
    /// Plain MQTT for clients with credentials.
    #[must_use]
    pub fn new(name: &'static str, address: SocketAddr) -> Self {
        Self {
            name,
            address,
            tls: None,
            websocket: false,
            http: None,
            anonymous: false,
            balancers: Vec::new(),
            quota: Quota::default(),
        }
    }
}

/// Serves a connection of HTTP/1.1, from the first byte of the first request on, until it ends. It counts as one of the node's,
/// and a node that ends waits for it a while.
pub type HttpDoor = Arc<dyn Fn(TlsStream<TcpStream>, SocketAddr) -> BoxFuture<'static, ()> + Send + Sync>;

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("name", &self.name).field("address", &self.address).finish_non_exhaustive()
    }
}

/// A listener could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("{name} cannot listen on {address}")]
pub struct BindError {
    /// Which listener.
    pub name: &'static str,
    /// On which address.
    pub address: SocketAddr,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Listeners that are bound; nothing is accepted yet.
#[derive(Debug)]
pub struct Bound {
    pub(crate) listeners: Vec<(Listener, tokio::net::TcpListener)>,
}

impl Bound {
    /// Binds all, or none. Within a tokio runtime.
    pub fn bind(listeners: Vec<Listener>) -> Result<Self, BindError> {
        let bind = |listener: Listener| {
            let fail = |source| BindError { name: listener.name, address: listener.address, source };
            let socket = listen(listener.address).map_err(fail)?;
            Ok((listener, socket))
        };
        Self::adopt(listeners.into_iter().map(bind).collect::<Result<_, _>>()?)
    }

    /// Takes sockets that are listening already, for instance from [`listen`] or from a service manager. Within a tokio
    /// runtime.
    pub fn adopt(sockets: Vec<(Listener, std::net::TcpListener)>) -> Result<Self, BindError> {
        let adopt = |(mut listener, socket): (Listener, std::net::TcpListener)| {
            let fail = |source| BindError { name: listener.name, address: listener.address, source };
            if listener.quota != Quota::default() {
                listener.quota.check().map_err(|invalid| fail(io::Error::new(io::ErrorKind::InvalidInput, invalid)))?;
            }
            let address = socket.local_addr().map_err(fail)?;
            socket.set_nonblocking(true).map_err(fail)?;
            let socket = tokio::net::TcpListener::from_std(socket).map_err(fail)?;
            listener.address = address;
            if let Some(config) = &mut listener.tls {
                // Out to the stream that encrypts with them, and no further.
                let config = Arc::make_mut(config);
                config.enable_secret_extraction = true;
                if listener.http.is_some() && !config.alpn_protocols.iter().any(|known| known == tls::HTTP) {
                    config.alpn_protocols.push(tls::HTTP.to_vec());
                }
            }
            Ok((listener, socket))
        };
        let listeners = sockets.into_iter().map(adopt).collect::<Result<_, _>>()?;
        Ok(Self { listeners })
    }

    /// The addresses, with the ports that were picked.
    pub fn addresses(&self) -> Vec<(&'static str, SocketAddr)> {
        self.listeners.iter().map(|(listener, _)| (listener.name, listener.address)).collect()
    }
}

/// How many connections the kernel may hold for a listener that is busy.
const BACKLOG: i32 = 4_096;

/// A socket that listens on `address`, which may be taken again at once after a restart.
pub fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The other end of a connection, as its transport knows it.
#[derive(Debug, Clone)]
pub struct Peer {
    /// From where.
    pub address: SocketAddr,
    /// Through which listener.
    pub listener: &'static str,
    /// Whether the connection is encrypted.
    pub encrypted: bool,
    /// The verified end-entity certificate (DER), if the client has shown one in this or in the resumed handshake.
    pub certificate: Option<Vec<u8>>,
    /// Whether the listener lets clients in that show nothing.
    pub anonymous_allowed: bool,
}
