//! Telemetry of claimed devices at QoS 1: the cloud acknowledges what is durable.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use iot_auth::device::Identity;
use iot_conn::mqtt::{
    QoS,
    client::{Event, Publication},
};
use iot_device::link::Clock;
use serde_json::json;
use tokio::{
    sync::Barrier,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    BenchError, Outcome, fleet,
    flow::rate,
    histogram::Histogram,
    options::DeviceTelemetry,
    process::{cost, cost_text, usage},
};

/// After the end, so long for the last acknowledgements.
const GRACE: Duration = Duration::from_secs(10);

/// Connections that are being opened at the same time.
const OPENINGS_MAX: usize = 32;

#[derive(Debug, Default)]
struct Report {
    sent: u64,
    /// Within the measured time.
    acknowledged: u64,
    /// After it.
    late: u64,
    refused: u64,
    /// By reason code.
    reasons: HashMap<u8, u64>,
    errors: u64,
    latency: Histogram,
}

impl Report {
    fn unanswered(&self) -> u64 {
        self.sent - self.acknowledged - self.late - self.refused
    }

    fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.acknowledged += other.acknowledged;
        self.late += other.late;
        self.refused += other.refused;
        self.errors += other.errors;
        other.reasons.into_iter().for_each(|(reason, count)| *self.reasons.entry(reason).or_default() += count);
        self.latency.add(&other.latency);
    }
}

pub(crate) async fn measure(options: DeviceTelemetry) -> Result<Outcome, BenchError> {
    let options = Arc::new(options);
    let identities = fleet::identities(&options.state, options.devices)?;
    let _lock = fleet::lock(&options.state)?;
    let clock = Clock::start();
    let openings = Arc::new(tokio::sync::Semaphore::new(OPENINGS_MAX));
    // All devices and this function: the time runs when everybody is connected.
    let start = Arc::new(Barrier::new(identities.len() + 1));
    let mut devices = JoinSet::new();
    for (k, identity) in (0..).zip(identities) {
        let (options, start, openings) = (Arc::clone(&options), Arc::clone(&start), Arc::clone(&openings));
        devices.spawn(async move {
            let permit = openings.acquire_owned().await;
            let peer = fleet::connect(&identity, &options.mqtts, options.window, clock).await?;
            drop(permit);
            start.wait().await;
            send(peer, &identity, k, &options).await
        });
    }
    tokio::select! {
        _ = start.wait() => {}
        // Before the start a device can only end with an error.
        Some(ended) = devices.join_next() => {
            ended.map_err(|error| BenchError::Target(error.to_string()))??;
        }
    }
    let before = usage(options.pid)?;
    let duration = Duration::from_secs(options.seconds.into());
    tokio::time::sleep(duration).await;
    let after = usage(options.pid)?;
    let mut total = Report::default();
    while let Some(ended) = devices.join_next().await {
        total.add(ended.map_err(|error| BenchError::Target(error.to_string()))??);
    }
    Ok(report(&options, &total, duration, (before, after)))
}

async fn send(
    mut peer: crate::peer::Peer,
    identity: &Identity,
    k: u32,
    options: &DeviceTelemetry,
) -> Result<Report, BenchError> {
    let began = Instant::now();
    let end = began + Duration::from_secs(options.seconds.into());
    let period = (options.rate > 0).then(|| Duration::from_secs(1) * options.devices / options.rate);
    // Larger than what the simulated device counts, and different in every run.
    let mut sequence = unix(Duration::as_micros);
    // At a fixed rate the devices take turns.
    let mut next = began + period.unwrap_or_default() * k / options.devices;
    let (mut report, mut waiting) = (Report::default(), HashMap::new());
    loop {
        let now = Instant::now();
        while now < end && (waiting.len() as u64) < options.window && next <= now {
            let payload = payload(options.samples, &mut sequence);
            let published = peer.client.publish(Publication::new("up/telemetry", payload, QoS::AtLeastOnce));
            let token = published.map_err(|error| BenchError::Target(format!("{}: {error}", identity.device_id)))?;
            waiting.insert(token, period.map_or(now, |_| next));
            report.sent += 1;
            if let Some(period) = period {
                next += period;
            }
        }
        if now >= end && (waiting.is_empty() || now >= end + GRACE) {
            peer.close().await;
            return Ok(report);
        }
        let wake = if now >= end {
            end + GRACE
        } else if next > now {
            next.min(end)
        } else {
            end
        };
        tokio::select! {
            step = peer.step() => step?,
            () = sleep_until(wake) => {}
        }
        while let Some(event) = peer.event()? {
            match event {
                Event::Published { token, reason } => {
                    let Some(since) = waiting.remove(&token) else { continue };
                    let now = Instant::now();
                    if reason.is_error() {
                        report.refused += 1;
                        *report.reasons.entry(reason as u8).or_default() += 1;
                    } else if now <= end {
                        report.acknowledged += 1;
                        report.latency.record(now.saturating_duration_since(since));
                    } else {
                        report.late += 1;
                        report.latency.record(now.saturating_duration_since(since));
                    }
                }
                Event::Message(message) if &*message.topic == "down/error" => report.errors += 1,
                _ => {}
            }
        }
    }
}

/// Written by hand: the load generator shares its cores with what it measures.
fn payload(samples: u32, sequence: &mut u64) -> Vec<u8> {
    let ts = unix(Duration::as_millis);
    let mut sample = || {
        *sequence += 1;
        let (whole, hundredths) = (15 + *sequence / 100 % 10, *sequence % 100);
        format!(
            "{{\"values\":{{\"temperature\":{whole}.{hundredths:02},\"humidity\":45,\"uptime_s\":60,\"on\":true}},\"ts\":{ts},\"seq\":{sequence}}}"
        )
    };
    match samples {
        1 => sample(),
        _ => format!("[{}]", (0..samples).map(|_| sample()).collect::<Vec<_>>().join(",")),
    }
    .into_bytes()
}

fn unix(unit: impl Fn(&Duration) -> u128) -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(unit(&since)).unwrap_or(u64::MAX)
}

fn report(
    options: &DeviceTelemetry,
    total: &Report,
    duration: Duration,
    (before, after): (Option<crate::process::Usage>, Option<crate::process::Usage>),
) -> Outcome {
    let per_s = rate(total.acknowledged, duration).round();
    let reasons: serde_json::Map<_, _> =
        total.reasons.iter().map(|(reason, count)| (format!("0x{reason:02x}"), json!(count))).collect();
    let json = json!({"bench": "device-telemetry", "devices": options.devices, "window": options.window,
        "samples_per_message": options.samples, "seconds": options.seconds, "rate_per_s": options.rate,
        "sent": total.sent, "acknowledged": total.acknowledged, "acknowledged_late": total.late,
        "refused": total.refused, "reasons": reasons, "unanswered": total.unanswered(),
        "errors_told": total.errors, "acknowledged_per_s": per_s, "ack_latency": total.latency.to_json(),
        "server": cost(before, after, total.acknowledged)});
    let text = format!(
        "device-telemetry: {} devices, window {}: {per_s:.0} acknowledged/s; acknowledged after {}; refused {}, unanswered {}{}",
        options.devices,
        options.window,
        total.latency,
        total.refused,
        total.unanswered(),
        cost_text(before, after, total.acknowledged)
    );
    Outcome { json, text, is_complete: total.refused == 0 && total.unanswered() == 0 }
}

#[cfg(test)]
mod tests {
    use iot_core::{limits::Limits, payload::telemetry, time::Timestamp};

    use super::*;

    #[test]
    fn the_cloud_reads_the_payloads_and_their_numbers_go_up() {
        let (mut sequence, limits) = (7, Limits::default());
        let now = Timestamp::from_millis(i64::try_from(unix(Duration::as_millis)).unwrap());
        let one = telemetry(&payload(1, &mut sequence), &limits, now).unwrap();
        let many = telemetry(&payload(100, &mut sequence), &limits, now).unwrap();
        let numbers: Vec<_> = one.iter().chain(&many).map(|uplink| uplink.sequence.unwrap()).collect();
        assert_eq!(numbers, (8..109).collect::<Vec<_>>());
    }
}
