//! Limits per listener, tenant, product, device and user.
//!
//! A connection for which no quota is has a null pointer, and a message costs it one look at that. Any other has a seat on the
//! [meter](meter) of each scope that it is in: its listener, its tenant, and its product and itself, or its user. Quotas are
//! [read once](book) for each tenant and followed from the log of changes; a connection that one of them is about is asked by its
//! mailbox to take its seats anew.

mod book;
mod enforce;
mod meter;
mod metering;
mod meters;

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use iot_core::{
    access::{Principal, Subject},
    id::{DeviceId, ProductId, TenantId},
    quota::{Quota, Scope, StoredQuota},
    store::{Key, MetaStore, StoreError},
};

pub(crate) use self::metering::Metering;
use self::{
    book::{Books, Limited, Tally},
    meters::{MeterKey, Meters},
};
use super::{
    Inner,
    endpoint::{DeviceContext, Link},
};

/// How long who finds no place is to stay away at least. Nobody knows when there is one.
pub(crate) const QUOTA_RETRY_AFTER: Duration = Duration::from_secs(30);

/// What was limited by a quota since the node started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct QuotaUse {
    /// How many sessions are connected that it is about; `None` for one that each device or user has for itself.
    pub connections: Option<u64>,
    /// Messages that had to wait.
    pub publishes_slowed: u64,
    /// Messages that were not taken.
    pub publishes_refused: u64,
    /// Clients that were not let in.
    pub connections_refused: u64,
    /// Subscriptions that were not taken.
    pub subscriptions_refused: u64,
}

/// By what something is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Holder {
    Listener,
    Tenant,
    Product,
    Device,
    User,
}

/// Which limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    Publishes,
    Bytes,
    Payload,
}

impl Holder {
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Listener => "listener",
            Self::Tenant => "tenant",
            Self::Product => "product",
            Self::Device => "device",
            Self::User => "user",
        }
    }
}

impl Limit {
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Publishes => "publishes",
            Self::Bytes => "bytes",
            Self::Payload => "payload",
        }
    }
}

/// A limit that holds for a connection, and the meter on which it has a seat for it.
#[derive(Debug)]
pub(crate) struct Wanted {
    holder: Holder,
    key: MeterKey,
    limited: Limited,
}

/// All that hold for a connection, in the order of their holders, as of a generation of the books.
#[derive(Debug)]
pub(crate) struct Limits {
    listener: Option<&'static str>,
    wanted: Vec<Wanted>,
    generation: u64,
}

impl Limits {
    /// As of when.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }
}

/// The quotas that a node holds to.
#[derive(Debug, Default)]
pub(crate) struct Quotas {
    books: Books,
    meters: Arc<Meters>,
    // As configured; written before the node serves. Small sections, never across an await.
    listeners: RwLock<HashMap<&'static str, Limited>>,
}

impl Quotas {
    /// A listener's own, if it has one.
    pub(crate) fn listen(&self, name: &'static str, quota: Quota) {
        if quota != Quota::default() {
            let limited = Limited { quota, tally: Arc::default() };
            self.listeners.write().unwrap_or_else(PoisonError::into_inner).insert(name, limited);
        }
    }

    /// Changes with each change of a quota that was seen.
    pub(crate) fn generation(&self) -> u64 {
        self.books.generation()
    }

    /// Takes the places that a connection needs, all or none.
    pub(crate) fn admit(
        &self,
        limits: &Limits,
        session: crate::router::SubscriberId,
    ) -> Result<Option<Box<Metering>>, Holder> {
        Metering::seat(&self.meters, limits, session, false)
    }

    /// The same for a connection that is there already.
    pub(crate) fn seat(&self, limits: &Limits, session: crate::router::SubscriberId) -> Option<Box<Metering>> {
        Metering::seat(&self.meters, limits, session, true).unwrap_or_default()
    }

    /// Every limit that holds for a connection of this principal.
    pub(crate) async fn of(
        &self,
        meta: &dyn MetaStore,
        listener: Option<&'static str>,
        principal: &Principal,
        device: Option<(&ProductId, &DeviceId)>,
    ) -> Result<Limits, StoreError> {
        let tenant = &principal.tenant;
        let (book, generation) = self.books.of(meta, tenant).await?;
        let mut wanted = Vec::new();
        let mut want = |holder, key: MeterKey, limited: Option<Limited>| {
            wanted.extend(limited.map(|limited| Wanted { holder, key, limited }));
        };
        if let Some(name) = listener {
            let listeners = self.listeners.read().unwrap_or_else(PoisonError::into_inner);
            want(Holder::Listener, MeterKey::Listener(name), listeners.get(name).cloned());
        }
        if !book.is_empty() {
            let key = |scope: Scope| MeterKey::Of(tenant.clone(), scope);
            want(Holder::Tenant, key(Scope::Tenant), book.get(&Scope::Tenant));
            if let Some((product, device)) = device {
                let (all, own) = (Scope::Product(product.clone()), Scope::Device(device.clone()));
                let limited = book.get(&own).or_else(|| book.get(&Scope::EachDevice(product.clone())));
                want(Holder::Product, key(all.clone()), book.get(&all));
                want(Holder::Device, key(own), limited);
            } else if let Some(own) = user(&principal.subject) {
                let limited = book.get(&own).or_else(|| book.get(&Scope::EachUser));
                want(Holder::User, key(own), limited);
            }
        }
        Ok(Limits { listener, wanted, generation })
    }

    /// How many meters connections have seats on.
    #[cfg(all(test, feature = "device"))]
    pub(crate) fn meters_len(&self) -> usize {
        self.meters.len().0
    }

    /// Takes over a change of records; the tenant and the scope, if it was one of a quota.
    async fn changed(&self, meta: &dyn MetaStore, key: &Key) -> Option<(TenantId, Scope)> {
        let (tenant, scope) = StoredQuota::named_by(key)?;
        self.books.refresh(meta, &tenant, &scope).await;
        Some((tenant, scope))
    }

    async fn usage(&self, meta: &dyn MetaStore, tenant: &TenantId, scope: &Scope) -> Result<QuotaUse, StoreError> {
        let (book, _) = self.books.of(meta, tenant).await?;
        let counted = book.get(scope).map(|limited| limited.tally.counted()).unwrap_or_default();
        let is_for_each = matches!(scope, Scope::EachDevice(_) | Scope::EachUser);
        let connections = || self.meters.connections(&MeterKey::Of(tenant.clone(), scope.clone()));
        Ok(QuotaUse { connections: (!is_for_each).then(connections), ..counted })
    }
}

fn user(subject: &Subject) -> Option<Scope> {
    match subject {
        Subject::Account { account, .. } => Some(Scope::Account(account.clone())),
        Subject::Token(token) => Some(Scope::Token(token.clone())),
        _ => None,
    }
}

impl Inner {
    /// Every limit that holds for a connection.
    pub(crate) async fn limits_of(
        &self,
        listener: Option<&'static str>,
        principal: &Principal,
        device: Option<&DeviceContext>,
    ) -> Result<Limits, StoreError> {
        let device = device.map(|device| (&device.product, &device.id));
        self.quotas.of(&*self.stores.meta, listener, principal, device).await
    }

    /// A record has changed: if it is a quota, those whom it is about take their seats anew.
    pub(crate) async fn quota_changed(&self, key: &Key) {
        let Some((tenant, scope)) = self.quotas.changed(&*self.stores.meta, key).await else { return };
        for link in self.registry.connected() {
            if link.principal.tenant == tenant && is_about(&scope, &link) {
                link.mailbox.ask_limits();
            }
        }
    }

    /// Changes were missed: all quotas are read again.
    pub(crate) async fn quotas_missed(&self) {
        self.quotas.books.reload(&*self.stores.meta).await;
        self.registry.connected().iter().for_each(|link| link.mailbox.ask_limits());
    }

    /// What a quota has limited since the node started.
    pub(crate) async fn quota_use(&self, tenant: &TenantId, scope: &Scope) -> Result<QuotaUse, StoreError> {
        self.quotas.usage(&*self.stores.meta, tenant, scope).await
    }
}

fn is_about(scope: &Scope, link: &Link) -> bool {
    match (scope, &link.device) {
        (Scope::Tenant, _) => true,
        (Scope::Product(product) | Scope::EachDevice(product), Some(device)) => device.product == *product,
        (Scope::Device(id), Some(device)) => device.id == *id,
        (Scope::EachUser, None) => true,
        (own, None) => user(&link.principal.subject).as_ref() == Some(own),
        _ => false,
    }
}
