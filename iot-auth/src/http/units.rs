use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
};
use iot_core::{
    access::{Permission, Principal},
    device::Device,
    id::{DeviceId, ProductId},
    problem::Problem,
    store::MetaStoreExt,
};
use iot_http::{Body, Doc, Guard, Identity, Path, ProblemResponse, Routes, Target, read_body};
use serde_json::json;

use super::shapes::{Imported, KeysMeant, Place, UnitShown};
use crate::{
    auth::Auth,
    registry::{CSV_BYTES_MAX, Import, ImportErrorKind, KeysRevoked, Moved},
};

pub(super) fn register(routes: Routes<Arc<Auth>>) -> Routes<Arc<Auth>> {
    let unit = Guard::Device(Permission::ManageDevices);
    let shown = json!({
        "id": "lamp-1", "product": "lamp", "stage": "retired", "home": "h1",
        "keys": [{
            "fingerprint": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", "state": "revoked",
            "certificate_serial": "5f2a", "not_after": "2027-11-23T00:00:00Z",
        }],
    });
    let import_doc = Doc::new("Import units: all or none")
        .request_of("text/csv", "device_id,p_code,home\nlamp-1,AB12-CD34,\n")
        .response(201, json!({ "imported": 1 }))
        .body_limit(CSV_BYTES_MAX);
    let revoke_doc = Doc::new("Revoke one key of a unit, or all")
        .request(json!({ "fingerprint": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08" }))
        .response(200, shown.clone());
    let retire_doc = Doc::new("Take a unit out of service for good").response(200, shown.clone());
    let place_doc =
        Doc::new("Place a unit in a home, or in none").request(json!({ "home": "h1" })).response(200, shown);
    routes
        .post("/v1/products/{product}/units", Guard::Tenant(Permission::ManageDevices), import_doc, import)
        .post("/v1/devices/{device}/keys/revoke", unit, revoke_doc, revoke_keys)
        .post("/v1/devices/{device}/retire", unit, retire_doc, retire)
        .put("/v1/devices/{device}/home", unit, place_doc, place)
}

async fn import(
    State(auth): State<Arc<Auth>>,
    who: Identity,
    Path(product): Path<ProductId>,
    request: Request,
) -> Result<(StatusCode, Json<Imported>), ProblemResponse> {
    let csv = read_body(request, "text/csv").await?;
    match auth.import_units(&who.principal, &product, &csv).await? {
        Import::Done(imported) => Ok((StatusCode::CREATED, Json(Imported { imported }))),
        Import::NoSuchProduct => Err(Problem::not_found("product").into()),
        Import::Rejected(error) => Err(match error.kind {
            ImportErrorKind::Columns | ImportErrorKind::Line | ImportErrorKind::TooManyRows => {
                Problem::invalid(error.kind.code(), error.to_string()).into()
            }
            kind => Problem::conflict(kind.code(), error.to_string()).into(),
        }),
    }
}

async fn revoke_keys(
    State(auth): State<Arc<Auth>>,
    who: Identity,
    Target(device): Target<Device>,
    Body(meant): Body<KeysMeant>,
) -> Result<Json<UnitShown>, ProblemResponse> {
    let id = device.document.id;
    match auth.revoke_keys(&who.principal, &id, meant.fingerprint.as_deref()).await? {
        KeysRevoked::Done(_) => show(&auth, &who.principal, &id).await,
        KeysRevoked::NoSuchKey => Err(Problem::not_found("key").into()),
        KeysRevoked::NoSuchDevice => Err(Problem::not_found("device").into()),
    }
}

async fn retire(
    State(auth): State<Arc<Auth>>,
    who: Identity,
    Target(device): Target<Device>,
) -> Result<Json<UnitShown>, ProblemResponse> {
    let id = device.document.id;
    match auth.retire(&who.principal, &id).await? {
        true => show(&auth, &who.principal, &id).await,
        false => Err(Problem::not_found("device").into()),
    }
}

async fn place(
    State(auth): State<Arc<Auth>>,
    who: Identity,
    Target(device): Target<Device>,
    Body(place): Body<Place>,
) -> Result<Json<UnitShown>, ProblemResponse> {
    let id = device.document.id;
    match auth.move_device(&who.principal, &id, place.home.as_ref()).await? {
        Moved::Done => show(&auth, &who.principal, &id).await,
        Moved::NoSuchHome => Err(Problem::not_found("home").into()),
        Moved::NoSuchDevice => Err(Problem::not_found("device").into()),
        Moved::Owned => {
            let detail = "people own one of the homes: their owner releases a device, and a binding code binds one";
            Err(Problem::conflict("already_bound", detail).into())
        }
    }
}

/// The unit as it is after the change.
async fn show(auth: &Auth, who: &Principal, id: &DeviceId) -> Result<Json<UnitShown>, ProblemResponse> {
    let found = auth.meta.find::<Device>(&Device::key_of(&who.tenant, id)).await?;
    Ok(Json(UnitShown::of(found.ok_or_else(|| Problem::not_found("device"))?.document)))
}
