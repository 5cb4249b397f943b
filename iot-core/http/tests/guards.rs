//! Guards, over a router as a server builds it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use axum::{
    body::Body,
    http::{
        StatusCode,
        header::{ALLOW, CONTENT_TYPE, WWW_AUTHENTICATE},
    },
};
use iot_core::{
    access::Permission,
    device::{Device, Stage},
    home::Home,
    id::{DeviceId, HomeId, OwnershipEpoch, PCode, ProductId},
    store::{Batch, MetaStoreExt},
    time::Timestamp,
};
use iot_http::{Doc, Guard, Identity, Person, Routes, Target};
use serde_json::json;
use support::{Site, acme, ask, request, send, serve};

const PERMISSION: Permission = Permission::ManageDevices;

fn routes(site: &Site) -> Routes {
    let doc = || Doc::new("a route").response(200, json!("ok"));
    site.routes()
        .get("/v1/open", Guard::Public { why: "it says nothing" }, doc(), async || "ok")
        .get("/v1/whole", Guard::Tenant(PERMISSION), doc(), async |who: Identity| who.principal.to_string())
        .delete("/v1/whole", Guard::Tenant(PERMISSION), doc(), async || "ok")
        .patch("/v1/whole", Guard::Tenant(PERMISSION), doc(), async || "ok")
        .post("/v1/devices/{device}/x", Guard::Device(PERMISSION), doc(), async |Target(device): Target<Device>| {
            device.document.p_code.to_string()
        })
        .put("/v1/homes/{home}", Guard::Home(PERMISSION), doc(), async |Target(home): Target<Home>| home.document.name)
}

async fn furnished() -> Site {
    let site = Site::new();
    let device = Device {
        tenant: acme(),
        product: ProductId::parse("lamp").unwrap(),
        id: DeviceId::parse("lamp-1").unwrap(),
        p_code: PCode::parse("AB12").unwrap(),
        stage: Stage::Manufactured,
        epoch: OwnershipEpoch(0),
        home: None,
        keys: vec![],
        created: Timestamp::EPOCH,
    };
    let home = Home::without_owner(acme(), HomeId::parse("h1").unwrap(), "Hill House");
    assert!(site.meta.commit_or_conflict(Batch::default().create(&device).create(&home)).await.unwrap());
    site
}

/// AC-11 for this kit: each guarded route in the list refuses a stranger and one without the permission.
#[tokio::test]
async fn every_guarded_route_refuses() {
    let site = furnished().await;
    let routes = routes(&site);
    let list = routes.list().to_vec();
    assert_eq!(list.len(), 6);
    let router = serve(routes);
    let mut refused = 0;
    for route in list.iter().filter(|route| !matches!(route.guard, Guard::Public { .. })) {
        let path = route.path.replace("{device}", "lamp-1").replace("{home}", "h1");
        let line = format!("{} {path}", route.method);
        let (status, problem) = ask(&router, &line, "").await;
        assert_eq!((status, &problem["code"]), (StatusCode::UNAUTHORIZED, &json!("unauthenticated")), "{line}");
        for token in ["viewer", "topics"] {
            let (status, problem) = ask(&router, &line, token).await;
            assert_eq!((status, &problem["code"]), (StatusCode::FORBIDDEN, &json!("forbidden")), "{line}");
            refused += 1;
            let audit = site.audit().await;
            assert_eq!(audit.len(), refused);
            assert_eq!(audit[0].subject, line);
            assert_eq!(audit[0].actor, format!("acme/token/{token}"));
        }
        let (status, _) = ask(&router, &line, "admin").await;
        assert_eq!(status, StatusCode::OK, "{line}");
    }
    assert_eq!(site.meta.revision().await.unwrap().0, 1 + refused as u64, "nothing but the audit was written");
}

#[tokio::test]
async fn a_route_for_accounts_refuses_all_others_and_knows_whose_it_is() {
    let site = Site::new();
    let own = async |person: Person| person.account.to_string();
    let elsewhere = async |person: Person| person.account.to_string();
    let routes = site.routes().get("/v1/own", Guard::Account, Doc::new("own"), own);
    let router = serve(routes.get("/v1/whole", Guard::Tenant(PERMISSION), Doc::new("whole"), elsewhere));
    let response = send(&router, request("GET /v1/own", "person").body(Body::empty()).unwrap()).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(axum::body::to_bytes(response.into_body(), 100).await.unwrap(), "ann");
    assert!(site.audit().await.is_empty());
    assert_eq!(ask(&router, "GET /v1/own", "").await.0, StatusCode::UNAUTHORIZED);
    for token in ["admin", "topics"] {
        let (status, problem) = ask(&router, "GET /v1/own", token).await;
        assert_eq!((status, &problem["code"]), (StatusCode::FORBIDDEN, &json!("forbidden")));
        assert_eq!(site.audit().await[0].refused.as_deref(), Some("not_an_account"));
    }
    assert_eq!(site.audit().await.len(), 2);
    let either = site.routes().get("/v1/all", Guard::TenantOrAccount(PERMISSION), Doc::new("all"), async || "ok");
    let either = serve(either);
    for (token, status) in [("", 401), ("topics", 403), ("viewer", 403), ("admin", 200), ("person", 200)] {
        assert_eq!(ask(&either, "GET /v1/all", token).await.0, status, "{token}");
    }
    assert_eq!(ask(&router, "GET /v1/whole", "admin").await.0, StatusCode::FORBIDDEN, "an administrator is no account");
}

#[tokio::test]
async fn a_public_route_asks_for_nothing_but_refuses_a_bad_token() {
    let site = Site::new();
    let router = serve(routes(&site));
    assert_eq!(ask(&router, "GET /v1/open", "").await.0, StatusCode::OK);
    assert_eq!(ask(&router, "GET /v1/open", "admin").await.0, StatusCode::OK);
    assert_eq!(ask(&router, "GET /v1/open", "guessed").await.0, StatusCode::UNAUTHORIZED);
    let (status, problem) = ask(&router, "GET /v1/open", "far").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(problem["detail"].as_str().unwrap().contains("TLS"));
    assert_eq!(ask(&router, "GET /v1/open", "broken").await.0, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn what_is_not_there_is_told_only_to_those_who_may_know() {
    let site = furnished().await;
    let router = serve(routes(&site));
    for (line, status, code) in [
        ("POST /v1/devices/lamp-2/x", 404, "not_found"),
        ("POST /v1/devices/a%2Fb/x", 400, "id_invalid"),
        ("PUT /v1/homes/h2", 404, "not_found"),
    ] {
        let (is, problem) = ask(&router, line, "admin").await;
        assert_eq!((is.as_u16(), &problem["code"]), (status, &json!(code)), "{line}");
        let (is, problem) = ask(&router, line, "viewer").await;
        assert_eq!((is.as_u16(), &problem["code"]), (403, &json!("forbidden")), "{line}");
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems() {
    let site = Site::new();
    let router = serve(routes(&site));
    let (status, problem) = ask(&router, "GET /v1/none", "").await;
    assert_eq!((status, &problem["code"]), (StatusCode::NOT_FOUND, &json!("no_such_route")));
    assert_eq!(problem["title"], "Not Found");
    let (status, problem) = ask(&router, "PUT /v1/whole", "admin").await;
    assert_eq!((status, &problem["code"]), (StatusCode::METHOD_NOT_ALLOWED, &json!("method_not_allowed")));
    let response = send(&router, request("PUT /v1/whole", "admin").body(Body::empty()).unwrap()).await;
    assert_eq!(response.headers()[ALLOW], "GET,HEAD,DELETE,PATCH");
    let response = send(&router, request("GET /v1/whole", "").body(Body::empty()).unwrap()).await;
    assert_eq!(response.headers()[WWW_AUTHENTICATE], "Bearer");
    assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
}

#[tokio::test]
async fn openapi_has_every_route_and_says_what_it_needs() {
    let site = Site::new();
    let other = site.routes().get("/v1/other", Guard::Tenant(PERMISSION), Doc::new("other").paged(), async || "ok");
    let routes = routes(&site).merge(other);
    let document = routes.openapi("Cloud", "1");
    for route in routes.list() {
        let operation = &document["paths"][route.path][route.method.as_str().to_lowercase()];
        assert!(operation["summary"].is_string(), "{route:?}");
        assert_eq!(operation["security"] == json!([]), matches!(route.guard, Guard::Public { .. }), "{route:?}");
    }
    assert_eq!(document["paths"]["/v1/other"]["get"]["parameters"][0]["name"], "cursor");
    assert_eq!(document["paths"]["/v1/homes/{home}"]["put"]["parameters"][0]["in"], "path");
}
