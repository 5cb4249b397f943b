//! The routes, with tokens of an administrator, of a viewer, and of the owner of a home.

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{
        StatusCode,
        header::{AUTHORIZATION, CONTENT_TYPE},
    },
};
use iot_core::{
    access::{
        Authentication, BoxAuthenticator, Credentials, Grants, Object, Principal, Proof, Refusal, Relation, Subject,
    },
    id::TokenId,
    logic::BoxError,
};
use iot_http::{GuardContext, authenticate};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{super::*, *};
use crate::http::webhook_routes;

fn authenticator() -> BoxAuthenticator {
    BoxAuthenticator::new(tower::service_fn(|credentials: Credentials| async move {
        let Proof::Token(token) = credentials.proof else { return Ok(Authentication::Refused(Refusal::NoCredential)) };
        let (object, relation) = match token.expose() {
            "admin" => (Object::Tenant(tenant()), Relation::Admin),
            "viewer" => (Object::Tenant(tenant()), Relation::Viewer),
            "owner" => (Object::Home(tenant(), "h".parse()?), Relation::Owner),
            "guest" => (Object::Home(tenant(), "h".parse()?), Relation::Guest),
            _ => return Ok(Authentication::Refused(Refusal::Unknown)),
        };
        let subject = Subject::Token(TokenId::parse(token.expose())?);
        Ok::<_, BoxError>(Authentication::Accepted(
            Principal { tenant: tenant(), subject },
            Grants::of(object, relation),
        ))
    }))
}

fn router(site: &Site) -> Router {
    let context = GuardContext::new(site.meta.clone(), Arc::new(OpenRing), site.clock.clone());
    let routes = webhook_routes(site.hooks.clone(), context);
    authenticate(routes.into_router(), authenticator(), true)
}

/// Knows no names.
#[derive(Debug)]
struct Nameless;

#[async_trait]
impl Resolve for Nameless {
    async fn resolve(&self, host: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
        Ok(host.parse().map(|ip| SocketAddr::new(ip, port)).into_iter().collect())
    }
}

async fn ask(router: &Router, line: &str, token: &str, body: Option<Value>) -> (StatusCode, Value) {
    let (method, path) = line.split_once(' ').unwrap();
    let mut request = Request::builder().method(method).uri(path).header(AUTHORIZATION, format!("Bearer {token}"));
    if body.is_some() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
    let response = router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
    let status = response.status();
    let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

#[tokio::test]
async fn an_owner_registers_tests_and_replays_and_the_secret_is_shown_once() {
    let (site, mut receiver) = (Site::new().await, Receiver::start().await);
    let router = router(&site);
    let all = "/v1/homes/h/webhooks";
    let body = json!({"url": receiver.url(), "kinds": ["alarm.raised"]});
    let (status, created) = ask(&router, &format!("POST {all}"), "owner", Some(body)).await;
    assert_eq!(status, StatusCode::CREATED, "{created}");
    let secret = Secret::new(text(&created["secret"]));
    let one = format!("{all}/{}", text(&created["id"]));
    let (status, shown) = ask(&router, &format!("GET {one}"), "owner", None).await;
    assert_eq!((status, &shown["secret"], &shown["home"]), (StatusCode::OK, &Value::Null, &json!("h")));

    receiver.answers([500; 8]);
    let (status, test) = ask(&router, &format!("POST {one}/test"), "owner", None).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{test}");
    assert_eq!(site.deliver_all().await, 8);
    let got = receiver.drain().pop().unwrap();
    assert!(got.is_signed_with(&secret) && got.header("webhook-id") == text(&test["notification"]));
    let (_, dead) = ask(&router, &format!("GET {one}/dead-letters"), "owner", None).await;
    assert_eq!((&dead["items"][0]["state"], &dead["items"][0]["last"]), (&json!("dead"), &json!("http_500")));
    let again = format!("POST {one}/dead-letters/{}/replay", text(&test["notification"]));
    assert_eq!(ask(&router, &again, "owner", None).await, (StatusCode::ACCEPTED, json!({"replayed": 1})));
    assert_eq!(ask(&router, &again, "owner", None).await.0, StatusCode::NOT_FOUND);
    assert_eq!(site.deliver_all().await, 1);
    let all_again = format!("POST {one}/dead-letters/replay");
    assert_eq!(ask(&router, &all_again, "owner", None).await, (StatusCode::ACCEPTED, json!({"replayed": 0})));
    let (_, made) = ask(&router, &format!("GET {one}/deliveries"), "owner", None).await;
    assert_eq!(made["items"][0]["state"], "delivered");

    let (status, rotated) = ask(&router, &format!("POST {one}/rotate"), "owner", None).await;
    assert!(status == StatusCode::OK && text(&rotated["secret"]) != secret.expose());
    assert_eq!(ask(&router, &format!("POST {one}/enable"), "owner", None).await.0, StatusCode::OK);
    assert_eq!(ask(&router, &format!("DELETE {one}"), "owner", None).await.0, StatusCode::NO_CONTENT);
    assert_eq!(ask(&router, &format!("DELETE {one}"), "owner", None).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn who_may_not_manage_webhooks_sees_none_and_no_place_shows_anothers() {
    let (site, receiver) = (Site::new().await, Receiver::start().await);
    let router = router(&site);
    let body = || Some(json!({"url": receiver.url()}));
    let (status, of_tenant) = ask(&router, "POST /v1/webhooks", "admin", body()).await;
    assert_eq!(status, StatusCode::CREATED);
    let (status, of_home) = ask(&router, "POST /v1/homes/h/webhooks", "owner", body()).await;
    assert_eq!(status, StatusCode::CREATED);
    let (of_tenant, of_home) = (text(&of_tenant["id"]), text(&of_home["id"]));
    for (line, token) in [
        ("GET /v1/webhooks".to_owned(), "viewer"),
        ("GET /v1/webhooks".to_owned(), "owner"),
        ("POST /v1/webhooks".to_owned(), "owner"),
        ("GET /v1/homes/h/webhooks".to_owned(), "guest"),
        (format!("DELETE /v1/homes/h/webhooks/{of_home}"), "guest"),
        ("GET /v1/homes/other/webhooks".to_owned(), "owner"),
    ] {
        assert_eq!(ask(&router, &line, token, body()).await.0, StatusCode::FORBIDDEN, "{line} {token}");
    }
    for line in [
        format!("GET /v1/homes/h/webhooks/{of_tenant}"),
        format!("DELETE /v1/homes/h/webhooks/{of_tenant}"),
        format!("POST /v1/homes/h/webhooks/{of_tenant}/rotate"),
        format!("GET /v1/homes/h/webhooks/{of_tenant}/deliveries"),
    ] {
        assert_eq!(ask(&router, &line, "owner", None).await.0, StatusCode::NOT_FOUND, "{line}");
    }
    let (_, list) = ask(&router, "GET /v1/webhooks", "admin", None).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn wrong_inputs_have_their_codes() {
    let client = Client::new(RootCertStore::empty()).resolver(Arc::new(Nameless));
    let site = Site::with(client, WebhookLimits::default()).await;
    let router = router(&site);
    for (body, status, code) in [
        (json!({"url": "example.com"}), 400, "url_invalid"),
        (json!({"url": "https://10.0.0.1/"}), 400, "url_forbidden"),
        (json!({"url": "http://example.com/"}), 400, "url_forbidden"),
        (json!({"url": "https://nowhere.invalid/"}), 400, "url_unresolvable"),
        (json!({"url": "https://1.1.1.1/", "kinds": ["alarm.exploded"]}), 400, "body_invalid"),
        (json!({"url": "https://1.1.1.1/", "secret": "mine"}), 400, "body_invalid"),
        (json!({"url": "https://1.1.1.1/", "device": "nobody"}), 404, "not_found"),
    ] {
        let (answered, problem) = ask(&router, "POST /v1/webhooks", "admin", Some(body.clone())).await;
        assert_eq!((answered.as_u16(), text(&problem["code"])), (status, code), "{body}");
    }
}
