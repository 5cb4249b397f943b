//! A server that ends hands its clients away, and one that a service manager starts closes no door meanwhile.
#![allow(clippy::unwrap_used, reason = "a journey ends where something is not as it should be")]

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::Command,
    time::{Duration, Instant},
};

use iot_tests::{
    cloud::{Cloud, command, refused},
    process::Process,
    tools::{Paho, mosquitto_session, mosquitto_sub, shown},
    wait::{SOON, until},
};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::tempdir;

const USE_ANOTHER_SERVER: u64 = 0x9c;

fn paho(cloud: &Cloud, id: &str, more: &Value) -> Paho {
    let mut options = json!({"id": id, "host": "127.0.0.1", "port": cloud.address("mqtt").port()});
    options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Paho::online(&options)
}

/// Clients are told where to go and when, one after the other; no will is published, and what was acknowledged is there
/// afterwards.
#[test]
fn a_server_that_ends_hands_its_clients_away() {
    let mut cloud = Cloud::start(&[
        "--allow-anonymous",
        "--drain-seconds",
        "30",
        "--drain-rate",
        "2",
        "--server-reference",
        "b.example:8883",
    ]);
    let port = cloud.address("mqtt").port().to_string();
    let lasting = ["-p", &port, "-q", "1", "-t", "kept/#", "-t", "will/#"];
    mosquitto_session("watcher", &lasting);
    let will = |n: usize| json!({"will": {"topic": format!("will/{n}"), "payload": "gone", "qos": 1}});
    let mut clients: Vec<_> = (0..6).map(|n| paho(&cloud, &n.to_string(), &will(n))).collect();
    cloud.signal(Signal::TERM);
    let mut acknowledged = 0;
    let mut last = clients.pop().unwrap();
    let mut left = None;
    let started = Instant::now();
    while left.is_none() {
        left = last.publish_or_leave(&json!({"topic": "kept/a", "payload": acknowledged.to_string(), "qos": 1}));
        acknowledged += u64::from(left.is_none());
        assert!(started.elapsed() < SOON, "it is never handed away");
    }
    clients.iter_mut().for_each(|client| assert_told(&client.event("disconnect", |_| true)));
    assert_told(&left.unwrap());
    assert!(cloud.ended().success());
    cloud.start_again();
    let port = cloud.address("mqtt").port().to_string();
    let watcher = mosquitto_sub(&["-c", "-i", "watcher", "-p", &port, "-q", "1", "-t", "kept/#", "-t", "will/#"]);
    paho(&cloud, "after", &json!({})).publish(&json!({"topic": "kept/end", "payload": "", "qos": 1}));
    shown(&watcher, SOON, |topic, _| topic == "kept/end");
    let lines = watcher.out();
    let came: Vec<_> = lines.iter().filter(|line| line.matches('|').count() == 3).collect();
    let expected: Vec<_> = (0..acknowledged).map(|n| format!("kept/a|1|0|{n}")).collect();
    assert!(came.iter().zip(&expected).all(|(came, expected)| *came == expected), "not in order: {came:?}");
    // What was published and not acknowledged may be there as well.
    let surplus = came.len() - expected.len();
    assert!((1..=2).contains(&surplus), "{surplus} beyond the {acknowledged} that were acknowledged and the last");
    assert!(!came.iter().any(|line| line.starts_with("will/")), "{came:?}");
}

fn assert_told(disconnect: &Value) {
    assert_eq!(disconnect["reason"], USE_ANOTHER_SERVER, "{disconnect}");
    assert_eq!(disconnect["server_reference"], "b.example:8883");
    let after = &disconnect["user"][0];
    assert_eq!(after[0], "retry-after-ms");
    assert!(after[1].as_str().unwrap().parse::<u64>().is_ok(), "{disconnect}");
}

/// What a service manager does: it listens, starts the program with its sockets, and starts it again when it has ended.
const MANAGER: &str = r#"
import os, socket, subprocess, sys
names = sys.argv[1].split(":")
sockets = []
for name in names:
    listener = socket.socket()
    listener.bind((sys.argv[2], 0))
    listener.listen(64)
    sockets.append(listener)
    print(name, listener.getsockname()[1], flush=True)
def inherit():
    # Out of the way first: they may have these numbers already.
    for at, listener in enumerate(sockets):
        os.dup2(listener.fileno(), 100 + at)
    for at in range(len(sockets)):
        os.dup2(100 + at, 3 + at)
        os.close(100 + at)
    os.environ.update(LISTEN_FDS=str(len(sockets)), LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES=":".join(names))
while True:
    child = os.fork()
    if child == 0:
        inherit()
        os.execv(sys.argv[3], sys.argv[3:])
    print("started", child, flush=True)
    _, status = os.waitpid(child, 0)
    print("ended", os.waitstatus_to_exitcode(status), flush=True)
    if sys.stdin.readline() == "":
        break
"#;

fn manager(folder: &std::path::Path, (names, host): (&str, &str), args: &[&str]) -> Process {
    let server = command(folder, &[]);
    let mut python = Command::new("python3");
    python.args(["-c", MANAGER, names, host]).arg(server.get_program()).args(args).current_dir(folder);
    Process::start("python3", python, "apt-get install python3")
}

fn told(process: &Process, what: &str) -> u32 {
    process.line(what, SOON, |line| line.strip_prefix(what)?.trim().parse().ok())
}

#[test]
fn a_restart_under_a_service_manager_closes_no_door() {
    let folder = tempdir().unwrap();
    let off = ["--mqtts", "off", "--ws", "off", "--wss", "off", "--allow-anonymous"];
    let mut manager = manager(folder.path(), ("mqtt:http", "127.0.0.1"), &off);
    let (mqtt, http) = (told(&manager, "mqtt"), told(&manager, "http"));
    let server = told(&manager, "started");
    manager.line("ready", SOON, |line| (line == "ready").then_some(()));
    assert_eq!(connack(u16::try_from(mqtt).unwrap()), 0);
    let pid = rustix::process::Pid::from_raw(i32::try_from(server).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(told(&manager, "ended"), 0);
    // Nobody serves now, and the door is open all the same: who comes is served by the next.
    let waiting = std::thread::spawn(move || connack(u16::try_from(mqtt).unwrap()));
    let mut page = TcpStream::connect(("127.0.0.1", u16::try_from(http).unwrap())).unwrap();
    page.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    manager.say("");
    let mut answer = String::new();
    page.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(waiting.join().unwrap(), 0);
}

/// The answer to a CONNECT without credentials.
fn connack(port: u16) -> u8 {
    let mut tcp = TcpStream::connect(("127.0.0.1", port)).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    tcp.write_all(b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01a").unwrap();
    let mut answer = [0; 4];
    tcp.read_exact(&mut answer).unwrap();
    answer[3]
}

#[test]
fn a_socket_for_no_listener_is_refused() {
    let folder = tempdir().unwrap();
    let manager = manager(folder.path(), ("coap", "127.0.0.1"), &[]);
    let status = told(&manager, "ended");
    assert_eq!(status, 2);
    let said = until("an error", SOON, || manager.err().first().cloned());
    assert!(said.contains("'coap' is for no listener"), "{said}");
    let output = command(folder.path(), &["--drain-seconds", "99999"]).output().unwrap();
    refused(&output, 2, "drain-seconds");
}

/// Nobody gets in without credentials because somebody else has bound the socket.
#[test]
fn anonymous_clients_are_for_this_machine_on_inherited_sockets_too() {
    let folder = tempdir().unwrap();
    let manager = manager(folder.path(), ("mqtt", "0.0.0.0"), &["--allow-anonymous", "--http", "off"]);
    assert_eq!(told(&manager, "ended"), 2);
    let said = until("an error", SOON, || manager.err().first().cloned());
    assert!(said.contains("socket 'mqtt' is 0.0.0.0:"), "{said}");
}
