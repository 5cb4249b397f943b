//! Closed-loop throughput from publishers to subscribers, with everything that arrives accounted for.

use std::{
    collections::VecDeque,
    fmt::Display,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use iot_conn::mqtt::{
    QoS,
    client::{Event, Publication, PublishError},
};
use iot_device::link::Clock;
use serde_json::json;
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    BenchError, Outcome,
    histogram::Histogram,
    options::{Broker, FanIn, FanOut, Load, Pairs},
    peer::Peer,
    process::{cost, cost_text, usage},
    publisher::Publishers,
    tally::Tally,
};

/// After so long without progress the messages on their way count as lost, and the publisher goes on.
const STALL: Duration = Duration::from_secs(5);

/// A publisher that stalls more often gives up.
const STALLS_MAX: u64 = 5;

/// How long subscribers listen on, for messages that come twice.
const LISTEN_ON: Duration = Duration::from_millis(300);

pub(crate) async fn pairs(options: Pairs) -> Result<Outcome, BenchError> {
    let n = options.pairs;
    let publishers = Publishers::new(&options.devices, n)?;
    run("pairs", options.broker, options.load, publishers, (0..n).map(|k| vec![k]).collect(), n).await
}

pub(crate) async fn fan_in(options: FanIn) -> Result<Outcome, BenchError> {
    let n = options.publishers;
    let publishers = Publishers::new(&options.devices, n)?;
    run("fan-in", options.broker, options.load, publishers, vec![(0..n).collect()], n).await
}

pub(crate) async fn fan_out(options: FanOut) -> Result<Outcome, BenchError> {
    let subscribers = (0..options.subscribers).map(|_| vec![0]).collect();
    let publishers = Publishers::new(&options.devices, 1)?;
    run("fan-out", options.broker, options.load, publishers, subscribers, 1).await
}

/// What a publisher and its subscribers share.
#[derive(Debug, Default)]
struct Progress {
    /// First deliveries at any subscriber.
    deliveries: AtomicU64,
    changed: Notify,
}

#[derive(Default)]
struct Sent {
    sent: u64,
    acknowledged: u64,
    refused: u64,
    stalls: u64,
    /// From the publication to its acknowledgement.
    answered_after: Histogram,
}

struct Heard {
    tallies: Vec<(u32, Tally)>,
    latency: Histogram,
    last: Option<Instant>,
}

/// One run; `sources` lists for each subscriber the publishers it listens to.
struct Run {
    broker: Broker,
    load: Load,
    publishers: Publishers,
    clock: Clock,
    progress: Vec<Progress>,
    /// Per publisher.
    receivers: u64,
}

async fn run(
    name: &str,
    broker: Broker,
    load: Load,
    publishers: Publishers,
    sources: Vec<Vec<u32>>,
    count: u32,
) -> Result<Outcome, BenchError> {
    let pid = broker.pid;
    let run = Arc::new(Run {
        broker,
        load,
        publishers,
        clock: Clock::start(),
        progress: (0..count).map(|_| Progress::default()).collect(),
        receivers: sources.iter().filter(|sources| sources.contains(&0)).count() as u64,
    });
    let (end, is_over) = watch::channel(false);
    let mut subscribers = JoinSet::new();
    for (k, sources) in sources.into_iter().enumerate() {
        let peer = run.subscriber(k, &sources).await?;
        subscribers.spawn(Arc::clone(&run).listen(peer, sources, is_over.clone()));
    }
    let mut ready = Vec::new();
    for k in 0..count {
        ready.push(run.publishers.connect(&run.broker, k, run.load.window, run.clock).await?);
    }

    let before = usage(pid)?;
    let began = Instant::now();
    let mut senders = JoinSet::new();
    for (k, (peer, topic)) in (0..count).zip(ready) {
        senders.spawn(Arc::clone(&run).send(peer, topic, k));
    }
    let mut sent = Sent::default();
    while let Some(outcome) = senders.join_next().await {
        let one = outcome.map_err(|error| BenchError::Target(error.to_string()))??;
        sent.sent += one.sent;
        sent.acknowledged += one.acknowledged;
        sent.refused += one.refused;
        sent.stalls += one.stalls;
        sent.answered_after.add(&one.answered_after);
    }
    let after = usage(pid)?;
    tokio::time::sleep(LISTEN_ON).await;
    end.send_replace(true);
    let mut total = Totals::default();
    while let Some(outcome) = subscribers.join_next().await {
        total.add(&outcome.map_err(|error| BenchError::Target(error.to_string()))??);
    }
    let elapsed = total.last.map_or(Duration::ZERO, |last| last.saturating_duration_since(began));
    Ok(report(name, &run, &sent, &total, elapsed, (before, after)))
}

#[derive(Default)]
struct Totals {
    received: u64,
    lost: u64,
    duplicates: u64,
    out_of_order: u64,
    latency: Histogram,
    last: Option<Instant>,
}

impl Totals {
    fn add(&mut self, heard: &Heard) {
        for (_, tally) in &heard.tallies {
            self.received += tally.received;
            self.lost += tally.lost();
            self.duplicates += tally.duplicates;
            self.out_of_order += tally.out_of_order;
        }
        self.latency.add(&heard.latency);
        self.last = self.last.max(heard.last);
    }
}

type UsagePair = (Option<crate::process::Usage>, Option<crate::process::Usage>);

fn report(name: &str, run: &Run, sent: &Sent, total: &Totals, elapsed: Duration, usage: UsagePair) -> Outcome {
    let per_s = |count: u64| (rate(count, elapsed)).round();
    let qos = run.load.qos as u8;
    let json = json!({
        "bench": name, "qos": qos, "publishers": run.progress.len(), "receivers_per_message": run.receivers,
        "messages_per_publisher": run.load.messages, "window": run.load.window, "bytes": run.load.bytes,
        "devices": run.publishers.are_devices(), "persistent": run.broker.persistent,
        "ack_latency": sent.answered_after.to_json(),
        "mqtt": if run.broker.v311 { "3.1.1" } else { "5.0" }, "elapsed_s": elapsed.as_secs_f64(),
        "sent": sent.sent, "acknowledged": sent.acknowledged, "refused": sent.refused, "stalls": sent.stalls,
        "received": total.received, "lost": total.lost, "duplicates": total.duplicates,
        "out_of_order": total.out_of_order, "sent_per_s": per_s(sent.sent), "received_per_s": per_s(total.received),
        "latency": total.latency.to_json(), "server": cost(usage.0, usage.1, total.received),
    });
    let text = format!(
        "{name} QoS {qos}: {:.0} received/s ({} of {} in {:.2} s), lost {}, duplicates {}, out of order {}; latency {}; answered after {}{}",
        per_s(total.received),
        total.received,
        total.received + total.lost,
        elapsed.as_secs_f64(),
        total.lost,
        total.duplicates,
        total.out_of_order,
        total.latency,
        sent.answered_after,
        cost_text(usage.0, usage.1, total.received),
    );
    let is_complete = total.lost == 0 && sent.refused == 0;
    Outcome { json, text, is_complete }
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
pub(crate) fn rate(count: u64, elapsed: Duration) -> f64 {
    if elapsed.is_zero() { 0.0 } else { count as f64 / elapsed.as_secs_f64() }
}

impl Run {
    async fn subscriber(&self, k: usize, sources: &[u32]) -> Result<Peer, BenchError> {
        let options = self.broker.client(client_id("s", k), self.load.window);
        let mut peer = Peer::connect(&self.broker, options, self.clock).await?;
        peer.subscribe(&self.publishers.filter(sources), self.load.qos).await?;
        Ok(peer)
    }

    async fn send(self: Arc<Self>, mut peer: Peer, topic: String, k: u32) -> Result<Sent, BenchError> {
        let Load { qos, messages, window, bytes } = self.load;
        let progress = &self.progress[k as usize];
        // Answers come in order, nearly always.
        let (mut sent, mut waiting) = (Sent::default(), VecDeque::new());
        let (mut written_off, mut last_progress, mut stall) = (0, 0, Instant::now() + STALL);
        loop {
            let answered = if qos == QoS::AtMostOnce { sent.sent } else { sent.acknowledged + sent.refused };
            let delivered = written_off + progress.deliveries.load(Relaxed) / self.receivers;
            let complete = answered.min(delivered).min(sent.sent);
            if complete >= messages {
                peer.close().await;
                return Ok(sent);
            }
            if answered + delivered > last_progress {
                (last_progress, stall) = (answered + delivered, Instant::now() + STALL);
            }
            while sent.sent < messages && sent.sent - complete < window {
                let payload = stamped(k, sent.sent, self.clock, bytes);
                match peer.client.publish(Publication::new(topic.as_str(), payload, qos)) {
                    Ok(token) => {
                        sent.sent += 1;
                        if qos > QoS::AtMostOnce {
                            waiting.push_back((token, self.clock.now()));
                        }
                    }
                    Err(PublishError::Full) => break,
                    Err(error) => return Err(BenchError::Target(error.to_string())),
                }
            }
            tokio::select! {
                step = peer.step() => step?,
                () = progress.changed.notified() => {}
                () = sleep_until(stall) => {
                    sent.stalls += 1;
                    if answered < sent.sent || sent.stalls > STALLS_MAX {
                        return Err(BenchError::Target(format!("no progress for {} s", STALL.as_secs())));
                    }
                    written_off += sent.sent - complete;
                    stall = Instant::now() + STALL;
                }
            }
            while let Some(event) = peer.event()? {
                match event {
                    Event::Published { token, reason } if !reason.is_error() => {
                        sent.acknowledged += 1;
                        if let Some(at) = waiting.iter().position(|(known, _)| *known == token)
                            && let Some((_, since)) = waiting.remove(at)
                        {
                            sent.answered_after.record(self.clock.now().since(since));
                        }
                    }
                    Event::Published { .. } | Event::NotPublished { .. } => sent.refused += 1,
                    _ => {}
                }
            }
        }
    }

    async fn listen(
        self: Arc<Self>,
        mut peer: Peer,
        sources: Vec<u32>,
        mut is_over: watch::Receiver<bool>,
    ) -> Result<Heard, BenchError> {
        let tallies = sources.into_iter().map(|source| (source, Tally::new(self.load.messages))).collect();
        let mut heard = Heard { tallies, latency: Histogram::default(), last: None };
        loop {
            let step = tokio::select! {
                step = peer.step() => Some(step),
                changed = is_over.changed() => { let _ = changed; None }
            };
            let Some(step) = step else { break };
            step?;
            self.count(&mut peer, &mut heard)?;
        }
        peer.close().await;
        Ok(heard)
    }

    fn count(&self, peer: &mut Peer, heard: &mut Heard) -> Result<(), BenchError> {
        while let Some(event) = peer.event()? {
            let Event::Message(message) = event else { continue };
            let Some((source, number, sent)) = read_stamp(&message.payload) else { continue };
            let Ok(index) = heard.tallies.binary_search_by_key(&source, |(source, _)| *source) else { continue };
            if heard.tallies[index].1.record(number) {
                let now = self.clock.now();
                heard.latency.record(now.as_duration().saturating_sub(sent));
                heard.last = Some(self.clock.instant(now));
                let progress = &self.progress[source as usize];
                progress.deliveries.fetch_add(1, Relaxed);
                progress.changed.notify_one();
            }
        }
        Ok(())
    }
}

/// Of letters, digits and hyphens: rumqttd takes no other.
pub(crate) fn client_id(role: &str, k: impl Display) -> String {
    format!("bench-{}-{role}{k}", std::process::id())
}

/// A payload that tells who sent it, as which, and when.
pub(crate) fn stamped(source: u32, number: u64, clock: Clock, bytes: u32) -> Bytes {
    let at = u64::try_from(clock.now().as_duration().as_nanos()).unwrap_or(u64::MAX);
    let mut payload = Vec::with_capacity(bytes as usize);
    payload.extend_from_slice(&source.to_be_bytes());
    payload.extend_from_slice(&number.to_be_bytes());
    payload.extend_from_slice(&at.to_be_bytes());
    payload.resize(bytes as usize, b'x');
    payload.into()
}

/// Source, number, and time on the clock of the run.
pub(crate) fn read_stamp(payload: &[u8]) -> Option<(u32, u64, Duration)> {
    let (source, rest) = payload.split_first_chunk::<4>()?;
    let (number, rest) = rest.split_first_chunk::<8>()?;
    let (at, _) = rest.split_first_chunk::<8>()?;
    let at = Duration::from_nanos(u64::from_be_bytes(*at));
    Some((u32::from_be_bytes(*source), u64::from_be_bytes(*number), at))
}
