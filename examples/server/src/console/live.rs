//! What changes while a page is open: one server-sent event a second.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract,
    response::{
        IntoResponse,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::stream::unfold;
use iot_conn::node::Alarm;
use iot_core::{
    access::{Access, Grants, Permission, Principal, Resource, Standing, check},
    device::Device,
    id::{DeviceId, TenantId},
    problem::Problem,
    store::{Document, Index, MetaStoreExt, StoreError, Stored},
};
use iot_http::{Identity, ProblemResponse, Query};
use iot_ota::rollout::{Rollout, State};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::{Console, page::Answer, show};

/// The most streams of the vendor's people and applications; a further page is without.
const VENDOR_STREAMS_MAX: usize = 64;
/// The most streams of people with homes.
const PEOPLE_STREAMS_MAX: usize = 256;
/// The most devices that one page watches.
const WATCHED_MAX: usize = 100;
/// The most rollouts that are looked at to count those that are running.
const ROLLOUTS_SEEN_MAX: u32 = 200;
/// Every so many seconds it is asked whether the reader may still read, and counts are taken anew.
const ASKED_EVERY: u64 = 5;

#[derive(Deserialize)]
pub(super) struct Watch {
    /// Device ids, with commas.
    #[serde(default)]
    devices: String,
}

/// The figures of the overview, as text.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Figures {
    pub(super) online: String,
    pub(super) devices: String,
    pub(super) rate: String,
    pub(super) p99: String,
    pub(super) open: String,
    pub(super) alarms: String,
    pub(super) rollouts: String,
}

impl Figures {
    pub(super) fn of(console: &Console, counts: Counts) -> Self {
        let sample = console.pulse.latest();
        Self {
            online: console.node.online_len().to_string(),
            devices: counts.devices.to_string(),
            rate: show::number(sample.rate),
            p99: sample.command_p99_s.map_or_else(|| "–".to_owned(), show::seconds),
            open: console.node.commander().open_len().to_string(),
            alarms: counts.alarms.to_string(),
            rollouts: counts.rollouts.to_string(),
        }
    }
}

/// What is counted in the store.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counts {
    pub(super) devices: u64,
    pub(super) alarms: u64,
    /// Those that are running, among the first [`ROLLOUTS_SEEN_MAX`].
    pub(super) rollouts: usize,
}

impl Counts {
    pub(super) async fn of(console: &Console, tenant: &TenantId) -> Result<Self, StoreError> {
        let meta = console.meta();
        let seen = meta.page::<Rollout>("tenant", tenant.as_str(), None, ROLLOUTS_SEEN_MAX).await?;
        let is_running = |stored: &&Stored<Rollout>| stored.document.state == State::Running;
        Ok(Self {
            rollouts: seen.items.iter().filter(is_running).count(),
            devices: meta.count(&Index::new(Device::KIND, "tenant", tenant.as_str())).await?,
            alarms: meta.count(&Index::new(Alarm::KIND, "active", tenant.as_str())).await?,
        })
    }
}

/// One event.
#[derive(Serialize)]
struct Beat {
    /// For those who see all of the tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<Figures>,
    /// Of the line of messages per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    points: Option<String>,
    /// Of the devices that are watched and may be seen.
    online: BTreeMap<String, bool>,
}

/// How many streams are open, the vendor's and those of people apart: neither takes the other's place.
#[derive(Debug, Clone)]
pub(super) struct Streams {
    vendor: Arc<Semaphore>,
    people: Arc<Semaphore>,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            vendor: Arc::new(Semaphore::new(VENDOR_STREAMS_MAX)),
            people: Arc::new(Semaphore::new(PEOPLE_STREAMS_MAX)),
        }
    }
}

/// What a reader sees, as of when it was asked last.
enum Sees {
    /// All of the tenant, and its figures.
    All(Counts),
    /// These of the devices that are watched.
    Some(Vec<DeviceId>),
}

struct Reader {
    console: Console,
    principal: Principal,
    watched: Vec<DeviceId>,
    sees: Sees,
    ticks: watch::Receiver<u64>,
    beats: u64,
    _place: OwnedSemaphorePermit,
}

/// The stream; it ends with the server, and when its reader may no longer read.
pub(super) async fn stream(
    extract::State(console): extract::State<Console>,
    who: Identity,
    Query(watch): Query<Watch>,
) -> Answer {
    let ids = watch.devices.split(',').take(WATCHED_MAX);
    let watched: Vec<DeviceId> = ids.filter_map(|id| DeviceId::parse(id).ok()).collect();
    let sees = sees(&console, &who.principal.tenant, &who.grants, &watched).await?;
    let places = match sees {
        Sees::All(_) => &console.streams.vendor,
        Sees::Some(_) => &console.streams.people,
    };
    let Ok(place) = places.clone().try_acquire_owned() else {
        let problem = Problem::new(503, "too_many_streams", "too many pages are live; reload to see newer figures");
        return Err(ProblemResponse(problem));
    };
    let ticks = console.pulse.ticks();
    let reader = Reader { watched, sees, ticks, principal: who.principal, beats: 0, _place: place, console };
    let events = unfold(reader, async |mut reader| {
        let event = reader.next().await?;
        Some((Ok::<_, Infallible>(event), reader))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))).into_response())
}

/// What these grants let somebody see now.
async fn sees(console: &Console, tenant: &TenantId, grants: &Grants, watched: &[DeviceId]) -> Result<Sees, StoreError> {
    let now = console.now();
    let may_read = |resource: &Resource| check(grants, Permission::ReadDevice, resource, now).allow;
    if may_read(&Resource::tenant(tenant)) {
        return Ok(Sees::All(Counts::of(console, tenant).await?));
    }
    let mut seen = Vec::new();
    for id in watched {
        // As it stands now: a device that has left the home is seen no more.
        let device = console.meta().find::<Device>(&Device::key_of(tenant, id)).await?;
        if device.is_some_and(|device| may_read(&Resource::device(&device.document))) {
            seen.push(id.clone());
        }
    }
    Ok(Sees::Some(seen))
}

impl Reader {
    async fn next(&mut self) -> Option<Event> {
        if self.beats > 0 {
            tokio::select! {
                tick = self.ticks.changed() => tick.ok()?,
                _ = self.console.stopped.wait_for(|stopped| *stopped) => return None,
            }
        }
        // What a household sees may end from one second to the next.
        if matches!(self.sees, Sees::Some(_)) || self.beats.is_multiple_of(ASKED_EVERY) {
            self.sees = self.ask().await?;
        }
        self.beats += 1;
        Event::default().json_data(self.beat()).ok()
    }

    /// `None` if the reader is signed out, or sees another part than before: its page is then to be opened anew.
    async fn ask(&self) -> Option<Sees> {
        let Ok(Standing::Current(grants)) = self.console.auth.standing(&self.principal).await else { return None };
        let sees = sees(&self.console, &self.principal.tenant, &grants, &self.watched).await.ok()?;
        (std::mem::discriminant(&sees) == std::mem::discriminant(&self.sees)).then_some(sees)
    }

    fn beat(&self) -> Beat {
        let online = |id: &DeviceId| {
            let presence = self.console.node.presence(&self.principal.tenant, id);
            (id.to_string(), presence.is_some_and(|presence| presence.is_online()))
        };
        match &self.sees {
            Sees::All(counts) => Beat {
                text: Some(Figures::of(&self.console, *counts)),
                points: Some(self.console.pulse.points()),
                online: self.watched.iter().map(online).collect(),
            },
            Sees::Some(devices) => Beat { text: None, points: None, online: devices.iter().map(online).collect() },
        }
    }
}
