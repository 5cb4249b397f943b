//! What bodies look like.

use iot_core::{
    device::Device,
    id::{DeviceId, ProductId, ReleaseId, RolloutId},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::{
    release::{Digest, Hardware, Version},
    rollout::{Assignment, Explanation, GroupPlan, PATIENCE_S_DEFAULT, Phase, Plan, Rollout, State, Votes},
    server::{ReleaseRecord, ReleaseState, Runs},
};

#[derive(Deserialize)]
pub(super) struct ProductAsked {
    pub(super) product: Option<ProductId>,
}

#[derive(Deserialize)]
pub(super) struct PhaseAsked {
    pub(super) state: Option<String>,
}

#[derive(Serialize)]
pub(super) struct ReleaseShown {
    id: ReleaseId,
    product: ProductId,
    sequence: u64,
    version: Version,
    hardware: Vec<Hardware>,
    size_bytes: u64,
    sha256: Digest,
    notes: String,
    expires: Timestamp,
    state: ReleaseState,
    created: Timestamp,
}

impl ReleaseShown {
    pub(super) fn of(release: ReleaseRecord) -> Self {
        let ReleaseRecord { id, product, sequence, version, hardware, size_bytes, sha256, notes, expires, .. } =
            release;
        let (state, created) = (release.state, release.created);
        Self { id, product, sequence, version, hardware, size_bytes, sha256, notes, expires, state, created }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewRollout {
    pub(super) release: ReleaseId,
    pub(super) groups: Vec<GroupPlan>,
    #[serde(default = "patience_default")]
    pub(super) patience_s: u32,
}

fn patience_default() -> u32 {
    PATIENCE_S_DEFAULT
}

impl NewRollout {
    pub(super) fn taken_apart(self) -> (ReleaseId, Plan) {
        (self.release, Plan { groups: self.groups, patience_s: self.patience_s })
    }
}

#[derive(Serialize)]
pub(super) struct GroupShown {
    #[serde(flatten)]
    plan: GroupPlan,
    opened: Option<Timestamp>,
    assigned: u32,
    skipped: u32,
    succeeded: u32,
    failed: u32,
}

/// Whose gate has halted it, and what it judged.
#[derive(Serialize)]
pub(super) struct HaltShown {
    group: u8,
    executed: u64,
    failed: u32,
    failure_per_mille_max: u16,
}

#[derive(Serialize)]
pub(super) struct RolloutShown {
    id: RolloutId,
    product: ProductId,
    release: ReleaseId,
    state: &'static str,
    halted: Option<HaltShown>,
    groups: Vec<GroupShown>,
    patience_s: u32,
    created: Timestamp,
    started: Option<Timestamp>,
    /// How many devices are in each phase; in the answer for one rollout.
    #[serde(skip_serializing_if = "Option::is_none")]
    devices: Option<std::collections::BTreeMap<&'static str, u64>>,
}

impl RolloutShown {
    pub(super) fn of(rollout: Rollout) -> Self {
        let halted = match rollout.state {
            State::Halted { group, votes } => Some(halt(&rollout, group, votes)),
            _ => None,
        };
        let Rollout { id, product, release, plan, state, groups, created, started, .. } = rollout;
        let shown = |(plan, group): (GroupPlan, crate::rollout::Group)| GroupShown {
            plan,
            opened: group.opened,
            assigned: group.assigned,
            skipped: group.skipped,
            succeeded: group.votes.succeeded,
            failed: group.votes.failed,
        };
        Self {
            id,
            product,
            release,
            state: state.code(),
            halted,
            groups: plan.groups.into_iter().zip(groups).map(shown).collect(),
            patience_s: plan.patience_s,
            created,
            started,
            devices: None,
        }
    }

    pub(super) fn with(self, phases: &[(Phase, u64)]) -> Self {
        let devices = phases.iter().filter(|(_, count)| *count > 0).map(|(phase, count)| (phase.code(), *count));
        Self { devices: Some(devices.collect()), ..self }
    }
}

fn halt(rollout: &Rollout, group: u8, votes: Votes) -> HaltShown {
    let plan = rollout.plan.groups.get(usize::from(group));
    let failure_per_mille_max = plan.map_or(0, |plan| plan.gate.failure_per_mille_max);
    HaltShown { group, executed: votes.executed(), failed: votes.failed, failure_per_mille_max }
}

#[derive(Serialize)]
pub(super) struct PartShown {
    device: DeviceId,
    group: u8,
    state: Phase,
    reason: Option<String>,
    progress_percent: Option<u8>,
    changed: Timestamp,
}

impl PartShown {
    pub(super) fn of(part: Assignment) -> Self {
        let Assignment { device, group, phase, reason, progress_percent, changed, .. } = part;
        Self { device, group, state: phase, reason, progress_percent, changed }
    }
}

#[derive(Serialize)]
pub(super) struct UpdateShown {
    device: DeviceId,
    code: &'static str,
    text: String,
    facts: Explanation,
    runs: Option<RunsShown>,
}

#[derive(Serialize)]
pub(super) struct RunsShown {
    sequence: u64,
    version: Version,
    hardware: Hardware,
    since: Timestamp,
}

impl UpdateShown {
    pub(super) fn of(device: &Device, explanation: Explanation, runs: Option<Runs>) -> Self {
        let runs = runs.map(|Runs { sequence, version, hardware, since, .. }| RunsShown {
            sequence,
            version,
            hardware,
            since,
        });
        let (code, text) = (explanation.code(), explanation.to_string());
        Self { device: device.id.clone(), code, text, facts: explanation, runs }
    }
}
