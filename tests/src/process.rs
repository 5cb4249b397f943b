//! Child processes whose output is read by lines, and which end with their owner.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::wait::until;

/// How much of its log a process leaves behind when its journey fails.
const LOG_LINES: usize = 60;

type Lines = Arc<Mutex<Vec<String>>>;

/// A running child, with everything it has said. It is killed, with its own children, when this is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    out: Lines,
    err: Lines,
}

/// The file of one of our own programs: `variable` if it is set, else beside the test.
///
/// # Panics
///
/// If it is not there.
pub fn program(name: &str, variable: &str) -> PathBuf {
    let path = std::env::var_os(variable).map_or_else(
        || {
            let test = std::env::current_exe().expect("a test knows its own file");
            let folder = test.ancestors().nth(2).expect("tests are in target/<profile>/deps");
            folder.join(name)
        },
        PathBuf::from,
    );
    assert!(path.is_file(), "{} is missing: cargo build -p iot-server -p iot-device -p iot-bench", path.display());
    path
}

impl Process {
    /// Starts `command` in a process group of its own.
    ///
    /// # Panics
    ///
    /// If it cannot be started; `remedy` says what to do then.
    pub fn start(name: &str, mut command: Command, remedy: &str) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name} cannot be started ({error}): {remedy}"));
        let out = follow(child.stdout.take().expect("it is piped"));
        let err = follow(child.stderr.take().expect("it is piped"));
        Self { name: name.to_owned(), input: child.stdin.take(), child, out, err }
    }

    /// What it has written to standard output.
    pub fn out(&self) -> Vec<String> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What it has written to standard error.
    pub fn err(&self) -> Vec<String> {
        self.err.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes a line to its standard input.
    pub fn say(&mut self, line: &str) {
        let input = self.input.as_mut().expect("the input is open until the process is dropped");
        writeln!(input, "{line}").and_then(|()| input.flush()).expect("it reads its input");
    }

    /// Waits for a line on standard output from which `find` makes something.
    #[track_caller]
    pub fn line<T>(&self, what: &str, within: Duration, mut find: impl FnMut(&str) -> Option<T>) -> T {
        let mut seen = 0;
        until(&format!("{} to say: {what}", self.name), within, || {
            let lines = self.out.lock().unwrap_or_else(PoisonError::into_inner);
            let found = lines[seen..].iter().find_map(|line| find(line));
            seen = lines.len();
            found
        })
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is our child")
    }

    /// Waits for its end.
    #[track_caller]
    pub fn end(&mut self, within: Duration) -> ExitStatus {
        let name = self.name.clone();
        until(&format!("{name} to end"), within, || self.ended())
    }

    /// Sends a signal to this process alone.
    pub fn signal(&self, signal: Signal) {
        // An error means that it has ended.
        let _gone = kill_process(self.pid(), signal);
    }

    /// kill -9, and waits for the end.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        let _status = self.child.wait();
    }

    /// Its number, for whoever looks at it in `/proc`.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = kill_process_group(self.pid(), Signal::KILL);
        let _status = self.child.wait();
        if std::thread::panicking() {
            for (stream, lines) in [("output", self.out()), ("log", self.err())] {
                let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
                let _closed = writeln!(std::io::stderr(), "--- end of the {stream} of {}:\n{tail}", self.name);
            }
        }
    }
}

fn follow(from: impl Read + Send + 'static) -> Lines {
    let lines = Lines::default();
    let kept = lines.clone();
    std::thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
            kept.lock().unwrap_or_else(PoisonError::into_inner).push(text);
            line.clear();
        }
    });
    lines
}
