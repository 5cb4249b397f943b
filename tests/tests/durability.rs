//! What is acknowledged is on disk first: the order of the server's own system calls.
#![allow(clippy::unwrap_used, reason = "a journey ends where something is not as it should be")]

use iot_conn::mqtt::{QoS, ReasonCode, client::Publication};
use iot_tests::{
    cloud::Cloud,
    tools::{mosquitto_pub, mosquitto_session, mosquitto_sub, shown},
    trace::{Call, Fault, acknowledged, calls},
    unit::Unit,
    wait::SOON,
};
use serde_json::json;

const CONTROL: &str = "control.db-wal";
const DATA: &str = "data.db-wal";

/// MQTT 3.1.1 §3.4 and §3.5: for the packet identifier 1.
const PUBACK: [u8; 4] = [0x40, 2, 0, 1];
const PUBREC: [u8; 4] = [0x50, 2, 0, 1];

/// RFC 8446 §5.1: how a client's first record begins.
const CLIENT_HELLO: [u8; 2] = [0x16, 3];

const REPORTS: usize = 20;

/// The same trace of a server that never synced this log.
fn without_syncs(calls: &[Call], log: &str) -> Vec<Call> {
    calls.iter().filter(|call| !(call.name.contains("sync") && call.file.ends_with(log))).cloned().collect()
}

#[test]
fn what_a_session_waits_for_is_on_disk_before_it_is_acknowledged() {
    let mut cloud = Cloud::start_traced(&["--allow-anonymous"]);
    let port = cloud.address("mqtt").port().to_string();
    let publish = |qos: &str, topic: &str, payload: &str, more: &[&str]| {
        mosquitto_pub(&[&["-p", &port, "-q", qos, "-t", topic, "-m", payload], more].concat());
    };
    mosquitto_session("x", &["-p", &port, "-q", "1", "-t", "q/#"]);
    publish("1", "q/a", "once-or-more-for-a-session", &[]);
    publish("2", "q/a", "exactly-once-for-a-session", &[]);
    publish("1", "r/a", "retained-for-whoever-comes", &["-r"]);
    publish("2", "r/b", "retained-and-exactly-once", &["-r"]);
    publish("1", "nobody", "this-is-for-nobody-to-have", &[]);
    let online = mosquitto_sub(&["-p", &port, "-c", "-i", "y", "-q", "1", "-t", "o/#"]);
    publish("1", "o/a", "for-a-session-that-is-here", &[]);
    let _seen = shown(&online, SOON, |topic, _| topic == "o/a");
    assert!(cloud.terminate().success());

    let calls = calls(&cloud.trace());
    let answer = |calls: &[Call], payload: &str| {
        let arrival = calls.iter().find(|call| call.is_arrival() && call.holds(payload.as_bytes())).unwrap();
        acknowledged(calls, arrival, CONTROL, payload.as_bytes()).map(|answer| answer.bytes.clone())
    };
    let unsynced = without_syncs(&calls, CONTROL);
    for (payload, expected) in [
        ("once-or-more-for-a-session", PUBACK),
        ("exactly-once-for-a-session", PUBREC),
        ("retained-for-whoever-comes", PUBACK),
        ("retained-and-exactly-once", PUBREC),
        ("for-a-session-that-is-here", PUBACK),
    ] {
        assert_eq!(answer(&calls, payload), Ok(expected.to_vec()), "{payload}");
        assert!(matches!(answer(&unsynced, payload), Err(Fault::NotSynced { .. })), "{payload}");
        println!("{payload}: written to {CONTROL}, synced, {expected:02x?}");
    }
    // The control: where nothing is kept, nothing is found.
    assert!(matches!(answer(&calls, "this-is-for-nobody-to-have"), Err(Fault::NotWritten { .. })));
}

#[test]
fn what_a_device_reports_is_on_disk_before_it_is_acknowledged() {
    let mut cloud = Cloud::start_traced(&[]);
    let mut device = Unit::several(&cloud, "lamp", &["a"])[0].online(&cloud);
    let text = |n: usize| format!("report-number-{n:03}");
    for n in 0..REPORTS {
        let payload = json!({"values": {"text": text(n)}, "seq": n}).to_string();
        let report = Publication::new("up/telemetry", payload, QoS::AtLeastOnce);
        assert_eq!(device.publish(report), ReasonCode::Success);
    }
    assert!(cloud.terminate().success());
    drop(device);

    let calls = calls(&cloud.trace());
    // One connection has TLS, and nobody speaks on it after the last report.
    let hello = calls.iter().find(|call| call.is_arrival() && call.bytes.starts_with(&CLIENT_HELLO)).unwrap();
    let arrivals: Vec<_> = calls.iter().filter(|call| call.is_arrival() && call.file == hello.file).collect();
    let unsynced = without_syncs(&calls, DATA);
    for (n, arrival) in arrivals[arrivals.len() - REPORTS..].iter().enumerate() {
        let answer = acknowledged(&calls, arrival, DATA, text(n).as_bytes());
        assert!(answer.is_ok(), "report {n}: {answer:?}");
        let answer = acknowledged(&unsynced, arrival, DATA, text(n).as_bytes());
        assert!(matches!(answer, Err(Fault::NotSynced { .. })), "report {n}: {answer:?}");
    }
    println!("{REPORTS} reports: each written to {DATA}, synced, acknowledged");
}
