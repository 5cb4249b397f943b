use std::{
    borrow::Borrow,
    collections::{
        BTreeSet, HashMap, HashSet,
        hash_map::{Entry, RandomState},
    },
    hash::{BuildHasher, Hash, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use iot_core::{
    access::{Grants, Permission, Principal, Resource, Subject, check},
    device::Encoding,
    id::{DeviceId, OwnershipEpoch, ProductId},
    message::Message,
    session::{SessionEpoch, SessionId},
    store::Key,
    time::{Monotonic, Timestamp},
    topic,
};

use super::{mailbox::Mailbox, places::Places};
use crate::router::SubscriberId;

/// A session as the node knows it: the place to which messages for it are addressed. It lives as long as the session,
/// connected or not.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) session: SessionId,
    pub(crate) subscriber: SubscriberId,
    /// Held while a connection takes the session, so that two cannot do it at once.
    pub(crate) opening: tokio::sync::Mutex<()>,
    // Small sections, never across an await.
    link: Mutex<Option<Arc<Link>>>,
    // What it is subscribed to, as stored; sorted. Bounded by `Limits::subscriptions_max`.
    filters: Mutex<Vec<Box<str>>>,
    /// Whether the store knows it.
    stored: AtomicBool,
}

/// The connection that a session has.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) principal: Principal,
    pub(crate) epoch: SessionEpoch,
    pub(crate) persistent: bool,
    pub(crate) device: Option<Box<DeviceContext>>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) places: Places,
    /// When it was made.
    pub(crate) since: Timestamp,
    pub(crate) presence_epoch: u64,
    /// From when on its silence is suspicious, in microseconds of the node's clock.
    suspect_from_us: AtomicU64,
    grants: RwLock<Grants>,
}

/// What a device's connection knows of its device.
#[derive(Debug, Clone)]
pub(crate) struct DeviceContext {
    pub(crate) id: DeviceId,
    pub(crate) product: ProductId,
    pub(crate) epoch: OwnershipEpoch,
    pub(crate) home: Option<iot_core::id::HomeId>,
    pub(crate) encoding: Encoding,
    /// `d/<device>/`.
    pub(crate) prefix: Box<str>,
}

impl DeviceContext {
    pub(crate) fn resource(&self, tenant: &iot_core::id::TenantId) -> Resource {
        Resource { tenant: tenant.clone(), device: Some((self.id.clone(), self.epoch)), home: self.home.clone() }
    }
}

impl Link {
    pub(crate) fn new(
        principal: Principal,
        grants: Grants,
        epoch: SessionEpoch,
        persistent: bool,
        device: Option<Box<DeviceContext>>,
        mailbox: Arc<Mailbox>,
    ) -> Self {
        Self {
            principal,
            epoch,
            persistent,
            device,
            mailbox,
            places: Places::default(),
            since: Timestamp::EPOCH,
            presence_epoch: 0,
            suspect_from_us: AtomicU64::new(u64::MAX),
            grants: RwLock::new(grants),
        }
    }

    /// The same, now that its session has an epoch.
    pub(crate) fn with_epoch(mut self, epoch: SessionEpoch, since: Timestamp, presence_epoch: u64) -> Self {
        (self.epoch, self.since, self.presence_epoch) = (epoch, since, presence_epoch);
        self
    }

    /// From when on silence is suspicious; never, if the client has no keep-alive.
    pub(crate) fn suspect_from(&self, at: Option<Monotonic>) {
        let micros = at.and_then(|at| u64::try_from(at.as_duration().as_micros()).ok());
        self.suspect_from_us.store(micros.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn is_suspect(&self, now: Monotonic) -> bool {
        now.as_duration().as_micros() >= u128::from(self.suspect_from_us.load(Ordering::Relaxed))
    }

    #[cfg(all(test, feature = "device"))]
    pub(crate) fn grants(&self) -> Grants {
        self.grants.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes newer grants. Two that were asked for at once may come in either order.
    pub(crate) fn set_grants(&self, grants: Grants) {
        let mut present = self.grants.write().unwrap_or_else(PoisonError::into_inner);
        if grants.revision >= present.revision {
            *present = grants;
        }
    }

    pub(crate) fn permits(&self, permission: Permission, resource: &Resource, now: Timestamp) -> bool {
        let grants = self.grants.read().unwrap_or_else(PoisonError::into_inner);
        check(&grants, permission, resource, now).allow
    }

    /// Whether it may watch every device of its tenant.
    pub(crate) fn sees_everything(&self, now: Timestamp) -> bool {
        self.permits(Permission::ReadTelemetry, &Resource::tenant(&self.principal.tenant), now)
    }

    /// A message was withheld: if the client had subscribed to the device by name, it may have lost that.
    pub(crate) fn was_denied(&self, message: &Message) {
        if message.device.as_ref().is_some_and(|(device, _)| self.places.current(device).is_some()) {
            self.mailbox.ask_review();
        }
    }

    /// Whether a routed message may be shown to this client.
    pub(crate) fn may_receive(&self, message: &Message, now: Timestamp) -> bool {
        if message.tenant != self.principal.tenant {
            return false;
        }
        match (&self.device, &message.device) {
            (Some(own), Some((device, epoch))) => {
                own.id == *device
                    && own.epoch == *epoch
                    && message.topic.strip_prefix(&*own.prefix).is_some_and(|local| local.starts_with("down/"))
            }
            (Some(_), None) => false,
            (None, Some((device, epoch))) => {
                let place = self.places.resource(device, *epoch);
                let nowhere =
                    || Resource { tenant: message.tenant.clone(), device: Some((device.clone(), *epoch)), home: None };
                self.permits(Permission::ReadTelemetry, &place.unwrap_or_else(nowhere), now)
            }
            (None, None) => true,
        }
    }
}

impl Endpoint {
    pub(crate) fn link(&self) -> Option<Arc<Link>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.link.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub(crate) fn set_link(&self, link: Arc<Link>) -> Option<Arc<Link>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner).replace(link)
    }

    /// Whether this connection has the session now.
    pub(crate) fn is_linked_to(&self, link: &Arc<Link>) -> bool {
        self.link.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(|p| Arc::ptr_eq(p, link))
    }

    /// Takes the link away if it is still this one.
    pub(crate) fn clear_link(&self, link: &Arc<Link>) -> bool {
        let mut present = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        let same = present.as_ref().is_some_and(|present| Arc::ptr_eq(present, link));
        if same {
            *present = None;
        }
        same
    }

    pub(crate) fn is_stored(&self) -> bool {
        self.stored.load(Ordering::Acquire)
    }

    pub(crate) fn set_stored(&self, stored: bool) {
        self.stored.store(stored, Ordering::Release);
    }

    /// What it is subscribed to.
    pub(crate) fn filters(&self) -> Vec<String> {
        self.held().iter().map(|filter| filter.to_string()).collect()
    }

    pub(crate) fn subscriptions_len(&self) -> usize {
        self.held().len()
    }

    pub(crate) fn has_subscription(&self, filter: &str) -> bool {
        self.held().binary_search_by(|held| (**held).cmp(filter)).is_ok()
    }

    pub(crate) fn add_subscription(&self, filter: &str) {
        let mut held = self.held();
        if let Err(place) = held.binary_search_by(|held| (**held).cmp(filter)) {
            if held.is_empty() {
                held.reserve_exact(1);
            }
            held.insert(place, filter.into());
        }
    }

    pub(crate) fn remove_subscription(&self, filter: &str) {
        let mut held = self.held();
        if let Ok(place) = held.binary_search_by(|held| (**held).cmp(filter)) {
            held.remove(place);
        }
        if held.is_empty() {
            *held = Vec::new();
        }
    }

    fn held(&self) -> MutexGuard<'_, Vec<Box<str>>> {
        self.filters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An endpoint, found by its session.
#[derive(Debug)]
struct BySession(Arc<Endpoint>);

impl Borrow<SessionId> for BySession {
    fn borrow(&self) -> &SessionId {
        &self.0.session
    }
}

impl Hash for BySession {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.session.hash(state);
    }
}

impl PartialEq for BySession {
    fn eq(&self, other: &Self) -> bool {
        self.0.session == other.0.session
    }
}

impl Eq for BySession {}

/// The sessions of a node.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    // Small sections, never across an await.
    sessions: RwLock<HashSet<BySession>>,
    dependants: Dependants,
    subscribers: AtomicU64,
}

/// Which sessions' standing is read from a record. Records are known by keyed hashes: two that share one have each other's
/// sessions looked at as well, which changes nothing for these.
#[derive(Debug, Default)]
struct Dependants {
    keys: RandomState,
    // Small sections, never across an await.
    sessions: Mutex<HashMap<u64, Sessions>>,
}

/// Nearly all records are read for one session only.
#[derive(Debug)]
enum Sessions {
    One(SessionId),
    Many(BTreeSet<SessionId>),
}

impl Dependants {
    fn sessions(&self) -> MutexGuard<'_, HashMap<u64, Sessions>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, key: &Key, session: &SessionId) {
        match self.sessions().entry(self.keys.hash_one(key)) {
            Entry::Vacant(entry) => _ = entry.insert(Sessions::One(session.clone())),
            Entry::Occupied(mut entry) => match entry.get_mut() {
                Sessions::One(known) if known == session => {}
                Sessions::One(known) => {
                    let both = [known.clone(), session.clone()];
                    entry.insert(Sessions::Many(both.into()));
                }
                Sessions::Many(known) => _ = known.insert(session.clone()),
            },
        }
    }

    fn remove(&self, key: &Key, session: &SessionId) {
        let mut sessions = self.sessions();
        let Entry::Occupied(mut entry) = sessions.entry(self.keys.hash_one(key)) else { return };
        let is_empty = match entry.get_mut() {
            Sessions::One(known) => known == session,
            Sessions::Many(known) => {
                known.remove(session);
                known.is_empty()
            }
        };
        if is_empty {
            entry.remove();
        }
    }

    fn of(&self, key: &Key) -> Vec<SessionId> {
        match self.sessions().get(&self.keys.hash_one(key)) {
            None => Vec::new(),
            Some(Sessions::One(session)) => vec![session.clone()],
            Some(Sessions::Many(sessions)) => sessions.iter().cloned().collect(),
        }
    }
}

impl Registry {
    pub(crate) fn get(&self, session: &SessionId) -> Option<Arc<Endpoint>> {
        self.sessions.read().unwrap_or_else(PoisonError::into_inner).get(session).map(|known| known.0.clone())
    }

    /// The endpoint of a session, made if there is none.
    pub(crate) fn get_or_insert(&self, session: &SessionId) -> Arc<Endpoint> {
        if let Some(endpoint) = self.get(session) {
            return endpoint;
        }
        let mut sessions = self.sessions.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = sessions.get(session) {
            return known.0.clone();
        }
        let endpoint = Arc::new(Endpoint {
            session: session.clone(),
            subscriber: SubscriberId(self.subscribers.fetch_add(1, Ordering::Relaxed)),
            opening: tokio::sync::Mutex::default(),
            link: Mutex::new(None),
            filters: Mutex::default(),
            stored: AtomicBool::new(false),
        });
        sessions.insert(BySession(endpoint.clone()));
        endpoint
    }

    pub(crate) fn remove(&self, endpoint: &Arc<Endpoint>) {
        let mut sessions = self.sessions.write().unwrap_or_else(PoisonError::into_inner);
        if sessions.get(&endpoint.session).is_some_and(|present| Arc::ptr_eq(&present.0, endpoint)) {
            sessions.remove(&endpoint.session);
        }
    }

    pub(crate) fn all(&self) -> Vec<Arc<Endpoint>> {
        let sessions = self.sessions.read().unwrap_or_else(PoisonError::into_inner);
        sessions.iter().map(|known| known.0.clone()).collect()
    }

    pub(crate) fn connected(&self) -> Vec<Arc<Link>> {
        self.all().iter().filter_map(|endpoint| endpoint.link()).collect()
    }

    /// The same, in the order in which their sessions came.
    pub(crate) fn connected_in_order(&self) -> Vec<Arc<Link>> {
        let mut all = self.all();
        all.sort_by_key(|endpoint| endpoint.subscriber);
        all.iter().filter_map(|endpoint| endpoint.link()).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.sessions.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Records which records a connected session's standing is read from.
    pub(crate) fn depend(&self, session: &SessionId, keys: &[Key]) {
        keys.iter().for_each(|key| self.dependants.add(key, session));
    }

    pub(crate) fn release(&self, session: &SessionId, keys: &[Key]) {
        keys.iter().for_each(|key| self.dependants.remove(key, session));
    }

    #[cfg(all(test, feature = "device"))]
    pub(crate) fn has_no_dependants(&self) -> bool {
        self.dependants.sessions().is_empty()
    }

    /// The connected sessions whose standing is read from a record.
    pub(crate) fn dependants(&self, key: &Key) -> Vec<Arc<Endpoint>> {
        self.dependants.of(key).iter().filter_map(|session| self.get(session)).collect()
    }
}

/// The session that a principal takes with a client identifier.
pub(crate) fn session_of(principal: &Principal, client_id: &str) -> SessionId {
    match &principal.subject {
        Subject::Device { device, .. } => SessionId::device(&principal.tenant, device),
        Subject::Token(token) => SessionId::token(&principal.tenant, token, client_id),
        Subject::Account { account, .. } => SessionId::account(&principal.tenant, account, client_id),
        _ => SessionId::anonymous(&principal.tenant, client_id),
    }
}

/// The filter under which a client's subscription is kept: in full form for a device.
pub(crate) fn full_filter(device: Option<&DeviceContext>, filter: &str) -> String {
    device.map_or_else(|| filter.to_owned(), |device| format!("{}{filter}", device.prefix))
}

/// Whether a filter may match topics of device trees, share prefix aside.
pub(crate) fn reaches_devices(filter: &str) -> bool {
    let plain = topic::parse_share(filter).ok().flatten().map_or(filter, |(_, plain)| plain);
    topic::reaches_devices(plain)
}
