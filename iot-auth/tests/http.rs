//! The routes, over a router as a server builds it, with the real authenticator around it.

#![cfg(feature = "http")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::net::SocketAddr;

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{
        Method, Request,
        header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE},
    },
    response::Response,
};
use iot_auth::http::routes;
use iot_core::{
    access::{Authentication, BoxAuthenticator, Credentials, Grants, Principal, Subject},
    id::{TenantId, TokenId},
    store::Revision,
};
use iot_http::{Guard, GuardContext, Peer, RouteInfo, authenticate};
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use support::{Cloud, key};
use tower::{ServiceExt, service_fn};

struct Face {
    cloud: Cloud,
    router: Router,
    routes: Vec<RouteInfo>,
    /// An admin token.
    admin: String,
}

const LOCAL: &str = "127.0.0.1:40000";

impl Face {
    /// As after a first start and a sign-in.
    async fn new() -> Self {
        let cloud = Cloud::new().await;
        let password = cloud.auth.first_start().await.unwrap().unwrap();
        let context = GuardContext::new(cloud.meta.clone(), cloud.keys.clone(), cloud.clock.clone());
        let routes = routes(cloud.auth.clone(), context);
        let list = routes.list().to_vec();
        let router = authenticate(routes.into_router(), cloud.auth.authenticator(), false);
        let mut face = Self { cloud, router, routes: list, admin: String::new() };
        let basic = data_encoding::BASE64.encode(format!("admin:{}", password.expose()).as_bytes());
        let request = Request::post("/v1/sign-in").header(AUTHORIZATION, format!("Basic {basic}"));
        let response = face.send(request.header(ACCEPT, "text/plain").body(Body::empty()).unwrap(), LOCAL).await;
        assert_eq!(response.status(), 200);
        face.admin = String::from_utf8(to_bytes(response.into_body(), 1_000).await.unwrap().to_vec()).unwrap();
        face
    }

    async fn send(&self, mut request: Request<Body>, peer: &str) -> Response {
        request.extensions_mut().insert(Peer(peer.parse::<SocketAddr>().unwrap()));
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn ask(&self, token: &str, line: &str, body: Value) -> (u16, Value) {
        let (method, path) = line.split_once(' ').unwrap();
        let request = Request::builder().method(method).uri(path).header(CONTENT_TYPE, "application/json");
        let request = if token.is_empty() { request } else { request.header(AUTHORIZATION, format!("Bearer {token}")) };
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        read(self.send(request.body(body).unwrap(), LOCAL).await).await
    }

    async fn admin(&self, line: &str, body: Value) -> (u16, Value) {
        self.ask(&self.admin, line, body).await
    }

    async fn import(&self, csv: &str) -> (u16, Value) {
        let request = Request::post("/v1/products/lamp/units").header(CONTENT_TYPE, "text/csv; charset=utf-8");
        let request = request.header(AUTHORIZATION, format!("Bearer {}", self.admin)).body(Body::from(csv.to_owned()));
        read(self.send(request.unwrap(), LOCAL).await).await
    }

    /// A product `lamp` with three units, and a claim token for them.
    async fn furnished() -> (Self, String) {
        let face = Self::new().await;
        assert_eq!(face.admin("PUT /v1/products/lamp", json!({ "name": "Lamp" })).await.0, 201);
        let csv = "device_id,p_code\nlamp-1,A1\nlamp-2,A2\nlamp-3,A3\n";
        assert_eq!(face.import(csv).await, (201, json!({ "imported": 3 })));
        let asked = json!({ "product": "lamp", "uses": 2, "assign": true });
        let (status, issued) = face.admin("POST /v1/claim-tokens", asked).await;
        assert_eq!(status, 201);
        let token = issued["token"].as_str().unwrap().to_owned();
        (face, token)
    }
}

async fn read(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let body = to_bytes(response.into_body(), 1_000_000).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

fn csr(key: &KeyPair) -> String {
    CertificateParams::default().serialize_request(key).unwrap().pem().unwrap()
}

fn code(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["code"].as_str().unwrap_or_default())
}

/// AC-11: the table of routes decides what is asked, so that no route can be forgotten.
#[tokio::test]
async fn ac_11_every_route_is_guarded() {
    let (face, _) = Face::furnished().await;
    assert_eq!(face.admin("PUT /v1/homes/h1", json!({ "name": "Hill House" })).await.0, 201);
    let public: Vec<_> =
        face.routes.iter().filter(|r| matches!(r.guard, Guard::Public { .. })).map(|r| r.path).collect();
    let accounts = ["/v1/accounts", "/v1/accounts/verify", "/v1/login", "/v1/login/refresh"];
    let resets = ["/v1/account/reset", "/v1/account/reset/confirm", "/v1/accounts/first"];
    let listed = [&["/v1/sign-in", "/v1/claim"][..], &accounts, &resets].concat();
    assert_eq!(public, listed, "the list of public routes is this one");
    let powerless = BoxAuthenticator::new(service_fn(|_: Credentials| async {
        let tenant = TenantId::parse("default").unwrap();
        let subject = Subject::Token(TokenId::parse("powerless").unwrap());
        let grants = Grants { revision: Revision::default(), tuples: [].into() };
        Ok(Authentication::Accepted(Principal { tenant, subject }, grants))
    }));
    let context = GuardContext::new(face.cloud.meta.clone(), face.cloud.keys.clone(), face.cloud.clock.clone());
    let router = authenticate(routes(face.cloud.auth.clone(), context).into_router(), powerless, true);
    let unprivileged = Face { router, ..Face::new().await };
    for route in face.routes.iter().filter(|route| !matches!(route.guard, Guard::Public { .. })) {
        let path = route.path.replace("{device}", "lamp-1").replace("{product}", "lamp").replace("{home}", "h1");
        let path = path.replace("{account}", "a1").replace("{invite}", "i1");
        let line = format!("{} {}", route.method, path.replace("{token}", "x"));
        let line = line.replace("{account}", "x").replace("{login}", "x");
        let revision = face.cloud.meta.revision().await.unwrap();
        assert_eq!(code(&face.ask("", &line, Value::Null).await), (401, "unauthenticated"), "{line}");
        assert_eq!(face.cloud.meta.revision().await.unwrap(), revision, "{line}");
        let before = face.cloud.before(&TenantId::parse("default").unwrap()).await;
        assert_eq!(code(&unprivileged.ask("any", &line, Value::Null).await), (403, "forbidden"), "{line}");
        let why = if route.guard == Guard::Account { "not_an_account" } else { "no_relation" };
        face.cloud.refused_only(before, why).await;
    }
}

/// AC-9: a token of one tenant, used on what another has.
#[tokio::test]
async fn ac_9_a_token_sees_its_own_tenant_only() {
    let (face, _) = Face::furnished().await;
    let rival = support::operator("rival");
    let token = face.cloud.auth.issue_token(&rival, "r", iot_auth::token::Role::Admin, None).await.unwrap().text;
    for (line, body) in [
        ("GET /v1/products/lamp", Value::Null),
        ("POST /v1/devices/lamp-1/retire", Value::Null),
        ("POST /v1/devices/lamp-1/keys/revoke", json!({})),
        ("PUT /v1/devices/lamp-1/home", json!({ "home": null })),
        ("POST /v1/claim-tokens", json!({ "product": "lamp" })),
    ] {
        assert_eq!(code(&face.ask(token.expose(), line, body).await), (404, "not_found"), "{line}");
    }
    for list in ["products", "homes", "tokens", "claim-tokens", "audit"] {
        let (status, page) = face.ask(token.expose(), &format!("GET /v1/{list}"), Value::Null).await;
        let foreign = page["items"].as_array().unwrap().iter().any(|item| item.to_string().contains("lamp"));
        assert!(status == 200 && !foreign, "{list}: {page}");
    }
}

#[tokio::test]
async fn a_unit_goes_from_csv_to_certificate_to_retirement() {
    let (face, token) = Face::furnished().await;
    let key = key();
    let asked = json!({ "token": token, "csr": csr(&key), "device_id": "lamp-2" });
    let (status, claim) = face.ask("", "POST /v1/claim", asked.clone()).await;
    assert_eq!((status, &claim["device_id"], &claim["tenant"]), (200, &json!("lamp-2"), &json!("default")));
    assert_eq!(claim["ca"], face.cloud.auth.ca_pem());
    assert_eq!(claim["not_after"], "2027-11-23T00:00:00Z");
    support::accepted(face.cloud.connect(claim["certificate"].as_str().unwrap(), "lamp-2").await);
    let (status, again) = face.ask("", "POST /v1/claim", asked).await;
    assert_eq!((status, &again["device_id"]), (200, &json!("lamp-2")));
    let (_, tokens) = face.admin("GET /v1/claim-tokens", Value::Null).await;
    assert_eq!((&tokens["items"][0]["used"], &tokens["items"][0]["token"]), (&json!(1), &Value::Null));

    assert_eq!(face.admin("PUT /v1/homes/h1", json!({ "name": "Hill House" })).await.0, 201);
    let home = json!({ "id": "h1", "name": "Hill House", "owned": false, "role": null, "expires": null });
    assert_eq!(face.admin("GET /v1/homes/h1", Value::Null).await, (200, home));
    let (status, unit) = face.admin("PUT /v1/devices/lamp-2/home", json!({ "home": "h1" })).await;
    assert_eq!((status, &unit["home"], &unit["stage"]), (200, &json!("h1"), &json!("activated")));
    assert_eq!(code(&face.admin("PUT /v1/devices/lamp-2/home", json!({})).await), (400, "body_invalid"));
    assert_eq!(code(&face.admin("PUT /v1/devices/lamp-2/home", json!({ "home": "h2" })).await), (404, "not_found"));
    let (status, unit) = face.admin("PUT /v1/devices/lamp-2/home", json!({ "home": null })).await;
    assert_eq!((status, &unit["home"]), (200, &Value::Null));

    let (status, unit) = face.admin("POST /v1/devices/lamp-2/keys/revoke", json!({})).await;
    assert_eq!((status, &unit["keys"][0]["state"]), (200, &json!("revoked")));
    let absent = face.admin("POST /v1/devices/lamp-2/keys/revoke", json!({ "fingerprint": "00" })).await;
    assert_eq!(code(&absent), (404, "not_found"));
    let (status, unit) = face.admin("POST /v1/devices/lamp-2/retire", Value::Null).await;
    assert_eq!((status, &unit["stage"]), (200, &json!("retired")));
    let (_, audit) = face.admin("GET /v1/audit?limit=3", Value::Null).await;
    let actions: Vec<_> = audit["items"].as_array().unwrap().iter().map(|e| e["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["retire", "keys_revoke", "device_move"]);
    let next = audit["next"].as_str().unwrap();
    let (_, audit) = face.admin(&format!("GET /v1/audit?limit=1&cursor={next}"), Value::Null).await;
    assert_eq!(audit["items"][0]["action"], "device_move");
}

#[tokio::test]
async fn a_claim_says_no_more_than_it_must() {
    let (face, token) = Face::furnished().await;
    let taken = csr(&key());
    let claim = async |token: &str, csr: &str, device: &str| {
        let asked = json!({ "token": token, "csr": csr, "device_id": device });
        face.ask("", "POST /v1/claim", asked).await
    };
    assert_eq!(claim(&token, &taken, "lamp-1").await.0, 200);
    assert_eq!(code(&claim(&token, &csr(&key()), "lamp-1").await), (409, "already_claimed"));
    assert_eq!(code(&claim(&token, "no csr", "lamp-2").await), (400, "csr_invalid"));
    let unknown_token = claim("ct_a_b", &csr(&key()), "lamp-2").await;
    assert_eq!(code(&unknown_token), (403, "claim_refused"));
    assert_eq!(claim(&token, &csr(&key()), "nobody").await, unknown_token, "no hint of existence");
    assert_eq!(claim(&token, &taken, "lamp-2").await, unknown_token);
    let asked = json!({ "token": token, "csr": csr(&key()), "device_id": "lamp-2" }).to_string();
    let request = Request::post("/v1/claim").header(CONTENT_TYPE, "application/json").body(Body::from(asked)).unwrap();
    let before = face.cloud.before(&TenantId::parse("default").unwrap()).await;
    let far = read(face.send(request, "192.0.2.1:1").await).await;
    assert_eq!(code(&far), (403, "claim_refused"));
    face.cloud.refused_only(before, "unencrypted").await;
}

#[tokio::test]
async fn files_of_units_are_refused_with_their_line() {
    let (face, _) = Face::furnished().await;
    for (csv, status, error, line) in [
        ("device_id\nx\n", 400, "csv_columns", "line 1:"),
        ("device_id,p_code\na/b,A\n", 400, "csv_line_invalid", "line 2:"),
        ("device_id,p_code,home\na,A,h9\n", 400, "csv_line_invalid", "line 2:"),
        ("device_id,p_code\na,A\na,B\n", 409, "duplicate_in_file", "line 3:"),
        ("device_id,p_code\nlamp-1,B\n", 409, "device_exists", "line 2:"),
        ("device_id,p_code\na,A\nb,A1\n", 409, "p_code_exists", "line 3:"),
    ] {
        let answer = face.import(csv).await;
        assert_eq!(code(&answer), (status, error), "{csv}");
        assert!(answer.1["detail"].as_str().unwrap().starts_with(line), "{}", answer.1);
    }
    let large = format!("device_id,p_code\n{}", "\n".repeat(iot_auth::registry::CSV_BYTES_MAX));
    assert_eq!(code(&face.import(&large).await), (413, "body_too_large"));
    assert_eq!(code(&face.admin("POST /v1/products/lamp/units", json!({})).await), (415, "content_type"));
    assert_eq!(code(&face.admin("POST /v1/products/none/units", json!({})).await), (415, "content_type"));
}

#[tokio::test]
async fn a_token_is_shown_once_and_works_until_it_is_revoked() {
    let face = Face::new().await;
    let (status, issued) = face.admin("POST /v1/tokens", json!({ "name": "panel", "role": "viewer" })).await;
    assert_eq!((status, &issued["role"], &issued["expires"]), (201, &json!("viewer"), &Value::Null));
    let (token, id) = (issued["token"].as_str().unwrap(), issued["id"].as_str().unwrap());
    assert_eq!(face.ask(token, "GET /v1/products", Value::Null).await.0, 200);
    assert_eq!(code(&face.ask(token, "GET /v1/tokens", Value::Null).await), (403, "forbidden"));
    let (_, list) = face.admin("GET /v1/tokens", Value::Null).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    assert!(!list.to_string().contains("at_") && !list.to_string().contains("code"), "{list}");
    assert_eq!(face.admin(&format!("DELETE /v1/tokens/{id}"), Value::Null).await.0, 204);
    assert_eq!(code(&face.ask(token, "GET /v1/products", Value::Null).await), (401, "unauthenticated"));
    assert_eq!(code(&face.admin(&format!("DELETE /v1/tokens/{id}"), Value::Null).await), (404, "not_found"));
    assert_eq!(code(&face.admin("DELETE /v1/tokens/a%20b", Value::Null).await), (400, "id_invalid"));
    for bad in [
        json!({ "name": "", "role": "viewer" }),
        json!({ "name": "x".repeat(129), "role": "viewer" }),
        json!({ "name": "a\nb", "role": "viewer" }),
        json!({ "name": "a", "role": "root" }),
        json!({ "name": "a", "role": "viewer", "valid_s": 0 }),
        json!({ "name": "a", "role": "viewer", "valid_s": u64::MAX }),
        json!({ "name": "a", "role": "viewer", "tenant": "rival" }),
    ] {
        assert_eq!(code(&face.admin("POST /v1/tokens", bad.clone()).await), (400, "body_invalid"), "{bad}");
    }
}

/// AC-12: an answer that shows a secret is repeated only to the one who asked first, and lies sealed in the store.
#[tokio::test]
async fn ac_12_issuing_is_idempotent_by_key() {
    let face = Face::new().await;
    let issue = async |body: Value| {
        let request = Request::post("/v1/tokens").header(CONTENT_TYPE, "application/json");
        let request = request.header(AUTHORIZATION, format!("Bearer {}", face.admin)).header("Idempotency-Key", "k");
        read(face.send(request.body(Body::from(body.to_string())).unwrap(), LOCAL).await).await
    };
    let first = issue(json!({ "name": "panel", "role": "viewer" })).await;
    assert_eq!(first.0, 201);
    assert_eq!(issue(json!({ "name": "panel", "role": "viewer" })).await, first);
    assert_eq!(code(&issue(json!({ "name": "panel", "role": "admin" })).await), (409, "idempotency_mismatch"));
    let (_, list) = face.admin("GET /v1/tokens", Value::Null).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 2, "the administrator's and this one");
    let all = iot_core::store::Index::new("idempotency", "all", "");
    let records = face.cloud.meta.list(&all, None, 10).await.unwrap().items;
    let secret = first.1["token"].as_str().unwrap().rsplit('_').next().unwrap();
    assert_eq!(records.len(), 1);
    assert!(
        !records[0].body.contains(secret)
            && !records[0].body.contains(&data_encoding::BASE64.encode(secret.as_bytes()))
    );
}

#[tokio::test]
async fn signing_in_needs_the_password_and_a_private_connection() {
    let face = Face::new().await;
    let password = face.cloud.auth.reset_admin().await.unwrap();
    let sign_in = async |credentials: String, peer: &str| {
        let basic = data_encoding::BASE64.encode(credentials.as_bytes());
        let request = Request::builder().method(Method::POST).uri("/v1/sign-in");
        let request = request.header(AUTHORIZATION, format!("Basic {basic}"));
        face.send(request.body(Body::empty()).unwrap(), peer).await
    };
    let right = format!("admin:{}", password.expose());
    for (credentials, peer) in [
        ("admin:guess".to_owned(), LOCAL),
        (format!("root:{}", password.expose()), LOCAL),
        ("nothing".to_owned(), LOCAL),
        (right.clone(), "192.0.2.1:1"),
    ] {
        let response = sign_in(credentials, peer).await;
        assert!(response.headers()[WWW_AUTHENTICATE].to_str().unwrap().starts_with("Basic"));
        assert_eq!(code(&read(response).await), (401, "unauthenticated"));
    }
    let (status, token) = read(sign_in(right.clone(), LOCAL).await).await;
    assert_eq!((status, &token["role"]), (200, &json!("admin")));
    assert_eq!(face.ask(token["token"].as_str().unwrap(), "GET /v1/tokens", Value::Null).await.0, 200);
    assert_eq!(code(&read(sign_in(right, LOCAL).await).await), (401, "unauthenticated"));
}
