//! A server on PostgreSQL: what it refuses to start with, and how it lives through the end of its database.
#![allow(clippy::unwrap_used, reason = "a journey ends where something is not as it should be")]

#[path = "../../iot-store/tests/cluster/server.rs"]
mod server;

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use iot_conn::mqtt::{
    QoS,
    client::{Event, Publication},
};
use iot_tests::{
    cloud::{Cloud, command, refused},
    http::Api,
    mqtt::Mqtt,
    unit::{Unit, is_online},
    wait::{SOON, until},
};
use serde_json::json;

use self::server::Cluster;

const WITHIN: Duration = Duration::from_secs(60);
/// How many reports are acknowledged before and after each crash, at least.
const REPORTS: u64 = 300;
const CRASHES: u64 = 3;

const NO_LISTENERS: [&str; 10] = ["--mqtt", "off", "--mqtts", "off", "--ws", "off", "--wss", "off", "--http", "off"];

fn start(folder: &Path, args: &[&str]) -> Output {
    command(folder, &[&NO_LISTENERS, args].concat()).output().unwrap()
}

#[test]
fn a_database_is_one_server_s_and_one_data_folder_s() {
    let cluster = Cluster::start(&[]);
    let url = cluster.url();
    let mut cloud = Cloud::start(&["--postgres", &url]);
    let folder = cloud.folder().to_owned();
    refused(&start(&folder, &["--data", "other", "--postgres", &url]), 2, "another server uses this database");
    refused(&command(&folder, &["reset-admin", "--postgres", &url]).output().unwrap(), 2, "another server uses");
    cloud.terminate();
    refused(&start(&folder, &["--data", "other", "--postgres", &url]), 2, "belongs to another data folder");
    refused(&start(&folder, &["--data", "iot-data"]), 2, "belongs to a PostgreSQL database");
    let backup = ["backup", "--data", "iot-data", "--to", "copy"];
    refused(&command(&folder, &backup).output().unwrap(), 2, "belongs to a PostgreSQL database");
    let embedded = tempfile::tempdir().unwrap();
    fs::create_dir_all(embedded.path().join("iot-data/store")).unwrap();
    refused(&start(embedded.path(), &["--postgres", &url]), 2, "holds embedded stores");
    let fenced = command(&folder, &["fence-sessions", "--postgres", &url]).output().unwrap();
    assert!(fenced.status.success(), "{fenced:?}");
    cloud.start_again();
    cloud.admin().get("/v1/devices").is(200);
}

#[test]
fn what_cannot_be_a_database_is_said_without_its_password() {
    let folder = tempfile::tempdir().unwrap();
    let tried = |args: &[&str]| {
        let output = start(folder.path(), args);
        assert!(!String::from_utf8_lossy(&output.stderr).contains("geheim"), "{output:?}");
        output
    };
    refused(&tried(&["--postgres", "mysql://a:geheim@b/c"]), 2, "is not a PostgreSQL URL");
    refused(&tried(&["--postgres", "postgresql://iot:geheim@127.0.0.1:1/iot"]), 2, "--postgres: ");
    let cluster = Cluster::start(&[]);
    refused(&tried(&["--postgres", &cluster.url_of_host("127.0.0.1").replace("user=iot", "user=nobody")]), 2, "role");
    refused(
        &tried(&["--postgres", &format!("{} sslmode=require", cluster.url_of_host("localhost"))]),
        2,
        "sslmode=disable",
    );
    let here = cluster.url_of_host("127.0.0.1");
    refused(&tried(&["--postgres", &here, "--postgres-ca", "missing.pem"]), 2, "--postgres-ca missing.pem: ");
    fs::write(folder.path().join("empty.pem"), "").unwrap();
    refused(&tried(&["--postgres", &here, "--postgres-ca", "empty.pem"]), 2, "holds no certificate");
    refused(&command(folder.path(), &["fence-sessions"]).output().unwrap(), 2, "name it with --postgres");
}

/// A device that reports and comes back whenever it is cut off; what was not acknowledged is sent again.
fn report(mut mqtt: Mqtt, acknowledged: &AtomicU64, over: &AtomicBool) {
    let mut next = 0;
    while !over.load(Ordering::Relaxed) {
        let body = json!({"values": {"temperature": 20.0}, "seq": next}).to_string();
        let sent = mqtt.engine().publish(Publication::new("up/telemetry", body, QoS::AtLeastOnce));
        let Ok(token) = sent else {
            thread::sleep(Duration::from_millis(100));
            let _again = mqtt.connect();
            continue;
        };
        let answered = until("an answer", WITHIN, || {
            mqtt.poll().into_iter().find_map(|event| match event {
                Event::Published { token: answered, reason } if answered == token => Some(!reason.is_error()),
                Event::Disconnected(_) => Some(false),
                _ => None,
            })
        });
        if answered {
            next += 1;
            acknowledged.store(next, Ordering::Relaxed);
        }
    }
}

fn stored(admin: &Api, device: &str) -> BTreeSet<u64> {
    let (mut counts, mut cursor) = (BTreeSet::new(), String::new());
    loop {
        let page = admin.get(&format!("/v1/devices/{device}/telemetry?limit=1000{cursor}")).is(200);
        counts.extend(page["items"].as_array().unwrap().iter().map(|item| item["seq"].as_u64().unwrap()));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return counts,
        }
    }
}

#[test]
fn a_server_lives_through_the_end_of_its_database() {
    let cluster = Cluster::start(&[]);
    let cloud = Cloud::start(&["--postgres", &cluster.url()]);
    let admin = cloud.admin();
    let unit = Unit::several(&cloud, "lamp", &["d0"]).remove(0);
    let mqtt = unit.online(&cloud);
    let (acknowledged, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let device = {
        let (acknowledged, over) = (acknowledged.clone(), over.clone());
        thread::spawn(move || report(mqtt, &acknowledged, &over))
    };
    let more = |wanted: u64| {
        until("reports to be acknowledged", WITHIN, || (acknowledged.load(Ordering::Relaxed) >= wanted).then_some(()));
    };
    for crash in 1..=CRASHES {
        more(2 * crash * REPORTS);
        cluster.crash();
        // Said, not hung: a person sees at once that nothing can be had.
        admin.get("/v1/devices/d0").fails(503, "unavailable");
        cluster.resume();
        more((2 * crash + 1) * REPORTS);
    }
    over.store(true, Ordering::Relaxed);
    device.join().unwrap();
    let stored = stored(&admin, "d0");
    let lost: Vec<_> = (0..acknowledged.load(Ordering::Relaxed)).filter(|count| !stored.contains(count)).collect();
    assert!(lost.is_empty(), "{} reports are lost: {lost:?}", lost.len());
    println!("{} reports acknowledged through {CRASHES} crashes, none lost", acknowledged.load(Ordering::Relaxed));
    // The same process: nothing has started it again.
    until("the device to be gone", SOON, || (!is_online(&admin, "d0")).then_some(()));
    admin.get("/v1/devices").is(200);
}
