use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use iot_core::{
    access::{Grants, Permission, Principal, Resource, Subject, check},
    device::Encoding,
    id::{DeviceId, OwnershipEpoch, ProductId},
    message::Message,
    session::{SessionEpoch, SessionId},
    store::{Key, StoredSubscription},
    time::Timestamp,
    topic,
};

use super::{mailbox::Mailbox, places::Places};
use crate::router::SubscriberId;

/// A session as the node knows it: the place to which messages for it are addressed. It lives as long as the session,
/// connected or not.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) session: SessionId,
    pub(crate) tenant: iot_core::id::TenantId,
    pub(crate) subscriber: SubscriberId,
    /// Held while a connection takes the session, so that two cannot do it at once.
    pub(crate) opening: Arc<tokio::sync::Mutex<()>>,
    // Small sections, never across an await.
    link: Mutex<Option<Arc<Link>>>,
    // By filter, as stored.
    subscriptions: Mutex<HashMap<String, StoredSubscription>>,
    /// Whether the store knows it.
    stored: AtomicBool,
}

/// The connection that a session has.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) principal: Principal,
    pub(crate) epoch: SessionEpoch,
    pub(crate) persistent: bool,
    pub(crate) device: Option<DeviceContext>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) places: Places,
    grants: RwLock<Arc<Grants>>,
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
    pub(crate) prefix: String,
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
        device: Option<DeviceContext>,
        mailbox: Arc<Mailbox>,
    ) -> Self {
        let (places, grants) = (Places::default(), RwLock::new(Arc::new(grants)));
        Self { principal, epoch, persistent, device, mailbox, places, grants }
    }

    /// The same, now that its session has an epoch.
    pub(crate) fn with_epoch(mut self, epoch: SessionEpoch) -> Self {
        self.epoch = epoch;
        self
    }

    pub(crate) fn grants(&self) -> Arc<Grants> {
        self.grants.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes newer grants. Two that were asked for at once may come in either order.
    pub(crate) fn set_grants(&self, grants: Grants) {
        let mut present = self.grants.write().unwrap_or_else(PoisonError::into_inner);
        if grants.revision >= present.revision {
            *present = Arc::new(grants);
        }
    }

    pub(crate) fn permits(&self, permission: Permission, resource: &Resource, now: Timestamp) -> bool {
        check(&self.grants(), permission, resource, now).allow
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
                    && message.topic.strip_prefix(own.prefix.as_str()).is_some_and(|local| local.starts_with("down/"))
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

    pub(crate) fn subscriptions(&self) -> std::sync::MutexGuard<'_, HashMap<String, StoredSubscription>> {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sessions of a node.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    // Small sections, never across an await.
    sessions: RwLock<HashMap<SessionId, Arc<Endpoint>>>,
    dependants: Mutex<HashMap<Key, HashSet<SessionId>>>,
    subscribers: AtomicU64,
}

impl Registry {
    pub(crate) fn get(&self, session: &SessionId) -> Option<Arc<Endpoint>> {
        self.sessions.read().unwrap_or_else(PoisonError::into_inner).get(session).cloned()
    }

    /// The endpoint of a session, made if there is none.
    pub(crate) fn get_or_insert(&self, session: &SessionId, tenant: &iot_core::id::TenantId) -> Arc<Endpoint> {
        if let Some(endpoint) = self.get(session) {
            return endpoint;
        }
        let mut sessions = self.sessions.write().unwrap_or_else(PoisonError::into_inner);
        let make = || {
            Arc::new(Endpoint {
                session: session.clone(),
                tenant: tenant.clone(),
                subscriber: SubscriberId(self.subscribers.fetch_add(1, Ordering::Relaxed)),
                opening: Arc::default(),
                link: Mutex::new(None),
                subscriptions: Mutex::default(),
                stored: AtomicBool::new(false),
            })
        };
        sessions.entry(session.clone()).or_insert_with(make).clone()
    }

    pub(crate) fn remove(&self, endpoint: &Arc<Endpoint>) {
        let mut sessions = self.sessions.write().unwrap_or_else(PoisonError::into_inner);
        if sessions.get(&endpoint.session).is_some_and(|present| Arc::ptr_eq(present, endpoint)) {
            sessions.remove(&endpoint.session);
        }
    }

    pub(crate) fn all(&self) -> Vec<Arc<Endpoint>> {
        self.sessions.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(crate) fn connected(&self) -> Vec<Arc<Link>> {
        self.all().iter().filter_map(|endpoint| endpoint.link()).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.sessions.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Records which records a connected session's standing is read from.
    pub(crate) fn depend(&self, session: &SessionId, keys: &[Key]) {
        let mut dependants = self.dependants.lock().unwrap_or_else(PoisonError::into_inner);
        for key in keys {
            dependants.entry(key.clone()).or_default().insert(session.clone());
        }
    }

    pub(crate) fn release(&self, session: &SessionId, keys: &[Key]) {
        let mut dependants = self.dependants.lock().unwrap_or_else(PoisonError::into_inner);
        for key in keys {
            if let Some(sessions) = dependants.get_mut(key) {
                sessions.remove(session);
                if sessions.is_empty() {
                    dependants.remove(key);
                }
            }
        }
    }

    #[cfg(all(test, feature = "device"))]
    pub(crate) fn has_no_dependants(&self) -> bool {
        self.dependants.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// The connected sessions whose standing is read from a record.
    pub(crate) fn dependants(&self, key: &Key) -> Vec<Arc<Endpoint>> {
        let dependants = self.dependants.lock().unwrap_or_else(PoisonError::into_inner);
        let sessions = dependants.get(key).into_iter().flatten();
        sessions.filter_map(|session| self.get(session)).collect()
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
