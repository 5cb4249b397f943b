//! Updates: the verifier's engine of `iot-ota` between two slots in a folder, a download and the cloud.
//!
//! A restart of the unit is played: its connection ends, the boot loader of [`SlotFolder`] decides which slot runs, and the
//! unit connects anew. An image that is tried says that it is well once the unit is connected to the cloud: one that cannot
//! be reached could not be updated again.

use std::{io::Read, ops::Range, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use iot_core::{
    id::{ProductId, TenantId},
    time::{Monotonic, Timestamp},
};
use iot_ota::{
    device::{Action, FetchFailure, Identity, Limits, Now, Offered, Running, SlotError, SlotFolder, State, Updater},
    release::{Hardware, Trust, Version},
    wire::{Down, Report, Up},
};
use serde::Deserialize;
use tokio::sync::mpsc;
use tracing::{debug, info, warn};
use ureq::Agent;

use crate::link::Clock;

/// The size of each slot: as large as the largest image.
const SLOT_BYTES: u64 = 256 * 1024 * 1024;
/// What waits between the unit and its firmware. When it is full the unit drops what the cloud said: it is said again.
pub(crate) const MESSAGES_MAX: usize = 32;
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long one chunk may take.
const CHUNK_WITHIN: Duration = Duration::from_secs(100);

/// What the factory has written into the unit, as a JSON file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Factory {
    /// Which product the unit is.
    pub product: ProductId,
    /// Which revision of its hardware.
    pub hardware: Hardware,
    /// What it runs from the factory.
    pub version: Version,
    /// The sequence of that release.
    #[serde(default)]
    pub sequence: u64,
    /// The security version of that release.
    #[serde(default)]
    pub security_version: u64,
    /// Whose signatures it believes.
    pub trust: Trust,
}

/// What the firmware learns.
#[derive(Debug)]
pub(crate) enum Heard {
    /// The unit is connected to the cloud.
    Connected,
    /// The cloud could not answer and is to be asked again.
    Again,
    /// The cloud said something.
    Said(Bytes),
    /// The cloud has this report.
    Reported(Report),
}

/// What the firmware wants of the unit.
#[derive(Debug)]
pub(crate) enum Wish {
    /// Tell the cloud.
    Say(Up),
    /// Restart: the image of another slot is to run.
    Restart,
    /// For people: what runs.
    Runs(String),
    /// For people: what happened.
    Note(String),
}

/// What a unit's firmware is made of.
#[derive(Debug)]
pub(crate) struct Firmware {
    pub(crate) factory: Arc<Factory>,
    pub(crate) tenant: TenantId,
    pub(crate) folder: PathBuf,
    pub(crate) clock: Clock,
    pub(crate) agent: Agent,
    /// Play an image that is no good: whatever is installed fails its health check.
    pub(crate) fails: bool,
    pub(crate) heard: mpsc::Receiver<Heard>,
    pub(crate) wishes: mpsc::Sender<Wish>,
}

impl Firmware {
    /// Runs until the unit is gone. A folder that cannot be used ends it with a note; the unit goes on without updates.
    pub(crate) async fn run(mut self) {
        loop {
            match self.life().await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, "the slots cannot be used");
                    let _gone = self.wishes.send(Wish::Note(format!("has no updates: {error}"))).await;
                    return;
                }
            }
        }
    }

    /// From one start to the next; `false` when the unit is gone.
    async fn life(&mut self) -> Result<bool, SlotError> {
        let factory = &self.factory;
        let (version, sequence, security) = (factory.version.clone(), factory.sequence, factory.security_version);
        let running = Running { version, sequence, security_version: security, manifest: None };
        let identity = Identity {
            tenant: self.tenant.clone(),
            product: factory.product.clone(),
            hardware: factory.hardware.clone(),
            factory: running.clone(),
            slot_bytes: SLOT_BYTES,
        };
        let mut slots = SlotFolder::open(&self.folder, SLOT_BYTES)?;
        let (slot, state) = slots.boot(|| State::factory(running))?;
        let mut updater = Updater::new(identity, factory.trust.clone(), Limits::default(), Some(state));
        updater.booted(self.now(), slot);
        let is_factory = updater.hello().sequence == factory.sequence;
        if !self.wish(Wish::Runs(updater.hello().version.to_string())).await {
            return Ok(false);
        }
        loop {
            // Between two actions, so that what the cloud takes back is not loaded to the end.
            while let Ok(heard) = self.heard.try_recv() {
                self.hear(&mut updater, heard, is_factory).await;
            }
            slots.save(updater.state())?;
            let action = updater.poll_action();
            slots.save(updater.state())?;
            if let Some(action) = action {
                match self.act(&mut updater, &mut slots, action).await? {
                    Next::Restart => return Ok(self.wish(Wish::Restart).await),
                    Next::Gone => return Ok(false),
                    Next::Further => continue,
                }
            }
            let deadline = updater.poll_deadline().map(|at| self.clock.instant(at));
            let due = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                heard = self.heard.recv() => match heard {
                    Some(heard) => self.hear(&mut updater, heard, is_factory).await,
                    None => return Ok(false),
                },
                () = due => updater.tick(self.now()),
            }
        }
    }

    async fn hear(&self, updater: &mut Updater, heard: Heard, is_factory: bool) {
        match heard {
            Heard::Connected => {
                updater.health(self.now(), is_factory || !self.fails);
                self.wish(Wish::Say(Up::Hello(updater.hello()))).await;
            }
            Heard::Again => {
                self.wish(Wish::Say(Up::Hello(updater.hello()))).await;
            }
            Heard::Reported(report) => updater.reported(&report),
            Heard::Said(bytes) => match Down::parse(&bytes) {
                Ok(Down::Offer(offer)) => match updater.offer(self.now(), &offer) {
                    Offered::Refused(why) => {
                        self.wish(Wish::Note(format!("refuses an update: {}", why.code()))).await;
                    }
                    offered => debug!(?offered, "an update is offered"),
                },
                Ok(Down::Cancelled { rollout }) => updater.cancelled(&rollout),
                Ok(Down::Nothing {}) => updater.nothing(),
                Ok(_) => {}
                Err(error) => warn!(%error, "the cloud said of updates what cannot be read"),
            },
        }
    }

    /// Does one thing. The state is durable before it.
    async fn act(&self, updater: &mut Updater, slots: &mut SlotFolder, action: Action) -> Result<Next, SlotError> {
        let is_there = match action {
            Action::Read { slot, chunk, range } => {
                let bytes = slots.read(slot, range)?;
                updater.stored(self.now(), chunk, &bytes);
                true
            }
            Action::Fetch { url, chunk, range } => {
                match self.fetch(url, range).await {
                    Ok(bytes) => updater.chunk(self.now(), chunk, bytes),
                    Err(failure) => updater.fetch_failed(self.now(), failure),
                }
                true
            }
            Action::Write { slot, offset, bytes } => {
                match slots.write(slot, offset, &bytes) {
                    Ok(()) => updater.written(self.now()),
                    Err(error) => {
                        warn!(error = &error as &dyn std::error::Error, "a slot cannot be written");
                        updater.storage_failed(self.now());
                    }
                }
                true
            }
            Action::Hello => self.wish(Wish::Say(Up::Hello(updater.hello()))).await,
            Action::Activate { .. } | Action::Revert { .. } => return Ok(Next::Restart),
            Action::Confirm { .. } => {
                updater.confirmed();
                true
            }
            Action::Report(report) => {
                self.wish(Wish::Note(note(&report))).await && self.wish(Wish::Say(Up::Report(report))).await
            }
            other => {
                debug!(?other, "not known");
                true
            }
        };
        Ok(if is_there { Next::Further } else { Next::Gone })
    }

    async fn fetch(&self, url: String, range: Range<u64>) -> Result<Vec<u8>, FetchFailure> {
        let agent = self.agent.clone();
        let fetched = tokio::task::spawn_blocking(move || fetch(&agent, &url, &range)).await;
        fetched.unwrap_or(Err(FetchFailure::Unreachable))
    }

    /// Whether the unit is still there.
    async fn wish(&self, wish: Wish) -> bool {
        self.wishes.send(wish).await.is_ok()
    }

    fn now(&self) -> Now {
        let uptime: Monotonic = self.clock.now();
        Now { time: Timestamp::from_millis(crate::unit::unix_ms()), uptime }
    }
}

#[must_use]
enum Next {
    Further,
    Restart,
    Gone,
}

fn note(report: &Report) -> String {
    let state = format!("{:?}", report.state).to_lowercase();
    let more = report.progress_percent.map(|percent| format!(" {percent} %")).or(report.reason.clone());
    format!("update {state} {}", more.unwrap_or_default()).trim_end().to_owned()
}

/// One range of the image; one byte more, if the server sends more than it should.
fn fetch(agent: &Agent, url: &str, range: &Range<u64>) -> Result<Vec<u8>, FetchFailure> {
    let bytes = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
    let response = agent.get(url).header("Range", &bytes).call().map_err(|error| {
        info!(%error, "a part of an image did not come");
        FetchFailure::Unreachable
    })?;
    match response.status().as_u16() {
        206 => {}
        401 | 403 | 404 | 410 => return Err(FetchFailure::LinkExpired),
        _ => return Err(FetchFailure::Unreachable),
    }
    let length = range.end.saturating_sub(range.start);
    let mut body = Vec::new();
    let read = response.into_body().into_reader().take(length + 1).read_to_end(&mut body);
    read.map(|_| body).map_err(|_| FetchFailure::Unreachable)
}

/// Loads images: from the given address only, without a proxy or a redirect. What it loads is trusted by its hashes.
pub(crate) fn agent(authority: Option<&crate::tls::Authority>) -> Agent {
    crate::claim::agent(authority, CHUNK_WITHIN, ANSWER_WITHIN)
}
