//! The server's last minutes, a sample a second, from its own metrics.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::watch;

use super::show;

/// How many samples are kept: five minutes.
const SAMPLES_MAX: usize = 300;
const EVERY: Duration = Duration::from_secs(1);
/// Over how many samples a rate is taken, so that it does not jump.
const SMOOTHED: usize = 5;

/// What is shown of a second.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Sample {
    /// Messages from clients and to them, since the start.
    messages: f64,
    /// 99 of 100 commands were answered faster, in seconds; `None` while there were none lately.
    pub(super) command_p99_s: Option<f64>,
    /// Messages in this second.
    pub(super) rate: f64,
}

/// Keeps the samples. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Pulse {
    // Small sections, never across an await.
    samples: Arc<Mutex<VecDeque<Sample>>>,
    ticks: watch::Sender<u64>,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self { samples: Arc::default(), ticks: watch::channel(0).0 }
    }

    /// Samples for as long as it is polled.
    pub(super) async fn run(self, metrics: PrometheusHandle) {
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.take(&metrics.render());
            self.ticks.send_modify(|ticks| *ticks += 1);
        }
    }

    fn take(&self, exposition: &str) {
        let messages = sum(exposition, "iot_messages_received_total") + sum(exposition, "iot_messages_sent_total");
        let command_p99_s = quantile(exposition, "iot_command_seconds", "0.99");
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let rate = samples.back().map_or(0.0, |before| (messages - before.messages).max(0.0));
        if samples.len() == SAMPLES_MAX {
            samples.pop_front();
        }
        samples.push_back(Sample { messages, command_p99_s, rate });
    }

    /// Changes with every sample.
    pub(super) fn ticks(&self) -> watch::Receiver<u64> {
        self.ticks.subscribe()
    }

    /// The newest sample, with the rate of the last few.
    pub(super) fn latest(&self) -> Sample {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let rates: Vec<f64> = samples.iter().rev().take(SMOOTHED).map(|sample| sample.rate).collect();
        samples.back().map_or_else(Sample::default, |newest| Sample { rate: mean(&rates), ..*newest })
    }

    /// Messages per second over the time that is kept, smoothed, as [`points`](super::show::points).
    pub(super) fn points(&self) -> String {
        show::points(&self.rates(), SAMPLES_MAX)
    }

    fn rates(&self) -> Vec<f64> {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let rates: Vec<f64> = samples.iter().map(|sample| sample.rate).collect();
        rates.windows(SMOOTHED).map(mean).collect()
    }
}

#[expect(clippy::cast_precision_loss, reason = "a few samples")]
fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The values of all series of a metric, in the text form of Prometheus.
fn sum(exposition: &str, name: &str) -> f64 {
    let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    exposition.lines().filter(of_name).filter_map(value).sum()
}

/// A quantile of a summary; `None` if nothing was observed lately.
fn quantile(exposition: &str, name: &str, quantile: &str) -> Option<f64> {
    let label = format!("quantile=\"{quantile}\"");
    let line = exposition.lines().find(|line| line.starts_with(name) && line.contains(&label))?;
    value(line).filter(|value| *value > 0.0)
}

fn value(line: &str) -> Option<f64> {
    line.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exposition(received: u32, p99: &str) -> String {
        format!(
            "# TYPE iot_messages_received_total counter\niot_messages_received_total {received}\n\n\
             iot_messages_received_total_other 900\niot_command_seconds{{quantile=\"0.99\"}} {p99}\n"
        )
    }

    #[test]
    fn rates_are_of_the_metrics_that_are_meant() {
        let pulse = Pulse::new();
        for received in [100, 110, 130] {
            pulse.take(&exposition(received, "0.25"));
        }
        assert_eq!(pulse.latest(), Sample { messages: 130.0, command_p99_s: Some(0.25), rate: 10.0 });
        pulse.take(&exposition(130, "0"));
        assert_eq!(pulse.latest().command_p99_s, None, "nothing was commanded lately");
    }

    #[test]
    fn only_five_minutes_are_kept() {
        let pulse = Pulse::new();
        for second in 0..1_000 {
            pulse.take(&exposition(second, "0"));
        }
        assert_eq!(pulse.rates().len(), SAMPLES_MAX + 1 - SMOOTHED);
    }
}
