//! A node over stores in memory, and clients that speak MQTT to it over TCP.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::BytesMut;
use iot_core::{
    access::{
        Access, Authentication, BoxAuthenticator, Credentials, Grants, Object, Principal, Proof, Refusal, Relation,
        Standing, Subject, Tuple,
    },
    clock::{Clock, ManualClock},
    device::{Device, Stage},
    home::MembershipBell,
    id::{DeviceId, NodeId, OwnershipEpoch, TenantId},
    message::{Message, QoS},
    quota::{self, PutQuota, Quota, Scope, StoredQuota},
    session::{Position, SessionEpoch, SessionId},
    store::{
        Batch, Closing, Committed, Due, Fenced, Key, MetaStore, MetaStoreExt, Offered, Opened, Opening,
        Publication as Stored, Queued, Revision, SessionStore, Settlement, StoreError, StoredSession,
        StoredSubscription, Stores, Write,
    },
    time::{Monotonic, Timestamp},
};
use iot_store::{StoreLimits, memory::Memory};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
};
use tower::util::BoxCloneSyncService;

use crate::{
    bus::InProcess,
    mqtt::{
        ReasonCode,
        client::{Client as Engine, ClientOptions, Connected, Event, Publication, Received},
        packet::Subscription,
    },
    node::{Authenticated, Builder, Hinting, Node, ServeError},
    transport::{Bound, Listener, listen},
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

pub(super) fn tenant() -> TenantId {
    TenantId::parse("t").unwrap()
}

pub(super) struct Cloud {
    pub(super) node: Node,
    pub(super) clock: Arc<ManualClock>,
    pub(super) sessions: Arc<Failing>,
    book: Arc<Book>,
    pub(super) address: SocketAddr,
    pub(super) websocket: SocketAddr,
    stop: oneshot::Sender<()>,
    served: JoinHandle<Result<(), ServeError>>,
}

impl Cloud {
    pub(super) async fn start() -> Self {
        Self::over(Arc::new(Memory::new(StoreLimits::default()))).await
    }

    pub(super) async fn over(memory: Arc<Memory>) -> Self {
        Self::with(memory, |builder| builder).await
    }

    pub(super) async fn with(
        memory: Arc<Memory>,
        build: impl FnOnce(Builder<Authenticated>) -> Builder<Authenticated>,
    ) -> Self {
        Self::behind(memory.clone(), memory, Quota::default(), build).await
    }

    /// With a quota of the listener, and changes that are seen at once.
    pub(super) async fn limited(memory: Arc<Memory>, quota: Quota) -> Self {
        let bus = Arc::new(InProcess::default());
        let meta = Arc::new(Hinting::new(memory.clone(), bus.clone()));
        Self::behind(memory, meta, quota, |builder| builder.bus(bus)).await
    }

    async fn behind(
        memory: Arc<Memory>,
        meta: Arc<dyn MetaStore>,
        quota: Quota,
        build: impl FnOnce(Builder<Authenticated>) -> Builder<Authenticated>,
    ) -> Self {
        let clock = Arc::new(ManualClock::at(Timestamp::EPOCH.plus(Duration::from_secs(1_000_000))));
        let sessions = Arc::new(Failing {
            inner: memory.clone(),
            failures: AtomicU32::new(0),
            down: AtomicBool::new(false),
            offers: AtomicU32::new(0),
            retained: AtomicUsize::new(0),
        });
        let stores = Stores { meta, telemetry: memory, sessions: sessions.clone() };
        let book = Arc::new(Book::default());
        for id in ["lamp", "door"] {
            // There already, if it is a restart.
            let _first = stores.meta.commit(Batch::default().create(&device(id))).await.unwrap();
        }
        let limits = iot_core::limits::Limits { subscriptions_max: 8, ..Default::default() };
        let node = Node::builder(NodeId::parse("n").unwrap(), stores, clock.clone())
            .limits(limits)
            .authenticate_with(authenticator(), book.clone());
        let node = build(node).build();
        let listener = Listener { anonymous: true, quota, ..Listener::new("mqtt", ([127, 0, 0, 1], 0).into()) };
        let (plain, narrow) = (listen(listener.address).unwrap(), listen(listener.address).unwrap());
        // Inherited by what it accepts: a frame of some size does not go out at once.
        socket2::SockRef::from(&narrow).set_send_buffer_size(4_096).unwrap();
        let websocket = Listener { name: "ws", websocket: true, ..listener.clone() };
        let bound = Bound::adopt(vec![(listener, plain), (websocket, narrow)]).unwrap();
        let (address, websocket) = (bound.addresses()[0].1, bound.addresses()[1].1);
        let (stop, stopped) = oneshot::channel();
        let serving = node.clone();
        let served = tokio::spawn(async move { serving.serve(bound, async { drop(stopped.await) }).await });
        Self { node, clock, sessions, book, address, websocket, stop, served }
    }

    pub(super) async fn stop(self) {
        self.stop.send(()).unwrap();
        soon("the node to end", self.served).await.unwrap().unwrap();
    }

    /// Ends without a word: what it has in memory is lost, and nothing more is stored.
    pub(super) async fn crash(self) {
        self.served.abort();
        let aborted = self.served.await;
        assert!(aborted.is_err_and(|error| error.is_cancelled()));
    }

    /// Revokes the credential of `who`, as by a commit.
    pub(super) async fn revoke(&self, who: &str) {
        self.book.revoked.lock().unwrap().insert(who.to_owned());
        let changed = self.node.stores().meta.commit(Batch::default().create(&device(who))).await;
        assert!(matches!(changed, Ok(Committed::Done(_))));
    }

    /// Waits until the node has seen every change of records.
    pub(super) async fn settled(&self) {
        let revision = self.node.stores().meta.revision().await.unwrap();
        until("the changes to be seen", || self.node.live_hub().seen() >= revision).await;
    }

    /// Changes a device's record.
    pub(super) async fn change(&self, id: &str, change: impl FnOnce(&mut Device)) {
        let meta = &self.node.stores().meta;
        let stored = meta.find::<Device>(&Device::key_of(&tenant(), &id.parse().unwrap())).await.unwrap().unwrap();
        let mut device = stored.document.clone();
        change(&mut device);
        assert!(meta.commit_or_conflict(Batch::default().replace(&stored, &device)).await.unwrap());
    }

    /// Makes `who` something to the home `h`, until `expires`, or nothing, and rings the bell.
    pub(super) async fn grant(&self, who: &str, relation: Option<Relation>, expires: Option<Timestamp>) {
        let object = Object::Home(tenant(), "h".parse().unwrap());
        let tuples = relation.map(|relation| Tuple { object, relation, expires });
        self.book.people.lock().unwrap().insert(who.to_owned(), tuples.into_iter().collect());
        let bell = MembershipBell { tenant: tenant(), account: who.parse().unwrap(), at: self.clock.timestamp() };
        let batch = Batch { writes: vec![Write::put(&bell)], ..Batch::default() };
        assert!(self.node.stores().meta.commit_or_conflict(batch).await.unwrap());
    }

    /// Sets or removes a quota, and waits until the node has seen that.
    pub(super) async fn limit(&self, scope: &str, quota: Option<Quota>) {
        let (meta, changed) = (&*self.node.stores().meta, self.clock.timestamp());
        let scope: Scope = scope.parse().unwrap();
        match quota {
            Some(quota) => {
                let stored = StoredQuota { tenant: tenant(), scope, quota, changed };
                assert_eq!(quota::put(meta, "test", &stored).await.unwrap(), PutQuota::Done);
            }
            None => assert!(quota::remove(meta, "test", &tenant(), &scope, changed).await.unwrap()),
        }
        self.settled().await;
    }

    pub(super) async fn sweep(&self) {
        crate::node::sweep::sweep(&self.node.inner).await.unwrap();
    }

    /// A client with a token, or none for an empty one, that is connected.
    pub(super) async fn client(&self, token: &str, client_id: &str) -> Client {
        let mut client = self.offline(options(token, client_id));
        client.connect().await;
        client
    }

    pub(super) fn offline(&self, options: ClientOptions) -> Client {
        Client {
            engine: Engine::new(options).unwrap(),
            address: self.address,
            stream: None,
            input: BytesMut::new(),
            messages: Vec::new(),
        }
    }
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

fn device(id: &str) -> Device {
    Device {
        tenant: tenant(),
        product: "p".parse().unwrap(),
        id: id.parse().unwrap(),
        p_code: id.to_uppercase().parse().unwrap(),
        stage: Stage::Activated,
        epoch: OwnershipEpoch(0),
        home: None,
        keys: vec![],
        created: Timestamp::EPOCH,
    }
}

// === Who is who: `dev-<id>` is a device, `dev-<id>.<key>` with another key, `view-<name>` only reads, `app-<name>` may do all, `acc-<name>` is a person, nothing is anonymous ===

pub(super) fn authenticator() -> BoxAuthenticator {
    let answer = |credentials: Credentials| async move {
        let subject = match &credentials.proof {
            Proof::Token(token) => match token.expose().split_once('-') {
                Some(("dev", id)) => {
                    let (id, key) = id.split_once('.').unwrap_or((id, "first"));
                    Subject::Device { device: id.parse()?, fingerprint: key.into() }
                }
                Some(("acc", name)) => Subject::Account { account: name.parse()?, login: "login".parse()? },
                Some(("app" | "view", _)) => Subject::Token(token.expose().parse()?),
                _ => return Ok(Authentication::Refused(Refusal::Unknown)),
            },
            _ => Subject::Anonymous,
        };
        let principal = Principal { tenant: tenant(), subject };
        let grants = grants(&principal);
        Ok(Authentication::Accepted(principal, grants))
    };
    BoxCloneSyncService::new(tower::service_fn(answer))
}

fn grants(principal: &Principal) -> Grants {
    match &principal.subject {
        Subject::Device { device, .. } => {
            Grants::of(Object::Device(tenant(), device.clone(), OwnershipEpoch(0)), Relation::Itself)
        }
        Subject::Token(token) if token.as_str().starts_with("app") => {
            Grants::of(Object::Tenant(tenant()), Relation::Admin)
        }
        Subject::Token(_) => Grants::of(Object::Tenant(tenant()), Relation::Viewer),
        Subject::Account { .. } => Grants { revision: Revision::default(), tuples: [].into() },
        _ => Grants::of(Object::Topics(tenant()), Relation::User),
    }
}

fn name(principal: &Principal) -> String {
    match &principal.subject {
        Subject::Device { device, .. } => device.to_string(),
        Subject::Token(token) => token.to_string(),
        Subject::Account { account, .. } => account.to_string(),
        _ => "anonymous".to_owned(),
    }
}

#[derive(Debug, Default)]
pub(super) struct Book {
    revoked: Mutex<HashSet<String>>,
    people: Mutex<HashMap<String, Vec<Tuple>>>,
}

#[async_trait]
impl Access for Book {
    async fn standing(&self, principal: &Principal) -> Result<Standing, StoreError> {
        let revoked = self.revoked.lock().unwrap().contains(&name(principal));
        let mut grants = grants(principal);
        if let Subject::Account { account, .. } = &principal.subject {
            grants.tuples = self.people.lock().unwrap().get(account.as_str()).cloned().unwrap_or_default().into();
        }
        Ok(if revoked { Standing::Revoked } else { Standing::Current(grants) })
    }

    fn depends_on(&self, principal: &Principal) -> Vec<Key> {
        let key = match &principal.subject {
            Subject::Device { fingerprint, .. } => Some(Key::new("key", fingerprint.clone())),
            Subject::Account { account, .. } => Some(MembershipBell::key_of(&tenant(), account)),
            _ => None,
        };
        let own = Device::key_of(&tenant(), &DeviceId::parse(&name(principal)).unwrap());
        [own].into_iter().chain(key).collect()
    }
}

/// A session store of which operations fail while it is told so.
#[derive(Debug)]
pub(super) struct Failing {
    inner: Arc<Memory>,
    /// So many writes fail from now on.
    pub(super) failures: AtomicU32,
    /// No write works.
    pub(super) down: AtomicBool,
    /// How often messages were to be stored.
    pub(super) offers: AtomicU32,
    /// How many retained messages were read.
    pub(super) retained: AtomicUsize,
}

impl Failing {
    fn check(&self) -> Result<(), StoreError> {
        let less = |n: u32| n.checked_sub(1);
        let fails = self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok();
        if fails || self.down.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable { backend: "failing", source: "told to".into() });
        }
        Ok(())
    }
}

#[async_trait]
impl SessionStore for Failing {
    async fn open(&self, opening: Opening) -> Result<Opened, StoreError> {
        self.check()?;
        self.inner.open(opening).await
    }
    async fn close(&self, closing: Closing) -> Result<Fenced, StoreError> {
        self.check()?;
        self.inner.close(closing).await
    }
    async fn subscribe(
        &self,
        session: &SessionId,
        epoch: SessionEpoch,
        subscriptions: &[StoredSubscription],
    ) -> Result<Fenced, StoreError> {
        self.check()?;
        self.inner.subscribe(session, epoch, subscriptions).await
    }
    async fn unsubscribe(
        &self,
        session: &SessionId,
        epoch: SessionEpoch,
        filters: &[String],
    ) -> Result<Fenced, StoreError> {
        self.check()?;
        self.inner.unsubscribe(session, epoch, filters).await
    }
    async fn offer(&self, publications: &[Stored]) -> Result<Vec<Offered>, StoreError> {
        self.offers.fetch_add(1, Ordering::SeqCst);
        self.check()?;
        self.inner.offer(publications).await
    }
    async fn peek(
        &self,
        session: &SessionId,
        after: Option<Position>,
        limit: u32,
        bytes: usize,
    ) -> Result<Vec<Queued>, StoreError> {
        self.inner.peek(session, after, limit, bytes).await
    }
    async fn settle(&self, settlements: &[Settlement]) -> Result<(), StoreError> {
        self.check()?;
        self.inner.settle(settlements).await
    }
    async fn retained(
        &self,
        tenant: &TenantId,
        filter: &str,
        after: Option<&str>,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<Message>, StoreError> {
        let page = self.inner.retained(tenant, filter, after, limit, now).await?;
        self.retained.fetch_add(page.len(), Ordering::SeqCst);
        Ok(page)
    }
    async fn sessions(&self, after: Option<&SessionId>, limit: u32) -> Result<Vec<StoredSession>, StoreError> {
        self.inner.sessions(after, limit).await
    }
    async fn due(&self, now: Timestamp, limit: u32) -> Result<Vec<Due>, StoreError> {
        self.inner.due(now, limit).await
    }
    async fn discharge(&self, due: &Due) -> Result<Fenced, StoreError> {
        self.inner.discharge(due).await
    }
}

// === A client ===

pub(super) struct Client {
    pub(super) engine: Engine,
    address: SocketAddr,
    stream: Option<TcpStream>,
    input: BytesMut,
    messages: Vec<Received>,
}

impl Client {
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
