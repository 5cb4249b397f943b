//! Why a device is updated, or is not.

use std::fmt;

use iot_core::{
    device::{Device, Stage},
    id::RolloutId,
    time::Timestamp,
};
use serde::Serialize;

use super::{
    assignment::{Assignment, Phase, Vote},
    plan::Votes,
    record::{Rollout, State},
};
use crate::release::Hardware;

/// What is known when it is asked about one device.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The device.
    pub device: &'a Device,
    /// The rollout of its product that was started last.
    pub rollout: Option<&'a Rollout>,
    /// The release of that rollout; `None` if there is none, or no more.
    pub release: Option<ReleaseFacts<'a>>,
    /// What the device says that it runs; `None` if it never said.
    pub runs: Option<RunsFacts<'a>>,
    /// Its part in that rollout.
    pub assignment: Option<&'a Assignment>,
    /// Whether it has rolled back from that release, in this rollout or another.
    pub rolled_back: bool,
    /// Whether it asks now.
    pub asks: bool,
}

impl Facts<'_> {
    /// Whether the release may be offered.
    pub fn is_ready(&self) -> bool {
        self.release.is_some_and(|release| release.ready)
    }
}

/// What counts of a release.
#[derive(Debug, Clone, Copy)]
pub struct ReleaseFacts<'a> {
    /// Grows with each release of a product.
    pub sequence: u64,
    /// The hardware that it is for.
    pub hardware: &'a [Hardware],
    /// Whether it may be offered: its image is there, it was not withdrawn, and it has not expired.
    pub ready: bool,
}

/// What counts of what a device runs.
#[derive(Debug, Clone, Copy)]
pub struct RunsFacts<'a> {
    /// The sequence of its release.
    pub sequence: u64,
    /// What it is.
    pub hardware: &'a Hardware,
}

/// The reason, for programs by its [`code`](Self::code) and for people as it is displayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Explanation {
    /// The unit is out of service.
    Retired,
    /// No rollout of its product was ever started, or the last one is over and did not reach it.
    NoRollout,
    /// The last rollout was cancelled before it came to this device.
    Cancelled {
        /// Which.
        rollout: RolloutId,
    },
    /// The plan reaches a part of the product's devices only, and not this one.
    NotInRollout {
        /// Which.
        rollout: RolloutId,
    },
    /// The gate of a group has halted the rollout.
    Halted {
        /// Which.
        rollout: RolloutId,
        /// Whose gate, from 0.
        group: u8,
        /// How many of that group had voted.
        executed: u64,
        /// How many of them had failed.
        failed: u32,
        /// The most failures of a thousand.
        failure_per_mille_max: u16,
    },
    /// An operator has paused the rollout.
    Paused {
        /// Which.
        rollout: RolloutId,
    },
    /// The release was withdrawn, has expired, or has no image.
    ReleaseNotReady {
        /// In which rollout.
        rollout: RolloutId,
    },
    /// The device's group is not open yet.
    GroupNotOpen {
        /// In which rollout.
        rollout: RolloutId,
        /// Its group, from 0.
        group: u8,
        /// How many groups are open.
        open_groups: usize,
    },
    /// It rolled back from this release and is not offered it again.
    RolledBackBefore {
        /// In which rollout it would be offered again.
        rollout: RolloutId,
    },
    /// It has not said yet what it runs.
    NotHeardFrom {
        /// In which rollout.
        rollout: RolloutId,
    },
    /// The release is for other hardware.
    HardwareMismatch {
        /// In which rollout.
        rollout: RolloutId,
        /// What the device says that it is.
        device: Hardware,
        /// What the release is for.
        release: Vec<Hardware>,
    },
    /// It runs this release, or a newer one.
    UpToDate {
        /// In which rollout.
        rollout: RolloutId,
        /// What it runs.
        runs: u64,
        /// What is rolled out.
        release: u64,
    },
    /// It was not reached yet, and is offered the release once it is connected.
    NotReached {
        /// In which rollout.
        rollout: RolloutId,
        /// Its group, from 0.
        group: u8,
    },
    /// Nothing is in the way: it is being offered the release.
    Due {
        /// In which rollout.
        rollout: RolloutId,
        /// Its group, from 0.
        group: u8,
    },
    /// It was offered the release and is on its way.
    UnderWay {
        /// In which rollout.
        rollout: RolloutId,
        /// How far it is.
        phase: Phase,
        /// While it loads: how much it has, in percent.
        progress_percent: Option<u8>,
        /// When it was last heard of in this matter.
        since: Timestamp,
    },
    /// It has come to an end with it.
    Ended {
        /// In which rollout.
        rollout: RolloutId,
        /// Which end.
        phase: Phase,
        /// Why, if anybody said.
        reason: Option<String>,
        /// When.
        since: Timestamp,
    },
}

/// Explains. The same rules decide whether a device is offered the release: it is where this answers
/// [`Explanation::Due`], and again where it answers [`Explanation::UnderWay`].
pub fn explain(facts: &Facts<'_>) -> Explanation {
    if facts.device.stage == Stage::Retired {
        return Explanation::Retired;
    }
    let Some(rollout) = facts.rollout else { return Explanation::NoRollout };
    let told = facts.assignment.filter(|part| part.phase != Phase::Pending);
    if let Some(explanation) = told.and_then(|part| of_part(part, facts)) {
        return explanation;
    }
    match of_rollout(rollout, facts) {
        Err(explanation) => explanation,
        Ok(group) => of_device(rollout, group, facts),
    }
}

/// What an assignment says by itself; `None` where it was not taken into the rollout for a reason that is better told.
fn of_part(part: &Assignment, facts: &Facts<'_>) -> Option<Explanation> {
    let rollout = part.rollout.clone();
    let (phase, since) = (part.phase, part.changed);
    match phase.vote() {
        Vote::None => Some(Explanation::UnderWay { rollout, phase, progress_percent: part.progress_percent, since }),
        Vote::Abstained if facts.release.is_some() && facts.runs.is_some() => None,
        _ => Some(Explanation::Ended { rollout, phase, reason: part.reason.clone(), since }),
    }
}

/// What the rollout says; the group of the device if there is nothing in its way.
fn of_rollout(rollout: &Rollout, facts: &Facts<'_>) -> Result<u8, Explanation> {
    let id = || rollout.id.clone();
    match rollout.state {
        State::Draft | State::Completed => return Err(Explanation::NoRollout),
        State::Cancelled => return Err(Explanation::Cancelled { rollout: id() }),
        State::Halted { group, votes } => return Err(halted(rollout, group, votes)),
        State::Paused => return Err(Explanation::Paused { rollout: id() }),
        State::Running => {}
    }
    let Some(group) = rollout.group_of(&facts.device.id) else {
        return Err(Explanation::NotInRollout { rollout: id() });
    };
    if !facts.is_ready() {
        return Err(Explanation::ReleaseNotReady { rollout: id() });
    }
    match rollout.is_open(group) {
        true => Ok(group),
        false => Err(Explanation::GroupNotOpen { rollout: id(), group, open_groups: rollout.open_groups() }),
    }
}

fn halted(rollout: &Rollout, group: u8, votes: Votes) -> Explanation {
    let gate = rollout.plan.groups.get(usize::from(group)).map(|group| group.gate);
    Explanation::Halted {
        rollout: rollout.id.clone(),
        group,
        executed: votes.executed(),
        failed: votes.failed,
        failure_per_mille_max: gate.map_or(0, |gate| gate.failure_per_mille_max),
    }
}

/// What the device says, when nothing else is in the way.
fn of_device(rollout: &Rollout, group: u8, facts: &Facts<'_>) -> Explanation {
    let rollout = rollout.id.clone();
    if facts.rolled_back {
        return Explanation::RolledBackBefore { rollout };
    }
    if let (Some(runs), Some(release)) = (facts.runs, facts.release) {
        if !release.hardware.contains(runs.hardware) {
            let device = runs.hardware.clone();
            return Explanation::HardwareMismatch { rollout, device, release: release.hardware.to_vec() };
        }
        if runs.sequence >= release.sequence {
            return Explanation::UpToDate { rollout, runs: runs.sequence, release: release.sequence };
        }
    }
    match facts.runs {
        None => Explanation::NotHeardFrom { rollout },
        Some(_) if facts.asks => Explanation::Due { rollout, group },
        Some(_) => Explanation::NotReached { rollout, group },
    }
}

impl Explanation {
    /// Stable, `snake_case`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Retired => "retired",
            Self::NoRollout => "no_rollout",
            Self::Cancelled { .. } => "rollout_cancelled",
            Self::NotInRollout { .. } => "not_in_rollout",
            Self::Halted { .. } => "rollout_halted",
            Self::Paused { .. } => "rollout_paused",
            Self::ReleaseNotReady { .. } => "release_not_ready",
            Self::GroupNotOpen { .. } => "group_not_open",
            Self::RolledBackBefore { .. } => "rolled_back_before",
            Self::NotHeardFrom { .. } => "not_heard_from",
            Self::HardwareMismatch { .. } => "hardware_mismatch",
            Self::UpToDate { .. } => "up_to_date",
            Self::NotReached { .. } => "not_reached",
            Self::Due { .. } => "due",
            Self::UnderWay { .. } => "under_way",
            Self::Ended { phase, .. } => phase.code(),
        }
    }

    /// Whether the device takes no part for a reason that lies in itself and will not pass.
    pub fn is_abstention(&self) -> bool {
        matches!(
            self,
            Self::Retired | Self::RolledBackBefore { .. } | Self::HardwareMismatch { .. } | Self::UpToDate { .. }
        )
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retired => f.write_str("the unit is out of service"),
            Self::NoRollout => f.write_str("no rollout of its product is under way"),
            Self::Cancelled { rollout } => write!(f, "rollout {rollout} was cancelled"),
            Self::NotInRollout { rollout } => write!(f, "rollout {rollout} does not reach this device"),
            Self::Halted { rollout, group, executed, failed, failure_per_mille_max: max } => write!(
                f,
                "rollout {rollout} was halted by the gate of group {group}: {failed} of {executed} devices failed, and \
                 at most {max} of 1000 may"
            ),
            Self::Paused { rollout } => write!(f, "rollout {rollout} is paused"),
            Self::ReleaseNotReady { rollout } => {
                write!(f, "the release of rollout {rollout} was withdrawn, has expired or has no image")
            }
            Self::GroupNotOpen { rollout, group, open_groups } => write!(
                f,
                "the device is in group {group} of rollout {rollout}; groups below {open_groups} are open so far"
            ),
            Self::RolledBackBefore { rollout } => {
                write!(f, "the device rolled back from the release of rollout {rollout} and is not offered it again")
            }
            Self::NotHeardFrom { rollout } => {
                write!(f, "the device has not said what it runs, so that rollout {rollout} waits for it")
            }
            Self::HardwareMismatch { rollout, device, release } => {
                write!(
                    f,
                    "the device is {device}, and the release of rollout {rollout} is for {}",
                    release.iter().map(Hardware::as_str).collect::<Vec<_>>().join(", ")
                )
            }
            Self::UpToDate { runs, release, .. } => {
                write!(f, "the device runs release {runs}, and release {release} is rolled out")
            }
            Self::NotReached { rollout, .. } => {
                write!(
                    f,
                    "the device was not reached yet; rollout {rollout} offers it the release once it is connected"
                )
            }
            Self::Due { rollout, .. } => write!(f, "the device is being offered the release of rollout {rollout}"),
            Self::UnderWay { rollout, phase, since, .. } => {
                write!(f, "rollout {rollout}: {} since {since}", phase.code())
            }
            Self::Ended { rollout, phase, reason, since } => {
                write!(f, "rollout {rollout}: {} since {since}", phase.code())?;
                reason.iter().try_for_each(|reason| write!(f, ": {reason}"))
            }
        }
    }
}
