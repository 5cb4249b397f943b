//! What the people around a device do: bind it, share it, sell it.
#![allow(clippy::unwrap_used, reason = "a journey ends where something is not as it should be")]

use std::time::{Duration, SystemTime};

use iot_conn::mqtt::{QoS, ReasonCode, client::Cause};
use iot_core::time::Timestamp;
use iot_tests::{
    cloud::Cloud,
    mqtt::{Mqtt, Way, with_token},
    person::{Door, Person},
    process::Process,
    receiver::Receiver,
    stream::Stream,
    unit::{claim_token, import, simulate},
    wait::{SOON, until},
};
use serde_json::{Value, json};

const SET: &str = "/v1/devices/lamp-1/commands?wait_ms=5000";

/// A lamp that has connected, with its local door.
fn lamp(cloud: &Cloud) -> (Process, Door) {
    let admin = cloud.admin();
    import(&admin, "lamp", &["lamp-1"]);
    let token = claim_token(&admin, "lamp", 1, true);
    let device = simulate(cloud, "lamp-1", &token, &["--local", "127.0.0.1:0", "--interval-ms", "100"]);
    let door = Door::of(&device);
    (device, door)
}

fn set(on: bool) -> Value {
    json!({"name": "set", "args": {"on": on}})
}

/// Waits until the lamp is connected with its present owner.
fn is_back(api: &iot_tests::http::Api) {
    until("the lamp to obey", SOON, || {
        let receipt = api.post(SET, &set(true));
        (receipt.status == 200 && receipt.json()["state"] == "applied").then_some(())
    });
}

fn in_future(seconds: u64) -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap() + Duration::from_secs(seconds);
    let at = Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap());
    serde_json::to_value(at).unwrap().as_str().unwrap().to_owned()
}

fn phone(cloud: &Cloud, person: &Person) -> Mqtt {
    Mqtt::online(Way::Plain(cloud.address("mqtt")), with_token("phone", &person.token))
}

#[test]
fn bd_1_bd_3_bd_5_bd_6_only_the_code_that_the_unit_shows_now_binds_it() {
    let cloud = Cloud::start(&[]);
    let (_device, door) = lamp(&cloud);
    let (ann, bob) = (Person::register(&cloud, "ann"), Person::register(&cloud, "bob"));
    let (hill, dale) = (ann.home("Hill House"), bob.home("Dale"));
    let bind = |who: &Person, home: &str, more: Value| {
        let mut body = json!({"home": home});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        who.api.post("/v1/bindings", &body)
    };
    for named in [json!({"p_code": "LAMP-1"}), json!({"device": "lamp-1"}), json!({"p_code": "NOBODY"})] {
        bind(&ann, &hill, named).fails(403, "code_required");
    }
    bind(&ann, &hill, json!({})).fails(400, "body_invalid");
    let (_, first) = door.press();
    let (_, second) = until("another code", SOON, || Some(door.press()).filter(|(_, code)| *code != first));
    bind(&ann, &hill, json!({"device": "lamp-1", "code": first})).fails(403, "code_superseded");
    bind(&ann, &hill, json!({"device": "lamp-2", "code": second})).fails(403, "code_mismatch");
    assert_eq!(bind(&ann, &dale, json!({"device": "lamp-1", "code": second})).status, 403, "the home of another");
    let bound = bind(&ann, &hill, json!({"device": "lamp-1", "code": second})).is(201);
    assert_eq!((&bound["home"], &bound["epoch"]), (&json!(hill), &json!(1)));
    for who in [(&ann, &hill), (&bob, &dale)] {
        bind(who.0, who.1, json!({"device": "lamp-1", "code": second})).fails(403, "code_used");
    }
    is_back(&ann.api);
    bob.api.post(SET, &set(true)).fails(403, "forbidden");
    assert_eq!(bob.api.get("/v1/devices").is(200)["items"], json!([]));
}

#[test]
fn a_home_is_shared_used_revoked_and_runs_out() {
    let cloud = Cloud::start(&[]);
    let (_device, door) = lamp(&cloud);
    let ann = Person::register(&cloud, "ann");
    let (bob, eve) = (Person::register(&cloud, "bob"), Person::register(&cloud, "eve"));
    let home = ann.home("Hill House");
    ann.bind(&home, &door);
    ann.share(&home, &bob, &json!({"role": "member"}));
    let end = in_future(6);
    ann.share(&home, &eve, &json!({"role": "guest", "access_expires": end}));

    // Each uses it as far as their part goes.
    is_back(&bob.api);
    is_back(&eve.api);
    bob.api.get("/v1/devices/lamp-1/telemetry").is(200);
    eve.api.get("/v1/devices/lamp-1/telemetry").fails(403, "forbidden");
    let seen = eve.api.get("/v1/devices/lamp-1").is(200);
    assert!(seen.get("p_code").is_none() && seen.get("keys").is_none(), "SH-8: {seen}");
    let escalation = json!({"role": "owner"});
    eve.api.post(&format!("/v1/homes/{home}/invites"), &json!({"role": "guest"})).fails(403, "forbidden");
    eve.api.put(&format!("/v1/homes/{home}/members/{}", eve.account), &escalation).fails(403, "forbidden");
    bob.api.delete("/v1/devices/lamp-1/binding").fails(403, "forbidden");

    // SH-2: what runs out is over with the next request.
    until("eve's access to run out", SOON, || (eve.api.post(SET, &set(true)).status == 403).then_some(()));

    // SH-6: who is removed loses the live session's subscription, the stream, and everything else.
    let mut phone = phone(&cloud, &bob);
    assert!(!phone.subscribe("d/lamp-1/up/telemetry", QoS::AtLeastOnce).is_error());
    phone.message("d/lamp-1/up/telemetry", SOON);
    let stream = Stream::open(cloud.address("http"), "/v1/live?types=telemetry", &bob.token);
    stream.wait("a report", SOON, |event| (event.kind == "telemetry").then_some(()));
    ann.api.delete(&format!("/v1/homes/{home}/members/{}", bob.account)).is(204);
    bob.api.post(SET, &set(true)).fails(403, "forbidden");
    until("the subscription to be refused", SOON, || {
        phone.subscribe("d/lamp-1/up/telemetry", QoS::AtLeastOnce).is_error().then_some(())
    });
    stream.wait("the stream to say that things have changed", SOON, |event| (event.kind == "resync").then_some(()));
    let count = stream.events().len();
    let own = Stream::open(cloud.address("http"), "/v1/live?types=telemetry", &ann.token);
    own.wait("ten reports for ann", SOON, |_| (own.events().len() > 10).then_some(()));
    assert_eq!(stream.events().len(), count, "bob's stream is silent while ann's is not");
    is_back(&ann.api);
}

#[test]
fn bd_17_after_a_resale_the_first_owner_gets_nothing_more_and_the_second_sees_nothing_of_the_first() {
    let cloud = Cloud::start(&["--webhooks-to-loopback"]);
    let (_device, door) = lamp(&cloud);
    let (ann, bob) = (Person::register(&cloud, "ann"), Person::register(&cloud, "bob"));
    let (hill, dale) = (ann.home("Hill House"), bob.home("Dale"));
    ann.bind(&hill, &door);
    is_back(&ann.api);

    // Everything that ann has of the lamp.
    let receiver = Receiver::new();
    let hooks = format!("/v1/homes/{hill}/webhooks");
    let hook =
        ann.api.post(&hooks, &json!({"url": receiver.url(), "kinds": ["device.online", "device.offline"]})).is(201);
    receiver.set_secret(hook["secret"].as_str().unwrap());
    let mut phone = phone(&cloud, &ann);
    assert!(!phone.subscribe("d/lamp-1/#", QoS::AtLeastOnce).is_error());
    phone.message("d/lamp-1/up/telemetry", SOON);
    let stream = Stream::open(cloud.address("http"), "/v1/live", &ann.token);
    let last = stream.wait("a report", SOON, |event| event.id.clone());
    let desire = [("Content-Type", "application/merge-patch+json")];
    let patch = |api: &iot_tests::http::Api, body: &Value| {
        api.send("PATCH", "/v1/devices/lamp-1/twin/desired", &desire, Some(body.to_string()))
    };
    patch(&ann.api, &json!({"secret": "ann's"})).is(200);
    let receipt = ann.api.post(SET, &set(true)).is(200);

    // The sale.
    ann.api.delete("/v1/devices/lamp-1/binding").is(200);
    until("the unit to be without owner", SOON, || (door.look()["bound"] == false).then_some(()));
    door.reset();
    until("the unit to be back", SOON, || (door.look()["connected"] == true).then_some(()));
    let (_, code) = door.press();
    bob.api.post("/v1/bindings", &json!({"home": dale, "device": "lamp-1", "code": code})).is(201);
    is_back(&bob.api);

    // The first owner: token, session, subscription, stream, history, twin, command, webhook, code.
    for path in ["", "/telemetry", "/telemetry/latest", "/twin", "/binding", "/access"] {
        ann.api.get(&format!("/v1/devices/lamp-1{path}")).fails(403, "forbidden");
    }
    ann.api.post(SET, &set(false)).fails(403, "forbidden");
    assert_eq!(patch(&ann.api, &json!({"on": false})).status, 403);
    ann.api.delete("/v1/devices/lamp-1/binding").fails(403, "forbidden");
    assert_eq!(ann.api.get("/v1/devices").is(200)["items"], json!([]));
    assert_eq!(phone.subscribe("d/lamp-1/#", QoS::AtLeastOnce), ReasonCode::NotAuthorized);
    let again = Stream::open(cloud.address("http"), &format!("/v1/live?after={last}"), &ann.token);
    let bobs = Stream::open(cloud.address("http"), "/v1/live?types=telemetry", &bob.token);
    bobs.wait("ten reports for bob", SOON, |_| (bobs.events().len() > 10).then_some(()));
    assert_eq!(again.events(), [], "neither the past nor the present");
    let (calls, seen) = (receiver.received().len(), stream.events().len());

    // The second owner: a new history, twin and command space; a unit in its factory state.
    let history = bob.api.get("/v1/devices/lamp-1/telemetry?limit=1000").is(200);
    let first = history["items"].as_array().unwrap().first().unwrap()["received"].as_str().unwrap().to_owned();
    assert!(first.as_str() > receipt["history"][0]["at"].as_str().unwrap(), "{first}");
    assert!(!bob.api.get("/v1/devices/lamp-1/twin").text.contains("ann's"));
    let id = receipt["id"].as_str().unwrap();
    bob.api.get(&format!("/v1/devices/lamp-1/commands/{id}")).fails(404, "not_found");

    // What happens now is told to nobody of before.
    door.reset();
    is_back(&bob.api);
    assert_eq!(receiver.received().len(), calls, "ann's webhook is not called");
    assert_eq!(stream.events().len(), seen, "ann's stream is silent");
    let audit = cloud.admin().get("/v1/audit?limit=1000").text;
    assert!(!audit.contains(&code) && !audit.contains("ann's"), "BD-18");
}

/// The kinds that a receiver has heard of the lamp, with the homes they name.
fn told(receiver: &Receiver) -> Vec<(String, Value)> {
    let heard = receiver.received().into_iter();
    heard.map(|(_, body)| (body["type"].as_str().unwrap().to_owned(), body["data"]["home"].clone())).collect()
}

/// BD-8: a bound device gives no code, and its owner hears of who pressed.
#[test]
fn bd_8_owners_hear_of_attempts_and_vendors_of_every_change_of_owner() {
    let cloud = Cloud::start(&["--webhooks-to-loopback"]);
    let (_device, door) = lamp(&cloud);
    let ann = Person::register(&cloud, "ann");
    let hill = ann.home("Hill House");
    let kinds = ["device.bound", "device.unbound", "binding.attempted"];
    let hear = |api: &iot_tests::http::Api, path: &str| {
        let receiver = Receiver::new();
        let hook = api.post(path, &json!({"url": receiver.url(), "kinds": kinds})).is(201);
        receiver.set_secret(hook["secret"].as_str().unwrap());
        receiver
    };
    let (vendor, own) = (hear(&cloud.admin(), "/v1/webhooks"), hear(&ann.api, &format!("/v1/homes/{hill}/webhooks")));
    ann.bind(&hill, &door);
    let bound = ("device.bound".to_owned(), json!(hill));
    for receiver in [&vendor, &own] {
        until("the binding to be told", SOON, || (told(receiver) == [bound.clone()]).then_some(()));
    }

    is_back(&ann.api);
    for _more in 0..3 {
        let answer = until("the unit to answer", SOON, || Some(door.try_to_press()).filter(|it| it.status != 503));
        assert_eq!((answer.status, &answer.json()["code"]), (409, &json!("already_bound")));
    }
    let attempted = ("binding.attempted".to_owned(), json!(hill));
    for receiver in [&vendor, &own] {
        until("the attempt to be told", SOON, || told(receiver).contains(&attempted).then_some(()));
    }

    ann.api.delete("/v1/devices/lamp-1/binding").is(200);
    let unbound = ("device.unbound".to_owned(), Value::Null);
    until("the vendor to hear of the release", SOON, || told(&vendor).contains(&unbound).then_some(()));
    assert_eq!(told(&own), [bound, attempted], "once for all presses, and nothing after the release");
    assert_eq!(told(&vendor).len(), 3);
    let ids: Vec<_> = vendor.received().into_iter().map(|(id, _)| id).collect();
    for id in ["bound-lamp-1-1", "unbound-lamp-1-2"] {
        assert!(ids.iter().any(|known| known == id), "{ids:?}");
    }
}

#[test]
fn a_reset_by_hand_takes_a_unit_from_nobody_and_what_its_owner_desires_comes_back() {
    let cloud = Cloud::start(&[]);
    let (_device, door) = lamp(&cloud);
    let ann = Person::register(&cloud, "ann");
    let home = ann.home("Hill House");
    ann.bind(&home, &door);
    is_back(&ann.api);
    let desire = [("Content-Type", "application/merge-patch+json")];
    let desired = json!({"on": true}).to_string();
    ann.api.send("PATCH", "/v1/devices/lamp-1/twin/desired", &desire, Some(desired)).is(200);
    until("the lamp to be on", SOON, || (door.look()["on"] == true).then_some(()));
    door.reset();
    until("the unit to be back and on again", SOON, || {
        let look = door.look();
        (look["connected"] == true && look["bound"] == true && look["on"] == true).then_some(())
    });
    assert_eq!(ann.api.get("/v1/devices/lamp-1/binding").is(200)["epoch"], 1);
    assert_eq!(door.try_to_press().json()["code"], "already_bound");
}

#[test]
fn an_account_that_is_signed_out_everywhere_is_out_on_every_way() {
    let cloud = Cloud::start(&[]);
    let ann = Person::register(&cloud, "ann");
    let mut phone = phone(&cloud, &ann);
    let stream = Stream::open(cloud.address("http"), "/v1/live", &ann.token);
    let tablet = Person::sign_in(&cloud, &ann.email);
    ann.api.delete("/v1/logins").is(204);
    ann.api.get("/v1/account").fails(401, "unauthenticated");
    tablet.api.get("/v1/account").fails(401, "unauthenticated");
    cloud
        .anyone()
        .post("/v1/login/refresh", &json!({"refresh_token": tablet.refresh}))
        .fails(401, "credentials_invalid");
    assert!(matches!(phone.disconnected(SOON), Cause::Server { reason: ReasonCode::NotAuthorized, .. }));
    stream.ends(SOON);
    Person::sign_in(&cloud, &ann.email).api.get("/v1/account").is(200);
}
