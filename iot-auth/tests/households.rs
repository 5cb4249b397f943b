//! Homes, sharing and binding as applications see them, over a router as a server builds it.

#![cfg(feature = "http")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{
        Request,
        header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE},
    },
};
use iot_auth::{binding::WRONG_CODES_PER_ACCOUNT, home::home_tuples, http::routes};
use iot_core::{
    access::{
        Authentication, BoxAuthenticator, Credentials, Grants, Object, Permission, Principal, Proof, Relation, Subject,
        Tuple,
    },
    home::Role,
    id::HomeId,
    logic::BoxError,
    store::Revision,
};
use iot_http::{GuardContext, Peer, authenticate};
use serde_json::{Value, json};
use support::{Cloud, operator, peer, person};
use tower::service_fn;

struct Face {
    cloud: Cloud,
    router: Router,
}

impl Face {
    /// A token is the name of a person, whose grants are those of their homes; `vendor` is an administrator's.
    async fn new() -> Self {
        let cloud = Cloud::new().await;
        let context = GuardContext::new(cloud.meta.clone(), cloud.keys.clone(), cloud.clock.clone());
        let meta = cloud.meta.clone();
        let authenticator = BoxAuthenticator::new(service_fn(move |credentials: Credentials| {
            let meta = meta.clone();
            async move {
                let Proof::Token(name) = credentials.proof else { return Err(BoxError::from("no token")) };
                let mut grants = Grants { revision: Revision::default(), tuples: [].into() };
                let who = match name.expose() {
                    "vendor" => operator("acme"),
                    name => person(name),
                };
                match &who.subject {
                    Subject::Account { account, .. } => {
                        grants.tuples = home_tuples(&*meta, &who.tenant, account).await?.into();
                    }
                    _ => {
                        let object = Object::Tenant(who.tenant.clone());
                        let admin = Tuple { object, relation: Relation::Admin, expires: None };
                        grants.tuples = grants.tuples.iter().cloned().chain([admin]).collect();
                    }
                }
                Ok(Authentication::Accepted(who, grants))
            }
        }));
        let router = authenticate(routes(cloud.auth.clone(), context).into_router(), authenticator, true);
        Self { cloud, router }
    }

    async fn response(&self, who: &str, line: &str, body: &Value) -> axum::response::Response {
        let (method, path) = line.split_once(' ').unwrap();
        let request = Request::builder().method(method).uri(path).header(CONTENT_TYPE, "application/json");
        let request = request.header(AUTHORIZATION, format!("Bearer {who}"));
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let mut request = request.body(body).unwrap();
        request.extensions_mut().insert(Peer(peer()));
        tower::ServiceExt::oneshot(self.router.clone(), request).await.unwrap()
    }

    async fn ask(&self, who: &str, line: &str, body: Value) -> (u16, Value) {
        let response = self.response(who, line, &body).await;
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), 1_000_000).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    async fn get(&self, who: &str, path: &str) -> (u16, Value) {
        self.ask(who, &format!("GET {path}"), Value::Null).await
    }

    /// Refused with this status and code, without a trace but the entry with this reason, and without a hint.
    async fn refused(&self, who: &str, line: &str, body: Value, expected: (u16, &str), why: &str) {
        let before = self.cloud.before(&operator("acme").tenant).await;
        let secret = body["code"].as_str().unwrap_or_default().to_owned();
        let answer = self.ask(who, line, body).await;
        assert_eq!(code(&answer), expected, "{who} {line} {}", answer.1);
        let secret = iot_core::code::Code::parse(&secret).map(|code| code.grouped());
        let secrets = [secret.as_ref().map_or("", |code| code.expose())];
        self.cloud.left_nothing(before, why, answer, &secrets).await;
    }

    /// Ada's home with Max, Mia and Gus in it, and a lamp that is bound to it.
    async fn household() -> (Self, String) {
        let face = Self::new().await;
        let (status, home) = face.ask("ada", "POST /v1/homes", json!({ "name": "Hill House" })).await;
        assert_eq!((status, &home["role"], &home["owned"]), (201, &json!("owner"), &json!(true)));
        let id = home["id"].as_str().unwrap().to_owned();
        for (by, name, role) in [("ada", "max", "manager"), ("max", "mia", "member"), ("max", "gus", "guest")] {
            let asked = json!({ "role": role });
            let (status, invite) = face.ask(by, &format!("POST /v1/homes/{id}/invites"), asked).await;
            assert_eq!(status, 201, "{invite}");
            let (status, joined) = face.ask(name, "POST /v1/invites/accept", json!({ "code": invite["code"] })).await;
            assert_eq!((status, &joined["home"], &joined["role"]), (200, &json!(id), &json!(role)));
        }
        face.cloud.activated("lamp-1").await;
        let code = face.cloud.shown_code("lamp-1").await;
        let asked = json!({ "code": code, "home": id, "p_code": "LAMP-1" });
        let (status, bound) = face.ask("ada", "POST /v1/bindings", asked).await;
        assert_eq!((status, bound), (201, json!({ "device": "lamp-1", "home": id, "epoch": 1 })));
        (face, id)
    }
}

fn code(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["code"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn people_share_a_home_see_their_own_and_hand_it_on() {
    let (face, id) = Face::household().await;
    let at = |rest: &str| format!("/v1/homes/{id}{rest}");
    let (_, own) = face.get("gus", "/v1/homes").await;
    assert_eq!(
        own["items"],
        json!([{ "id": id, "name": "Hill House", "owned": true, "role": "guest", "expires": null }])
    );
    assert_eq!(face.get("eve", "/v1/homes").await, (200, json!({ "items": [], "next": null })));
    let (_, all) = face.get("vendor", "/v1/homes").await;
    assert_eq!((&all["items"][0]["id"], &all["items"][0]["role"]), (&json!(id), &Value::Null));
    assert_eq!(face.get("vendor", "/v1/homes?own=true").await.1["items"], json!([]));

    let (status, list) = face.get("mia", &at("/members")).await;
    let roles: Vec<_> = list["items"].as_array().unwrap().iter().map(|m| m["role"].as_str().unwrap()).collect();
    assert_eq!((status, roles), (200, vec!["owner", "manager", "member", "guest"]));
    let soon = json!({ "role": "member", "expires": "2026-11-24T00:00:00Z" });
    let (status, gus) = face.ask("max", &format!("PUT {}", at("/members/gus")), soon).await;
    assert_eq!((status, &gus["role"], &gus["expires"]), (200, &json!("member"), &json!("2026-11-24T00:00:00Z")));
    let renamed = face.ask("max", &format!("PUT {}", at("")), json!({ "name": "Mill House" })).await;
    assert_eq!((renamed.0, &renamed.1["name"]), (200, &json!("Mill House")));

    let asked = json!({ "role": "guest", "uses": 2, "valid_s": 60, "access_expires": "2026-11-25T00:00:00Z" });
    let response = face.response("ada", &format!("POST {}", at("/invites")), &asked).await;
    assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
    let (_, open) = face.get("max", &at("/invites")).await;
    let open = open["items"].as_array().unwrap();
    let last = open.last().unwrap();
    assert_eq!((&last["uses_left"], &last["code"], &last["uri"]), (&json!(2), &Value::Null, &Value::Null));
    let withdraw = at(&format!("/invites/{}", last["id"].as_str().unwrap()));
    assert_eq!(face.ask("ada", &format!("DELETE {withdraw}"), Value::Null).await.0, 204);
    face.refused("ada", &format!("DELETE {withdraw}"), Value::Null, (404, "not_found"), "no_such_invite").await;

    let to_mia = json!({ "account": "mia" });
    let (status, handed) = face.ask("ada", &format!("POST {}", at("/transfer")), to_mia).await;
    assert_eq!((status, &handed["role"]), (200, &json!("manager")));
    assert_eq!(face.ask("mia", &format!("DELETE {}", at("/members/max")), Value::Null).await.0, 204);
    assert_eq!(face.ask("ada", &format!("POST {}", at("/leave")), json!({})).await.0, 204);
    assert_eq!(face.get("ada", "/v1/homes").await.1["items"], json!([]));
    assert_eq!(face.ask("mia", &format!("DELETE {}", at("")), Value::Null).await.0, 204);
    assert_eq!(face.cloud.unit("lamp-1").await.home, None);
    assert_eq!(code(&face.get("mia", &at("")).await), (403, "forbidden"));
}

#[tokio::test]
async fn sh_3_what_is_above_oneself_is_forbidden_and_unknown_roles_are_no_roles() {
    let (face, id) = Face::household().await;
    let at = |method: &str, rest: &str| format!("{method} /v1/homes/{id}{rest}");
    let forbidden = (403, "forbidden");
    for who in ["gus", "mia"] {
        for (line, body) in [
            (at("POST", "/invites"), json!({ "role": "guest" })),
            (at("GET", "/invites"), Value::Null),
            (at("PUT", &format!("/members/{who}")), json!({ "role": "manager" })),
            (at("DELETE", "/members/gus"), Value::Null),
            (at("POST", "/transfer"), json!({ "account": who })),
            (at("DELETE", ""), Value::Null),
            ("DELETE /v1/devices/lamp-1/binding".to_owned(), Value::Null),
        ] {
            face.refused(who, &line, body, forbidden, "not_permitted").await;
        }
        face.refused(who, &at("PUT", ""), json!({ "name": "Mine" }), forbidden, "forbidden").await;
    }
    face.refused("max", &at("PUT", "/members/gus"), json!({ "role": "owner" }), forbidden, "forbidden").await;
    face.refused("max", &at("PUT", "/members/ada"), json!({ "role": "guest" }), forbidden, "forbidden").await;
    face.refused("max", &at("POST", "/invites"), json!({ "role": "manager" }), forbidden, "forbidden").await;
    face.refused("vendor", &at("POST", "/invites"), json!({ "role": "guest" }), forbidden, "forbidden").await;
    face.refused("vendor", &at("PUT", ""), json!({ "name": "Shop" }), forbidden, "home_of_people").await;
    face.refused("eve", "PUT /v1/homes/none", json!({ "name": "Mine" }), forbidden, "forbidden").await;
    face.refused("eve", &at("GET", ""), Value::Null, forbidden, "no_relation").await;
    face.refused("vendor", "POST /v1/homes", json!({ "name": "Shop" }), forbidden, "not_an_account").await;
    for role in [json!("root"), json!("OWNER"), json!(4), json!(-1), json!(4_294_967_297_u64), json!(null), json!([])] {
        let answer = face.ask("ada", &at("PUT", "/members/gus"), json!({ "role": role })).await;
        assert_eq!(code(&answer), (400, "body_invalid"), "{role}");
    }
    for bad in [
        json!({ "role": "guest", "uses": 0 }),
        json!({ "role": "guest", "uses": 33 }),
        json!({ "role": "guest", "valid_s": 0 }),
        json!({ "role": "guest", "valid_s": 604_801 }),
        json!({ "role": "guest", "by": "ada" }),
        json!({}),
    ] {
        assert_eq!(code(&face.ask("ada", &at("POST", "/invites"), bad.clone()).await), (400, "body_invalid"), "{bad}");
    }
    let past = json!({ "role": "guest", "access_expires": "2026-11-22T00:00:00Z" });
    face.refused("ada", &at("POST", "/invites"), past, (400, "body_invalid"), "already_over").await;
    let stays = json!({ "account": "gus" });
    face.refused("ada", &at("POST", "/transfer"), stays, forbidden, "forbidden").await;
    face.refused("ada", &at("POST", "/leave"), json!({}), (409, "last_owner"), "last_owner").await;
    face.refused("eve", &at("POST", "/leave"), json!({}), forbidden, "forbidden").await;
    face.refused("ada", &at("DELETE", "/members/eve"), Value::Null, (404, "not_found"), "no_such_member").await;
}

#[tokio::test]
async fn sh_1_sh_2_wrong_codes_are_told_apart_only_by_who_holds_them() {
    let (face, id) = Face::household().await;
    let invites = format!("POST /v1/homes/{id}/invites");
    let (_, invite) = face.ask("ada", &invites, json!({ "role": "guest", "valid_s": 60 })).await;
    let accept = json!({ "code": invite["uri"] });
    assert_eq!(face.ask("eve", "POST /v1/invites/accept", accept.clone()).await.0, 200);
    let line = "POST /v1/invites/accept";
    face.refused("tim", line, accept, (403, "code_used"), "code_used").await;
    let (_, invite) = face.ask("ada", &invites, json!({ "role": "guest", "valid_s": 60 })).await;
    let accept = json!({ "code": invite["code"] });
    face.refused("eve", line, accept.clone(), (409, "already_member"), "already_member").await;
    face.cloud.clock.advance(std::time::Duration::from_secs(60));
    face.refused("tim", line, accept, (403, "code_expired"), "code_expired").await;
    for n in 0..WRONG_CODES_PER_ACCOUNT {
        let guess = iot_core::code::Code::from_random([u8::try_from(n).unwrap(); 16]).grouped();
        face.refused("tim", line, json!({ "code": guess.expose() }), (403, "code_mismatch"), "code_mismatch").await;
    }
    face.refused("tim", line, json!({ "code": "x" }), (429, "throttled"), "throttled").await;
}

/// SH-8: what a guest gets from these routes says nothing of the household, nor of the device's record.
#[tokio::test]
async fn sh_8_a_guest_learns_nothing_of_the_others() {
    let (face, id) = Face::household().await;
    let mut seen = String::new();
    for path in [format!("/v1/homes/{id}"), "/v1/homes".to_owned()] {
        let (status, answer) = face.get("gus", &path).await;
        assert_eq!(status, 200);
        seen += &answer.to_string();
    }
    for path in [
        format!("/v1/homes/{id}/members"),
        format!("/v1/homes/{id}/invites"),
        "/v1/devices/lamp-1/binding".to_owned(),
        "/v1/devices/lamp-1/access".to_owned(),
        "/v1/devices/lamp-1/access/explain?account=ada&permission=control".to_owned(),
    ] {
        face.refused("gus", &format!("GET {path}"), Value::Null, (403, "forbidden"), "not_permitted").await;
    }
    for other in ["ada", "max", "mia", "LAMP-1", "fingerprint"] {
        assert!(!seen.contains(other), "{seen}");
    }
    let member = face.get("mia", &format!("/v1/homes/{id}/members")).await.1.to_string();
    assert!(member.contains("ada") && !member.contains("code"), "the honest twin");
}

#[tokio::test]
async fn bd_1_bd_3_bd_5_bd_8_bd_11_over_http() {
    let (face, id) = Face::household().await;
    let (_, eves) = face.ask("eve", "POST /v1/homes", json!({ "name": "Den" })).await;
    let bind = "POST /v1/bindings";
    for unit in ["lamp-1", "nobody"] {
        let bare = json!({ "home": eves["id"], "device": unit });
        face.refused("eve", bind, bare, (403, "code_required"), "code_required").await;
        let p_code = json!({ "home": eves["id"], "p_code": unit.to_uppercase(), "code": "" });
        face.refused("eve", bind, p_code, (403, "code_required"), "code_required").await;
    }
    let answer = |unit: &str| face.ask("eve", bind, json!({ "home": eves["id"], "device": unit, "code": "guess" }));
    assert_eq!(answer("lamp-1").await, answer("nobody").await, "no hint of existence");
    let nothing = face.ask("eve", bind, json!({ "home": eves["id"], "code": "guess" })).await;
    assert_eq!(code(&nothing), (400, "body_invalid"), "which device?");
    let theirs = json!({ "home": id, "device": "lamp-1", "code": "guess" });
    face.refused("mia", bind, theirs, (403, "forbidden"), "forbidden").await;
    let vendors = json!({ "home": id, "device": "lamp-1", "code": "guess" });
    face.refused("vendor", bind, vendors, (403, "forbidden"), "not_an_account").await;

    // Bound already: the device itself gets no code, and the owner sees that somebody tried.
    face.cloud.clock.advance(std::time::Duration::from_secs(5));
    let told = face.cloud.device_asks("lamp-1", r#"{"type":"present","for_s":120}"#).await;
    assert_eq!(told["code"], "already_bound");
    let (_, shown) = face.get("ada", "/v1/devices/lamp-1/binding").await;
    assert_eq!(shown["attempts"].as_array().unwrap().len(), 1);

    let unbind = "DELETE /v1/devices/lamp-1/binding";
    for (who, why) in
        [("max", "not_permitted"), ("gus", "not_permitted"), ("eve", "no_relation"), ("vendor", "not_permitted")]
    {
        face.refused(who, unbind, Value::Null, (403, "forbidden"), why).await;
    }
    let place = json!({ "home": null });
    face.refused("vendor", "PUT /v1/devices/lamp-1/home", place, (409, "already_bound"), "home_of_people").await;
    let (_, second) = face.ask("ada", "POST /v1/homes", json!({ "name": "Hut" })).await;
    let moved = face.ask("ada", "PUT /v1/devices/lamp-1/binding", json!({ "home": second["id"] })).await;
    assert_eq!((moved.0, &moved.1["home"], &moved.1["epoch"]), (200, &second["id"], &json!(1)));
    let (status, freed) = face.ask("ada", unbind, Value::Null).await;
    assert_eq!((status, freed), (200, json!({ "device": "lamp-1", "home": null, "epoch": 2 })));
    assert_eq!(code(&face.get("ada", "/v1/devices/lamp-1/binding").await), (403, "forbidden"));
    let fresh = face.cloud.shown_code("lamp-1").await;
    let asked = json!({ "home": eves["id"], "device": "lamp-1", "code": fresh });
    assert_eq!(face.ask("eve", bind, asked.clone()).await.0, 201);
    face.refused("eve", bind, asked, (403, "code_used"), "code_used").await;
}

/// SH-11, as far as this goes: what the routes say that one may do is what `check` says.
#[tokio::test]
async fn who_may_do_what_is_told_and_explained() {
    let (face, id) = Face::household().await;
    let lamp = face.cloud.unit("lamp-1").await;
    for permission in Permission::ALL {
        let path = format!("/v1/devices/lamp-1/access?permission={}", permission.name());
        let (status, list) = face.get("mia", &path).await;
        assert_eq!(status, 200);
        let listed: Vec<_> = list["items"].as_array().unwrap().iter().map(|a| a["account"].clone()).collect();
        for name in ["ada", "max", "mia", "gus", "eve"] {
            let may = face.cloud.may(&person(name), permission, &lamp).await;
            assert_eq!(listed.contains(&json!(name)), may, "{name} {permission:?}");
            let path = format!("/v1/devices/lamp-1/access/explain?account={name}&permission={}", permission.name());
            let (_, told) = face.get("ada", &path).await;
            assert_eq!(told["allow"], json!(may));
            assert_eq!(told["considered"].as_array().unwrap().len(), usize::from(name != "eve"));
        }
    }
    let why = "/v1/devices/lamp-1/access/explain?account=gus&permission=read_telemetry";
    let expected = json!({
        "allow": false, "reason": "not_permitted",
        "considered": [{ "relation": "guest", "home": id, "expires": null, "verdict": "not_permitted" }],
    });
    assert_eq!(face.get("ada", why).await, (200, expected));
    // Of another home's member nothing is said, not even that there is such an account.
    let home: HomeId = id.parse().unwrap();
    let other = face.cloud.home_of(&person("bob")).await;
    face.cloud.let_in(&person("bob"), &other, &person("tim"), Role::Member).await;
    assert_ne!(home, other);
    let about = async |who: &str| face.get("ada", &why.replace("gus", who)).await;
    assert_eq!(about("tim").await, about("nobody").await);
    for (path, expected) in [
        ("/v1/devices/lamp-1/access?permission=fly", (400, "query_invalid")),
        ("/v1/devices/lamp-1/access/explain", (400, "query_invalid")),
        ("/v1/devices/lamp-1/access/explain?account=a%2Fb&permission=control", (400, "query_invalid")),
        ("/v1/devices/nobody/access", (403, "forbidden")),
    ] {
        assert_eq!(code(&face.get("ada", path).await), expected, "{path}");
    }
    let vendors: Principal = operator("acme");
    assert_eq!(face.get("vendor", "/v1/devices/lamp-1/access").await.0, 200, "{vendors}");
}
