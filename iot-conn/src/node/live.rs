//! What applications see while it happens: reports from the ingest log, and changes of state.
//!
//! Reports are resumable: each carries its [`EventId`], and a stream that begins after one misses none that the log still
//! has. Changes of presence, alarms, commands and twins are state: a stream begins with the present one, and where a reader
//! was too slow it is told [`LiveKind::Resync`] and the present state again. Everything is checked when it is delivered,
//! against what its reader may see by then and against the present owner of its device.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use iot_core::{
    access::{Grants, Permission, Principal, Resource, Standing, check},
    command::Receipt,
    device::Device,
    event::{EventId, Report, Sequence, StoredEvent, Value},
    id::{DeviceId, HomeId, OwnershipEpoch, TenantId},
    store::{Index, Key, MetaStoreExt, Revision, StoreError},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, watch};

use super::{Alarm, Inner, Presence, tail::After};

/// The most streams of a node; one more is refused.
pub const LIVE_STREAMS_MAX: usize = 1_000;
/// The most devices that a stream names.
pub const LIVE_DEVICES_MAX: usize = 100;
/// How many changes of state a slow reader may be behind before it is told the present state anew.
pub(crate) const LIVE_CHANGES_MAX: usize = 1_024;
/// The most devices and alarms whose present state begins a stream.
const SNAPSHOT_MAX: u32 = 1_000;
const LOG_PAGE: u32 = 500;

/// What a stream is about: all that its reader may see, of these devices and this home, of these kinds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LiveFilter {
    /// Only these devices; all if empty.
    pub devices: HashSet<DeviceId>,
    /// Only what stands in this home.
    pub home: Option<HomeId>,
    /// Only these kinds; all if empty.
    pub kinds: HashSet<LiveKind>,
}

impl LiveFilter {
    fn wants(&self, kind: LiveKind) -> bool {
        self.kinds.is_empty() || self.kinds.contains(&kind)
    }
}

/// Kinds of what happens. The words are part of the HTTP interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum LiveKind {
    /// Values that a device measured.
    Telemetry,
    /// Something that a device reports.
    Event,
    /// A device came or went.
    Presence,
    /// An alarm was raised or cleared.
    Alarm,
    /// A command has come further.
    Command,
    /// A twin has changed.
    Twin,
    /// Changes of state were missed; the present state follows.
    Resync,
}

impl LiveKind {
    /// The word used outside.
    pub fn word(self) -> &'static str {
        match self {
            Self::Telemetry => "telemetry",
            Self::Event => "event",
            Self::Presence => "presence",
            Self::Alarm => "alarm",
            Self::Command => "command",
            Self::Twin => "twin",
            Self::Resync => "resync",
        }
    }

    /// What its reader must be permitted.
    fn permission(self) -> Permission {
        match self {
            Self::Telemetry | Self::Event | Self::Alarm => Permission::ReadTelemetry,
            Self::Presence | Self::Resync => Permission::ReadDevice,
            Self::Command => Permission::Control,
            Self::Twin => Permission::ReadState,
        }
    }
}

/// Something that happened, as a reader sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct LiveEvent {
    /// Where a later stream goes on; reports have one.
    pub id: Option<EventId>,
    /// What kind.
    pub kind: LiveKind,
    /// The body.
    pub data: serde_json::Value,
}

/// A change of state on its way to the streams.
#[derive(Debug, Clone, PartialEq)]
pub struct LiveChange {
    /// Whose.
    pub tenant: TenantId,
    /// Of which device.
    pub device: DeviceId,
    /// In which epoch; `None` for the present one.
    pub epoch: Option<OwnershipEpoch>,
    /// What kind.
    pub kind: LiveKind,
    /// The body.
    pub data: serde_json::Value,
}

/// Where changes of state are told. Cheap to clone; nobody need listen.
#[derive(Debug, Clone)]
pub struct LiveHub {
    sender: broadcast::Sender<Arc<LiveChange>>,
    streams: Arc<Semaphore>,
    bells: Arc<Bells>,
}

impl Default for LiveHub {
    fn default() -> Self {
        let streams = Arc::new(Semaphore::new(LIVE_STREAMS_MAX));
        Self { sender: broadcast::channel(LIVE_CHANGES_MAX).0, streams, bells: Arc::default() }
    }
}

impl LiveHub {
    /// Tells the streams, if there are any.
    pub fn tell(&self, change: LiveChange) {
        if self.sender.receiver_count() > 0 {
            // An error means that the last reader has just gone.
            let _nobody = self.sender.send(Arc::new(change));
        }
    }

    /// Records have changed: the streams whose readers' standing is read from them ask again.
    pub(crate) fn ring(&self, revision: Revision, keys: &[Key]) {
        self.bells.ring(revision, |of| keys.iter().any(|key| of.contains(key)));
    }

    /// Any record may have changed.
    pub(crate) fn ring_all(&self, revision: Revision) {
        self.bells.ring(revision, |_| true);
    }

    /// The newest change of records that the streams have been told of.
    #[cfg(all(test, feature = "device"))]
    pub(crate) fn seen(&self) -> Revision {
        self.bells.lock().seen
    }

    pub(crate) fn presence(&self, tenant: &TenantId, device: &DeviceId, epoch: OwnershipEpoch, presence: &Presence) {
        let data = presence_body(device, presence);
        self.tell(LiveChange {
            tenant: tenant.clone(),
            device: device.clone(),
            epoch: Some(epoch),
            kind: LiveKind::Presence,
            data,
        });
    }

    pub(crate) fn alarm(&self, alarm: &Alarm) {
        self.tell(alarm_change(alarm));
    }

    pub(crate) fn receipt(&self, receipt: &Receipt) {
        let data = json!({
            "id": receipt.id, "device": receipt.device, "name": receipt.name, "state": receipt.state,
            "result": receipt.result, "error": receipt.error,
        });
        self.tell(LiveChange {
            tenant: receipt.tenant.clone(),
            device: receipt.device.clone(),
            epoch: Some(receipt.epoch),
            kind: LiveKind::Command,
            data,
        });
    }
}

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LiveError {
    /// [`LIVE_STREAMS_MAX`] is reached.
    #[error("the node has as many live streams as it can")]
    TooMany,
    /// The position is of another node's log.
    #[error("the position is not one of this node")]
    ForeignPosition,
    /// A store failed.
    #[error("the stores cannot be read")]
    Store(#[from] StoreError),
}

/// What happens, from now on. Dropping it ends it.
pub struct LiveStream {
    node: Arc<Inner>,
    principal: Principal,
    grants: Grants,
    filter: LiveFilter,
    /// Before the first report of this run of the node is known, there is no position.
    at: Option<Sequence>,
    newest: watch::Receiver<Sequence>,
    changes: broadcast::Receiver<Arc<LiveChange>>,
    bell: Bell,
    ready: VecDeque<LiveEvent>,
    _permit: OwnedSemaphorePermit,
}

impl std::fmt::Debug for LiveStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LiveStream").field("principal", &self.principal).finish_non_exhaustive()
    }
}

/// One bell for each stream, which rings when a record changes that its reader's standing is read from. Bounded by the
/// streams.
#[derive(Debug, Default)]
struct Bells {
    // Small sections, never across an await.
    hung: Mutex<Hung>,
}

#[derive(Debug, Default)]
struct Hung {
    seen: Revision,
    bells: HashMap<u64, (Vec<Key>, watch::Sender<bool>)>,
    next: u64,
}

/// A stream's end of its bell.
#[derive(Debug)]
struct Bell {
    number: u64,
    rung: watch::Receiver<bool>,
    bells: Arc<Bells>,
}

impl Bells {
    fn lock(&self) -> MutexGuard<'_, Hung> {
        self.hung.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first answer to it is yes: what changed before is not known.
    fn hang(self: &Arc<Self>, keys: Vec<Key>) -> Bell {
        let (sender, rung) = watch::channel(true);
        let mut hung = self.lock();
        let number = hung.next;
        hung.next += 1;
        hung.bells.insert(number, (keys, sender));
        Bell { number, rung, bells: self.clone() }
    }

    fn ring(&self, revision: Revision, concerns: impl Fn(&[Key]) -> bool) {
        let mut hung = self.lock();
        hung.seen = hung.seen.max(revision);
        let concerned = hung.bells.values().filter(|(keys, _)| concerns(keys));
        for (_, sender) in concerned {
            sender.send_replace(true);
        }
    }
}

impl Bell {
    /// Whether it has rung since this was asked last.
    fn answer(&self) -> bool {
        let hung = self.bells.lock();
        hung.bells.get(&self.number).is_some_and(|(_, sender)| sender.send_replace(false))
    }

    /// Waits until it has rung.
    async fn rung(&mut self) {
        // The sender is there for as long as this is.
        let _rung = self.rung.wait_for(|rung| *rung).await;
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.bells.lock().bells.remove(&self.number);
    }
}

impl super::Node {
    /// Begins a stream for a principal: with the present state, or after the report `after` with what came since.
    pub async fn live(
        &self,
        principal: Principal,
        grants: Grants,
        filter: LiveFilter,
        after: Option<EventId>,
    ) -> Result<LiveStream, LiveError> {
        let inner = self.inner.clone();
        let permit = inner.live.streams.clone().try_acquire_owned().map_err(|_| LiveError::TooMany)?;
        if after.as_ref().is_some_and(|after| after.node != inner.id) {
            return Err(LiveError::ForeignPosition);
        }
        let newest = inner.tail.watch();
        let at = after.map(|after| after.sequence).or_else(|| inner.tail.end());
        let changes = inner.live.sender.subscribe();
        let bell = inner.live.bells.hang(inner.access.depends_on(&principal));
        let mut stream = LiveStream {
            node: inner,
            principal,
            grants,
            filter,
            at,
            newest,
            changes,
            bell,
            ready: VecDeque::new(),
            _permit: permit,
        };
        stream.snapshot().await?;
        Ok(stream)
    }

    /// Where changes of state are told, for services beside the node.
    pub fn live_hub(&self) -> &LiveHub {
        &self.inner.live
    }
}

impl LiveStream {
    /// The next that its reader may see; `None` when the reader may see nothing any more, the store fails, or the node
    /// drains. Await it to its end: cancelling may lose an event.
    pub async fn next(&mut self) -> Option<LiveEvent> {
        loop {
            if self.node.is_draining() || !self.refresh().await {
                return None;
            }
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            match self.read_reports().await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => return self.failed(&error),
            }
            tokio::select! {
                changed = self.newest.changed() => changed.ok()?,
                change = self.changes.recv() => {
                    let taken = match change {
                        Ok(change) => self.take(&change).await,
                        Err(broadcast::error::RecvError::Lagged(_)) => self.resync().await,
                        Err(broadcast::error::RecvError::Closed) => return None,
                    };
                    if let Err(error) = taken {
                        return self.failed(&error);
                    }
                }
                // What its reader may see may have changed.
                () = self.bell.rung() => {}
                () = self.node.stopping() => return None,
            }
        }
    }

    fn failed(&self, error: &StoreError) -> Option<LiveEvent> {
        tracing::error!(error = error as &dyn std::error::Error, principal = %self.principal, "a live stream ends");
        None
    }

    /// Asks again what the reader may see, if anything has changed since. What waits was decided by older grants.
    async fn refresh(&mut self) -> bool {
        if !self.bell.answer() {
            return true;
        }
        match self.node.access.standing(&self.principal).await {
            Ok(Standing::Current(grants)) => {
                if grants.tuples != self.grants.tuples {
                    self.ready.clear();
                    self.grants = grants;
                    return self.resync().await.is_ok();
                }
                true
            }
            Ok(Standing::Revoked) => false,
            Err(error) => self.failed(&error).is_some(),
        }
    }

    /// Whether there may be more at once.
    async fn read_reports(&mut self) -> Result<bool, StoreError> {
        let Some(at) = self.at.or_else(|| self.node.tail.start()) else { return Ok(false) };
        let events = match self.node.tail.after(at) {
            After::Nothing => {
                self.at = Some(at);
                return Ok(false);
            }
            After::Batch(batch) => batch.events,
            After::Log => self.node.stores.telemetry.after(&self.node.id, at, LOG_PAGE).await?.into(),
        };
        for event in events.iter() {
            if let Some(event) = self.report(event).await? {
                self.ready.push_back(event);
            }
        }
        self.at = Some(events.last().map_or(at, |event| event.sequence));
        Ok(!events.is_empty())
    }

    async fn report(&self, stored: &StoredEvent) -> Result<Option<LiveEvent>, StoreError> {
        let event = &stored.event;
        let kind = match event.report {
            Report::Telemetry(_) => LiveKind::Telemetry,
            Report::Event { .. } => LiveKind::Event,
        };
        let wanted = event.tenant == self.principal.tenant
            && self.filter.wants(kind)
            && (self.filter.devices.is_empty() || self.filter.devices.contains(&event.device));
        if !wanted || !self.sees(kind, &event.device, Some(event.epoch)).await? {
            return Ok(None);
        }
        let id = EventId { node: self.node.id.clone(), sequence: stored.sequence };
        Ok(Some(LiveEvent { id: Some(id), kind, data: report_body(stored) }))
    }

    /// Whether the reader may see something of a device now.
    async fn sees(&self, kind: LiveKind, device: &DeviceId, epoch: Option<OwnershipEpoch>) -> Result<bool, StoreError> {
        let node = &self.node;
        let found = node.directory.device(&*node.stores.meta, &self.principal.tenant, device).await?;
        let Some(record) = found.filter(|record| epoch.is_none_or(|epoch| record.epoch == epoch)) else {
            return Ok(false);
        };
        Ok(self.covers(&record) && self.permits(kind, &record, node.clock.timestamp()))
    }

    fn covers(&self, device: &Device) -> bool {
        self.filter.home.is_none() || device.home == self.filter.home
    }

    fn permits(&self, kind: LiveKind, device: &Device, now: Timestamp) -> bool {
        check(&self.grants, kind.permission(), &Resource::device(device), now).allow
    }

    async fn take(&mut self, change: &LiveChange) -> Result<(), StoreError> {
        let wanted = change.tenant == self.principal.tenant
            && self.filter.wants(change.kind)
            && (self.filter.devices.is_empty() || self.filter.devices.contains(&change.device));
        if wanted && self.sees(change.kind, &change.device, change.epoch).await? {
            self.ready.push_back(LiveEvent { id: None, kind: change.kind, data: change.data.clone() });
        }
        Ok(())
    }

    async fn resync(&mut self) -> Result<(), StoreError> {
        self.ready.push_back(LiveEvent { id: None, kind: LiveKind::Resync, data: json!({}) });
        self.snapshot().await
    }

    /// The present state: who is connected, which alarms are raised.
    async fn snapshot(&mut self) -> Result<(), StoreError> {
        if self.filter.wants(LiveKind::Presence) {
            for (device, presence) in self.presences().await? {
                if self.sees(LiveKind::Presence, &device, None).await? {
                    let data = presence_body(&device, &presence);
                    self.ready.push_back(LiveEvent { id: None, kind: LiveKind::Presence, data });
                }
            }
        }
        if self.filter.wants(LiveKind::Alarm) {
            self.raised_alarms().await?;
        }
        Ok(())
    }

    async fn presences(&self) -> Result<Vec<(DeviceId, Presence)>, StoreError> {
        let (node, tenant) = (&self.node, &self.principal.tenant);
        let named: Vec<DeviceId> = match (&self.filter.home, self.filter.devices.is_empty()) {
            (_, false) => self.filter.devices.iter().cloned().collect(),
            (Some(home), true) => {
                let meta = &node.stores.meta;
                let page = meta.page::<Device>("home", &format!("{tenant}/{home}"), None, SNAPSHOT_MAX).await?;
                page.items.into_iter().map(|stored| stored.document.id).collect()
            }
            (None, true) => {
                let mut all = node.presences_of(tenant);
                all.truncate(SNAPSHOT_MAX as usize);
                return Ok(all);
            }
        };
        Ok(named.into_iter().filter_map(|id| Some((id.clone(), node.presence(tenant, &id)?))).collect())
    }

    async fn raised_alarms(&mut self) -> Result<(), StoreError> {
        let meta = self.node.stores.meta.clone();
        let index = Index::new("alarm", "active", self.principal.tenant.as_str());
        if meta.count(&index).await? == 0 {
            return Ok(());
        }
        let page = meta.page::<Alarm>("active", self.principal.tenant.as_str(), None, SNAPSHOT_MAX).await?;
        for alarm in page.items.into_iter().map(|stored| stored.document) {
            self.take(&alarm_change(&alarm)).await?;
        }
        Ok(())
    }
}

fn presence_body(device: &DeviceId, presence: &Presence) -> serde_json::Value {
    json!({
        "device": device, "online": presence.is_online(), "state": presence.state.code(), "since": presence.since,
        "cause": presence.cause, "epoch": presence.epoch,
    })
}

fn alarm_change(alarm: &Alarm) -> LiveChange {
    let data = json!({
        "device": alarm.device, "name": alarm.name, "active": alarm.active, "since": alarm.since, "text": alarm.text,
    });
    let (tenant, device) = (alarm.tenant.clone(), alarm.device.clone());
    LiveChange { tenant, device, epoch: Some(alarm.epoch), kind: LiveKind::Alarm, data }
}

fn report_body(stored: &StoredEvent) -> serde_json::Value {
    let event = &stored.event;
    match &event.report {
        Report::Telemetry(values) => {
            let values: serde_json::Map<_, _> =
                values.iter().map(|(metric, value)| (metric.to_string(), plain(value))).collect();
            json!({"device": event.device, "at": event.at, "received": event.received, "values": values})
        }
        Report::Event { name, data } => {
            json!({"device": event.device, "at": event.at, "received": event.received, "name": name, "data": data})
        }
    }
}

/// A value as JSON can write it: NaN and the infinities are texts.
pub(crate) fn plain(value: &Value) -> serde_json::Value {
    match value {
        Value::Bool(value) => (*value).into(),
        Value::Int(value) => (*value).into(),
        Value::Float(value) => {
            serde_json::Number::from_f64(*value).map_or_else(|| value.to_string().into(), Into::into)
        }
        Value::Text(text) => text.clone().into(),
        Value::Json(json) => json.clone(),
    }
}
