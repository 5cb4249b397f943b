//! Commands over HTTP to devices that obey, refuse, are silent, or are not there.
#![allow(clippy::unwrap_used, reason = "a journey ends where something is not as it should be")]

use std::time::Duration;

use iot_conn::mqtt::{QoS, client::Publication};
use iot_tests::{
    cloud::Cloud,
    http::Answer,
    process::Process,
    unit::{Unit, claim_token, import, is_online, simulate},
    wait::{SOON, until},
};
use serde_json::{Value, json};

#[track_caller]
fn simulated(cloud: &Cloud, device: &str) -> Process {
    let admin = cloud.admin();
    import(&admin, "lamp", &[device]);
    let token = claim_token(&admin, "lamp", 1, false);
    let running = simulate(cloud, device, &token, &["--device", device]);
    until("the device to be online", SOON, || is_online(&admin, device).then_some(()));
    running
}

fn send(cloud: &Cloud, device: &str, wait_ms: u32, body: &Value) -> Answer {
    cloud.admin().post(&format!("/v1/devices/{device}/commands?wait_ms={wait_ms}"), body)
}

fn path(receipt: &Value) -> String {
    format!("/v1/devices/{}/commands/{}", receipt["device"].as_str().unwrap(), receipt["id"].as_str().unwrap())
}

fn states(receipt: &Value) -> Vec<&str> {
    receipt["history"].as_array().unwrap().iter().map(|step| step["state"].as_str().unwrap()).collect()
}

#[test]
fn a_device_obeys_refuses_and_shows_it() {
    let cloud = Cloud::start(&[]);
    let _device = simulated(&cloud, "a");
    let applied = send(&cloud, "a", 5_000, &json!({"name": "set", "args": {"on": true}})).is(200);
    assert_eq!((&applied["state"], &applied["result"]), (&json!("applied"), &json!({"on": true})));
    let known = cloud.admin().get(&path(&applied)).is(200);
    assert_eq!((&known["id"], &known["state"], states(&known)), (&applied["id"], &applied["state"], states(&applied)));
    assert_eq!((states(&known)[0], *states(&known).last().unwrap()), ("accepted", "applied"));

    let rejected = send(&cloud, "a", 5_000, &json!({"name": "fail"})).is(200);
    assert_eq!(rejected["state"], "rejected");
    assert!(rejected["error"].is_string(), "{rejected}");

    let nested = json!({"deep": [1, {"x": null}], "text": "ü"});
    let echoed = send(&cloud, "a", 5_000, &json!({"name": "echo", "args": nested})).is(200);
    assert_eq!(echoed["result"], nested);
}

#[test]
fn what_cannot_be_a_command_is_refused_with_its_reason() {
    let cloud = Cloud::start(&[]);
    let _unit = Unit::several(&cloud, "lamp", &["a"]);
    let set = json!({"name": "set"});
    send(&cloud, "a", 0, &set).fails(409, "device_offline");
    send(&cloud, "a", 0, &json!({"name": "set", "offline": "fail"})).fails(409, "device_offline");
    send(&cloud, "nobody", 0, &set).fails(404, "not_found");
    send(&cloud, "not%2Fan%2Fid", 0, &set).fails(400, "id_invalid");
    for body in [
        json!({"name": "x".repeat(65), "offline": "wait"}),
        json!({"name": "", "offline": "wait"}),
        json!({"name": "set", "args": "x".repeat(16 * 1024 + 1), "offline": "wait"}),
        json!({"name": "set", "timeout_ms": 7 * 24 * 3_600_000_u64 + 1, "offline": "wait"}),
        json!({"name": "set", "timeout_ms": 0, "offline": "wait"}),
    ] {
        send(&cloud, "a", 0, &body).fails(400, "command_invalid");
    }
    for body in [
        json!({}),
        json!([]),
        json!({"name": 1}),
        json!({"name": "set", "offline": "maybe"}),
        json!({"name": "set", "x": 1}),
    ] {
        send(&cloud, "a", 0, &body).fails(400, "body_invalid");
    }
    send(&cloud, "a", 0, &json!({"name": "set", "args": "x".repeat(70_000)})).fails(413, "body_too_large");
    let text =
        cloud.admin().send("POST", "/v1/devices/a/commands", &[("Content-Type", "text/plain")], Some("set".into()));
    text.fails(415, "content_type");
    cloud.admin().get("/v1/devices/a/commands/nothing").fails(404, "not_found");
}

#[test]
fn a_command_that_waits_survives_kill_9_and_is_done_when_the_device_comes() {
    let mut cloud = Cloud::start(&[]);
    let admin = cloud.admin();
    import(&admin, "lamp", &["a"]);
    let token = claim_token(&admin, "lamp", 1, false);
    let body = json!({"name": "set", "args": {"on": true}, "offline": "wait", "timeout_ms": 600_000});
    let queued = send(&cloud, "a", 0, &body).is(202);
    assert_eq!((queued["state"].as_str(), states(&queued)), (Some("queued"), vec!["accepted", "queued"]));
    cloud.kill();

    cloud.start_again();
    let kept = admin.get(&path(&queued)).is(202);
    assert_eq!((&kept["state"], &kept["deadline"]), (&json!("queued"), &queued["deadline"]));
    let _device = simulate(&cloud, "a", &token, &["--device", "a"]);
    let done = until("the device to obey", SOON, || {
        let answer = admin.get(&format!("{}?wait_ms=1000", path(&queued)));
        (answer.status == 200).then(|| answer.json())
    });
    assert_eq!((&done["state"], &done["result"]), (&json!("applied"), &json!({"on": true})));
    // A receipt that was durable stays so.
    cloud.kill();
    cloud.start_again();
    assert_eq!(admin.get(&path(&queued)).is(200)["state"], "applied");
}

#[test]
fn a_deadline_ends_a_command_whether_the_device_is_silent_or_away() {
    let cloud = Cloud::start(&[]);
    let unit = &Unit::several(&cloud, "lamp", &["a", "b"])[0];
    let away = send(&cloud, "b", 5_000, &json!({"name": "set", "offline": "wait", "timeout_ms": 200})).is(200);
    assert_eq!((away["state"].as_str(), states(&away)), (Some("expired"), vec!["accepted", "queued", "expired"]));

    let mut silent = unit.online(&cloud);
    let sent = send(&cloud, "a", 0, &json!({"name": "set", "timeout_ms": 1_000})).is(202);
    let command = silent.message("down/command", SOON);
    assert_eq!(command.qos, QoS::AtLeastOnce);
    let command: Value = serde_json::from_slice(&command.payload).unwrap();
    assert_eq!((&command["id"], &command["name"], &command["epoch"]), (&sent["id"], &json!("set"), &json!(0)));
    assert!(command["expires_in_ms"].as_u64().is_some_and(|ms| 0 < ms && ms <= 1_000), "{command}");
    // The acknowledgement of the message is not yet that of the command.
    let acknowledged = until("the device to have the command", SOON, || {
        silent.poll();
        let receipt = cloud.admin().get(&path(&sent)).json();
        states(&receipt).contains(&"acknowledged").then_some(receipt)
    });
    assert_ne!(acknowledged["state"], "applied");
    let expired = cloud.admin().get(&format!("{}?wait_ms=5000", path(&sent))).is(200);
    assert_eq!(expired["state"], "expired");
    // An answer after the deadline changes nothing.
    let reply = json!({"id": sent["id"], "status": "applied"}).to_string();
    let _either = silent.publish(Publication::new("up/reply", reply, QoS::AtLeastOnce));
    assert_eq!(cloud.admin().get(&path(&sent)).is(200)["state"], "expired");
}

#[test]
fn a_reply_is_believed_from_the_device_that_was_asked_only() {
    let cloud = Cloud::start(&[]);
    let units = Unit::several(&cloud, "lamp", &["a", "b"]);
    let (mut asked, mut other) = (units[0].online(&cloud), units[1].online(&cloud));
    let sent = send(&cloud, "a", 0, &json!({"name": "open"})).is(202);
    let reply = json!({"id": sent["id"], "status": "applied"}).to_string();
    let reply = Publication::new("up/reply", reply, QoS::AtLeastOnce);
    let _either = other.publish(reply.clone());
    assert_ne!(cloud.admin().get(&path(&sent)).json()["state"], "applied");
    asked.message("down/command", SOON);
    asked.publish(reply);
    assert_eq!(cloud.admin().get(&format!("{}?wait_ms=5000", path(&sent))).is(200)["state"], "applied");
}

#[test]
fn the_same_key_sends_once() {
    let cloud = Cloud::start(&[]);
    let mut device = Unit::several(&cloud, "lamp", &["a", "b"])[0].online(&cloud);
    let admin = cloud.admin();
    for (target, offline) in [("a", "fail"), ("b", "wait")] {
        let route = format!("/v1/devices/{target}/commands");
        let body = json!({"name": "set", "args": {"on": true}, "offline": offline});
        let first = admin.post_once(&route, "key-1", &body);
        let again = admin.post_once(&route, "key-1", &body);
        assert_eq!((first.status, &first.text), (again.status, &again.text), "{target}");
        assert_eq!(first.status, 202, "{}", first.text);
        let other = json!({"name": "set", "args": {"on": false}, "offline": offline});
        admin.post_once(&route, "key-1", &other).fails(409, "idempotency_mismatch");
        let second = admin.post_once(&route, "key-2", &other);
        assert_ne!(first.json()["id"], second.is(202)["id"], "{target}");
        admin.post_once(&route, "", &body).fails(400, "idempotency_key_invalid");
        admin.post_once(&route, &"x".repeat(129), &body).fails(400, "idempotency_key_invalid");
    }
    let arguments: Vec<_> = (0..2)
        .map(|_| {
            serde_json::from_slice::<Value>(&device.message("down/command", SOON).payload).unwrap()["args"].clone()
        })
        .collect();
    assert_eq!(arguments, [json!({"on": true}), json!({"on": false})]);
    iot_tests::wait::never("a third command came", Duration::from_millis(300), || {
        device.poll().into_iter().find(|event| matches!(event, iot_conn::mqtt::client::Event::Message(_)))
    });
}

#[test]
fn what_was_not_sent_can_be_taken_back_or_replaced() {
    let cloud = Cloud::start(&[]);
    let unit = &Unit::several(&cloud, "lamp", &["a"])[0];
    let admin = cloud.admin();
    let wait = |name: &str, supersede: bool| {
        send(&cloud, "a", 0, &json!({"name": name, "offline": "wait", "supersede": supersede})).is(202)
    };
    let first = wait("set", false);
    assert_eq!(admin.delete(&path(&first)).is(200)["state"], "cancelled");
    assert_eq!(admin.get(&path(&first)).is(200)["state"], "cancelled");
    let old = wait("set", false);
    let new = wait("set", true);
    assert_eq!(admin.get(&path(&old)).is(200)["state"], "superseded");

    let mut device = unit.online(&cloud);
    let came: Value = serde_json::from_slice(&device.message("down/command", SOON).payload).unwrap();
    assert_eq!(came["id"], new["id"], "what was taken back or replaced is not sent");
    admin.delete(&path(&new)).fails(409, "already_sent");
}

#[test]
fn one_device_has_a_bounded_number_of_commands_under_way() {
    let cloud = Cloud::start(&[]);
    let _units = Unit::several(&cloud, "lamp", &["a", "b"]);
    let body = json!({"name": "set", "offline": "wait"});
    for _ in 0..64 {
        send(&cloud, "a", 0, &body).is(202);
    }
    send(&cloud, "a", 0, &body).fails(429, "too_many_commands");
    send(&cloud, "b", 0, &body).is(202);
}
