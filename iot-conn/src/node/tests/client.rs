//! A client that speaks MQTT over TCP, and how long a test waits for it.

use std::{net::SocketAddr, time::Duration};

use bytes::BytesMut;
use iot_core::{message::QoS, time::Monotonic};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::mqtt::{
    ReasonCode,
    client::{Client as Engine, ClientOptions, Connected, Event, Publication, Received},
    packet::Subscription,
};

/// No answer takes longer.
const SOON: Duration = Duration::from_secs(20);

/// Waits for something that is to happen soon.
pub(super) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.unwrap_or_else(|_| panic!("in vain: {what}"))
}

/// Waits until something is so that nothing announces.
pub(super) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    soon(what, wait).await;
}

/// A client that is not resumed, with `token` for a password.
pub(super) fn options(token: &str, client_id: &str) -> ClientOptions {
    let password = (!token.is_empty()).then(|| iot_core::secret::Secret::new(token));
    ClientOptions { session_expiry_s: 0, clean_start: true, password, ..ClientOptions::new(client_id) }
}

/// One that has a session of an hour.
pub(super) fn lasting(token: &str, client_id: &str) -> ClientOptions {
    ClientOptions { session_expiry_s: 3_600, clean_start: false, ..options(token, client_id) }
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) engine: Engine,
    address: SocketAddr,
    stream: Option<TcpStream>,
    input: BytesMut,
    messages: Vec<Received>,
}

impl Client {
    /// One of the server that listens there, which it has not connected to.
    pub(super) fn new(address: SocketAddr, options: ClientOptions) -> Self {
        let engine = Engine::new(options).unwrap();
        Self { engine, address, stream: None, input: BytesMut::new(), messages: Vec::new() }
    }

    /// Connects, again or for the first time.
    pub(super) async fn connect(&mut self) -> Connected {
        match self.try_connect().await {
            Event::Connected(connected) => connected,
            other => panic!("not connected: {other:?}"),
        }
    }

    pub(super) async fn try_connect(&mut self) -> Event {
        self.cut();
        self.stream = Some(TcpStream::connect(self.address).await.unwrap());
        self.engine.handle_connected(Monotonic::ZERO);
        self.event().await
    }

    /// Connects, as far as the server lets it: `None` if it closes without a word.
    pub(super) async fn connects_or_ends(&mut self) -> Option<Event> {
        self.begin().await;
        loop {
            let open = self.read().await;
            match self.engine.poll_event() {
                Some(event) => return Some(event),
                None if open => {}
                None => return None,
            }
        }
    }

    /// Sends its CONNECT and waits for nothing.
    pub(super) async fn begin(&mut self) {
        self.cut();
        self.stream = Some(TcpStream::connect(self.address).await.unwrap());
        self.engine.handle_connected(Monotonic::ZERO);
        self.write().await;
    }

    /// The transport breaks.
    pub(super) fn cut(&mut self) {
        if self.stream.take().is_some() {
            self.input.clear();
            self.engine.handle_disconnected(Monotonic::ZERO);
            while self.engine.poll_event().is_some() {}
        }
    }

    /// Writes what there is to write.
    pub(super) async fn write(&mut self) {
        let output = self.engine.output().split();
        if let Some(stream) = &mut self.stream {
            // A server that has closed takes no more, and says why in what is read next.
            let _: std::io::Result<()> = soon("the server to take bytes", stream.write_all(&output)).await;
        }
    }

    /// Reads once; `false` at the end.
    pub(super) async fn read(&mut self) -> bool {
        let stream = self.stream.as_mut().unwrap();
        let read = soon("bytes of the server", stream.read_buf(&mut self.input)).await.unwrap_or(0);
        self.engine.handle_input(Monotonic::ZERO, &mut self.input);
        read > 0
    }

    /// The next event, messages included.
    pub(super) async fn event(&mut self) -> Event {
        loop {
            self.write().await;
            if let Some(event) = self.engine.poll_event() {
                return event;
            }
            let open = self.read().await;
            match self.engine.poll_event() {
                Some(event) => {
                    self.write().await;
                    return event;
                }
                None => assert!(open, "the server has closed without a word"),
            }
        }
    }

    /// The next event that is not a message; messages are kept.
    pub(super) async fn answer(&mut self) -> Event {
        loop {
            match self.event().await {
                Event::Message(message) => self.messages.push(message),
                other => return other,
            }
        }
    }

    pub(super) async fn subscribe(&mut self, filter: &str, qos: QoS) {
        let codes = self.subscribe_with(&[Subscription::new(filter, qos)], None).await;
        assert!(!codes[0].is_error(), "{filter}: {codes:?}");
    }

    pub(super) async fn subscribe_with(
        &mut self,
        subscriptions: &[Subscription<'_>],
        identifier: Option<u32>,
    ) -> Vec<ReasonCode> {
        self.engine.subscribe(subscriptions, identifier).unwrap();
        match self.answer().await {
            Event::Subscribed { reasons, .. } => reasons,
            other => panic!("not subscribed: {other:?}"),
        }
    }

    /// Publishes and waits for the acknowledgement, if there is one.
    pub(super) async fn publish(&mut self, topic: &str, payload: &str, qos: QoS) -> ReasonCode {
        self.send(Publication::new(topic, payload.to_owned(), qos)).await
    }

    pub(super) async fn retain(&mut self, topic: &str, payload: &str) -> ReasonCode {
        let publication = Publication { retain: true, ..Publication::new(topic, payload.to_owned(), QoS::AtLeastOnce) };
        self.send(publication).await
    }

    pub(super) async fn send(&mut self, publication: Publication) -> ReasonCode {
        let qos = publication.qos;
        self.engine.publish(publication).unwrap();
        if qos == QoS::AtMostOnce {
            self.write().await;
            return ReasonCode::Success;
        }
        match self.answer().await {
            Event::Published { reason, .. } => reason,
            other => panic!("not published: {other:?}"),
        }
    }

    pub(super) async fn message(&mut self) -> Received {
        if !self.messages.is_empty() {
            return self.messages.remove(0);
        }
        match self.event().await {
            Event::Message(message) => {
                self.write().await;
                message
            }
            other => panic!("not a message: {other:?}"),
        }
    }

    /// The payload of the next message.
    pub(super) async fn text(&mut self) -> String {
        String::from_utf8(self.message().await.payload.to_vec()).unwrap()
    }

    pub(super) async fn texts(&mut self, count: usize) -> Vec<String> {
        let mut texts = Vec::new();
        for _ in 0..count {
            texts.push(self.text().await);
        }
        texts
    }

    /// All that came until a message to itself: `topic` must be subscribed.
    pub(super) async fn texts_until_own(&mut self, topic: &str) -> Vec<String> {
        self.publish(topic, "own", QoS::AtLeastOnce).await;
        let mut texts = Vec::new();
        loop {
            match self.text().await {
                text if text == "own" => return texts,
                text => texts.push(text),
            }
        }
    }

    /// Ends in order.
    pub(super) async fn leave(&mut self, reason: ReasonCode) {
        self.engine.disconnect(reason);
        self.write().await;
        self.cut();
    }

    /// Why the server has ended it.
    pub(super) async fn ended(&mut self) -> ReasonCode {
        match self.answer().await {
            Event::Disconnected(crate::mqtt::client::Cause::Server { reason, .. }) => reason,
            other => panic!("not disconnected: {other:?}"),
        }
    }
}
