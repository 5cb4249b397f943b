//! Planning rollouts, and orders to them.

use iot_core::{
    access::Principal,
    device::Device,
    id::{ReleaseId, RolloutId, TenantId},
    push::Notification,
    store::{Audit, Batch, Contended, Document, Index, MetaStoreExt, Step, Stored},
};

use super::{
    Ota, OtaError,
    records::{ReleaseRecord, ReleaseState},
};
use crate::rollout::{Assignment, Moved, Order, Ordered, Phase, Plan, PlanError, Rollout, State, Vote};

/// The most rollouts of a product, those that are over included.
pub const ROLLOUTS_MAX: u64 = 1_000;

/// The answer to a plan.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RolloutCreated {
    /// It is a draft.
    Done(Box<Rollout>),
    /// The plan cannot be carried out.
    Invalid(PlanError),
    /// There is no such release, or it was withdrawn.
    NoSuchRelease,
    /// The product has [`ROLLOUTS_MAX`].
    TooMany,
}

/// The answer to an order.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RolloutOrdered {
    /// It is done, or was so already.
    Done(Box<Rollout>),
    /// There is no such rollout.
    NoSuchRollout,
    /// Not from the state that it is in.
    NotFrom(State),
    /// Its release has no image yet, or was withdrawn.
    ReleaseNotReady,
    /// This rollout of the product is not over.
    Another(RolloutId),
}

impl Ota {
    /// Plans a rollout of a release to the devices of its product.
    pub async fn create_rollout(
        &self,
        by: &Principal,
        release: &ReleaseId,
        plan: Plan,
    ) -> Result<RolloutCreated, OtaError> {
        if let Err(error) = plan.check() {
            return Ok(RolloutCreated::Invalid(error));
        }
        let release = self.meta.find::<ReleaseRecord>(&ReleaseRecord::key_of(&by.tenant, release)).await?;
        let Some(release) = release.filter(|release| release.document.state != ReleaseState::Withdrawn) else {
            return Ok(RolloutCreated::NoSuchRelease);
        };
        let of = (release.document.product, release.document.id);
        let index = Index::new(Rollout::KIND, "product", Rollout::current_of(&by.tenant, &of.0));
        if self.meta.count(&index).await? >= ROLLOUTS_MAX {
            return Ok(RolloutCreated::TooMany);
        }
        let id = RolloutId::parse(&self.new_id()?).map_err(|_| OtaError::Random)?;
        let rollout = Rollout::draft(by.tenant.clone(), id, of, plan, self.now());
        let batch = Batch::default().create(&rollout).audited(self.done(by, "rollout_create", &rollout.key()));
        match self.meta.commit_or_conflict(batch).await? {
            true => Ok(RolloutCreated::Done(Box::new(rollout))),
            false => Err(Contended.into()),
        }
    }

    /// Carries out an order. A product has at most one rollout that runs or is paused; to start another, end that one first.
    pub async fn order(&self, by: &Principal, id: &RolloutId, order: Order) -> Result<RolloutOrdered, OtaError> {
        let _counting = self.counting.lock().await;
        let answer = self.settle(|| self.decide_order(by, id, order)).await?;
        self.wake.notify_one();
        Ok(answer)
    }

    async fn decide_order(
        &self,
        by: &Principal,
        id: &RolloutId,
        order: Order,
    ) -> Result<Step<RolloutOrdered>, OtaError> {
        let Some(read) = self.meta.find::<Rollout>(&Rollout::key_of(&by.tenant, id)).await? else {
            return Ok(Step::Answer(RolloutOrdered::NoSuchRollout));
        };
        let mut rollout = read.document.clone();
        match rollout.order(order, self.now()) {
            Ordered::Unchanged => return Ok(Step::Answer(RolloutOrdered::Done(Box::new(rollout)))),
            Ordered::NotFrom(state) => return Ok(Step::Answer(RolloutOrdered::NotFrom(state))),
            Ordered::Changed => {}
        }
        let action = match order {
            Order::Start => "rollout_start",
            Order::Pause => "rollout_pause",
            Order::Resume => "rollout_resume",
            Order::Cancel => "rollout_cancel",
        };
        let mut batch = Batch::default().replace(&read, &rollout).audited(self.done(by, action, &rollout.key()));
        if matches!(order, Order::Start | Order::Resume) {
            let key = ReleaseRecord::key_of(&by.tenant, &rollout.release);
            match self.meta.find::<ReleaseRecord>(&key).await? {
                Some(release) if release.document.state == ReleaseState::Ready => batch = batch.unchanged(&release),
                _ => return Ok(Step::Answer(RolloutOrdered::ReleaseNotReady)),
            }
        }
        if order == Order::Start {
            let current = Rollout::current_of(&by.tenant, &rollout.product);
            if let Some(former) = self.meta.find_by::<Rollout>("current", &current).await? {
                if !former.document.state.is_final() {
                    return Ok(Step::Answer(RolloutOrdered::Another(former.document.id)));
                }
                batch = batch.replace(&former, &Rollout { current: false, ..former.document.clone() });
            }
        }
        Ok(Step::Commit(batch, RolloutOrdered::Done(Box::new(rollout))))
    }

    /// A rollout of a tenant.
    pub async fn rollout(&self, tenant: &TenantId, id: &RolloutId) -> Result<Option<Rollout>, OtaError> {
        Ok(self.meta.find(&Rollout::key_of(tenant, id)).await?.map(|stored| stored.document))
    }

    /// How many devices of a rollout are in each phase. Each figure is right for its own moment.
    pub async fn phases(&self, rollout: &Rollout) -> Result<Vec<(Phase, u64)>, OtaError> {
        let mut counts = Vec::with_capacity(Phase::ALL.len());
        for phase in Phase::ALL {
            let value = Assignment::in_phase(&rollout.tenant, &rollout.id, phase);
            counts.push((phase, self.meta.count(&Index::new(Assignment::KIND, "phase", value)).await?));
        }
        Ok(counts)
    }

    /// Judges a rollout until nothing moves any more; answers what is to be told of it.
    pub(super) fn judged(&self, rollout: &mut Rollout) -> Vec<Audit> {
        let mut told = Vec::new();
        // Each step opens a group, begins or ends a soak, or is the last.
        for _ in 0..=2 * rollout.groups.len() {
            let action = match rollout.judge(self.now()) {
                Moved::Nothing => break,
                Moved::Soaking => continue,
                Moved::Opened(group) => format!("rollout_open_group_{group}"),
                Moved::Halted(_) => "rollout_halt".to_owned(),
                Moved::Completed => "rollout_complete".to_owned(),
            };
            told.push(self.entry(&rollout.tenant, "server", &action, rollout.key()));
        }
        told
    }

    /// The batch by which a device's part changes, with the vote that goes with it and what is told of it: all or nothing, so
    /// that the counts are those of the parts. `device`: as it was when this became of it.
    pub(super) async fn change_part(
        &self,
        read: &Stored<Assignment>,
        next: &Assignment,
        device: Option<&Device>,
    ) -> Result<Batch, OtaError> {
        let batch = Batch::default().replace(read, next);
        if !Rollout::counts(read.document.phase, next.phase) {
            return Ok(batch);
        }
        let key = Rollout::key_of(&next.tenant, &next.rollout);
        let Some(stored) = self.meta.find::<Rollout>(&key).await? else {
            return Err(OtaError::Damaged(format!("{key} is gone, and devices are assigned to it")));
        };
        let mut rollout = stored.document.clone();
        rollout.moved(next.group, read.document.phase, next.phase);
        let told = self.judged(&mut rollout);
        if !told.is_empty() {
            self.wake.notify_one();
        }
        let batch = told.into_iter().fold(batch.replace(&stored, &rollout), Batch::audited);
        let told = match device {
            Some(device) => self.told_of(next, device).await?,
            None => None,
        };
        Ok(told.into_iter().fold(batch, Batch::announced))
    }

    /// What is told of a device that has come to an end in a rollout; nothing of one that takes no part.
    async fn told_of(&self, part: &Assignment, device: &Device) -> Result<Option<Notification>, OtaError> {
        let vote = part.phase.vote();
        if matches!(vote, Vote::None | Vote::Abstained) {
            return Ok(None);
        }
        let release: Option<Stored<ReleaseRecord>> =
            self.meta.find(&ReleaseRecord::key_of(&part.tenant, &part.release)).await?;
        let version = release.map_or_else(|| part.release.to_string(), |release| release.document.version.to_string());
        let reason = part.reason.as_deref().unwrap_or_else(|| part.phase.code());
        Ok(Some(match vote {
            Vote::Success => Notification::update_confirmed(device, &part.rollout, &version, self.now()),
            _ => Notification::update_failed(device, &part.rollout, &version, reason, self.now()),
        }))
    }
}
