//! Clients that we did not write, unmodified: mosquitto and paho, MQTT 3.1.1 and 5, over every transport.
#![allow(clippy::unwrap_used, reason = "a journey ends where something is not as it should be")]

use iot_tests::{
    cloud::Cloud,
    tools::{Paho, mosquitto_pub, mosquitto_sub, shown},
    wait::SOON,
};
use serde_json::{Value, json};

const V311: u8 = 4;
const V5: u8 = 5;

fn anonymous() -> Cloud {
    Cloud::start(&["--allow-anonymous"])
}

/// The members of a paho connection to one listener.
fn to(cloud: &Cloud, listener: &str, id: &str, version: u8) -> Value {
    let address = cloud.address(listener);
    let mut options = json!({"id": id, "version": version, "host": address.ip().to_string(), "port": address.port()});
    if listener.starts_with("ws") {
        options["transport"] = "websockets".into();
    }
    if ["mqtts", "wss"].contains(&listener) {
        options["ca"] = cloud.ca().to_str().unwrap().into();
    }
    options
}

/// The options with some members more.
fn with(mut options: Value, more: &Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        options[name] = value.clone();
    }
    options
}

fn mosquitto_to<'a>(port: &'a str, version: &'a str) -> Vec<&'a str> {
    vec!["-h", "127.0.0.1", "-p", port, "-V", version]
}

#[test]
fn mosquitto_and_paho_exchange_every_quality_of_service() {
    let cloud = anonymous();
    let port = cloud.address("mqtt").port().to_string();
    for (name, version) in [("311", V311), ("5", V5)] {
        let mosquitto = mosquitto_to(&port, if version == V5 { "mqttv5" } else { "mqttv311" });
        let topic = format!("free/{name}/#");
        let sub = mosquitto_sub(&[&mosquitto[..], &["-q", "2", "-t", &topic]].concat());
        let mut paho = Paho::online(&to(&cloud, "mqtt", &format!("paho-{name}"), version));
        assert_eq!(paho.subscribe(&topic, 2), 2);
        for qos in 0..=2_u8 {
            for from_paho in [true, false] {
                let topic = format!("free/{name}/{qos}/{from_paho}");
                let text = format!("text {qos} | ü");
                if from_paho {
                    assert_eq!(paho.publish(&json!({"topic": topic, "payload": text, "qos": qos})), 0);
                } else {
                    let qos = qos.to_string();
                    mosquitto_pub(&[&mosquitto[..], &["-q", &qos, "-t", &topic, "-m", &text]].concat());
                }
                assert_eq!(shown(&sub, SOON, |of, _| of == topic), (topic.clone(), qos, false, text.clone()));
                let came = paho.message(&topic);
                assert_eq!(
                    (&came["payload"], &came["qos"], &came["retain"]),
                    (&json!(text), &json!(qos), &json!(false))
                );
            }
        }
    }
}

#[test]
fn the_lower_quality_of_both_ends_is_used() {
    let cloud = anonymous();
    let mut paho = Paho::online(&to(&cloud, "mqtt", "p", V5));
    assert_eq!(paho.subscribe("free/low", 0), 0);
    assert_eq!(paho.publish(&json!({"topic": "free/low", "payload": "x", "qos": 2})), 0);
    assert_eq!(paho.message("free/low")["qos"], 0);
    assert_eq!(paho.subscribe("free/high", 2), 2);
    assert_eq!(paho.publish(&json!({"topic": "free/high", "payload": "x", "qos": 1})), 0);
    assert_eq!(paho.message("free/high")["qos"], 1);
}

#[test]
fn retained_messages_come_to_who_subscribes_later_until_they_are_removed() {
    let mut cloud = anonymous();
    let port = cloud.address("mqtt").port().to_string();
    let mosquitto = mosquitto_to(&port, "mqttv5");
    mosquitto_pub(&[&mosquitto[..], &["-q", "1", "-r", "-t", "kept/one", "-m", "1"]].concat());
    mosquitto_pub(&[&mosquitto[..], &["-q", "1", "-r", "-t", "kept/two", "-m", "2"]].concat());
    mosquitto_pub(&[&mosquitto[..], &["-q", "1", "-r", "-t", "kept/one", "-m", "new"]].concat());
    cloud.kill();
    cloud.start_again();
    for version in [V311, V5] {
        let mut paho = Paho::online(&to(&cloud, "mqtt", "late", version));
        paho.subscribe("kept/#", 1);
        let [one, two] = [1, 2].map(|_| paho.event("message", |_| true));
        let mut came = [&one, &two].map(|message| (message["topic"].clone(), message["payload"].clone()));
        came.sort_by_key(|(topic, _)| topic.to_string());
        assert_eq!(came, [(json!("kept/one"), json!("new")), (json!("kept/two"), json!("2"))]);
        assert!(one["retain"] == true && two["retain"] == true);
    }
    mosquitto_pub(&[&mosquitto[..], &["-q", "1", "-r", "-t", "kept/one", "-n"]].concat());
    let mut paho = Paho::online(&to(&cloud, "mqtt", "later", V5));
    paho.subscribe("kept/#", 1);
    assert_eq!(paho.event("message", |_| true)["topic"], "kept/two", "the removed one is not sent");
    // And over MQTT 3.1.1 with QoS 0, seen live: not retained.
    mosquitto_pub(&[&mosquitto_to(&port, "mqttv311")[..], &["-r", "-t", "kept/three", "-m", "3"]].concat());
    assert_eq!(paho.message("kept/three")["retain"], false);
}

#[test]
fn a_will_speaks_for_who_is_lost_and_not_for_who_leaves() {
    let cloud = anonymous();
    let mut watcher = Paho::online(&to(&cloud, "mqtt", "watcher", V5));
    watcher.subscribe("wills/#", 1);
    for version in [V311, V5] {
        let will = |name: &str| {
            let topic = format!("wills/{version}/{name}");
            with(
                to(&cloud, "mqtt", &format!("{name}-{version}"), version),
                &json!({"will": {"topic": topic, "payload": "gone", "qos": 1, "retain": true}}),
            )
        };
        let mut leaver = Paho::online(&will("leaver"));
        leaver.disconnect();
        let lost = Paho::online(&will("lost"));
        lost.kill();
        let first = watcher.event("message", |_| true);
        assert_eq!((&first["topic"], &first["payload"]), (&json!(format!("wills/{version}/lost")), &json!("gone")));
    }
    let mut late = Paho::online(&to(&cloud, "mqtt", "late", V5));
    late.subscribe("wills/#", 1);
    let mut topics = [1, 2].map(|_| late.event("message", |_| true)["topic"].as_str().unwrap().to_owned());
    topics.sort();
    assert_eq!(topics, ["wills/4/lost", "wills/5/lost"], "a will may be retained");
}

#[test]
fn silence_beyond_the_keep_alive_is_the_end() {
    let cloud = anonymous();
    let mut watcher = Paho::online(&to(&cloud, "mqtt", "watcher", V5));
    watcher.subscribe("wills/#", 1);
    let options = to(&cloud, "mqtt", "silent", V5);
    let more = json!({"keep_alive_s": 1, "will": {"topic": "wills/silent", "payload": "gone", "qos": 1}});
    let silent = Paho::online(&with(options, &more));
    // Stopped, it has its socket and says nothing.
    silent.stop();
    watcher.message("wills/silent");
}

#[test]
fn a_persistent_session_keeps_what_comes_while_its_client_is_away() {
    let mut cloud = anonymous();
    let port = cloud.address("mqtt").port().to_string();
    for version in [V311, V5] {
        let id = format!("keeper-{version}");
        let topic = format!("mail/{version}");
        let lasting = with(to(&cloud, "mqtt", &id, version), &json!({"clean": false, "expiry_s": 3_600}));
        let mut first = Paho::start();
        assert_eq!(first.connect(&lasting)["session_present"], false);
        first.subscribe(&topic, 1);
        first.disconnect();
        for text in ["1", "2"] {
            mosquitto_pub(&[&mosquitto_to(&port, "mqttv5")[..], &["-q", "1", "-t", &topic, "-m", text]].concat());
        }
        cloud.kill();
        cloud.start_again();
        mosquitto_pub(&[&mosquitto_to(&port, "mqttv311")[..], &["-q", "2", "-t", &topic, "-m", "3"]].concat());

        let mut second = Paho::start();
        assert_eq!(second.connect(&lasting)["session_present"], true);
        let came = [1, 2, 3].map(|_| second.message(&topic)["payload"].as_str().unwrap().to_owned());
        assert_eq!(came, ["1", "2", "3"]);
        second.disconnect();
        let mut clean = Paho::start();
        let fresh = with(to(&cloud, "mqtt", &id, version), &json!({"clean": true}));
        assert_eq!(clean.connect(&fresh)["session_present"], false);
        clean.disconnect();
        let mut third = Paho::start();
        assert_eq!(third.connect(&lasting)["session_present"], false, "a clean start ends the session");
    }
}

#[test]
fn a_shared_subscription_gives_each_message_to_one_member() {
    let cloud = anonymous();
    let mut members = ["m1", "m2"].map(|id| Paho::online(&to(&cloud, "mqtt", id, V5)));
    for member in &mut members {
        assert_eq!(member.subscribe("$share/group/jobs/#", 1), 1);
        member.subscribe("end", 1);
    }
    let mut boss = Paho::online(&to(&cloud, "mqtt", "boss", V311));
    for n in 0..20 {
        boss.publish(&json!({"topic": format!("jobs/{n}"), "payload": n.to_string(), "qos": 1}));
    }
    boss.publish(&json!({"topic": "end", "qos": 1}));
    let mut came = Vec::new();
    for member in &mut members {
        let before = came.len();
        loop {
            let message = member.event("message", |_| true);
            if message["topic"] == "end" {
                break;
            }
            came.push(message["payload"].as_str().unwrap().parse::<u64>().unwrap());
        }
        assert!(came.len() > before, "a member got nothing");
    }
    came.sort_unstable();
    assert_eq!(came, Vec::from_iter(0..20));
}

#[test]
fn properties_go_through_and_identifiers_come_along() {
    let cloud = anonymous();
    let mut paho = Paho::online(&to(&cloud, "mqtt", "p", V5));
    paho.subscribe_as("free/#", 1, 7);
    paho.subscribe_as("free/props", 1, 9);
    let user = json!([["a", "1"], ["a", "2"], ["ü", ""]]);
    let message = json!({"topic": "free/props", "payload": "x", "qos": 1, "user": user, "content_type": "text/x"});
    assert_eq!(paho.publish(&message), 0);
    let (mut identifiers, mut copies) = (Vec::new(), 0);
    while identifiers.len() < 2 {
        let came = paho.message("free/props");
        assert_eq!((&came["user"], &came["content_type"]), (&user, &json!("text/x")));
        identifiers.extend(came["identifiers"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()));
        copies += 1;
    }
    identifiers.sort_unstable();
    assert_eq!((identifiers, copies <= 2), (vec![7, 9], true));
    // Nobody listens: MQTT 5 says so.
    assert_eq!(paho.publish(&json!({"topic": "nobody", "qos": 1})), 0x10);
}

#[test]
fn every_transport_carries_the_same() {
    let cloud = anonymous();
    let mut watcher = Paho::online(&to(&cloud, "mqtt", "watcher", V5));
    watcher.subscribe("ways/#", 2);
    for listener in ["mqtt", "mqtts", "ws", "wss"] {
        for version in [V311, V5] {
            let topic = format!("ways/{listener}/{version}");
            let mut paho = Paho::online(&to(&cloud, listener, &format!("{listener}-{version}"), version));
            assert_eq!(paho.subscribe(&topic, 2), 2);
            let text = "x".repeat(100_000);
            assert_eq!(paho.publish(&json!({"topic": topic, "payload": text, "qos": 2})), 0);
            assert_eq!(paho.message(&topic)["payload"], text);
            assert_eq!(watcher.message(&topic)["payload"], text);
            paho.disconnect();
        }
    }
}

#[test]
fn a_wrong_authority_is_noticed_by_strangers_too() {
    let (cloud, other) = (anonymous(), anonymous());
    for listener in ["mqtts", "wss"] {
        let mut paho = Paho::start();
        let wrong = with(to(&cloud, listener, "p", V5), &json!({"ca": other.ca().to_str().unwrap()}));
        let told = paho.fail_to_connect(&wrong);
        assert!(told.contains("CERTIFICATE_VERIFY_FAILED"), "{told}");
    }
}

#[test]
fn tokens_work_for_strangers_and_nothing_else_does() {
    let cloud = Cloud::start(&[]);
    for version in [V311, V5] {
        let mut paho = Paho::start();
        let told = paho.connect(&to(&cloud, "mqtt", "p", version));
        assert_ne!(told["reason"], 0);
        for listener in ["mqtt", "wss"] {
            let credential = json!({"password": cloud.token()});
            Paho::online(&with(to(&cloud, listener, "p", version), &credential)).disconnect();
            let wrong = json!({"password": "at_mfrggzdfmztwq2lk_gezdgnbvgy3tqojqgezdgnbvgy3tqojq"});
            assert_ne!(Paho::start().connect(&with(to(&cloud, listener, "p", version), &wrong))["reason"], 0);
        }
    }
}

#[test]
fn the_anonymous_use_free_topics_and_no_device_tree() {
    let cloud = anonymous();
    let mut paho = Paho::online(&to(&cloud, "mqtt", "p", V5));
    for topic in ["d/a/down/command", "d/a/down/custom/x", "d/a/up/telemetry", "d/a/status"] {
        assert_eq!(paho.publish(&json!({"topic": topic, "payload": "{}", "qos": 1})), 0x87, "{topic}");
    }
    let reason = paho.subscribe("d/+/up/#", 1);
    assert_eq!(reason, 0x87);
}
