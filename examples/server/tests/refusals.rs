//! What the server refuses to start with: one line on standard error that says what to do, exit code 2, nothing half made.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::{
    net::TcpListener,
    path::Path,
    process::{Command, Output},
};

const NO_LISTENERS: [&str; 10] = ["--mqtt", "off", "--mqtts", "off", "--ws", "off", "--wss", "off", "--http", "off"];

fn start(folder: &Path, args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_iot-server"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("IOT_")) {
        command.env_remove(name);
    }
    command.current_dir(folder).args(args).envs(variables.iter().copied()).output().unwrap()
}

#[track_caller]
fn refused(output: &Output, says: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with("iot-server: ") && stderr.contains(says), "{says:?} is not in: {stderr}");
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
}

fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

#[test]
fn options() {
    let folder = tempfile::tempdir().unwrap();
    for (args, says) in [
        (&["--nonsense"][..], "--nonsense"),
        (&["--mqtt", "localhost"], "IP:PORT"),
        (&["--http", "127.0.0.1:70000"], "IP:PORT"),
        (&["--log", "a=b=c"], "--log"),
        (&["--demo", "many"], "--demo"),
        (&["--demo", "5", "--mqtts", "off"], "--mqtts"),
        (&["--allow-anonymous", "--mqtt", "0.0.0.0:1883"], "loopback"),
        (&["--allow-anonymous", "--balancer", "10.0.0.0/8"], "--balancer"),
        (&["--demo", "1", "--balancer", "10.0.0.0/8"], "--balancer"),
        (&["--balancer", "10.0.0.1/8"], "--balancer"),
        (&["--allow-anonymous=perhaps"], "--allow-anonymous"),
        (&["reset"], "reset"),
    ] {
        refused(&start(folder.path(), args, &[]), says);
    }
    assert_eq!(entries(folder.path()), 0);
}

#[test]
fn variables() {
    let folder = tempfile::tempdir().unwrap();
    refused(&start(folder.path(), &[], &[("IOT_MQTT", "here")]), "'here' is not IP:PORT");
    refused(&start(folder.path(), &[], &[("IOT_DEMO", "-1")]), "-1");
    refused(&start(folder.path(), &[], &[("IOT_CONFIG", "missing.toml")]), "missing.toml");
    assert_eq!(entries(folder.path()), 0);
}

#[test]
fn files() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cloud.toml");
    for (text, says) in [
        ("mqtt = 'off'\nmqqt = '127.0.0.1:1'\n", "line 2: unknown field `mqqt`"),
        ("mqtt = \n", "line 1"),
        ("http = 8080\n", "line 1"),
        ("http = 'localhost:8080'\n", "IP:PORT"),
        ("demo = 3\n\nhttp = 'off'\n", "--http"),
    ] {
        std::fs::write(&file, text).unwrap();
        refused(&start(folder.path(), &["--config", "cloud.toml"], &[]), says);
    }
    assert_eq!(entries(folder.path()), 1);
}

/// The same key three times: the flag is the one that is complained about, then the variable, then the file.
#[test]
fn a_flag_wins_over_a_variable_and_a_variable_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("cloud.toml"), "data = 'cloud.toml/file'\n").unwrap();
    let mut args = vec!["--config", "cloud.toml"];
    args.extend(NO_LISTENERS);
    refused(&start(folder.path(), &args, &[]), "cloud.toml/file");
    let variable = [("IOT_DATA", "cloud.toml/variable")];
    refused(&start(folder.path(), &args, &variable), "cloud.toml/variable");
    args.extend(["--data", "cloud.toml/flag"]);
    refused(&start(folder.path(), &args, &variable), "cloud.toml/flag");
}

#[test]
fn a_taken_port() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut args = NO_LISTENERS.to_vec();
    args[9] = &address;
    refused(&start(folder.path(), &args, &[]), &format!("--http {address}"));
    assert_eq!(entries(folder.path()), 0);
}

#[test]
fn unusable_folders() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "not ours").unwrap();
    for data in ["file", "file/below", "/proc/iot-data"] {
        let mut args = NO_LISTENERS.to_vec();
        args.extend(["--data", data]);
        refused(&start(folder.path(), &args, &[]), data);
    }
    assert_eq!(entries(folder.path()), 1);
    assert_eq!(std::fs::read_to_string(folder.path().join("file")).unwrap(), "not ours");
}
