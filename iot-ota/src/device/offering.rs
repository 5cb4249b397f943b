use iot_core::time::Timestamp;

use super::{
    Now, Offered, Updater,
    state::{Job, Stage},
    updater::report,
};
use crate::{
    release::{Manifest, Refused, Target, verify},
    wire::{Offer, ReportState},
};

impl Updater {
    /// The cloud offers a release. Its signatures decide who made it; its fields and this device's memory whether it is
    /// taken. An offer that is refused changes nothing but that the refusal is reported.
    pub fn offer(&mut self, now: Now, offer: &Offer) -> Offered {
        let loading = matches!(self.state.stage(), Some(Stage::Loading { .. }));
        if self.running.is_none() || (self.state.job.is_some() && !loading) {
            return Offered::Busy;
        }
        match self.judge(now.time, offer) {
            Ok(Some(manifest)) => self.take(now, offer, manifest),
            Ok(None) => {
                self.report = Some(report(&offer.rollout, ReportState::Confirmed, None));
                Offered::Present
            }
            Err(refused) => {
                self.report = Some(report(&offer.rollout, ReportState::Refused, Some(refused.code())));
                Offered::Refused(refused)
            }
        }
    }

    /// `None` is the release that runs.
    fn judge(&self, time: Timestamp, offer: &Offer) -> Result<Option<Manifest>, Refused> {
        let manifest = verify(&self.trust, &offer.release)?;
        let digest = offer.release.digest();
        if self.state.image(self.state.active).is_some_and(|running| running.manifest == Some(digest)) {
            return Ok(None);
        }
        let floor = &self.state.floor;
        let now = time.max(floor.time);
        manifest.fits(&Target {
            tenant: &self.identity.tenant,
            product: &self.identity.product,
            hardware: &self.identity.hardware,
            sequence: floor.sequence,
            security_version: floor.security_version,
            slot_bytes: self.identity.slot_bytes,
            now,
        })?;
        if offer.expires <= now {
            return Err(Refused::Expired);
        }
        if self.state.reverted.contains(&digest) { Err(Refused::Reverted) } else { Ok(Some(manifest)) }
    }

    fn take(&mut self, now: Now, offer: &Offer, manifest: Manifest) -> Offered {
        if let Some(job) = &mut self.state.job
            && job.release.manifest == offer.release.manifest
        {
            job.rollout = offer.rollout.clone();
            self.link = Some(offer.url.clone());
            self.advance(now, |load, _, _| load.linked());
            return Offered::Continued;
        }
        self.forget_job();
        let (rollout, release) = (offer.rollout.clone(), offer.release.clone());
        self.state.job = Some(Job { rollout, release, stage: Stage::Loading { activations: 0 } });
        self.link = Some(offer.url.clone());
        self.manifest = Some(manifest);
        self.begin_load();
        self.say_downloading();
        Offered::Accepted
    }
}
