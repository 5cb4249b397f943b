//! A browser's cookie in place of a bearer token: every combination, over a router as a server builds it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use axum::{
    Router,
    body::Body,
    http::{
        Request,
        header::{AUTHORIZATION, COOKIE, HOST, ORIGIN},
    },
};
use iot_core::access::Permission;
use iot_http::{Doc, Guard, Identity, Routes, authenticate};
use serde_json::{Value, json};
use support::{Site, authenticator, read, send};

const PERMISSION: Permission = Permission::ManageDevices;

fn router(encrypted: bool) -> Router {
    let site = Site::new();
    let doc = || Doc::new("a route");
    let who = async |who: Option<Identity>| axum::Json(who.map(|who| who.principal.to_string()));
    let public = Guard::Public { why: "it says who asks" };
    let routes: Routes = site
        .routes()
        .get("/v1/open", public, doc(), who)
        .post("/v1/open", public, doc(), who)
        .get("/v1/whole", Guard::Tenant(PERMISSION), doc(), who)
        .post("/v1/whole", Guard::Tenant(PERMISSION), doc(), who);
    authenticate(routes.into_router(), authenticator(), encrypted)
}

fn request(line: &str, cookie: &str) -> axum::http::request::Builder {
    let (method, path) = line.split_once(' ').unwrap();
    Request::builder().method(method).uri(path).header(HOST, "cloud.example").header(COOKIE, cookie)
}

async fn ask(router: &Router, request: axum::http::request::Builder) -> (u16, Value) {
    let (status, body) = read(send(router, request.body(Body::empty()).unwrap()).await).await;
    let shown = if status.is_success() { body } else { body["code"].clone() };
    (status.as_u16(), shown)
}

#[tokio::test]
async fn a_cookie_reads_and_changes_only_from_a_page_of_the_server() {
    for (encrypted, cookie, own) in
        [(true, "__Host-session=admin", "https://cloud.example"), (false, "session=admin", "http://cloud.example")]
    {
        let router = router(encrypted);
        let admin = (200, json!("acme/token/admin"));
        assert_eq!(ask(&router, request("GET /v1/whole", cookie)).await, admin);
        assert_eq!(ask(&router, request("GET /v1/whole", cookie).header("sec-fetch-site", "cross-site")).await, admin);
        let post = || request("POST /v1/whole", cookie);
        for (name, value) in [("sec-fetch-site", "same-origin"), ("sec-fetch-site", "none"), ("origin", own)] {
            assert_eq!(ask(&router, post().header(name, value)).await, admin, "{name}: {value}");
        }
        let cross_site = (403, json!("cross_site"));
        assert_eq!(ask(&router, post()).await, cross_site, "no proof");
        for (name, value) in [
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
            ("origin", "https://evil.example"),
            ("origin", "null"),
        ] {
            assert_eq!(ask(&router, post().header(name, value)).await, cross_site, "{name}: {value}");
        }
        assert_eq!(ask(&router, request("POST /v1/open", cookie)).await, cross_site, "on public routes too");
        let socket = request("GET /v1/whole", cookie).header("upgrade", "websocket");
        assert_eq!(ask(&router, socket.header(ORIGIN, "https://evil.example")).await, cross_site);
    }
}

#[tokio::test]
async fn a_cookie_of_the_other_kind_of_connection_and_a_bad_one_count_as_none() {
    for (encrypted, cookie) in [
        (true, "session=admin"),
        (false, "__Host-session=admin"),
        (true, "__Host-session=guessed"),
        (false, "session=far"),
        (true, "__Host-session=admin; __Host-session=viewer"),
    ] {
        let router = router(encrypted);
        assert_eq!(ask(&router, request("GET /v1/open", cookie)).await, (200, Value::Null), "{cookie}");
        let post = request("POST /v1/whole", cookie).header("sec-fetch-site", "same-origin");
        assert_eq!(ask(&router, post).await, (401, json!("unauthenticated")), "{cookie}");
    }
    let broken = request("GET /v1/open", "__Host-session=broken");
    assert_eq!(ask(&router(true), broken).await, (503, json!("unavailable")));
}

#[tokio::test]
async fn a_bearer_token_goes_before_a_cookie_and_needs_no_proof() {
    let router = router(true);
    let both = |token: &str| request("POST /v1/whole", "__Host-session=viewer").header(AUTHORIZATION, token);
    assert_eq!(ask(&router, both("Bearer admin")).await, (200, json!("acme/token/admin")));
    assert_eq!(ask(&router, both("Bearer guessed")).await, (401, json!("unauthenticated")));
}
