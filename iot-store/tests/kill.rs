//! A process that is killed at any moment loses nothing that it was told is stored.
//!
//! The test starts itself as a child, which appends, commits and offers from many tasks and prints what was acknowledged;
//! the parent kills it with SIGKILL while more than a thousand writes are on their way, tears the ends of its logs, opens the
//! folder, and looks for every printed line. Three rounds, or as many as `IOT_KILL_ROUNDS` says. That the test would notice
//! is a test of its own: a child that acknowledges before it has stored.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    env, fs,
    future::Future,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use iot_core::store::{SessionStore, StoreError};
use iot_store::{StoreLimits, sqlite::Sqlite};
use support::{
    EVENTS_PER_BATCH, Facts, append, commit, event_names, fact, found, lost, number, offer, opening, random, say,
    this_program,
};

const FOLDER: &str = "IOT_KILL_FOLDER";
const LIFE: &str = "IOT_KILL_LIFE";
const EARLY: &str = "IOT_KILL_EARLY";
const ROUNDS: &str = "IOT_KILL_ROUNDS";
const SEED: &str = "IOT_KILL_SEED";
/// A child is killed at a random line between these two: late enough that much was acknowledged.
const LINES: std::ops::Range<u64> = 1_500..6_000;
/// The writers of each of the three stores. All but those of one group commit are always on their way.
const APPENDERS: u64 = 60;
const COMMITTERS: u64 = 700;
const OFFERERS: u64 = 700;
/// Events, batches and messages that were begun and not acknowledged.
const IN_FLIGHT_MIN: u64 = 1_000;

#[test]
fn nothing_acknowledged_is_lost() {
    if let Ok(folder) = env::var(FOLDER) {
        tokio::runtime::Runtime::new().unwrap().block_on(child(Path::new(&folder)));
        return;
    }
    let mut seed = number(SEED, 0x5eed);
    println!("{SEED}={seed}");
    let (mut kills, mut facts, mut least) = (0, 0, u64::MAX);
    for _ in 0..number(ROUNDS, 3) {
        let folder = tempfile::tempdir().unwrap();
        let mut acknowledged = Facts::new();
        // The second start continues in what the first kill has left.
        for life in 0..2 {
            let killed = run_and_kill(folder.path(), life, random(&mut seed, LINES), false);
            assert!(killed.in_flight >= IN_FLIGHT_MIN, "only {} were in flight", killed.in_flight);
            acknowledged.extend(killed.acknowledged);
            assert!(acknowledged.len() as u64 >= LINES.start);
            torn_logs_end_early(folder.path(), &mut seed);
            tear_what_was_not_acknowledged(folder.path(), &mut seed);
            let found = run(found(folder.path(), OFFERERS));
            let lost = lost(&acknowledged, &found);
            assert!(lost.is_empty(), "{} of {} are lost: {:?}", lost.len(), acknowledged.len(), lost.first());
            (kills, least) = (kills + 1, least.min(killed.in_flight));
        }
        facts += acknowledged.len();
    }
    println!("count: {kills} kills with at least {least} in flight, {facts} acknowledged, 0 lost");
}

/// The test of the test.
#[test]
fn a_child_that_acknowledges_early_is_caught() {
    let folder = tempfile::tempdir().unwrap();
    let mut seed = number(SEED, 0x5eed);
    let killed = run_and_kill(folder.path(), 0, random(&mut seed, LINES), true);
    let found = run(found(folder.path(), OFFERERS));
    let lost = lost(&killed.acknowledged, &found);
    println!("acknowledged before it was stored: {} of {} lost", lost.len(), killed.acknowledged.len());
    for store in ["event", "batch", "message"] {
        assert!(lost.iter().any(|name| name.starts_with(store)), "no {store} was lost");
    }
}

struct Killed {
    acknowledged: Facts,
    in_flight: u64,
}

/// What the child said before it was killed after so many lines.
fn run_and_kill(folder: &Path, life: u32, until: u64, early: bool) -> Killed {
    let mut command = this_program("nothing_acknowledged_is_lost");
    command.env(FOLDER, folder).env(LIFE, life.to_string()).stdout(Stdio::piped());
    if early {
        command.env(EARLY, "1");
    }
    let mut child = command.spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut killed = Killed { acknowledged: Facts::new(), in_flight: 0 };
    let (mut line, mut lines) = (String::new(), 0);
    while output.read_line(&mut line).unwrap() > 0 {
        if let Some(rest) = line.strip_prefix("ack ").and_then(|rest| rest.strip_suffix('\n')) {
            let (in_flight, rest) = rest.split_once(' ').unwrap();
            let (name, number) = fact(rest);
            killed.acknowledged.insert(name, number);
            lines += 1;
            if lines == until {
                child.kill().unwrap();
                killed.in_flight = in_flight.parse().unwrap();
            }
        }
        line.clear();
    }
    assert!(!child.wait().unwrap().success(), "the child must not end by itself");
    killed
}

/// A record that was being written when the power went: its beginning is there, then something else.
fn tear_what_was_not_acknowledged(folder: &Path, seed: &mut u64) {
    for log in ["control.db-wal", "data.db-wal"] {
        let path = folder.join(log);
        let written = fs::read(&path).unwrap();
        let length = usize::try_from(random(seed, 1..8_000)).unwrap().min(written.len());
        let mut file = fs::File::options().append(true).open(&path).unwrap();
        file.write_all(&written[written.len() - length..]).unwrap();
    }
}

/// A copy whose logs end anywhere opens, and what it has is the beginning of what was written.
fn torn_logs_end_early(folder: &Path, seed: &mut u64) {
    let copy = tempfile::tempdir().unwrap();
    for file in ["control.db", "control.db-wal", "data.db", "data.db-wal"] {
        fs::copy(folder.join(file), copy.path().join(file)).unwrap();
    }
    let whole = run(found(copy.path(), OFFERERS));
    for file in ["control.db", "control.db-wal", "data.db", "data.db-wal"] {
        fs::copy(folder.join(file), copy.path().join(file)).unwrap();
    }
    for log in ["control.db-wal", "data.db-wal"] {
        let file = fs::File::options().write(true).open(copy.path().join(log)).unwrap();
        let length = file.metadata().unwrap().len();
        file.set_len(random(seed, length / 2..length)).unwrap();
    }
    let torn = run(found(copy.path(), OFFERERS));
    assert!(torn.iter().all(|(name, number)| whole.get(name) == Some(number)));
    // Commits and events are numbered in the order in which they were written: there is no gap.
    for kind in ["batch ", "event "] {
        let numbers = |of: &std::collections::BTreeMap<String, u64>| {
            let mut numbers: Vec<u64> = of.iter().filter(|(name, _)| name.starts_with(kind)).map(|(_, n)| *n).collect();
            numbers.sort_unstable();
            numbers
        };
        let (left, all) = (numbers(&torn), numbers(&whole));
        assert_eq!(left, all[..left.len()], "{kind}");
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().unwrap().block_on(future)
}

/// What the tasks of a child share.
struct Child {
    store: Sqlite,
    in_flight: AtomicU64,
    early: bool,
}

impl Child {
    /// Writes and acknowledges, in this order or, with [`EARLY`], in the other.
    async fn write<F>(self: &Arc<Self>, names: Vec<String>, writing: F)
    where
        F: Future<Output = Result<Vec<(String, u64)>, StoreError>> + Send + 'static,
    {
        let count = names.len() as u64;
        self.in_flight.fetch_add(count, Ordering::SeqCst);
        if self.early {
            for name in names {
                self.acknowledge(&name, "-");
            }
            let child = Arc::clone(self);
            drop(tokio::spawn(async move {
                writing.await.unwrap();
                child.in_flight.fetch_sub(count, Ordering::SeqCst);
            }));
            return tokio::task::yield_now().await;
        }
        let facts = writing.await.unwrap();
        self.in_flight.fetch_sub(count, Ordering::SeqCst);
        for (name, number) in facts {
            self.acknowledge(&name, &number.to_string());
        }
    }

    fn acknowledge(&self, name: &str, number: &str) {
        say(&format!("ack {} {name} {number}", self.in_flight.load(Ordering::SeqCst)));
    }
}

async fn child(folder: &Path) {
    let limits = StoreLimits { queue_messages_max: 1_000_000, ..StoreLimits::default() };
    let store = Sqlite::open(folder, limits).await.unwrap();
    let child = Arc::new(Child { store, in_flight: AtomicU64::new(0), early: env::var_os(EARLY).is_some() });
    let life = env::var(LIFE).unwrap();
    let openings: Vec<_> = (0..OFFERERS)
        .map(|to| {
            let store = child.store.clone();
            tokio::spawn(async move { store.open(opening(to)).await.unwrap() })
        })
        .collect();
    for opened in openings {
        opened.await.unwrap();
    }
    // In an order that has all kinds among the first.
    let count = APPENDERS + COMMITTERS + OFFERERS;
    let tasks: Vec<_> = (0..count)
        .map(|place| place * 997 % count)
        .map(|task| {
            let (child, life) = (Arc::clone(&child), life.clone());
            tokio::spawn(async move {
                let offers_to = task.checked_sub(APPENDERS + COMMITTERS);
                for n in 0_u64.. {
                    let (store, name) = (child.store.clone(), format!("{life}-{task}-{n}"));
                    match offers_to {
                        Some(to) => {
                            let names = vec![format!("message {name}")];
                            child.write(names, async move { offer(&store, to, &name).await }).await;
                        }
                        None if task < APPENDERS => {
                            let names: Vec<String> =
                                event_names(&name).iter().map(|name| format!("event {name}")).collect();
                            assert_eq!(names.len(), EVENTS_PER_BATCH);
                            child.write(names, async move { append(&store, &name).await }).await;
                        }
                        None => {
                            let names = vec![format!("batch {name}")];
                            child.write(names, async move { commit(&store, &name).await }).await;
                        }
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}
