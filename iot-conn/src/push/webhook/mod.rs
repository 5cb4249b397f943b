//! Webhooks: registrations, an outbox that survives restarts, deliveries in the form of [Standard Webhooks], dead letters.
//!
//! [`Webhooks`] is a backend of [`Push`](iot_core::push::Push). A notification becomes one delivery for each webhook that
//! wants it, stored in one commit; [`Webhooks::run`] tries them until the receiver answers 2xx or a day has passed. Then a
//! delivery is a dead letter, which can be replayed.
//!
//! A receiver hears at least once and in no order; `webhook-id` is the same for all attempts. Whether it may still hear is
//! decided **before each attempt**, from the records as they are then: a device's ownership epoch, the home it stands in,
//! and the address of the receiver's host.
//!
//! One process runs the deliveries of a store. Do not run two over the same one: receivers would hear twice.
//!
//! | module | what |
//! |---|---|
//! | `address`, `endpoint`, `client` | where deliveries may go, and the one request there |
//! | `schedule` | when they are tried: an engine |
//! | `record` | what is stored, and the rule that decides whether a delivery still stands |
//! | `registry`, `outbox`, `worker` | the service over them |
//!
//! [Standard Webhooks]: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md

mod address;
mod client;
mod endpoint;
mod outbox;
mod record;
mod registry;
mod schedule;
mod signature;
#[cfg(test)]
mod tests;
mod worker;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use iot_core::{
    clock::Clock,
    keys::{KeyError, KeyRing},
    store::{self, Contended, MetaStore, Step, StoreError},
};
use tokio::sync::Notify;

pub use address::is_global;
pub use client::{Client, Resolve, SystemResolver, native_roots};
pub use endpoint::{URL_BYTES_MAX, UrlRefusal};
pub use outbox::Replayed;
pub use record::{Delivery, DeliveryState, Disabled, DisabledReason, PreviousSecret, ROTATION, WEBHOOKS_MAX, Webhook};
pub use registry::{NewWebhook, Place, Registered, Shown};
pub use schedule::{Next, RETRY_DELAYS, RETRY_SPAN, Schedule, ScheduleLimits, after_failure};

/// What the webhooks of one process hold.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct WebhookLimits {
    /// Attempts and waiting deliveries. A notification for an endpoint that has as many waiting as it may is dropped for
    /// that endpoint and counted.
    pub schedule: ScheduleLimits,
    /// The most dead letters of one webhook; it is disabled when it has as many.
    pub dead_letters_max: u64,
    /// A webhook to which nothing was delivered for so long is disabled at the next dead letter.
    pub failing_max: Duration,
    /// How long dead letters are kept.
    pub dead_kept: Duration,
    /// How long deliveries are kept that were made, so that a repeated notification is recognised.
    pub delivered_kept: Duration,
}

impl Default for WebhookLimits {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 3_600);
        Self {
            schedule: ScheduleLimits {
                in_flight_max: 64,
                in_flight_per_endpoint_max: 4,
                waiting_per_endpoint_max: 10_000,
            },
            dead_letters_max: 1_000,
            failing_max: 5 * DAY,
            dead_kept: 30 * DAY,
            delivered_kept: DAY,
        }
    }
}

/// The webhooks of a deployment.
pub struct Webhooks {
    meta: Arc<dyn MetaStore>,
    keys: Arc<dyn KeyRing>,
    clock: Arc<dyn Clock>,
    client: Client,
    limits: WebhookLimits,
    // What is stored as waiting. Small sections, never across an await.
    schedule: Mutex<Schedule>,
    wake: Notify,
}

/// The operation could not be carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebhookError {
    /// The store failed; try again.
    #[error("the webhooks' store failed")]
    Store(#[from] StoreError),
    /// The key ring failed; try again.
    #[error("the webhooks' secrets cannot be sealed or opened")]
    Keys(#[from] KeyError),
    /// Others wrote the same records all the time; try again.
    #[error(transparent)]
    Contended(#[from] Contended),
}

impl fmt::Debug for Webhooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhooks").field("client", &self.client).finish_non_exhaustive()
    }
}

impl Webhooks {
    /// Over a store, with the deliveries that wait there. They are tried once it [runs](Self::run).
    pub async fn open(
        meta: Arc<dyn MetaStore>,
        keys: Arc<dyn KeyRing>,
        clock: Arc<dyn Clock>,
        client: Client,
        limits: WebhookLimits,
    ) -> Result<Arc<Self>, StoreError> {
        let schedule = Mutex::new(Schedule::new(limits.schedule));
        let webhooks = Arc::new(Self { meta, keys, clock, client, limits, schedule, wake: Notify::new() });
        webhooks.restore().await?;
        Ok(webhooks)
    }

    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides, commits, and decides again where a check did not hold.
    async fn settle<T, F>(&self, decide: impl FnMut() -> F) -> Result<T, WebhookError>
    where
        F: Future<Output = Result<Step<T>, WebhookError>>,
    {
        store::settle(&*self.meta, decide).await
    }
}
