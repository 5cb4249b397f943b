use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use iot_core::{
    access::{Permission, Principal},
    device::Device,
    id::{RolloutId, TenantId},
    problem::Problem,
    store::MetaStoreExt,
};
use iot_http::{Body, Doc, Guard, Identity, Items, PageQuery, Path, ProblemResponse, Query, Routes, Target};
use serde_json::{Value, json};

use super::shapes::{NewRollout, PartShown, PhaseAsked, ProductAsked, RolloutShown, UpdateShown};
use crate::{
    rollout::{Assignment, Order, Phase, Rollout},
    server::{Ota, ROLLOUTS_MAX, RolloutCreated, RolloutOrdered},
};

pub(super) fn register(routes: Routes<Arc<Ota>>) -> Routes<Arc<Ota>> {
    let (manage, read) = (Guard::Tenant(Permission::ManageReleases), Guard::Tenant(Permission::ReadDevice));
    let order = |summary| Doc::new(summary).response(200, shown("running"));
    let create_doc = Doc::new("Plan a rollout of a release; it begins when it is started")
        .request(json!({ "release": "0c9a1t2v4k8", "groups": groups(), "patience_s": 86_400 }))
        .response(201, shown("draft"));
    let list_doc = Doc::new("Rollouts, oldest first")
        .paged()
        .query("product", "only of this product")
        .response(200, json!({ "items": [shown("running")], "next": null }));
    let mut one = shown("running");
    one["devices"] = json!({ "pending": 40, "downloading": 3, "confirmed": 10 });
    let show_doc = Doc::new("One rollout, with the number of its devices in each state").response(200, one);
    let devices_doc = Doc::new("The devices of a rollout that were assigned so far")
        .paged()
        .query("state", "only in this state, such as pending, downloading, confirmed, rolled_back")
        .response(200, json!({ "items": [part()], "next": null }));
    let update_doc = Doc::new("Why a device is updated, or is not").response(200, update());
    routes
        .post("/v1/rollouts", manage, create_doc, create)
        .get("/v1/rollouts", read, list_doc, list)
        .get("/v1/rollouts/{rollout}", read, show_doc, show)
        .post("/v1/rollouts/{rollout}/start", manage, order("Begin with the first group"), start)
        .post("/v1/rollouts/{rollout}/pause", manage, order("Offer the release to no further device for now"), pause)
        .post("/v1/rollouts/{rollout}/resume", manage, order("Go on"), resume)
        .post("/v1/rollouts/{rollout}/cancel", manage, order("End a rollout for good"), cancel)
        .get("/v1/rollouts/{rollout}/devices", read, devices_doc, devices)
        .get("/v1/devices/{device}/update", Guard::Device(Permission::ReadDevice), update_doc, explain)
}

fn groups() -> Value {
    let gate =
        json!({ "min_executed": 10, "failure_per_mille_max": 50, "success_per_mille_min": 950, "soak_s": 3_600 });
    json!([
        { "reach_per_mille": 10, "devices": ["lamp-1"], "gate": gate },
        { "reach_per_mille": 1_000, "gate": gate },
    ])
}

fn shown(state: &str) -> Value {
    let mut groups = groups();
    for group in groups.as_array_mut().into_iter().flatten() {
        group["opened"] = Value::Null;
        for count in ["assigned", "skipped", "succeeded", "failed"] {
            group[count] = json!(0);
        }
    }
    json!({
        "id": "0c9a1t2v4k9", "product": "lamp", "release": "0c9a1t2v4k8", "state": state, "halted": null, "groups": groups,
        "patience_s": 86_400, "created": "2026-11-23T00:00:00Z", "started": null,
    })
}

fn part() -> Value {
    json!({
        "device": "lamp-1", "group": 0, "state": "downloading", "reason": null, "progress_percent": 40,
        "changed": "2026-11-23T00:00:00Z",
    })
}

fn update() -> Value {
    json!({
        "device": "lamp-1", "code": "group_not_open",
        "text": "the device is in group 1 of rollout 0c9a1t2v4k9; groups below 1 are open so far",
        "facts": { "rollout": "0c9a1t2v4k9", "group": 1, "open_groups": 1 },
        "runs": { "sequence": 3, "version": "1.2.0", "hardware": "rev-a", "since": "2026-11-01T00:00:00Z" },
    })
}

async fn create(
    State(ota): State<Arc<Ota>>,
    who: Identity,
    Body(asked): Body<NewRollout>,
) -> Result<(StatusCode, Json<RolloutShown>), ProblemResponse> {
    let (release, plan) = asked.taken_apart();
    match ota.create_rollout(&who.principal, &release, plan).await? {
        RolloutCreated::Done(rollout) => Ok((StatusCode::CREATED, Json(RolloutShown::of(*rollout)))),
        RolloutCreated::Invalid(error) => Err(Problem::invalid("plan_invalid", error.to_string()).into()),
        RolloutCreated::NoSuchRelease => Err(Problem::not_found("release").into()),
        RolloutCreated::TooMany => {
            Err(Problem::conflict("too_many_rollouts", format!("a product has at most {ROLLOUTS_MAX}")).into())
        }
    }
}

async fn list(
    State(ota): State<Arc<Ota>>,
    who: Identity,
    Query(asked): Query<ProductAsked>,
    page: PageQuery,
) -> Result<Items<RolloutShown>, ProblemResponse> {
    let tenant = &who.principal.tenant;
    let (index, value) = match asked.product {
        Some(product) => ("product", Rollout::current_of(tenant, &product)),
        None => ("tenant", tenant.to_string()),
    };
    let found = ota.meta.page::<Rollout>(index, &value, page.after.as_ref(), page.limit).await?;
    Ok(Items::of(found, |stored| RolloutShown::of(stored.document)))
}

async fn show(
    State(ota): State<Arc<Ota>>,
    who: Identity,
    Path(id): Path<RolloutId>,
) -> Result<Json<RolloutShown>, ProblemResponse> {
    let rollout = find(&ota, &who.principal.tenant, &id).await?;
    let phases = ota.phases(&rollout).await?;
    Ok(Json(RolloutShown::of(rollout).with(&phases)))
}

async fn find(ota: &Ota, tenant: &TenantId, id: &RolloutId) -> Result<Rollout, ProblemResponse> {
    Ok(ota.rollout(tenant, id).await?.ok_or_else(|| Problem::not_found("rollout"))?)
}

async fn start(ota: State<Arc<Ota>>, who: Identity, id: Path<RolloutId>) -> Ordered {
    order(&ota.0, &who.principal, &id.0, Order::Start).await
}

async fn pause(ota: State<Arc<Ota>>, who: Identity, id: Path<RolloutId>) -> Ordered {
    order(&ota.0, &who.principal, &id.0, Order::Pause).await
}

async fn resume(ota: State<Arc<Ota>>, who: Identity, id: Path<RolloutId>) -> Ordered {
    order(&ota.0, &who.principal, &id.0, Order::Resume).await
}

async fn cancel(ota: State<Arc<Ota>>, who: Identity, id: Path<RolloutId>) -> Ordered {
    order(&ota.0, &who.principal, &id.0, Order::Cancel).await
}

type Ordered = Result<Json<RolloutShown>, ProblemResponse>;

async fn order(ota: &Ota, by: &Principal, id: &RolloutId, order: Order) -> Ordered {
    Err(match ota.order(by, id, order).await? {
        RolloutOrdered::Done(rollout) => return Ok(Json(RolloutShown::of(*rollout))),
        RolloutOrdered::NoSuchRollout => Problem::not_found("rollout"),
        RolloutOrdered::NotFrom(state) => {
            Problem::conflict("rollout_state", format!("the rollout is {}", state.code()))
        }
        RolloutOrdered::ReleaseNotReady => {
            Problem::conflict("release_not_ready", "upload the image of the release first, or it was withdrawn")
        }
        RolloutOrdered::Another(other) => {
            Problem::conflict("rollout_active", format!("rollout {other} of the product is not over: cancel it first"))
        }
    }
    .into())
}

async fn devices(
    State(ota): State<Arc<Ota>>,
    who: Identity,
    Path(id): Path<RolloutId>,
    Query(asked): Query<PhaseAsked>,
    page: PageQuery,
) -> Result<Items<PartShown>, ProblemResponse> {
    let tenant = &who.principal.tenant;
    let rollout = find(&ota, tenant, &id).await?;
    let (index, value) = match asked.state.as_deref().map(|code| Phase::of_code(code).ok_or(code)) {
        None => ("rollout", format!("{tenant}/{}", rollout.id)),
        Some(Ok(phase)) => ("phase", Assignment::in_phase(tenant, &rollout.id, phase)),
        Some(Err(_)) => {
            let codes = Phase::ALL.map(Phase::code).join(", ");
            return Err(Problem::invalid("query_invalid", format!("state: one of {codes}")).into());
        }
    };
    let found = ota.meta.page::<Assignment>(index, &value, page.after.as_ref(), page.limit).await?;
    Ok(Items::of(found, |stored| PartShown::of(stored.document)))
}

async fn explain(
    State(ota): State<Arc<Ota>>,
    Target(device): Target<Device>,
) -> Result<Json<UpdateShown>, ProblemResponse> {
    let device = device.document;
    let explanation = ota.explain(&device).await?;
    let runs = ota.runs(&device).await?;
    Ok(Json(UpdateShown::of(&device, explanation, runs)))
}
