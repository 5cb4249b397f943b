use std::{sync::Arc, time::Duration};

use iot_core::{
    event::Sequence,
    id::{ConsumerId, NodeId},
    logic::{BoxLogic, Effect, EventBatch},
    store::{StoreError, TelemetryStore},
};
use tokio::{sync::watch, time::Instant};
use tower::{Service, ServiceExt};

use super::tail::{After, Tail};

/// The most events that are read from the log at once.
const LOG_BATCH_MAX: u32 = 1_000;
/// How often a checkpoint is made durable; after a crash at most this much is repeated.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

/// One consumer of the ingest log.
pub(crate) struct Consumer<F> {
    pub(crate) node: NodeId,
    pub(crate) name: ConsumerId,
    pub(crate) logic: BoxLogic,
    pub(crate) store: Arc<dyn TelemetryStore>,
    pub(crate) tail: Arc<Tail>,
    /// Carries out the effects of one batch; they are done when its future is.
    pub(crate) carry_out: F,
    pub(crate) shutdown: watch::Receiver<bool>,
}

impl<F, Fut> Consumer<F>
where
    F: Fn(Vec<Effect>) -> Fut,
    Fut: Future<Output = Result<(), StoreError>>,
{
    /// Reads on from its checkpoint until shutdown: each event at least once, in order. A batch that fails is given again.
    pub(crate) async fn run(mut self) {
        let mut done = self.load().await;
        let mut saved = done;
        let mut newest = self.tail.watch();
        let mut save_at = Instant::now() + CHECKPOINT_EVERY;
        loop {
            match self.next(done).await {
                Some(batch) => {
                    let last = batch.events.last().map_or(done, |event| event.sequence);
                    if !self.consume(batch).await {
                        break;
                    }
                    done = last;
                }
                None => {
                    tokio::select! {
                        _ = newest.changed() => {}
                        _ = self.shutdown.changed() => {}
                        () = tokio::time::sleep_until(save_at) => {}
                    }
                }
            }
            if *self.shutdown.borrow() {
                break;
            }
            if Instant::now() >= save_at {
                self.save(done, &mut saved).await;
                save_at = Instant::now() + CHECKPOINT_EVERY;
            }
        }
        self.save(done, &mut saved).await;
    }

    async fn load(&mut self) -> Sequence {
        loop {
            match self.store.checkpoint(&self.node, &self.name).await {
                Ok(sequence) => return sequence,
                Err(error) => {
                    tracing::error!(consumer = %self.name, %error, "the checkpoint cannot be read; trying again");
                }
            }
            tokio::time::sleep(CHECKPOINT_EVERY).await;
        }
    }

    async fn save(&self, done: Sequence, saved: &mut Sequence) {
        if done == *saved {
            return;
        }
        match self.store.advance(&self.node, &self.name, done).await {
            Ok(()) => *saved = done,
            Err(error) => tracing::error!(consumer = %self.name, %error, "the checkpoint cannot be saved"),
        }
    }

    async fn next(&self, done: Sequence) -> Option<EventBatch> {
        match self.tail.after(done) {
            After::Batch(batch) => return Some(batch),
            After::Nothing => return None,
            After::Log => {}
        }
        match self.store.after(&self.node, done, LOG_BATCH_MAX).await {
            Ok(events) if events.is_empty() => None,
            Ok(events) => Some(EventBatch { node: self.node.clone(), events: events.into() }),
            Err(error) => {
                tracing::error!(consumer = %self.name, %error, "the log cannot be read; trying again");
                tokio::time::sleep(CHECKPOINT_EVERY).await;
                None
            }
        }
    }

    /// `false` if shutdown came first.
    async fn consume(&mut self, batch: EventBatch) -> bool {
        let mut pause = Duration::from_millis(50);
        loop {
            let attempt = async { self.logic.ready().await?.call(batch.clone()).await };
            let error = match attempt.await {
                Ok(effects) => match (self.carry_out)(effects).await {
                    Ok(()) => return true,
                    Err(error) => error.into(),
                },
                Err(error) => error,
            };
            metrics::counter!("iot_consumer_failures_total", "consumer" => self.name.to_string()).increment(1);
            tracing::error!(consumer = %self.name, error = &*error, "a batch failed; it is given again");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = self.shutdown.changed() => return false,
            }
            pause = (pause * 2).min(Duration::from_secs(30));
        }
    }
}
