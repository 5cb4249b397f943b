//! Figures that change while a page is open: one server-sent event a second.

use std::{collections::BTreeMap, convert::Infallible, time::Duration};

use axum::{
    extract::State,
    response::{
        IntoResponse,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::stream::unfold;
use iot_conn::node::Alarm;
use iot_core::{
    access::{Access, Permission, Principal, Resource, Standing, check},
    device::Device,
    id::{DeviceId, TenantId},
    problem::Problem,
    store::{Document, Index, StoreError},
};
use iot_http::{Identity, ProblemResponse, Query};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::{Console, page::Answer, show};

/// The most devices that one page watches.
const WATCHED_MAX: usize = 100;
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
        }
    }
}

/// What is counted in the store.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counts {
    pub(super) devices: u64,
    pub(super) alarms: u64,
}

impl Counts {
    pub(super) async fn of(console: &Console, tenant: &TenantId) -> Result<Self, StoreError> {
        let meta = console.meta();
        Ok(Self {
            devices: meta.count(&Index::new(Device::KIND, "tenant", tenant.as_str())).await?,
            alarms: meta.count(&Index::new(Alarm::KIND, "active", tenant.as_str())).await?,
        })
    }
}

/// One event.
#[derive(Serialize)]
struct Beat {
    text: Figures,
    /// Of the line of messages per second.
    points: String,
    /// Of the devices that are watched.
    online: BTreeMap<String, bool>,
}

struct Reader {
    console: Console,
    principal: Principal,
    watched: Vec<DeviceId>,
    counts: Counts,
    ticks: watch::Receiver<u64>,
    beats: u64,
    _place: OwnedSemaphorePermit,
}

/// The stream; it ends with the server, and when its reader may no longer read.
pub(super) async fn stream(State(console): State<Console>, who: Identity, Query(watch): Query<Watch>) -> Answer {
    let Ok(place) = console.streams.clone().try_acquire_owned() else {
        let problem = Problem::new(503, "too_many_streams", "too many pages are live; reload to see newer figures");
        return Err(ProblemResponse(problem));
    };
    let ids = watch.devices.split(',').take(WATCHED_MAX);
    let reader = Reader {
        watched: ids.filter_map(|id| DeviceId::parse(id).ok()).collect(),
        counts: Counts::of(&console, &who.principal.tenant).await?,
        ticks: console.pulse.ticks(),
        principal: who.principal,
        beats: 0,
        _place: place,
        console,
    };
    let events = unfold(reader, async |mut reader| {
        let event = reader.next().await?;
        Some((Ok::<_, Infallible>(event), reader))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))).into_response())
}

impl Reader {
    async fn next(&mut self) -> Option<Event> {
        if self.beats > 0 {
            tokio::select! {
                tick = self.ticks.changed() => tick.ok()?,
                _ = self.console.stopped.wait_for(|stopped| *stopped) => return None,
            }
        }
        if self.beats.is_multiple_of(ASKED_EVERY) {
            if !self.may_read().await {
                return None;
            }
            self.counts = Counts::of(&self.console, &self.principal.tenant).await.ok()?;
        }
        self.beats += 1;
        Event::default().json_data(self.beat()).ok()
    }

    async fn may_read(&self) -> bool {
        let Ok(Standing::Current(grants)) = self.console.auth.standing(&self.principal).await else { return false };
        let tenant = Resource::tenant(&self.principal.tenant);
        check(&grants, Permission::ReadDevice, &tenant, self.console.now()).allow
    }

    fn beat(&self) -> Beat {
        let online = |id: &DeviceId| {
            let presence = self.console.node.presence(&self.principal.tenant, id);
            (id.to_string(), presence.is_some_and(|presence| presence.online))
        };
        Beat {
            text: Figures::of(&self.console, self.counts),
            points: self.console.pulse.points(),
            online: self.watched.iter().map(online).collect(),
        }
    }
}
