//! A client with its connection.

use std::time::Duration;

use iot_conn::mqtt::{
    QoS, ReasonCode, Subscription,
    client::{Client, ClientOptions, Event},
};
use iot_device::link::{Clock, Link};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::rustls::pki_types::ServerName;

use crate::{BenchError, options::Broker};

/// How long a connection or a subscription may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// A transport.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

pub(crate) struct Peer {
    pub(crate) client: Client,
    link: Link<Box<dyn Stream>>,
    /// What its session is subscribed to.
    filters: Vec<String>,
}

impl Peer {
    /// Connects over TCP or TLS.
    pub(crate) async fn connect(broker: &Broker, options: ClientOptions, clock: Clock) -> Result<Self, BenchError> {
        let host = broker.url.host.as_str();
        let stream = TcpStream::connect((host, broker.url.port)).await.map_err(|error| target(&error))?;
        stream.set_nodelay(true).map_err(|error| target(&error))?;
        let stream: Box<dyn Stream> = match broker.connector()? {
            None => Box::new(stream),
            Some(connector) => {
                let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned());
                let name = name.map_err(|error| BenchError::Options(error.to_string()))?;
                Box::new(connector.connect(name, stream).await.map_err(|error| target(&error))?)
            }
        };
        Self::open(stream, options, clock).await
    }

    /// Goes on until the server has taken the connection.
    pub(crate) async fn open(
        stream: Box<dyn Stream>,
        options: ClientOptions,
        clock: Clock,
    ) -> Result<Self, BenchError> {
        let mut client = Client::new(options).map_err(|error| BenchError::Options(error.to_string()))?;
        let link = Link::open(stream, &mut client, clock);
        let mut peer = Self { client, link, filters: Vec::new() };
        peer.until(|event| matches!(event, Event::Connected(_)).then_some(())).await?;
        Ok(peer)
    }

    /// Goes on until the subscription is granted.
    pub(crate) async fn subscribe(&mut self, filter: &str, qos: QoS) -> Result<(), BenchError> {
        let asked = self.client.subscribe(&[Subscription::new(filter, qos)], None);
        asked.map_err(|error| BenchError::Target(error.to_string()))?;
        let reasons = self
            .until(|event| match event {
                Event::Subscribed { reasons, .. } => Some(reasons),
                _ => None,
            })
            .await?;
        match reasons.first() {
            Some(reason) if !reason.is_error() => {
                self.filters.push(filter.to_owned());
                Ok(())
            }
            refused => Err(BenchError::Target(format!("the subscription was refused: {refused:?}"))),
        }
    }

    /// Moves bytes until something happened; may be dropped and called again.
    pub(crate) async fn step(&mut self) -> Result<(), BenchError> {
        self.link.step(&mut self.client).await.map_err(|error| target(&error))
    }

    /// Waits until everything is written.
    pub(crate) async fn flush(&mut self) -> Result<(), BenchError> {
        self.link.flush(&mut self.client).await.map_err(|error| target(&error))
    }

    /// The next thing that happened; the end of the connection is an error.
    pub(crate) fn event(&mut self) -> Result<Option<Event>, BenchError> {
        match self.client.poll_event() {
            Some(end @ (Event::Refused(_) | Event::Disconnected(_))) => {
                Err(BenchError::Target(format!("the server ended a connection: {end:?}")))
            }
            event => Ok(event),
        }
    }

    /// Says goodbye; what goes wrong then changes no result. Nothing is kept for a session that nobody comes back to.
    pub(crate) async fn close(mut self) {
        let filters: Vec<&str> = self.filters.iter().map(String::as_str).collect();
        if !filters.is_empty() && self.client.unsubscribe(&filters).is_ok() {
            let _ = self.until(|event| matches!(event, Event::Unsubscribed { .. }).then_some(())).await;
        }
        self.client.disconnect(ReasonCode::Success);
        let _ = timeout(Duration::from_secs(2), self.link.close(&mut self.client)).await;
    }

    async fn until<T>(&mut self, mut found: impl FnMut(Event) -> Option<T>) -> Result<T, BenchError> {
        let search = async {
            loop {
                self.step().await?;
                while let Some(event) = self.event()? {
                    if let Some(value) = found(event) {
                        return Ok(value);
                    }
                }
            }
        };
        match timeout(ANSWER_TIMEOUT, search).await {
            Ok(outcome) => outcome,
            Err(_) => Err(BenchError::Target("the server does not answer".to_owned())),
        }
    }
}

pub(crate) fn target(error: &std::io::Error) -> BenchError {
    BenchError::Target(format!("the target cannot be used: {error}"))
}
