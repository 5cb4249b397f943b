//! The upkeep of telemetry, for as long as the server runs.

use std::{sync::Arc, time::Duration};

use iot_core::{
    clock::Clock,
    store::{Forecast, Growth, Policies, TelemetryStore, Usage},
    time::Timestamp,
};

const EVERY: Duration = Duration::from_secs(60);
/// How often the log tells how much room telemetry takes.
const TOLD_EVERY: Duration = Duration::from_secs(86_400);
/// When it is full in fewer days than this, the log warns.
const WARNED_DAYS: u32 = 14;

/// Seals and forgets every minute, and watches how much room is left.
pub(crate) async fn maintain(store: Arc<dyn TelemetryStore>, policies: Policies, clock: Arc<dyn Clock>) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut room = Room::default();
    loop {
        tick.tick().await;
        let now = clock.timestamp();
        match store.maintain(now, &policies).await {
            Ok(done) => {
                metrics::counter!("iot_telemetry_sealed_events_total").increment(done.sealed);
                metrics::counter!("iot_telemetry_forgotten_events_total").increment(done.forgotten);
            }
            Err(error) => tracing::warn!(%error, "telemetry cannot be sealed"),
        }
        match store.usage().await {
            Ok(usage) => room.watch(now, usage),
            Err(error) => tracing::warn!(%error, "how much room telemetry takes cannot be read"),
        }
    }
}

#[derive(Default)]
struct Room {
    growth: Growth,
    told: Option<Timestamp>,
}

impl Room {
    fn watch(&mut self, now: Timestamp, usage: Usage) {
        self.growth.observe(now, usage);
        let forecast = self.growth.forecast();
        gauge("iot_telemetry_bytes", usage.bytes);
        if let Some(free) = usage.bytes_free {
            gauge("iot_telemetry_free_bytes", free);
        }
        if let Forecast::Full { in_days } = forecast {
            metrics::gauge!("iot_telemetry_full_in_days").set(in_days);
        } else {
            metrics::gauge!("iot_telemetry_full_in_days").set(f64::INFINITY);
        }
        if self.told.is_none_or(|told| now >= told.plus(TOLD_EVERY) || now < told) {
            self.told = Some(now);
            let text = told(usage, forecast);
            match forecast {
                Forecast::Full { in_days } if in_days < WARNED_DAYS => tracing::warn!("{text}"),
                _ => tracing::info!("{text}"),
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge")]
fn gauge(name: &'static str, bytes: u64) {
    metrics::gauge!(name).set(bytes as f64);
}

fn told(usage: Usage, forecast: Forecast) -> String {
    let free = usage.bytes_free.map(|free| format!(", {} MiB are free", free >> 20)).unwrap_or_default();
    let forecast = match forecast {
        Forecast::Full { in_days } => format!(", full in {in_days} days: keep less (--retain) or make room"),
        Forecast::Steady => ", enough for years".to_owned(),
        Forecast::Unknown => String::new(),
    };
    format!("telemetry takes {} MiB{free}{forecast}", usage.bytes >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_tells_once_a_day_and_says_when_it_is_full() {
        let (mut room, hour) = (Room::default(), 3_600_000_000);
        let mut tellings = Vec::new();
        for n in 0..60 {
            let usage = Usage { bytes: n << 30, bytes_free: Some(100 << 30) };
            room.watch(Timestamp::from_micros(n.cast_signed() * hour), usage);
            if room.told == Some(Timestamp::from_micros(n.cast_signed() * hour)) {
                tellings.push((n, told(usage, room.growth.forecast())));
            }
        }
        assert_eq!(tellings.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [0, 24, 48]);
        assert_eq!(tellings[0].1, "telemetry takes 0 MiB, 102400 MiB are free");
        let full = "telemetry takes 24576 MiB, 102400 MiB are free, full in 4 days: keep less (--retain) or make room";
        assert_eq!(tellings[1].1, full);
    }
}
