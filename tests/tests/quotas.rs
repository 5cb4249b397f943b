//! What devices, products, users, listeners and the tenant may take, through the server.
#![allow(clippy::unwrap_used, reason = "a journey ends where something is not as it should be")]

use std::time::{Duration, Instant};

use iot_conn::mqtt::{
    QoS, ReasonCode,
    client::{ClientOptions, Publication},
};
use iot_tests::{
    cloud::{self, Cloud},
    http::Api,
    mqtt::{Mqtt, NotConnected, Way, with_token},
    tools::{Paho, mosquitto_pub},
    unit::Unit,
    wait::{SOON, until},
};
use serde_json::{Value, json};

const TOO_LARGE: usize = 101;
/// "No matching subscribers": it was taken.
const NO_SUBSCRIBER: u64 = 0x10;
const FAR_TOO_LARGE: usize = 1_001;

fn custom(bytes: usize) -> Publication {
    Publication::new("up/custom/x", vec![b'x'; bytes], QoS::AtLeastOnce)
}

#[track_caller]
fn used(api: &Api, scope: &str) -> Value {
    api.get(&format!("/v1/quotas/{scope}")).is(200)["used"].clone()
}

#[test]
fn what_each_device_may_send_holds_at_once_over_a_restart_and_until_it_is_lifted() {
    let mut cloud = Cloud::start(&[]);
    let units = Unit::several(&cloud, "lamp", &["a", "b"]);
    let (each, own) = ("/v1/quotas/products/lamp/devices", "/v1/quotas/devices/b");
    let (mut a, mut b) = (units[0].online(&cloud), units[1].online(&cloud));
    assert_eq!(a.subscribe("down/error", QoS::AtMostOnce), ReasonCode::Success);
    assert_eq!(a.publish(custom(TOO_LARGE)), ReasonCode::Success);

    let set = cloud.admin().put(each, &json!({"payload_bytes_max": 100})).is(200);
    assert_eq!((&set["scope"], &set["quota"]), (&json!("products/lamp/devices"), &json!({"payload_bytes_max": 100})));
    cloud.admin().put(own, &json!({"payload_bytes_max": 1_000})).is(200);
    until("the quota to hold", SOON, || (a.publish(custom(TOO_LARGE)) == ReasonCode::QuotaExceeded).then_some(()));
    let told: Value = serde_json::from_slice(&a.message("down/error", SOON).payload).unwrap();
    assert_eq!((&told["topic"], &told["code"]), (&json!("up/custom/x"), &json!("quota_exceeded")));
    assert_eq!(told["detail"], "payloads of the device are limited to 100 bytes");
    assert_eq!(a.publish(custom(100)), ReasonCode::Success);
    until("the other device to have its own", SOON, || {
        (b.publish(custom(FAR_TOO_LARGE)) == ReasonCode::QuotaExceeded).then_some(())
    });
    assert_eq!(b.publish(custom(TOO_LARGE)), ReasonCode::Success);
    assert!(used(&cloud.admin(), "products/lamp/devices")["publishes_refused"].as_u64().unwrap() >= 1);

    cloud.kill();
    cloud.start_again();
    let mut a = units[0].online(&cloud);
    assert_eq!(a.publish(custom(TOO_LARGE)), ReasonCode::QuotaExceeded);
    assert_eq!(used(&cloud.admin(), "products/lamp/devices")["publishes_refused"], 1);

    cloud.admin().delete(each).is(204);
    cloud.admin().delete(each).fails(404, "not_found");
    until("the quota to be lifted", SOON, || (a.publish(custom(TOO_LARGE)) == ReasonCode::Success).then_some(()));
    let audit = cloud.admin().get("/v1/audit?limit=100").is(200);
    let actions: Vec<_> = audit["items"].as_array().unwrap().iter().map(|entry| &entry["action"]).collect();
    assert!(actions.contains(&&json!("quota_set")) && actions.contains(&&json!("quota_remove")), "{actions:?}");
}

#[test]
fn a_device_beyond_its_products_connections_is_told_when_to_come_back() {
    let cloud = Cloud::start(&[]);
    let units = Unit::several(&cloud, "lamp", &["a", "b"]);
    cloud.admin().put("/v1/quotas/products/lamp", &json!({"connections_max": 1})).is(200);
    let first = units[0].online(&cloud);
    let mut second = Mqtt::new(units[1].way(cloud.address("mqtts")), ClientOptions::new("b"));
    let Err(NotConnected::Refused(refused)) = second.connect() else { panic!("there is one place only") };
    assert_eq!(refused.reason, ReasonCode::QuotaExceeded);
    assert!(refused.retry_after.is_some_and(|after| after >= Duration::from_secs(30)), "{refused:?}");
    let counted = used(&cloud.admin(), "products/lamp");
    assert_eq!((&counted["connections"], &counted["connections_refused"]), (&json!(1), &json!(1)));
    drop(first);
    until("the place to be free", SOON, || second.connect().ok());
}

#[test]
fn an_application_that_sends_too_fast_is_slowed_and_loses_nothing() {
    let cloud = Cloud::start(&[]);
    let (id, token) = cloud.issue("admin");
    let mut app = Mqtt::online(Way::Plain(cloud.address("mqtt")), with_token("app", &token));
    assert_eq!(app.subscribe("free/#", QoS::AtLeastOnce), ReasonCode::GrantedQoS1);
    let path = format!("/v1/quotas/tokens/{id}");
    cloud.admin().put(&path, &json!({"publishes": {"per_s": 10, "burst": 5}, "subscriptions_max": 2})).is(200);
    until("the quota to hold", SOON, || {
        app.publish(Publication::new("free/probe", "x", QoS::AtLeastOnce));
        let slowed = used(&cloud.admin(), &format!("tokens/{id}"))["publishes_slowed"].as_u64().unwrap();
        (slowed > 0).then_some(())
    });
    let begun = Instant::now();
    for n in 0..15 {
        let said = app.publish(Publication::new("free/numbered", n.to_string(), QoS::AtLeastOnce));
        assert_eq!(said, ReasonCode::Success);
    }
    // That the server is not faster than it may be; how much slower it is nobody asks.
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
    for n in 0..15 {
        assert_eq!(app.message("free/numbered", SOON).payload, n.to_string().as_bytes());
    }
    assert_eq!(app.subscribe("free/second", QoS::AtMostOnce), ReasonCode::Success);
    assert_eq!(app.subscribe("free/third", QoS::AtMostOnce), ReasonCode::QuotaExceeded);
    assert_eq!(used(&cloud.admin(), &format!("tokens/{id}"))["subscriptions_refused"], 1);
}

#[test]
fn listeners_and_the_tenant_are_limited_by_options_alone() {
    let rules = ["--allow-anonymous", "--quota", "mqtt:connections=1;tenant:payload=100"];
    let mut cloud = Cloud::start(&rules);
    let options = |listener: &str, id: &str| {
        let address = cloud.address(listener);
        let mut options = json!({"id": id, "version": 5, "host": "127.0.0.1", "port": address.port()});
        if listener == "ws" {
            options["transport"] = "websockets".into();
        }
        options
    };
    let mut first = Paho::online(&options("mqtt", "first"));
    assert_eq!(Paho::start().connect(&options("mqtt", "second"))["reason"], 0x97);
    let mut elsewhere = Paho::online(&options("ws", "third"));
    for paho in [&mut first, &mut elsewhere] {
        let large = json!({"topic": "free/x", "payload": "x".repeat(TOO_LARGE), "qos": 1});
        assert_eq!(paho.publish(&large), 0x97);
        assert_eq!(paho.publish(&json!({"topic": "free/x", "payload": "x", "qos": 1})), NO_SUBSCRIBER);
    }
    let admin = cloud.admin();
    let tenant = admin.get("/v1/quotas/tenant").is(200);
    assert_eq!(
        (&tenant["quota"], &tenant["used"]["publishes_refused"]),
        (&json!({"payload_bytes_max": 100}), &json!(2))
    );
    admin.put("/v1/quotas/tenant", &json!({"payload_bytes_max": 1_000})).fails(405, "method_not_allowed");
    admin.delete("/v1/quotas/tenant").fails(405, "method_not_allowed");
    assert!(cloud.terminate().success());

    let run = cloud::Run::start(cloud.folder(), &free_ports()).unwrap();
    let admin = run.api().with_token(cloud.token());
    admin.get("/v1/quotas/tenant").fails(404, "not_found");
    let port = run.address("mqtt").port().to_string();
    let large = "x".repeat(TOO_LARGE);
    mosquitto_pub(&["-h", "127.0.0.1", "-p", &port, "-V", "mqttv5", "-q", "1", "-t", "free/x", "-m", &large]);
    assert!(run.terminate().success());
    for (rule, says) in [("mqtt:connections=0", "at least 1"), ("https:connections=1", "WHO is mqtt")] {
        cloud::refused(&cloud::command(cloud.folder(), &["--quota", rule]).output().unwrap(), 2, says);
    }
}

/// Other ports than before, and no quota.
fn free_ports() -> [&'static str; 13] {
    let any = "127.0.0.1:0";
    ["--allow-anonymous", "--mqtt", any, "--mqtts", any, "--ws", any, "--wss", any, "--http", any, "--tls", "off"]
}

#[test]
fn who_may_limit_whom() {
    let cloud = Cloud::start(&[]);
    let _units = Unit::several(&cloud, "lamp", &["a"]);
    let [admin, operator, viewer] = ["admin", "operator", "viewer"].map(|role| {
        let (_, token) = cloud.issue(role);
        cloud.anyone().with_token(&token)
    });
    let quota = json!({"subscriptions_max": 5});
    for path in ["products/lamp", "products/lamp/devices", "devices/a", "users", "accounts/x", "tokens/x"] {
        let path = format!("/v1/quotas/{path}");
        for api in [&operator, &viewer] {
            api.put(&path, &quota).fails(403, "forbidden");
            api.delete(&path).fails(403, "forbidden");
        }
        viewer.get(&path).fails(404, "not_found");
        admin.put(&path, &quota).is(200);
        assert_eq!(viewer.get(&path).is(200)["quota"], quota);
        cloud.anyone().get(&path).fails(401, "unauthenticated");
    }
    let mut seen = Vec::new();
    let mut page = "/v1/quotas?limit=4".to_owned();
    loop {
        let answer = viewer.get(&page).is(200);
        seen.extend(answer["items"].as_array().unwrap().iter().map(|item| item["scope"].as_str().unwrap().to_owned()));
        let Some(next) = answer["next"].as_str() else { break };
        page = format!("/v1/quotas?limit=4&cursor={next}");
    }
    seen.sort();
    let all = ["accounts/x", "devices/a", "products/lamp", "products/lamp/devices", "tokens/x", "users"];
    assert_eq!(seen, all);
    admin.put("/v1/quotas/products/nothing", &quota).fails(404, "not_found");
    admin.put("/v1/quotas/devices/nobody", &quota).fails(404, "not_found");
    admin.put("/v1/quotas/devices/a%2Fb", &quota).fails(400, "id_invalid");
    admin.put("/v1/quotas/users", &json!({})).fails(400, "quota_invalid");
    admin.put("/v1/quotas/users", &json!({"connections_max": 0})).fails(400, "quota_invalid");
    for body in [json!({"connections": 1}), json!({"publishes": 5}), json!({"connections_max": -1})] {
        admin.put("/v1/quotas/users", &body).fails(400, "body_invalid");
    }
}
