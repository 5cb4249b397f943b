//! Wrong options: one line on standard error, exit code 2, and nothing made.

use std::{
    path::Path,
    process::{Command, Output},
};

fn start(folder: &Path, args: &[&str], token: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_iot-device"));
    command.current_dir(folder).args(args).env_remove("IOT_CLAIM_TOKEN");
    if let Some(token) = token {
        command.env("IOT_CLAIM_TOKEN", token);
    }
    command.output().expect("the binary was built with this test")
}

#[test]
fn wrong_options_are_one_line_and_code_2_and_leave_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.pem");
    std::fs::write(&text, "hello").unwrap();
    let text = text.to_str().unwrap();
    for (args, token, says) in [
        (&["--nonsense"][..], None, "--nonsense"),
        (&["--http", "http://cloud.example"], Some("ct_a_b"), "this machine only"),
        (&["--mqtts", "localhost"], Some("ct_a_b"), "HOST:PORT"),
        (&["--count", "0"], Some("ct_a_b"), "1..=10000"),
        (&["--device", "a", "--count", "2"], Some("ct_a_b"), "--device"),
        (&["--log", "a=b=c"], Some("ct_a_b"), "--log"),
        (&["--ca", "missing.pem"], Some("ct_a_b"), "missing.pem"),
        (&["--ca", text], Some("ct_a_b"), "certificate"),
        (&[], Some("ct_a_b"), "--ca"),
        (&[], None, "IOT_CLAIM_TOKEN"),
    ] {
        let output = start(folder.path(), args, token);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
        assert!(stderr.contains(says) && !stderr.contains("ct_a_b"), "{args:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_damaged_identity_is_named_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("iot-device-state/1/key.pem");
    std::fs::create_dir_all(key.parent().unwrap()).unwrap();
    std::fs::write(&key, "-----BEGIN PRIVATE KEY-----\nMIGH").unwrap();
    let output = start(folder.path(), &[], Some("ct_a_b"));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), stderr.lines().count()), (Some(2), 1), "{stderr}");
    assert!(stderr.contains("1/key.pem is damaged"), "{stderr}");
    assert_eq!(std::fs::read_to_string(&key).unwrap(), "-----BEGIN PRIVATE KEY-----\nMIGH");
}
