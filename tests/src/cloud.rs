//! The server under test.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output},
    time::Duration,
};

use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

use crate::{
    http::Api,
    process::{Process, program},
    trace,
    wait::{SOON, until},
};

/// The listeners that have a port in a journey.
const LISTENERS: [&str; 5] = ["mqtt", "mqtts", "ws", "wss", "http"];

/// The trace's name in the cloud's folder.
const TRACE: &str = "trace";

/// How long draining may take: the server's own limits and a little.
const DRAINED_WITHIN: Duration = Duration::from_secs(15);

/// One run of `iot-server` that said `ready`.
#[derive(Debug)]
pub struct Run {
    /// The process.
    pub process: Process,
    /// The password of the first start.
    pub password: Option<String>,
    addresses: BTreeMap<String, SocketAddr>,
}

/// `iot-server` with these arguments, in `folder`, without the settings of whoever runs the tests.
pub fn command(folder: &Path, args: &[&str]) -> Command {
    prepared(Command::new(program("iot-server", "IOT_SERVER_BIN")), folder, args)
}

/// What a program of ours prints when it refuses: one line that has `says` in it, and nothing else.
#[track_caller]
pub fn refused(output: &Output, code: i32, says: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with("iot-server: ") && stderr.contains(says), "{says:?} is not in: {stderr}");
    assert!(output.stdout.is_empty(), "{output:?}");
}

fn prepared(mut command: Command, folder: &Path, args: &[&str]) -> Command {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("IOT_")) {
        command.env_remove(name);
    }
    command.current_dir(folder).args(args);
    command
}

impl Run {
    /// Starts the server and waits until it is ready; the end of the process is an error with what it said.
    pub fn start(folder: &Path, args: &[&str]) -> Result<Self, String> {
        Self::start_by(command(folder, args), "cargo build -p iot-server")
    }

    fn start_by(command: Command, remedy: &str) -> Result<Self, String> {
        let mut process = Process::start("iot-server", command, remedy);
        let ended = until("the server to be ready", SOON, || match process.ended() {
            Some(status) => Some(Some(status)),
            None => process.out().iter().any(|line| line == "ready").then_some(None),
        });
        match ended {
            Some(status) => Err(format!("{status}: {}", process.err().join("\n"))),
            None => Ok(Self::of(process)),
        }
    }

    fn of(process: Process) -> Self {
        let out = process.out();
        let address = |line: &String| {
            let (name, url) = line.trim().split_once(' ')?;
            let address = url.trim().split_once("://")?.1.trim_end_matches("/mqtt");
            Some((name.to_owned(), address.parse().ok()?))
        };
        let addresses = out.iter().filter_map(address).collect();
        let password = out.iter().find_map(|line| Some(line.split_once("'admin:")?.1.split_once('\'')?.0.to_owned()));
        Self { process, password, addresses }
    }

    /// Where a listener is.
    #[track_caller]
    pub fn address(&self, listener: &str) -> SocketAddr {
        *self.addresses.get(listener).unwrap_or_else(|| panic!("the server does not name its {listener} listener"))
    }

    /// HTTP without a credential.
    pub fn api(&self) -> Api {
        Api::new(&format!("http://{}", self.address("http")))
    }

    /// SIGTERM, and waits for the end.
    pub fn terminate(mut self) -> ExitStatus {
        self.process.signal(Signal::TERM);
        self.process.end(DRAINED_WITHIN)
    }
}

/// A cloud over several runs: one folder, the same ports, an administrator.
#[derive(Debug)]
pub struct Cloud {
    folder: TempDir,
    args: Vec<String>,
    run: Option<Run>,
    addresses: BTreeMap<String, SocketAddr>,
    token: String,
}

impl Cloud {
    /// Starts with an empty folder on free ports and signs in.
    #[track_caller]
    pub fn start(args: &[&str]) -> Self {
        Self::start_by(args, Run::start)
    }

    /// The same, with what the server asks of the kernel written to [`Self::trace`] until it ends.
    #[track_caller]
    pub fn start_traced(args: &[&str]) -> Self {
        Self::start_by(args, |folder, all| {
            let strace = trace::strace(&folder.join(TRACE), &program("iot-server", "IOT_SERVER_BIN"));
            Run::start_by(prepared(strace, folder, all), trace::STRACE)
        })
    }

    /// Starts with an empty folder on free ports, and nobody has signed in yet: the one-time password is beside it.
    #[track_caller]
    pub fn untouched(args: &[&str]) -> (Self, String) {
        Self::begin(args, Run::start)
    }

    #[track_caller]
    fn start_by(args: &[&str], start: impl FnOnce(&Path, &[&str]) -> Result<Run, String>) -> Self {
        let (cloud, password) = Self::begin(args, start);
        let answer = cloud.anyone().with_password("admin", &password).post("/v1/sign-in", &json!({}));
        let token = answer.is(200)["token"].as_str().expect("sign-in answers a token").to_owned();
        Self { token, ..cloud }
    }

    #[track_caller]
    fn begin(args: &[&str], start: impl FnOnce(&Path, &[&str]) -> Result<Run, String>) -> (Self, String) {
        let folder = tempfile::tempdir().expect("there is room for temporary files");
        let mut all = ports(|_| "127.0.0.1:0".to_owned());
        all.extend(args.iter().map(|&arg| arg.to_owned()));
        let run = start(folder.path(), &texts(&all)).expect("the server starts with an empty folder");
        let password = run.password.clone().expect("the first start prints a password");
        let addresses = run.addresses.clone();
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        (Self { folder, args, run: Some(run), addresses, token: String::new() }, password)
    }

    /// Where a listener is; the same in every run.
    #[track_caller]
    pub fn address(&self, listener: &str) -> SocketAddr {
        self.addresses[listener]
    }

    /// HTTP as the administrator.
    pub fn admin(&self) -> Api {
        self.anyone().with_token(&self.token)
    }

    /// HTTP without a credential.
    pub fn anyone(&self) -> Api {
        Api::new(&format!("http://{}", self.address("http")))
    }

    /// The administrator's token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The folder above the data folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The certificate authority, in PEM.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("iot-data/ca.pem")
    }

    /// Issues a token with this role; answers its id and text.
    #[track_caller]
    pub fn issue(&self, role: &str) -> (String, String) {
        let issued = self.admin().post("/v1/tokens", &json!({"name": role, "role": role})).is(201);
        let text = |member: &str| issued[member].as_str().expect("it is a text").to_owned();
        (text("id"), text("token"))
    }

    /// The whole trace of a server that was traced and has ended.
    #[track_caller]
    pub fn trace(&self) -> String {
        assert!(self.run.is_none(), "the server runs");
        until("the end of the trace", SOON, || {
            let trace = std::fs::read_to_string(self.folder().join(TRACE)).expect("the server was traced");
            trace::is_whole(&trace).then_some(trace)
        })
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut run) = self.run.take() {
            run.process.kill();
        }
    }

    /// SIGTERM; answers the exit status.
    pub fn terminate(&mut self) -> ExitStatus {
        self.run.take().expect("the server runs").terminate()
    }

    /// Sends a signal, and waits for nothing.
    pub fn signal(&self, signal: Signal) {
        self.run.as_ref().expect("the server runs").process.signal(signal);
    }

    /// Waits for the end of a server that was told to end.
    pub fn ended(&mut self) -> ExitStatus {
        self.run.take().expect("the server runs").process.end(DRAINED_WITHIN)
    }

    /// SIGTERM; answers what the run has printed and logged from its beginning to its end.
    pub fn end(&mut self) -> (String, String) {
        let mut process = self.run.take().expect("the server runs").process;
        process.signal(Signal::TERM);
        let _status = process.end(DRAINED_WITHIN);
        (process.out().join("\n"), process.err().join("\n"))
    }

    /// Starts again on the same folder and ports.
    #[track_caller]
    pub fn start_again(&mut self) {
        assert!(self.run.is_none(), "the server runs");
        let mut all = ports(|listener| self.addresses[listener].to_string());
        all.extend(self.args.iter().cloned());
        // Another process may have the port for a moment, as the near end of a connection.
        let run =
            until("the server to have its ports again", SOON, || match Run::start(self.folder.path(), &texts(&all)) {
                Ok(run) => Some(run),
                Err(text) if text.contains("in use") => None,
                Err(text) => panic!("the server does not start again: {text}"),
            });
        assert_eq!(run.password, None, "only the first start makes a password");
        self.run = Some(run);
    }
}

fn ports(address: impl Fn(&str) -> String) -> Vec<String> {
    LISTENERS.iter().flat_map(|listener| [format!("--{listener}"), address(listener)]).collect()
}

fn texts(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}
