//! Whether devices are there, as far as can be known.

use std::{
    borrow::Cow,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use iot_core::{
    id::{DeviceId, TenantId},
    session::SessionId,
    store::StoreError,
    time::Timestamp,
};

use super::{Inner, endpoint::Link, identity::context_of};
use crate::recent::Recent;

/// How many devices that have gone are remembered; of others it is not known any more since when.
const AWAY_MAX: usize = 200_000;

/// The cause of a device that was connected to a node that ended without a word, and has not come back.
const NODE_LOST: &str = "node_lost";

/// Whether a device is connected to this node, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Presence {
    /// What is known.
    pub state: PresenceState,
    /// Since when it is connected or not.
    pub since: Timestamp,
    /// Why it went, when it has gone.
    pub cause: Option<Cow<'static, str>>,
    /// Grows with every change of a device, also over restarts as long as the clock is not set back: of two presences of one
    /// device the one with the greater epoch is the later, in whatever order they come.
    pub epoch: u64,
}

/// What is known of a device's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PresenceState {
    /// It is connected and was heard within its keep-alive interval.
    Online,
    /// It is connected and was not heard for longer than its keep-alive interval; after half of that again it is offline. Or it was
    /// connected when the node ended without a word, and has half a minute from the start on to come back.
    Suspect,
    /// It is not connected.
    Offline,
}

impl PresenceState {
    /// A stable name.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Suspect => "suspect",
            Self::Offline => "offline",
        }
    }
}

impl Presence {
    /// Whether there is a connection, suspect or not.
    #[must_use]
    pub fn is_online(&self) -> bool {
        self.state != PresenceState::Offline && self.cause.is_none()
    }
}

/// The presence of devices that are not connected. Who is connected is known by its link.
#[derive(Debug)]
pub(crate) struct Presences {
    // Small sections, never across an await.
    away: Mutex<Recent<(TenantId, DeviceId), Presence>>,
    epochs: AtomicU64,
}

impl Default for Presences {
    fn default() -> Self {
        Self { away: Mutex::new(Recent::new(AWAY_MAX)), epochs: AtomicU64::new(0) }
    }
}

impl Presences {
    fn away(&self) -> MutexGuard<'_, Recent<(TenantId, DeviceId), Presence>> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Above all that were given before, and of an earlier run.
    pub(crate) fn next_epoch(&self, now: Timestamp) -> u64 {
        let micros = u64::try_from(now.as_micros()).unwrap_or(0);
        let next = |last: u64| (last + 1).max(micros);
        let last = self.epochs.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
        next(last.unwrap_or_default())
    }

    /// A device is connected or has gone.
    pub(crate) fn changed(&self, tenant: &TenantId, device: &DeviceId, presence: &Presence) {
        let who = (tenant.clone(), device.clone());
        if presence.is_online() {
            self.away().remove(&who);
        } else {
            self.away().insert(who, presence.clone());
        }
    }

    fn of(&self, tenant: &TenantId, device: &DeviceId) -> Option<Presence> {
        self.away().get(&(tenant.clone(), device.clone())).cloned()
    }

    fn all_of(&self, tenant: &TenantId) -> Vec<(DeviceId, Presence)> {
        let away = self.away();
        let own = away.iter().filter(|((owner, _), _)| owner == tenant);
        own.map(|((_, device), presence)| (device.clone(), presence.clone())).collect()
    }

    fn suspects(&self) -> Vec<(TenantId, DeviceId)> {
        let away = self.away();
        let suspect = away.iter().filter(|(_, presence)| presence.state == PresenceState::Suspect);
        suspect.map(|(who, _)| who.clone()).collect()
    }
}

impl Inner {
    /// What is known of a device; `None` if it was not there since the node started.
    pub(crate) fn presence(&self, tenant: &TenantId, device: &DeviceId) -> Option<Presence> {
        let endpoint = self.registry.get(&SessionId::device(tenant, device));
        match endpoint.and_then(|endpoint| endpoint.link()) {
            Some(link) => Some(self.presence_of(&link)),
            None => self.presences.of(tenant, device),
        }
    }

    /// What is known of all devices of a tenant.
    pub(crate) fn presences_of(&self, tenant: &TenantId) -> Vec<(DeviceId, Presence)> {
        let connected = self.registry.connected();
        let here = connected.iter().filter(|link| link.principal.tenant == *tenant);
        let here = here.filter_map(|link| Some((link.device.as_ref()?.id.clone(), self.presence_of(link))));
        let mut all: Vec<_> = here.collect();
        all.extend(self.presences.all_of(tenant));
        all
    }

    pub(crate) fn online_len(&self) -> usize {
        self.registry.connected().iter().filter(|link| link.device.is_some()).count()
    }

    fn presence_of(&self, link: &Link) -> Presence {
        let is_suspect = link.is_suspect(self.clock.monotonic());
        let state = if is_suspect { PresenceState::Suspect } else { PresenceState::Online };
        Presence { state, since: link.since, cause: None, epoch: link.presence_epoch }
    }

    /// A device's session was open when the node ended without a word.
    pub(crate) fn left_open(&self, session: &SessionId) {
        let Some((tenant, device)) = session.as_device() else { return };
        let since = self.clock.timestamp();
        let (state, cause) = (PresenceState::Suspect, Some(NODE_LOST.into()));
        let presence = Presence { state, since, cause, epoch: self.presences.next_epoch(since) };
        self.presences.changed(&tenant, &device, &presence);
    }

    /// Whoever was connected when the node ended without a word, and is not back, has gone.
    pub(crate) async fn end_suspicion(&self) -> Result<(), StoreError> {
        for (tenant, device) in self.presences.suspects() {
            let endpoint = self.registry.get(&SessionId::device(&tenant, &device));
            let _opening = match &endpoint {
                Some(endpoint) => Some(endpoint.opening.lock().await),
                None => None,
            };
            let Some(presence) = self.presence(&tenant, &device).filter(|presence| !presence.is_online()) else {
                continue;
            };
            let epoch = self.presences.next_epoch(self.clock.timestamp());
            let gone = Presence { state: PresenceState::Offline, epoch, ..presence };
            match context_of(self, &tenant, &device).await? {
                Some((context, _)) => self.tell_presence(&tenant, &context, gone).await,
                None => self.presences.changed(&tenant, &device, &gone),
            }
        }
        Ok(())
    }

    /// A connection has taken a device's session.
    pub(crate) fn presence_at_arrival(&self, link: &Link) -> Presence {
        Presence { state: PresenceState::Online, since: link.since, cause: None, epoch: link.presence_epoch }
    }

    /// It has left it.
    pub(crate) fn presence_at_departure(&self, cause: &'static str) -> Presence {
        let since = self.clock.timestamp();
        let epoch = self.presences.next_epoch(since);
        Presence { state: PresenceState::Offline, since, cause: Some(cause.into()), epoch }
    }
}
