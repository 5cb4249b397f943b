//! Routes of quotas. The path after `/v1/quotas/` is the scope.

use std::collections::HashMap;

use axum::{
    Json,
    extract::{FromRequestParts, MatchedPath, State},
    http::{StatusCode, request::Parts},
};
use iot_core::{
    access::Permission,
    device::{Device, Product},
    id::TenantId,
    problem::{Cursor, Problem},
    quota::{self, PutQuota, QUOTAS_MAX, Quota, QuotaError, Scope, StoredQuota},
    store::{MetaStoreExt, Stored},
    time::Timestamp,
};
use iot_http::{Body, Doc, Guard, Identity, Items, PageQuery, Path, ProblemResponse, Routes, problem::unavailable};
use serde::Serialize;
use serde_json::{Value, json};

use crate::node::{Node, QuotaUse};

const ROOT: &str = "/v1/quotas/";

/// What a tenant limits by itself. Its own quota is set by who runs the server: it can be read only.
const OWN: [&str; 6] = [
    "/v1/quotas/products/{product}",
    "/v1/quotas/products/{product}/devices",
    "/v1/quotas/devices/{device}",
    "/v1/quotas/users",
    "/v1/quotas/accounts/{account}",
    "/v1/quotas/tokens/{token}",
];

pub(super) fn register(routes: Routes<Node>) -> Routes<Node> {
    let (read, manage) = (Guard::Tenant(Permission::ReadDevice), Guard::Tenant(Permission::ManageQuotas));
    let quota = json!({
        "connections_max": 1000, "publishes": {"per_s": 10, "burst": 100}, "bytes": {"per_s": 10_000, "burst": 100_000},
        "payload_bytes_max": 65_536, "subscriptions_max": 20, "inflight_max": 16,
    });
    let shown = json!({
        "scope": "products/demo", "quota": quota, "changed": "2026-11-23T00:00:00Z",
        "used": {
            "connections": 5, "publishes_slowed": 0, "publishes_refused": 0, "connections_refused": 0,
            "subscriptions_refused": 0,
        },
    });
    let all = Doc::new("Quotas, with what each has limited on this node since it started")
        .paged()
        .response(200, json!({"items": [&shown], "next": null}));
    let one = || Doc::new("One quota").response(200, shown.clone());
    let mut routes = routes.get("/v1/quotas", read, all, list).get("/v1/quotas/tenant", read, one(), show);
    for path in OWN {
        let set = Doc::new("Set a quota, in place of what its scope had; a limit that is left out is none")
            .request(quota.clone())
            .response(200, shown.clone());
        let lift = Doc::new("Lift a quota").response(204, Value::Null);
        routes = routes.get(path, read, one(), show).put(path, manage, set, put).delete(path, manage, lift, remove);
    }
    routes
}

/// The scope that a path names.
struct Named(Scope);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ProblemResponse> {
        let Path(names) = Path::<HashMap<String, String>>::from_request_parts(parts, state).await?;
        let route = parts.extensions.get::<MatchedPath>().map(MatchedPath::as_str).unwrap_or_default();
        let named = |part: &str| match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
            Some(name) => names.get(name).cloned().unwrap_or_default(),
            None => part.to_owned(),
        };
        let text: Vec<_> = route.strip_prefix(ROOT).unwrap_or_default().split('/').map(named).collect();
        let scope = text.join("/").parse();
        scope.map(Self).map_err(|_| Problem::invalid("id_invalid", "an identifier in the path is malformed").into())
    }
}

#[derive(Serialize)]
struct View {
    scope: Scope,
    quota: Quota,
    changed: Timestamp,
    used: UseView,
}

#[derive(Serialize)]
struct UseView {
    #[serde(skip_serializing_if = "Option::is_none")]
    connections: Option<u64>,
    publishes_slowed: u64,
    publishes_refused: u64,
    connections_refused: u64,
    subscriptions_refused: u64,
}

impl From<QuotaUse> for UseView {
    fn from(used: QuotaUse) -> Self {
        Self {
            connections: used.connections,
            publishes_slowed: used.publishes_slowed,
            publishes_refused: used.publishes_refused,
            connections_refused: used.connections_refused,
            subscriptions_refused: used.subscriptions_refused,
        }
    }
}

impl View {
    async fn of(node: &Node, stored: StoredQuota) -> Result<Self, ProblemResponse> {
        let StoredQuota { tenant, scope, quota, changed } = stored;
        let used = node.quota_use(&tenant, &scope).await?.into();
        Ok(Self { scope, quota, changed, used })
    }
}

async fn list(State(node): State<Node>, who: Identity, page: PageQuery) -> Result<Items<View>, ProblemResponse> {
    let tenant = who.principal.tenant.as_str();
    let found = node.stores().meta.page::<StoredQuota>("tenant", tenant, page.after.as_ref(), page.limit).await?;
    let mut views = Vec::with_capacity(found.items.len());
    for stored in found.items {
        views.push(View::of(&node, stored.document).await?);
    }
    Ok(Items { items: views, next: found.next.as_ref().map(Cursor::encode) })
}

async fn show(State(node): State<Node>, who: Identity, Named(scope): Named) -> Result<Json<View>, ProblemResponse> {
    let key = StoredQuota::key_of(&who.principal.tenant, &scope);
    let found: Option<Stored<StoredQuota>> = node.stores().meta.find(&key).await?;
    let Some(stored) = found else { return Err(Problem::not_found("quota").into()) };
    View::of(&node, stored.document).await.map(Json)
}

async fn put(
    State(node): State<Node>,
    who: Identity,
    Named(scope): Named,
    Body(quota): Body<Quota>,
) -> Result<Json<View>, ProblemResponse> {
    let tenant = who.principal.tenant.clone();
    if let Some(missing) = missing(&node, &tenant, &scope).await? {
        return Err(Problem::not_found(missing).into());
    }
    let stored = StoredQuota { tenant, scope, quota, changed: node.clock().timestamp() };
    match quota::put(&*node.stores().meta, &who.principal.to_string(), &stored).await.map_err(refused)? {
        PutQuota::Done => View::of(&node, stored).await.map(Json),
        PutQuota::Invalid(invalid) => Err(Problem::invalid("quota_invalid", invalid.to_string()).into()),
        _ => {
            let detail = format!("a tenant has at most {QUOTAS_MAX} quotas; limit each device of a product at once");
            Err(Problem::conflict("quotas_full", detail).into())
        }
    }
}

async fn remove(State(node): State<Node>, who: Identity, Named(scope): Named) -> Result<StatusCode, ProblemResponse> {
    let (meta, actor) = (&*node.stores().meta, who.principal.to_string());
    match quota::remove(meta, &actor, &who.principal.tenant, &scope, node.clock().timestamp()).await.map_err(refused)? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::not_found("quota").into()),
    }
}

/// What a scope names that is not there, as far as this crate knows it: a slip of the pen would limit nobody.
async fn missing(node: &Node, tenant: &TenantId, scope: &Scope) -> Result<Option<&'static str>, ProblemResponse> {
    let meta = &node.stores().meta;
    Ok(match scope {
        Scope::Product(product) | Scope::EachDevice(product) => {
            let found: Option<Stored<Product>> = meta.find(&Product::key_of(tenant, product)).await?;
            found.is_none().then_some("product")
        }
        Scope::Device(device) => {
            let found: Option<Stored<Device>> = meta.find(&Device::key_of(tenant, device)).await?;
            found.is_none().then_some("device")
        }
        _ => None,
    })
}

fn refused(error: QuotaError) -> ProblemResponse {
    match error {
        QuotaError::Contended(_) => Problem::conflict("conflict", "others changed the same quota; try again").into(),
        error => unavailable(&error),
    }
}
