//! The service that devices ask: what they run, what they are offered, and what became of it.

use std::sync::Arc;

use bytes::Bytes;
use iot_core::{
    device::Device,
    logic::BoxError,
    service::{BoxDeviceService, Call, DeviceCall},
    store::{Batch, MetaStoreExt, Step},
};
use tower::service_fn;

use super::{Ota, OtaError, known::Known, records::Runs};
use crate::{
    release::Refused,
    rollout::{Assignment, Explanation, Phase, Reported, Vote, explain},
    wire::{Down, Hello, Offer, Report, ReportState, Up},
};

impl Ota {
    /// The service as a node holds it. Who asks is who the connection proved to be; nothing in a message says otherwise.
    pub fn device_service(self: &Arc<Self>) -> BoxDeviceService {
        let ota = self.clone();
        BoxDeviceService::new(service_fn(move |call: DeviceCall| {
            let ota = ota.clone();
            async move { ota.answer(&call).await.map_err(BoxError::from) }
        }))
    }

    async fn answer(&self, call: &DeviceCall) -> Result<Option<Bytes>, OtaError> {
        let Call::Asked(text) = &call.call else { return Ok(None) };
        let device = &*call.device;
        let answer = match Up::parse(text) {
            Ok(Up::Hello(hello)) => {
                self.heard(device, &hello).await?;
                Some(self.offer(device).await?)
            }
            Ok(Up::Report(report)) => self.reported(device, &report).await?,
            Err(error) => {
                tracing::debug!(device = %device.id, %error, "a device says what is no message about updates");
                None
            }
        };
        Ok(answer.map(|answer| answer.to_json().into()))
    }

    /// Keeps what a device says that it runs, if it is news.
    async fn heard(&self, device: &Device, said: &Hello) -> Result<(), OtaError> {
        let key = Runs::key_of(&device.tenant, &device.id);
        self.settle(|| async {
            let read = self.meta.find::<Runs>(&key).await?;
            let same = |runs: &Runs| {
                runs.sequence == said.sequence && runs.version == said.version && runs.hardware == said.hardware
            };
            if read.as_ref().is_some_and(|read| same(&read.document)) {
                return Ok(Step::Answer(()));
            }
            let runs = Runs {
                tenant: device.tenant.clone(),
                device: device.id.clone(),
                sequence: said.sequence,
                version: said.version.clone(),
                hardware: said.hardware.clone(),
                since: self.now(),
            };
            Ok(Step::Commit(
                match &read {
                    Some(read) => Batch::default().replace(read, &runs),
                    None => Batch::default().create(&runs),
                },
                (),
            ))
        })
        .await
    }

    /// What a device is told that asks: the offer that is due to it, with a fresh link. That it was offered is recorded first.
    pub(super) async fn offer(&self, device: &Device) -> Result<Down, OtaError> {
        // Most that ask have nothing to wait for: they do not queue up behind those who do.
        let known = match self.decide_offer(device).await? {
            Step::Answer(known) => known,
            Step::Commit(..) => {
                let _counting = self.counting.lock().await;
                self.settle(|| self.decide_offer(device)).await?
            }
        };
        match known {
            Some(known) => self.offer_of(device, &known).await,
            None => Ok(Down::Nothing {}),
        }
    }

    /// An offer, or that it is taken back.
    pub(super) async fn offer_of(&self, device: &Device, known: &Known) -> Result<Down, OtaError> {
        let (Some(rollout), Some(release)) = (&known.rollout, &known.release) else { return Ok(Down::Nothing {}) };
        let rollout = &rollout.document;
        if rollout.state.is_final() {
            return Ok(Down::Cancelled { rollout: rollout.id.clone() });
        }
        let release = &release.document;
        let link = self.link(device, &release.id).await?;
        Ok(Down::Offer(Box::new(Offer {
            rollout: rollout.id.clone(),
            release: self.signed(release).await?,
            url: format!("{}{}", self.address, link.path()),
            expires: link.expires(),
        })))
    }

    /// What is known of a device that is to get an offer.
    pub(super) async fn decide_offer(&self, device: &Device) -> Result<Step<Option<Box<Known>>>, OtaError> {
        let known = Box::new(self.known(device).await?);
        let explanation = explain(&known.facts(device, (true, self.now())));
        let (Some(stored), Some(release)) = (&known.rollout, &known.release) else { return Ok(Step::Answer(None)) };
        // What is decided by a rollout and a release that have changed meanwhile is decided again: nothing is offered once a
        // gate has closed.
        let decided = || Batch::default().unchanged(release);
        match (&explanation, &known.part) {
            (Explanation::Due { group, .. }, None) => {
                let mut rollout = stored.document.clone();
                rollout.joined(*group);
                let part = self.part(&rollout, *group, device, Phase::Offered);
                Ok(Step::Commit(decided().create(&part).replace(stored, &rollout), Some(known)))
            }
            (Explanation::Due { .. }, Some(part)) => {
                let offered = part.document.moved(Phase::Offered, None, self.now());
                Ok(Step::Commit(decided().replace(part, &offered).unchanged(stored), Some(known)))
            }
            // It asks again, perhaps because its link has ended. Once it has begun to try the image it loads no more.
            (Explanation::UnderWay { phase, .. }, Some(_)) => {
                let stands = stored.document.state.is_final() || known.facts(device, (true, self.now())).is_ready();
                Ok(Step::Answer((stands && *phase != Phase::Installed).then_some(known)))
            }
            (abstention, Some(part)) if abstention.is_abstention() && part.document.phase == Phase::Pending => {
                let skipped = part.document.moved(Phase::Skipped, Some(abstention.code()), self.now());
                Ok(Step::Commit(self.change_part(part, &skipped, Some(device)).await?, None))
            }
            _ => Ok(Step::Answer(None)),
        }
    }

    /// What a device says of its own update: it counts for that device only, and only once. An answer where the rollout is over
    /// and the device still loads.
    async fn reported(&self, device: &Device, report: &Report) -> Result<Option<Down>, OtaError> {
        let phase = phase_of(report);
        let _counting = match phase.vote() {
            Vote::None => None,
            _ => Some(self.counting.lock().await),
        };
        let key = Assignment::key_of(&device.tenant, &report.rollout, &device.id);
        let heard = self.settle(|| async {
            let Some(part) = self.meta.find::<Assignment>(&key).await? else { return Ok(Step::Answer(false)) };
            let (progress, reason) = (report.progress_percent, report.reason.as_deref());
            match part.document.report(phase, progress, reason, self.now()) {
                Reported::Known => Ok(Step::Answer(true)),
                Reported::OutOfTurn => Ok(Step::Answer(false)),
                Reported::Changed(next) => Ok(Step::Commit(self.change_part(&part, &next, Some(device)).await?, true)),
            }
        });
        if !heard.await? {
            tracing::debug!(device = %device.id, rollout = %report.rollout, phase = phase.code(), "a report counts for nothing");
            return Ok(None);
        }
        match report.state {
            ReportState::Downloading => self.still_wanted(device, report).await,
            _ => Ok(None),
        }
    }

    async fn still_wanted(&self, device: &Device, report: &Report) -> Result<Option<Down>, OtaError> {
        let rollout = self.rollout(&device.tenant, &report.rollout).await?;
        let over = rollout.is_none_or(|rollout| rollout.state.is_final());
        Ok(over.then(|| Down::Cancelled { rollout: report.rollout.clone() }))
    }
}

fn phase_of(report: &Report) -> Phase {
    match report.state {
        ReportState::Downloading => Phase::Downloading,
        ReportState::Verified => Phase::Verified,
        ReportState::Installed => Phase::Installed,
        ReportState::Confirmed => Phase::Confirmed,
        ReportState::RolledBack => Phase::RolledBack,
        // It went back from this release once, whatever else became known of that.
        ReportState::Refused if report.reason.as_deref() == Some(Refused::Reverted.code()) => Phase::RolledBack,
        ReportState::Refused => Phase::Refused,
        ReportState::Failed => Phase::Failed,
    }
}
