//! What devices report: live, stored, once, and refused when it is not what the protocol says.
#![allow(clippy::unwrap_used, reason = "a journey ends where something is not as it should be")]

use std::time::{Duration, Instant};

use iot_conn::mqtt::{
    QoS, ReasonCode,
    client::{Event, Publication},
};
use iot_tests::{
    cloud::Cloud,
    http::Api,
    mqtt::{Mqtt, Way, with_token},
    tools::{mosquitto_sub, shown},
    unit::{Unit, claim_token, import, simulate},
    wait::{SOON, until},
};
use serde_json::{Value, json};

/// From the device to every place where an application may look.
const VISIBLE_WITHIN: Duration = Duration::from_secs(2);

fn report(payload: impl Into<bytes::Bytes>) -> Publication {
    Publication::new("up/telemetry", payload, QoS::AtLeastOnce)
}

#[track_caller]
fn items(api: &Api, path: &str) -> Vec<Value> {
    api.get(path).is(200)["items"].as_array().unwrap().clone()
}

#[track_caller]
fn stored(cloud: &Cloud, device: &str) -> Vec<Value> {
    items(&cloud.admin(), &format!("/v1/devices/{device}/telemetry?limit=1000"))
}

#[test]
fn a_device_claims_and_reports_and_is_seen_live_and_by_query() {
    let cloud = Cloud::start(&[]);
    let admin = cloud.admin();
    import(&admin, "lamp", &["lamp-1", "lamp-2"]);
    let token = claim_token(&admin, "lamp", 2, false);
    let (mqtt, mqtts) = (cloud.address("mqtt").port().to_string(), cloud.address("mqtts").port().to_string());
    let credential = ["-h", "127.0.0.1", "-u", "token", "-P", cloud.token(), "-V", "5", "-t", "d/+/up/telemetry"];
    let ca = cloud.ca();
    let over_tcp = mosquitto_sub(&[&credential[..], &["-p", &mqtt]].concat());
    let over_tls = mosquitto_sub(&[&credential[..], &["-p", &mqtts, "--cafile", ca.to_str().unwrap()]].concat());

    for (device, version) in [("lamp-1", &[][..]), ("lamp-2", &["--v311"])] {
        let args = [&["--device", device, "--interval-ms", "200"], version].concat();
        let _running = simulate(&cloud, device, &token, &args);
        let topic = format!("d/{device}/up/telemetry");
        for sub in [&over_tcp, &over_tls] {
            let (.., payload) = shown(sub, SOON, |of, _| of == topic);
            let payload: Value = serde_json::from_str(&payload).unwrap();
            let values = &payload.as_array().map_or(&payload, |all| &all[0])["values"];
            assert!(values["temperature"].is_number(), "{payload}");
        }
        let path = format!("/v1/devices/{device}");
        assert_eq!(admin.get(&path).is(200)["stage"], "activated");
        let temperature = until("the latest temperature", VISIBLE_WITHIN, || {
            let latest = items(&admin, &format!("{path}/telemetry/latest"));
            latest.iter().find(|item| item["metric"] == "temperature").cloned()
        });
        assert!(temperature["value"].as_f64().is_some_and(|degrees| (15.0..30.0).contains(&degrees)), "{temperature}");
        assert!(!stored(&cloud, device).is_empty());
        let buckets = items(&admin, &format!("{path}/telemetry/aggregate?metric=temperature&bucket_s=3600"));
        assert!(buckets[0]["count"].as_u64().is_some_and(|count| count > 0), "{buckets:?}");
    }
}

#[test]
fn a_sample_is_everywhere_within_two_seconds() {
    let cloud = Cloud::start(&[]);
    let unit = &Unit::several(&cloud, "lamp", &["a"])[0];
    let mut app = application(&cloud);
    app.subscribe("d/a/up/#", QoS::AtLeastOnce);
    let mut device = unit.online(&cloud);
    let admin = cloud.admin();
    for n in 0..10 {
        let begun = Instant::now();
        assert_eq!(device.publish(report(json!({"values": {"n": n}, "seq": n}).to_string())), ReasonCode::Success);
        // It was stored before it was acknowledged.
        assert_eq!(stored(&cloud, "a").len(), n + 1);
        let live = app.message("d/a/up/telemetry", VISIBLE_WITHIN.saturating_sub(begun.elapsed()));
        assert_eq!(serde_json::from_slice::<Value>(&live.payload).unwrap()["values"]["n"], n);
        let latest = items(&admin, "/v1/devices/a/telemetry/latest");
        assert_eq!((&latest[0]["metric"], &latest[0]["value"]), (&json!("n"), &json!(n)));
        assert!(begun.elapsed() < VISIBLE_WITHIN, "{:?}", begun.elapsed());
    }
}

#[test]
fn spans_pages_and_buckets_are_what_was_reported() {
    const HOUR_MS: u64 = 1_763_856_000_000;
    let cloud = Cloud::start(&[]);
    let mut device = Unit::several(&cloud, "lamp", &["a"])[0].online(&cloud);
    let samples: Vec<_> = (0..60)
        .map(|n: u64| json!({"values": {"t": n, "even": n.is_multiple_of(2)}, "ts": HOUR_MS + n * 1_000, "seq": n}))
        .collect();
    assert_eq!(device.publish(report(Value::from(samples).to_string())), ReasonCode::Success);
    let event = Publication::new("up/event", r#"{"name":"button","data":{"times":2},"seq":60}"#, QoS::ExactlyOnce);
    assert_eq!(device.publish(event), ReasonCode::Success);

    let admin = cloud.admin();
    let path = "/v1/devices/a/telemetry?from=2025-11-23T00:00:10Z&until=2025-11-23T00:00:20Z";
    let span = items(&admin, path);
    assert_eq!(
        span.iter().map(|item| item["values"]["t"].as_u64().unwrap()).collect::<Vec<_>>(),
        Vec::from_iter(10..20)
    );
    let newest = items(&admin, &format!("{path}&order=desc&limit=1"));
    assert_eq!(newest[0]["values"]["t"], 19);

    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = admin.get(&format!("{path}&limit=3{cursor}")).is(200);
        seen.extend(page["items"].as_array().unwrap().iter().map(|item| item["seq"].as_u64().unwrap()));
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, Vec::from_iter(10..20));

    let whole = "from=2025-11-23T00:00:00Z&until=2025-11-23T00:01:00Z&bucket_s=30";
    let buckets = items(&admin, &format!("/v1/devices/a/telemetry/aggregate?metric=t&{whole}"));
    let numbers =
        |of: &Value| ["count", "min", "max", "sum", "mean", "first", "last"].map(|name| of[name].as_f64().unwrap());
    assert_eq!(buckets.len(), 2);
    assert_eq!(numbers(&buckets[0]), [30.0, 0.0, 29.0, 435.0, 14.5, 0.0, 29.0]);
    assert_eq!(numbers(&buckets[1]), [30.0, 30.0, 59.0, 1_335.0, 44.5, 30.0, 59.0]);

    let events = stored(&cloud, "a");
    assert_eq!((&events[0]["event"]["name"], &events[0]["event"]["data"]["times"]), (&json!("button"), &json!(2)));
    for (query, code) in [
        ("?cursor=nonsense", "cursor_invalid"),
        ("?limit=0", "query_invalid"),
        ("?from=yesterday", "query_invalid"),
        ("?from=2025-11-24T00:00:00Z&until=2025-11-23T00:00:00Z", "query_invalid"),
        ("/aggregate?metric=t&bucket_s=0", "query_invalid"),
    ] {
        admin.get(&format!("/v1/devices/a/telemetry{query}")).fails(400, code);
    }
}

#[test]
fn a_repeat_by_its_count_is_acknowledged_and_stored_once() {
    let cloud = Cloud::start(&[]);
    let mut device = Unit::several(&cloud, "lamp", &["a"])[0].online(&cloud);
    for seq in [1, 2, 2, 1, 3, 3] {
        let body = json!({"values": {"t": seq * 10}, "seq": seq}).to_string();
        assert_eq!(device.publish(report(body)), ReasonCode::Success);
    }
    let counts: Vec<_> = stored(&cloud, "a").iter().map(|item| item["seq"].as_u64().unwrap()).collect();
    assert_eq!(counts, [1, 2, 3]);
    // Without a count nothing is known to be a repeat.
    for _ in 0..2 {
        assert_eq!(device.publish(report(r#"{"values":{"t":0}}"#)), ReasonCode::Success);
    }
    assert_eq!(stored(&cloud, "a").len(), 5);
}

#[test]
fn what_is_not_telemetry_is_refused_told_and_not_stored() {
    let cloud = Cloud::start(&[]);
    let mut device = Unit::several(&cloud, "lamp", &["a"])[0].online(&cloud);
    let too_many: Value = (0..65).map(|n| (format!("m{n}"), json!(n))).collect::<serde_json::Map<_, _>>().into();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let a_day_and_more_ahead = now.as_secs() * 1_000 + 25 * 3_600_000;
    for payload in [
        Vec::new(),
        b"hello".to_vec(),
        b"{\"values\": {\"t\": ".to_vec(),
        b"[]".to_vec(),
        b"{}".to_vec(),
        br#"{"values": {}}"#.to_vec(),
        br#"{"values": {"t": 1}, "more": 1}"#.to_vec(),
        br#"{"values": {"a/b": 1}}"#.to_vec(),
        br#"{"values": {"t": null}}"#.to_vec(),
        br#"{"values": {"t": 1}, "ts": -1}"#.to_vec(),
        json!({"values": {"t": 1}, "ts": a_day_and_more_ahead}).to_string().into_bytes(),
        json!({"values": too_many}).to_string().into_bytes(),
        json!({"values": {"t": "x".repeat(4_097)}}).to_string().into_bytes(),
        Value::from(vec![json!({"values": {"t": 1}}); 101]).to_string().into_bytes(),
        vec![0xa1, 0xff],
    ] {
        let shown = String::from_utf8_lossy(&payload[..payload.len().min(60)]).into_owned();
        assert_eq!(device.publish(report(payload)), ReasonCode::PayloadFormatInvalid, "{shown}");
        let told = device.message("down/error", SOON);
        let told: Value = serde_json::from_slice(&told.payload).unwrap();
        assert_eq!((&told["topic"], &told["code"]), (&json!("up/telemetry"), &json!("payload_invalid")), "{shown}");
        assert!(told["detail"].is_string());
    }
    assert_eq!(stored(&cloud, "a"), Vec::<Value>::new());
    assert_eq!(device.publish(report(r#"{"values":{"t":1}}"#)), ReasonCode::Success);
    assert_eq!(stored(&cloud, "a").len(), 1);
}

#[test]
fn a_device_publishes_and_receives_inside_its_tree_and_nowhere_else() {
    let cloud = Cloud::start(&[]);
    let units = Unit::several(&cloud, "lamp", &["a", "b"]);
    let mut device = units[0].online(&cloud);
    let to = |topic: &str| Publication::new(topic, "{}", QoS::AtLeastOnce);
    for topic in
        ["d/b/up/telemetry", "d/a/up/telemetry", "elsewhere", "up/nonsense", "down/command", "status", "alarm/a"]
    {
        assert_eq!(device.publish(to(topic)), ReasonCode::NotAuthorized, "{topic}");
    }
    // Filters count from the device's place, so none of them names anything outside.
    for filter in ["#", "+/#", "d/#", "d/b/#", "../b/#", "alarm/#", "$share/g/#"] {
        let _either = device.subscribe(filter, QoS::AtLeastOnce);
    }
    let mut app = application(&cloud);
    let mut other = units[1].online(&cloud);
    assert_eq!(other.publish(to("up/custom/x")), ReasonCode::Success);
    for topic in ["news", "d/b/down/custom/x", "alarm/b", "d/a/down/custom/x"] {
        let _either = app.publish(to(topic));
    }
    let first = device.wait("a message", SOON, |event| match event {
        Event::Message(received) => Some(received.topic.to_string()),
        _ => None,
    });
    assert_eq!(first, "down/custom/x");
}

fn application(cloud: &Cloud) -> Mqtt {
    Mqtt::online(Way::Plain(cloud.address("mqtt")), with_token("app", cloud.token()))
}

#[test]
fn cbor_is_stored_as_json_is() {
    let cloud = Cloud::start(&[]);
    let units = Unit::several(&cloud, "lamp", &["a", "b"]);
    let sample = json!({
        "values": {"t": 21.5, "whole": -7, "on": true, "text": "ü", "list": [1, 2], "map": {"x": 1}},
        "ts": 1_763_856_000_000_u64,
        "seq": 9,
    });
    units[0].online(&cloud).publish(report(sample.to_string()));
    let answered = units[1].online(&cloud).publish(report(minicbor_serde::to_vec(&sample).unwrap()));
    assert_eq!(answered, ReasonCode::Success);
    let query = "from=2025-11-23T00:00:00Z&until=2025-11-23T00:01:00Z";
    let [a, b] = ["a", "b"].map(|device| {
        let mut items = items(&cloud.admin(), &format!("/v1/devices/{device}/telemetry?{query}"));
        assert_eq!(items.len(), 1);
        items[0].as_object_mut().unwrap().remove("received");
        items
    });
    assert_eq!((&a, &a[0]["values"]), (&b, &sample["values"]));
}

#[test]
fn numbers_come_back_to_the_last_bit() {
    let cloud = Cloud::start(&[]);
    let mut device = Unit::several(&cloud, "lamp", &["a"])[0].online(&cloud);
    let numbers =
        ["0.1", "15.469999999999999", "1.7976931348623157e308", "5e-324", "-0.30000000000000004", "9007199254740993"];
    for (seq, number) in numbers.iter().enumerate() {
        let body = format!(r#"{{"values":{{"x":{number}}},"seq":{seq}}}"#);
        assert_eq!(device.publish(report(body)), ReasonCode::Success);
    }
    let text = cloud.admin().get("/v1/devices/a/telemetry").text;
    for number in numbers {
        // The text is looked at: a parser here could round as well.
        let shown = number.replace("e308", "e+308");
        let is_there = [number, &shown].iter().any(|number| text.contains(&format!(r#"{{"x":{number}}}"#)));
        assert!(is_there, "{number} is not in {text}");
    }
}
