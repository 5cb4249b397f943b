//! Binding by the code that a device shows, and the attacks on it. Each attack begins where the honest way would succeed, and
//! changes one thing.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{sync::Arc, time::Duration};

use iot_auth::{
    Auth,
    binding::{BindAsked, Bound, WRONG_CODES_PER_ACCOUNT, WRONG_CODES_PERIOD},
    registry::{Import, Moved},
};
use iot_core::{
    access::{Permission, Principal},
    binding::{BINDING_TTL, BindRefusal, Binding, Fate, Owned},
    code::Code,
    device::{Device, Product, Stage},
    home::{HOME_DEVICES_MAX, Home, Role, Ruling},
    id::{HomeId, OwnershipEpoch, ProductId},
    secret::Secret,
    service::{Call, DeviceCall},
    store::{Batch, MetaStoreExt, Stores},
    time::Timestamp,
};
use iot_store::{StoreLimits, sqlite::Sqlite};
use support::{Cloud, accepted, device, home, key, operator, peer, person, person_of};
use tower::ServiceExt;

const PRESENT: &str = r#"{"type":"present","for_s":120}"#;

fn asked(code: &str, home: &HomeId, unit: &str) -> BindAsked {
    BindAsked {
        code: Some(Secret::new(code)),
        home: home.clone(),
        device: Some(device(unit)),
        p_code: Some(unit.to_uppercase().parse().unwrap()),
    }
}

async fn bind(cloud: &Cloud, by: &Principal, asked: &BindAsked) -> Bound {
    cloud.auth.bind(by, asked, peer().ip()).await.unwrap()
}

fn bound(answer: Bound) -> Device {
    match answer {
        Bound::Done(device) => *device,
        Bound::Refused(why) => panic!("{why:?}"),
    }
}

/// The attack is refused for this reason and leaves nothing but its entry.
async fn refused(cloud: &Cloud, by: &Principal, asked: &BindAsked, why: BindRefusal) {
    let before = cloud.before(&by.tenant).await;
    let answer = bind(cloud, by, asked).await;
    assert_eq!(answer, Bound::Refused(why));
    let code = asked.code.as_ref().and_then(|code| Code::parse(code.expose())).map(|code| code.grouped());
    cloud.left_nothing(before, why.code(), answer, &[code.as_ref().map_or("", |code| code.expose())]).await;
}

/// Ada with a home, and a unit in service.
async fn furnished() -> (Cloud, Principal, HomeId) {
    let cloud = Cloud::new().await;
    cloud.activated("lamp-1").await;
    let ada = person("ada");
    let home = cloud.home_of(&ada).await;
    (cloud, ada, home)
}

/// Ada's lamp, bound.
async fn bound_lamp() -> (Cloud, Principal, HomeId) {
    let (cloud, ada, home) = furnished().await;
    let code = cloud.shown_code("lamp-1").await;
    bound(bind(&cloud, &ada, &asked(&code, &home, "lamp-1")).await);
    (cloud, ada, home)
}

async fn codes(cloud: &Cloud, unit: &str) -> Binding {
    cloud.meta.find(&Binding::key_of(&operator("acme").tenant, &device(unit))).await.unwrap().unwrap().document
}

#[tokio::test]
async fn a_unit_that_claimed_and_connected_is_bound_by_its_code_and_released() {
    let cloud = Cloud::new().await;
    let (by, ada) = (operator("acme"), person("ada"));
    cloud.with_units(&by, "lamp", 2).await;
    let token = cloud.claim_token(&by, "lamp", 1).await;
    let claim = cloud.claimed(&token, &key(), Some("lamp-1")).await;
    accepted(cloud.connect(&claim.certificate.pem, "lamp-1").await);
    let id = cloud.home_of(&ada).await;
    let version = cloud.version(&Home::key_of(&by.tenant, &id)).await;

    let code = cloud.shown_code("lamp-1").await;
    let written = code.to_lowercase().replace('-', " ");
    let lamp = bound(bind(&cloud, &ada, &asked(&written, &id, "lamp-1")).await);
    assert_eq!((&lamp.home, lamp.epoch), (&Some(id.clone()), OwnershipEpoch(1)));
    assert_eq!(cloud.unit("lamp-1").await, lamp);
    assert_eq!(cloud.version(&Home::key_of(&by.tenant, &id)).await, version + 1, "the home orders it");
    assert!(cloud.may(&ada, Permission::Control, &lamp).await);
    let entry = &cloud.audit(&by.tenant).await[0];
    assert_eq!((entry.action.as_str(), entry.actor.as_str()), ("bind", "acme/account/ada"));

    let told = async || {
        let call = DeviceCall { device: Arc::new(cloud.unit("lamp-1").await), call: Call::Connected };
        let answer = cloud.auth.binding_service().oneshot(call).await.unwrap().unwrap();
        serde_json::from_slice::<serde_json::Value>(&answer).unwrap()
    };
    assert_eq!(told().await, serde_json::json!({ "type": "state", "bound": true, "epoch": 1 }));
    assert!(matches!(cloud.auth.unbind(&ada, &device("lamp-1")).await.unwrap(), Owned::Changed(_)));
    assert_eq!(told().await, serde_json::json!({ "type": "state", "bound": false, "epoch": 2 }));
    assert!(!cloud.may(&ada, Permission::ReadDevice, &cloud.unit("lamp-1").await).await);
    assert_eq!(cloud.auth.unbind(&ada, &device("lamp-1")).await.unwrap(), Owned::NotBound);
}

/// BD-1: an id or a P code binds nothing, and the answer is the same whether there is such a device.
#[tokio::test]
async fn bd_1_an_id_or_a_p_code_alone_binds_nothing() {
    let (cloud, ada, home) = furnished().await;
    let _code = cloud.shown_code("lamp-1").await;
    let mut answers = vec![];
    for (unit, code) in
        [("lamp-1", None), ("lamp-2", None), ("lamp-1", Some("")), ("nobody", Some(" ")), ("lamp-1", Some("\t"))]
    {
        for named in [(true, false), (false, true), (true, true)] {
            let whole = asked("", &home, unit);
            let attempt = BindAsked {
                code: code.map(Secret::new),
                device: whole.device.filter(|_| named.0),
                p_code: whole.p_code.filter(|_| named.1),
                home: home.clone(),
            };
            // Each from an account of its own, so that the counting of wrong codes is not what refuses it.
            let who = person(&format!("eve{}", answers.len()));
            cloud.let_in(&ada, &home, &who, Role::Manager).await;
            refused(&cloud, &who, &attempt, BindRefusal::CodeRequired).await;
            answers.push(bind(&cloud, &who, &attempt).await);
        }
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]));
    for garbage in ["1", "0000-0000-0000-0000-0000-0000-00", "'; DROP", "ÄÄÄÄ", &"9".repeat(10_000)] {
        for unit in ["lamp-1", "nobody"] {
            refused(&cloud, &ada, &asked(garbage, &home, unit), BindRefusal::CodeMismatch).await;
        }
    }
    assert_eq!(cloud.unit("lamp-1").await.home, None);
}

/// BD-1, BD-2: who guesses is not listened to any more, and others are.
#[tokio::test]
async fn bd_1_guessing_is_throttled_by_account() {
    let (cloud, ada, home) = furnished().await;
    let (eve, eves) = (person("eve"), cloud.home_of(&person("eve")).await);
    let code = cloud.shown_code("lamp-1").await;
    for n in 0..WRONG_CODES_PER_ACCOUNT {
        let guess = Code::from_random([u8::try_from(n).unwrap(); 16]).grouped();
        let attempt = asked(guess.expose(), &eves, "lamp-1");
        refused(&cloud, &eve, &attempt, BindRefusal::CodeMismatch).await;
    }
    refused(&cloud, &eve, &asked(&code, &eves, "lamp-1"), BindRefusal::Throttled).await;
    let accepting = cloud.auth.accept_invite(&eve, &Secret::new("x"), peer().ip()).await.unwrap();
    assert_eq!(accepting, Ruling::Refused(iot_core::home::HomeRefusal::Throttled), "one count for all codes");
    bound(bind(&cloud, &ada, &asked(&code, &home, "lamp-1")).await);
    cloud.clock.advance(WRONG_CODES_PERIOD);
    refused(&cloud, &eve, &asked(&code, &eves, "lamp-1"), BindRefusal::CodeUsed).await;
}

#[tokio::test]
async fn bd_3_a_used_code_binds_nothing_again() {
    let (cloud, ada, home) = furnished().await;
    let code = cloud.shown_code("lamp-1").await;
    bound(bind(&cloud, &ada, &asked(&code, &home, "lamp-1")).await);
    let (eve, eves) = (person("eve"), cloud.home_of(&person("eve")).await);
    refused(&cloud, &ada, &asked(&code, &home, "lamp-1"), BindRefusal::CodeUsed).await;
    refused(&cloud, &eve, &asked(&code, &eves, "lamp-1"), BindRefusal::CodeUsed).await;
    let _released = cloud.auth.unbind(&ada, &device("lamp-1")).await.unwrap();
    refused(&cloud, &eve, &asked(&code, &eves, "lamp-1"), BindRefusal::CodeUsed).await;
    cloud.clock.advance(Duration::from_secs(5));
    let code = cloud.shown_code("lamp-1").await;
    assert_eq!(bound(bind(&cloud, &eve, &asked(&code, &eves, "lamp-1")).await).epoch, OwnershipEpoch(3));
}

#[tokio::test]
async fn bd_4_a_code_is_dead_after_its_time() {
    let (cloud, ada, home) = furnished().await;
    let code = cloud.shown_code("lamp-1").await;
    cloud.clock.advance(BINDING_TTL + Duration::from_secs(1));
    refused(&cloud, &ada, &asked(&code, &home, "lamp-1"), BindRefusal::CodeExpired).await;
    let code = cloud.shown_code("lamp-1").await;
    // A node whose clock is behind sees a code from its future.
    let behind = cloud.node_at(Timestamp::parse_rfc3339("2026-11-23T00:02:00Z").unwrap()).await;
    let early = behind.bind(&ada, &asked(&code, &home, "lamp-1"), peer().ip()).await.unwrap();
    assert_eq!(early, Bound::Refused(BindRefusal::CodeExpired));
    cloud.clock.advance(BINDING_TTL - Duration::from_micros(1));
    bound(bind(&cloud, &ada, &asked(&code, &home, "lamp-1")).await);
    let short = cloud.activated("lamp-2").await;
    let told = cloud.device_asks(short.id.as_str(), r#"{"type":"present","for_s":5}"#).await;
    assert_eq!(told["expires_s"], 5);
    let long = cloud.activated("lamp-3").await;
    assert_eq!(cloud.device_asks(long.id.as_str(), r#"{"type":"present","for_s":9999}"#).await["expires_s"], 120);
    cloud.clock.advance(Duration::from_secs(5));
    let late = asked(told["code"].as_str().unwrap(), &home, "lamp-2");
    refused(&cloud, &ada, &late, BindRefusal::CodeExpired).await;
}

#[tokio::test]
async fn bd_5_a_code_fits_its_own_device_and_tenant_only() {
    let (cloud, ada, home) = furnished().await;
    cloud.activated("lamp-2").await;
    let code = cloud.shown_code("lamp-1").await;
    let others = cloud.shown_code("lamp-2").await;
    refused(&cloud, &ada, &asked(&code, &home, "lamp-2"), BindRefusal::CodeMismatch).await;
    refused(&cloud, &ada, &asked(&others, &home, "lamp-1"), BindRefusal::CodeMismatch).await;
    let right = asked(&code, &home, "lamp-1");
    let wrong = BindAsked { p_code: Some("LAMP-2".parse().unwrap()), ..right.clone() };
    refused(&cloud, &ada, &wrong, BindRefusal::CodeMismatch).await;
    // Somebody of another vendor, with a home there, reads the code off the device.
    let rival = person_of("rival", "ada");
    let Ruling::Changed(there) = cloud.auth.create_home(&rival, "there").await.unwrap() else { panic!() };
    refused(&cloud, &rival, &asked(&code, &there.id, "lamp-1"), BindRefusal::CodeMismatch).await;
    refused(&cloud, &rival, &asked("nonsense", &there.id, "lamp-1"), BindRefusal::CodeMismatch).await;
    refused(&cloud, &rival, &right, BindRefusal::Forbidden).await;
    bound(bind(&cloud, &ada, &right).await);
}

#[tokio::test]
async fn bd_6_a_newer_code_ends_the_one_before() {
    let (cloud, ada, home) = furnished().await;
    let old = cloud.shown_code("lamp-1").await;
    assert_eq!(cloud.device_asks("lamp-1", PRESENT).await["code"], "too_soon", "a stuck button");
    cloud.clock.advance(Duration::from_secs(5));
    let new = cloud.shown_code("lamp-1").await;
    refused(&cloud, &ada, &asked(&old, &home, "lamp-1"), BindRefusal::CodeSuperseded).await;
    bound(bind(&cloud, &ada, &asked(&new, &home, "lamp-1")).await);
    refused(&cloud, &ada, &asked(&old, &home, "lamp-1"), BindRefusal::CodeSuperseded).await;
}

/// BD-7: so many people show one code at once, on two nodes.
async fn race(cloud: &Cloud, unit: &str, people: usize) {
    cloud.activated(unit).await;
    let mut homes = vec![];
    for n in 0..people {
        let who = person(&format!("{unit}-{n}"));
        homes.push((who.clone(), cloud.home_of(&who).await));
    }
    let code = cloud.shown_code(unit).await;
    let nodes: [Arc<Auth>; 2] = [cloud.auth.clone(), cloud.another_node().await];
    let start = Arc::new(tokio::sync::Barrier::new(people));
    let attempts: Vec<_> = homes
        .into_iter()
        .enumerate()
        .map(|(n, (who, home))| {
            let (node, start, attempt) = (nodes[n % 2].clone(), start.clone(), asked(&code, &home, unit));
            tokio::spawn(async move {
                start.wait().await;
                (home, node.bind(&who, &attempt, peer().ip()).await.unwrap())
            })
        })
        .collect();
    let (mut winner, mut losers) = (None, 0);
    for attempt in attempts {
        match attempt.await.unwrap() {
            (home, Bound::Done(_)) => assert_eq!(winner.replace(home), None, "two have won"),
            (_, Bound::Refused(why)) => {
                assert_eq!(why, BindRefusal::CodeUsed);
                losers += 1;
            }
        }
    }
    let lamp = cloud.unit(unit).await;
    assert_eq!((lamp.home, lamp.epoch, losers), (winner, OwnershipEpoch(1), people - 1));
    assert!(lamp.stage == Stage::Activated);
    let entries = cloud.audit(&operator("acme").tenant).await;
    let done = entries.iter().filter(|e| e.action == "bind" && e.refused.is_none() && e.subject.ends_with(unit));
    assert_eq!(done.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn bd_7_of_many_who_show_one_code_one_wins_in_memory() {
    let cloud = Cloud::new().await;
    for people in [2, 3, 10, 100] {
        race(&cloud, &format!("lamp-{people}"), people).await;
    }
    for round in 0..20 {
        race(&cloud, &format!("again-{round}"), 4).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn bd_7_of_many_who_show_one_code_one_wins_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::on_disk(folder.path()).await;
    for people in [2, 30] {
        race(&cloud, &format!("lamp-{people}"), people).await;
    }
}

/// BD-8: the owner must release the device first, and learns that somebody tried.
#[tokio::test]
async fn bd_8_owner_must_release() {
    let (cloud, _ada, _) = bound_lamp().await;
    let (eve, eves) = (person("eve"), cloud.home_of(&person("eve")).await);
    let lamp = cloud.unit("lamp-1").await;
    // By the button of the bound device.
    let told = cloud.device_asks("lamp-1", PRESENT).await;
    assert_eq!(told, serde_json::json!({ "type": "refused", "code": "already_bound" }));
    assert_eq!(codes(&cloud, "lamp-1").await.attempts.len(), 1);
    // By a code that is good for the device as it is: what a thief of the store's write access, or a mistake, would make.
    let text = Code::from_random([7; 16]);
    let data = ["acme", text.expose_canonical()].join("\n");
    let code = cloud.keys.code(iot_core::keys::Purpose::BindingCode, data.as_bytes()).await.unwrap();
    let known = cloud.meta.find::<Binding>(&Binding::key_of(&lamp.tenant, &lamp.id)).await.unwrap().unwrap();
    let mut forged = known.document.clone();
    forged.epoch = lamp.epoch;
    forged.codes[0] = iot_core::binding::IssuedCode { code, fate: Fate::Alive, ..forged.codes[0].clone() };
    assert!(cloud.meta.commit_or_conflict(Batch::default().replace(&known, &forged)).await.unwrap());
    cloud.clock.advance(Duration::from_secs(10));
    let audited = cloud.audit(&lamp.tenant).await.len();
    let hijack = bind(&cloud, &eve, &asked(text.grouped().expose(), &eves, "lamp-1")).await;
    assert_eq!(hijack, Bound::Refused(BindRefusal::AlreadyBound));
    assert_eq!(cloud.unit("lamp-1").await, lamp);
    assert_eq!(codes(&cloud, "lamp-1").await.attempts.len(), 2, "the owner sees it with the device");
    let audit = cloud.audit(&lamp.tenant).await;
    assert_eq!(audit.len(), audited + 1);
    let entry = (audit[0].subject.as_str(), audit[0].refused.as_deref());
    assert_eq!(entry, ("device:acme/lamp-1", Some("already_bound")));
}

/// BD-11: releasing is for the owner, whoever else asks and however.
#[tokio::test]
async fn bd_11_only_the_owner_releases() {
    let (cloud, ada, home) = bound_lamp().await;
    for (name, role) in [("max", Role::Manager), ("mia", Role::Member), ("gus", Role::Guest)] {
        cloud.let_in(&ada, &home, &person(name), role).await;
    }
    let itself = Principal {
        subject: iot_core::access::Subject::Device { device: device("lamp-1"), fingerprint: "f".to_owned() },
        ..ada.clone()
    };
    let lamp = cloud.unit("lamp-1").await;
    for by in [person("max"), person("mia"), person("gus"), person("eve"), operator("acme"), itself] {
        let before = cloud.before(&ada.tenant).await;
        let answer = cloud.auth.unbind(&by, &device("lamp-1")).await.unwrap();
        assert_eq!(answer, Owned::Forbidden, "{by}");
        cloud.left_nothing(before, "forbidden", answer, &[]).await;
    }
    let rival = person_of("rival", "ada");
    let before = cloud.before(&rival.tenant).await;
    let answer = cloud.auth.unbind(&rival, &device("lamp-1")).await.unwrap();
    assert_eq!(answer, Owned::Forbidden);
    cloud.left_nothing(before, "forbidden", answer, &[]).await;
    // Messages of the device that it would like to be a release.
    for forged in [r#"{"type":"reset"}"#, r#"{"type":"absent","device":"lamp-1"}"#, r#"{"type":"unbind"}"#, "", "[]"] {
        let told = cloud.device_asks("lamp-1", forged).await;
        assert_eq!(told, serde_json::json!({ "type": "refused", "code": "payload_invalid" }), "{forged}");
    }
    // The vendor moves what it keeps, not what people own.
    for place in [None, Some(support::home("h1"))] {
        let _put = cloud.auth.put_home(&operator("acme"), &support::home("h1"), "shop").await.unwrap();
        let before = cloud.before(&ada.tenant).await;
        let moved = cloud.auth.move_device(&operator("acme"), &device("lamp-1"), place.as_ref()).await.unwrap();
        assert_eq!(moved, Moved::Owned);
        cloud.left_nothing(before, "home_of_people", moved, &[]).await;
    }
    assert_eq!(cloud.unit("lamp-1").await, lamp);
    assert!(matches!(cloud.auth.unbind(&ada, &device("lamp-1")).await.unwrap(), Owned::Changed(_)));
}

/// BD-17, as far as grants go: what Ada and her guest held is about nothing once Bob owns the device.
#[tokio::test]
async fn bd_17_nothing_of_the_first_owner_reaches_the_second() {
    let (cloud, ada, home) = bound_lamp().await;
    let gus = person("gus");
    cloud.let_in(&ada, &home, &gus, Role::Guest).await;
    let before = cloud.unit("lamp-1").await;
    assert!(cloud.may(&ada, Permission::OwnHome, &before).await && cloud.may(&gus, Permission::Control, &before).await);
    let _released = cloud.auth.unbind(&ada, &device("lamp-1")).await.unwrap();
    cloud.clock.advance(Duration::from_secs(5));
    let (bob, bobs) = (person("bob"), cloud.home_of(&person("bob")).await);
    let code = cloud.shown_code("lamp-1").await;
    let lamp = bound(bind(&cloud, &bob, &asked(&code, &bobs, "lamp-1")).await);
    assert_eq!(lamp.epoch, OwnershipEpoch(before.epoch.0 + 2));
    for permission in Permission::ALL {
        assert!(!cloud.may(&ada, permission, &lamp).await && !cloud.may(&gus, permission, &lamp).await);
        assert!(!cloud.may(&bob, permission, &before).await, "what Ada left behind is not Bob's");
    }
    assert!(cloud.may(&bob, Permission::OwnHome, &lamp).await);
    assert_eq!(cloud.auth.unbind(&ada, &device("lamp-1")).await.unwrap(), Owned::Forbidden);
}

/// BD-18: the code is in the device's answer, and nowhere else.
#[tokio::test]
async fn bd_18_the_code_is_stored_and_logged_nowhere() {
    let (cloud, ada, home) = furnished().await;
    let code = cloud.shown_code("lamp-1").await;
    let attempt = asked(&code, &home, "lamp-1");
    let reply = bind(&cloud, &ada, &attempt).await;
    let texts = [cloud.dump(&ada.tenant).await, format!("{attempt:?}"), format!("{reply:?}")];
    for text in texts {
        assert!(!text.contains(&code) && !text.contains(&code.replace('-', "")), "{text}");
        assert!(!text.contains(&code[..9]));
    }
}

#[tokio::test]
async fn presence_ends_with_the_button_and_codes_are_for_devices_in_service() {
    let (cloud, ada, home) = furnished().await;
    let code = cloud.shown_code("lamp-1").await;
    assert_eq!(cloud.device_asks("lamp-1", r#"{"type":"absent"}"#).await["type"], "absent");
    refused(&cloud, &ada, &asked(&code, &home, "lamp-1"), BindRefusal::CodeExpired).await;
    assert_eq!(cloud.device_asks("lamp-1", r#"{"type":"absent"}"#).await["type"], "absent", "again");
    assert_eq!(cloud.device_asks("lamp-1", r#"{"type":"present","for_s":0}"#).await["code"], "payload_invalid");
    cloud.activated("old").await;
    assert!(cloud.auth.retire(&operator("acme"), &device("old")).await.unwrap());
    let before = cloud.before(&ada.tenant).await;
    let told = cloud.device_asks("old", PRESENT).await;
    assert_eq!(told["code"], "not_activated");
    cloud.left_nothing(before, "not_activated", told, &[]).await;
    // A connection from before a change of owner learns nothing.
    let stale = Device { epoch: OwnershipEpoch(9), ..cloud.unit("lamp-1").await };
    let call = DeviceCall { device: Arc::new(stale), call: Call::Asked(PRESENT.into()) };
    assert_eq!(cloud.auth.binding_service().oneshot(call).await.unwrap(), None);
}

#[tokio::test]
async fn a_code_binds_to_homes_that_one_may_bind_to() {
    let (cloud, ada, home) = furnished().await;
    let code = cloud.shown_code("lamp-1").await;
    for (name, role) in [("max", Role::Manager), ("mia", Role::Member), ("gus", Role::Guest)] {
        cloud.let_in(&ada, &home, &person(name), role).await;
    }
    for name in ["mia", "gus", "eve"] {
        refused(&cloud, &person(name), &asked(&code, &home, "lamp-1"), BindRefusal::Forbidden).await;
    }
    refused(&cloud, &operator("acme"), &asked(&code, &home, "lamp-1"), BindRefusal::Forbidden).await;
    refused(&cloud, &ada, &asked(&code, &support::home("none"), "lamp-1"), BindRefusal::Forbidden).await;
    bound(bind(&cloud, &person("max"), &asked(&code, &home, "lamp-1")).await);
}

#[tokio::test]
async fn what_the_vendor_places_is_not_bound_and_homes_of_people_are_not_the_vendors() {
    let (cloud, ada, own) = furnished().await;
    let vendor = operator("acme");
    let _put = cloud.auth.put_home(&vendor, &home("shop"), "Shop").await.unwrap();
    let place = async |to: Option<&HomeId>| cloud.auth.move_device(&vendor, &device("lamp-1"), to).await.unwrap();
    assert_eq!(place(Some(&home("shop"))).await, Moved::Done);
    assert_eq!(place(Some(&own)).await, Moved::Owned);
    assert_eq!(cloud.auth.unbind(&ada, &device("lamp-1")).await.unwrap(), Owned::NotBound);
    let code = cloud.shown_code("lamp-1").await;
    let lamp = bound(bind(&cloud, &ada, &asked(&code, &own, "lamp-1")).await);
    assert_eq!(lamp.home.as_ref(), Some(&own));
    let product = ProductId::parse("lamp").unwrap();
    let _put =
        cloud.auth.put_product(&vendor, Product::new(vendor.tenant.clone(), product.clone(), "Lamp")).await.unwrap();
    let csv = format!("device_id,p_code,home\nsly,SLY,{own}\n");
    let imported = cloud.auth.import_units(&vendor, &product, csv.as_bytes()).await.unwrap();
    assert!(matches!(imported, Import::Rejected(_)), "{imported:?}");
    let before = cloud.before(&vendor.tenant).await;
    let put = cloud.auth.put_home(&vendor, &own, "Mine").await.unwrap();
    cloud.left_nothing(before, "home_of_people", put, &[]).await;
}

#[tokio::test]
async fn a_device_moves_between_the_homes_of_its_owner_within_their_bound() {
    let (cloud, ada, first) = bound_lamp().await;
    let (second, bobs) = (cloud.home_of(&ada).await, cloud.home_of(&person("bob")).await);
    let go = async |by: &Principal, to: &HomeId| cloud.auth.move_bound(by, &device("lamp-1"), to).await.unwrap();
    assert_eq!(go(&ada, &bobs).await, Owned::Forbidden);
    assert_eq!(go(&ada, &home("none")).await, Owned::Forbidden);
    assert_eq!(go(&person("bob"), &bobs).await, Owned::Forbidden);
    let epoch = cloud.unit("lamp-1").await.epoch;
    assert!(matches!(go(&ada, &second).await, Owned::Changed(moved) if moved.epoch == epoch));
    let mut crowd = Batch::default();
    for n in 0..HOME_DEVICES_MAX {
        let id = device(&format!("x{n}"));
        let p_code = format!("X{n}").parse().unwrap();
        let lamp = cloud.unit("lamp-1").await;
        crowd = crowd.create(&Device { id, p_code, home: Some(first.clone()), ..lamp });
    }
    assert!(cloud.meta.commit_or_conflict(crowd).await.unwrap());
    assert_eq!(go(&ada, &first).await, Owned::DevicesFull);
    cloud.activated("lamp-2").await;
    let code = cloud.shown_code("lamp-2").await;
    refused(&cloud, &ada, &asked(&code, &first, "lamp-2"), BindRefusal::DevicesFull).await;

    // Dissolving releases all of them, and the members are nothing to them any more.
    cloud.let_in(&ada, &first, &person("mia"), Role::Member).await;
    let dissolved = cloud.auth.dissolve_home(&ada, &first).await.unwrap();
    assert!(matches!(dissolved, Ruling::Changed(_)));
    let free = cloud.unit("x255").await;
    assert_eq!((free.home.as_ref(), free.epoch.0), (None, epoch.0 + 1));
    assert_eq!(
        cloud.auth.dissolve_home(&ada, &first).await.unwrap(),
        Ruling::Refused(iot_core::home::HomeRefusal::Forbidden)
    );
    assert!(!cloud.may(&person("mia"), Permission::ReadDevice, &free).await);
}

/// A restart in the middle: a code that was issued before binds afterwards, and a used one stays used.
#[tokio::test]
async fn codes_outlive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let open = async || Sqlite::open(folder.path(), StoreLimits::default()).await.unwrap();
    let sqlite = open().await;
    let cloud = Cloud::over(Stores::new(sqlite.clone())).await;
    cloud.activated("lamp-1").await;
    let ada = person("ada");
    let home = cloud.home_of(&ada).await;
    let code = cloud.shown_code("lamp-1").await;
    sqlite.close().await;
    let sqlite = open().await;
    let cloud = cloud.restarted(Stores::new(sqlite.clone())).await;
    bound(bind(&cloud, &ada, &asked(&code, &home, "lamp-1")).await);
    sqlite.close().await;
    let cloud = cloud.restarted(Stores::new(open().await)).await;
    refused(&cloud, &ada, &asked(&code, &home, "lamp-1"), BindRefusal::CodeUsed).await;
}
