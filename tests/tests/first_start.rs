//! From nothing to a cloud, and back to the same cloud.
#![allow(clippy::unwrap_used, reason = "a journey ends where something is not as it should be")]

use std::{collections::BTreeMap, fs, net::TcpListener, path::Path};

use iot_tests::{
    cloud::{self, Cloud, Run},
    process::Process,
    wait::{SOON, until},
};
use rustix::process::Signal;
use serde_json::json;

const FREE: [&str; 10] = [
    "--mqtt",
    "127.0.0.1:0",
    "--mqtts",
    "127.0.0.1:0",
    "--ws",
    "127.0.0.1:0",
    "--wss",
    "127.0.0.1:0",
    "--http",
    "127.0.0.1:0",
];

#[test]
fn the_first_start_makes_everything_and_the_second_finds_it() {
    let folder = tempfile::tempdir().unwrap();
    let first = Run::start(folder.path(), &FREE).unwrap();
    let password = first.password.clone().unwrap();
    assert!(first.process.out().iter().any(|line| line.contains("mosquitto_sub ")), "lines to paste");

    let basic = first.api().with_password("admin", &password);
    basic.with_password("admin", "wrong").post("/v1/sign-in", &json!({})).fails(401, "unauthenticated");
    let plain = basic.send("POST", "/v1/sign-in", &[("Accept", "text/plain")], None);
    assert_eq!((plain.status, plain.text.starts_with("at_")), (200, true), "{plain:?}");
    basic.post("/v1/sign-in", &json!({})).fails(401, "unauthenticated");

    let token = plain.text.trim().to_owned();
    let admin = first.api().with_token(&token);
    admin.put("/v1/products/lamp", &json!({"name": "Lamp", "encoding": "json"})).is(201);
    let authority = fs::read_to_string(folder.path().join("iot-data/ca.pem")).unwrap();
    assert_eq!(first.terminate().code(), Some(0));

    let second = Run::start(folder.path(), &FREE).unwrap();
    assert_eq!(second.password, None);
    assert!(!second.process.out().concat().contains(&password));
    let admin = second.api().with_token(&token);
    assert_eq!(admin.get("/v1/products/lamp").is(200)["name"], "Lamp");
    second.api().with_password("admin", &password).post("/v1/sign-in", &json!({})).fails(401, "unauthenticated");
    assert_eq!(fs::read_to_string(folder.path().join("iot-data/ca.pem")).unwrap(), authority);
}

#[test]
fn a_lost_token_is_replaced_by_a_new_password_of_one_use() {
    let mut cloud = Cloud::start(&[]);
    assert!(cloud.terminate().success());
    let mut reset = Process::start("reset-admin", cloud::command(cloud.folder(), &["reset-admin"]), "");
    assert_eq!(reset.end(SOON).code(), Some(0));
    let password = reset.line("the password", SOON, |line| Some(line.split_once("password: ")?.1.to_owned()));
    cloud.start_again();
    let basic = cloud.anyone().with_password("admin", &password);
    let token = basic.post("/v1/sign-in", &json!({})).is(200)["token"].as_str().unwrap().to_owned();
    basic.post("/v1/sign-in", &json!({})).fails(401, "unauthenticated");
    cloud.anyone().with_token(&token).get("/v1/devices").is(200);
}

#[test]
fn what_operators_ask_first_is_answered_to_anyone() {
    let cloud = Cloud::start(&[]);
    let anyone = cloud.anyone();
    for path in ["/healthz", "/readyz"] {
        assert_eq!(anyone.get(path).status, 200, "{path}");
    }
    let metrics = anyone.get("/metrics");
    assert_eq!(metrics.status, 200);
    assert!(metrics.content_type.starts_with("text/plain") && metrics.text.contains("iot_http_requests_total"));
    let openapi = anyone.get("/openapi.json").is(200);
    assert!(openapi["openapi"].as_str().unwrap().starts_with("3.1"));
    assert!(openapi["paths"]["/v1/claim"]["post"].is_object());
    anyone.get("/v1/nothing").fails(404, "no_such_route");
    anyone.send("PATCH", "/healthz", &[], None).fails(405, "method_not_allowed");
}

#[test]
fn both_signals_drain_and_end_with_code_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let folder = tempfile::tempdir().unwrap();
        let mut run = Run::start(folder.path(), &FREE).unwrap();
        run.process.signal(signal);
        assert_eq!(run.process.end(SOON).code(), Some(0), "{signal:?}: {:?}", run.process.err());
    }
}

/// Every file below a folder with its contents; folders with nothing.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.insert(format!("{}/", path.display()), Vec::new());
            found.append(&mut contents(&path));
        } else {
            found.insert(path.display().to_string(), fs::read(&path).unwrap());
        }
    }
    found
}

/// The start must fail with one line that has `says` in it, code 2, and a folder as it was.
#[track_caller]
fn refused(folder: &Path, args: &[&str], says: &str) {
    let before = contents(folder);
    let mut process = Process::start("iot-server", cloud::command(folder, args), "");
    let status = process.end(SOON);
    // The pipes are read by others; the end of the process is not the end of reading.
    let err = until("a line that says why", SOON, || Some(process.err()).filter(|lines| !lines.is_empty()));
    assert_eq!((status.code(), err.len()), (Some(2), 1), "{args:?}: {err:?}");
    assert!(err[0].contains(says), "{args:?}: {err:?} does not say {says}");
    assert_eq!(process.out(), Vec::<String>::new(), "{args:?}");
    assert_eq!(contents(folder), before, "{args:?} left something behind");
}

#[test]
fn wrong_options_are_one_line_and_code_2_and_nothing_is_made() {
    let folder = tempfile::tempdir().unwrap();
    for (args, says) in [
        (&["--nonsense"][..], "--nonsense"),
        (&["--mqtt", "localhost"], "127.0.0.1:1883"),
        (&["--mqtt", "127.0.0.1:99999"], "127.0.0.1:1883"),
        (&["--demo", "many"], "--demo"),
        (&["--demo", "-1"], "-1"),
        (&["--log", "a=b=c"], "log"),
        (&["--allow-anonymous", "--mqtt", "0.0.0.0:0"], "loopback"),
        (&["serve"], "serve"),
    ] {
        refused(folder.path(), args, says);
    }
}

#[test]
fn a_broken_file_is_named_with_its_line_and_nothing_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.toml");
    refused(folder.path(), &["--config", "missing.toml"], "missing.toml");
    for (text, says) in [
        ("mqtt = \"127.0.0.1:0\"\nnonsense = 1\n", "line 2"),
        ("mqtt = 1883\n", "line 1"),
        ("\n\nmqtt = \"127.0.0.1:0\n", "line 3"),
        ("demo = -1\n", "line 1"),
        ("[mqtt]\n", "line 1"),
    ] {
        fs::write(&file, text).unwrap();
        refused(folder.path(), &["--config", file.to_str().unwrap()], says);
    }
}

#[test]
fn a_taken_port_is_named_and_nothing_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for listener in ["--mqtt", "--mqtts", "--ws", "--wss", "--http"] {
        let mut args = FREE;
        let at = args.iter().position(|arg| *arg == listener).unwrap();
        args[at + 1] = &address;
        refused(folder.path(), &args, &address);
    }
}

#[test]
fn an_unusable_folder_is_named_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "mine").unwrap();
    for data in ["file", "file/below", "/proc/iot-data"] {
        refused(folder.path(), &[&FREE[..], &["--data", data]].concat(), data);
    }
}

#[test]
fn one_folder_has_one_server() {
    let cloud = Cloud::start(&[]);
    let mut second = Process::start("iot-server", cloud::command(cloud.folder(), &FREE), "");
    let status = second.end(SOON);
    assert_eq!(status.code(), Some(2), "{:?}", second.err());
    assert_eq!(second.err().len(), 1, "{:?}", second.err());
    cloud.admin().get("/v1/devices").is(200);
}

#[test]
fn a_database_of_a_newer_version_is_refused_and_not_touched() {
    let mut cloud = Cloud::start(&[]);
    assert!(cloud.terminate().success());
    for name in ["control.db", "data.db"] {
        let path = cloud.folder().join("iot-data/store").join(name);
        let before = fs::read(&path).unwrap();
        let database = rusqlite::Connection::open(&path).unwrap();
        database.execute("INSERT INTO migration (number, checksum) VALUES (9999, 'of a later version')", []).unwrap();
        database.close().unwrap();
        refused(cloud.folder(), &FREE, "newer");
        fs::write(&path, &before).unwrap();
    }
    cloud.start_again();
    cloud.admin().get("/v1/devices").is(200);
}

#[test]
fn the_demo_brings_the_same_devices_back() {
    let mut cloud = Cloud::start(&["--demo", "2"]);
    let online = |cloud: &Cloud| {
        until("two devices to be online", SOON, || {
            let devices = cloud.admin().get("/v1/devices").is(200)["items"].as_array().unwrap().clone();
            let online = devices.iter().filter(|device| device["connection"]["online"] == true).count();
            (online == 2).then_some(devices)
        })
    };
    let identity = |devices: &[serde_json::Value]| -> Vec<_> {
        devices.iter().map(|device| (device["id"].clone(), device["keys"][0]["fingerprint"].clone())).collect()
    };
    let before = identity(&online(&cloud));
    assert_eq!(before.len(), 2);
    assert!(cloud.terminate().success());
    cloud.start_again();
    assert_eq!(identity(&online(&cloud)), before);
    let latest = until("a sample", SOON, || {
        let latest = cloud.admin().get("/v1/devices/demo-1/telemetry/latest").is(200);
        latest["items"].as_array().unwrap().iter().find(|item| item["metric"] == "temperature").cloned()
    });
    assert!(latest["value"].is_number());
    let lamp =
        cloud.admin().post("/v1/devices/demo-2/commands?wait_ms=5000", &json!({"name": "set", "args": {"on": true}}));
    assert_eq!(lamp.is(200)["state"], "applied");
    assert!(cloud.terminate().success());
}
