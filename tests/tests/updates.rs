//! Updates: signed by their maker, rolled out in groups, verified by devices, and stopped where they fail; webhooks about
//! what happens, over a receiver that is down for a while.
#![allow(clippy::unwrap_used, reason = "a journey ends where something is not as it should be")]

use std::{fs, path::PathBuf, time::Duration};

use iot_core::time::Timestamp;
use iot_ota::release::{FORMAT, Hardware, Image, Manifest, SignedRelease, SigningKey, Trust, Version};
use iot_tests::{
    cloud::Cloud,
    http::{Answer, Api},
    process::Process,
    receiver::Receiver,
    unit::{claim_token, import, simulate},
    wait::{SOON, never, until},
};
use serde_json::{Value, json};

const IMAGE_BYTES: usize = 300_000;
const CHUNK_BYTES: u32 = 16 * 1_024;
/// A rollout goes on every five seconds, and devices restart in between.
const ROLLED_OUT: Duration = Duration::from_secs(60);

fn maker() -> SigningKey {
    SigningKey::from_seed(&[7; 32]).unwrap()
}

fn image(text: &str) -> String {
    text.chars().cycle().take(IMAGE_BYTES).collect()
}

fn release(sequence: u64, image: &str, key: &SigningKey) -> SignedRelease {
    let manifest = Manifest {
        format: FORMAT,
        tenant: "default".parse().unwrap(),
        product: "lamp".parse().unwrap(),
        version: Version::parse(&format!("{sequence}.0.0")).unwrap(),
        sequence,
        security_version: 1,
        hardware: vec![Hardware::parse("r1").unwrap()],
        image: Image::of(image.as_bytes(), CHUNK_BYTES).unwrap(),
        notes: "Brighter.".into(),
        created: Timestamp::from_millis(1_790_000_000_000),
        expires: Timestamp::from_millis(4_000_000_000_000),
    };
    SignedRelease::sign(&manifest, &[key]).unwrap()
}

/// Starts a lamp that believes the maker.
fn lamp(cloud: &Cloud, id: &str, token: &str, more: &[&str]) -> Process {
    let trust = Trust::new(1, vec![maker().public()]).unwrap();
    let factory = json!({"product": "lamp", "hardware": "r1", "version": "1.0.0", "sequence": 1, "trust": trust});
    let path: PathBuf = cloud.folder().join(format!("{id}.json"));
    fs::write(&path, factory.to_string()).unwrap();
    let factory = path.to_str().unwrap();
    let args = [&["--device", id, "--interval-ms", "1000", "--factory", factory], more].concat();
    simulate(cloud, id, token, &args)
}

fn upload(admin: &Api, signed: &SignedRelease, image: &str) -> String {
    let id =
        admin.post("/v1/releases", &serde_json::to_value(signed).unwrap()).is(201)["id"].as_str().unwrap().to_owned();
    put_image(admin, &id, image).is(200);
    id
}

fn put_image(admin: &Api, release: &str, image: &str) -> Answer {
    let path = format!("/v1/releases/{release}/image");
    admin.send("PUT", &path, &[("Content-Type", "application/octet-stream")], Some(image.to_owned()))
}

fn start(admin: &Api, release: &str, first: &[&str], min_executed: usize) -> String {
    let gate = json!({
        "min_executed": min_executed, "failure_per_mille_max": 0, "success_per_mille_min": 1_000, "soak_s": 0,
    });
    let groups =
        json!([{"reach_per_mille": 0, "devices": first, "gate": gate}, {"reach_per_mille": 1_000, "gate": gate}]);
    let made = admin.post("/v1/rollouts", &json!({"release": release, "groups": groups})).is(201);
    let id = made["id"].as_str().unwrap().to_owned();
    admin.post(&format!("/v1/rollouts/{id}/start"), &json!({})).is(200);
    id
}

fn state(admin: &Api, rollout: &str) -> Value {
    admin.get(&format!("/v1/rollouts/{rollout}")).is(200)
}

fn explained(admin: &Api, device: &str) -> Value {
    admin.get(&format!("/v1/devices/{device}/update")).is(200)
}

fn prepare(cloud: &Cloud, devices: &[&str]) -> (Api, String) {
    let admin = cloud.admin();
    import(&admin, "lamp", devices);
    let trust = Trust::new(1, vec![maker().public()]).unwrap();
    admin.put("/v1/products/lamp/trust", &serde_json::to_value(&trust).unwrap()).is(201);
    let token = claim_token(&admin, "lamp", u32::try_from(devices.len()).unwrap(), false);
    (admin, token)
}

#[test]
fn an_update_goes_through_both_groups_and_survives_kill_9_of_device_and_server() {
    let mut cloud = Cloud::start(&[]);
    let (admin, token) = prepare(&cloud, &["lamp-1", "lamp-2", "lamp-3"]);
    let first = lamp(&cloud, "lamp-1", &token, &[]);
    let mut second = lamp(&cloud, "lamp-2", &token, &[]);
    let third = lamp(&cloud, "lamp-3", &token, &[]);
    let image = image("new");
    let release = upload(&admin, &release(2, &image, &maker()), &image);
    let rollout = start(&admin, &release, &["lamp-1"], 1);
    first.line("that it runs the update", ROLLED_OUT, |line| line.contains("runs 2.0.0").then_some(()));
    // The second group opens; one of its devices loses power while it loads, and the server dies.
    second.line("that it loads", ROLLED_OUT, |line| line.contains("update downloading").then_some(()));
    second.kill();
    cloud.kill();
    cloud.start_again();
    let second = lamp(&cloud, "lamp-2", &token, &[]);
    for device in [&second, &third] {
        device.line("that it runs the update", ROLLED_OUT, |line| line.contains("runs 2.0.0").then_some(()));
    }
    let done = until("the rollout to be complete", ROLLED_OUT, || {
        Some(state(&admin, &rollout)).filter(|rollout| rollout["state"] == "completed")
    });
    assert_eq!(done["devices"]["confirmed"], 3, "{done}");
    let explained = explained(&admin, "lamp-3");
    assert_eq!((&explained["runs"]["version"], &explained["runs"]["sequence"]), (&json!("2.0.0"), &json!(2)));
    let twin = until("the twin to know", SOON, || {
        let twin = admin.get("/v1/devices/lamp-3/twin").is(200);
        (twin["reported"]["firmware"] == "2.0.0").then_some(twin)
    });
    assert_eq!(twin["desired"], json!({}));
}

#[test]
fn a_bad_update_is_rolled_back_by_its_device_and_stopped_by_the_gate() {
    let cloud = Cloud::start(&[]);
    let (admin, token) = prepare(&cloud, &["lamp-1", "lamp-2"]);
    let first = lamp(&cloud, "lamp-1", &token, &["--fail-health"]);
    let second = lamp(&cloud, "lamp-2", &token, &[]);
    let image = image("bad");
    let release = upload(&admin, &release(2, &image, &maker()), &image);
    let rollout = start(&admin, &release, &["lamp-1"], 1);
    first.line("that it went back", ROLLED_OUT, |line| line.contains("update rolledback unhealthy").then_some(()));
    let halted = until("the rollout to be halted", ROLLED_OUT, || {
        Some(state(&admin, &rollout)).filter(|rollout| rollout["state"] == "halted")
    });
    assert_eq!((&halted["groups"][0]["failed"], &halted["groups"][1]["assigned"]), (&json!(1), &json!(0)), "{halted}");
    assert_eq!(explained(&admin, "lamp-1")["code"], "rolled_back");
    assert_eq!(explained(&admin, "lamp-2")["code"], "rollout_halted");
    admin.post(&format!("/v1/rollouts/{rollout}/resume"), &json!({})).fails(409, "rollout_state");
    never("the second group is not touched", Duration::from_secs(6), || {
        second.out().iter().find(|line| line.contains("update")).cloned()
    });
    assert_eq!(first.out().iter().filter(|line| line.contains("runs 1.0.0")).count(), 2, "{:?}", first.out());
}

#[test]
fn what_was_not_signed_or_is_not_what_was_signed_is_not_taken_in() {
    let cloud = Cloud::start(&[]);
    let (admin, _) = prepare(&cloud, &["lamp-1"]);
    let image = image("new");
    let stranger = SigningKey::from_seed(&[8; 32]).unwrap();
    let post = |signed: &SignedRelease| admin.post("/v1/releases", &serde_json::to_value(signed).unwrap());
    post(&release(2, &image, &stranger)).fails(403, "signatures_insufficient");
    let good = serde_json::to_value(release(2, &image, &maker())).unwrap();
    let mut altered = good.clone();
    altered["manifest"] = json!(good["manifest"].as_str().unwrap().replace("\"sequence\":2", "\"sequence\":9"));
    admin.post("/v1/releases", &altered).fails(403, "signatures_insufficient");
    admin.post("/v1/releases", &json!({"manifest": "", "signatures": []})).fails(400, "release_malformed");
    admin.post("/v1/releases", &json!({})).fails(400, "body_invalid");
    let id = admin.post("/v1/releases", &good).is(201)["id"].as_str().unwrap().to_owned();
    put_image(&admin, &id, &image.replacen('n', "x", 1)).fails(400, "image_mismatch");
    put_image(&admin, &id, &image[1..]).fails(400, "image_mismatch");
    let gate = json!({"min_executed": 1, "failure_per_mille_max": 0, "success_per_mille_min": 1_000, "soak_s": 0});
    let groups = json!([{"reach_per_mille": 500, "gate": gate}, {"reach_per_mille": 1_000, "gate": gate}]);
    let draft = admin.post("/v1/rollouts", &json!({"release": id, "groups": groups})).is(201);
    let path = format!("/v1/rollouts/{}/start", draft["id"].as_str().unwrap());
    admin.post(&path, &json!({})).fails(409, "release_not_ready");
    put_image(&admin, &id, &image).is(200);
    let wrong = json!([{"reach_per_mille": 1_000, "gate": gate}, {"reach_per_mille": 10, "gate": gate}]);
    admin.post("/v1/rollouts", &json!({"release": id, "groups": wrong})).fails(400, "plan_invalid");
    let (_, viewer) = cloud.issue("viewer");
    let viewer = cloud.anyone().with_token(&viewer);
    viewer.post("/v1/rollouts", &json!({"release": id, "groups": groups})).fails(403, "forbidden");
    viewer.get("/v1/releases").is(200);
    for link in ["", "?device=lamp-1", "?tenant=default&device=lamp-1&epoch=0&expires=9&code=x"] {
        cloud.anyone().get(&format!("/v1/firmware/{id}{link}")).fails(403, "link_refused");
    }
}

#[test]
fn a_webhook_hears_of_what_happened_while_its_receiver_and_the_server_were_down() {
    let mut cloud = Cloud::start(&["--webhooks-to-loopback"]);
    let (admin, token) = prepare(&cloud, &["lamp-1"]);
    let receiver = Receiver::new();
    for (url, code) in [
        ("https://10.0.0.1/hook", "url_forbidden"),
        ("https://169.254.169.254/latest", "url_forbidden"),
        ("http://10.0.0.1/hook", "url_forbidden"),
        ("ftp://example.com/", "url_forbidden"),
        ("nonsense", "url_invalid"),
    ] {
        admin.post("/v1/webhooks", &json!({"url": url})).fails(400, code);
    }
    let hook =
        admin.post("/v1/webhooks", &json!({"url": receiver.url(), "kinds": ["device.online", "alarm.raised"]})).is(201);
    receiver.set_secret(hook["secret"].as_str().unwrap());
    receiver.set_up(false);
    let lamp = lamp(&cloud, "lamp-1", &token, &[]);
    until("the receiver to be asked in vain", SOON, || (receiver.refused() > 0).then_some(()));
    cloud.kill();
    receiver.set_up(true);
    cloud.start_again();
    let heard = until("the receiver to hear of it", SOON, || {
        receiver.received().into_iter().find(|(_, body)| body["type"] == "device.online")
    });
    assert_eq!(heard.1["data"]["device"], "lamp-1");
    let body = json!({"name": "set_temperature", "args": {"value": 80}});
    until("the lamp to be hot", SOON, || {
        (admin.post("/v1/devices/lamp-1/commands?wait_ms=5000", &body).json()["state"] == "applied").then_some(())
    });
    until("the receiver to hear of the alarm", SOON, || {
        receiver.received().into_iter().find(|(_, body)| body["type"] == "alarm.raised")
    });
    let ids: Vec<String> = receiver.received().into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids.iter().filter(|id| **id == heard.0).count(), 1, "{ids:?}");
    drop(lamp);
}
