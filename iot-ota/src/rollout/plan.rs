//! What an operator asks for: groups and their gates.

use std::collections::BTreeSet;

use iot_core::id::DeviceId;
use serde::{Deserialize, Serialize};

use super::share::PER_MILLE;

/// The most groups of a rollout.
pub const GROUPS_MAX: usize = 8;

/// The fewest groups of a rollout: a first one, and the rest once the first one went well.
pub const GROUPS_MIN: usize = 2;

/// The most devices that a first group names.
pub const NAMED_DEVICES_MAX: usize = 200;

/// How long a device may be without progress, if a plan does not say, in seconds.
pub const PATIENCE_S_DEFAULT: u32 = 24 * 3_600;

/// The longest patience and the longest soak, in seconds.
pub const SECONDS_MAX: u32 = 30 * 24 * 3_600;

/// When a group has gone well enough for the next one, and when it has gone too badly to go on. All figures are of devices
/// of this group that have voted: each has one vote, cast when it confirms, or rolls back, refuses or fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// Nothing is decided before so many have voted; at least 1.
    pub min_executed: u32,
    /// More failures of a thousand votes than this halt the rollout. Judged first.
    pub failure_per_mille_max: u16,
    /// So many successes of a thousand votes let the next group begin.
    pub success_per_mille_min: u16,
    /// For how long that must have been so.
    #[serde(default)]
    pub soak_s: u32,
}

/// One group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupPlan {
    /// How many of a thousand devices of the product are reached with this group and those before it.
    pub reach_per_mille: u16,
    /// Devices that belong to this group wherever they stand in the order; in the first group only.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub devices: BTreeSet<DeviceId>,
    /// What lets the next group begin. In the last group it halts only.
    pub gate: Gate,
}

/// The groups of a rollout, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// From [`GROUPS_MIN`] to [`GROUPS_MAX`].
    pub groups: Vec<GroupPlan>,
    /// A device that was offered the release and reports no progress for so long has failed.
    #[serde(default = "patience_default")]
    pub patience_s: u32,
}

fn patience_default() -> u32 {
    PATIENCE_S_DEFAULT
}

/// The plan cannot be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// Too few or too many.
    #[error("groups: from {GROUPS_MIN} to {GROUPS_MAX}")]
    Groups,
    /// A group reaches no more than the one before it, or more than all.
    #[error("group {0}: reach_per_mille must be more than that of the group before it, and at most 1000")]
    Reach(usize),
    /// The first group has neither a share nor a named device.
    #[error("group 0: give it a reach_per_mille or name devices")]
    Empty,
    /// Too many devices are named, or not in the first group.
    #[error("group {0}: only the first group names devices, and at most {NAMED_DEVICES_MAX}")]
    Named(usize),
    /// A gate that could never decide, or decides by impossible shares.
    #[error("group {0}: min_executed must be at least 1, shares at most 1000, soak_s at most {SECONDS_MAX}")]
    Gate(usize),
    /// A first group of named devices only, of which more must vote than there are.
    #[error("group 0: min_executed is more than the devices that it names, so that it would never decide")]
    Undecidable,
    /// No patience, or too much.
    #[error("patience_s: from 60 to {SECONDS_MAX}")]
    Patience,
}

impl Plan {
    /// Whether it can be carried out.
    pub fn check(&self) -> Result<(), PlanError> {
        if !(GROUPS_MIN..=GROUPS_MAX).contains(&self.groups.len()) {
            return Err(PlanError::Groups);
        }
        if !(60..=SECONDS_MAX).contains(&self.patience_s) {
            return Err(PlanError::Patience);
        }
        let mut reached = 0;
        for (number, group) in self.groups.iter().enumerate() {
            let first = number == 0;
            if (group.devices.len() > NAMED_DEVICES_MAX) || (!first && !group.devices.is_empty()) {
                return Err(PlanError::Named(number));
            }
            match group.reach_per_mille {
                0 if first && group.devices.is_empty() => return Err(PlanError::Empty),
                0 if first => {}
                reach if reach <= reached || reach > PER_MILLE => return Err(PlanError::Reach(number)),
                _ => {}
            }
            reached = group.reach_per_mille;
            group.gate.check(number)?;
            if reached == 0 && group.devices.len() < group.gate.min_executed as usize {
                return Err(PlanError::Undecidable);
            }
        }
        Ok(())
    }
}

impl Gate {
    fn check(self, number: usize) -> Result<(), PlanError> {
        let shares = [self.failure_per_mille_max, self.success_per_mille_min];
        if self.min_executed == 0 || shares.iter().any(|share| *share > PER_MILLE) || self.soak_s > SECONDS_MAX {
            return Err(PlanError::Gate(number));
        }
        Ok(())
    }

    /// Judges the votes of a group, errors before successes. Exact: no share is rounded.
    pub fn judge(self, votes: Votes) -> Judgement {
        let executed = votes.executed();
        if executed < u64::from(self.min_executed) {
            return Judgement::TooEarly;
        }
        if u64::from(votes.failed) * u64::from(PER_MILLE) > u64::from(self.failure_per_mille_max) * executed {
            return Judgement::Halt;
        }
        match u64::from(votes.succeeded) * u64::from(PER_MILLE) >= u64::from(self.success_per_mille_min) * executed {
            true => Judgement::Advance,
            false => Judgement::Wait,
        }
    }
}

/// What the devices of a group have voted: one vote each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Votes {
    /// They run the release and are well.
    pub succeeded: u32,
    /// They rolled back, refused, failed, or were not heard of for too long.
    pub failed: u32,
}

impl Votes {
    /// How many have voted.
    pub fn executed(self) -> u64 {
        u64::from(self.succeeded) + u64::from(self.failed)
    }
}

/// What a gate says of the votes so far.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// Too few have voted.
    TooEarly,
    /// Neither bad enough nor good enough.
    Wait,
    /// Good enough for the next group, after the soak.
    Advance,
    /// Too many failures.
    Halt,
}
