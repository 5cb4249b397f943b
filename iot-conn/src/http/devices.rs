use axum::{Json, extract::State};
use iot_core::{
    access::{Object, Permission, Resource, Sight, check, sight},
    device::{Device, DeviceKey, KeyState, Stage},
    id::{HomeId, ProductId},
    store::{INDEX_PAGE_MAX, Index, MetaStoreExt},
    time::Timestamp,
};
use iot_http::{Identity, Items, PageQuery, ProblemResponse, Query, Target};
use serde::{Deserialize, Serialize};

use crate::node::{Alarm, Node, Presence};

#[derive(Deserialize)]
pub(super) struct Filter {
    product: Option<ProductId>,
    home: Option<HomeId>,
}

#[derive(Serialize)]
pub(super) struct DeviceView {
    id: String,
    product: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    p_code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stage: Option<Stage>,
    epoch: u64,
    home: Option<HomeId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<Vec<KeyView>>,
    connection: Option<PresenceView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<Timestamp>,
}

#[derive(Serialize)]
struct KeyView {
    fingerprint: String,
    state: KeyState,
    not_after: Timestamp,
}

#[derive(Serialize)]
pub(super) struct PresenceView {
    online: bool,
    state: &'static str,
    since: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
    epoch: u64,
}

impl PresenceView {
    pub(super) fn new(presence: Presence) -> Self {
        Self {
            online: presence.is_online(),
            state: presence.state.code(),
            since: presence.since,
            cause: presence.cause.map(Into::into),
            epoch: presence.epoch,
        }
    }
}

impl DeviceView {
    /// What these eyes may see of it.
    fn new(device: Device, node: &Node, sight: Sight) -> Self {
        let presence = node.presence(&device.tenant, &device.id);
        let key = |key: DeviceKey| KeyView { fingerprint: key.fingerprint, state: key.state, not_after: key.not_after };
        Self {
            id: device.id.to_string(),
            product: device.product.to_string(),
            p_code: (sight >= Sight::Household).then(|| device.p_code.to_string()),
            stage: (sight >= Sight::Household).then_some(device.stage),
            epoch: device.epoch.0,
            home: device.home,
            keys: (sight >= Sight::Whole).then(|| device.keys.into_iter().map(key).collect()),
            connection: presence.map(PresenceView::new),
            created: (sight >= Sight::Whole).then_some(device.created),
        }
    }
}

pub(super) async fn list(
    State(node): State<Node>,
    identity: Identity,
    page: PageQuery,
    Query(filter): Query<Filter>,
) -> Result<Items<DeviceView>, ProblemResponse> {
    let (tenant, now) = (&identity.principal.tenant, node.clock().timestamp());
    if !check(&identity.grants, Permission::ReadDevice, &Resource::tenant(tenant), now).allow {
        return of_homes(&node, &identity, &filter).await;
    }
    let (index, value) = match (&filter.product, &filter.home) {
        (None, None) => ("tenant", tenant.to_string()),
        (Some(product), None) => ("product", format!("{tenant}/{product}")),
        (None, Some(home)) => ("home", format!("{tenant}/{home}")),
        (Some(_), Some(_)) => return Err(super::query_invalid("filter by product or by home, not by both").into()),
    };
    let found = node.stores().meta.page::<Device>(index, &value, page.after.as_ref(), page.limit).await?;
    Ok(Items::of(found, |stored| DeviceView::new(stored.document, &node, Sight::Whole)))
}

/// What stands in the homes that somebody has a part in. It is one page: homes and what stands in them are bounded.
async fn of_homes(node: &Node, identity: &Identity, filter: &Filter) -> Result<Items<DeviceView>, ProblemResponse> {
    let now = node.clock().timestamp();
    let mut items = Vec::new();
    for tuple in &*identity.grants.tuples {
        let Object::Home(tenant, home) = &tuple.object else { continue };
        if filter.home.as_ref().is_some_and(|wanted| wanted != home) {
            continue;
        }
        let meta = &node.stores().meta;
        let found = meta.page::<Device>("home", &format!("{tenant}/{home}"), None, INDEX_PAGE_MAX).await?;
        for device in found.items.into_iter().map(|stored| stored.document) {
            let sight = sight(&identity.grants, &device, now);
            if sight > Sight::Nothing && filter.product.as_ref().is_none_or(|wanted| *wanted == device.product) {
                items.push(DeviceView::new(device, node, sight));
            }
        }
    }
    Ok(Items { items, next: None })
}

pub(super) async fn show(
    State(node): State<Node>,
    identity: Identity,
    Target(device): Target<Device>,
) -> Json<DeviceView> {
    let sight = sight(&identity.grants, &device.document, node.clock().timestamp());
    Json(DeviceView::new(device.document, &node, sight))
}

#[derive(Deserialize)]
pub(super) struct AlarmFilter {
    #[serde(default)]
    active: bool,
}

#[derive(Serialize)]
pub(super) struct AlarmView {
    device: String,
    epoch: u64,
    name: String,
    active: bool,
    since: Timestamp,
    text: String,
    cause: String,
}

pub(super) async fn alarms(
    State(node): State<Node>,
    identity: Identity,
    page: PageQuery,
    Query(filter): Query<AlarmFilter>,
) -> Result<Items<AlarmView>, ProblemResponse> {
    let index = if filter.active { "active" } else { "tenant" };
    let tenant = identity.principal.tenant.as_str();
    let found = node.stores().meta.page::<Alarm>(index, tenant, page.after.as_ref(), page.limit).await?;
    Ok(Items::of(found, |stored| {
        let alarm = stored.document;
        AlarmView {
            device: alarm.device.to_string(),
            epoch: alarm.epoch.0,
            name: alarm.name,
            active: alarm.active,
            since: alarm.since,
            text: alarm.text,
            cause: alarm.cause,
        }
    }))
}

#[derive(Deserialize)]
pub(super) struct Newest {
    limit: Option<usize>,
}

#[derive(Serialize)]
pub(super) struct Connections {
    items: Vec<PresenceView>,
}

/// The most that are answered.
const CONNECTIONS_MAX: usize = 1_000;

pub(super) async fn connections(
    State(node): State<Node>,
    Target(device): Target<Device>,
    Query(newest): Query<Newest>,
) -> Result<Json<Connections>, ProblemResponse> {
    let limit = newest.limit.unwrap_or(100);
    if !(1..=CONNECTIONS_MAX).contains(&limit) {
        return Err(super::query_invalid("limit is 1 to 1000").into());
    }
    let found = node.connections(&device.document, limit).await?;
    Ok(Json(Connections { items: found.into_iter().map(PresenceView::new).collect() }))
}

#[derive(Serialize)]
pub(super) struct StatusView {
    devices: u64,
    online: usize,
    sessions: usize,
    commands_open: usize,
}

pub(super) async fn status(State(node): State<Node>, identity: Identity) -> Result<Json<StatusView>, ProblemResponse> {
    let tenant = identity.principal.tenant.as_str();
    Ok(Json(StatusView {
        devices: node.stores().meta.count(&Index::new("device", "tenant", tenant)).await?,
        online: node.online_len(),
        sessions: node.sessions_len(),
        commands_open: node.commander().open_len(),
    }))
}
