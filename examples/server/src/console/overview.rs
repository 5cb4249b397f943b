//! The first page: how the cloud is.

use askama::Template;
use axum::extract::State;
use iot_conn::node::Alarm;
use iot_core::store::{MetaStore, MetaStoreExt};
use iot_http::Identity;

use super::{
    Console,
    audit::{self, Entry},
    live::{Counts, Figures},
    page::{Answer, Shell, page, see},
    show::Moment,
};

/// How many alarms and audit entries are shown.
const SHOWN: u32 = 8;

#[derive(Template)]
#[template(path = "overview.html")]
struct Overview {
    shell: Shell,
    figures: Figures,
    has_devices: bool,
    points: String,
    alarms: Vec<Raised>,
    entries: Vec<Entry>,
}

struct Raised {
    device: String,
    name: String,
    text: String,
    since: Moment,
}

pub(super) async fn show(State(console): State<Console>, who: Identity) -> Answer {
    let tenant = &who.principal.tenant;
    let now = console.now();
    let shell = Shell::of(&console, &who, "overview", "Overview").await?;
    if !shell.may.read {
        return Ok(see("/homes"));
    }
    let counts = Counts::of(&console, tenant).await?;
    let found = console.meta().page::<Alarm>("active", tenant.as_str(), None, SHOWN).await?;
    let raised = |alarm: Alarm| Raised {
        device: alarm.device.to_string(),
        name: alarm.name,
        text: alarm.text,
        since: Moment::of(alarm.since, now),
    };
    let mut entries = Vec::new();
    if shell.may.audit {
        let newest = MetaStore::audit(&**console.meta(), tenant, None, SHOWN).await?;
        entries = audit::shown(&console, tenant, newest.items).await?;
    }
    Ok(page(&Overview {
        shell,
        figures: Figures::of(&console, counts),
        has_devices: counts.devices > 0,
        points: console.pulse.points(),
        alarms: found.items.into_iter().map(|stored| raised(stored.document)).collect(),
        entries,
    }))
}
