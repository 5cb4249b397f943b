//! Limits per listener, tenant, product, device and user.

use std::{sync::Arc, time::Duration};

use iot_core::{
    command::{CommandRequest, CommandState, Offline},
    quota::Quota,
    rate::Rate,
};
use iot_store::{StoreLimits, memory::Memory};

use super::*;
use crate::{
    mqtt::Will,
    node::{Commanded, QuotaUse, tests::cloud::tenant, wheel::TICK},
};

const NONE: Quota = Quota {
    connections_max: None,
    publishes: None,
    bytes: None,
    payload_bytes_max: None,
    subscriptions_max: None,
    inflight_max: None,
};
const ONE_A_SECOND: Quota = Quota { publishes: Some(Rate { per_s: 1, burst: 1 }), ..NONE };

/// Until the timer of a second has gone off.
const A_SECOND: Duration = Duration::from_secs(1).saturating_add(TICK);

/// Every kind of holder: its scope, empty for the listener; the metrics' name of it; a client whom it is about, with a topic.
const SCOPES: [(&str, &str, &str, &str); 9] = [
    ("", "listener", "app-a", "x"),
    ("tenant", "tenant", "app-a", "x"),
    ("tenant", "tenant", "dev-lamp", "up/custom/x"),
    ("products/p", "product", "dev-lamp", "up/custom/x"),
    ("products/p/devices", "device", "dev-lamp", "up/custom/x"),
    ("devices/lamp", "device", "dev-lamp", "up/custom/x"),
    ("users", "user", "app-a", "x"),
    ("tokens/app-a", "user", "app-a", "x"),
    ("accounts/ann", "user", "acc-ann", "x"),
];

fn memory() -> Arc<Memory> {
    Arc::new(Memory::new(StoreLimits::default()))
}

/// A node with this quota.
async fn limited(scope: &str, quota: Quota) -> Cloud {
    if scope.is_empty() {
        return Cloud::limited(memory(), quota).await;
    }
    let cloud = Cloud::limited(memory(), NONE).await;
    is_serving(&cloud).await;
    cloud.limit(scope, Some(quota)).await;
    cloud
}

/// Changes are told from then on.
async fn is_serving(cloud: &Cloud) {
    drop(Raw::connect(cloud, brief(V5, "app-z", "first")).await);
    settled(cloud, 0).await;
}

fn client_id(who: &'static str) -> &'static str {
    who.strip_prefix("dev-").unwrap_or("c")
}

async fn usage(cloud: &Cloud, scope: &str) -> QuotaUse {
    cloud.node.quota_use(&tenant(), &scope.parse().unwrap()).await.unwrap()
}

/// Publishes with QoS 1 and waits for nothing.
async fn begin(client: &mut Raw, topic: &str, payload: &str) -> PacketId {
    let packet_id = client.next_id();
    client
        .send(&Packet::Publish(Publish { packet_id: Some(packet_id), ..message(topic, payload, QoS::AtLeastOnce) }))
        .await;
    packet_id
}

/// The answer to that, whatever a device is told before it.
async fn answered(client: &mut Raw, packet_id: PacketId) -> ReasonCode {
    match client.answer(PacketKind::PubAck).await {
        Packet::PubAck(ack) if ack.packet_id == packet_id => ack.reason,
        other => panic!("{other:?}"),
    }
}

/// So many connections wait because of a quota.
async fn waits(cloud: &Cloud, count: usize) {
    let is_slowed = || cloud.node.inner.timers.len() >= count;
    until("a connection to be slowed", is_slowed).await;
}

async fn is_unanswered(client: &mut Raw) -> bool {
    tokio::time::timeout(Duration::ZERO, client.answer(PacketKind::PubAck)).await.is_err()
}

/// What a device was told: topic, code, detail.
async fn told(client: &mut Raw) -> (String, String, String) {
    let publish = client.message().await;
    assert_eq!(publish.topic, "down/error");
    let body: serde_json::Value = serde_json::from_str(&text(&publish)).unwrap();
    let member = |name: &str| body[name].as_str().unwrap().to_owned();
    (member("topic"), member("code"), member("detail"))
}

#[tokio::test]
async fn who_is_too_fast_is_slowed_by_each_scope_and_each_rate_in_both_versions() {
    let bytes = Quota { bytes: Some(Rate { per_s: 100, burst: 100 }), ..NONE };
    for (scope, holder, who, topic) in SCOPES {
        for version in BOTH {
            for (quota, limit) in [(ONE_A_SECOND, "publishes"), (bytes, "bytes")] {
                let cloud = limited(scope, quota).await;
                let (mut client, _) = Raw::connect(&cloud, brief(version, who, client_id(who))).await;
                let payload = "x".repeat(99 - topic.len());
                let first = client.publish(message(topic, &payload, QoS::AtLeastOnce)).await;
                assert_ne!(first, ReasonCode::QuotaExceeded, "{scope} {version:?}");
                let second = begin(&mut client, topic, &payload).await;
                waits(&cloud, 1).await;
                assert!(is_unanswered(&mut client).await, "{scope} {version:?} {limit}");
                if who.starts_with("dev") {
                    let (of, code, detail) = told(&mut client).await;
                    assert_eq!((&*of, &*code), (topic, "rate_limited"));
                    assert!(detail.starts_with(&format!("{limit} of the {holder} are limited to ")), "{detail}");
                }
                cloud.clock.advance(A_SECOND);
                assert_eq!(answered(&mut client, second).await, first, "{scope} {version:?} {limit}");
                if !scope.is_empty() {
                    let usage = usage(&cloud, scope).await;
                    assert_eq!((usage.publishes_slowed, usage.publishes_refused), (1, 0), "{scope}");
                    let is_each = scope == "users" || scope.ends_with("/devices");
                    assert_eq!(usage.connections, (!is_each).then_some(1), "{scope}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_payload_that_is_too_large_is_refused_by_each_scope_in_both_versions() {
    for (scope, holder, who, topic) in SCOPES {
        for version in BOTH {
            let cloud = limited(scope, Quota { payload_bytes_max: Some(3), ..NONE }).await;
            let (mut client, _) = Raw::connect(&cloud, brief(version, who, client_id(who))).await;
            for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::AtMostOnce] {
                let refused = client.publish(message(topic, "1234", qos)).await;
                let is_told = version == V5 && qos != QoS::AtMostOnce;
                assert_eq!(refused == ReasonCode::QuotaExceeded, is_told, "{scope} {version:?} {qos:?}: {refused:?}");
            }
            let taken = client.publish(message(topic, "123", QoS::AtLeastOnce)).await;
            assert_ne!(taken, ReasonCode::QuotaExceeded, "{scope} {version:?}");
            if who.starts_with("dev") {
                let (_, code, detail) = told(&mut client).await;
                assert_eq!(
                    (&*code, detail),
                    ("quota_exceeded", format!("payloads of the {holder} are limited to 3 bytes"))
                );
            }
            if !scope.is_empty() {
                assert_eq!(usage(&cloud, scope).await.publishes_refused, 3, "{scope} {version:?}");
            }
        }
    }
}

#[tokio::test]
async fn what_is_refused_goes_to_nobody_and_frees_its_identifier() {
    let cloud = limited("tenant", Quota { payload_bytes_max: Some(4), ..NONE }).await;
    for version in BOTH {
        let (mut client, _) = Raw::connect(&cloud, lasting(version, "app-a", "c")).await;
        client.listen("x", QoS::ExactlyOnce).await;
        for payload in ["large", "fine", "large", "good"] {
            client.publish(message("x", payload, QoS::ExactlyOnce)).await;
        }
        assert_eq!(client.texts(2).await, ["fine", "good"], "{version:?}");
        let will = Will { topic: "x", payload: b"large", qos: QoS::AtMostOnce, retain: false, properties: List::EMPTY };
        let (_refused, ack) = Raw::try_connect(&cloud, Connect { will: Some(will), ..brief(V5, "app-a", "w") }).await;
        assert_eq!(ack.reason, ReasonCode::QuotaExceeded, "nor is it left behind");
    }
}

#[tokio::test]
async fn a_crowd_shares_a_rate_and_who_would_wait_for_longer_than_a_second_is_refused() {
    for version in BOTH {
        let cloud = limited("products/p", ONE_A_SECOND).await;
        let (mut lamp, _) = Raw::connect(&cloud, brief(version, "dev-lamp", "lamp")).await;
        let (mut door, _) = Raw::connect(&cloud, brief(version, "dev-door", "door")).await;
        let topic = "up/custom/x";
        lamp.publish(message(topic, "1", QoS::AtLeastOnce)).await;
        let waiting = begin(&mut lamp, topic, "2").await;
        waits(&cloud, 1).await;
        let mut expected = 0;
        for qos in ALL {
            expected += 1;
            let refused = door.publish(message(topic, "3", qos)).await;
            let is_told = version == V5 && qos != QoS::AtMostOnce;
            assert_eq!(refused == ReasonCode::QuotaExceeded, is_told, "{version:?} {qos:?}: {refused:?}");
            until_counted(&cloud, "products/p", expected).await;
        }
        let (_, code, detail) = told(&mut door).await;
        assert_eq!(code, "quota_exceeded");
        assert_eq!(detail, "publishes of the product are limited to 1 a second and 1 at once");
        cloud.clock.advance(A_SECOND);
        assert!(!answered(&mut lamp, waiting).await.is_error(), "who came first had its time");
        assert_eq!(usage(&cloud, "products/p").await.connections, Some(2));
    }
}

async fn until_counted(cloud: &Cloud, scope: &str, refused: u64) {
    soon("it to be counted", async {
        while usage(cloud, scope).await.publishes_refused < refused {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_device_is_told_of_each_once_in_ten_seconds() {
    let cloud = limited("devices/lamp", Quota { payload_bytes_max: Some(1), ..NONE }).await;
    let (mut lamp, _) = Raw::connect(&cloud, brief(V5, "dev-lamp", "lamp")).await;
    for _ in 0..5 {
        lamp.publish(message("up/custom/x", "12", QoS::AtLeastOnce)).await;
    }
    cloud.clock.advance(Duration::from_secs(10));
    lamp.publish(message("up/custom/y", "12", QoS::AtLeastOnce)).await;
    lamp.send(&Packet::PingReq).await;
    lamp.answer(PacketKind::PingResp).await;
    let topics: Vec<_> = [told(&mut lamp).await.0, told(&mut lamp).await.0].into();
    assert_eq!(topics, ["up/custom/x", "up/custom/y"]);
    assert!(lamp.kept.is_empty(), "{:?}", lamp.kept);
}

#[tokio::test]
async fn connections_beyond_the_limit_are_refused_and_a_take_over_is_none() {
    for (scope, _, who, _) in SCOPES.into_iter().filter(|(_, holder, ..)| *holder != "device") {
        for version in BOTH {
            let cloud = limited(scope, Quota { connections_max: Some(1), ..NONE }).await;
            let other = if who == "dev-lamp" { ("dev-door", "door") } else { (who, "other") };
            let (first, _) = Raw::connect(&cloud, brief(version, who, client_id(who))).await;
            let (_, ack) = Raw::try_connect(&cloud, brief(version, other.0, other.1)).await;
            match version {
                V5 => {
                    assert_eq!(ack.reason, ReasonCode::QuotaExceeded, "{scope}");
                    assert!(ack.properties.iter().any(|property| matches!(property, Property::UserProperty(..))));
                }
                V311 => assert_eq!(ack.reason, ReasonCode::ServerUnavailable, "{scope}"),
            }
            let (again, _) = Raw::connect(&cloud, brief(version, who, client_id(who))).await;
            let (_, ack) = Raw::try_connect(&cloud, brief(version, other.0, other.1)).await;
            assert!(ack.reason.is_error(), "{scope}: a take-over gives no place away");
            assert_eq!(cloud.node.sessions_len(), 1, "who is refused leaves nothing behind");
            drop((first, again));
            settled(&cloud, 0).await;
            soon("a place", async {
                while Raw::try_connect(&cloud, brief(version, other.0, other.1)).await.1.reason.is_error() {}
            })
            .await;
            if !scope.is_empty() {
                assert!(usage(&cloud, scope).await.connections_refused >= 2, "{scope}");
            }
        }
    }
}

#[tokio::test]
async fn subscriptions_beyond_the_limit_of_each_scope_are_refused() {
    for (scope, _, who, _) in SCOPES.into_iter().filter(|(.., who, _)| *who != "acc-ann") {
        for version in BOTH {
            let cloud = limited(scope, Quota { subscriptions_max: Some(2), ..NONE }).await;
            let (mut client, _) = Raw::connect(&cloud, brief(version, who, client_id(who))).await;
            let all = ["down/custom/1", "down/custom/2", "down/custom/3", "down/custom/1"];
            let all = all.map(|filter| Subscription::new(filter, QoS::AtMostOnce));
            let codes = client.subscribe(&all[..2], None).await;
            assert!(codes.iter().all(|code| !code.is_error()), "{scope}: {codes:?}");
            let codes = client.subscribe(&all[2..], None).await;
            let refused = if version == V5 { ReasonCode::QuotaExceeded } else { ReasonCode::UnspecifiedError };
            assert_eq!(
                (codes[0], codes[1].is_error()),
                (refused, false),
                "{scope} {version:?}: one that is there is no new one"
            );
            if !scope.is_empty() {
                assert_eq!(usage(&cloud, scope).await.subscriptions_refused, 1, "{scope}");
            }
        }
    }
}

#[tokio::test]
async fn the_least_of_all_scopes_is_told_as_receive_maximum() {
    for (scope, _, who, _) in SCOPES {
        let cloud = limited(scope, Quota { inflight_max: Some(7), ..NONE }).await;
        let (_, ack) = Raw::try_connect(&cloud, brief(V5, who, client_id(who))).await;
        assert_eq!(ack.properties.receive_maximum(), Some(7), "{scope}");
    }
    let cloud = limited("tenant", Quota { inflight_max: Some(7), ..NONE }).await;
    cloud.limit("products/p", Some(Quota { inflight_max: Some(5), ..NONE })).await;
    cloud.limit("devices/lamp", Some(Quota { inflight_max: Some(6), ..NONE })).await;
    let (_, ack) = Raw::try_connect(&cloud, brief(V5, "dev-lamp", "lamp")).await;
    assert_eq!(ack.properties.receive_maximum(), Some(5));
    cloud.limit("products/p", Some(Quota { inflight_max: Some(u16::MAX), ..NONE })).await;
    let (_, ack) = Raw::try_connect(&cloud, brief(V5, "dev-door", "door")).await;
    assert_eq!(ack.properties.receive_maximum(), Some(7));
    let nobody = Connect { username: None, password: None, ..brief(V5, "", "nobody") };
    let (_, ack) = Raw::try_connect(&cloud, nobody).await;
    assert_eq!(ack.properties.receive_maximum(), Some(7), "nobody is of the tenant as well");
}

#[tokio::test]
async fn one_of_its_own_comes_in_place_of_what_each_has() {
    for (each, own, who, topic) in [
        ("products/p/devices", "devices/lamp", "dev-lamp", "up/custom/x"),
        ("users", "tokens/app-a", "app-a", "x"),
        ("users", "accounts/ann", "acc-ann", "x"),
    ] {
        let cloud = limited(each, ONE_A_SECOND).await;
        cloud.limit(own, Some(Quota { payload_bytes_max: Some(9), ..NONE })).await;
        let (mut client, _) = Raw::connect(&cloud, brief(V5, who, client_id(who))).await;
        for _ in 0..20 {
            client.publish(message(topic, "123456789", QoS::AtLeastOnce)).await;
        }
        assert_eq!(client.publish(message(topic, "1234567890", QoS::AtLeastOnce)).await, ReasonCode::QuotaExceeded);
        assert_eq!(usage(&cloud, each).await.publishes_slowed, 0, "{each}");
        assert_eq!(usage(&cloud, own).await.connections, Some(1));
    }
}

#[tokio::test]
async fn each_device_has_a_rate_of_its_own_and_a_second_connection_of_a_user_has_none() {
    let cloud = limited("products/p/devices", ONE_A_SECOND).await;
    cloud.limit("users", Some(ONE_A_SECOND)).await;
    for who in ["dev-lamp", "dev-door"] {
        let (mut device, _) = Raw::connect(&cloud, brief(V5, who, client_id(who))).await;
        assert!(!device.publish(message("up/custom/x", "1", QoS::AtLeastOnce)).await.is_error(), "{who}");
    }
    let (mut first, _) = Raw::connect(&cloud, brief(V5, "app-a", "1")).await;
    let (mut second, _) = Raw::connect(&cloud, brief(V5, "app-a", "2")).await;
    let (mut other, _) = Raw::connect(&cloud, brief(V5, "app-b", "1")).await;
    for client in [&mut first, &mut other] {
        assert!(!client.publish(message("x", "1", QoS::AtLeastOnce)).await.is_error());
    }
    begin(&mut second, "x", "1").await;
    waits(&cloud, 1).await;
    assert!(is_unanswered(&mut second).await);
    assert_eq!(usage(&cloud, "users").await.publishes_slowed, 1);
}

#[tokio::test]
async fn a_change_acts_on_connections_that_are_there() {
    for (scope, _, who, topic) in SCOPES.into_iter().filter(|(scope, ..)| !scope.is_empty()) {
        let cloud = Cloud::limited(memory(), NONE).await;
        let (mut client, _) = Raw::connect(&cloud, brief(V5, who, client_id(who))).await;
        let publish = async |client: &mut Raw| client.publish(message(topic, "12", QoS::AtLeastOnce)).await;
        assert_ne!(publish(&mut client).await, ReasonCode::QuotaExceeded);
        cloud.limit(scope, Some(Quota { payload_bytes_max: Some(1), ..NONE })).await;
        assert_eq!(publish(&mut client).await, ReasonCode::QuotaExceeded, "{scope}: there is one now");
        cloud.limit(scope, Some(Quota { payload_bytes_max: Some(2), connections_max: Some(1), ..ONE_A_SECOND })).await;
        assert_ne!(publish(&mut client).await, ReasonCode::QuotaExceeded, "{scope}: there is another");
        let second = begin(&mut client, topic, "12").await;
        waits(&cloud, 1).await;
        let counted = usage(&cloud, scope).await;
        assert_eq!((counted.publishes_slowed, counted.publishes_refused), (1, 1), "{scope}: and it goes on counting");
        cloud.limit(scope, None).await;
        cloud.clock.advance(A_SECOND);
        assert_ne!(answered(&mut client, second).await, ReasonCode::QuotaExceeded);
        for _ in 0..20 {
            assert_ne!(publish(&mut client).await, ReasonCode::QuotaExceeded, "{scope}: there is none any more");
        }
        assert_eq!(usage(&cloud, scope).await.publishes_slowed, 0, "{scope}");
    }
}

#[tokio::test]
async fn a_faster_rate_holds_at_once_for_all_that_share_it() {
    let cloud = limited("products/p", ONE_A_SECOND).await;
    let (mut lamp, _) = Raw::connect(&cloud, brief(V5, "dev-lamp", "lamp")).await;
    let (mut door, _) = Raw::connect(&cloud, brief(V5, "dev-door", "door")).await;
    cloud.limit("products/p", Some(Quota { publishes: Some(Rate { per_s: 1_000, burst: 40 }), ..NONE })).await;
    for client in [&mut lamp, &mut door] {
        for _ in 0..20 {
            assert!(!client.publish(message("up/custom/x", "1", QoS::AtLeastOnce)).await.is_error());
        }
    }
    assert_eq!(usage(&cloud, "products/p").await.publishes_slowed, 0);
    begin(&mut lamp, "up/custom/x", "1").await;
    waits(&cloud, 1).await;
}

#[tokio::test]
async fn quotas_hold_after_a_restart_and_a_crash() {
    let memory = memory();
    let cloud = Cloud::limited(memory.clone(), NONE).await;
    is_serving(&cloud).await;
    cloud.limit("products/p", Some(Quota { payload_bytes_max: Some(1), ..NONE })).await;
    cloud.stop().await;
    for _ in 0..2 {
        let cloud = Cloud::over(memory.clone()).await;
        let (mut lamp, _) = Raw::connect(&cloud, brief(V5, "dev-lamp", "lamp")).await;
        assert_eq!(lamp.publish(message("up/custom/x", "12", QoS::AtLeastOnce)).await, ReasonCode::QuotaExceeded);
        cloud.crash().await;
    }
}

#[tokio::test]
async fn who_comes_back_has_no_second_burst() {
    let cloud = limited("products/p/devices", ONE_A_SECOND).await;
    let (mut lamp, _) = Raw::connect(&cloud, brief(V5, "dev-lamp", "lamp")).await;
    lamp.publish(message("up/custom/x", "1", QoS::AtLeastOnce)).await;
    lamp.leave(ReasonCode::Success).await;
    settled(&cloud, 0).await;
    let (mut lamp, _) = Raw::connect(&cloud, brief(V5, "dev-lamp", "lamp")).await;
    begin(&mut lamp, "up/custom/x", "1").await;
    waits(&cloud, 1).await;
    assert!(is_unanswered(&mut lamp).await);
}

#[tokio::test]
async fn the_answer_to_a_command_is_neither_slowed_nor_refused_and_any_other_is() {
    let cloud = limited("products/p", Quota { payload_bytes_max: Some(1_000), ..ONE_A_SECOND }).await;
    let (mut lamp, _) = Raw::connect(&cloud, brief(V5, "dev-lamp", "lamp")).await;
    lamp.publish(message("up/custom/x", "1", QoS::AtLeastOnce)).await;
    let commander = cloud.node.commander();
    for id in ["c1", "c2", "c3"] {
        let request = CommandRequest {
            by: None,
            id: id.parse().unwrap(),
            tenant: tenant(),
            device: "lamp".parse().unwrap(),
            name: "blink".to_owned(),
            args: serde_json::json!({}),
            timeout: Duration::from_secs(60),
            offline: Offline::Fail,
            supersede: false,
        };
        assert!(matches!(commander.submit(request).await.unwrap(), Commanded::Receipt(_)));
        lamp.message().await;
        let reply = format!(r#"{{"id":"{id}","status":"applied","result":"{}"}}"#, "x".repeat(2_000));
        assert!(!lamp.publish(message("up/reply", &reply, QoS::AtLeastOnce)).await.is_error());
        let receipt = commander.receipt(&tenant(), &id.parse().unwrap()).await.unwrap().unwrap();
        assert_eq!(receipt.state, CommandState::Applied);
    }
    assert_eq!(usage(&cloud, "products/p").await.publishes_slowed, 0);
    begin(&mut lamp, "up/reply", r#"{"id":"c3","status":"applied"}"#).await;
    waits(&cloud, 1).await;
    assert!(is_unanswered(&mut lamp).await, "it was answered already");
}

#[tokio::test]
async fn what_waits_passes_when_its_connection_ends() {
    let cloud = limited("tokens/app-a", ONE_A_SECOND).await;
    let (mut watcher, _) = Raw::connect(&cloud, brief(V5, "app-b", "watcher")).await;
    watcher.listen("x", QoS::AtMostOnce).await;
    // It is taken over.
    let (mut client, _) = Raw::connect(&cloud, brief(V5, "app-a", "c")).await;
    client.publish(message("x", "first", QoS::AtMostOnce)).await;
    client.publish(message("x", "second", QoS::AtMostOnce)).await;
    waits(&cloud, 1).await;
    let (mut client, _) = Raw::connect(&cloud, brief(V5, "app-a", "c")).await;
    assert_eq!(watcher.texts(2).await, ["first", "second"]);
    // It says goodbye and is gone: what it has sent before has its time.
    cloud.clock.advance(Duration::from_secs(60));
    let mut bytes = BytesMut::new();
    for text in ["third", "fourth", "fifth"] {
        encode(&Packet::Publish(message("x", text, QoS::AtMostOnce)), V5, &mut bytes).unwrap();
    }
    let goodbye = Disconnect { reason: ReasonCode::Success, properties: List::EMPTY };
    encode(&Packet::Disconnect(goodbye), V5, &mut bytes).unwrap();
    client.send_bytes(&bytes).await;
    drop(client);
    for text in ["third", "fourth", "fifth"] {
        assert_eq!(watcher.texts(1).await, [text]);
        if text != "fifth" {
            waits(&cloud, 1).await;
            cloud.clock.advance(A_SECOND);
        }
    }
    settled(&cloud, 1).await;
    assert!(cloud.node.inner.timers.is_empty());
    assert_eq!(usage(&cloud, "tokens/app-a").await.publishes_refused, 0);
}

#[tokio::test]
async fn a_slowed_client_is_not_taken_for_silent() {
    let cloud = limited("tokens/app-a", ONE_A_SECOND).await;
    let (mut client, _) = Raw::connect(&cloud, Connect { keep_alive_s: 1, ..brief(V5, "app-a", "c") }).await;
    client.publish(message("x", "1", QoS::AtLeastOnce)).await;
    let waiting = begin(&mut client, "x", "2").await;
    client.send(&Packet::PingReq).await;
    waits(&cloud, 1).await;
    cloud.clock.advance(Duration::from_secs(100));
    assert!(!answered(&mut client, waiting).await.is_error());
    client.answer(PacketKind::PingResp).await;
}

#[tokio::test]
async fn nothing_is_left_of_those_who_are_gone() {
    let cloud = limited("products/p/devices", ONE_A_SECOND).await;
    cloud.limit("tenant", Some(Quota { connections_max: Some(3), ..NONE })).await;
    for round in 0..5 {
        let (mut lamp, _) = Raw::connect(&cloud, brief(V5, "dev-lamp", "lamp")).await;
        let (_door, _) = Raw::connect(&cloud, brief(V5, "dev-door", "door")).await;
        begin(&mut lamp, "up/custom/x", "1").await;
        assert_eq!(usage(&cloud, "tenant").await.connections, Some(2), "{round}");
        drop((lamp, _door));
        settled(&cloud, 0).await;
        until("places to be given back", || cloud.node.inner.quotas.meters_len() == 0).await;
        cloud.clock.advance(A_SECOND);
    }
}
