//! Routes for applications: twins of devices.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Request, State},
    http::{
        HeaderMap,
        header::{ETAG, IF_MATCH},
    },
    response::{IntoResponse, Response},
};
use iot_core::{
    access::Permission,
    device::Device,
    id::DeviceId,
    problem::Problem,
    twin::{DesiredMeta, Object, ReportedMeta, Twin, Written},
};
use iot_http::{Doc, Guard, GuardContext, Identity, ProblemResponse, Query, Routes, Target, read_body};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::twin::{Desire, TwinError, TwinWritten, Twins};

/// The furthest that desired values expire in the future: ten years.
pub const EXPIRES_S_MAX: u64 = 10 * 365 * 24 * 3_600;

const MERGE_PATCH: &str = "application/merge-patch+json";

#[derive(Clone, Debug)]
pub(super) struct Face {
    twins: Arc<Twins>,
    context: GuardContext,
}

/// The routes of twins.
pub fn twin_routes(twins: Arc<Twins>, context: GuardContext) -> Routes {
    let read = Guard::Device(Permission::ReadState);
    let twin = json!({
        "device": "demo-1", "version": 7, "desired": {"on": true}, "reported": {"on": false, "level": 4},
        "meta": {
            "desired": {"/on": {"at": "2026-11-23T00:00:00Z", "by": "default/token/app"}},
            "reported": {"/on": {"at": "2026-11-23T00:00:00Z"}, "/level": {"at": "2026-11-23T00:00:00Z"}},
        }
    });
    let delta = json!({"version": 7, "desired": {"on": true}});
    let desire = Doc::new("Desire values of a device; `If-Match: \"<version>\"` makes it conditional")
        .request_of(MERGE_PATCH, json!({"on": true, "schedule": null}))
        .query("expires_s", "after so many seconds the values are not desired any more")
        .response(200, json!({"version": 7, "delta": {"on": true}}));
    Routes::with_state(context.clone(), Face { twins, context })
        .get("/v1/devices/{device}/twin", read, Doc::new("The twin of a device").response(200, twin), show)
        .get(
            "/v1/devices/{device}/twin/delta",
            read,
            Doc::new("What a device has yet to do").response(200, delta),
            show_delta,
        )
        .patch("/v1/devices/{device}/twin/desired", Guard::Device(Permission::Control), desire, write)
        .erased()
}

#[derive(Serialize)]
struct TwinView {
    device: DeviceId,
    version: u64,
    desired: Object,
    reported: Object,
    meta: MetaView,
}

#[derive(Serialize)]
struct MetaView {
    desired: BTreeMap<String, DesiredMeta>,
    reported: BTreeMap<String, ReportedMeta>,
}

impl From<Twin> for TwinView {
    fn from(twin: Twin) -> Self {
        Self {
            device: twin.device,
            version: twin.version,
            desired: twin.desired,
            reported: twin.reported,
            meta: MetaView { desired: twin.desired_meta, reported: twin.reported_meta },
        }
    }
}

async fn show(State(face): State<Face>, Target(device): Target<Device>) -> Result<Response, ProblemResponse> {
    let twin = face.twins.read(&device.document).await.map_err(failed)?;
    Ok(tagged(twin.version, Json(TwinView::from(twin))))
}

async fn show_delta(State(face): State<Face>, Target(device): Target<Device>) -> Result<Response, ProblemResponse> {
    let twin = face.twins.read(&device.document).await.map_err(failed)?;
    Ok(tagged(twin.version, Json(json!({"version": twin.version, "desired": twin.delta()}))))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expiry {
    expires_s: Option<u64>,
}

async fn write(
    State(face): State<Face>,
    Target(device): Target<Device>,
    identity: Identity,
    Query(Expiry { expires_s }): Query<Expiry>,
    request: Request,
) -> Result<Response, ProblemResponse> {
    if expires_s.is_some_and(|seconds| !(1..=EXPIRES_S_MAX).contains(&seconds)) {
        return Err(super::query_invalid("expires_s: from 1 to 315360000").into());
    }
    let expected_version = expected(request.headers())?;
    let body = read_body(request, MERGE_PATCH).await?;
    let invalid = |e: serde_json::Error| iot_http::problem::body_invalid(&e);
    let patch: Object = serde_json::from_slice(&body).map_err(invalid)?;
    let now = face.context.clock().timestamp();
    let expires = expires_s.map(|seconds| now.plus(Duration::from_secs(seconds)));
    let desire = Desire { patch, expected_version, expires };
    let written = Box::pin(face.twins.write_desired(&identity.principal, &device.document, &desire)).await;
    match written.map_err(failed)? {
        TwinWritten::Decided(Written::Done { version, delta }) => {
            Ok(tagged(version, Json(json!({"version": version, "delta": delta}))))
        }
        TwinWritten::Decided(Written::Unchanged { version }) => {
            let twin = face.twins.read(&device.document).await.map_err(failed)?;
            Ok(tagged(version, Json(json!({"version": version, "delta": twin.delta()}))))
        }
        TwinWritten::Decided(Written::VersionMismatch { version }) => {
            let detail = format!("the twin is at version {version}: read it and decide again");
            Err(Problem::new(412, "version_mismatch", detail).into())
        }
        TwinWritten::Decided(Written::Refused(why)) => Err(Problem::invalid(why.code(), why.to_string()).into()),
        TwinWritten::OwnerChanged => {
            Err(Problem::conflict("conflict", "the device has changed its owner; read it again").into())
        }
    }
}

/// The version that `If-Match` names (RFC 9110 §13.1.1); a twin always exists, so that `*` demands nothing.
fn expected(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get(IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let version = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).and_then(|text| text.parse().ok());
    let invalid = || Problem::invalid("if_match_invalid", "If-Match: one ETag of the twin, such as \"7\"");
    version.map(Some).ok_or_else(invalid)
}

fn tagged(version: u64, body: impl IntoResponse) -> Response {
    ([(ETAG, format!("\"{version}\""))], body).into_response()
}

fn failed(error: TwinError) -> ProblemResponse {
    match error {
        TwinError::Contended => {
            Problem::new(503, "unavailable", "many write this twin at the same time; try again").into()
        }
        error => iot_http::problem::unavailable(&error),
    }
}
