//! A device on a folder, a cloud that offers and delivers, and a power supply that can be cut at any write.

mod attacks;
mod course;
mod power;
mod slots;

use std::{fs, path::Path, time::Duration};

use iot_core::{
    id::{ProductId, RolloutId, TenantId},
    time::{Monotonic, Timestamp},
};
use tempfile::TempDir;

use super::*;
use crate::{
    release::{CHUNK_BYTES_MIN, FORMAT, Hardware, Image, Manifest, SignedRelease, SigningKey, Trust, Version},
    wire::{Offer, Report, ReportState},
};

const CHUNK: u64 = CHUNK_BYTES_MIN as u64;
const SLOT_BYTES: u64 = 16 * CHUNK;
const STEPS_MAX: usize = 10_000;
const NOON: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const HOUR: Duration = Duration::from_secs(3600);

fn old_image() -> Vec<u8> {
    vec![0x0d; 3000]
}

fn new_image() -> Vec<u8> {
    (0..3500_u32).map(|n| (n / 7).to_le_bytes()[0]).collect()
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32]).unwrap()
}

fn trust() -> Trust {
    Trust::new(1, vec![key(1).public()]).unwrap()
}

fn running(version: &str, sequence: u64, security_version: u64) -> Running {
    Running { version: Version::parse(version).unwrap(), sequence, security_version, manifest: None }
}

fn identity() -> Identity {
    Identity {
        tenant: TenantId::parse("acme").unwrap(),
        product: ProductId::parse("lamp").unwrap(),
        hardware: Hardware::parse("r1").unwrap(),
        factory: running("1.0.0", 1, 1),
        slot_bytes: SLOT_BYTES,
    }
}

fn manifest(image: &[u8]) -> Manifest {
    Manifest {
        format: FORMAT,
        tenant: identity().tenant,
        product: identity().product,
        version: Version::parse("2.0.0").unwrap(),
        sequence: 2,
        security_version: 1,
        hardware: vec![identity().hardware],
        image: Image::of(image, CHUNK_BYTES_MIN).unwrap(),
        notes: String::new(),
        created: NOON.minus(HOUR),
        expires: NOON.plus(24 * HOUR),
    }
}

fn offer_of(manifest: &Manifest) -> Offer {
    Offer {
        rollout: RolloutId::parse("spring").unwrap(),
        release: SignedRelease::sign(manifest, &[&key(1)]).unwrap(),
        url: "https://cloud/image".into(),
        expires: NOON.plus(HOUR),
    }
}

fn offer() -> Offer {
    offer_of(&manifest(&new_image()))
}

fn now() -> Now {
    Now { time: NOON, uptime: Monotonic::ZERO }
}

fn later(by: Duration) -> Now {
    Now { time: NOON.plus(by), uptime: Monotonic::from_duration(by) }
}

/// The power is gone.
#[derive(Debug, PartialEq, Eq)]
struct Dark;

/// Where the power is cut: at the n-th write, from 0, which does not happen or happens by half.
#[derive(Debug, Clone, Copy)]
struct Cut {
    at: usize,
    torn: bool,
}

struct Device {
    folder: TempDir,
    cut: Option<Cut>,
    writes: usize,
    /// What the image of the slot that runs does.
    well: fn(&[u8]) -> Option<bool>,
    offer: Option<Offer>,
    body: Vec<u8>,
    reports: Vec<Report>,
    actions: Vec<&'static str>,
}

impl Device {
    /// Runs the old image from slot A; the new one is offered and is well.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("slot-a"), old_image()).unwrap();
        let well = |_: &[u8]| Some(true);
        let (offer, body) = (Some(offer()), new_image());
        Self { folder, cut: None, writes: 0, well, offer, body, reports: Vec::new(), actions: Vec::new() }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Starts as long as it restarts; ends in rest or in the dark.
    fn power_on(&mut self) -> Result<Updater, Dark> {
        for _ in 0..STEPS_MAX {
            if let Some(at_rest) = self.run()? {
                return Ok(at_rest);
            }
        }
        panic!("it restarts for ever");
    }

    /// From one start to rest, or to a restart.
    fn run(&mut self) -> Result<Option<Updater>, Dark> {
        let mut folder = SlotFolder::open(self.path(), SLOT_BYTES).unwrap();
        self.cut_here(|_| ())?;
        let (slot, state) = folder.boot(|| State::factory(identity().factory)).unwrap();
        let image = fs::read(folder.image_path(slot)).unwrap();
        assert!(is_whole(&image), "neither the old image nor the new one starts");
        let mut updater = Updater::new(identity(), trust(), Limits::default(), Some(state));
        updater.booted(now(), slot);
        if let Some(well) = (self.well)(&image) {
            updater.health(now(), well);
        }
        if let Some(offer) = &self.offer {
            let _answer = updater.offer(now(), offer);
        }
        for _ in 0..STEPS_MAX {
            self.save(&mut folder, &updater)?;
            let Some(action) = updater.poll_action() else { return Ok(Some(updater)) };
            if self.carry_out(&mut folder, &mut updater, slot, action)? {
                return Ok(None);
            }
        }
        panic!("it never rests");
    }

    /// Whether the device restarts.
    fn carry_out(
        &mut self,
        folder: &mut SlotFolder,
        updater: &mut Updater,
        runs: Slot,
        action: Action,
    ) -> Result<bool, Dark> {
        self.actions.push(name(&action));
        match action {
            Action::Read { slot, chunk, range } => updater.stored(now(), chunk, &folder.read(slot, range).unwrap()),
            Action::Fetch { chunk, range, .. } => {
                let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
                updater.chunk(now(), chunk, self.body[range].to_vec());
            }
            Action::Write { slot, offset, bytes } => {
                assert_ne!(slot, runs, "the slot that runs is never written to");
                let torn_path = folder.image_path(slot);
                self.cut_here(|_| tear(&torn_path, offset, &bytes))?;
                folder.write(slot, offset, &bytes).unwrap();
                updater.written(now());
            }
            Action::Confirm { .. } => {
                self.cut_here(|_| ())?;
                updater.confirmed();
            }
            Action::Activate { .. } | Action::Revert { .. } => return self.cut_here(|_| ()).map(|()| true),
            Action::Hello => {}
            Action::Report(report) => {
                updater.reported(&report);
                self.reports.push(report);
            }
        }
        Ok(false)
    }

    fn save(&mut self, folder: &mut SlotFolder, updater: &Updater) -> Result<(), Dark> {
        let json = updater.state().to_json();
        let unchanged = fs::read(self.path().join("state.json")).is_ok_and(|stored| stored == json);
        if !unchanged {
            self.cut_here(|path| fs::write(path.join("state.json.new"), &json[..json.len() / 2]).unwrap())?;
        }
        folder.save(updater.state()).unwrap();
        Ok(())
    }

    /// One point at which the power may go; `tear` leaves what half a write leaves.
    fn cut_here(&mut self, tear: impl FnOnce(&Path)) -> Result<(), Dark> {
        let here = self.writes;
        self.writes += 1;
        match self.cut {
            Some(cut) if cut.at == here => {
                if cut.torn {
                    tear(self.path());
                }
                self.cut = None;
                Err(Dark)
            }
            _ => Ok(()),
        }
    }

    fn image(&self, slot: Slot) -> Vec<u8> {
        let name = if slot == Slot::A { "slot-a" } else { "slot-b" };
        fs::read(self.path().join(name)).unwrap_or_default()
    }

    fn states(&self) -> Vec<ReportState> {
        self.reports.iter().map(|report| report.state).collect()
    }
}

fn tear(path: &Path, offset: u64, bytes: &[u8]) {
    let mut image = fs::read(path).unwrap_or_default();
    let start = usize::try_from(offset).unwrap();
    image.resize(image.len().max(start + bytes.len() / 2), 0);
    image[start..start + bytes.len() / 2].copy_from_slice(&bytes[..bytes.len() / 2]);
    fs::write(path, image).unwrap();
}

/// A slot may be longer than its image.
fn is_whole(slot: &[u8]) -> bool {
    slot.starts_with(&old_image()) || slot.starts_with(&new_image())
}

fn name(action: &Action) -> &'static str {
    match action {
        Action::Read { .. } => "read",
        Action::Fetch { .. } => "fetch",
        Action::Write { .. } => "write",
        Action::Hello => "hello",
        Action::Activate { .. } => "activate",
        Action::Confirm { .. } => "confirm",
        Action::Revert { .. } => "revert",
        Action::Report(_) => "report",
    }
}

/// An updater in memory that runs slot A.
fn booted() -> Updater {
    let mut updater = Updater::new(identity(), trust(), Limits::default(), None);
    updater.booted(now(), Slot::A);
    updater
}

/// Everything there is to do.
fn actions(updater: &mut Updater) -> Vec<Action> {
    std::iter::from_fn(|| updater.poll_action()).take(STEPS_MAX).collect()
}

/// An updater with an empty slot that waits for its first chunk.
fn fetching() -> Updater {
    let mut updater = booted();
    assert_eq!(updater.offer(now(), &offer()), Offered::Accepted);
    for chunk in 0..4 {
        updater.stored(now(), chunk, &[]);
    }
    assert!(matches!(actions(&mut updater)[..], [Action::Report(_), Action::Fetch { chunk: 0, .. }]));
    updater
}

fn chunk_of(image: &[u8], chunk: usize) -> Vec<u8> {
    image.chunks(CHUNK_BYTES_MIN as usize).nth(chunk).unwrap().to_vec()
}

fn final_report(actions: &[Action]) -> Option<(ReportState, &str)> {
    actions.iter().find_map(|action| match action {
        Action::Report(report) if report.state.is_final() => {
            Some((report.state, report.reason.as_deref().unwrap_or_default()))
        }
        _ => None,
    })
}
