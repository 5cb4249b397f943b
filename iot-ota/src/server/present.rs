use std::collections::HashMap;

use iot_core::{
    id::{RolloutId, TenantId},
    problem::Cursor,
    time::Monotonic,
};

/// What this node knows without asking a store. Nothing is lost with it: after a restart devices connect again and ask, and
/// each rollout is gone through anew.
#[derive(Debug, Default)]
pub(super) struct Present {
    /// How far the pending devices of running rollouts were told. As many as there are running rollouts.
    told: HashMap<(TenantId, RolloutId), Telling>,
    /// When devices without progress were last sought.
    pub(super) silence_sought: Option<Monotonic>,
}

/// One pass over the pending devices of a rollout.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Telling {
    /// Of which of its rounds.
    pub(super) round: u32,
    /// Where the next page begins.
    pub(super) after: Option<Cursor>,
    /// To the end.
    pub(super) done: bool,
}

impl Present {
    /// Where the pass of this round stands; a new one for a new round.
    pub(super) fn telling(&mut self, rollout: &(TenantId, RolloutId), round: u32) -> Telling {
        let telling = self.told.entry(rollout.clone()).or_default();
        if telling.round != round {
            *telling = Telling { round, ..Telling::default() };
        }
        telling.clone()
    }

    /// The pass has come so far, unless another round has begun.
    pub(super) fn told(&mut self, rollout: &(TenantId, RolloutId), telling: Telling) {
        if let Some(known) = self.told.get_mut(rollout).filter(|known| known.round == telling.round) {
            *known = telling;
        }
    }

    /// Forgets the passes of rollouts that do not run any more.
    pub(super) fn keep(&mut self, running: &[(TenantId, RolloutId)]) {
        self.told.retain(|rollout, _| running.contains(rollout));
    }
}
