use iot_core::{id::RolloutId, time::Timestamp};
use serde::{Deserialize, Serialize};

use super::Slot;
use crate::{
    release::{Digest, Manifest, SIGNED_BYTES_MAX, SignedRelease, Version},
    wire::Report,
};

/// How often the boot loader starts a new image that does not confirm, before it starts the former one.
pub const BOOTS_MAX: u8 = 3;
/// How many releases that were reverted are remembered; the oldest is forgotten for one more.
pub const REVERTED_MAX: usize = 16;
/// The longest stored state, in bytes.
pub const STATE_BYTES_MAX: usize = SIGNED_BYTES_MAX + 16 * 1024;

const FORMAT: u32 = 1;

/// An image that a device runs or has run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "a stored form with a format version")]
pub struct Running {
    /// For people.
    pub version: Version,
    /// Of its release.
    pub sequence: u64,
    /// Of its release.
    pub security_version: u64,
    /// Of its release's manifest; none for what came from the factory.
    pub manifest: Option<Digest>,
}

/// What a device must not forget over a restart. Opaque but for the boot loader's rule, [`State::boot`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    format: u32,
    /// The slot that is known to be good.
    pub(super) active: Slot,
    pub(super) a: Option<Running>,
    pub(super) b: Option<Running>,
    pub(super) floor: Floor,
    /// Manifests that were tried and reverted, the oldest first.
    pub(super) reverted: Vec<Digest>,
    pub(super) job: Option<Job>,
    /// The end of an update, until the cloud knows it.
    pub(super) outcome: Option<Report>,
}

/// What a device never goes below: the highest that it has confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Floor {
    pub(super) sequence: u64,
    pub(super) security_version: u64,
    /// When the newest confirmed release was made: a clock that shows less is wrong.
    pub(super) time: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Job {
    pub(super) rollout: RolloutId,
    pub(super) release: SignedRelease,
    pub(super) stage: Stage,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Stage {
    /// The other slot is being filled or read back.
    Loading { activations: u8 },
    /// The other slot is whole, and the boot loader starts it.
    Trial { activations: u8, boots: u8 },
    /// The other slot runs and is well.
    Confirming,
    /// The other slot ran and is not well.
    Reverting { reason: String },
}

/// The bytes are not a state of this version.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// Too long, cut off or edited.
    #[error("the update state is damaged")]
    Damaged(#[source] Option<serde_json::Error>),
    /// Written by another version.
    #[error("the update state has format {0}, which is not known")]
    Format(u32),
}

impl State {
    /// Of a device that was never updated and runs from slot A.
    pub fn factory(running: Running) -> Self {
        Self {
            format: FORMAT,
            active: Slot::A,
            floor: Floor {
                sequence: running.sequence,
                security_version: running.security_version,
                time: Timestamp::EPOCH,
            },
            a: Some(running),
            b: None,
            reverted: Vec::new(),
            job: None,
            outcome: None,
        }
    }

    /// The boot loader's rule: which slot to start. Call it once per start, before anything else, and store the state
    /// before going on; a start of a new image is counted here, since an image that crashes cannot count itself.
    ///
    /// A device whose boot loader keeps its own count does not call it.
    #[must_use = "this slot is to be started, after the state was stored"]
    pub fn boot(&mut self) -> Slot {
        match self.job.as_mut().map(|job| &mut job.stage) {
            Some(Stage::Trial { boots, .. }) if *boots < BOOTS_MAX => {
                *boots += 1;
                self.active.other()
            }
            Some(Stage::Confirming) => self.active.other(),
            _ => self.active,
        }
    }

    /// In JSON.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a state has text keys and no failing parts")
    }

    /// Reads what [`to_json`](Self::to_json) wrote.
    pub fn parse(bytes: &[u8]) -> Result<Self, StateError> {
        if bytes.len() > STATE_BYTES_MAX {
            return Err(StateError::Damaged(None));
        }
        let state: Self = serde_json::from_slice(bytes).map_err(|error| StateError::Damaged(Some(error)))?;
        if state.format == FORMAT { Ok(state) } else { Err(StateError::Format(state.format)) }
    }

    /// What was last known to be good in a slot.
    pub(super) fn image(&self, slot: Slot) -> Option<&Running> {
        match slot {
            Slot::A => self.a.as_ref(),
            Slot::B => self.b.as_ref(),
        }
    }

    pub(super) fn set_image(&mut self, slot: Slot, image: Option<Running>) {
        match slot {
            Slot::A => self.a = image,
            Slot::B => self.b = image,
        }
    }

    pub(super) fn stage(&self) -> Option<&Stage> {
        self.job.as_ref().map(|job| &job.stage)
    }

    pub(super) fn set_stage(&mut self, stage: Stage) {
        if let Some(job) = &mut self.job {
            job.stage = stage;
        }
    }

    /// From now on the other slot is the good one, and nothing older is taken.
    pub(super) fn confirm(&mut self, manifest: &Manifest, digest: Digest) {
        self.active = self.active.other();
        let (sequence, security_version) = (manifest.sequence, manifest.security_version);
        let version = manifest.version.clone();
        self.set_image(self.active, Some(Running { version, sequence, security_version, manifest: Some(digest) }));
        self.floor = Floor {
            sequence: self.floor.sequence.max(sequence),
            security_version: self.floor.security_version.max(security_version),
            time: self.floor.time.max(manifest.created),
        };
    }

    pub(super) fn remember_reverted(&mut self, digest: Digest) {
        self.reverted.retain(|other| *other != digest);
        if self.reverted.len() >= REVERTED_MAX {
            self.reverted.remove(0);
        }
        self.reverted.push(digest);
    }
}
