use std::sync::Arc;

use axum::{
    body::Body,
    extract::{RawPathParams, State},
    http::{
        HeaderMap, HeaderValue, Method, StatusCode, Uri,
        header::{
            ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_MATCH, IF_RANGE, RANGE,
        },
    },
    response::{IntoResponse, Response},
};
use iot_core::{
    id::{DeviceId, OwnershipEpoch, ReleaseId, TenantId},
    problem::Problem,
};
use iot_http::{Doc, Guard, ProblemResponse, Routes};
use serde::Deserialize;

use super::range::{Asked, asked};
use crate::server::{DownloadLink, Opened, Ota, ReleaseRecord};

pub(super) fn register(routes: Routes<Arc<Ota>>) -> Routes<Arc<Ota>> {
    let doc = Doc::new("Load the image of a release; one Range is honoured")
        .query("tenant", "as in the link")
        .query("device", "as in the link")
        .query("epoch", "as in the link")
        .query("expires", "as in the link")
        .query("code", "as in the link")
        .response_of(200, "application/octet-stream", "the image")
        .response_of(206, "application/octet-stream", "a part of the image");
    let guard = Guard::Public { why: "the link is the credential: for one device, one release, one hour" };
    routes.get("/v1/firmware/{release}", guard, doc, firmware)
}

/// Whatever is wrong with a link has the same answer, so that guessing teaches nothing.
async fn firmware(
    State(ota): State<Arc<Ota>>,
    method: Method,
    uri: Uri,
    path: RawPathParams,
    headers: HeaderMap,
) -> Result<Response, ProblemResponse> {
    let release = path.iter().find(|(name, _)| *name == "release").map(|(_, value)| value.to_owned());
    let link = release.and_then(|release| link_of(&release, &uri)).ok_or_else(refused)?;
    match ota.open(&link).await? {
        Opened::Refused => Err(refused().into()),
        Opened::Image(release) => send(&ota, &release, &method, &headers).await,
    }
}

fn refused() -> Problem {
    Problem::new(403, "link_refused", "the link is not valid, or not any more; ask for a new offer")
}

fn link_of(release: &str, uri: &Uri) -> Option<DownloadLink> {
    let axum::extract::Query(query) = axum::extract::Query::<LinkQuery>::try_from_uri(uri).ok()?;
    let LinkQuery { tenant, device, epoch, expires: expires_s, code } = query;
    Some(DownloadLink { tenant, release: ReleaseId::parse(release).ok()?, device, epoch, expires_s, code })
}

/// Each once and nothing else: a link has one way to be written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LinkQuery {
    tenant: TenantId,
    device: DeviceId,
    epoch: OwnershipEpoch,
    expires: u64,
    code: String,
}

async fn send(
    ota: &Ota,
    release: &ReleaseRecord,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, ProblemResponse> {
    let size = release.size_bytes;
    let etag = format!("\"{}\"", release.sha256);
    let field = |name| headers.get(name).and_then(|value| value.to_str().ok());
    // A client that wants to go on with another image must not get bytes of this one (RFC 9110 §13.1.1).
    if field(IF_MATCH).is_some_and(|wanted| wanted != "*" && !wanted.split(',').any(|tag| tag.trim() == etag)) {
        return Err(Problem::new(412, "image_changed", "the image is not the one that was begun; begin anew").into());
    }
    // Without the same validator a range is of something else: then all of it is sent (§13.1.5). A method other than GET
    // defines no range (§14.2).
    let same = field(IF_RANGE).is_none_or(|validator| validator == etag);
    let ranged = if same && *method == Method::GET { field(RANGE) } else { None };
    let (status, range) = match asked(ranged, size) {
        Asked::Whole => (StatusCode::OK, 0..size),
        Asked::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Asked::Unsatisfiable => return unsatisfiable(size),
    };
    let mut response = match *method == Method::HEAD || range.is_empty() {
        true => Response::new(Body::empty()),
        false => Response::new(Body::from_stream(ota.read(release, range.clone()).await?)),
    };
    *response.status_mut() = status;
    let told = response.headers_mut();
    if status == StatusCode::PARTIAL_CONTENT {
        told.insert(CONTENT_RANGE, header(&format!("bytes {}-{}/{size}", range.start, range.end - 1))?);
    }
    told.insert(CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
    told.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    told.insert(ETAG, header(&etag)?);
    told.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // The link is a credential, and what it opens is for one device.
    told.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    Ok(response)
}

fn unsatisfiable(size: u64) -> Result<Response, ProblemResponse> {
    let problem = Problem::new(416, "range_unsatisfiable", format!("the image has {size} bytes"));
    let mut response = ProblemResponse(problem).into_response();
    response.headers_mut().insert(CONTENT_RANGE, header(&format!("bytes */{size}"))?);
    Ok(response)
}

fn header(text: &str) -> Result<HeaderValue, ProblemResponse> {
    HeaderValue::from_str(text).map_err(|error| iot_http::problem::unavailable(&error))
}
