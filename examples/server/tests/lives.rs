//! A server's first and second life, through its binary.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{path::Path, time::Instant};

use support::{PATIENCE, Server, agent, command, text};

#[test]
fn the_second_life_finds_everything_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let first = Server::start(&data);
    let password = first.password().unwrap().to_owned();
    assert_eq!(first.sign_in("wrong").status(), 401);
    let answer = first.sign_in(&password);
    assert_eq!(answer.status(), 200);
    let token = text(answer);
    let answer = first.sign_in(&password);
    assert_eq!(answer.status(), 401, "the password is good for one use");
    assert!(text(answer).contains("\"unauthenticated\""));
    assert_eq!(first.get("/v1/devices", &token).status(), 200);
    assert_eq!(first.get("/v1/devices", &token[..token.len() - 1]).status(), 401);
    let ca = std::fs::read(data.join("ca.pem")).unwrap();
    let (code, rest) = first.end();
    assert_eq!((code, rest.as_str()), (Some(0), ""));

    let second = Server::start(&data);
    assert_eq!(second.password(), None);
    assert_eq!(second.get("/v1/devices", &token).status(), 200);
    assert_eq!(std::fs::read(data.join("ca.pem")).unwrap(), ca);
    assert_eq!(second.end().0, Some(0));
}

#[test]
fn the_routes_of_operators() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let public = |path: &str| agent().get(server.url(path)).call().unwrap();
    assert_eq!(text(public("/healthz")), "ok\n");
    assert_eq!(text(public("/readyz")), "ready\n");
    let metrics = text(public("/metrics"));
    assert!(metrics.contains("iot_build_info{") && metrics.contains("iot_http_requests_total{"), "{metrics}");
    let openapi = text(public("/openapi.json"));
    for path in ["/v1/sign-in", "/v1/claim", "/v1/devices/{device}/commands", "/v1/devices/{device}/telemetry"] {
        assert!(openapi.contains(&format!("\"{path}\"")), "{path}");
    }
    let unknown = public("/v2");
    assert_eq!(unknown.headers()["content-type"], "application/problem+json");
    assert!(text(unknown).contains("\"no_such_route\""));
    assert_eq!(public("/v1/devices").status(), 401);
}

#[test]
fn one_server_per_folder() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let second = command(folder.path()).arg("reset-admin").output().unwrap();
    let stderr = String::from_utf8(second.stderr).unwrap();
    assert_eq!((second.status.code(), stderr.lines().count()), (Some(2), 1), "{stderr}");
    assert!(second.stdout.is_empty());
    assert_eq!(server.get("/v1/devices", "at_x_y").status(), 401, "the first one works on");
    assert_eq!(server.end().0, Some(0));
}

#[test]
fn a_lost_password_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let first = Server::start(folder.path());
    let lost = first.password().unwrap().to_owned();
    assert_eq!(first.end().0, Some(0));
    let reset = command(folder.path()).arg("reset-admin").output().unwrap();
    assert_eq!(reset.status.code(), Some(0));
    let stdout = String::from_utf8(reset.stdout).unwrap();
    let password = stdout.split_whitespace().last().unwrap();
    let second = Server::start(folder.path());
    assert_eq!(second.sign_in(&lost).status(), 401);
    assert_eq!(second.sign_in(password).status(), 200);
    assert_eq!(second.end().0, Some(0));
}

/// With two simulated devices, and only the listeners that they need.
fn demo(data: &Path) -> Server {
    let mut command = command(data);
    command.args(["--demo", "2", "--mqtt", "off", "--ws", "off", "--wss", "off"]);
    command.args(["--mqtts", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
    Server::of(command)
}

#[test]
fn the_demo_brings_the_same_devices_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = demo(folder.path());
    let token = text(first.sign_in(first.password().unwrap()));
    let devices = first.devices_obey(&token);
    assert_eq!(devices.matches("\"activated\"").count(), 2, "{devices}");
    assert_eq!(text(first.get("/v1/claim-tokens", &token)).matches("\"id\"").count(), 1);
    assert_eq!(first.end().0, Some(0));
    let mut second = demo(folder.path());
    let again = second.devices_obey(&token);
    assert_eq!(again.matches("\"activated\"").count(), 2, "{again}");
    assert_eq!(text(second.get("/v1/claim-tokens", &token)).matches("\"id\"").count(), 1, "the first one is revoked");
    assert_eq!(second.end().0, Some(0));
}

#[test]
fn the_devices_of_the_demo_end_with_a_server_that_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = demo(folder.path());
    server.wait_for("demo-1 connected");
    server.child.kill().unwrap();
    // They write to the same pipe: it ends when the last of them does.
    let deadline = Instant::now() + PATIENCE;
    while server.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok() {}
    assert!(Instant::now() < deadline, "the devices live on");
}
