//! One device's part in a rollout.

use iot_core::{
    id::{DeviceId, ReleaseId, RolloutId, TenantId},
    store::{Document, IndexKey, Key},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

/// The longest reason that is kept, in bytes; what a device says beyond it is cut.
pub const REASON_BYTES_MAX: usize = 256;

/// The reason of a failure that was found by patience and not reported.
pub const NO_PROGRESS: &str = "no_progress";

/// How far a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Phase {
    /// Its group is open; it has not been offered the release yet.
    Pending,
    /// It was told of the release.
    Offered,
    /// It loads the image.
    Downloading,
    /// The image is whole and matches the signed manifest.
    Verified,
    /// It will start, or has started, the new image.
    Installed,
    /// It runs the release and is well. A success.
    Confirmed,
    /// It was not well and runs its former image again. A failure, and it is never offered this release again.
    RolledBack,
    /// It will not install the release: the signature, the hardware or its own rules say no. A failure.
    Refused,
    /// It could not, or was not heard of for too long. A failure.
    Failed,
    /// It needs nothing: it runs this release or a newer one already, does not fit, or is out of service. No vote.
    Skipped,
}

/// How a phase counts at a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vote {
    /// Not yet.
    None,
    /// Well.
    Success,
    /// Not well.
    Failure,
    /// Never: it takes no part.
    Abstained,
}

impl Phase {
    /// Every phase, in the order of their usual course.
    pub const ALL: [Self; 10] = [
        Self::Pending,
        Self::Offered,
        Self::Downloading,
        Self::Verified,
        Self::Installed,
        Self::Confirmed,
        Self::RolledBack,
        Self::Refused,
        Self::Failed,
        Self::Skipped,
    ];

    /// Stable, `snake_case`.
    pub fn code(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Offered => "offered",
            Self::Downloading => "downloading",
            Self::Verified => "verified",
            Self::Installed => "installed",
            Self::Confirmed => "confirmed",
            Self::RolledBack => "rolled_back",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }

    /// Reads a [`code`](Self::code).
    pub fn of_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.code() == code)
    }

    /// How it counts.
    pub fn vote(self) -> Vote {
        match self {
            Self::Confirmed => Vote::Success,
            Self::RolledBack | Self::Refused | Self::Failed => Vote::Failure,
            Self::Skipped => Vote::Abstained,
            _ => Vote::None,
        }
    }

    /// Whether the device was offered the release and has not come to an end with it.
    pub fn is_under_way(self) -> bool {
        matches!(self, Self::Offered | Self::Downloading | Self::Verified | Self::Installed)
    }
}

/// What a device's report does to its assignment.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reported {
    /// It changes.
    Changed(Assignment),
    /// It says what is known: nothing to write.
    Known,
    /// It takes no part, or has come to an end already: the report counts for nothing.
    OutOfTurn,
}

/// One device's part in one rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// Whose.
    pub tenant: TenantId,
    /// In which rollout.
    pub rollout: RolloutId,
    /// Which device.
    pub device: DeviceId,
    /// Of what.
    pub release: ReleaseId,
    /// In which group, from 0.
    pub group: u8,
    /// How far it is.
    pub phase: Phase,
    /// Why it is so, where there is something to say; by the device, or `snake_case` by the cloud.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// While it loads: how much it has in percent, as it last said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_percent: Option<u8>,
    /// When it was last heard of in this matter.
    pub changed: Timestamp,
}

impl Assignment {
    /// Its key in a store.
    pub fn key_of(tenant: &TenantId, rollout: &RolloutId, device: &DeviceId) -> Key {
        Key::new(Self::KIND, format!("{tenant}/{rollout}/{device}"))
    }

    /// The value of index `phase`.
    pub fn in_phase(tenant: &TenantId, rollout: &RolloutId, phase: Phase) -> String {
        format!("{tenant}/{rollout}/{}", phase.code())
    }

    /// The value of index `rolled_back`.
    pub fn rolled_back(tenant: &TenantId, device: &DeviceId, release: &ReleaseId) -> String {
        format!("{tenant}/{device}/{release}")
    }

    /// What a report of this device makes of it. An end is final, but for one that the cloud found by patience: then the device
    /// is heard. Phases under way may come in any order and again, since a device may lose power and begin anew; and before
    /// it is known here that the offer went out.
    pub fn report(&self, phase: Phase, progress_percent: Option<u8>, reason: Option<&str>, now: Timestamp) -> Reported {
        if matches!(phase, Phase::Pending | Phase::Offered | Phase::Skipped) {
            return Reported::OutOfTurn;
        }
        let begun = self.phase == Phase::Pending || self.phase.is_under_way();
        let given_up = self.phase == Phase::Failed && self.reason.as_deref() == Some(NO_PROGRESS);
        let heard = begun || (given_up && phase.vote() != Vote::None);
        if !heard {
            return if self.phase == phase { Reported::Known } else { Reported::OutOfTurn };
        }
        if begun && self.phase == phase && self.progress_percent == progress_percent {
            return Reported::Known;
        }
        let reason = reason.map(|text| cut(text, REASON_BYTES_MAX).to_owned());
        Reported::Changed(Self { phase, reason, progress_percent, changed: now, ..self.clone() })
    }

    /// The same in another phase, by the cloud's own decision.
    #[must_use]
    pub fn moved(&self, phase: Phase, reason: Option<&str>, now: Timestamp) -> Self {
        Self { phase, reason: reason.map(str::to_owned), changed: now, ..self.clone() }
    }
}

/// At most `bytes_max` bytes from the beginning.
fn cut(text: &str, bytes_max: usize) -> &str {
    let end = (0..=bytes_max.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

impl Document for Assignment {
    const KIND: &'static str = "assignment";
    const FORMAT: u16 = 1;

    fn key(&self) -> Key {
        Self::key_of(&self.tenant, &self.rollout, &self.device)
    }

    /// `rollout`: `<tenant>/<rollout>`; `phase`: `<tenant>/<rollout>/<phase>`; `under_way`: `<tenant>/<device>` of those that
    /// are; `rolled_back`: `<tenant>/<device>/<release>` of those that did.
    fn index_keys(&self) -> Vec<IndexKey> {
        let mut keys = vec![
            IndexKey::many("rollout", &format!("{}/{}", self.tenant, self.rollout)),
            IndexKey::many("phase", &Self::in_phase(&self.tenant, &self.rollout, self.phase)),
        ];
        keys.extend(
            self.phase.is_under_way().then(|| IndexKey::many("under_way", &format!("{}/{}", self.tenant, self.device))),
        );
        let rolled_back = Self::rolled_back(&self.tenant, &self.device, &self.release);
        keys.extend((self.phase == Phase::RolledBack).then(|| IndexKey::many("rolled_back", &rolled_back)));
        keys
    }
}
