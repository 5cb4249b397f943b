//! What a person may take along and have erased: all about themselves, and what their device told.
#![allow(clippy::unwrap_used, reason = "a journey ends where something is not as it should be")]

use iot_conn::mqtt::QoS;
use iot_tests::{
    cloud::Cloud,
    http::Api,
    mqtt::{Mqtt, Way, with_token},
    person::{Door, Person},
    unit::{claim_token, import, is_online, simulate},
    wait::{SOON, until},
};
use serde_json::{Value, json};

const FOR_AN_HOUR: u32 = 3_600;

/// The lines of an export by their kinds, in order.
fn lines(api: &Api, device: &str) -> Vec<(String, Value)> {
    let answer = api.get(&format!("/v1/devices/{device}/export"));
    assert_eq!((answer.status, answer.content_type.as_str()), (200, "application/x-ndjson"), "{}", answer.text);
    let line = |line: &str| {
        let object: serde_json::Map<String, Value> = serde_json::from_str(line).unwrap();
        assert_eq!(object.len(), 1);
        object.into_iter().next().unwrap()
    };
    answer.text.lines().map(line).collect()
}

fn reports(lines: &[(String, Value)]) -> Vec<&Value> {
    lines.iter().filter(|(kind, _)| kind == "report").map(|(_, report)| report).collect()
}

#[test]
fn an_owner_takes_their_devices_data_along_and_erases_it() {
    let cloud = Cloud::start(&[]);
    let admin = cloud.admin();
    import(&admin, "lamp", &["lamp-1"]);
    let token = claim_token(&admin, "lamp", 1, true);
    let device = simulate(&cloud, "lamp-1", &token, &["--local", "127.0.0.1:0", "--interval-ms", "20"]);
    let door = Door::of(&device);
    let reported = |api: &Api| api.get("/v1/devices/lamp-1/telemetry").is(200)["items"].as_array().unwrap().len();
    until("reports before anybody owns it", SOON, || (reported(&admin) > 0).then_some(()));
    let (ann, bob) = (Person::register(&cloud, "ann"), Person::register(&cloud, "bob"));
    let home = ann.home("Hill House");
    ann.bind(&home, &door);
    ann.share(&home, &bob, &json!({"role": "member"}));
    until("her reports", SOON, || (reported(&ann.api) > 5).then_some(()));
    until("the lamp to obey", SOON, || {
        let body = json!({"name": "set", "args": {"on": true}});
        let receipt = ann.api.post("/v1/devices/lamp-1/commands?wait_ms=5000", &body);
        (receipt.json()["state"] == "applied").then_some(())
    });
    drop(device);
    until("its last report to be in", SOON, || (!is_online(&admin, "lamp-1")).then_some(()));

    let whole = lines(&ann.api, "lamp-1");
    assert_eq!((whole[0].0.as_str(), &whole[0].1["id"], &whole[0].1["epoch"]), ("device", &json!("lamp-1"), &json!(1)));
    let (kind, end) = whole.last().unwrap();
    assert_eq!((kind.as_str(), &end["reports"]), ("end", &json!(reports(&whole).len())));
    assert!(reports(&whole).len() > 5 && reports(&whole).iter().all(|report| report["values"].is_object()));
    assert!(whole.iter().any(|(kind, command)| kind == "receipt" && command["state"] == "applied"), "{whole:?}");
    assert_eq!(lines(&bob.api, "lamp-1").len(), whole.len());
    let (_, viewer) = cloud.issue("viewer");
    let viewer = cloud.anyone().with_token(&viewer);
    assert!(lines(&viewer, "lamp-1").iter().all(|(kind, _)| kind != "receipt"), "who may not command sees no receipts");

    let data = "/v1/devices/lamp-1/data";
    for other in [&bob.api, &viewer, &admin] {
        other.delete(data).fails(403, "forbidden");
    }
    for other in [&ann.api, &viewer] {
        other.delete("/v1/devices/lamp-1/history").fails(403, "forbidden");
    }
    assert_eq!(lines(&ann.api, "lamp-1").len(), whole.len(), "nothing was erased");
    assert_eq!(ann.api.delete(data).is(200)["events"], reports(&whole).len());
    let left = lines(&ann.api, "lamp-1");
    assert!(reports(&left).is_empty(), "{left:?}");
    assert_eq!(ann.api.get("/v1/devices/lamp-1/telemetry/latest").is(200)["items"], json!([]));
    // What was before her belongs to the vendor.
    assert!(admin.delete("/v1/devices/lamp-1/history").is(200)["events"].as_u64().unwrap() > 0);
    assert_eq!(admin.delete("/v1/devices/lamp-1/history").is(200)["events"], 0);
    let audit = admin.get("/v1/audit").is(200).to_string();
    assert!(audit.contains("device_data_erase") && audit.contains("device_history_erase"), "{audit}");
}

#[test]
fn a_person_takes_everything_about_themselves_along_and_leaves() {
    let mut cloud = Cloud::start(&[]);
    let (ann, bob) = (Person::register(&cloud, "ann"), Person::register(&cloud, "bob"));
    let home = bob.home("Dale");
    bob.share(&home, &ann, &json!({"role": "member"}));
    let mut options = with_token("phone", &ann.token);
    options.session_expiry_s = FOR_AN_HOUR;
    let mut phone = Mqtt::online(Way::Plain(cloud.address("mqtt")), options);
    phone.subscribe("d/+/up/#", QoS::AtLeastOnce);
    phone.cut();

    let export = ann.api.get("/v1/account/export").is(200);
    assert_eq!(export["account"]["email"], ann.email);
    assert_eq!((&export["homes"][0]["id"], &export["homes"][0]["name"]), (&json!(home), &json!("Dale")));
    assert_eq!(export["sessions"][0]["client"], "phone");
    assert!(export["audit"].to_string().contains("invite_accept"));
    let of = |who: &Person, what: &str| format!("/v1/accounts/{}{what}", who.account);
    let same = cloud.admin().get(&of(&ann, "/export")).is(200);
    assert_eq!(same["account"], export["account"], "on a request by letter");
    for path in [of(&bob, "/export"), of(&ann, "/export")] {
        ann.api.get(&path).fails(403, "forbidden");
    }
    ann.api.delete(&of(&bob, "")).fails(403, "forbidden");
    cloud.anyone().get("/v1/account/export").fails(401, "unauthenticated");

    cloud.admin().delete(&of(&bob, "")).fails(409, "owns_homes");
    let gone = ann.api.delete("/v1/account");
    assert_eq!(gone.status, 204, "{}", gone.text);
    cloud.admin().get(&of(&ann, "/export")).fails(404, "not_found");
    let members = bob.api.get(&format!("/v1/homes/{home}")).is(200).to_string();
    assert!(!members.contains(&ann.account), "{members}");
    // Neither in the file nor in its log.
    cloud.terminate();
    let file = std::fs::read(cloud.folder().join("iot-data/store/control.db")).unwrap();
    let holds = |text: &str| file.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(!holds(&format!("/a/{}/phone", ann.account)), "her session is there still");
    assert!(!holds("ann@example.org"));
}
