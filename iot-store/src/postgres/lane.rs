//! A lane takes all jobs that wait, carries them out in one transaction, commits once, and then answers all.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use deadpool_postgres::{Client, Pool};
use iot_core::store::StoreError;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

use super::fault::Fault;

/// The most jobs that wait for a lane; while so many do, callers wait for a place.
const JOBS_WAITING_MAX: usize = 1_024;
/// The most jobs of one transaction: bounds how long the first of them waits for the others.
const JOBS_PER_COMMIT_MAX: usize = 256;
/// The most that one transaction writes, in bytes; one job that is larger goes alone.
const WEIGHT_PER_COMMIT_MAX: usize = 8 * 1024 * 1024;
/// How often a group is tried when another transaction was in its way.
const ATTEMPTS_MAX: usize = 10;
/// How long a group may take; a connection that says nothing for so long is given up.
const GROUP_WITHIN: Duration = Duration::from_secs(60);

/// What a lane does with a group.
#[async_trait]
pub(super) trait Work: Send + Sync + 'static {
    /// What a caller wants.
    type Job: Send + Sync + 'static;
    /// What it is told.
    type Answer: Send + 'static;

    /// How many bytes a job writes, about.
    fn weight(job: &Self::Job) -> usize;

    /// Carries out jobs in one transaction, from its BEGIN to its COMMIT; the answers are in the order of the jobs. After
    /// a failure the connection is closed, so that the server undoes what was not committed.
    async fn carry_out(&self, client: &Client, jobs: &[Self::Job]) -> Result<Vec<Self::Answer>, Fault>;
}

/// The way to a task that writes.
pub(super) struct Lane<W: Work> {
    // Small sections, never across an await.
    jobs: Mutex<Option<mpsc::Sender<Pending<W>>>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

struct Pending<W: Work> {
    job: W::Job,
    answer: oneshot::Sender<Result<W::Answer, Fault>>,
}

impl<W: Work> Lane<W> {
    pub(super) fn start(pool: Pool, work: W) -> Self {
        let (sender, jobs) = mpsc::channel(JOBS_WAITING_MAX);
        let task = tokio::spawn(serve(Connection { pool, client: None }, work, jobs));
        Self { jobs: Mutex::new(Some(sender)), task: Mutex::new(Some(task)) }
    }

    /// Runs a job and waits until it is committed. If the caller is gone before the job was taken over by the channel,
    /// it never runs; afterwards it runs to its end.
    pub(super) async fn run(&self, job: W::Job) -> Result<W::Answer, StoreError> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or(Fault::Closed)?;
        let (answer, answered) = oneshot::channel();
        jobs.send(Pending { job, answer }).await.map_err(|_| Fault::stopped())?;
        drop(jobs);
        Ok(answered.await.unwrap_or_else(|_| Err(Fault::stopped()))?)
    }

    /// Takes no further jobs and carries out those that wait.
    pub(super) async fn end(&self) {
        drop(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }
}

/// A lane's own connection, which it keeps from group to group.
struct Connection {
    pool: Pool,
    client: Option<Client>,
}

impl Connection {
    async fn client(&mut self) -> Result<&Client, Fault> {
        if self.client.as_ref().is_none_or(|client| client.is_closed()) {
            self.client = None;
            self.client = Some(self.pool.get().await?);
        }
        self.client.as_ref().ok_or_else(Fault::stopped)
    }

    /// Closes it, in whatever state it is.
    fn give_up(&mut self) {
        if let Some(client) = self.client.take() {
            drop(Client::take(client));
        }
    }
}

async fn serve<W: Work>(mut connection: Connection, work: W, mut jobs: mpsc::Receiver<Pending<W>>) {
    let mut group = Vec::with_capacity(JOBS_PER_COMMIT_MAX);
    while jobs.recv_many(&mut group, JOBS_PER_COMMIT_MAX).await > 0 {
        let (jobs, answers): (Vec<W::Job>, Vec<_>) =
            group.drain(..).map(|Pending { job, answer }| (job, answer)).unzip();
        let mut answers = answers.into_iter();
        let mut rest = &jobs[..];
        while !rest.is_empty() {
            let (group, later) = rest.split_at(group_size::<W>(rest));
            for (outcome, answer) in outcomes(&mut connection, &work, group).await.into_iter().zip(&mut answers) {
                // A caller that has gone does not want to know.
                let _ = answer.send(outcome);
            }
            rest = later;
        }
    }
}

/// How many jobs go into one transaction.
fn group_size<W: Work>(jobs: &[W::Job]) -> usize {
    let mut weight = 0;
    let fits = jobs.iter().take_while(|job| {
        weight += W::weight(job);
        weight <= WEIGHT_PER_COMMIT_MAX
    });
    fits.count().max(1)
}

/// If the server refuses what one job has written, each is carried out alone, so that only that one fails.
async fn outcomes<W: Work>(connection: &mut Connection, work: &W, jobs: &[W::Job]) -> Vec<Result<W::Answer, Fault>> {
    match attempts(connection, work, jobs).await {
        Ok(answers) => answers.into_iter().map(Ok).collect(),
        Err(Fault::Refused(_)) if jobs.len() > 1 => {
            let mut outcomes = Vec::with_capacity(jobs.len());
            for job in jobs.chunks(1) {
                let answers = attempts(connection, work, job).await;
                outcomes.push(answers.and_then(|answers| answers.into_iter().next().ok_or_else(Fault::stopped)));
            }
            outcomes
        }
        Err(fault) => jobs.iter().map(|_| Err(fault.clone())).collect(),
    }
}

async fn attempts<W: Work>(connection: &mut Connection, work: &W, jobs: &[W::Job]) -> Result<Vec<W::Answer>, Fault> {
    let mut attempt = 1;
    loop {
        let outcome = match connection.client().await {
            Ok(client) => timeout(GROUP_WITHIN, work.carry_out(client, jobs))
                .await
                .unwrap_or_else(|_| Err(Fault::unavailable("the server does not answer"))),
            Err(fault) => Err(fault),
        };
        let Err(fault) = outcome else { return outcome };
        connection.give_up();
        if attempt == ATTEMPTS_MAX || !matches!(fault, Fault::Again(_)) {
            return Err(fault);
        }
        attempt += 1;
    }
}
