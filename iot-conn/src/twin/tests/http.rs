//! The routes of twins: honest requests, five wrong ones, permissions.

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{
        Request, Response, StatusCode,
        header::{AUTHORIZATION, CONTENT_TYPE, ETAG, IF_MATCH},
    },
};
use iot_core::{
    access::{
        Authentication, BoxAuthenticator, Credentials, Grants, Object as Of, Principal, Proof, Refusal, Relation,
        Subject,
    },
    id::TokenId,
    keys::{KeyError, KeyRing, Purpose},
    logic::BoxError,
};
use iot_http::{GuardContext, authenticate};
use tower::service_fn;

use super::*;
use crate::http::twin_routes;

/// Twins need no keys.
#[derive(Debug)]
struct NoRing;

#[async_trait]
impl KeyRing for NoRing {
    async fn seal(&self, _: Purpose, _: &[u8], _: &[u8]) -> Result<Vec<u8>, KeyError> {
        Err(KeyError::Unopenable)
    }

    async fn open(&self, _: Purpose, _: &[u8], _: &[u8]) -> Result<Vec<u8>, KeyError> {
        Err(KeyError::Unopenable)
    }

    async fn code(&self, _: Purpose, _: &[u8]) -> Result<String, KeyError> {
        Err(KeyError::Unopenable)
    }
}

/// `operator` and `viewer` are tokens of acme, `stranger` is an administrator of another tenant.
fn authenticator() -> BoxAuthenticator {
    BoxAuthenticator::new(service_fn(|credentials: Credentials| async move {
        let Proof::Token(token) = credentials.proof else { return Ok(Authentication::Refused(Refusal::NoCredential)) };
        let (tenant, relation) = match token.expose() {
            "operator" => ("acme", Relation::Operator),
            "viewer" => ("acme", Relation::Viewer),
            "stranger" => ("other", Relation::Admin),
            _ => return Ok(Authentication::Refused(Refusal::Unknown)),
        };
        let tenant = TenantId::parse(tenant)?;
        let principal = Principal { tenant: tenant.clone(), subject: Subject::Token(TokenId::parse(token.expose())?) };
        Ok::<_, BoxError>(Authentication::Accepted(principal, Grants::of(Of::Tenant(tenant), relation)))
    }))
}

fn serve(site: &Site) -> Router {
    let context = GuardContext::new(site.meta.clone(), Arc::new(NoRing), site.clock.clone());
    authenticate(twin_routes(site.twins.clone(), context).into_router(), authenticator(), false)
}

struct Ask<'a> {
    token: &'a str,
    query: &'a str,
    if_match: Option<&'a str>,
    media_type: &'a str,
    body: String,
}

/// A request that succeeds; tests change one thing.
fn honest<'a>() -> Ask<'a> {
    let body = json!({"on": true}).to_string();
    Ask { token: "operator", query: "", if_match: None, media_type: "application/merge-patch+json", body }
}

async fn patch(router: &Router, ask: Ask<'_>) -> (StatusCode, Option<String>, Value) {
    let mut request = Request::patch(format!("/v1/devices/lamp/twin/desired{}", ask.query))
        .header(AUTHORIZATION, format!("Bearer {}", ask.token))
        .header(CONTENT_TYPE, ask.media_type);
    if let Some(version) = ask.if_match {
        request = request.header(IF_MATCH, version);
    }
    read(router.clone().oneshot(request.body(Body::from(ask.body)).unwrap()).await.unwrap()).await
}

async fn get(router: &Router, path: &str, token: &str) -> (StatusCode, Option<String>, Value) {
    let request = Request::get(path).header(AUTHORIZATION, format!("Bearer {token}"));
    read(router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()).await
}

async fn read(response: Response<Body>) -> (StatusCode, Option<String>, Value) {
    let tag = response.headers().get(ETAG).map(|tag| tag.to_str().unwrap().to_owned());
    let status = response.status();
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, tag, serde_json::from_slice(&body).unwrap_or_default())
}

#[tokio::test]
async fn a_twin_is_read_desired_under_a_version_and_read_again() {
    let site = Site::new().await;
    let router = serve(&site);
    let (status, tag, twin) = get(&router, "/v1/devices/lamp/twin", "viewer").await;
    assert_eq!((status, tag.as_deref(), &twin["version"]), (StatusCode::OK, Some("\"0\""), &json!(0)));

    let (status, tag, answer) =
        patch(&router, Ask { if_match: Some("\"0\""), query: "?expires_s=60", ..honest() }).await;
    assert_eq!((status, tag.as_deref()), (StatusCode::OK, Some("\"1\"")));
    assert_eq!(answer, json!({"version": 1, "delta": {"on": true}}));
    assert_eq!(site.told(), [json!({"type": "delta", "version": 1, "desired": {"on": true}})]);

    let (_, _, twin) = get(&router, "/v1/devices/lamp/twin", "viewer").await;
    let at = site.clock.timestamp();
    let meta = json!({"/on": {"at": at, "by": "acme/token/operator", "expires": at.plus(Duration::from_secs(60))}});
    assert_eq!((&twin["desired"], &twin["meta"]["desired"]), (&json!({"on": true}), &meta));
    let (_, tag, delta) = get(&router, "/v1/devices/lamp/twin/delta", "viewer").await;
    assert_eq!((tag.as_deref(), delta), (Some("\"1\""), json!({"version": 1, "desired": {"on": true}})));
    let (status, _, answer) = patch(&router, Ask { if_match: Some("*"), query: "?expires_s=60", ..honest() }).await;
    assert_eq!((status, answer), (StatusCode::OK, json!({"version": 1, "delta": {"on": true}})), "nothing is new");
}

#[tokio::test]
async fn wrong_requests_are_told_apart_and_change_nothing() {
    let site = Site::new().await;
    let router = serve(&site);
    assert_eq!(patch(&router, honest()).await.0, StatusCode::OK, "the honest twin of what follows");
    let before = site.meta.changes(Default::default(), 100).await.unwrap();
    let body = |value: Value| Ask { body: value.to_string(), ..honest() };
    let nested = (0..40).fold(json!(1), |inner, _| json!({"a": inner}));
    let wide = Value::Object((0..600).map(|n| (format!("k{n}"), json!(n))).collect());
    for (ask, status, code) in [
        (Ask { if_match: Some("\"0\""), ..honest() }, 412, "version_mismatch"),
        (Ask { if_match: Some("1"), ..honest() }, 400, "if_match_invalid"),
        (Ask { if_match: Some("W/\"1\""), ..honest() }, 400, "if_match_invalid"),
        (Ask { query: "?expires_s=0", ..honest() }, 400, "query_invalid"),
        (Ask { query: "?expires_s=315360001", ..honest() }, 400, "query_invalid"),
        (Ask { query: "?expire=5", ..honest() }, 400, "query_invalid"),
        (Ask { media_type: "application/json", ..honest() }, 415, "content_type"),
        (body(json!([1])), 400, "body_invalid"),
        (Ask { body: "{\"on\":".to_owned(), ..honest() }, 400, "body_invalid"),
        (body(json!({"text": "x".repeat(64 * 1024)})), 413, "body_too_large"),
        (body(json!({"text": "x".repeat(64 * 1024 - 64)})), 400, "twin_too_large"),
        (body(nested), 400, "twin_too_deep"),
        (body(wide), 400, "twin_too_many_keys"),
        (body(json!({"n".repeat(65): 1})), 400, "twin_key_too_long"),
        (Ask { token: "viewer", ..honest() }, 403, "forbidden"),
        (Ask { token: "stranger", ..honest() }, 404, "not_found"),
        (Ask { token: "nobody", ..honest() }, 401, "unauthenticated"),
    ] {
        let (is, _, problem) = patch(&router, ask).await;
        assert_eq!((is.as_u16(), &problem["code"]), (status, &json!(code)), "{problem}");
    }
    assert_eq!(get(&router, "/v1/devices/lamp/twin", "stranger").await.0, StatusCode::NOT_FOUND);
    assert_eq!(site.meta.changes(Default::default(), 100).await.unwrap(), before);
}
