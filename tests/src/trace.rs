//! What the server asked of the kernel, in order, as `strace` wrote it down; and whether an acknowledgement came after
//! what it promises.
//!
//! `strace` stops a thread at the begin and at the end of each call and writes in the order of the stops. Where one thing
//! is the cause of another, their lines are therefore in this order.

use std::{collections::HashMap, path::Path, process::Command};

/// What to do where there is no `strace`.
pub const STRACE: &str = "install it: apt-get install strace";

const RECEIVE: [&str; 4] = ["read", "readv", "recvfrom", "recvmsg"];
const SEND: [&str; 4] = ["write", "writev", "sendto", "sendmsg"];
const WRITE: &str = "pwrite64";
const SYNC: [&str; 2] = ["fsync", "fdatasync"];

/// How much of a buffer is written down: more than a page of the database.
const BYTES_MAX: &str = "8192";

/// `program` under strace. The tracer is a process beside it, so that signals reach the program.
pub fn strace(to: &Path, program: &Path) -> Command {
    let names = [&RECEIVE[..], &SEND, &[WRITE], &SYNC].concat().join(",");
    let mut command = Command::new("strace");
    command.args(["-D", "-f", "-tt", "-y", "-xx", "-s", BYTES_MAX, "-e", &format!("trace={names}"), "-o"]);
    command.arg(to).arg(program);
    command
}

/// Whether the trace goes on to the end of the program: that of its first thread.
pub fn is_whole(trace: &str) -> bool {
    let thread = |line: &str| line.split_whitespace().next().map(str::to_owned);
    let end = trace.lines().rev().find(|line| line.contains(" +++ "));
    end.is_some_and(|end| thread(end) == trace.lines().next().and_then(thread))
}

/// A call that has returned.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "it is a line of a trace")]
pub struct Call {
    /// Its name.
    pub name: String,
    /// What its file descriptor stood for: a path or `socket:[inode]`.
    pub file: String,
    /// What its buffers held, up to a limit.
    pub bytes: Vec<u8>,
    /// What it returned.
    pub result: i64,
    /// The line on which it begins.
    pub begun: usize,
    /// The line on which it has returned.
    pub ended: usize,
}

impl Call {
    /// Whether it has received something.
    pub fn is_arrival(&self) -> bool {
        RECEIVE.contains(&&*self.name) && self.file.starts_with("socket:") && self.result > 0
    }

    /// Whether the bytes are among its own.
    pub fn holds(&self, part: &[u8]) -> bool {
        self.bytes.windows(part.len()).any(|window| window == part)
    }

    fn is_sync(&self) -> bool {
        SYNC.contains(&&*self.name) && self.result == 0
    }

    fn is_within(&self, after: &Self, before: &Self) -> bool {
        after.ended < self.begun && self.ended < before.begun
    }
}

/// The calls that have returned, in the order in which they began.
pub fn calls(trace: &str) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut unfinished = HashMap::new();
    for (number, line) in trace.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let Some((_time, text)) = rest.trim_start().split_once(' ') else { continue };
        if let Some(head) = text.strip_suffix(" <unfinished ...>") {
            unfinished.insert(thread, (number, head));
        } else if let Some((_name, tail)) = text.split_once(" resumed>") {
            let begin = unfinished.remove(thread);
            calls.extend(begin.and_then(|(begun, head)| call(&format!("{head}{tail}"), begun, number)));
        } else {
            calls.extend(call(text, number, number));
        }
    }
    calls.sort_by_key(|call| call.begun);
    calls
}

/// `name(fd<file>, …"bytes"…) = result`. Nothing that is not such a call.
fn call(text: &str, begun: usize, ended: usize) -> Option<Call> {
    let (left, result) = text.rsplit_once(" = ")?;
    let result = result.split_whitespace().next()?.parse().ok()?;
    let (name, arguments) = left.trim_end().strip_suffix(')')?.split_once('(')?;
    let descriptor = arguments.split_once(", ").map_or(arguments, |(first, _)| first);
    let file = descriptor.split_once('<')?.1.strip_suffix('>')?;
    let bytes = arguments.split('"').skip(1).step_by(2).flat_map(unescaped).collect();
    Some(Call { name: name.to_owned(), file: String::from_utf8(unescaped(file)).ok()?, bytes, result, begun, ended })
}

/// Bytes of which any may be written as `\xNN`.
fn unescaped(text: &str) -> Vec<u8> {
    let mut parts = text.split("\\x");
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (hex, plain) = part.split_at_checked(2).unwrap_or_default();
        bytes.extend(u8::from_str_radix(hex, 16));
        bytes.extend_from_slice(plain.as_bytes());
    }
    bytes
}

/// Why an acknowledgement promises too much.
#[derive(Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "one for each thing that is looked for")]
pub enum Fault {
    /// Nothing was sent on the connection after the arrival.
    Unanswered,
    /// Between the arrival and the answer, the log was not given this part of the message.
    NotWritten {
        /// The line of the answer.
        answer: usize,
    },
    /// Between that write and the answer, no sync of the log both began and returned without an error.
    NotSynced {
        /// The line of the answer.
        answer: usize,
    },
}

/// Checks that what `arrival` brought was on disk when the connection was answered: `part` of it was written to the file
/// whose name is `log`, that file was synced from begin to end, and only then the first bytes were sent. Answers the call
/// that sent them.
pub fn acknowledged<'a>(calls: &'a [Call], arrival: &Call, log: &str, part: &[u8]) -> Result<&'a Call, Fault> {
    let of_log = |call: &&Call| Path::new(&call.file).file_name().is_some_and(|name| name == log);
    let answer = calls
        .iter()
        .find(|call| call.begun > arrival.ended && call.file == arrival.file && SEND.contains(&&*call.name))
        .ok_or(Fault::Unanswered)?;
    let write = calls
        .iter()
        .filter(of_log)
        .find(|call| call.name == WRITE && call.holds(part) && call.is_within(arrival, answer))
        .ok_or(Fault::NotWritten { answer: answer.begun })?;
    calls
        .iter()
        .filter(of_log)
        .find(|call| call.is_sync() && call.is_within(write, answer))
        .map(|_sync| answer)
        .ok_or(Fault::NotSynced { answer: answer.begun })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARRIVAL: &str =
        r#"7 10:00:00.000001 recvfrom(9<socket:[41]>, "\x32\x05\x00\x01\x61", 99, 0, NULL, NULL) = 5"#;
    const WRITTEN: &str =
        r#"8 10:00:00.000002 pwrite64(4<\x2f\x78\x2f\x64\x62\x2d\x77\x61\x6c>, "\x00\x61", 2, 32) = 2"#;
    const SYNCED: &str = r"8 10:00:00.000003 fdatasync(4<\x2f\x78\x2f\x64\x62\x2d\x77\x61\x6c>) = 0";
    const SYNC_BEGINS: &str = r"8 10:00:00.000003 fdatasync(4</x/db-wal> <unfinished ...>";
    const SYNC_RETURNS: &str = r"8 10:00:00.000004 <... fdatasync resumed>)          = 0";
    const ANSWER: &str =
        r#"7 10:00:00.000005 sendto(9<socket:[41]>, "\x40\x02\x00\x01", 4, MSG_NOSIGNAL, NULL, 0) = 4"#;
    const OTHER: &str = r#"7 10:00:00.000005 sendto(5<socket:[40]>, "\x40\x02\x00\x01", 4, MSG_NOSIGNAL, NULL, 0) = 4"#;

    fn check(lines: &[&str]) -> Result<Vec<u8>, Fault> {
        let calls = calls(&lines.join("\n"));
        let arrival = calls.iter().find(|call| call.is_arrival()).expect("something arrives");
        acknowledged(&calls, arrival, "db-wal", b"a").map(|answer| answer.bytes.clone())
    }

    #[test]
    fn an_answer_after_the_sync_passes() {
        assert_eq!(check(&[ARRIVAL, WRITTEN, SYNCED, ANSWER]), Ok(vec![0x40, 2, 0, 1]));
        assert!(check(&[ARRIVAL, WRITTEN, SYNC_BEGINS, OTHER, SYNC_RETURNS, ANSWER]).is_ok());
    }

    #[test]
    fn an_answer_before_the_sync_is_refused() {
        assert_eq!(check(&[ARRIVAL, WRITTEN, ANSWER, SYNCED]), Err(Fault::NotSynced { answer: 2 }));
        assert_eq!(check(&[ARRIVAL, WRITTEN, SYNC_BEGINS, ANSWER, SYNC_RETURNS]), Err(Fault::NotSynced { answer: 3 }));
        assert_eq!(check(&[ARRIVAL, ANSWER, WRITTEN, SYNCED]), Err(Fault::NotWritten { answer: 1 }));
    }

    #[test]
    fn the_sync_of_something_else_is_no_sync() {
        let other_file = SYNCED.replace(r"\x64\x62", r"\x64\x63");
        assert_eq!(check(&[ARRIVAL, WRITTEN, &other_file, ANSWER]), Err(Fault::NotSynced { answer: 3 }));
        let failed = SYNCED.replace("= 0", "= -1 EIO (Input/output error)");
        assert_eq!(check(&[ARRIVAL, WRITTEN, &failed, ANSWER]), Err(Fault::NotSynced { answer: 3 }));
        assert_eq!(check(&[ARRIVAL, SYNCED, WRITTEN, ANSWER]), Err(Fault::NotSynced { answer: 3 }));
        let begun_before = [ARRIVAL, SYNC_BEGINS, &WRITTEN.replacen('8', "6", 1), SYNC_RETURNS, ANSWER];
        assert_eq!(check(&begun_before), Err(Fault::NotSynced { answer: 4 }));
        assert_eq!(check(&[WRITTEN, SYNCED, ARRIVAL, ANSWER]), Err(Fault::NotWritten { answer: 3 }));
        let another_message = WRITTEN.replace(r#"\x00\x61""#, r#"\x00\x62""#);
        assert_eq!(check(&[ARRIVAL, &another_message, SYNCED, ANSWER]), Err(Fault::NotWritten { answer: 3 }));
    }

    #[test]
    fn only_the_connection_itself_can_answer() {
        assert_eq!(check(&[ARRIVAL, WRITTEN, SYNCED, OTHER]), Err(Fault::Unanswered));
    }

    #[test]
    fn a_trace_is_whole_when_the_first_thread_has_ended() {
        assert!(!is_whole(&[ARRIVAL, SYNCED, "8 10:00:00.000006 +++ exited with 0 +++"].join("\n")));
        let whole = [ARRIVAL, "8 10:00:00.000006 +++ exited with 0 +++", "7 10:00:00.000007 +++ exited with 0 +++"];
        assert!(is_whole(&whole.join("\n")));
    }
}
