//! The upkeep of telemetry, for as long as the server runs.

use std::{sync::Arc, time::Duration};

use iot_core::{
    clock::Clock,
    store::{Policies, TelemetryStore},
};

const EVERY: Duration = Duration::from_secs(60);

/// Seals and forgets every minute.
pub(crate) async fn maintain(store: Arc<dyn TelemetryStore>, policies: Policies, clock: Arc<dyn Clock>) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        match store.maintain(clock.timestamp(), &policies).await {
            Ok(done) => {
                metrics::counter!("iot_telemetry_sealed_events_total").increment(done.sealed);
                metrics::counter!("iot_telemetry_forgotten_events_total").increment(done.forgotten);
            }
            Err(error) => tracing::warn!(%error, "telemetry cannot be sealed"),
        }
    }
}
