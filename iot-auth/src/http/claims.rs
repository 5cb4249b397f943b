use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::{HeaderValue, StatusCode, header::CACHE_CONTROL},
    response::{IntoResponse, Response},
};
use iot_core::{access::Permission, id::TokenId, problem::Problem, store::MetaStoreExt};
use iot_http::{
    Body, Doc, Guard, Idempotency, Identity, Items, PageQuery, Path, ProblemResponse, Routes, identity::Connection,
};
use serde_json::{Value, json};

use super::shapes::{ClaimAsked, ClaimShown, ClaimTokenShown, NewClaimToken};
use crate::{
    auth::Auth,
    ca::SigningRequest,
    registry::{CLAIM_USES_MAX, CLAIM_VALIDITY_DEFAULT, CLAIM_VALIDITY_MAX, ClaimRefusal, ClaimToken, Claimed},
};

pub(super) fn register(routes: Routes<Arc<Auth>>) -> Routes<Arc<Auth>> {
    let credentials = Guard::Tenant(Permission::ManageCredentials);
    let issued = json!({
        "id": "mfrggzdfmztwq2lk", "product": "lamp", "uses": 100, "used": 0, "assign": true,
        "created": "2026-11-23T00:00:00Z", "expires": "2026-11-24T00:00:00Z",
        "token": "ct_mfrggzdfmztwq2lk_gezdgnbvgy3tqojqgezdgnbvgy3tqojq",
    });
    let mut listed = issued.clone();
    listed.as_object_mut().map(|token| token.remove("token"));
    let issue_doc = Doc::new("Issue a claim token; this answer is the only one that shows it")
        .request(json!({ "product": "lamp", "uses": 100, "valid_s": 86_400, "assign": true }))
        .response(201, issued);
    let list_doc = Doc::new("Claim tokens").paged().response(200, json!({ "items": [listed], "next": null }));
    let revoke_doc = Doc::new("Revoke a claim token").response(204, Value::Null);
    let claim_doc = Doc::new("Exchange a claim token and a key for a unit's certificate")
        .request(json!({
            "token": "ct_mfrggzdfmztwq2lk_gezdgnbvgy3tqojqgezdgnbvgy3tqojq",
            "csr": "-----BEGIN CERTIFICATE REQUEST-----\n…", "device_id": "lamp-1",
        }))
        .response(
            200,
            json!({
                "device_id": "lamp-1", "tenant": "default", "certificate": "-----BEGIN CERTIFICATE-----\n…",
                "ca": "-----BEGIN CERTIFICATE-----\n…", "not_after": "2027-11-23T00:00:00Z",
            }),
        )
        // The key in the request identifies it: asking again gives the same unit and costs no use.
        .idempotency(Idempotency::Natural);
    routes
        .post("/v1/claim-tokens", credentials, issue_doc, issue)
        .get("/v1/claim-tokens", credentials, list_doc, list)
        .delete("/v1/claim-tokens/{token}", credentials, revoke_doc, revoke)
        .post("/v1/claim", Guard::Public { why: "the claim token is the credential" }, claim_doc, claim)
}

async fn issue(
    State(auth): State<Arc<Auth>>,
    who: Identity,
    Body(asked): Body<NewClaimToken>,
) -> Result<impl IntoResponse, ProblemResponse> {
    if !(1..=CLAIM_USES_MAX).contains(&asked.uses) {
        return Err(Problem::invalid("body_invalid", format!("uses: from 1 to {CLAIM_USES_MAX}")).into());
    }
    let valid = asked.valid_s.map_or(CLAIM_VALIDITY_DEFAULT, Duration::from_secs);
    if valid.is_zero() || valid > CLAIM_VALIDITY_MAX {
        return Err(
            Problem::invalid("body_invalid", format!("valid_s: from 1 to {}", CLAIM_VALIDITY_MAX.as_secs())).into()
        );
    }
    let issued = auth.issue_claim_token(&who.principal, &asked.product, asked.uses, valid, asked.assign).await?;
    let issued = issued.ok_or_else(|| Problem::not_found("product"))?;
    Ok((StatusCode::CREATED, Json(ClaimTokenShown::of(issued.token).with(&issued.text))))
}

async fn list(
    State(auth): State<Arc<Auth>>,
    who: Identity,
    page: PageQuery,
) -> Result<Items<ClaimTokenShown>, ProblemResponse> {
    let tenant = who.principal.tenant.as_str();
    let found = auth.meta.page::<ClaimToken>("tenant", tenant, page.after.as_ref(), page.limit).await?;
    Ok(Items::of(found, |stored| ClaimTokenShown::of(stored.document)))
}

async fn revoke(
    State(auth): State<Arc<Auth>>,
    who: Identity,
    Path(token): Path<TokenId>,
) -> Result<StatusCode, ProblemResponse> {
    match auth.revoke_claim_token(&who.principal, &token).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::not_found("claim token").into()),
    }
}

async fn claim(
    State(auth): State<Arc<Auth>>,
    connection: Connection,
    Body(asked): Body<ClaimAsked>,
) -> Result<Response, ProblemResponse> {
    let from = connection.peer.ip();
    if !connection.is_private() {
        let entry = auth.entry(&Auth::default_tenant(), from, "claim", "claim_token");
        auth.stranger_refused(entry, "unencrypted").await?;
        return Err(Problem::new(403, "claim_refused", "claim over TLS, or from the machine itself").into());
    }
    let request = SigningRequest::parse(&asked.csr).map_err(|e| Problem::invalid("csr_invalid", e.to_string()))?;
    match auth.claim(&asked.token, &request, asked.device_id.as_ref(), from).await? {
        Claimed::Done(claim) => {
            let mut response = Json(ClaimShown::of(*claim, auth.ca_pem())).into_response();
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            Ok(response)
        }
        Claimed::Refused(why) => Err(problem(why).into()),
    }
}

/// What a stranger may learn: of a token that it has, what is wrong with it; of units, nothing but that one is taken.
fn problem(why: ClaimRefusal) -> Problem {
    let detail = match why {
        ClaimRefusal::AlreadyClaimed => {
            return Problem::conflict("already_claimed", "the unit was claimed with another key");
        }
        ClaimRefusal::TokenExpired => "the claim token has ended",
        ClaimRefusal::TokenUsedUp => "the claim token has no use left",
        ClaimRefusal::UnitNotNamed => "this claim token needs a device_id",
        ClaimRefusal::NoUnitLeft => "the product has no unit left to be claimed",
        _ => "the claim token, the unit and the key do not belong together",
    };
    Problem::new(403, "claim_refused", detail)
}
