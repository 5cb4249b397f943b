use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{ACCEPT, AUTHORIZATION, CACHE_CONTROL, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use data_encoding::BASE64;
use iot_core::{access::Permission, id::TokenId, problem::Problem, secret::Secret, store::MetaStoreExt};
use iot_http::{
    Body, Doc, Guard, Idempotency, Identity, Items, PageQuery, Path, ProblemResponse, Routes, identity::Connection,
};
use serde_json::{Value, json};

use super::{
    checked_name,
    shapes::{NewToken, TokenShown},
};
use crate::{
    auth::Auth,
    token::{ApiToken, SignIn, TOKEN_NAME_BYTES_MAX, TOKEN_VALIDITY_MAX},
};

/// What the guard of a route would ask for cannot be asked for before signing in.
const WHY_PUBLIC: &str = "the one-time password is the credential";

pub(super) fn register(routes: Routes<Arc<Auth>>) -> Routes<Arc<Auth>> {
    let credentials = Guard::Tenant(Permission::ManageCredentials);
    let issued = json!({
        "id": "mfrggzdfmztwq2lk", "name": "panel", "role": "viewer", "created": "2026-11-23T00:00:00Z", "expires": null,
        "token": "at_mfrggzdfmztwq2lk_gezdgnbvgy3tqojqgezdgnbvgy3tqojq",
    });
    let mut listed = issued.clone();
    listed.as_object_mut().map(|token| token.remove("token"));
    let sign_in_doc = Doc::new("Exchange the one-time password for an admin token (HTTP Basic)")
        .response(200, issued.clone())
        .response_of(200, "text/plain", "at_mfrggzdfmztwq2lk_gezdgnbvgy3tqojqgezdgnbvgy3tqojq")
        // The password works once whatever the key says.
        .idempotency(Idempotency::Natural);
    let issue_doc = Doc::new("Issue an API token; this answer is the only one that shows it")
        .request(json!({ "name": "panel", "role": "viewer", "valid_s": 86_400 }))
        .response(201, issued);
    let list_doc = Doc::new("API tokens").paged().response(200, json!({ "items": [listed], "next": null }));
    let revoke_doc = Doc::new("Revoke an API token").response(204, Value::Null);
    routes
        .post("/v1/sign-in", Guard::Public { why: WHY_PUBLIC }, sign_in_doc, sign_in)
        .post("/v1/tokens", credentials, issue_doc, issue)
        .get("/v1/tokens", credentials, list_doc, list)
        .delete("/v1/tokens/{token}", credentials, revoke_doc, revoke)
}

async fn sign_in(
    State(auth): State<Arc<Auth>>,
    connection: Connection,
    headers: HeaderMap,
) -> Result<Response, ProblemResponse> {
    let from = connection.peer.ip();
    let Some((user, password)) = basic(&headers) else { return Ok(not_signed_in("send the password: HTTP Basic")) };
    if !connection.is_private() {
        let entry = auth.entry(&Auth::default_tenant(), from, "sign_in", "password");
        auth.stranger_refused(entry, "unencrypted").await?;
        return Ok(not_signed_in("passwords are accepted over TLS, or from the machine itself"));
    }
    let SignIn::Granted(issued) = auth.sign_in(&user, &password, from).await? else {
        return Ok(not_signed_in("the name or the password is wrong, or the password was used"));
    };
    let plain = headers.get(ACCEPT).is_some_and(|accept| accept == "text/plain");
    let mut response = match plain {
        true => issued.text.expose().to_owned().into_response(),
        false => Json(TokenShown::of(issued.token).with(&issued.text)).into_response(),
    };
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn not_signed_in(detail: &'static str) -> Response {
    let mut response = ProblemResponse(Problem::new(401, "unauthenticated", detail)).into_response();
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"iot\""));
    response
}

/// User and password (RFC 7617).
fn basic(headers: &HeaderMap) -> Option<(String, Secret)> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, credentials) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"Basic ") {
        return None;
    }
    let decoded = BASE64.decode(credentials.trim_ascii()).ok()?;
    let text = Secret::new(String::from_utf8(decoded).ok()?);
    let (user, password) = text.expose().split_once(':')?;
    Some((user.to_owned(), Secret::new(password)))
}

async fn issue(
    State(auth): State<Arc<Auth>>,
    who: Identity,
    Body(asked): Body<NewToken>,
) -> Result<impl IntoResponse, ProblemResponse> {
    let name = checked_name(&asked.name, TOKEN_NAME_BYTES_MAX)?;
    let valid = asked.valid_s.map(Duration::from_secs);
    if valid.is_some_and(|valid| valid.is_zero() || valid > TOKEN_VALIDITY_MAX) {
        let detail = format!("valid_s: from 1 to {}, or leave it out", TOKEN_VALIDITY_MAX.as_secs());
        return Err(Problem::invalid("body_invalid", detail).into());
    }
    let expires = valid.map(|valid| auth.now().plus(valid));
    let issued = auth.issue_token(&who.principal, name, asked.role, expires).await?;
    Ok((StatusCode::CREATED, Json(TokenShown::of(issued.token).with(&issued.text))))
}

async fn list(
    State(auth): State<Arc<Auth>>,
    who: Identity,
    page: PageQuery,
) -> Result<Items<TokenShown>, ProblemResponse> {
    let tenant = who.principal.tenant.as_str();
    let found = auth.meta.page::<ApiToken>("tenant", tenant, page.after.as_ref(), page.limit).await?;
    Ok(Items::of(found, |stored| TokenShown::of(stored.document)))
}

async fn revoke(
    State(auth): State<Arc<Auth>>,
    who: Identity,
    Path(token): Path<TokenId>,
) -> Result<StatusCode, ProblemResponse> {
    match auth.revoke_token(&who.principal, &token).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::not_found("token").into()),
    }
}
