//! Files that fail: at each call by which the store changes one, and when the disk is full.
//!
//! A child writes to all three stores with one call after the other, and says what was acknowledged and what was refused.
//! `support/faults.c`, loaded before its C library, lets its n-th call fail, or all from the n-th on, or kills it in the
//! middle of a write, or before it, or takes back what was not synced and kills it; n goes up until a child comes to its end without having met it. Each time the child is killed, the
//! folder is opened again without faults, and everything that was acknowledged must be there, batches whole. In the short
//! run n goes up in steps; with `IOT_LONG` it takes every value.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a sweep says how far it went")]

mod support;

use std::{
    env,
    future::Future,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use iot_core::store::{SessionStore, StoreError};
use iot_store::{StoreLimits, sqlite::Sqlite};
use support::{Facts, append, commit, fact, found, lost, offer, opening, say, this_program};

const FOLDER: &str = "IOT_FAULTS_FOLDER";
const LIFE: &str = "IOT_FAULTS_LIFE";
/// How often a child writes to each store.
const ROUNDS: u32 = 6;
/// Between two values of n in the short run. Prime to the calls of a commit, so that all kinds are met.
const STEP: usize = 17;
/// A call at which much was acknowledged, before the child has come to its end.
const LATE_CALL: usize = 200;
/// Of the small disk, in bytes.
const DISK_BYTES: u64 = 4 << 20;

#[test]
fn a_call_that_fails_loses_nothing_acknowledged() {
    if let Ok(folder) = env::var(FOLDER) {
        return run(child(Path::new(&folder)));
    }
    sweep("eio", 0);
}

#[test]
fn a_disk_that_is_full_from_some_call_on_loses_nothing_acknowledged() {
    sweep("enospc", 1);
}

#[test]
fn a_write_of_which_half_arrives_loses_nothing_acknowledged() {
    sweep("torn", 2);
}

#[test]
fn a_process_that_ends_at_any_call_loses_nothing_acknowledged() {
    sweep("lost", 3);
}

/// The fault layer keeps what was written and not synced, and takes it back: what a disk does that has a cache.
#[test]
fn a_power_cut_that_takes_unsynced_writes_loses_nothing_acknowledged() {
    sweep("power", 4);
}

/// Every second of them has arrived, in no order.
#[test]
fn a_power_cut_that_takes_some_unsynced_writes_loses_nothing_acknowledged() {
    sweep("reorder", 5);
}

/// The test of the test: with a disk that only says that it has synced, what was acknowledged is lost, and that is noticed.
#[test]
fn a_disk_that_lies_about_syncing_is_caught() {
    let folder = tempfile::tempdir().unwrap();
    let end = child_with_fault(folder.path(), "liar", LATE_CALL, "first");
    assert!(end.met && end.killed && !end.acknowledged.is_empty());
    let lost = lost(&end.acknowledged, &run(found(folder.path(), 1))).len();
    println!("count: a disk that does not sync: {lost} of {} acknowledged lost", end.acknowledged.len());
    assert!(lost > 0);
}

/// A real one: a file system in memory, as small as this needs it. Where none may be mounted the test is skipped and says so;
/// the sweep above needs no rights.
#[test]
fn a_full_disk_is_told_and_the_store_goes_on_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::mounted(folder.path()) else { return };
    run(async {
        let store = Sqlite::open(folder.path(), StoreLimits::default()).await.unwrap();
        store.open(opening(0)).await.unwrap();
        let ballast = folder.path().join("ballast");
        std::fs::write(&ballast, vec![0; usize::try_from(DISK_BYTES / 3).unwrap()]).unwrap();
        let mut acknowledged = Facts::new();
        let mut full = [0; 3];
        for n in 0..400 {
            let answers = [
                append(&store, &format!("a{n}")).await,
                commit(&store, &format!("c{n}")).await,
                offer(&store, 0, &format!("o{n}")).await,
            ];
            for (full, answer) in full.iter_mut().zip(answers) {
                match answer {
                    Ok(facts) => acknowledged.extend(facts.into_iter().map(|(name, number)| (name, Some(number)))),
                    Err(StoreError::Full { .. }) => *full += 1,
                    Err(error) => panic!("{error:?}"),
                }
            }
            if full.iter().all(|count| *count >= 3) {
                break;
            }
        }
        assert!(full.iter().all(|count| *count >= 3), "the disk was never full: {full:?}");
        assert!(acknowledged.len() > 100);
        std::fs::remove_file(ballast).unwrap();
        for answer in [append(&store, "last").await, commit(&store, "last").await, offer(&store, 0, "last").await] {
            acknowledged.extend(answer.unwrap().into_iter().map(|(name, number)| (name, Some(number))));
        }
        store.close().await;
        let found = found(folder.path(), 1).await;
        assert_eq!(lost(&acknowledged, &found), [""; 0]);
        assert_eq!(found.len(), acknowledged.len(), "what was refused as full was not written");
        println!("count: {} acknowledged around a full disk, {full:?} refused, 0 lost", acknowledged.len());
    });
    drop(disk);
}

/// Mounted on a folder until dropped.
struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    fn mounted(folder: &'a Path) -> Option<Self> {
        let size = format!("size={DISK_BYTES}");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder).status().unwrap();
        if !mount.success() {
            println!("skipped: a small disk can be mounted by root only");
        }
        mount.success().then_some(Self(folder))
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

fn sweep(kind: &str, offset: usize) {
    let step = if env::var_os("IOT_LONG").is_some() { 1 } else { STEP };
    let (mut runs, mut refused, mut acknowledged, mut unopened) = (0_u32, 0, 0, 0);
    let first = if step == 1 { 1 } else { 1 + offset };
    for n in (first..).step_by(step) {
        let folder = tempfile::tempdir().unwrap();
        let end = child_with_fault(folder.path(), kind, n, "first");
        let mut facts = end.acknowledged;
        check(folder.path(), &facts, kind, n);
        // It goes on where it was left.
        let second = child_with_fault(folder.path(), "none", 0, "second");
        assert!(second.ended && second.refused == 0 && !second.unopened, "{kind} at {n}");
        facts.extend(second.acknowledged);
        check(folder.path(), &facts, kind, n);
        if !end.met {
            assert!(end.ended && end.refused == 0 && runs > 10, "{runs}");
            assert!(kind != "eio" || refused > 0);
            println!(
                "count: {kind} at {runs} of {n} calls: {acknowledged} acknowledged, {refused} refused, {unopened} not \
                 opened, 0 lost"
            );
            return;
        }
        if matches!(kind, "torn" | "lost" | "power" | "reorder") {
            assert!(end.killed, "{kind} at {n}: the child was not killed");
        } else {
            assert!(end.ended || end.unopened, "{kind} at {n}: the child has crashed");
        }
        runs += 1;
        refused += end.refused;
        acknowledged += facts.len();
        unopened += u32::from(end.unopened);
    }
}

fn check(folder: &Path, facts: &Facts, kind: &str, n: usize) {
    let found = run(found(folder, 1));
    assert_eq!(lost(facts, &found), [""; 0], "{kind} at call {n}");
}

/// What a child said until it was killed.
#[derive(Default)]
struct End {
    acknowledged: Facts,
    refused: u32,
    /// It came to the end of its work.
    ended: bool,
    /// It could not open the folder, and said so.
    unopened: bool,
    /// It was ended by a signal.
    killed: bool,
    /// It made as many calls as were to go well.
    met: bool,
}

fn child_with_fault(folder: &Path, kind: &str, n: usize, life: &str) -> End {
    let mut command = this_program("a_call_that_fails_loses_nothing_acknowledged");
    command.env(FOLDER, folder).env(LIFE, life).stdout(Stdio::piped()).stderr(Stdio::piped());
    if kind != "none" {
        command.env("LD_PRELOAD", faults()).env("IOT_FAULT_FOLDER", folder);
        command.env("IOT_FAULT_KIND", kind).env("IOT_FAULT_AT", n.to_string());
    }
    let mut child = command.spawn().unwrap();
    let mut end = End::default();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if let Some(rest) = line.strip_prefix("ack ") {
            let (name, number) = fact(rest);
            end.acknowledged.insert(name, number);
        }
        end.refused += u32::from(line.starts_with("refused "));
        end.unopened |= line.starts_with("unopened ");
        end.ended |= line == "end";
        // Every second one may close what it has opened.
        if line == "end" && n.is_multiple_of(2) {
            child.kill().unwrap();
        }
    }
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!said.contains("panicked"), "{kind} at {n}: {said}");
    end.killed = output.status.code().is_none();
    end.met = said.lines().any(|line| line == "fault");
    end
}

/// The library, built once.
fn faults() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("faults.so");
        // Another process may be loading it.
        let fresh = library.with_extension(std::process::id().to_string());
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/faults.c");
        let flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", "-o"];
        let status = Command::new("cc").args(flags).args([&fresh, &source]).arg("-ldl").status().unwrap();
        assert!(status.success());
        std::fs::rename(fresh, &library).unwrap();
        library
    })
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().unwrap().block_on(future)
}

async fn child(folder: &Path) {
    let life = env::var(LIFE).unwrap();
    let store = match Sqlite::open(folder, StoreLimits::default()).await {
        Ok(store) => store,
        Err(error) => return say(&format!("unopened {error}")),
    };
    tell(store.open(opening(0)).await.map(|_| Vec::new()));
    for n in 0..ROUNDS {
        let name = format!("{life}-{n}");
        tell(append(&store, &name).await);
        tell(commit(&store, &name).await);
        match offer(&store, 0, &name).await {
            // Its session could not be made.
            Ok(facts) if facts.is_empty() => say("refused, for there is no session"),
            told => tell(told),
        }
    }
    say("end");
    store.close().await;
}

fn tell(answer: Result<Vec<(String, u64)>, StoreError>) {
    match answer {
        Ok(facts) => facts.iter().for_each(|(name, number)| say(&format!("ack {name} {number}"))),
        Err(error) => say(&format!("refused {error}")),
    }
}
