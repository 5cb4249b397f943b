//! Watches the parts of the process: when one ends, the process does.

use std::{collections::HashMap, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::{Id, JoinError, JoinSet},
};

use crate::failure::Failure;

/// How long the parts get to end in order.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// Ctrl-C and SIGTERM.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

/// Listens from now on, so that a signal during the start is not lost.
pub(crate) fn signalled() -> Result<Signals, Failure> {
    let listen = |kind| signal(kind).map_err(|error| Failure::of("signals: ", &error));
    Ok(Signals { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
}

impl Signals {
    /// Resolves at the first signal.
    pub(crate) async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// The parts that must run for as long as the process.
#[derive(Debug, Default)]
pub(crate) struct Supervisor {
    parts: JoinSet<Result<(), Failure>>,
    names: HashMap<Id, &'static str>,
}

impl Supervisor {
    pub(crate) fn spawn(
        &mut self,
        name: &'static str,
        part: impl Future<Output = Result<(), Failure>> + Send + 'static,
    ) {
        let task = self.parts.spawn(part);
        self.names.insert(task.id(), name);
    }

    /// Returns when the process is to end: `Ok` if that is because of `told`.
    pub(crate) async fn watch(&mut self, told: impl Future<Output = ()>) -> Result<(), Failure> {
        tokio::select! {
            () = told => Ok(()),
            ended = self.parts.join_next_with_id() => match ended {
                Some(ended) => {
                    let (name, result) = self.name(ended);
                    result.and(Err(Failure::part(format!("the part '{name}' has ended"))))
                }
                None => Err(Failure::part("there is nothing to run")),
            },
        }
    }

    /// Waits until every part has ended, for a while and what they are given on top. The first failure counts.
    pub(crate) async fn drain(&mut self, on_top: Duration) -> Result<(), Failure> {
        let mut outcome = Ok(());
        let ended = async {
            while let Some(ended) = self.parts.join_next_with_id().await {
                let (_, result) = self.name(ended);
                outcome = std::mem::replace(&mut outcome, Ok(())).and(result);
            }
        };
        match tokio::time::timeout(DRAIN_MAX + on_top, ended).await {
            Ok(()) => outcome,
            Err(_) => {
                let late = self.names.values().copied().collect::<Vec<_>>().join(", ");
                outcome.and(Err(Failure::part(format!("did not end in time: {late}"))))
            }
        }
    }

    fn name(&mut self, ended: Result<(Id, Result<(), Failure>), JoinError>) -> (&'static str, Result<(), Failure>) {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let name = self.names.remove(&id).unwrap_or("unknown");
        let failed = |why: &dyn std::fmt::Display| Err(Failure::part(format!("the part '{name}' has failed: {why}")));
        let result = match ended {
            Ok((_, Ok(()))) => Ok(()),
            Ok((_, Err(failure))) => failed(&failure),
            Err(error) => failed(&error),
        };
        (name, result)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    fn with(parts: impl IntoIterator<Item = &'static str>) -> Supervisor {
        let mut supervisor = Supervisor::default();
        parts.into_iter().for_each(|name| supervisor.spawn(name, pending()));
        supervisor
    }

    #[tokio::test]
    async fn a_signal_is_no_failure() {
        assert!(with(["node", "http"]).watch(ready(())).await.is_ok());
    }

    #[tokio::test]
    async fn the_part_that_ended_is_named() {
        let mut supervisor = with(["node", "http"]);
        supervisor.spawn("demo", ready(Ok(())));
        let failure = supervisor.watch(pending()).await.unwrap_err();
        assert_eq!(failure.to_string(), "the part 'demo' has ended");
    }

    #[tokio::test]
    async fn the_part_that_panicked_is_named() {
        let mut supervisor = with(["node"]);
        supervisor.spawn("http", async { panic!("on purpose") });
        let failure = supervisor.watch(pending()).await.unwrap_err().to_string();
        assert!(failure.contains("'http'") && failure.contains("on purpose"), "{failure}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_in_time_and_names_what_did_not() {
        let mut supervisor = with(["node"]);
        supervisor.spawn("http", ready(Ok(())));
        let started = tokio::time::Instant::now();
        let failure = supervisor.drain(Duration::ZERO).await.unwrap_err().to_string();
        assert!(failure.contains("node") && !failure.contains("http"), "{failure}");
        assert_eq!(started.elapsed(), DRAIN_MAX);
    }

    #[tokio::test]
    async fn the_first_failure_of_a_drain_counts() {
        let mut supervisor = Supervisor::default();
        supervisor.spawn("http", ready(Ok(())));
        supervisor.spawn("node", ready(Err(Failure::part("the disk is full"))));
        let failure = supervisor.drain(Duration::ZERO).await.unwrap_err().to_string();
        assert_eq!(failure, "the part 'node' has failed: the disk is full");
    }
}
