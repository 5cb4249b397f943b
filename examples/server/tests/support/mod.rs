//! A server that a test runs through its binary.
#![allow(dead_code, reason = "each file of tests needs a part of it")]
#![allow(unreachable_pub, reason = "shared by files of tests")]

pub mod browser;

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use ureq::{Agent, http::Response};

pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running server; killed when a test fails.
pub struct Server {
    pub child: Child,
    pub lines: Receiver<String>,
    /// All that it printed until it was ready, and what was looked at since.
    pub printed: String,
}

impl Server {
    /// With all listeners, on free ports.
    pub fn start(data: &Path) -> Self {
        let mut command = command(data);
        for listener in ["--mqtt", "--mqtts", "--ws", "--wss", "--http", "--https"] {
            command.args([listener, "127.0.0.1:0"]);
        }
        Self::of(command)
    }

    pub fn of(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut server = Self { child, lines, printed: String::new() };
        server.wait_for("\nready\n");
        server
    }

    /// Reads until it has printed this.
    pub fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.printed.contains(text) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.printed.extend([line.as_str(), "\n"]),
                Err(error) => panic!("{text:?} was not printed: {error}; {}", self.printed),
            }
        }
    }

    pub fn url(&self, path: &str) -> String {
        let base = self.printed.split_whitespace().find(|word| word.starts_with("http://")).unwrap();
        format!("{base}{path}")
    }

    pub fn password(&self) -> Option<&str> {
        self.printed.split('\'').find_map(|part| part.strip_prefix("admin:"))
    }

    pub fn get(&self, path: &str, token: &str) -> Response<ureq::Body> {
        agent().get(self.url(path)).header("Authorization", format!("Bearer {token}")).call().unwrap()
    }

    pub fn sign_in(&self, password: &str) -> Response<ureq::Body> {
        let credentials = format!("Basic {}", base64(format!("admin:{password}").as_bytes()));
        let request = agent().post(self.url("/v1/sign-in")).header("Authorization", credentials);
        request.header("Accept", "text/plain").send_empty().unwrap()
    }

    /// A new API token of this role.
    pub fn token(&self, admin: &str, role: &str) -> String {
        let request = agent().post(self.url("/v1/tokens")).header("Authorization", format!("Bearer {admin}"));
        let request = request.header("Content-Type", "application/json");
        let answer = text(request.send(format!("{{\"name\": \"{role}\", \"role\": \"{role}\"}}")).unwrap());
        answer.split('"').find(|part| part.starts_with("at_")).unwrap().to_owned()
    }

    /// Waits until both devices of the demo are connected, gives each a command, and answers the list of devices.
    pub fn devices_obey(&mut self, token: &str) -> String {
        for device in ["demo-1", "demo-2"] {
            self.wait_for(&format!("{device} connected"));
            let request = agent().post(self.url(&format!("/v1/devices/{device}/commands?wait_ms=20000")));
            let request = request.header("Authorization", format!("Bearer {token}"));
            let request = request.header("Content-Type", "application/json");
            let receipt = text(request.send(r#"{"name": "set", "args": {"on": true}}"#).unwrap());
            assert!(receipt.contains("\"applied\""), "{receipt}");
        }
        text(self.get("/v1/devices", token))
    }

    /// Asks it to end, and answers its exit code and what it printed since it was ready.
    pub fn end(mut self) -> (Option<i32>, String) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let code = self.child.wait().unwrap().code();
        (code, self.lines.iter().collect())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

pub fn command(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_iot-server"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("IOT_")) {
        command.env_remove(name);
    }
    command.args(["--log", "warn", "--data"]).arg(data);
    command
}

pub fn agent() -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_global(Some(PATIENCE))
        .build()
        .into()
}

/// RFC 4648 §4.
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0_usize, |bits, at| bits << 8 | usize::from(group.get(at).copied().unwrap_or(0)));
        for at in 0..4 {
            text.push(if at > group.len() { '=' } else { char::from(ALPHABET[bits >> (18 - 6 * at) & 63]) });
        }
    }
    text
}

pub fn text(mut response: Response<ureq::Body>) -> String {
    response.body_mut().read_to_string().unwrap()
}
