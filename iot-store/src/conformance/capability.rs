//! What some backends can and others cannot, and which cases are skipped for it.
#![expect(clippy::print_stdout, reason = "a skipped run says that it was skipped")]

use std::{collections::BTreeSet, fmt};

use super::Backend;

/// What a backend may do beyond what the contracts demand of every one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Capability {
    /// Records, changes and audit entries are there again after the stores were dropped and opened.
    DurableRecords,
    /// So is telemetry.
    DurableTelemetry,
    /// So are sessions, queues and retained messages.
    DurableSessions,
    /// Telemetry is rolled up when it is sealed, and its metrics are kept each for its own time. A backend without it forgets reports
    /// whole, when the longest time is over.
    Rollups,
    /// It may be opened while it is open, by other processes too, and all of them use the same stores.
    Shared,
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A case of the exam.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// Its module, and that of its test.
    pub module: &'static str,
    /// Its function, and its test.
    pub name: &'static str,
    /// Without one of these it is skipped.
    pub needs: &'static [Capability],
}

impl Case {
    fn missing(&self, backend: &impl Backend) -> Option<Capability> {
        self.needs.iter().find(|needed| !backend.capabilities().contains(needed)).copied()
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}::{}", self.module, self.name)
    }
}

/// Whether the case of this name needs what the backend does not declare; says so if it does.
pub fn is_skipped(backend: &impl Backend, cases: &[Case], name: &str) -> bool {
    let case = cases.iter().find(|case| case.name == name).unwrap();
    let missing = case.missing(backend);
    if let Some(missing) = missing {
        println!("skipped: {case} needs {missing}");
    }
    missing.is_some()
}

/// Compares what is skipped with a list, both ways.
///
/// # Panics
/// If a case is skipped that the list does not name, or the list names one that is not skipped.
pub fn check_skips(backend: &impl Backend, cases: &[Case], listed: &[&str]) {
    let skipped: BTreeSet<String> =
        cases.iter().filter(|case| case.missing(backend).is_some()).map(Case::to_string).collect();
    let listed: BTreeSet<String> = listed.iter().map(|name| (*name).to_owned()).collect();
    let unlisted: Vec<&String> = skipped.difference(&listed).collect();
    let run: Vec<&String> = listed.difference(&skipped).collect();
    assert!(unlisted.is_empty(), "skipped, but not in the list of skips: {unlisted:?}");
    assert!(run.is_empty(), "in the list of skips, but not skipped: {run:?}");
}

/// Prints a line for each case: the type of the backend, the case, and whether it is run.
pub fn tell<B: Backend>(backend: &B, cases: &[Case]) {
    let name = std::any::type_name::<B>();
    for case in cases {
        match case.missing(backend) {
            None => println!("case\t{name}\t{case}\trun"),
            Some(missing) => println!("case\t{name}\t{case}\tneeds {missing}"),
        }
    }
    println!("case\t{name}\tmodel\trun");
}
