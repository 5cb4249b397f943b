//! Webhooks, releases and live states in the console, and what is refused.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{BufRead, BufReader};

use iot_core::time::Timestamp;
use iot_ota::release::{FORMAT, Hardware, Image, Manifest, SignedRelease, SigningKey, Version};
use support::{Server, agent, browser::Browser};

/// A server that lets webhooks reach this machine.
fn start(folder: &std::path::Path) -> Server {
    let mut command = support::command(folder);
    for listener in ["--mqtt", "--mqtts", "--http"] {
        command.args([listener, "127.0.0.1:0"]);
    }
    command.args(["--ws", "off", "--wss", "off", "--webhooks-to-loopback"]);
    Server::of(command)
}

#[test]
fn a_webhook_is_registered_tested_rotated_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    let admin = Browser::of(&server);
    admin.set_up();
    assert!(admin.page("/webhooks").contains("No webhooks yet"));
    for (url, why) in [
        ("", "such as https"),
        ("http://10.0.0.1/hook", "not on the public internet"),
        ("https://user:secret@127.0.0.1/", "leave credentials out"),
        ("https://127.0.0.1:22/", "another service"),
    ] {
        let (status, page) = admin.post("/webhooks", &[("url", url), ("kind", "alarm.raised")]);
        assert!(status == 422 && page.contains("id=\"url-wrong\""), "{url}: {page}");
        assert!(page.to_lowercase().contains(why), "{url}: {page}");
        assert!(page.contains("value=\"alarm.raised\" checked"), "what was ticked is kept");
    }
    let (status, page) = admin.post("/webhooks", &[("url", "http://127.0.0.1:9999/"), ("device", "none")]);
    assert!(status == 422 && page.contains("id=\"device-wrong\""), "{page}");

    // A port that nobody listens on, so that a test waits for its second try.
    let (status, page) = admin.post("/webhooks", &[("url", "http://127.0.0.1:1025/hook"), ("kind", "alarm.raised")]);
    assert_eq!(status, 200, "{page}");
    let secret = |page: &str| page.split("whsec_").nth(1).map(|rest| rest.split('<').next().unwrap().to_owned());
    let first = secret(&page).unwrap();
    let list = admin.page("/webhooks");
    assert!(secret(&list).is_none() && list.contains("alarm.raised"), "a secret is shown once");
    let hook = list.split("href=\"/webhooks/").nth(1).unwrap().split('"').next().unwrap();
    let hook = format!("/webhooks/{hook}");
    let (status, page) = admin.post(&format!("{hook}/rotate"), &[]);
    assert!(status == 200 && secret(&page).is_some_and(|second| second != first), "{page}");
    assert!(admin.page(&hook).contains("signs too"));
    assert_eq!(admin.post(&format!("{hook}/test"), &[]), (303, format!("{hook}?done=tested")));
    assert!(admin.page(&hook).contains(">test</th>"));
    assert_eq!(admin.post(&format!("{hook}/replay"), &[]), (303, format!("{hook}?done=replayed")));
    assert_eq!(admin.post(&format!("{hook}/deliveries/none/replay"), &[]).0, 404);

    // Neither a customer nor another site.
    let bob = Browser::register(&server, folder.path(), "bob");
    assert_eq!(bob.get("/webhooks").status(), 403);
    assert_eq!(bob.post(&format!("{hook}/remove"), &[]).0, 403);
    let foreign = Browser { server: &server, cookies: admin.cookies.clone(), site: "cross-site" };
    assert_eq!(foreign.post(&format!("{hook}/remove"), &[]).0, 403);
    let (_, made) = bob.post("/homes", &[("name", "Hill House")]);
    let home = made.split('?').next().unwrap();
    assert_eq!(bob.get(&format!("{home}{hook}")).status(), 404, "the tenant's is none of a home");
    assert!(bob.page(&format!("{home}/webhooks")).contains("No webhooks yet"));
    assert_eq!(bob.post(&format!("{home}/webhooks"), &[("url", "http://127.0.0.1:1025/hook")]).0, 200);

    assert!(admin.page(&format!("{hook}/remove")).contains("Remove this webhook?"));
    assert_eq!(admin.post(&format!("{hook}/remove"), &[]), (303, "/webhooks?done=webhook-removed".to_owned()));
    assert_eq!(admin.get(&hook).status(), 404);
}

fn signed(sequence: u64, image: &[u8], key: &SigningKey) -> Vec<u8> {
    let manifest = Manifest {
        format: FORMAT,
        tenant: "default".parse().unwrap(),
        product: "lamp".parse().unwrap(),
        version: Version::parse("2.0.0").unwrap(),
        sequence,
        security_version: 1,
        hardware: vec![Hardware::parse("r1").unwrap()],
        image: Image::of(image, 1_024).unwrap(),
        notes: "<b>Brighter</b>".into(),
        created: Timestamp::from_millis(1_790_000_000_000),
        expires: Timestamp::from_millis(4_000_000_000_000),
    };
    serde_json::to_vec(&SignedRelease::sign(&manifest, &[key]).unwrap()).unwrap()
}

#[test]
fn a_release_comes_in_by_forms_if_it_is_what_was_signed() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    let admin = Browser::of(&server);
    admin.set_up();
    admin.post("/products", &[("id", "lamp"), ("name", "Lamp")]);
    assert!(admin.page("/releases").contains("No releases yet"));
    let (key, image) = (SigningKey::from_seed(&[7; 32]).unwrap(), vec![5; 5_000]);
    let release = signed(2, &image, &key);
    let take = |file: &[u8]| admin.post_file("/releases", "manifest", file);
    let (status, page) = take(b"{}");
    assert!(status == 422 && page.contains("This is no signed release"), "{page}");
    let (status, page) = admin.post_file("/releases", "other", b"{}");
    assert!(status == 422 && page.contains("Choose the file"), "{page}");
    let (status, page) = take(&release);
    assert!(status == 422 && page.contains("href=\"/products/lamp/trust\""), "{page}");

    let trust = |keys: &str, threshold| admin.post("/products/lamp/trust", &[("keys", keys), ("threshold", threshold)]);
    let public = serde_json::to_value(key.public()).unwrap().as_str().unwrap().to_owned();
    let (status, page) = trust("abc", "x");
    assert!(status == 422 && page.contains("id=\"keys-wrong\"") && page.contains("id=\"threshold-wrong\""), "{page}");
    let (status, page) = trust(&public, "2");
    assert!(status == 422 && page.contains("id=\"keys-wrong\"") && page.contains(&public), "{page}");
    assert_eq!(trust(&public, "1"), (303, "/products/lamp/trust?done=trust".to_owned()));
    let (status, page) = take(&signed(2, &image, &SigningKey::from_seed(&[8; 32]).unwrap()));
    assert!(status == 422 && page.contains("keys that the product trusts"), "{page}");

    let (status, to) = take(&release);
    assert!(status == 303 && to.ends_with("?done=release"), "{to}");
    let path = to.split('?').next().unwrap();
    assert!(take(&release).1.ends_with("?done=known"));
    let page = admin.page(path);
    assert!(page.contains(">trusted<") && page.contains("no image yet") && !page.contains("<b>Brighter"), "{page}");
    let upload = format!("{path}/image");
    let (status, page) = admin.post_file(&upload, "image", &vec![6; 5_000]);
    assert!(status == 422 && page.contains("id=\"image-wrong\"") && page.contains("Nothing was kept"), "{page}");
    let (status, page) = admin.post_file(&upload, "image", &vec![5; 4_000]);
    assert!(status == 422 && page.contains("4000 bytes"), "{page}");
    let foreign = Browser { server: &server, cookies: admin.cookies.clone(), site: "cross-site" };
    assert_eq!(foreign.post_file(&upload, "image", &image).0, 403);
    assert_eq!(admin.post_file(&upload, "image", &image), (303, format!("{path}?done=image")));
    assert!(admin.page(path).contains("Plan a rollout"));

    let id = path.rsplit('/').next().unwrap();
    let plan = [("release", id), ("first", "10"), ("min", "1"), ("failures", "5"), ("soak", "0")];
    let (status, rollout) = admin.post("/rollouts", &plan);
    assert_eq!(status, 303, "{rollout}");
    let cancel = format!("{}/cancel", rollout.split('?').next().unwrap());
    assert!(admin.page(&cancel).contains("Cancel the rollout of lamp 2.0.0?"));
    assert!(admin.post(&cancel, &[]).1.ends_with("?done=cancel"));
    let (status, page) = admin.post(cancel.strip_suffix("/cancel").unwrap(), &[("order", "resume")]);
    assert!(status == 422 && page.contains("That cannot be done"), "{page}");

    // Who may not, by role: an operator brings releases, and does not say whom to believe.
    let bob = Browser::register(&server, folder.path(), "bob");
    assert_eq!(bob.get("/releases").status(), 403);
    admin.post("/staff", &[("email", "bob@example.org"), ("role", "operator")]);
    assert_eq!(bob.post("/products/lamp/trust", &[("keys", &public), ("threshold", "1")]).0, 403);
    admin.post("/staff", &[("email", "bob@example.org"), ("role", "viewer")]);
    assert!(!bob.page(path).contains("Withdraw"), "what is refused is not offered");
    assert_eq!(bob.post(&format!("{path}/withdraw"), &[]).0, 403);
    assert_eq!(bob.post_file("/releases", "manifest", &release).0, 403);
    assert!(admin.post(&format!("{path}/withdraw"), &[]).1.ends_with("?done=withdrawn-release"));
    assert!(admin.page(path).contains(">withdrawn<"));
}

/// The first event of a browser's live stream.
fn beat(browser: &Browser<'_>, devices: &str) -> serde_json::Value {
    let request = agent().get(browser.server.url(&format!("/console/live?devices={devices}")));
    let answer = request.header("Cookie", browser.header()).header("Sec-Fetch-Site", "same-origin").call().unwrap();
    assert_eq!(answer.status(), 200);
    let lines = BufReader::new(answer.into_body().into_reader()).lines().map_while(Result::ok);
    let data = lines.filter_map(|line| line.strip_prefix("data:").map(str::to_owned)).next().unwrap();
    serde_json::from_str(&data).unwrap()
}

#[test]
fn live_states_are_of_what_the_reader_may_see() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    let admin = Browser::of(&server);
    admin.set_up();
    admin.post("/products", &[("id", "lamp"), ("name", "Lamp")]);
    admin.post("/products/lamp/units", &[("csv", "device_id,p_code\nlamp-1,AB1\n")]);
    let seen = beat(&admin, "lamp-1");
    assert!(seen["online"]["lamp-1"] == false && seen["text"]["devices"] == "1", "{seen}");
    let bob = Browser::register(&server, folder.path(), "bob");
    assert_eq!(beat(&bob, "lamp-1,none"), serde_json::json!({"online": {}}));
    assert_eq!(bob.post("/devices/lamp-1/release", &[("seen", "0")]).0, 403);
    assert_eq!(admin.post("/devices/lamp-1/release", &[("seen", "0")]).0, 403, "not even the vendor");
    assert_eq!(admin.post("/devices/lamp-1/home", &[("home", "h1")]).0, 403);
}
