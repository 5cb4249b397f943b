//! Telemetry leaves as a Parquet file, while the server runs, and a program that is not ours reads it.
#![allow(clippy::unwrap_used, reason = "a journey ends where something is not as it should be")]

#[path = "../../iot-store/tests/cluster/server.rs"]
mod server;

use std::{path::Path, process::Command};

use iot_conn::mqtt::{QoS, client::Publication};
use iot_tests::{
    cloud::{Cloud, command, refused},
    unit::Unit,
};
use serde_json::{Value, json};

use self::server::Cluster;

const REPORTS: u64 = 50;
const QUERY: &str = "
import duckdb, json, sys
rows = duckdb.connect().execute(sys.argv[1].replace('FILE', repr(sys.argv[2]))).fetchall()
print(json.dumps(rows))";

fn ask(file: &Path, query: &str) -> Value {
    let output = Command::new("python3").args(["-c", QUERY, query]).arg(file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn leaves_as_a_file(settings: &[&str]) {
    let cloud = Cloud::start(settings);
    for unit in Unit::several(&cloud, "lamp", &["d0", "d1"]).into_iter().chain(Unit::several(&cloud, "fan", &["f0"])) {
        let mut mqtt = unit.online(&cloud);
        for count in 0..REPORTS {
            let body =
                json!({"values": {"temperature": 20.5, "on": true}, "ts": 1_780_000_000_000 + count, "seq": count});
            assert!(!mqtt.publish(Publication::new("up/telemetry", body.to_string(), QoS::AtLeastOnce)).is_error());
        }
    }
    let run = |args: &[&str]| command(cloud.folder(), &[&["export"], args, settings].concat()).output().unwrap();
    let done = |args: &[&str]| {
        let output = run(args);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(done(&["--to", "all.parquet"]), "all.parquet: 150 reports, 300 values\n");
    let all = cloud.folder().join("all.parquet");
    assert_eq!(
        ask(
            &all,
            "SELECT device, count(*), sum(value_double), sum(value_boolean::int) FROM FILE GROUP BY 1 ORDER BY 1"
        ),
        json!([["d0", 100, 1_025.0, 50], ["d1", 100, 1_025.0, 50], ["f0", 100, 1_025.0, 50]])
    );
    assert_eq!(
        ask(&all, "SELECT max(device_sequence), epoch_ms(max(reported_at)) FROM FILE"),
        json!([[REPORTS - 1, 1_780_000_000_000_u64 + REPORTS - 1]])
    );
    assert_eq!(done(&["--to", "lamps", "--product", "lamp"]), "lamps: 100 reports, 200 values\n");
    let part =
        ["--to", "part", "--device", "f0", "--from", "2026-05-28T20:26:40.010Z", "--until", "2026-05-28T20:26:40.020Z"];
    assert_eq!(done(&part), "part: 10 reports, 20 values\n");
    refused(&run(&["--to", "part"]), 2, "--to part: File exists");
    refused(&run(&["--to", "x", "--from", "yesterday"]), 2, "'yesterday' is not a time");
    refused(&run(&["--to", "nowhere/x"]), 2, "--to nowhere/x");
    let mut left: Vec<_> = std::fs::read_dir(cloud.folder()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["all.parquet", "iot-data", "lamps", "part"]);
}

#[test]
fn telemetry_leaves_as_a_file() {
    leaves_as_a_file(&[]);
    let folder = tempfile::tempdir().unwrap();
    let output = command(folder.path(), &["export", "--to", "x"]).output().unwrap();
    refused(&output, 2, "holds no store");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn telemetry_leaves_postgresql_as_a_file() {
    leaves_as_a_file(&["--postgres", &Cluster::start(&[]).url()]);
}
