//! The routes, over a router as a server builds it: five wrong inputs at each door, and downloads by link.

#![cfg(feature = "http")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{
        HeaderMap, Method, Request,
        header::{AUTHORIZATION, CONTENT_TYPE},
    },
};
use iot_core::{
    access::{
        Authentication, BoxAuthenticator, Credentials, Grants, Object, Principal, Proof, Refusal, Relation, Subject,
    },
    device::{Device, Stage},
    id::{OwnershipEpoch, TokenId},
    logic::BoxError,
};
use iot_http::{Guard, GuardContext, RouteInfo, authenticate};
use iot_ota::{
    http::routes,
    release::{SignedRelease, SigningKey},
    server::Created,
    wire::ReportState,
};
use serde_json::{Value, json};
use support::{
    ADDRESS, Cloud, TestRing, device_id, first_then_all, image, keys, manifest, operator, signed, tenant, trust,
};
use tower::{ServiceExt, service_fn};

struct Face {
    cloud: Cloud,
    router: Router,
    routes: Vec<RouteInfo>,
}

/// `admin`, `operator`, `viewer`: a token of that relation to the tenant; `nobody`: one without any.
fn authenticator() -> BoxAuthenticator {
    BoxAuthenticator::new(service_fn(|credentials: Credentials| async move {
        let Proof::Token(token) = &credentials.proof else { return Ok(Authentication::Refused(Refusal::NoCredential)) };
        let name = token.expose();
        let subject = Subject::Token(TokenId::parse(name).unwrap());
        let of = |relation| Grants::of(Object::Tenant(tenant()), relation);
        let grants = match name {
            "admin" => of(Relation::Admin),
            "operator" => of(Relation::Operator),
            "viewer" => of(Relation::Viewer),
            _ => Grants { tuples: [].into(), ..of(Relation::Viewer) },
        };
        Ok::<_, BoxError>(Authentication::Accepted(Principal { tenant: tenant(), subject }, grants))
    }))
}

impl Face {
    /// A product `lamp` with three devices and trust.
    async fn new() -> Self {
        let cloud = Cloud::new().await;
        cloud.with_devices("lamp", 3).await;
        let context = GuardContext::new(cloud.meta.clone(), Arc::new(TestRing), cloud.clock.clone());
        let routes = routes(cloud.ota.clone(), context);
        let list = routes.list().to_vec();
        let router = authenticate(routes.into_router(), authenticator(), true);
        Self { cloud, router, routes: list }
    }

    async fn send(&self, token: &str, line: &str, media_type: &str, body: Vec<u8>) -> (u16, HeaderMap, Vec<u8>) {
        let (method, path) = line.split_once(' ').unwrap();
        let mut request = Request::builder().method(method).uri(path).header(CONTENT_TYPE, media_type);
        if !token.is_empty() {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        self.sent(request.body(Body::from(body)).unwrap()).await
    }

    async fn sent(&self, request: Request<Body>) -> (u16, HeaderMap, Vec<u8>) {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        (parts.status.as_u16(), parts.headers, to_bytes(body, 10_000_000).await.unwrap().to_vec())
    }

    async fn ask(&self, token: &str, line: &str, body: Value) -> (u16, Value) {
        let body = if body.is_null() { vec![] } else { body.to_string().into_bytes() };
        let (status, _, body) = self.send(token, line, "application/json", body).await;
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    async fn refused(&self, token: &str, line: &str, body: Value) -> (u16, String) {
        let (status, answer) = self.ask(token, line, body).await;
        (status, answer["code"].as_str().unwrap_or_default().to_owned())
    }

    async fn upload(&self, release: &str, media_type: &str, image: &[u8]) -> (u16, String) {
        let line = format!("PUT /v1/releases/{release}/image");
        let (status, _, body) = self.send("operator", &line, media_type, image.to_vec()).await;
        let answer: Value = serde_json::from_slice(&body).unwrap();
        (status, answer[if status == 200 { "state" } else { "code" }].as_str().unwrap().to_owned())
    }

    /// The path of the link in an offer to `lamp-0`.
    async fn link(&self, image: &[u8]) -> String {
        let release = self.cloud.released(2, image).await;
        self.cloud.started(&release, first_then_all(&["lamp-0"])).await;
        let offer = self.cloud.offered("lamp-0", 1).await;
        offer.url.strip_prefix(ADDRESS).unwrap().to_owned()
    }

    async fn load(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, Vec<u8>) {
        let request = Request::builder().method(method).uri(path);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        self.sent(request.body(Body::empty()).unwrap()).await
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, Vec<u8>) {
        self.load(Method::GET, path, headers).await
    }
}

fn answers<const N: usize>(codes: [(u16, &str); N]) -> Vec<(u16, String)> {
    codes.map(|(status, code)| (status, code.to_owned())).to_vec()
}

fn groups() -> Value {
    serde_json::to_value(first_then_all(&["lamp-0"]).groups).unwrap()
}

#[tokio::test]
async fn ac_11_every_route_is_guarded() {
    let face = Face::new().await;
    let public: Vec<_> = face
        .routes
        .iter()
        .filter(|route| matches!(route.guard, Guard::Public { .. }))
        .map(|route| route.path)
        .collect();
    assert_eq!(public, ["/v1/firmware/{release}"]);
    for route in face.routes.iter().filter(|route| !matches!(route.guard, Guard::Public { .. })) {
        let path = route.path.replace("{product}", "lamp").replace("{device}", "lamp-0");
        let path = path.replace("{release}", "r").replace("{rollout}", "r");
        let line = format!("{} {path}", route.method);
        assert_eq!(face.refused("", &line, Value::Null).await, (401, "unauthenticated".into()), "{line}");
        assert_eq!(face.refused("nobody", &line, Value::Null).await, (403, "forbidden".into()), "{line}");
        let status = face.refused("viewer", &line, Value::Null).await.0;
        assert_eq!(status == 403, route.method != Method::GET, "a viewer looks and changes nothing: {line}");
    }
    let operator = face.refused("operator", "PUT /v1/products/lamp/trust", json!(trust())).await;
    assert_eq!(operator, (403, "forbidden".into()), "trust is for those who may issue credentials");
}

#[tokio::test]
async fn trust_and_five_that_are_not() {
    let face = Face::new().await;
    let key = &json!(trust())["keys"][0];
    let put = async |body: Value| face.refused("admin", "PUT /v1/products/lamp/trust", body).await;
    assert_eq!(face.ask("admin", "PUT /v1/products/lamp/trust", json!(trust())).await, (200, json!(trust())));
    assert_eq!(face.ask("viewer", "GET /v1/products/lamp/trust", Value::Null).await, (200, json!(trust())));
    for wrong in [
        json!({ "threshold": 0, "keys": [key] }),
        json!({ "threshold": 2, "keys": [key, key] }),
        json!({ "threshold": 2, "keys": [key] }),
        json!({ "threshold": 1, "keys": ["zz"] }),
        json!({ "threshold": 1, "keys": [key], "more": 1 }),
    ] {
        assert_eq!(put(wrong).await, (400, "body_invalid".into()));
    }
    let unknown = face.refused("admin", "PUT /v1/products/none/trust", json!(trust())).await;
    assert_eq!(unknown, (404, "not_found".into()));
    assert_eq!(face.refused("viewer", "GET /v1/products/none/trust", Value::Null).await, (404, "not_found".into()));
}

#[tokio::test]
async fn releases_and_what_is_none() {
    let face = Face::new().await;
    let image = image(5_000);
    let good = signed(&manifest(1, &image));
    let (status, created) = face.ask("operator", "POST /v1/releases", json!(good)).await;
    assert_eq!((status, &created["state"], &created["size_bytes"]), (201, &json!("uploading"), &json!(5_000)));
    let id = created["id"].as_str().unwrap();
    assert_eq!(face.ask("operator", "POST /v1/releases", json!(good)).await, (200, created.clone()), "as before");
    let [one, ..] = keys();
    let stranger = SigningKey::from_seed(&[9; 32]).unwrap();
    let under = SignedRelease::sign(&manifest(2, &image), &[&one, &stranger]).unwrap();
    let other = iot_ota::release::Manifest { product: "plug".parse().unwrap(), ..manifest(2, &image) };
    let mut damaged = good.clone();
    damaged.manifest = damaged.manifest.replace("\"sequence\":1", "\"sequence\":0");
    let mut wrong = Vec::new();
    for body in [
        json!(under),
        json!(signed(&other)),
        json!(damaged),
        json!({ "manifest": 1 }),
        json!(signed(&manifest(1, b"x"))),
    ] {
        wrong.push(face.refused("operator", "POST /v1/releases", body).await);
    }
    let expected = [
        (403, "signatures_insufficient"),
        (409, "no_trust"),
        (400, "manifest_invalid"),
        (400, "body_invalid"),
        (409, "sequence_taken"),
    ];
    assert_eq!(wrong, answers(expected));
    let large = format!("{{\"manifest\":\"{}\"}}", "x".repeat(200 * 1024)).into_bytes();
    assert_eq!(face.send("operator", "POST /v1/releases", "application/json", large).await.0, 413);

    let octets = "application/octet-stream";
    let mut flipped = image.clone();
    flipped[4_999] ^= 1;
    let wrong = [
        face.upload(id, octets, &flipped).await,
        face.upload(id, octets, &image[1..]).await,
        face.upload(id, octets, &[&image[..], b"x"].concat()).await,
        face.upload(id, "text/plain", &image).await,
        face.upload("none", octets, &image).await,
    ];
    let mismatch = (400, "image_mismatch");
    assert_eq!(wrong.to_vec(), answers([mismatch, mismatch, mismatch, (415, "content_type"), (404, "not_found")]));
    assert_eq!(face.upload(id, octets, &image).await, (200, "ready".into()));
    let (_, listed) = face.ask("viewer", "GET /v1/releases?product=lamp", Value::Null).await;
    assert_eq!((listed["items"].as_array().unwrap().len(), &listed["items"][0]["id"]), (1, &json!(id)));
    let (status, gone) = face.ask("operator", &format!("POST /v1/releases/{id}/withdraw"), Value::Null).await;
    assert_eq!((status, &gone["state"]), (200, &json!("withdrawn")));
    assert_eq!(face.upload(id, octets, &image).await, (404, "not_found".into()));
}

#[tokio::test]
async fn rollouts_and_five_that_cannot_be() {
    let face = Face::new().await;
    let release = face.cloud.released(2, &image(5_000)).await;
    let create = async |body: Value| face.refused("operator", "POST /v1/rollouts", body).await;
    let wrong = [
        create(json!({ "release": release, "groups": [groups()[0]] })).await,
        create(json!({ "release": "none", "groups": groups() })).await,
        create(json!({ "release": release, "groups": groups(), "patience_s": 1 })).await,
        create(json!({ "release": release })).await,
        create(json!({ "release": release, "groups": groups(), "speed": 1 })).await,
    ];
    let (plan, body) = ((400, "plan_invalid"), (400, "body_invalid"));
    assert_eq!(wrong.to_vec(), answers([plan, (404, "not_found"), plan, body, body]));
    let asked = json!({ "release": release, "groups": groups() });
    let (status, draft) = face.ask("operator", "POST /v1/rollouts", asked).await;
    assert_eq!((status, &draft["state"]), (201, &json!("draft")));
    let id = draft["id"].as_str().unwrap();
    let order = async |order: &str| face.ask("operator", &format!("POST /v1/rollouts/{id}/{order}"), Value::Null).await;
    assert_eq!(order("resume").await.1["code"], "rollout_state");
    assert_eq!(order("start").await.1["state"], "running");
    assert_eq!(order("start").await.0, 200, "again is no error");
    face.cloud.tick().await;
    face.cloud.offered("lamp-0", 1).await;
    let (_, shown) = face.ask("viewer", &format!("GET /v1/rollouts/{id}"), Value::Null).await;
    assert_eq!((&shown["devices"], &shown["groups"][0]["assigned"]), (&json!({ "offered": 1 }), &json!(1)));
    let list =
        async |query: &str| face.ask("viewer", &format!("GET /v1/rollouts/{id}/devices{query}"), Value::Null).await;
    assert_eq!(list("?state=offered").await.1["items"][0]["device"], "lamp-0");
    assert_eq!(list("?state=pending").await.1["items"], json!([]));
    assert_eq!(list("").await.1["items"].as_array().unwrap().len(), 1);
    assert_eq!((list("?state=lost").await.0, list("?limit=0").await.0, list("?cursor=x").await.0), (400, 400, 400));
    let (_, update) = face.ask("viewer", "GET /v1/devices/lamp-1/update", Value::Null).await;
    assert_eq!((&update["code"], &update["facts"]["group"]), (&json!("group_not_open"), &json!(1)));
    assert_eq!(face.refused("viewer", "GET /v1/devices/none/update", Value::Null).await, (404, "not_found".into()));
    face.cloud.report("lamp-0", &id.parse().unwrap(), ReportState::Failed).await;
    let (_, shown) = face.ask("viewer", &format!("GET /v1/rollouts/{id}"), Value::Null).await;
    let halted = json!({ "group": 0, "executed": 1, "failed": 1, "failure_per_mille_max": 0 });
    assert_eq!((&shown["state"], &shown["halted"]), (&json!("halted"), &halted));
    assert_eq!(order("resume").await.1["code"], "rollout_state");
    let (_, listed) = face.ask("viewer", "GET /v1/rollouts?product=lamp", Value::Null).await;
    assert_eq!(listed["items"][0]["id"], json!(id));
}

#[tokio::test]
async fn an_image_is_loaded_whole_or_in_ranges() {
    let face = Face::new().await;
    let image = image(10_000);
    let link = face.link(&image).await;
    let (status, headers, body) = face.get(&link, &[]).await;
    assert_eq!((status, &body), (200, &image));
    let etag = headers["etag"].to_str().unwrap().to_owned();
    assert_eq!(etag, format!("\"{}\"", iot_ota::release::Digest::of(&image)));
    assert_eq!(headers["accept-ranges"], "bytes");
    assert_eq!(headers["cache-control"], "private, no-store");
    let part = async |range: &str| {
        let (status, headers, body) = face.get(&link, &[("range", range)]).await;
        let told = headers.get("content-range").map(|value| value.to_str().unwrap().to_owned());
        (status, told.unwrap_or_default(), body)
    };
    assert_eq!(part("bytes=0-1023").await, (206, "bytes 0-1023/10000".into(), image[..1_024].to_vec()));
    assert_eq!(part("bytes=9216-").await, (206, "bytes 9216-9999/10000".into(), image[9_216..].to_vec()));
    assert_eq!(part("bytes=-1").await, (206, "bytes 9999-9999/10000".into(), image[9_999..].to_vec()));
    assert_eq!(part("bytes=0-99999").await, (206, "bytes 0-9999/10000".into(), image.clone()));
    assert_eq!(part("bytes=0-1,3-4").await.0, 200, "several are answered with the whole");
    let (status, told, body) = part("bytes=10000-").await;
    assert_eq!((status, told.as_str()), (416, "bytes */10000"));
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["code"], "range_unsatisfiable");
    let (status, headers, body) = face.load(Method::HEAD, &link, &[("range", "bytes=0-1")]).await;
    assert_eq!((status, headers["content-length"].to_str().unwrap(), body.len()), (200, "10000", 0));
    let with = async |name: &str, value: &str| face.get(&link, &[("range", "bytes=0-1"), (name, value)]).await.0;
    assert_eq!((with("if-range", &etag).await, with("if-range", "\"other\"").await), (206, 200));
    assert_eq!((with("if-match", &etag).await, with("if-match", "\"other\"").await), (206, 412));
}

/// OT-20: guessed, altered, of another device, of another release, expired, of a former owner: one and the same answer.
#[tokio::test]
async fn ot_20_a_link_is_for_one_device_one_release_and_one_hour() {
    let face = Face::new().await;
    let link = face.link(&image(10_000)).await;
    assert_eq!(face.get(&link, &[]).await.0, 200, "the honest twin");
    let Created::Done(other) = face.cloud.create(&signed(&manifest(3, &image(99)))).await else { panic!() };
    assert!(matches!(face.cloud.upload(&other.id, &[&image(99)]).await, iot_ota::server::Uploaded::Done(_)));
    let (path, query) = link.split_once('?').unwrap();
    let replaced = |name: &str, value: &str| {
        let parts = query.split('&').map(|part| match part.split_once('=').unwrap() {
            (known, _) if known == name => format!("{name}={value}"),
            _ => part.to_owned(),
        });
        format!("{path}?{}", parts.collect::<Vec<_>>().join("&"))
    };
    let without = |name: &str| query.split('&').filter(|part| !part.starts_with(name)).collect::<Vec<_>>().join("&");
    let mut attacks = vec![
        replaced("device", "lamp-1"),
        replaced("device", "a/b"),
        replaced("tenant", "other"),
        replaced("epoch", "1"),
        replaced("epoch", "-1"),
        replaced("expires", "99999999999"),
        replaced("code", ""),
        replaced("code", &"0".repeat(64)),
        format!("/v1/firmware/{}?{query}", other.id),
        "/v1/firmware/none".to_owned(),
        format!("{path}?device=%ff&{query}"),
        format!("{path}?device=lamp-0&{query}"),
        format!("{link}&more=1"),
        path.to_owned(),
    ];
    attacks.extend(["tenant", "device", "epoch", "expires", "code"].map(|name| format!("{path}?{}", without(name))));
    let refused = face.get(&attacks[0], &[]).await;
    assert_eq!(refused.0, 403);
    assert_eq!(serde_json::from_slice::<Value>(&refused.2).unwrap()["code"], "link_refused");
    for attack in attacks {
        let answer = face.get(&attack, &[]).await;
        assert!(answer.0 == 403 && answer.2 == refused.2, "{attack}: {}", answer.0);
        assert_eq!(face.load(Method::HEAD, &attack, &[]).await.0, 403);
    }
    face.cloud.clock.advance(Duration::from_secs(3_599));
    assert_eq!(face.get(&link, &[]).await.0, 200, "to its last second");
    face.cloud.clock.advance(Duration::from_secs(1));
    assert_eq!(face.get(&link, &[]).await, refused, "and no longer");
    // What changes at the device or the release ends a fresh link at once.
    let fresh = async || face.cloud.offered("lamp-0", 1).await.url.strip_prefix(ADDRESS).unwrap().to_owned();
    let device = face.cloud.device("lamp-0").await;
    for changed in [
        Device { epoch: OwnershipEpoch(device.epoch.0 + 1), ..device.clone() },
        Device { stage: Stage::Retired, ..device.clone() },
    ] {
        let link = fresh().await;
        face.cloud.change(&changed).await;
        assert_eq!(face.get(&link, &[]).await, refused);
        face.cloud.change(&device).await;
        assert_eq!(face.get(&link, &[]).await.0, 200);
    }
    let link = fresh().await;
    let release = path.rsplit('/').next().unwrap().parse().unwrap();
    assert!(matches!(
        face.cloud.ota.withdraw(&operator(), &release).await.unwrap(),
        iot_ota::server::Withdrawn::Done(_)
    ));
    assert_eq!(face.get(&link, &[]).await, refused);
    assert_eq!(device.id, device_id("lamp-0"));
}
