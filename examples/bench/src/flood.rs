//! A subscriber that does not read, while others publish as fast as they may.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use iot_conn::mqtt::{
    QoS,
    client::{Event, Publication, PublishError},
};
use iot_device::link::Clock;
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    BenchError, Outcome,
    flow::{client_id, rate, read_stamp, stamped},
    options::{Broker, Flood, Load},
    peer::Peer,
    process::usage,
    tally::Tally,
};

/// What has not come for so long, after the last publisher has ended, is lost.
const SILENCE: Duration = Duration::from_secs(5);

/// How often the server's memory is read.
const SAMPLE: Duration = Duration::from_millis(100);

/// What publishers share.
struct Source {
    broker: Broker,
    load: Load,
    topic_root: String,
    clock: Clock,
}

#[derive(Default)]
struct Sent {
    acknowledged: u64,
    refused: u64,
}

pub(crate) async fn measure(options: Flood) -> Result<Outcome, BenchError> {
    let Flood { broker, load, publishers, pause_ms } = options;
    let (pid, topic_root) = (broker.pid, format!("bench/{}", std::process::id()));
    let source = Arc::new(Source { broker, load, topic_root, clock: Clock::start() });
    let client = source.broker.client(client_id("s", 0), 1_000);
    let mut slow = Peer::connect(&source.broker, client, source.clock).await?;
    slow.subscribe(&format!("{}/+", source.topic_root), source.load.qos).await?;

    let before = rss(pid)?;
    let began = Instant::now();
    let mut sending = JoinSet::new();
    for k in 0..publishers {
        sending.spawn(Arc::clone(&source).send(k));
    }
    let peak = Arc::new(AtomicU64::new(before));
    let watching = tokio::spawn(watch(pid, Arc::clone(&peak)));
    sleep(Duration::from_millis(pause_ms)).await;
    let mut tallies = vec![Tally::new(source.load.messages); publishers as usize];
    let (mut sent, mut ended) = (Sent::default(), None);
    loop {
        tokio::select! {
            step = timeout(SILENCE, slow.step()) => match step {
                Ok(step) => step?,
                Err(_) if ended.is_some() => break,
                Err(_) => {}
            },
            Some(one) = sending.join_next() => {
                let one = one.map_err(|error| BenchError::Target(error.to_string()))??;
                sent.acknowledged += one.acknowledged;
                sent.refused += one.refused;
                ended = sending.is_empty().then(Instant::now);
            }
        }
        while let Some(event) = slow.event()? {
            let Event::Message(message) = event else { continue };
            let stamp = read_stamp(&message.payload);
            let Some((tally, number)) = stamp.and_then(|(k, number, _)| Some((tallies.get_mut(k as usize)?, number)))
            else {
                continue;
            };
            tally.record(number);
        }
        if ended.is_some() && tallies.iter().all(|tally| tally.lost() == 0) {
            break;
        }
    }
    watching.abort();
    let rss_kib = [before, peak.load(Relaxed), rss(pid)?];
    slow.close().await;
    let took = ended.map_or(Duration::ZERO, |ended| ended - began);
    Ok(report(&source, pause_ms, &sent, &tallies, took, rss_kib))
}

/// In KiB; 0 without a process.
fn rss(pid: Option<u32>) -> Result<u64, BenchError> {
    Ok(usage(pid)?.map_or(0, |usage| usage.rss_kib))
}

/// Keeps the highest of the server's memory, in KiB.
async fn watch(pid: Option<u32>, peak: Arc<AtomicU64>) {
    while let Ok(Some(now)) = usage(pid) {
        peak.fetch_max(now.rss_kib, Relaxed);
        sleep(SAMPLE).await;
    }
}

fn report(
    source: &Source,
    pause_ms: u64,
    sent: &Sent,
    tallies: &[Tally],
    took: Duration,
    rss_kib: [u64; 3],
) -> Outcome {
    let Load { qos, messages, bytes, .. } = source.load;
    let (qos_number, expected) = (qos as u8, messages * tallies.len() as u64);
    let sum = |of: fn(&Tally) -> u64| tallies.iter().map(of).sum::<u64>();
    let (received, lost) = (sum(|tally| tally.received), sum(Tally::lost));
    let (duplicates, out_of_order) = (sum(|tally| tally.duplicates), sum(|tally| tally.out_of_order));
    let [before, peak, after] = rss_kib;
    let json = json!({"bench": "flood", "qos": qos_number, "publishers": tallies.len(), "sent": expected, "bytes": bytes,
        "pause_ms": pause_ms, "acknowledged": sent.acknowledged, "refused": sent.refused, "received": received,
        "lost": lost, "duplicates": duplicates, "out_of_order": out_of_order, "sending_s": took.as_secs_f64(),
        "server": {"rss_kib_before": before, "rss_kib_peak": peak, "rss_kib_after": after}});
    let text = format!(
        "flood QoS {qos_number}: {:.0} sent/s, {received} of {expected} received after a pause of {pause_ms} ms, refused {}, \
         lost {lost}, duplicates {duplicates}, out of order {out_of_order}; server {} MiB, at most {} MiB, then {} MiB",
        rate(expected, took).round(),
        sent.refused,
        before / 1024,
        peak / 1024,
        after / 1024,
    );
    // At QoS 0 a server that is full may drop, and whoever is refused knows it.
    Outcome { json, text, is_complete: qos == QoS::AtMostOnce || lost <= sent.refused }
}

impl Source {
    async fn send(self: Arc<Self>, k: u32) -> Result<Sent, BenchError> {
        let Load { qos, messages, window, bytes } = self.load;
        let client = self.broker.client(client_id("p", k), window);
        let mut peer = Peer::connect(&self.broker, client, self.clock).await?;
        let topic = format!("{}/{k}", self.topic_root);
        let (mut next, mut sent) = (0, Sent::default());
        loop {
            let answered = if qos == QoS::AtMostOnce { next } else { sent.acknowledged + sent.refused };
            if answered == messages {
                peer.close().await;
                return Ok(sent);
            }
            let mut room = window - (next - answered);
            while next < messages && room > 0 {
                match peer.client.publish(Publication::new(topic.as_str(), stamped(k, next, self.clock, bytes), qos)) {
                    Ok(_) => (next, room) = (next + 1, room - 1),
                    Err(PublishError::Full) => break,
                    Err(error) => return Err(BenchError::Target(error.to_string())),
                }
            }
            if qos == QoS::AtMostOnce {
                peer.flush().await?;
            } else {
                peer.step().await?;
            }
            while let Some(event) = peer.event()? {
                match event {
                    Event::Published { reason, .. } if !reason.is_error() => sent.acknowledged += 1,
                    Event::Published { .. } | Event::NotPublished { .. } => sent.refused += 1,
                    _ => {}
                }
            }
        }
    }
}
