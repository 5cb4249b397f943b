use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use iot_core::{
    access::{Considered, Grants, Object, Permission, Resource, explain, who_can},
    binding::{BindRefusal, Binding, Owned},
    device::Device,
    home::Home,
    id::{AccountId, DeviceId, HomeId, OwnershipEpoch, PCode},
    problem::Problem,
    secret::Secret,
    store::MetaStoreExt,
    time::Timestamp,
};
use iot_http::{
    Body, Doc, Guard, Identity, Items, Person, ProblemResponse, Query, Routes, Target, identity::Connection,
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;

use crate::{
    auth::Auth,
    binding::{BindAsked, Bound},
};

pub(super) fn register(routes: Routes<Arc<Auth>>) -> Routes<Arc<Auth>> {
    let (own, read) = (Guard::Device(Permission::OwnHome), Guard::Device(Permission::ReadHome));
    let bound = json!({ "device": "lamp-1", "home": "h1", "epoch": 1 });
    let bind_doc = Doc::new("Bind a device to a home by the code that it shows")
        .request(json!({ "code": "1PFX-9QYS-2M4N-0T7K-C3VB-8ZGH-5D", "home": "h1", "p_code": "AB12-CD34" }))
        .response(201, bound);
    let show_doc = Doc::new("The binding of a device, and when others tried to bind it")
        .response(200, json!({ "device": "lamp-1", "home": "h1", "epoch": 1, "attempts": ["2026-11-23T00:00:00Z"] }));
    let move_doc = Doc::new("Move a device to another home of its owner")
        .request(json!({ "home": "h2" }))
        .response(200, json!({ "device": "lamp-1", "home": "h2", "epoch": 1 }));
    let unbind_doc = Doc::new("Release a device: nothing of its owner's time is valid any more")
        .response(200, json!({ "device": "lamp-1", "home": null, "epoch": 2 }));
    let access_doc = Doc::new("Which members of its home may do something to a device")
        .query("permission", "which one, `read_device` where nothing is said")
        .response(
            200,
            json!({ "items": [{ "account": "mfrggzdfmztwq2lk", "relation": "owner", "expires": null }], "next": null }),
        );
    let explain_doc = Doc::new("Why an account may or may not do something to a device, by what it is to the home")
        .query("account", "which account")
        .query("permission", "which permission, such as `control`")
        .response(
            200,
            json!({
                "allow": false, "reason": "not_permitted",
                "considered": [{ "relation": "guest", "home": "h1", "expires": null, "verdict": "not_permitted" }],
            }),
        );
    routes
        .post("/v1/bindings", Guard::Account, bind_doc, bind)
        .get("/v1/devices/{device}/binding", own, show_doc, show)
        .put("/v1/devices/{device}/binding", own, move_doc, move_home)
        .delete("/v1/devices/{device}/binding", own, unbind_doc, unbind)
        .get("/v1/devices/{device}/access", read, access_doc, access)
        .get("/v1/devices/{device}/access/explain", read, explain_doc, explained)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BindBody {
    #[serde(default, deserialize_with = "optional_secret")]
    code: Option<Secret>,
    home: HomeId,
    device: Option<DeviceId>,
    p_code: Option<PCode>,
}

fn optional_secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Secret>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(Secret::new))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MoveBody {
    home: HomeId,
}

#[derive(Serialize)]
struct BindingShown {
    device: DeviceId,
    home: Option<HomeId>,
    epoch: OwnershipEpoch,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<Vec<Timestamp>>,
}

impl BindingShown {
    fn of(device: Device) -> Self {
        Self { device: device.id, home: device.home, epoch: device.epoch, attempts: None }
    }
}

async fn bind(
    State(auth): State<Arc<Auth>>,
    person: Person,
    connection: Connection,
    Body(asked): Body<BindBody>,
) -> Result<(StatusCode, Json<BindingShown>), ProblemResponse> {
    let BindBody { code, home, device, p_code } = asked;
    if device.is_none() && p_code.is_none() {
        let detail = "device or p_code: say which device was meant, so that no other is bound";
        return Err(Problem::invalid("body_invalid", detail).into());
    }
    let asked = BindAsked { code, home, device, p_code };
    match auth.bind(&person.principal, &asked, connection.peer.ip()).await? {
        Bound::Done(device) => Ok((StatusCode::CREATED, Json(BindingShown::of(*device)))),
        Bound::Refused(why) => Err(problem(why).into()),
    }
}

/// The same words for every device: they say what is wrong with the code, and nothing about what there is.
fn problem(why: BindRefusal) -> Problem {
    let code = |detail: &'static str| Problem::new(403, why.code(), detail);
    match why {
        BindRefusal::CodeRequired => code("send the code that the device shows while somebody is beside it"),
        BindRefusal::CodeMismatch => code("this is not a code of that device"),
        BindRefusal::CodeUsed => code("the code has been used; let the device show another"),
        BindRefusal::CodeExpired => code("the code has expired; let the device show another"),
        BindRefusal::CodeSuperseded => code("the device shows a newer code"),
        BindRefusal::AlreadyBound => {
            Problem::conflict(why.code(), "the device has an owner, who must release it first and has been told")
        }
        BindRefusal::DevicesFull => Problem::conflict(why.code(), "the home has as many devices as it can have"),
        BindRefusal::Throttled => Problem::new(429, why.code(), "too many wrong codes; wait ten minutes"),
        _ => Problem::forbidden(),
    }
}

async fn show(
    State(auth): State<Arc<Auth>>,
    Target(device): Target<Device>,
) -> Result<Json<BindingShown>, ProblemResponse> {
    let key = Binding::key_of(&device.document.tenant, &device.document.id);
    let codes = auth.meta.find::<Binding>(&key).await?;
    let attempts = codes.map_or_else(Vec::new, |codes| codes.document.attempts);
    Ok(Json(BindingShown { attempts: Some(attempts), ..BindingShown::of(device.document) }))
}

async fn move_home(
    State(auth): State<Arc<Auth>>,
    who: Identity,
    Target(device): Target<Device>,
    Body(asked): Body<MoveBody>,
) -> Result<Json<BindingShown>, ProblemResponse> {
    owned(auth.move_bound(&who.principal, &device.document.id, &asked.home).await?)
}

async fn unbind(
    State(auth): State<Arc<Auth>>,
    who: Identity,
    Target(device): Target<Device>,
) -> Result<Json<BindingShown>, ProblemResponse> {
    owned(auth.unbind(&who.principal, &device.document.id).await?)
}

fn owned(owned: Owned) -> Result<Json<BindingShown>, ProblemResponse> {
    Err(match owned {
        Owned::Changed(device) => return Ok(Json(BindingShown::of(*device))),
        Owned::NotBound => Problem::conflict("not_bound", "the device has no owner"),
        Owned::DevicesFull => Problem::conflict("devices_full", "the home has as many devices as it can have"),
        Owned::Forbidden => Problem::forbidden(),
    }
    .into())
}

#[derive(Deserialize)]
struct AccessQuery {
    permission: Option<String>,
}

#[derive(Deserialize)]
struct ExplainQuery {
    account: AccountId,
    permission: String,
}

#[derive(Serialize)]
struct AllowedShown {
    account: AccountId,
    relation: &'static str,
    expires: Option<Timestamp>,
}

#[derive(Serialize)]
struct ExplanationShown {
    allow: bool,
    reason: &'static str,
    considered: Vec<ConsideredShown>,
}

#[derive(Serialize)]
struct ConsideredShown {
    relation: &'static str,
    home: Option<HomeId>,
    expires: Option<Timestamp>,
    verdict: &'static str,
}

impl ConsideredShown {
    fn of(considered: Considered) -> Self {
        let Considered { tuple, verdict } = considered;
        let home = match tuple.object {
            Object::Home(_, home) => Some(home),
            _ => None,
        };
        Self { relation: tuple.relation.name(), home, expires: tuple.expires, verdict: verdict.code() }
    }
}

async fn access(
    State(auth): State<Arc<Auth>>,
    Target(device): Target<Device>,
    Query(asked): Query<AccessQuery>,
) -> Result<Items<AllowedShown>, ProblemResponse> {
    let permission = permission(asked.permission.as_deref().unwrap_or("read_device"))?;
    let home = auth.home_at(&device.document).await?;
    let allowed = home.map_or_else(Vec::new, |home| who_can(&home.document, &device.document, permission, auth.now()));
    let items = allowed.into_iter().map(|allowed| AllowedShown {
        account: allowed.account,
        relation: allowed.relation.name(),
        expires: allowed.expires,
    });
    Ok(Items { items: items.collect(), next: None })
}

/// Only what the account is to this home is looked at, so that nobody learns of its other homes, or whether it exists.
async fn explained(
    State(auth): State<Arc<Auth>>,
    Target(device): Target<Device>,
    Query(asked): Query<ExplainQuery>,
) -> Result<Json<ExplanationShown>, ProblemResponse> {
    let permission = permission(&asked.permission)?;
    let revision = auth.meta.revision().await?;
    let home = auth.home_at(&device.document).await?.map(|home| home.document);
    let tuple = home.as_ref().and_then(|home: &Home| home.tuple_of(&asked.account));
    let grants = Grants { revision, tuples: tuple.into_iter().collect() };
    let told = explain(&grants, permission, &Resource::device(&device.document), auth.now());
    Ok(Json(ExplanationShown {
        allow: told.decision.allow,
        reason: told.decision.reason.code(),
        considered: told.considered.into_iter().map(ConsideredShown::of).collect(),
    }))
}

fn permission(name: &str) -> Result<Permission, ProblemResponse> {
    Permission::by_name(name).ok_or_else(|| {
        let names: Vec<_> = Permission::ALL.iter().map(|permission| permission.name()).collect();
        Problem::invalid("query_invalid", format!("permission: one of {}", names.join(", "))).into()
    })
}
