//! One thread per file writes it: it takes all jobs that wait, runs each in a savepoint of one transaction, commits once,
//! and then answers all.

use std::{
    io,
    sync::{Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use iot_core::store::StoreError;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::fault::Fault;

/// The most jobs that wait for a writer; while so many do, callers wait for a place.
const JOBS_WAITING_MAX: usize = 1_024;
/// The most jobs of one transaction: bounds how long the first of them waits for the others.
const JOBS_PER_COMMIT_MAX: usize = 256;
/// The most prepared statements that a connection keeps.
pub(super) const STATEMENTS_MAX: usize = 128;

/// What a job did.
pub(super) enum Outcome<T> {
    /// Commit what was written, then answer.
    Keep(T),
    /// Undo what this job has written, then answer.
    Undo(T),
}

/// How much is undone when a job fails or asks for it.
#[derive(Clone, Copy)]
pub(super) enum Undo {
    /// What the job has written: each runs in a savepoint, for which every page that it changes is copied.
    Job,
    /// What all jobs of the group have written: for jobs that fail only when the file does.
    Group,
}

/// What a thread that writes remembers from job to job about what is in the file.
pub(super) trait Memo: Send + 'static {
    /// What the group has written is in the file; before anybody is answered.
    fn committed(&mut self);
    /// Some of what was written since the last commit, or all, is not.
    fn undone(&mut self) {}
    /// Nothing of what was written since the last commit is.
    fn rolled_back(&mut self) {}
}

/// The way to a thread that writes. `M` is what it remembers.
pub(super) struct Writer<M> {
    // Small sections, never across an await.
    jobs: Mutex<Option<mpsc::Sender<Box<dyn Job<M>>>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl<M: Memo> Writer<M> {
    pub(super) fn start(name: &str, connection: Connection, undo: Undo, memo: M) -> io::Result<Self> {
        let (sender, mut jobs) = mpsc::channel(JOBS_WAITING_MAX);
        let serve = move || serve(&connection, undo, memo, &mut jobs);
        let thread = thread::Builder::new().name(name.to_owned()).spawn(serve)?;
        Ok(Self { jobs: Mutex::new(Some(sender)), thread: Mutex::new(Some(thread)) })
    }

    /// Runs a job and waits until it is committed. If the caller is gone before the job was taken over by the channel,
    /// it never runs; afterwards it runs to its end.
    pub(super) async fn run<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection, &mut M) -> Result<Outcome<T>, Fault> + Send + 'static,
    {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or(Fault::Closed)?;
        let (answer, answered) = oneshot::channel();
        let job = Pending { work: Some(work), outcome: Err(Fault::stopped()), answer };
        jobs.send(Box::new(job)).await.map_err(|_| Fault::stopped())?;
        drop(jobs);
        Ok(answered.await.unwrap_or_else(|_| Err(Fault::stopped()))?)
    }

    /// Takes no further jobs, carries out those that wait, checkpoints and closes the file. Blocks.
    pub(super) fn end(&self) {
        drop(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }
}

trait Job<M>: Send {
    /// Whether what was written is to be kept.
    fn run(&mut self, connection: &Connection, memo: &mut M) -> bool;
    /// Why it failed, if it did.
    fn fault(&self) -> Option<Fault>;
    /// Tells the caller how it ended; `group` is why the whole group failed.
    fn answer(self: Box<Self>, group: Option<&Fault>);
}

struct Pending<F, T> {
    work: Option<F>,
    outcome: Result<T, Fault>,
    answer: oneshot::Sender<Result<T, Fault>>,
}

impl<F, T, M> Job<M> for Pending<F, T>
where
    T: Send,
    F: FnOnce(&Connection, &mut M) -> Result<Outcome<T>, Fault> + Send,
{
    fn run(&mut self, connection: &Connection, memo: &mut M) -> bool {
        let Some(work) = self.work.take() else { return false };
        let (outcome, keep) = match work(connection, memo) {
            Ok(Outcome::Keep(value)) => (Ok(value), true),
            Ok(Outcome::Undo(value)) => (Ok(value), false),
            Err(fault) => (Err(fault), false),
        };
        self.outcome = outcome;
        keep
    }

    fn fault(&self) -> Option<Fault> {
        self.outcome.as_ref().err().cloned()
    }

    fn answer(self: Box<Self>, group: Option<&Fault>) {
        let outcome = group.map_or(self.outcome, |fault| Err(fault.clone()));
        // A caller that has gone does not want to know.
        let _ = self.answer.send(outcome);
    }
}

fn serve<M: Memo>(connection: &Connection, undo: Undo, mut memo: M, jobs: &mut mpsc::Receiver<Box<dyn Job<M>>>) {
    let mut group = Vec::with_capacity(JOBS_PER_COMMIT_MAX);
    while jobs.blocking_recv_many(&mut group, JOBS_PER_COMMIT_MAX) > 0 {
        let ended = carry_out(connection, undo, &mut memo, &mut group);
        for job in group.drain(..) {
            job.answer(ended.as_ref().err());
        }
    }
    // The log is replayed at the next start if this cannot be done now.
    let _ = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
}

fn carry_out<M: Memo>(
    connection: &Connection,
    undo: Undo,
    memo: &mut M,
    group: &mut [Box<dyn Job<M>>],
) -> Result<(), Fault> {
    let committed = connection
        .prepare_cached("BEGIN IMMEDIATE")
        .and_then(|mut begin| begin.execute([]))
        .map_err(Fault::from)
        .and_then(|_| {
            group.iter_mut().try_for_each(|job| match undo {
                Undo::Job => run_alone(connection, memo, &mut **job),
                Undo::Group => run_with_group(connection, memo, &mut **job),
            })
        })
        .and_then(|()| Ok(connection.prepare_cached("COMMIT")?.execute([]).map(drop)?));
    if committed.is_ok() {
        memo.committed();
    } else {
        memo.undone();
        memo.rolled_back();
        if !connection.is_autocommit() {
            let _ = connection.execute_batch("ROLLBACK");
        }
    }
    committed
}

fn run_alone<M: Memo>(connection: &Connection, memo: &mut M, job: &mut dyn Job<M>) -> Result<(), Fault> {
    connection.prepare_cached("SAVEPOINT job")?.execute([])?;
    if !job.run(connection, memo) {
        memo.undone();
        // After some failures, a full disk among them, SQLite has undone the whole transaction.
        if connection.is_autocommit() {
            return Err(job.fault().unwrap_or_else(Fault::stopped));
        }
        connection.prepare_cached("ROLLBACK TO job")?.execute([])?;
    }
    connection.prepare_cached("RELEASE job")?.execute([])?;
    Ok(())
}

fn run_with_group<M>(connection: &Connection, memo: &mut M, job: &mut dyn Job<M>) -> Result<(), Fault> {
    if job.run(connection, memo) { Ok(()) } else { Err(job.fault().unwrap_or_else(Fault::stopped)) }
}
