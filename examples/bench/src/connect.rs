//! What idle connections cost.

use std::{sync::Arc, time::Duration};

use iot_auth::device::Identity;
use iot_conn::mqtt::QoS;
use iot_device::link::Clock;
use serde_json::json;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    BenchError, Outcome, fleet,
    options::Connect,
    peer::Peer,
    process::{Usage, usage},
};

/// Connections that are being opened at the same time.
const OPENINGS_MAX: u32 = 32;

/// How long the server may tidy up before its memory is read.
const SETTLE: Duration = Duration::from_secs(2);

pub(crate) async fn measure(options: Connect) -> Result<Outcome, BenchError> {
    if options.from >= options.connections {
        return Err(BenchError::Options("--from must be less than --connections".to_owned()));
    }
    let identities = match &options.devices.state {
        Some(state) => Some((fleet::identities(state, options.connections)?, fleet::lock(state)?)),
        None => None,
    };
    let (identities, _lock) = identities.unzip();
    let options = Arc::new(options);
    let identities = identities.map(Arc::new);
    let (end, is_over) = watch::channel(false);
    let mut idle = JoinSet::new();
    let began = Instant::now();
    let mut crowd = Crowd { options: Arc::clone(&options), identities, clock: Clock::start(), is_over };
    crowd.grow(&mut idle, 0, options.from).await?;
    sleep(SETTLE).await;
    let few = usage(options.broker.pid)?;
    crowd.grow(&mut idle, options.from, options.connections).await?;
    let opened = began.elapsed().saturating_sub(SETTLE);
    sleep(SETTLE).await;
    let many = usage(options.broker.pid)?;
    sleep(Duration::from_secs(options.seconds.into())).await;
    let later = usage(options.broker.pid)?;
    end.send_replace(true);
    let mut lost = 0;
    while let Some(ended) = idle.join_next().await {
        lost += u32::from(!matches!(ended, Ok(Ok(()))));
    }
    Ok(report(&options, opened, lost, [few, many, later]))
}

struct Crowd {
    options: Arc<Connect>,
    identities: Option<Arc<Vec<Identity>>>,
    clock: Clock,
    is_over: watch::Receiver<bool>,
}

impl Crowd {
    /// Opens the connections `from` to `until` − 1, each of which then idles in its own task.
    async fn grow(
        &mut self,
        idle: &mut JoinSet<Result<(), BenchError>>,
        from: u32,
        until: u32,
    ) -> Result<(), BenchError> {
        let mut openings = JoinSet::new();
        for k in from..until {
            if openings.len() >= OPENINGS_MAX as usize {
                self.settle(&mut openings, idle).await?;
            }
            let (options, identities, clock) = (Arc::clone(&self.options), self.identities.clone(), self.clock);
            openings.spawn(async move { open(&options, identities.as_deref(), k, clock).await });
        }
        while !openings.is_empty() {
            self.settle(&mut openings, idle).await?;
        }
        Ok(())
    }

    async fn settle(
        &self,
        openings: &mut JoinSet<Result<Peer, BenchError>>,
        idle: &mut JoinSet<Result<(), BenchError>>,
    ) -> Result<(), BenchError> {
        if let Some(opened) = openings.join_next().await {
            let peer = opened.map_err(|error| BenchError::Target(error.to_string()))??;
            idle.spawn(stay(peer, self.is_over.clone()));
        }
        Ok(())
    }
}

async fn open(options: &Connect, identities: Option<&Vec<Identity>>, k: u32, clock: Clock) -> Result<Peer, BenchError> {
    match identities.map(|all| all.get(k as usize)) {
        Some(Some(identity)) => fleet::connect(identity, &options.devices.mqtts, 1, clock).await,
        Some(None) => Err(BenchError::Options(format!("there is no device {}", k + 1))),
        None => {
            let id = format!("bench-{}-{k}", std::process::id());
            let mut peer = Peer::connect(&options.broker, options.broker.client(id.clone(), 1), clock).await?;
            peer.subscribe(&format!("bench/idle/{id}"), QoS::AtMostOnce).await?;
            Ok(peer)
        }
    }
}

async fn stay(mut peer: Peer, mut is_over: watch::Receiver<bool>) -> Result<(), BenchError> {
    loop {
        tokio::select! {
            step = peer.step() => step?,
            _ = is_over.changed() => {
                peer.close().await;
                return Ok(());
            }
        }
        while peer.event()?.is_some() {}
    }
}

#[expect(clippy::cast_precision_loss, reason = "memory and counts stay far below 2^52")]
fn report(options: &Connect, opened: Duration, lost: u32, [few, many, later]: [Option<Usage>; 3]) -> Outcome {
    let added = options.connections - options.from;
    let server = few.zip(many).zip(later).map(|((few, many), later)| {
        let bytes = (many.rss_kib as f64 - few.rss_kib as f64) * 1024.0 / f64::from(added);
        let idle = later.cpu.saturating_sub(many.cpu).as_secs_f64() / f64::from(options.seconds);
        let opening = many.cpu.saturating_sub(few.cpu).as_secs_f64() * 1e6 / f64::from(added);
        (few.rss_kib, many.rss_kib, bytes.round(), idle, opening.round())
    });
    let json = json!({"bench": "connect", "connections": options.connections, "from": options.from,
        "tls": options.devices.state.is_some() || options.broker.url.is_tls, "opening_s": opened.as_secs_f64(), "idle_s": options.seconds, "lost": lost,
        "server": server.map(|(few, many, bytes, idle, opening)| json!({"rss_kib_from": few, "rss_kib": many,
            "bytes_per_connection": bytes, "cpu_share_idle": idle, "cpu_us_per_opening": opening}))});
    let cost = server.map_or_else(
        || "; give --pid for memory and CPU".to_owned(),
        |(_, many, bytes, idle, opening)| {
            let idle = idle * 100.0;
            format!(
                "; {bytes:.0} bytes each, {} MiB in all, {opening} µs CPU to open, {idle:.1} % of a CPU while idle",
                many / 1024
            )
        },
    );
    let text = format!(
        "connect: {} connections opened in {:.1} s, {lost} lost in {} s{cost}",
        options.connections,
        opened.as_secs_f64(),
        options.seconds
    );
    Outcome { json, text, is_complete: lost == 0 }
}
