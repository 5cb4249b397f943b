//! Hostile behaviours by the hundred, and an honest client beside them: what the server does about each is said by the program
//! that behaves so (`iot-bench abuse`), with what must be true after it.
#![allow(clippy::unwrap_used, reason = "a journey ends where something is not as it should be")]

use std::{
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use iot_tests::{
    cloud::Cloud,
    process::{Process, program},
};

/// Far beyond what it takes: only what hangs is ended.
const WITHIN: Duration = Duration::from_secs(240);

/// Runs these families against a server of their own; answers how many behaviours there were.
fn abuse(families: &[&str]) -> usize {
    let cloud = Cloud::start(&["--allow-anonymous"]);
    let mut command = Command::new(program("iot-bench", "IOT_BENCH_BIN"));
    command.args(["abuse", "--seconds", "0.1", "--pid", &cloud.pid().to_string()]);
    command.args(["--url", &format!("mqtt://{}", cloud.address("mqtt"))]).arg("--ca").arg(cloud.ca());
    for listener in ["mqtts", "ws", "http"] {
        command.args([&format!("--{listener}"), &cloud.address(listener).to_string()]);
    }
    families.iter().for_each(|family| _ = command.args(["--only", family]));
    let mut bench = Process::start("iot-bench", command, "cargo build -p iot-bench");
    let status = bench.end(WITHIN);
    let rows: Vec<_> = bench.out().into_iter().filter(|line| line.starts_with("| ")).skip(1).collect();
    let failed: Vec<_> = rows.iter().filter(|row| !row.ends_with("| ok |")).collect();
    assert!(status.success() && failed.is_empty(), "{status}: {failed:#?}\n{:?}", bench.err());
    rows.len()
}

#[test]
fn the_server_bears_every_hostile_behaviour_and_serves_the_honest() {
    let count = AtomicUsize::new(0);
    // Those that wait for the server's timeouts beside those that do not.
    let parts: [&[&str]; 3] = [
        &["slow"],
        &["malformed", "tls", "tcp"],
        &["lengths", "greedy", "properties", "retained", "flooding", "withholding", "colliding", "websocket"],
    ];
    std::thread::scope(|scope| {
        for part in parts {
            let count = &count;
            scope.spawn(move || count.fetch_add(abuse(part), Ordering::Relaxed));
        }
    });
    let count = count.into_inner();
    assert!(count >= 60, "{count} behaviours");
}
