//! A copy of a server that runs, and a server made from it: everything of before is there, and what is damaged, half made or
//! in the way is refused.
#![allow(clippy::unwrap_used, reason = "a journey ends where something is not as it should be")]

#[path = "../../iot-store/tests/cluster/server.rs"]
mod server;

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use iot_core::time::Timestamp;
use iot_ota::release::{FORMAT, Hardware, Image, Manifest, SignedRelease, SigningKey, Trust, Version};
use iot_tests::{
    cloud::{Cloud, command, refused},
    http::Api,
    person::Person,
    process::{Process, program},
    trace::STRACE,
    unit::{claim_token, import, simulate},
    wait::{SOON, until},
};
use serde_json::{Value, json};

use self::server::Cluster;

/// More than one part, and more than one page of the disk.
const IMAGE_BYTES: usize = 600_000;
const CHUNK_BYTES: u32 = 16 * 1_024;
const ROLLED_OUT: Duration = Duration::from_secs(60);

fn image() -> String {
    "good".chars().cycle().take(IMAGE_BYTES).collect()
}

fn maker() -> SigningKey {
    SigningKey::from_seed(&[7; 32]).unwrap()
}

/// Makes a product that believes the maker, and a release with its image; answers the release's id.
fn release(admin: &Api) -> String {
    let trust = Trust::new(1, vec![maker().public()]).unwrap();
    admin.put("/v1/products/lamp/trust", &serde_json::to_value(&trust).unwrap()).is(201);
    let manifest = Manifest {
        format: FORMAT,
        tenant: "default".parse().unwrap(),
        product: "lamp".parse().unwrap(),
        version: Version::parse("2.0.0").unwrap(),
        sequence: 2,
        security_version: 1,
        hardware: vec![Hardware::parse("r1").unwrap()],
        image: Image::of(image().as_bytes(), CHUNK_BYTES).unwrap(),
        notes: "Brighter.".into(),
        created: Timestamp::from_millis(1_790_000_000_000),
        expires: Timestamp::from_millis(4_000_000_000_000),
    };
    let signed = serde_json::to_value(SignedRelease::sign(&manifest, &[&maker()]).unwrap()).unwrap();
    let id = admin.post("/v1/releases", &signed).is(201)["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/releases/{id}/image");
    admin.send("PUT", &path, &[("Content-Type", "application/octet-stream")], Some(image())).is(200);
    id
}

/// Starts a lamp that believes the maker.
fn lamp(cloud: &Cloud, id: &str, token: &str) -> Process {
    let trust = Trust::new(1, vec![maker().public()]).unwrap();
    let factory = json!({"product": "lamp", "hardware": "r1", "version": "1.0.0", "sequence": 1, "trust": trust});
    let path = cloud.folder().join(format!("{id}.json"));
    fs::write(&path, factory.to_string()).unwrap();
    let args = ["--device", id, "--interval-ms", "50", "--factory", path.to_str().unwrap()];
    simulate(cloud, id, token, &args)
}

fn stored(admin: &Api, device: &str) -> Vec<Value> {
    let path = format!("/v1/devices/{device}/telemetry?limit=1000");
    admin.get(&path).is(200)["items"].as_array().unwrap().clone()
}

/// `iot-server` with the settings of a cloud besides its listeners.
fn run(folder: &Path, args: &[&str], settings: &[&str]) -> Output {
    command(folder, &[args, settings].concat()).output().unwrap()
}

fn backup(cloud: &Cloud, to: &str) -> Output {
    command(cloud.folder(), &["backup", "--data", "iot-data", "--to", to]).output().unwrap()
}

fn restore(folder: &Path, from: &str, data: &str) -> Output {
    command(folder, &["restore", "--from", from, "--data", data]).output().unwrap()
}

#[track_caller]
fn done(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}

fn is_vacant(folder: &Path) -> bool {
    fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none())
}

#[test]
fn a_server_goes_on_from_a_copy_that_was_taken_while_it_ran() {
    goes_on_from_a_copy(&[], || {});
}

#[test]
fn a_server_on_postgresql_goes_on_from_a_copy_too() {
    let cluster = Cluster::start(&[]);
    let url = cluster.url();
    goes_on_from_a_copy(&["--postgres", &url], || {
        let folder = tempfile::tempdir().unwrap();
        let refused_all =
            |args: &[&str], says: &str| refused(&run(folder.path(), args, &["--postgres", &url]), 2, says);
        refused_all(&["restore", "--from", "missing", "--data", "new"], "is no backup");
        assert!(files(folder.path()).is_empty());
        cluster.sql("DROP SCHEMA iot CASCADE");
    });
    assert_ne!(cluster.sql("SELECT count(*) FROM iot.record"), "0");
}

/// Traffic, a copy, more traffic, kill -9, everything is lost; then a server from the copy.
fn goes_on_from_a_copy(settings: &[&str], lose_database: impl FnOnce()) {
    let mut cloud = Cloud::start(settings);
    let admin = cloud.admin();
    import(&admin, "lamp", &["lamp-1", "lamp-2"]);
    let token = claim_token(&admin, "lamp", 2, false);
    let release = release(&admin);
    let ann = Person::register(&cloud, "ann");
    let home = ann.home("Hill House");
    let first = lamp(&cloud, "lamp-1", &token);
    until("reports", SOON, || (stored(&admin, "lamp-1").len() > 20).then_some(()));
    let before = stored(&admin, "lamp-1");
    let said = done(&run(cloud.folder(), &["backup", "--data", "iot-data", "--to", "copy"], settings));
    assert!(said.starts_with("copy: revision "), "{said}");

    // What comes later is not in it.
    let late = lamp(&cloud, "lamp-2", &token);
    until("reports of the other", SOON, || (!stored(&admin, "lamp-2").is_empty()).then_some(()));
    let bob = Person::register(&cloud, "bob");
    drop(late);
    cloud.kill();
    let folder = cloud.folder().to_owned();
    let restore = || run(&folder, &["restore", "--from", "copy", "--data", "iot-data"], settings);
    refused(&restore(), 2, if settings.is_empty() { "is not empty" } else { "the schema iot is there already" });
    lose_database();
    refused(&restore(), 2, "is not empty");
    fs::rename(folder.join("iot-data"), folder.join("lost")).unwrap();
    let said = done(&restore());
    assert!(said.starts_with("iot-data: as of "), "{said}");
    cloud.start_again();

    let after = stored(&admin, "lamp-1");
    let missing: Vec<_> = before.iter().filter(|report| !after.contains(report)).collect();
    assert!(missing.is_empty(), "{} of {} reports are lost", missing.len(), before.len());
    assert_eq!(ann.api.get("/v1/homes").is(200)["items"][0]["id"], json!(home), "she is signed in");
    cloud
        .anyone()
        .post("/v1/login", &json!({"email": bob.email, "password": "correct horse battery"}))
        .fails(401, "credentials_invalid");
    // The device has gone on, and is the same to the cloud; the image is there, and is what was signed.
    let gate = json!({"min_executed": 1, "failure_per_mille_max": 0, "success_per_mille_min": 1_000, "soak_s": 0});
    let groups =
        json!([{"reach_per_mille": 0, "devices": ["lamp-1"], "gate": gate}, {"reach_per_mille": 1_000, "gate": gate}]);
    let made = admin.post("/v1/rollouts", &json!({"release": release, "groups": groups})).is(201);
    admin.post(&format!("/v1/rollouts/{}/start", made["id"].as_str().unwrap()), &json!({})).is(200);
    first.line("that it runs the update", ROLLED_OUT, |line| line.contains("runs 2.0.0").then_some(()));
    // The claim of the other is forgotten: it is a unit again that nobody has claimed, without a past.
    assert_eq!(admin.get("/v1/devices/lamp-2").is(200)["stage"], "manufactured");
    assert!(stored(&admin, "lamp-2").is_empty());
}

/// Telemetry is copied after the records: what has come in between from a device that they do not know is dropped.
#[test]
fn telemetry_of_a_device_that_the_records_do_not_know_is_dropped() {
    let mut cloud = Cloud::start(&[]);
    let admin = cloud.admin();
    import(&admin, "lamp", &["lamp-1"]);
    let token = claim_token(&admin, "lamp", 9, true);
    let report = |device: &str| {
        let running = simulate(&cloud, device, &token, &["--device", device, "--interval-ms", "50"]);
        until("reports", SOON, || (!stored(&admin, device).is_empty()).then_some(()));
        drop(running);
    };
    report("lamp-1");
    done(&backup(&cloud, "early"));
    import(&admin, "lamp", &["lamp-2"]);
    report("lamp-2");
    done(&backup(&cloud, "late"));
    cloud.kill();
    let folder = cloud.folder().to_owned();
    fs::copy(folder.join("late/store/data.db"), folder.join("early/store/data.db")).unwrap();
    let read = |copy: &str| -> Value {
        serde_json::from_slice(&fs::read(folder.join(copy).join("manifest.json")).unwrap()).unwrap()
    };
    let (mut early, late) = (read("early"), read("late"));
    let place = |manifest: &Value| {
        manifest["files"].as_array().unwrap().iter().position(|file| file["path"] == "store/data.db").unwrap()
    };
    let at = place(&early);
    early["files"][at] = late["files"][place(&late)].clone();
    fs::write(folder.join("early/manifest.json"), early.to_string()).unwrap();
    fs::remove_dir_all(folder.join("iot-data")).unwrap();
    let said = done(&restore(&folder, "early", "iot-data"));
    assert!(said.contains("; 1 series without a device dropped"), "{said}");
    cloud.start_again();
    assert!(!stored(&admin, "lamp-1").is_empty());
    import(&admin, "lamp", &["lamp-2"]);
    assert!(stored(&admin, "lamp-2").is_empty());
}

/// A copy of a server with a release and a person, made once the server has ended.
fn copied() -> (Cloud, Vec<PathBuf>) {
    let mut cloud = Cloud::start(&[]);
    let admin = cloud.admin();
    import(&admin, "lamp", &["lamp-1"]);
    release(&admin);
    Person::register(&cloud, "ann");
    cloud.terminate();
    done(&backup(&cloud, "copy"));
    let files = files(&cloud.folder().join("copy"));
    (cloud, files)
}

#[test]
fn a_damaged_copy_is_refused_and_its_file_is_named() {
    let (cloud, files) = copied();
    let folder = cloud.folder();
    assert!(files.len() >= 6, "{files:?}");
    for file in &files {
        let whole = fs::read(file).unwrap();
        let name = file.file_name().unwrap().to_str().unwrap();
        // Of the manifest the middle is a digest, a length or a path.
        let middle = whole.len() / 2;
        let mut flipped = whole.clone();
        flipped[middle] ^= 1;
        for damaged in [&flipped[..], &whole[..middle]] {
            fs::write(file, damaged).unwrap();
            let refusal = restore(folder, "copy", "new");
            refused(&refusal, 2, if name == "manifest.json" { "" } else { name });
        }
        fs::remove_file(file).unwrap();
        refused(&restore(folder, "copy", "new"), 2, name);
        fs::write(file, whole).unwrap();
        assert!(!folder.join("new").exists(), "nothing was made");
    }
    let manifest = folder.join("copy/manifest.json");
    let whole = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, whole.replacen("\"format\": 1", "\"format\": 2", 1)).unwrap();
    refused(&restore(folder, "copy", "new"), 2, "is of format 2");
    fs::write(&manifest, whole.replacen("store/control.db", "../copy/store/control.db", 1)).unwrap();
    refused(&restore(folder, "copy", "new"), 2, "is not within the backup");
    fs::write(&manifest, whole).unwrap();
    done(&restore(folder, "copy", "new"));
}

#[test]
fn a_copy_goes_nowhere_but_to_an_empty_place() {
    let (cloud, _) = copied();
    let folder = cloud.folder();
    refused(&backup(&cloud, "copy"), 2, "--to copy: is not empty");
    refused(&backup(&cloud, "iot-data/copy"), 2, "is within the data folder");
    fs::write(folder.join("file"), "mine").unwrap();
    refused(&backup(&cloud, "file"), 2, "--to file");
    refused(&restore(folder, "copy", "file"), 2, "--data file");
    assert_eq!(fs::read(folder.join("file")).unwrap(), b"mine");
    refused(&command(folder, &["backup", "--data", "none", "--to", "x"]).output().unwrap(), 2, "holds no store");
    refused(&restore(folder, "none", "new"), 2, "is no backup");
    assert!(!folder.join("x").exists() && !folder.join("new").exists() && !folder.join("none").exists());
    fs::create_dir(folder.join("mount")).unwrap();
    done(&restore(folder, "copy", "mount"));
    refused(&restore(folder, "copy", "mount"), 2, "is not empty");
}

/// Every file may grow to so many kilobytes and no further, until the way is free.
#[test]
fn without_room_nothing_is_left_half_made() {
    let (cloud, _) = copied();
    let folder = cloud.folder();
    let server = program("iot-server", "IOT_SERVER_BIN");
    let limited = |kilobytes: u32, args: &[&str]| {
        // The signal would end the process; without it a write fails.
        let script = format!("trap '' XFSZ; ulimit -f {kilobytes}; exec \"$0\" \"$@\"");
        Command::new("bash").args(["-c", &script]).arg(&server).args(args).current_dir(folder).output().unwrap()
    };
    for (args, target) in
        [(["backup", "--data", "iot-data", "--to", "b"], "b"), (["restore", "--from", "copy", "--data", "r"], "r")]
    {
        let mut failures = 0;
        let mut kilobytes = 0;
        let output = loop {
            let output = limited(kilobytes, &args);
            if output.status.success() {
                break output;
            }
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!((output.status.code(), stderr.lines().count()), (Some(1), 1), "{kilobytes} kB: {output:?}");
            assert!(!folder.join(target).exists(), "{kilobytes} kB: {stderr}");
            failures += 1;
            kilobytes = (kilobytes * 3 / 2).max(kilobytes + 1);
        };
        done(&output);
        assert!(failures > 5, "only {failures} sizes were too small");
    }
    done(&restore(folder, "b", "again"));
}

/// SIGKILL at the n-th call that changes a name or syncs a file, for every n until the way is over. A copy without its
/// manifest is none; a folder with a broken restore starts no server, and the restore is begun again.
#[test]
fn killed_anywhere_nothing_half_made_is_taken_for_whole() {
    let (cloud, _) = copied();
    let folder = cloud.folder();
    let killed = |at: u32, args: &[&str]| {
        let calls = "fsync,fdatasync,mkdir,rename,unlink,rmdir";
        let inject = format!("inject={calls}:signal=KILL:when={at}");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={calls}"), "-e", &inject]);
        strace.arg(program("iot-server", "IOT_SERVER_BIN")).args(args).current_dir(folder);
        let output = strace.output().unwrap_or_else(|error| panic!("strace cannot be started ({error}): {STRACE}"));
        match output.status.signal().or(output.status.code().filter(|code| *code == 137)) {
            Some(_) => true,
            None => {
                assert!(output.status.success(), "{output:?}");
                false
            }
        }
    };
    let mut kills = 0;
    for at in 1.. {
        let to = folder.join("b");
        if !killed(at, &["backup", "--data", "iot-data", "--to", "b"]) {
            break;
        }
        kills += 1;
        // At the last of the calls it was whole already.
        if !to.join("manifest.json").exists() {
            refused(&restore(folder, "b", "r"), 2, "is no backup");
            assert!(!folder.join("r").exists());
        }
        if to.exists() {
            fs::remove_dir_all(to).unwrap();
        }
    }
    assert!(kills > 5, "only {kills} kills");
    let mut broken = 0;
    for at in 1.. {
        if !killed(at, &["restore", "--from", "copy", "--data", "r"]) {
            break;
        }
        if !is_vacant(&folder.join("r")) && folder.join("r/.restoring").exists() {
            broken += 1;
            refused(&command(folder, &["--data", "r", "--http", "off"]).output().unwrap(), 2, "restore again");
        }
        if !is_vacant(&folder.join("r")) && !folder.join("r/.restoring").exists() {
            // Whole: only the last sync was left.
            fs::remove_dir_all(folder.join("r")).unwrap();
        }
    }
    assert!(broken > 10, "only {broken} restores were broken off");
    assert!(folder.join("r/store/control.db").exists() && !folder.join("r/.restoring").exists());
    // What was killed pauses the collection for a day at most; the data folder itself is as it was.
    done(&backup(&cloud, "last"));
    done(&restore(folder, "last", "of-last"));
}
