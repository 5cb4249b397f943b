//! The node: one running server's sessions, routing, ingest and commands, built from values that the caller owns.

mod commander;
mod consumers;
mod counters;
mod data;
mod delivery;
mod directory;
mod drain;
mod effects;
mod endpoint;
mod gate;
mod history;
mod identity;
mod ingest;
pub(crate) mod live;
mod mailbox;
mod notify;
mod offers;
mod opening;
mod places;
mod plane;
mod presence;
mod quota;
mod services;
mod session;
mod storm;
mod subscriptions;
mod sweep;
mod tail;
#[cfg(test)]
mod tests;
mod timers;
mod uplink;
mod watch;
mod wheel;
mod wire;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, atomic::AtomicU64},
    time::Duration,
};

use iot_core::{
    access::{Access, BoxAuthenticator},
    bus::Bus,
    clock::Clock,
    device::Device,
    id::{ConsumerId, DeviceId, NodeId, ServiceName, TenantId},
    limits::Limits,
    logic::BoxLogic,
    push::Push,
    quota::Scope,
    service::{BoxDeviceService, Downlink},
    session::SessionEpoch,
    store::{Closing, StoreError, Stores},
};
use tokio::sync::watch as signal;

pub use commander::{Commanded, Commander};
pub use data::{DeviceRecords, Epochs, Erased};
pub use drain::Drain;
pub use effects::Alarm;
use endpoint::{Endpoint, Registry};
pub use ingest::{Append, BoxIngest, INGEST_BATCH_MAX, IngestBatch, Ingested};
use ingest::{Arrival, INGEST_PRESSED};
pub use live::{
    LIVE_DEVICES_MAX, LIVE_STREAMS_MAX, LiveChange, LiveError, LiveEvent, LiveFilter, LiveHub, LiveKind, LiveStream,
};
use offers::{OFFERS_PRESSED, Offer, Step};
use plane::Plane;
pub use presence::{Presence, PresenceState};
pub use quota::QuotaUse;
use tail::Tail;
use tower::util::BoxCloneSyncService;
pub use watch::Hinting;

use crate::{
    bus::InProcess,
    command::CommandLimits,
    mqtt::server::ConnectionLimits,
    router::Router,
    transport::{Acceptor, AcceptorLimits, Bound},
};

/// How long a draining node tries to store what was taken. What is left was not acknowledged.
const STORED_MAX: Duration = Duration::from_secs(10);

/// A running server's part for devices and applications. Cheap to clone.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) stores: Stores,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) limits: Limits,
    pub(crate) connection_limits: Arc<ConnectionLimits>,
    pub(crate) counters: counters::Counters,
    pub(crate) timers: timers::Timers,
    pub(crate) authenticator: BoxAuthenticator,
    pub(crate) access: Arc<dyn Access>,
    pub(crate) router: Router<Arc<Endpoint>>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) directory: Arc<directory::Directory>,
    pub(crate) quotas: quota::Quotas,
    pub(crate) presences: presence::Presences,
    pub(crate) history: history::History,
    pub(crate) commander: Commander,
    pub(crate) arrivals: Arc<Plane<Arrival>>,
    pub(crate) offers: Arc<Plane<Offer>>,
    pub(crate) steps: Arc<Plane<Step>>,
    pub(crate) looked_at_us: AtomicU64,
    pub(crate) tail: Arc<Tail>,
    pub(crate) live: LiveHub,
    pub(crate) notifier: Option<notify::Notifier>,
    /// Something was announced in the store, perhaps.
    pub(crate) announced: tokio::sync::Notify,
    draining: signal::Sender<bool>,
    // Orders retained messages and subscriptions: a subscriber gets each either live or from the store. Never across an
    // await.
    pub(crate) retaining: std::sync::RwLock<()>,
    // What the store could not be told: closed sessions, until it can be. Bounded by the sessions that connections leave while the
    // store is away, in which none is opened. Small sections, never across an await.
    pub(crate) unclosed: Mutex<Vec<Closing>>,
    epochs: AtomicU64,
    id: NodeId,
    acceptor: Acceptor,
    connections_max: usize,
    // Small sections, never across an await.
    admittance: Mutex<storm::Admittance>,
    take_overs: Mutex<storm::TakeOvers>,
    drain: Drain,
    ingest: BoxIngest,
    consumers: Vec<(ConsumerId, BoxLogic)>,
    pub(crate) services: services::Services,
}

impl Inner {
    /// An epoch for a session that is not stored: above all earlier ones of this run.
    pub(crate) fn next_epoch(&self) -> SessionEpoch {
        SessionEpoch(self.epochs.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Resolves when the node drains.
    pub(crate) async fn stopping(&self) {
        // The sender lives as long as the node.
        let mut draining = self.draining.subscribe();
        let _drains = draining.wait_for(|draining| *draining).await;
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("id", &self.inner.id).finish_non_exhaustive()
    }
}

/// A node that nobody can sign in to yet: [`authenticate_with`](Builder::authenticate_with) is what makes it buildable.
pub struct Unauthenticated(());
/// A node that knows whom to let in.
pub struct Authenticated {
    authenticator: BoxAuthenticator,
    access: Arc<dyn Access>,
}

/// Builds a [`Node`].
pub struct Builder<A> {
    id: NodeId,
    stores: Stores,
    clock: Arc<dyn Clock>,
    bus: Arc<dyn Bus>,
    limits: Limits,
    command_limits: CommandLimits,
    acceptor_limits: AcceptorLimits,
    ingest: Option<BoxIngest>,
    consumers: Vec<(ConsumerId, BoxLogic)>,
    services: HashMap<ServiceName, BoxDeviceService>,
    registry: Arc<Registry>,
    live: LiveHub,
    push: Option<Arc<dyn Push>>,
    drain: Drain,
    auth: A,
}

impl<A> fmt::Debug for Builder<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Node {
    /// Begins a node. `id` names it over its restarts: it owns the ingest log of that name.
    pub fn builder(id: NodeId, stores: Stores, clock: Arc<dyn Clock>) -> Builder<Unauthenticated> {
        Builder {
            id,
            stores,
            clock,
            bus: Arc::new(InProcess::default()),
            limits: Limits::default(),
            command_limits: CommandLimits::default(),
            acceptor_limits: AcceptorLimits::default(),
            ingest: None,
            consumers: Vec::new(),
            services: HashMap::new(),
            registry: Arc::default(),
            live: LiveHub::default(),
            push: None,
            drain: Drain::default(),
            auth: Unauthenticated(()),
        }
    }

    /// Sends commands.
    pub fn commander(&self) -> Commander {
        self.inner.commander.clone()
    }

    /// The stores that it was built with.
    pub fn stores(&self) -> &Stores {
        &self.inner.stores
    }

    /// Whether a device is connected; `None` if that is not known: it was not since the node started, nor when an earlier run of it
    /// ended without a word.
    pub fn presence(&self, tenant: &TenantId, device: &DeviceId) -> Option<Presence> {
        self.inner.presence(tenant, device)
    }

    /// How a device came and went in its present ownership epoch within 30 days, newest first, at most `limit`, and of a day at most
    /// 500. The last half second of other nodes may be missing.
    pub async fn connections(&self, device: &Device, limit: usize) -> Result<Vec<Presence>, StoreError> {
        self.inner.connections(device, limit).await
    }

    /// What a quota has limited on this node since it started, or since the quota was made.
    pub async fn quota_use(&self, tenant: &TenantId, scope: &Scope) -> Result<QuotaUse, StoreError> {
        self.inner.quota_use(tenant, scope).await
    }

    /// How many devices are connected.
    pub fn online_len(&self) -> usize {
        self.inner.online_len()
    }

    /// How many sessions there are, connected or not.
    pub fn sessions_len(&self) -> usize {
        self.inner.registry.len()
    }

    /// Whether the node sees changes in time; if not it refuses control, because it could miss a revocation.
    pub fn sees_changes(&self) -> bool {
        !self.inner.lags()
    }

    /// The time that the node uses.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.clock
    }

    /// Serves until `shutdown` resolves, then drains: no more connections, clients are told, everything that was taken is
    /// stored, checkpoints are saved. An error means that a part of the node ended and it is not whole any more.
    pub async fn serve(&self, bound: Bound, shutdown: impl Future<Output = ()> + Send) -> Result<(), ServeError> {
        let inner = &self.inner;
        let (stop, stopped) = signal::channel(false);
        let tail = inner.tail.clone();
        let seen = inner.stores.meta.revision().await?;
        sweep::restore(inner).await?;
        inner.commander.restore().await?;
        let ingest = ingest::run(inner.id.clone(), inner.arrivals.clone(), inner.ingest.clone(), tail.clone());
        let mut workers = Workers::default();
        workers.spawn("ingest", ingest);
        workers.spawn("offers", offers::run(inner.offers.clone(), inner.stores.sessions.clone()));
        workers.spawn("settlements", offers::settle(inner.steps.clone(), inner.stores.sessions.clone()));
        workers.spawn("commands", inner.commander.clone().run_finals());
        let mut background = Workers::default();
        background.spawn("changes", watch::run(inner.clone(), seen));
        let node = inner.clone();
        background.spawn("notifications", async move {
            match &node.notifier {
                Some(notifier) => notifier.run().await,
                None => std::future::pending().await,
            }
        });
        background.spawn("announcements", notify::relay_announcements(inner.clone()));
        background.spawn("sweep", sweep::run(inner.clone()));
        background.spawn("connections", history::run(inner.clone()));
        let node = inner.clone();
        background.spawn("timers", async move { node.timers.run(&*node.clock).await });
        background.spawn("deadlines", inner.commander.clone().run_timer());
        let mut readers = Workers::default();
        for (name, logic) in &inner.consumers {
            let node = inner.clone();
            let consumer = consumers::Consumer {
                node: inner.id.clone(),
                name: name.clone(),
                logic: logic.clone(),
                store: inner.stores.telemetry.clone(),
                tail: tail.clone(),
                carry_out: move |effects| effects::carry_out(node.clone(), effects),
                shutdown: stopped.clone(),
            };
            readers.spawn("consumer", consumer.run());
        }
        let mut listeners = Workers::default();
        for (listener, socket) in bound.listeners {
            inner.quotas.listen(listener.name, listener.quota);
            let node = inner.clone();
            let begin = move |stream, peer, permit| opening::begin(node.clone(), stream, peer, permit);
            let acceptor = inner.acceptor.clone();
            let run = acceptor.run(listener.clone(), socket, stopped.clone(), begin, opening::serve);
            listeners.spawn(listener.name, run);
        }
        let ended = tokio::select! {
            () = shutdown => None,
            name = workers.ended() => Some(name),
            name = background.ended() => Some(name),
            name = readers.ended() => Some(name),
            name = listeners.ended() => Some(name),
        };
        stop.send_replace(true);
        inner.draining.send_replace(true);
        listeners.join().await;
        self.drain().await;
        inner.arrivals.close();
        inner.offers.close();
        inner.steps.close();
        inner.commander.close();
        readers.join().await;
        if tokio::time::timeout(STORED_MAX, workers.join()).await.is_err() {
            tracing::error!("the stores took no more; what could not be stored was not acknowledged");
        }
        drop(background);
        if let Ok(Err(error)) = tokio::time::timeout(STORED_MAX, inner.write_history()).await {
            tracing::error!(error = &error as &dyn std::error::Error, "the last connections cannot be written");
        }
        ended.map_or(Ok(()), |part| Err(ServeError::PartEnded(part)))
    }
}

/// The node could not start, or is not whole any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// A store failed while the node started.
    #[error("the stores cannot be read")]
    Store(#[from] StoreError),
    /// A part that must run for as long as the node has ended.
    #[error("a part of the node has ended: {0}")]
    PartEnded(&'static str),
}

/// Tasks that are to run for as long as the node; aborted when dropped.
#[derive(Default)]
struct Workers {
    tasks: tokio::task::JoinSet<&'static str>,
}

impl Workers {
    fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            task.await;
            name
        });
    }

    /// The name of one that has ended; never, if there are none.
    async fn ended(&mut self) -> &'static str {
        match self.tasks.join_next().await {
            Some(Ok(name)) => name,
            Some(Err(error)) => {
                tracing::error!(%error, "a part of the node has panicked");
                "panicked"
            }
            None => std::future::pending().await,
        }
    }

    async fn join(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

impl<A> Builder<A> {
    /// Other limits than the defaults.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Other bounds of the listeners than the defaults.
    #[must_use]
    pub fn acceptor_limits(mut self, limits: AcceptorLimits) -> Self {
        self.acceptor_limits = limits;
        self
    }

    /// How clients are handed away when the node ends.
    #[must_use]
    pub fn drain(mut self, drain: Drain) -> Self {
        self.drain = drain;
        self
    }

    /// Other bounds of commands than the defaults.
    #[must_use]
    pub fn command_limits(mut self, limits: CommandLimits) -> Self {
        self.command_limits = limits;
        self
    }

    /// Another backplane than the one within the process.
    #[must_use]
    pub fn bus(mut self, bus: Arc<dyn Bus>) -> Self {
        self.bus = bus;
        self
    }

    /// Layers before the append, for checks on batches; the innermost service should be [`Append`].
    #[must_use]
    pub fn ingest(mut self, ingest: BoxIngest) -> Self {
        self.ingest = Some(ingest);
        self
    }

    /// Logic that reads what was appended, at least once, from its own checkpoint.
    #[must_use]
    pub fn consumer(mut self, name: ConsumerId, logic: BoxLogic) -> Self {
        self.consumers.push((name, logic));
        self
    }

    /// Who is told when alarms change, when devices come and go, and of what is announced in the store. An alarm's change counts
    /// as carried out once `push` has taken it; an [announcement](iot_core::push::Announcement) is as durable as the change that
    /// it was written with, and is dropped by a node that tells nobody; presence is told as well as can be: what finds the queue
    /// full or the node ending is lost.
    #[must_use]
    pub fn notify(mut self, push: Arc<dyn Push>) -> Self {
        self.push = Some(push);
        self
    }

    /// A service that devices ask on `up/service/<name>`. One of the same name replaces it.
    #[must_use]
    pub fn service(mut self, name: ServiceName, service: BoxDeviceService) -> Self {
        self.services.insert(name, service);
        self
    }

    /// The way to the devices of the node that is being built, for services that speak unasked. Before the node serves,
    /// nobody is connected.
    pub fn downlink(&self) -> Arc<dyn Downlink> {
        Arc::new(services::NodeDownlink { registry: self.registry.clone(), clock: self.clock.clone() })
    }
}

impl Builder<Unauthenticated> {
    /// Whom to let in, and what they may do.
    pub fn authenticate_with(self, authenticator: BoxAuthenticator, access: Arc<dyn Access>) -> Builder<Authenticated> {
        Builder {
            id: self.id,
            stores: self.stores,
            clock: self.clock,
            bus: self.bus,
            limits: self.limits,
            command_limits: self.command_limits,
            acceptor_limits: self.acceptor_limits,
            ingest: self.ingest,
            consumers: self.consumers,
            services: self.services,
            registry: self.registry,
            live: self.live,
            push: self.push,
            drain: self.drain,
            auth: Authenticated { authenticator, access },
        }
    }
}

impl Builder<Authenticated> {
    /// The node; it does nothing until it [serves](Node::serve).
    pub fn build(self) -> Node {
        let stores = self.stores;
        let registry = self.registry;
        let directory = Arc::new(directory::Directory::default());
        let commander = Commander::new(
            self.command_limits,
            stores.meta.clone(),
            directory.clone(),
            registry.clone(),
            self.live.clone(),
            self.clock.clone(),
        );
        let append = || BoxCloneSyncService::new(Append::new(stores.telemetry.clone()));
        let connection_limits = ConnectionLimits {
            packet_bytes_max: self.limits.packet_bytes_max,
            receive_maximum: self.limits.receive_maximum,
            session_expiry_s_max: self.limits.session_expiry_s_max,
            ..ConnectionLimits::default()
        };
        let inner = Inner {
            connection_limits: connection_limits.into(),
            counters: counters::Counters::default(),
            timers: timers::Timers::default(),
            authenticator: self.auth.authenticator,
            access: self.auth.access,
            router: Router::default(),
            registry,
            directory,
            quotas: quota::Quotas::default(),
            presences: presence::Presences::default(),
            history: history::History::default(),
            commander,
            arrivals: Arc::new(Plane::new(INGEST_PRESSED)),
            offers: Arc::new(Plane::new(OFFERS_PRESSED)),
            // Bounded by what clients have in flight: a step settles a message that was delivered or received.
            steps: Arc::new(Plane::new(usize::MAX)),
            looked_at_us: AtomicU64::new(0),
            tail: Arc::new(Tail::new()),
            live: self.live,
            notifier: self.push.map(notify::Notifier::new),
            announced: tokio::sync::Notify::new(),
            draining: signal::channel(false).0,
            retaining: std::sync::RwLock::default(),
            unclosed: Mutex::default(),
            epochs: AtomicU64::new(1),
            id: self.id,
            connections_max: self.acceptor_limits.connections_max,
            admittance: Mutex::new(storm::Admittance::new(self.acceptor_limits.connects)),
            take_overs: Mutex::default(),
            drain: self.drain,
            acceptor: Acceptor::new(self.acceptor_limits, self.limits.packet_bytes_max, self.clock.clone()),
            ingest: self.ingest.unwrap_or_else(append),
            consumers: self.consumers,
            services: services::Services::new(self.services),
            stores,
            bus: self.bus,
            clock: self.clock,
            limits: self.limits,
        };
        Node { inner: Arc::new(inner) }
    }
}
