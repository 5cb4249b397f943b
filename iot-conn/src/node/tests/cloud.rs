//! A node over stores in memory, and clients that speak MQTT to it over TCP.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use iot_core::{
    access::{
        Access, Authentication, BoxAuthenticator, Credentials, Grants, Object, Principal, Proof, Refusal, Relation,
        Standing, Subject, Tuple,
    },
    clock::{Clock, ManualClock},
    device::{Device, Stage},
    home::MembershipBell,
    id::{DeviceId, NodeId, OwnershipEpoch, TenantId},
    quota::{self, PutQuota, Quota, Scope, StoredQuota},
    store::{Batch, Committed, Key, MetaStore, MetaStoreExt, Revision, StoreError, Stores, Write},
    time::Timestamp,
};
use iot_store::{StoreLimits, memory::Memory};
use tokio::{sync::oneshot, task::JoinHandle};
use tower::util::BoxCloneSyncService;

use super::{
    client::{Client, options, soon, until},
    failing::Failing,
};
use crate::{
    bus::InProcess,
    mqtt::client::ClientOptions,
    node::{Authenticated, Builder, Hinting, Node, ServeError},
    transport::{Bound, Listener, listen},
};

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
        let sessions = Arc::new(Failing::new(memory.clone()));
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
        Client::new(self.address, options)
    }
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
