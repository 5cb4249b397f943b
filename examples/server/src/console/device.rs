//! One device: what it is, what it says, what was done to it.

use std::time::Duration;

use askama::Template;
use axum::extract::State;
use iot_core::{
    access::{Permission, Resource, Sight, check, sight, who_can},
    device::{Device, DeviceKey, KeyState, Stage},
    home::Home,
    id::{CommandId, Metric},
    store::{Aggregate, Bucket, LatestValue, MetaStoreExt, Series, StoreError},
    time::Timestamp,
};
use iot_http::{Identity, ProblemResponse, Query, Target};
use serde::Deserialize;

use super::{
    Console,
    command::{Asked, ReceiptShown},
    devices::{Choice, Row},
    ownership,
    page::{Answer, Shell, Wrong, account_name, page, page_as},
    show::{self, Moment},
    sign_in::sentence,
    timeline::{self, Happening},
    twin::{TwinShown, Wanted},
};

/// Spans of the chart: the word in the address, seconds, seconds of a bucket.
const SPANS: [(&str, u64, u64); 5] =
    [("15m", 900, 15), ("1h", 3_600, 60), ("6h", 21_600, 300), ("24h", 86_400, 900), ("7d", 604_800, 7_200)];

/// What of the device is looked at.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct View {
    metric: Option<Metric>,
    span: Option<String>,
    pub(super) command: Option<CommandId>,
    done: Option<String>,
}

#[derive(Template)]
#[template(path = "device.html")]
pub(super) struct DevicePage {
    shell: Shell,
    device: Row,
    /// What is printed on it, and its history: for its household.
    sees_printed: bool,
    /// The whole record: for the vendor.
    sees_all: bool,
    epoch: u64,
    created: Moment,
    keys: Vec<KeyShown>,
    values: Vec<ValueShown>,
    may_see_values: bool,
    may_control: bool,
    chart: Option<Chart>,
    /// What it should be and is; `None` for those who may not see that.
    twin: Option<TwinShown>,
    update: UpdateShown,
    allowed: Vec<AllowedShown>,
    /// Where its owner may move it; `None` for others.
    targets: Option<Vec<Choice>>,
    /// The name of its home; empty if it has none.
    home: String,
    asked: Asked,
    wanted: Wanted,
    wrong: Wrong,
    receipt: Option<ReceiptShown>,
    happenings: Vec<Happening>,
}

/// What it runs, and why it is updated or is not.
struct UpdateShown {
    /// Empty if it never said.
    runs: String,
    why: String,
}

/// Somebody of the device's home.
struct AllowedShown {
    name: String,
    relation: &'static str,
    controls: bool,
    ends: Option<Moment>,
}

struct KeyShown {
    fingerprint: String,
    active: bool,
    until: Moment,
}

struct ValueShown {
    metric: String,
    value: String,
    at: Moment,
}

/// The chosen metric over the chosen span.
struct Chart {
    metric: String,
    metrics: Vec<String>,
    span: &'static str,
    spans: [&'static str; 5],
    rows: Vec<ChartRow>,
    points: String,
}

struct ChartRow {
    seconds: i64,
    clock: String,
    mean: f64,
    min: f64,
    max: f64,
    count: u64,
}

impl ChartRow {
    #[expect(clippy::cast_precision_loss, reason = "a mean is a float")]
    fn of(bucket: &Bucket) -> Self {
        Self {
            seconds: bucket.start.as_millis() / 1_000,
            clock: Moment::clock(bucket.start),
            mean: bucket.sum / bucket.count as f64,
            min: bucket.min,
            max: bucket.max,
            count: bucket.count,
        }
    }
}

pub(super) async fn show(
    State(console): State<Console>,
    who: Identity,
    Target(device): Target<Device>,
    Query(view): Query<View>,
) -> Answer {
    let receipt = match &view.command {
        Some(id) => ReceiptShown::find(&console, &device.document, id).await?,
        None => None,
    };
    let shown = compose(&console, &who, device.document, view).await?;
    Ok(page(&DevicePage { receipt, ..shown }))
}

/// A form of the page that could not be carried out: what was sent, and what is wrong with it.
#[derive(Default)]
pub(super) struct Refused {
    pub(super) asked: Asked,
    pub(super) wanted: Wanted,
    pub(super) wrong: Wrong,
    pub(super) status: u16,
}

/// The page with a form that could not be carried out.
pub(super) async fn refused(console: &Console, who: &Identity, device: Device, refused: Refused) -> Answer {
    let shown = compose(console, who, device, View::default()).await?;
    let Refused { asked, wanted, wrong, status } = refused;
    let status = axum::http::StatusCode::from_u16(status).unwrap_or_default();
    Ok(page_as(status, &DevicePage { asked, wanted, wrong, ..shown }))
}

async fn compose(console: &Console, who: &Identity, device: Device, view: View) -> Result<DevicePage, ProblemResponse> {
    let now = console.now();
    let shell = Shell::of(console, who, "devices", device.id.as_str()).await?.noticing(view.done.as_deref());
    let may = |permission| check(&who.grants, permission, &Resource::device(&device), now).allow;
    let series = Series { tenant: device.tenant.clone(), device: device.id.clone(), epoch: device.epoch };
    let latest = match may(Permission::ReadState) {
        true => console.node.stores().telemetry.latest(&series).await?,
        false => Vec::new(),
    };
    let chart = match may(Permission::ReadTelemetry) {
        true => chart(console, series, &latest, &view).await?,
        false => None,
    };
    let happenings = timeline::of(console, &device, shell.may.audit).await?;
    let twin = match may(Permission::ReadState) {
        true => Some(TwinShown::read(console, &device).await?),
        false => None,
    };
    let runs = console.ota.runs(&device).await?;
    let update = UpdateShown {
        runs: runs.map(|runs| format!("{} on {}", runs.version, runs.hardware)).unwrap_or_default(),
        why: sentence(&console.ota.explain(&device).await?),
    };
    let home = home_of(console, &device).await?;
    let allowed = match &home {
        Some(home) if may(Permission::ReadHome) => allowed(console, &device, home).await?,
        _ => Vec::new(),
    };
    let targets = ownership::targets(console, who, &device).await?;
    let seen = sight(&who.grants, &device, now);
    Ok(DevicePage {
        sees_printed: seen >= Sight::Household,
        sees_all: seen >= Sight::Whole,
        shell,
        allowed,
        targets,
        home: home.map_or_else(String::new, |home| home.name),
        twin,
        update,
        epoch: device.epoch.0,
        created: Moment::of(device.created, now),
        keys: device.keys.iter().rev().map(|key| key_shown(key, now)).collect(),
        may_see_values: may(Permission::ReadState),
        may_control: may(Permission::Control) && device.stage != Stage::Retired,
        values: latest.iter().map(|value| value_shown(value, now)).collect(),
        chart,
        asked: Asked::default(),
        wanted: Wanted::default(),
        wrong: Wrong::default(),
        receipt: None,
        happenings,
        device: Row::of(console, device),
    })
}

async fn home_of(console: &Console, device: &Device) -> Result<Option<Home>, StoreError> {
    let Some(home) = &device.home else { return Ok(None) };
    Ok(console.meta().find::<Home>(&Home::key_of(&device.tenant, home)).await?.map(|stored| stored.document))
}

async fn allowed(console: &Console, device: &Device, home: &Home) -> Result<Vec<AllowedShown>, StoreError> {
    let now = console.now();
    let controllers = who_can(home, device, Permission::Control, now);
    let mut shown = Vec::new();
    for person in who_can(home, device, Permission::ReadState, now) {
        shown.push(AllowedShown {
            name: account_name(console, &device.tenant, &person.account).await?,
            relation: person.relation.name(),
            controls: controllers.iter().any(|one| one.account == person.account),
            ends: person.expires.map(|at| Moment::of(at, now)),
        });
    }
    Ok(shown)
}

fn key_shown(key: &DeviceKey, now: Timestamp) -> KeyShown {
    let fingerprint = key.fingerprint.get(..12).unwrap_or(&key.fingerprint).to_owned();
    KeyShown { fingerprint, active: key.state == KeyState::Active, until: Moment::of(key.not_after, now) }
}

fn value_shown(latest: &LatestValue, now: Timestamp) -> ValueShown {
    ValueShown { metric: latest.metric.to_string(), value: show::value(&latest.value), at: Moment::of(latest.at, now) }
}

async fn chart(
    console: &Console,
    series: Series,
    latest: &[LatestValue],
    view: &View,
) -> Result<Option<Chart>, StoreError> {
    let numeric = |value: &&LatestValue| value.value.as_f64().is_some();
    let metrics: Vec<&Metric> = latest.iter().filter(numeric).map(|value| &value.metric).collect();
    let wished = view.metric.as_ref().filter(|wished| metrics.contains(wished));
    // A fraction says more in a line than a switch does.
    let float = latest.iter().find(|value| matches!(value.value, iot_core::event::Value::Float(_)));
    let Some(metric) = wished.or(float.map(|value| &value.metric)).or(metrics.first().copied()) else {
        return Ok(None);
    };
    let span = SPANS.iter().find(|(word, ..)| view.span.as_deref() == Some(word)).unwrap_or(&SPANS[0]);
    let until = console.now().plus(Duration::from_micros(1));
    let aggregate = Aggregate {
        series,
        metric: metric.clone(),
        from: until.minus(Duration::from_secs(span.1)),
        until,
        bucket: Duration::from_secs(span.2),
    };
    let buckets = console.node.stores().telemetry.aggregate(&aggregate, 200).await?;
    let rows: Vec<ChartRow> = buckets.iter().map(ChartRow::of).collect();
    Ok(Some(Chart {
        metric: metric.to_string(),
        metrics: metrics.iter().map(ToString::to_string).collect(),
        span: span.0,
        spans: SPANS.map(|(word, ..)| word),
        points: show::points(&rows.iter().map(|row| row.mean).collect::<Vec<_>>(), rows.len()),
        rows,
    }))
}
