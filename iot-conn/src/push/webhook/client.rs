//! One POST to a stranger's server: to an address that was checked, in bounded time, without believing anything.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, StatusCode,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::endpoint::{Endpoint, UrlRefusal};

/// The most addresses of a host that are tried for one attempt.
const ADDRESSES_MAX: usize = 4;

/// The largest head of an answer, in bytes. The body is not read at all.
const ANSWER_BYTES_MAX: usize = 16 * 1_024;

/// How long a host may take to be looked up.
const LOOKUP_MAX: Duration = Duration::from_secs(5);

/// Finds the addresses of hosts.
///
/// Whatever it returns is checked; the connection is made to what was checked, without asking again. So it needs not be
/// trusted, and tests may answer from a table.
#[async_trait]
pub trait Resolve: fmt::Debug + Send + Sync + 'static {
    /// All addresses of a host, with this port. An IP address as text is its own answer.
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;
}

/// Asks the machine's resolver.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host((host, port)).await?.collect())
    }
}

/// Makes attempts.
pub struct Client {
    resolver: Arc<dyn Resolve>,
    tls: TlsConnector,
    allow_loopback_http: bool,
    timeout: Duration,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("resolver", &self.resolver).finish_non_exhaustive()
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Answered(StatusCode),
    Refused(UrlRefusal),
    Unreachable,
    TlsFailed,
    NotHttp,
    TimedOut,
}

impl Outcome {
    /// A redirect is none: it would lead past the check of the address.
    pub(super) fn is_success(self) -> bool {
        matches!(self, Self::Answered(status) if status.is_success())
    }

    pub(super) fn is_gone(self) -> bool {
        self == Self::Answered(StatusCode::GONE)
    }

    pub(super) fn code(self) -> String {
        match self {
            Self::Answered(status) => format!("http_{}", status.as_u16()),
            Self::Refused(refusal) => refusal.code().to_owned(),
            Self::Unreachable => "unreachable".to_owned(),
            Self::TlsFailed => "tls_failed".to_owned(),
            Self::NotHttp => "not_http".to_owned(),
            Self::TimedOut => "timed_out".to_owned(),
        }
    }
}

/// The certificate authorities that the machine trusts. Blocks on the file system. What cannot be read is left out; an error
/// if nothing is left.
pub fn native_roots() -> io::Result<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    match added {
        0 => Err(io::Error::other("this machine has no certificate authorities: install ca-certificates")),
        _ => Ok(roots),
    }
}

impl Client {
    /// Trusts `roots`; an attempt takes at most 15 s.
    pub fn new(roots: RootCertStore) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has suites for the default versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self {
            resolver: Arc::new(SystemResolver),
            tls: TlsConnector::from(Arc::new(config)),
            allow_loopback_http: false,
            timeout: Duration::from_secs(15),
        }
    }

    /// Asks another resolver than the machine's.
    #[must_use]
    pub fn resolver(mut self, resolver: Arc<dyn Resolve>) -> Self {
        self.resolver = resolver;
        self
    }

    /// Another bound of an attempt than 15 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// For development and tests: loopback addresses may be reached too, and those by `http` as well.
    #[must_use]
    pub fn allow_loopback_http(mut self, allow: bool) -> Self {
        self.allow_loopback_http = allow;
        self
    }

    /// Whether a webhook may have this URL now.
    pub(super) async fn check(&self, url: &str) -> Result<(), UrlRefusal> {
        self.locate(url).await.map(|_| ())
    }

    /// Reads the URL, looks up its host, and lets only checked addresses through.
    async fn locate(&self, url: &str) -> Result<(Endpoint, Vec<SocketAddr>), UrlRefusal> {
        let endpoint = Endpoint::parse(url, self.allow_loopback_http)?;
        let resolved = tokio::time::timeout(LOOKUP_MAX, self.resolver.resolve(&endpoint.host, endpoint.port)).await;
        let resolved = resolved.ok().and_then(Result::ok).ok_or(UrlRefusal::Unresolvable)?;
        let addresses = endpoint.admits(resolved, self.allow_loopback_http)?;
        Ok((endpoint, addresses))
    }

    /// Sends one POST.
    pub(super) async fn post(&self, url: &str, headers: &[(&'static str, String)], body: &str) -> Outcome {
        let attempt = async {
            let (endpoint, addresses) = self.locate(url).await.map_err(Outcome::Refused)?;
            let request = request(&endpoint, headers, body).ok_or(Outcome::NotHttp)?;
            let stream = connect(&addresses).await.ok_or(Outcome::Unreachable)?;
            if !endpoint.tls {
                return exchange(stream, request).await;
            }
            let name = ServerName::try_from(endpoint.host).map_err(|_| Outcome::TlsFailed)?;
            let stream = self.tls.connect(name, stream).await.map_err(|_| Outcome::TlsFailed)?;
            exchange(stream, request).await
        };
        match tokio::time::timeout(self.timeout, attempt).await {
            Ok(Ok(status)) => Outcome::Answered(status),
            Ok(Err(outcome)) => outcome,
            Err(_) => Outcome::TimedOut,
        }
    }
}

fn request(endpoint: &Endpoint, headers: &[(&'static str, String)], body: &str) -> Option<Request<Full<Bytes>>> {
    let mut request = Request::post(endpoint.path.as_str())
        .header(HOST, &endpoint.authority)
        .header(USER_AGENT, concat!("iot-conn/", env!("CARGO_PKG_VERSION")))
        .header(CONTENT_TYPE, "application/json");
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).ok()
}

async fn connect(addresses: &[SocketAddr]) -> Option<TcpStream> {
    for address in addresses.iter().take(ADDRESSES_MAX) {
        if let Ok(stream) = TcpStream::connect(address).await {
            return Some(stream);
        }
    }
    None
}

/// The status of the answer; its body is dropped with the connection.
async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<StatusCode, Outcome>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder.max_buf_size(ANSWER_BYTES_MAX);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|_| Outcome::NotHttp)?;
    let answer = sender.send_request(request);
    tokio::pin!(answer, connection);
    let answer = tokio::select! {
        biased;
        answer = &mut answer => answer,
        _ended = &mut connection => answer.await,
    };
    answer.map(|answer| answer.status()).map_err(|_| Outcome::NotHttp)
}
