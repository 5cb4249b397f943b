use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    http::{StatusCode, header::CONTENT_TYPE},
};
use futures_util::TryStreamExt;
use iot_core::{
    access::Permission,
    id::{ProductId, ReleaseId},
    logic::BoxError,
    problem::Problem,
    store::MetaStoreExt,
};
use iot_http::{
    Body as JsonBody, Doc, Guard, Identity, Items, PageQuery, Path, ProblemResponse, Query, Routes, read_body,
};
use serde_json::{Value, json};

use super::shapes::{ProductAsked, ReleaseShown};
use crate::{
    release::{IMAGE_BYTES_MAX, Refused, SIGNED_BYTES_MAX, SignedRelease, Trust},
    server::{Created, Ota, RELEASES_MAX, ReleaseRecord, TrustPut, UploadError, Uploaded, Withdrawn},
};

pub(super) fn register(routes: Routes<Arc<Ota>>) -> Routes<Arc<Ota>> {
    let (manage, read) = (Guard::Tenant(Permission::ManageReleases), Guard::Tenant(Permission::ReadDevice));
    // Whose signatures count is worth more than a release: whoever may issue credentials decides it.
    let trust = Guard::Tenant(Permission::ManageCredentials);
    let key = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    let trust_shown = json!({ "threshold": 1, "keys": [key] });
    let put_doc = Doc::new("Say whose signatures count for a product's releases")
        .request(trust_shown.clone())
        .response(200, trust_shown.clone())
        .response(201, trust_shown.clone());
    let trust_doc = Doc::new("Whose signatures count for a product's releases").response(200, trust_shown);
    let create_doc = Doc::new("Take a signed release in; then upload its image")
        .request(json!({
            "manifest": "{\"format\":1,\"tenant\":\"default\",\"product\":\"lamp\",…}",
            "signatures": [{ "key_id": "…64 hexadecimal digits…", "signature": "…128 hexadecimal digits…" }],
        }))
        .response(200, shown("ready"))
        .response(201, shown("uploading"))
        .body_limit(SIGNED_BYTES_MAX);
    let list_doc = Doc::new("Releases, oldest first")
        .paged()
        .query("product", "only of this product")
        .response(200, json!({ "items": [shown("ready")], "next": null }));
    let upload_doc = Doc::new("Upload the image of a release: it must be the one that was signed")
        .request_of("application/octet-stream", "the image")
        .response(200, shown("ready"))
        .body_limit(usize::try_from(IMAGE_BYTES_MAX).unwrap_or(usize::MAX));
    let withdraw_doc = Doc::new("Withdraw a release for good").response(200, shown("withdrawn"));
    routes
        .put("/v1/products/{product}/trust", trust, put_doc, put_trust)
        .get("/v1/products/{product}/trust", read, trust_doc, show_trust)
        .post("/v1/releases", manage, create_doc, create)
        .get("/v1/releases", read, list_doc, list)
        .get("/v1/releases/{release}", read, Doc::new("One release").response(200, shown("ready")), show)
        .put("/v1/releases/{release}/image", manage, upload_doc, upload)
        .post("/v1/releases/{release}/withdraw", manage, withdraw_doc, withdraw)
}

fn shown(state: &str) -> Value {
    json!({
        "id": "0c9a1t2v4k8", "product": "lamp", "sequence": 4, "version": "1.3.0", "hardware": ["rev-a"],
        "size_bytes": 1_048_576, "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "notes": "Mends the timer.", "expires": "2027-11-23T00:00:00Z", "state": state, "created": "2026-11-23T00:00:00Z",
    })
}

async fn put_trust(
    State(ota): State<Arc<Ota>>,
    who: Identity,
    Path(product): Path<ProductId>,
    JsonBody(trust): JsonBody<Trust>,
) -> Result<(StatusCode, Json<Trust>), ProblemResponse> {
    match ota.put_trust(&who.principal, &product, trust.clone()).await? {
        TrustPut::Created => Ok((StatusCode::CREATED, Json(trust))),
        TrustPut::Replaced => Ok((StatusCode::OK, Json(trust))),
        TrustPut::NoSuchProduct => Err(Problem::not_found("product").into()),
    }
}

async fn show_trust(
    State(ota): State<Arc<Ota>>,
    who: Identity,
    Path(product): Path<ProductId>,
) -> Result<Json<Trust>, ProblemResponse> {
    let found = ota.trust(&who.principal, &product).await?;
    Ok(Json(found.ok_or_else(|| Problem::not_found("trust of this product"))?))
}

async fn create(
    State(ota): State<Arc<Ota>>,
    who: Identity,
    request: Request,
) -> Result<(StatusCode, Json<ReleaseShown>), ProblemResponse> {
    let body = read_body(request, "application/json").await?;
    let signed =
        SignedRelease::parse(&body).map_err(|refused| Problem::invalid("body_invalid", refused.to_string()))?;
    let problem = match ota.create_release(&who.principal, &signed).await? {
        Created::Done(release) => return Ok((StatusCode::CREATED, Json(ReleaseShown::of(*release)))),
        Created::AlreadyThere(release) => return Ok((StatusCode::OK, Json(ReleaseShown::of(*release)))),
        Created::Refused(refused @ Refused::Signatures { .. }) => {
            Problem::new(403, refused.code(), format!("{refused}; sign it with keys of the product's trust"))
        }
        Created::Refused(refused) => Problem::invalid(refused.code(), refused.to_string()),
        Created::Expired => Problem::invalid("expired", "the release has expired already"),
        Created::NoTrust(product) => {
            let detail = format!("say whose signatures count first: PUT /v1/products/{product}/trust");
            Problem::conflict("no_trust", detail)
        }
        Created::SequenceTaken(sequence) => {
            Problem::conflict("sequence_taken", format!("another release of the product has sequence {sequence}"))
        }
        Created::TooMany => Problem::conflict("too_many_releases", format!("a product has at most {RELEASES_MAX}")),
    };
    Err(problem.into())
}

async fn list(
    State(ota): State<Arc<Ota>>,
    who: Identity,
    Query(asked): Query<ProductAsked>,
    page: PageQuery,
) -> Result<Items<ReleaseShown>, ProblemResponse> {
    let tenant = &who.principal.tenant;
    let (index, value) = match asked.product {
        Some(product) => ("product", ReleaseRecord::of_product(tenant, &product)),
        None => ("tenant", tenant.to_string()),
    };
    let found = ota.meta.page::<ReleaseRecord>(index, &value, page.after.as_ref(), page.limit).await?;
    Ok(Items::of(found, |stored| ReleaseShown::of(stored.document)))
}

async fn show(
    State(ota): State<Arc<Ota>>,
    who: Identity,
    Path(id): Path<ReleaseId>,
) -> Result<Json<ReleaseShown>, ProblemResponse> {
    let found = ota.release(&who.principal, &id).await?;
    Ok(Json(ReleaseShown::of(found.ok_or_else(|| Problem::not_found("release"))?)))
}

/// The body is not collected: it is examined as it comes, and the manifest bounds it.
async fn upload(
    State(ota): State<Arc<Ota>>,
    who: Identity,
    Path(id): Path<ReleaseId>,
    request: Request,
) -> Result<Json<ReleaseShown>, ProblemResponse> {
    let is_bytes = |value: &str| value.trim().eq_ignore_ascii_case("application/octet-stream");
    let said = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if !said.is_some_and(is_bytes) {
        return Err(Problem::new(415, "content_type", "send Content-Type: application/octet-stream").into());
    }
    let bytes = Body::into_data_stream(request.into_body()).map_err(BoxError::from);
    match ota.upload(&who.principal, &id, bytes).await {
        Ok(Uploaded::Done(release) | Uploaded::AlreadyThere(release)) => Ok(Json(ReleaseShown::of(*release))),
        Ok(Uploaded::Wrong(wrong)) => Err(Problem::invalid("image_mismatch", wrong.to_string()).into()),
        Ok(Uploaded::NoSuchRelease) => Err(Problem::not_found("release").into()),
        Err(UploadError::Broken(_)) => Err(Problem::invalid("body_invalid", "the image broke off").into()),
        Err(UploadError::Ota(error)) => Err(error.into()),
    }
}

async fn withdraw(
    State(ota): State<Arc<Ota>>,
    who: Identity,
    Path(id): Path<ReleaseId>,
) -> Result<Json<ReleaseShown>, ProblemResponse> {
    match ota.withdraw(&who.principal, &id).await? {
        Withdrawn::Done(release) => Ok(Json(ReleaseShown::of(*release))),
        Withdrawn::NoSuchRelease => Err(Problem::not_found("release").into()),
    }
}
