//! Our client engine over a blocking socket, one call at a time.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use iot_conn::mqtt::{
    QoS, ReasonCode, Subscription,
    client::{Cause, Client, ClientOptions, Connected, Event, Publication, Received, Refused, Token},
};
use iot_core::{secret::Secret, time::Monotonic};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, StreamOwned, pki_types::ServerName};

use crate::wait::SOON;

/// How long one read waits.
const READ: Duration = Duration::from_millis(10);

/// The way to the server.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_enums, reason = "the harness knows two")]
pub enum Way {
    /// TCP.
    Plain(SocketAddr),
    /// TLS, with the client's configuration; the name is the address.
    Tls(SocketAddr, Arc<ClientConfig>),
}

enum Socket {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Socket {
    fn open(way: &Way) -> io::Result<Self> {
        let (Way::Plain(address) | Way::Tls(address, _)) = way;
        let tcp = TcpStream::connect(address)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(SOON))?;
        let socket = match way {
            Way::Plain(_) => Self::Plain(tcp),
            Way::Tls(_, config) => {
                let name = ServerName::IpAddress(address.ip().into());
                let connection = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
                let mut tls = StreamOwned::new(connection, tcp);
                while tls.conn.is_handshaking() {
                    tls.conn.complete_io(&mut tls.sock)?;
                }
                Self::Tls(Box::new(tls))
            }
        };
        socket.tcp().set_read_timeout(Some(READ))?;
        Ok(socket)
    }

    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => &tls.sock,
        }
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.read(into),
            Self::Tls(tls) => tls.read(into),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.write_all(bytes),
            Self::Tls(tls) => tls.write_all(bytes).and_then(|()| tls.flush()),
        }
    }
}

/// What became of an attempt to connect that did not succeed.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "there is no other way to fail")]
pub enum NotConnected {
    /// No connection, or no TLS: before MQTT.
    Transport(io::Error),
    /// CONNACK said no.
    Refused(Refused),
    /// The connection ended before a CONNACK.
    Ended(Cause),
}

/// An MQTT client that is moved by its caller.
pub struct Mqtt {
    client: Client,
    way: Way,
    socket: Option<Socket>,
    input: BytesMut,
    begun: Instant,
    events: VecDeque<Event>,
}

impl std::fmt::Debug for Mqtt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mqtt").field("events", &self.events).finish_non_exhaustive()
    }
}

/// Options of an application: a token as password.
pub fn with_token(client_id: &str, token: &str) -> ClientOptions {
    let mut options = ClientOptions::new(client_id);
    options.username = Some("token".to_owned());
    options.password = Some(Secret::new(token));
    options
}

impl Mqtt {
    /// A client that is not connected.
    pub fn new(way: Way, options: ClientOptions) -> Self {
        let client = Client::new(options).expect("the options of a journey are valid");
        let begun = Instant::now();
        Self { client, way, socket: None, input: BytesMut::new(), begun, events: VecDeque::new() }
    }

    /// A client that is connected.
    #[track_caller]
    pub fn online(way: Way, options: ClientOptions) -> Self {
        let mut mqtt = Self::new(way, options);
        mqtt.connect().expect("the server takes the connection");
        mqtt
    }

    /// Opens a transport, and waits for the CONNACK.
    pub fn connect(&mut self) -> Result<Connected, NotConnected> {
        self.socket = None;
        self.input.clear();
        let socket = Socket::open(&self.way).map_err(NotConnected::Transport)?;
        self.client.handle_connected(self.now());
        self.socket = Some(socket);
        self.wait("the answer to CONNECT", SOON, |event| match event {
            Event::Connected(connected) => Some(Ok(connected.clone())),
            Event::Refused(refused) => Some(Err(NotConnected::Refused(refused.clone()))),
            Event::Disconnected(cause) => Some(Err(NotConnected::Ended(cause.clone()))),
            _ => None,
        })
    }

    /// How the TLS of this connection came about, and its version.
    pub fn handshake(&self) -> Option<(HandshakeKind, ProtocolVersion)> {
        match &self.socket {
            Some(Socket::Tls(tls)) => tls.conn.handshake_kind().zip(tls.conn.protocol_version()),
            _ => None,
        }
    }

    /// The engine, to send with; what it has to say is written by the next wait.
    pub fn engine(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Publishes, and waits for the answer.
    #[track_caller]
    pub fn publish(&mut self, publication: Publication) -> ReasonCode {
        let token = self.client.publish(publication).expect("the queue has room");
        self.published(token)
    }

    /// Waits for the answer to a message.
    #[track_caller]
    pub fn published(&mut self, token: Token) -> ReasonCode {
        self.wait("the answer to a message", SOON, |event| match event {
            Event::Published { token: answered, reason } if *answered == token => Some(*reason),
            _ => None,
        })
    }

    /// Subscribes, and waits for the answer.
    #[track_caller]
    pub fn subscribe(&mut self, filter: &str, qos: QoS) -> ReasonCode {
        let token = self.client.subscribe(&[Subscription::new(filter, qos)], None).expect("it can be asked for");
        self.wait("the answer to a SUBSCRIBE", SOON, |event| match event {
            Event::Subscribed { token: answered, reasons } if *answered == token => reasons.first().copied(),
            _ => None,
        })
    }

    /// Waits for a message on a topic.
    #[track_caller]
    pub fn message(&mut self, topic: &str, within: Duration) -> Received {
        self.wait(&format!("a message on {topic}"), within, |event| match event {
            Event::Message(received) if &*received.topic == topic => Some(received.clone()),
            _ => None,
        })
    }

    /// Waits for the end of the connection.
    #[track_caller]
    pub fn disconnected(&mut self, within: Duration) -> Cause {
        self.wait("the end of the connection", within, |event| match event {
            Event::Disconnected(cause) => Some(cause.clone()),
            _ => None,
        })
    }

    /// Ends the connection in order.
    pub fn disconnect(&mut self) {
        self.client.disconnect(ReasonCode::Success);
        // The connection may have ended from the other side.
        let _gone = self.write();
        self.socket = None;
        let _told = self.drain();
    }

    /// Ends the connection as a power cut does.
    pub fn cut(&mut self) {
        self.socket = None;
        self.client.handle_disconnected(self.now());
        let _told = self.drain();
    }

    /// Waits for an event from which `find` makes something; others stay for later.
    #[track_caller]
    pub fn wait<T>(&mut self, what: &str, within: Duration, mut find: impl FnMut(&Event) -> Option<T>) -> T {
        let until = Instant::now() + within;
        let mut seen = 0;
        loop {
            for at in seen..self.events.len() {
                if let Some(found) = find(&self.events[at]) {
                    self.events.remove(at);
                    return found;
                }
            }
            seen = self.events.len();
            assert!(Instant::now() < until, "waited {within:?} in vain for {what}; there is {:?}", self.events);
            self.step();
        }
    }

    /// Moves bytes once, for a few milliseconds at most, and answers everything that has happened and was not waited for.
    pub fn poll(&mut self) -> Vec<Event> {
        self.step();
        self.drain()
    }

    fn drain(&mut self) -> Vec<Event> {
        self.take_events();
        self.events.drain(..).collect()
    }

    fn step(&mut self) {
        if self.socket.is_some() && self.exchange().is_err() {
            self.socket = None;
            self.client.handle_disconnected(self.now());
        }
        if self.client.poll_timeout().is_some_and(|at| at <= self.now()) {
            self.client.handle_timeout(self.now());
        }
        self.take_events();
    }

    /// All but what services of the cloud say unasked: these clients have none of them.
    fn take_events(&mut self) {
        let is_greeting =
            |event: &Event| matches!(event, Event::Message(message) if message.topic.starts_with("down/service/"));
        self.events.extend(std::iter::from_fn(|| self.client.poll_event()).filter(|event| !is_greeting(event)));
    }

    fn exchange(&mut self) -> io::Result<()> {
        // What could not be written does not keep what was sent before it from being read.
        let written = self.write();
        let now = self.now();
        let socket = self.socket.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let mut chunk = [0; 16 * 1024];
        match socket.read(&mut chunk) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => self.input.extend_from_slice(&chunk[..read]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
        if !self.input.is_empty() {
            self.client.handle_input(now, &mut self.input);
        }
        written.and_then(|()| self.write())
    }

    fn write(&mut self) -> io::Result<()> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        loop {
            let output = self.client.output();
            if output.is_empty() {
                return Ok(());
            }
            let bytes = output.split();
            socket.write_all(&bytes)?;
        }
    }

    fn now(&self) -> Monotonic {
        Monotonic::from_duration(self.begun.elapsed())
    }
}
