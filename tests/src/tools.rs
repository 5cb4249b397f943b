//! Clients that we did not write. One that is missing fails the journey: a skipped proof proves nothing.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    process::Process,
    wait::{SOON, until},
};

const MOSQUITTO: &str = "install it: apt-get install mosquitto-clients";
const PAHO: &str = "install it: python3 -m venv target/venv && target/venv/bin/pip install 'paho-mqtt>=2,<3'";

/// `mosquitto_sub` that has subscribed. Each message is a line `topic|qos|retain|payload`.
#[track_caller]
pub fn mosquitto_sub(args: &[&str]) -> Process {
    // Line by line, although it writes to a pipe.
    let mut command = Command::new("stdbuf");
    command.args(["-oL", "mosquitto_sub", "-d", "-F", "%t|%q|%r|%p"]).args(args);
    let process = Process::start("mosquitto_sub", command, MOSQUITTO);
    process.line(&format!("subscribed; {MOSQUITTO}"), SOON, |line| line.starts_with("Subscribed").then_some(()));
    process
}

/// Runs `mosquitto_sub` until it has subscribed, and no longer: a session without a connection stays.
#[track_caller]
pub fn mosquitto_session(client_id: &str, args: &[&str]) {
    let mut command = Command::new("mosquitto_sub");
    command.args(["-c", "-E", "-i", client_id]).args(args);
    let mut process = Process::start("mosquitto_sub", command, MOSQUITTO);
    let status = process.end(SOON);
    assert!(status.success(), "mosquitto_sub {args:?}: {status}: {}", process.err().join("\n"));
}

/// Waits until `mosquitto_sub` shows a message, and answers its topic, quality of service, retain flag and payload.
#[track_caller]
pub fn shown(
    process: &Process,
    within: Duration,
    mut is_it: impl FnMut(&str, &str) -> bool,
) -> (String, u8, bool, String) {
    process.line("a message", within, |line| {
        let mut parts = line.splitn(4, '|');
        let (topic, qos, retain, payload) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        is_it(topic, payload).then(|| Some((topic.to_owned(), qos.parse().ok()?, retain == "1", payload.to_owned())))?
    })
}

/// Runs `mosquitto_pub` to its end.
#[track_caller]
pub fn mosquitto_pub(args: &[&str]) {
    let mut command = Command::new("mosquitto_pub");
    command.args(args);
    let mut process = Process::start("mosquitto_pub", command, MOSQUITTO);
    let status = process.end(SOON);
    assert!(status.success(), "mosquitto_pub {args:?}: {status}: {}", process.err().join("\n"));
}

/// The Python that has paho: that of `target/venv`, or the one in the path.
fn python() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package is in the workspace");
    let own = workspace.join("target/venv/bin/python3");
    let python = if own.exists() { own } else { PathBuf::from("python3") };
    let found = Command::new(&python).args(["-c", "import paho.mqtt.enums"]).output();
    assert!(found.is_ok_and(|output| output.status.success()), "paho 2 is missing: {PAHO}");
    python
}

/// A paho client in a process of its own, driven by `paho/client.py`.
#[derive(Debug)]
pub struct Paho {
    process: Process,
    /// How many lines were read.
    seen: usize,
    events: Vec<Value>,
}

impl Paho {
    /// A client that is not connected.
    pub fn start() -> Self {
        let mut command = Command::new(python());
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("paho/client.py"));
        Self { process: Process::start("paho", command, PAHO), seen: 0, events: Vec::new() }
    }

    /// Connects with these members, and answers what was told: `reason`, `session_present`.
    #[track_caller]
    pub fn connect(&mut self, options: &Value) -> Value {
        self.tell("connect", options);
        self.event("connect", |_| true)
    }

    /// A client that is connected.
    #[track_caller]
    pub fn online(options: &Value) -> Self {
        let mut paho = Self::start();
        let told = paho.connect(options);
        assert_eq!(told["reason"], 0, "{told}");
        paho
    }

    /// Subscribes, and answers the reason.
    #[track_caller]
    pub fn subscribe(&mut self, filter: &str, qos: u8) -> u64 {
        self.tell("subscribe", &json!({"filter": filter, "qos": qos}));
        self.event("subscribe", |_| true)["reasons"][0].as_u64().expect("it is a number")
    }

    /// Subscribes with an identifier.
    #[track_caller]
    pub fn subscribe_as(&mut self, filter: &str, qos: u8, identifier: u32) {
        self.tell("subscribe", &json!({"filter": filter, "qos": qos, "identifier": identifier}));
        self.event("subscribe", |_| true);
    }

    /// Tries to connect, and answers why there was no connection to speak MQTT over.
    #[track_caller]
    pub fn fail_to_connect(&mut self, options: &Value) -> String {
        self.tell("connect", options);
        self.event("failure", |_| true)["text"].as_str().expect("it is a text").to_owned()
    }

    /// Publishes with these members, and answers the reason when it is complete.
    #[track_caller]
    pub fn publish(&mut self, options: &Value) -> u64 {
        self.tell("publish", options);
        self.event("publish", |_| true)["reason"].as_u64().expect("it is a number")
    }

    /// Publishes with these members, until it is complete or the connection is over: then that event is the answer.
    #[track_caller]
    pub fn publish_or_leave(&mut self, options: &Value) -> Option<Value> {
        self.tell("publish", options);
        let event = self.first(&["publish", "disconnect"]);
        (event["on"] == "disconnect").then_some(event)
    }

    /// Waits for a message on a topic.
    #[track_caller]
    pub fn message(&mut self, topic: &str) -> Value {
        self.event("message", |event| event["topic"] == topic)
    }

    /// Disconnects in order.
    #[track_caller]
    pub fn disconnect(&mut self) {
        self.tell("disconnect", &json!({}));
        self.event("disconnect", |_| true);
    }

    /// Ends the process, and with it the connection, without a word.
    pub fn kill(mut self) {
        self.process.kill();
    }

    /// Stops the process: it keeps its sockets and says nothing more.
    pub fn stop(&self) {
        self.process.signal(Signal::STOP);
    }

    /// Waits for the oldest event of a kind that `is_it` and was not answered before; others stay for later.
    #[track_caller]
    pub fn event(&mut self, kind: &str, mut is_it: impl FnMut(&Value) -> bool) -> Value {
        self.find(kind, |event| event["on"] == kind && is_it(event))
    }

    #[track_caller]
    fn first(&mut self, kinds: &[&str]) -> Value {
        self.find(&kinds.join(" or "), |event| kinds.iter().any(|kind| event["on"] == *kind))
    }

    #[track_caller]
    fn find(&mut self, what: &str, mut is_it: impl FnMut(&Value) -> bool) -> Value {
        until(&format!("paho to tell of: {what}"), SOON, || {
            let lines = self.process.out();
            self.events.extend(lines[self.seen..].iter().filter_map(|line| serde_json::from_str(line).ok()));
            self.seen = lines.len();
            let at = self.events.iter().position(&mut is_it)?;
            Some(self.events.remove(at))
        })
    }

    fn tell(&mut self, what: &str, members: &Value) {
        let mut line = members.clone();
        line["do"] = what.into();
        self.process.say(&line.to_string());
    }
}
