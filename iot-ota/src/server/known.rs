//! What is known of one device, read for a decision.

use iot_core::{
    device::Device,
    store::{Index, MetaStoreExt, Stored},
    time::Timestamp,
};

use super::{
    Ota, OtaError,
    records::{ReleaseRecord, ReleaseState, Runs},
};
use crate::rollout::{Assignment, Explanation, Facts, ReleaseFacts, Rollout, RunsFacts, explain};

/// The records behind [`Facts`], with the versions that a decision is made by.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) rollout: Option<Stored<Rollout>>,
    pub(super) release: Option<Stored<ReleaseRecord>>,
    pub(super) runs: Option<Stored<Runs>>,
    pub(super) part: Option<Stored<Assignment>>,
    rolled_back: bool,
}

impl Ota {
    /// Why a device is updated, or is not.
    pub async fn explain(&self, device: &Device) -> Result<Explanation, OtaError> {
        let known = self.known(device).await?;
        Ok(explain(&known.facts(device, (false, self.now()))))
    }

    /// What a device last said that it runs.
    pub async fn runs(&self, device: &Device) -> Result<Option<Runs>, OtaError> {
        Ok(self.meta.find(&Runs::key_of(&device.tenant, &device.id)).await?.map(|stored| stored.document))
    }

    /// The rollout of the device's product that was started last.
    pub(super) async fn current(&self, device: &Device) -> Result<Option<Stored<Rollout>>, OtaError> {
        Ok(self.meta.find_by("current", &Rollout::current_of(&device.tenant, &device.product)).await?)
    }

    pub(super) async fn known(&self, device: &Device) -> Result<Known, OtaError> {
        let (tenant, id) = (&device.tenant, &device.id);
        let runs = self.meta.find(&Runs::key_of(tenant, id)).await?;
        let Some(rollout) = self.current(device).await? else {
            return Ok(Known { rollout: None, release: None, runs, part: None, rolled_back: false });
        };
        let release = self.meta.find(&ReleaseRecord::key_of(tenant, &rollout.document.release)).await?;
        let part = self.meta.find(&Assignment::key_of(tenant, &rollout.document.id, id)).await?;
        let before = Assignment::rolled_back(tenant, id, &rollout.document.release);
        let rolled_back = self.meta.count(&Index::new("assignment", "rolled_back", before)).await? > 0;
        Ok(Known { rollout: Some(rollout), release, runs, part, rolled_back })
    }
}

impl Known {
    pub(super) fn facts<'a>(&'a self, device: &'a Device, (asks, now): (bool, Timestamp)) -> Facts<'a> {
        Facts {
            device,
            rollout: self.rollout.as_ref().map(|stored| &stored.document),
            release: self.release.as_ref().map(|stored| facts_of(&stored.document, now)),
            runs: self.runs.as_ref().map(|stored| {
                let Runs { sequence, hardware, .. } = &stored.document;
                RunsFacts { sequence: *sequence, hardware }
            }),
            assignment: self.part.as_ref().map(|stored| &stored.document),
            rolled_back: self.rolled_back,
            asks,
        }
    }
}

fn facts_of(release: &ReleaseRecord, now: Timestamp) -> ReleaseFacts<'_> {
    ReleaseFacts {
        sequence: release.sequence,
        hardware: &release.hardware,
        ready: release.state == ReleaseState::Ready && now < release.expires,
    }
}
