//! Watches the parts of the process: when one ends, the process does.

use std::time::Duration;

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
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
    parts: JoinSet<(&'static str, Result<(), Failure>)>,
}

impl Supervisor {
    pub(crate) fn spawn(
        &mut self,
        name: &'static str,
        part: impl Future<Output = Result<(), Failure>> + Send + 'static,
    ) {
        self.parts.spawn(async move { (name, part.await) });
    }

    /// Returns when the process is to end: `Ok` by a signal.
    pub(crate) async fn watch(&mut self, mut signals: Signals) -> Result<(), Failure> {
        tokio::select! {
            () = signals.received() => Ok(()),
            ended = self.parts.join_next() => Err(match ended {
                Some(Ok((name, Ok(())))) => Failure::part(format!("the part '{name}' has ended")),
                Some(Ok((name, Err(failure)))) => Failure::part(format!("the part '{name}' has failed: {failure}")),
                Some(Err(error)) => Failure::part(format!("a part has panicked: {error}")),
                None => Failure::part("there is nothing to run"),
            }),
        }
    }

    /// Waits until every part has ended, for a while.
    pub(crate) async fn drain(&mut self) -> Result<(), Failure> {
        let ended = async {
            let mut outcome = Ok(());
            while let Some(ended) = self.parts.join_next().await {
                outcome = match ended {
                    Ok((_, result)) => outcome.and(result),
                    Err(error) => outcome.and(Err(Failure::part(format!("a part has panicked: {error}")))),
                };
            }
            outcome
        };
        match tokio::time::timeout(DRAIN_MAX, ended).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::part("some parts did not end in time")),
        }
    }
}
