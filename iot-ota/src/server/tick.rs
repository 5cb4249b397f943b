//! What goes on by itself: groups open, their devices are assigned and told, and patience ends.

use std::{sync::Arc, time::Duration};

use iot_core::{
    device::{Device, Stage},
    id::{RolloutId, ServiceName, TenantId},
    service::{Downlink, Told},
    store::{Batch, Document, Key, MetaStoreExt, Page, Step, Stored},
};

use super::{Ota, OtaError, lock};
use crate::{
    rollout::{Assignment, NO_PROGRESS, Phase, Rollout, State, Vote, Walk},
    wire::{Down, SERVICE},
};

/// How long [`Ota::run`] rests between two ticks, if nothing wakes it.
pub const TICK: Duration = Duration::from_secs(5);

/// How many pages of a product's devices one tick goes through for a rollout.
pub const WALK_PAGES_MAX: usize = 50;

/// After how many offers of a release a tick rests at the end of a page, so that not all devices load at once.
pub const OFFERS_MAX: usize = 500;

/// The devices of a page: what is assigned in one commit.
const PAGE: u32 = 200;

/// How often devices without progress are sought.
const SILENCE_SOUGHT: Duration = Duration::from_secs(60);

impl Ota {
    /// Carries out what is due until `shutdown` ends. Failures are logged and tried again.
    pub async fn run(self: Arc<Self>, downlink: Arc<dyn Downlink>, shutdown: impl Future<Output = ()> + Send) {
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            // A tick may end anywhere: what it has not done is due at the next one.
            let ticked = tokio::select! {
                () = &mut shutdown => return,
                ticked = self.tick(&*downlink) => ticked,
            };
            if let Err(error) = ticked {
                let error: &dyn std::error::Error = &error;
                let cause = error.source().map(ToString::to_string).unwrap_or_default();
                tracing::warn!(%error, cause, "rollouts cannot be carried out; they are tried again");
            }
            tokio::select! {
                () = &mut shutdown => return,
                () = self.wake.notified() => {}
                () = tokio::time::sleep(TICK) => {}
            }
        }
    }

    /// Carries out what is due now: bounded work for each running rollout. [`run`](Self::run) calls it again and again. The
    /// error is that of the first rollout that failed; the others were carried out.
    pub async fn tick(&self, downlink: &dyn Downlink) -> Result<(), OtaError> {
        let mut running = Vec::new();
        let mut after = None;
        loop {
            let page: Page<Stored<Rollout>> = self.meta.page("active", "", after.as_ref(), PAGE).await?;
            running.extend(page.items.into_iter().map(|stored| (stored.document.tenant, stored.document.id)));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        lock(&self.present).keep(&running);
        let silence = self.seeks_silence();
        // One that cannot be carried out holds no other up.
        let mut ended = Ok(());
        for rollout in &running {
            ended = ended.and(self.carry_out(rollout, silence, downlink).await);
        }
        ended
    }

    /// Whether it is time again to seek devices without progress.
    fn seeks_silence(&self) -> bool {
        let now = self.clock.monotonic();
        let mut present = lock(&self.present);
        let due = present.silence_sought.is_none_or(|at| now.since(at) >= SILENCE_SOUGHT);
        if due {
            present.silence_sought = Some(now);
        }
        due
    }

    async fn carry_out(
        &self,
        of: &(TenantId, RolloutId),
        silence: bool,
        downlink: &dyn Downlink,
    ) -> Result<(), OtaError> {
        let key = Rollout::key_of(&of.0, &of.1);
        if silence {
            self.give_up_on_silent(&key).await?;
        }
        for _ in 0..WALK_PAGES_MAX {
            if !self.go_on(&key).await? {
                break;
            }
        }
        self.tell_pending(&key, downlink).await?;
        self.recall(&key, downlink).await
    }

    /// Tells devices that still load that the rollout is over. Those that are not connected learn it when they ask.
    async fn recall(&self, key: &Key, downlink: &dyn Downlink) -> Result<(), OtaError> {
        let Some(read) = self.meta.find::<Rollout>(key).await?.filter(|read| read.document.recall) else {
            return Ok(());
        };
        let rollout = &read.document;
        let service = service()?;
        let message = bytes::Bytes::from(Down::Cancelled { rollout: rollout.id.clone() }.to_json());
        for phase in [Phase::Offered, Phase::Downloading, Phase::Verified] {
            let mut after = None;
            loop {
                let value = Assignment::in_phase(&rollout.tenant, &rollout.id, phase);
                let page: Page<Stored<Assignment>> = self.meta.page("phase", &value, after.as_ref(), PAGE).await?;
                for part in page.items {
                    let device = part.document.device;
                    // Whoever is not connected learns it when it asks.
                    let _told = downlink.tell(&rollout.tenant, &device, &service, message.clone()).await;
                }
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
        let _counting = self.counting.lock().await;
        self.settle(|| async {
            let Some(read) = self.meta.find::<Rollout>(key).await? else { return Ok(Step::Answer(())) };
            let told = Rollout { recall: false, ..read.document.clone() };
            Ok(Step::Commit(Batch::default().replace(&read, &told), ()))
        })
        .await
    }

    /// Judges, and goes through one more page of the devices of an open group. Whether more may be left to do.
    async fn go_on(&self, key: &Key) -> Result<bool, OtaError> {
        let _counting = self.counting.lock().await;
        self.settle(|| async {
            let Some(read) = self.meta.find::<Rollout>(key).await? else { return Ok(Step::Answer(false)) };
            let mut rollout = read.document.clone();
            let mut batch = Batch::default();
            let mut told = self.judged(&mut rollout);
            let walks = rollout.state == State::Running;
            if let Some(group) = rollout.to_walk().filter(|_| walks) {
                batch = self.walk(&mut rollout, group, batch).await?;
                told.extend(self.judged(&mut rollout));
            }
            if rollout == read.document {
                return Ok(Step::Answer(false));
            }
            batch = told.into_iter().fold(batch.replace(&read, &rollout), Batch::audited);
            Ok(Step::Commit(batch, true))
        })
        .await
    }

    /// Assigns the devices of a group that are on the next page of the product's devices.
    async fn walk(&self, rollout: &mut Rollout, group: u8, mut batch: Batch) -> Result<Batch, OtaError> {
        let product = Rollout::current_of(&rollout.tenant, &rollout.product);
        let walk = rollout.groups.get(usize::from(group)).map(|group| group.walk.clone()).unwrap_or_default();
        let after = match &walk {
            Walk::After(key) => Some(iot_core::problem::Cursor::after(key.as_bytes())),
            Walk::Begin | Walk::Done => None,
        };
        let page: Page<Stored<Device>> = self.meta.page("product", &product, after.as_ref(), PAGE).await?;
        let last = page.items.last().map(|stored| stored.document.key().key);
        let devices = page.items.into_iter().map(|stored| stored.document);
        let devices: Vec<_> = devices
            .filter(|device| device.stage != Stage::Retired && rollout.group_of(&device.id) == Some(group))
            .collect();
        let keys: Vec<_> =
            devices.iter().map(|device| Assignment::key_of(&device.tenant, &rollout.id, &device.id)).collect();
        let assigned = self.meta.get(&keys).await?;
        let mut count = 0;
        for (device, _) in devices.iter().zip(&assigned).filter(|(_, assigned)| assigned.is_none()) {
            batch = batch.create(&self.part(rollout, group, device, Phase::Pending));
            count += 1;
        }
        let walk = match (page.next, last) {
            (Some(_), Some(last)) => Walk::After(last),
            _ => Walk::Done,
        };
        rollout.walked(group, count, walk);
        Ok(batch)
    }

    /// A device's new part in a rollout.
    pub(super) fn part(&self, rollout: &Rollout, group: u8, device: &Device, phase: Phase) -> Assignment {
        Assignment {
            tenant: device.tenant.clone(),
            rollout: rollout.id.clone(),
            device: device.id.clone(),
            release: rollout.release.clone(),
            group,
            phase,
            reason: None,
            progress_percent: None,
            changed: self.now(),
        }
    }

    /// Offers the release to pending devices that are connected, once for each round of the rollout: whoever connects later
    /// asks by itself.
    async fn tell_pending(&self, key: &Key, downlink: &dyn Downlink) -> Result<(), OtaError> {
        let Some(rollout) = self.meta.find::<Rollout>(key).await? else { return Ok(()) };
        let rollout = rollout.document;
        if rollout.state != State::Running {
            return Ok(());
        }
        let of = (rollout.tenant.clone(), rollout.id.clone());
        let mut telling = lock(&self.present).telling(&of, rollout.round);
        let pending = Assignment::in_phase(&rollout.tenant, &rollout.id, Phase::Pending);
        let mut offers = 0;
        while !telling.done && offers < OFFERS_MAX {
            let page: Page<Stored<Assignment>> =
                self.meta.page("phase", &pending, telling.after.as_ref(), PAGE).await?;
            for part in &page.items {
                offers += usize::from(self.tell(&part.document, downlink).await?);
            }
            telling.done = page.next.is_none();
            telling.after = page.next;
            lock(&self.present).told(&of, telling.clone());
        }
        Ok(())
    }

    /// Whether the device was told. It is told before that is recorded, so that the many that are not connected cost no write;
    /// one that reports at once is heard all the same.
    async fn tell(&self, part: &Assignment, downlink: &dyn Downlink) -> Result<bool, OtaError> {
        let key = Device::key_of(&part.tenant, &part.device);
        let Some(device) = self.meta.find::<Device>(&key).await? else { return Ok(false) };
        let device = device.document;
        let offer = match self.decide_offer(&device).await? {
            Step::Commit(_, Some(known)) => self.offer_of(&device, &known).await?,
            Step::Commit(_, None) => {
                self.offer(&device).await?;
                return Ok(false);
            }
            Step::Answer(_) => return Ok(false),
        };
        let service = service()?;
        match downlink.tell(&part.tenant, &part.device, &service, offer.to_json().into()).await {
            Told::Sent => {
                self.offer(&device).await?;
                Ok(true)
            }
            Told::NotConnected => Ok(false),
        }
    }

    /// Counts those as failed that were offered the release and have made no progress for as long as the plan says.
    async fn give_up_on_silent(&self, key: &Key) -> Result<(), OtaError> {
        let Some(rollout) = self.meta.find::<Rollout>(key).await? else { return Ok(()) };
        let rollout = rollout.document;
        let patience = Duration::from_secs(rollout.plan.patience_s.into());
        for phase in Phase::ALL.into_iter().filter(|phase| phase.is_under_way()) {
            let value = Assignment::in_phase(&rollout.tenant, &rollout.id, phase);
            let mut after = None;
            loop {
                let page: Page<Stored<Assignment>> = self.meta.page("phase", &value, after.as_ref(), PAGE).await?;
                for part in page.items {
                    if self.now().since(part.document.changed) >= patience {
                        self.give_up(&part.document.key(), patience).await?;
                    }
                }
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }

    async fn give_up(&self, key: &Key, patience: Duration) -> Result<(), OtaError> {
        let _counting = self.counting.lock().await;
        self.settle(|| async {
            let Some(part) = self.meta.find::<Assignment>(key).await? else { return Ok(Step::Answer(())) };
            let silent = part.document.phase.is_under_way() && self.now().since(part.document.changed) >= patience;
            if !silent {
                return Ok(Step::Answer(()));
            }
            let failed = part.document.moved(Phase::Failed, Some(NO_PROGRESS), self.now());
            debug_assert_eq!(failed.phase.vote(), Vote::Failure);
            let device: Option<Stored<Device>> =
                self.meta.find(&Device::key_of(&failed.tenant, &failed.device)).await?;
            let device = device.as_ref().map(|device| &device.document);
            Ok(Step::Commit(self.change_part(&part, &failed, device).await?, ()))
        })
        .await
    }
}

fn service() -> Result<ServiceName, OtaError> {
    ServiceName::parse(SERVICE).map_err(|error| OtaError::Damaged(error.to_string()))
}
