//! The rollout itself: its states, its groups, its counts.

use iot_core::{
    id::{DeviceId, ProductId, ReleaseId, RolloutId, TenantId},
    store::{Document, IndexKey, Key},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

use super::{
    assignment::{Phase, Vote},
    plan::{Judgement, Plan, Votes},
    share::place_of,
};

/// Where a rollout is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
#[non_exhaustive]
pub enum State {
    /// It was planned and touches no device.
    Draft,
    /// Devices of its open groups are offered the release.
    Running,
    /// By an operator: no further device is offered the release; those under way go on.
    Paused,
    /// By the gate of a group, for good: no device is offered the release, and those that still load are told to stop.
    Halted {
        /// Whose gate, from 0.
        group: u8,
        /// What it judged.
        votes: Votes,
    },
    /// Every device of every group has come to an end.
    Completed,
    /// By an operator, for good. As with a halt.
    Cancelled,
}

impl State {
    /// Stable, `snake_case`.
    pub fn code(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Halted { .. } => "halted",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether it is over.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Halted { .. } | Self::Completed | Self::Cancelled)
    }
}

/// How far the product's devices were gone through for an open group, so that each has its assignment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Walk {
    /// Not yet begun.
    #[default]
    Begin,
    /// Up to and with the device of this key.
    After(String),
    /// To the end. Devices that come later are assigned when they connect.
    Done,
}

/// What became of a group.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Group {
    /// Since when its devices are offered the release.
    #[serde(default)]
    pub opened: Option<Timestamp>,
    /// Since when its gate is satisfied.
    #[serde(default)]
    pub satisfied: Option<Timestamp>,
    /// How far its devices were sought.
    #[serde(default)]
    pub walk: Walk,
    /// How many devices were assigned.
    pub assigned: u32,
    /// How many of them take no part.
    pub skipped: u32,
    /// How many voted, and how.
    pub votes: Votes,
}

impl Group {
    /// Whether every one of its devices is known and has come to an end.
    fn is_over(&self) -> bool {
        self.walk == Walk::Done && u64::from(self.assigned) == self.votes.executed() + u64::from(self.skipped)
    }
}

/// A release on its way to the devices of a product.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// Whose.
    pub tenant: TenantId,
    /// Which.
    pub id: RolloutId,
    /// To whose devices.
    pub product: ProductId,
    /// Of what.
    pub release: ReleaseId,
    /// As it was asked for.
    pub plan: Plan,
    /// Where it is in its life.
    pub state: State,
    /// One for each of the plan.
    pub groups: Vec<Group>,
    /// One more whenever devices may be waiting that nobody has told: a group was opened or gone through, or it goes on.
    pub round: u32,
    /// Whether devices that still load are to be told that it is over.
    #[serde(default)]
    pub recall: bool,
    /// Whether it is the one of its product that was started last. A product has at most one.
    pub current: bool,
    /// When it was planned.
    pub created: Timestamp,
    /// When it was started.
    #[serde(default)]
    pub started: Option<Timestamp>,
}

/// What an operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Begin with the first group.
    Start,
    /// Offer it to no further device for now.
    Pause,
    /// Go on.
    Resume,
    /// End it for good.
    Cancel,
}

/// The answer to an [`Order`].
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ordered {
    /// Done.
    Changed,
    /// It was so already.
    Unchanged,
    /// Not from the state that it is in.
    NotFrom(State),
}

/// What judging has come to.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// Nothing.
    Nothing,
    /// A gate is satisfied since now, and its soak has begun; or it is no longer.
    Soaking,
    /// This group is open.
    Opened(u8),
    /// The gate of this group has halted it.
    Halted(u8),
    /// It is over, and went well.
    Completed,
}

impl Rollout {
    /// A draft. `plan` must have been [checked](Plan::check).
    pub fn draft(
        tenant: TenantId,
        id: RolloutId,
        (product, release): (ProductId, ReleaseId),
        plan: Plan,
        now: Timestamp,
    ) -> Self {
        let groups = vec![Group::default(); plan.groups.len()];
        let state = State::Draft;
        Self {
            tenant,
            id,
            product,
            release,
            plan,
            state,
            groups,
            round: 0,
            recall: false,
            current: false,
            created: now,
            started: None,
        }
    }

    /// Its key in a store.
    pub fn key_of(tenant: &TenantId, id: &RolloutId) -> Key {
        Key::new(Self::KIND, format!("{tenant}/{id}"))
    }

    /// The value of index `current`.
    pub fn current_of(tenant: &TenantId, product: &ProductId) -> String {
        format!("{tenant}/{product}")
    }

    /// Carries out an order.
    pub fn order(&mut self, order: Order, now: Timestamp) -> Ordered {
        let next = match (order, self.state) {
            (Order::Start, State::Draft) => {
                self.current = true;
                self.started = Some(now);
                self.open(0, now);
                State::Running
            }
            (Order::Start | Order::Resume, State::Running)
            | (Order::Pause, State::Paused)
            | (Order::Cancel, State::Cancelled) => return Ordered::Unchanged,
            (Order::Pause, State::Running) => State::Paused,
            (Order::Resume, State::Paused) => {
                self.round = self.round.saturating_add(1);
                State::Running
            }
            (Order::Cancel, State::Draft | State::Running | State::Paused | State::Halted { .. }) => {
                self.recall |= self.current && !self.state.is_final();
                State::Cancelled
            }
            (_, state) => return Ordered::NotFrom(state),
        };
        self.state = next;
        Ordered::Changed
    }

    /// The group of a device, from 0; `None` if the plan does not reach it.
    pub fn group_of(&self, device: &DeviceId) -> Option<u8> {
        let place = place_of(&self.id, device);
        let named = self.plan.groups.first().is_some_and(|group| group.devices.contains(device));
        let found = match named {
            true => Some(0),
            false => self.plan.groups.iter().position(|group| place < group.reach_per_mille),
        };
        found.and_then(|group| u8::try_from(group).ok())
    }

    /// Whether the devices of a group may be offered the release, as far as the group is concerned.
    pub fn is_open(&self, group: u8) -> bool {
        self.groups.get(usize::from(group)).is_some_and(|group| group.opened.is_some())
    }

    /// How many groups are open.
    pub fn open_groups(&self) -> usize {
        self.groups.iter().filter(|group| group.opened.is_some()).count()
    }

    /// The open group whose devices have not all been sought yet.
    pub fn to_walk(&self) -> Option<u8> {
        let walked = |group: &Group| group.opened.is_some() && group.walk != Walk::Done;
        self.groups.iter().position(walked).and_then(|group| u8::try_from(group).ok())
    }

    /// So many devices of a group were assigned, and the search is now here.
    pub fn walked(&mut self, group: u8, assigned: u32, walk: Walk) {
        self.round = self.round.saturating_add(u32::from(walk == Walk::Done));
        if let Some(group) = self.groups.get_mut(usize::from(group)) {
            group.assigned = group.assigned.saturating_add(assigned);
            group.walk = walk;
        }
    }

    /// One device of a group was assigned on its own.
    pub fn joined(&mut self, group: u8) {
        if let Some(group) = self.groups.get_mut(usize::from(group)) {
            group.assigned = group.assigned.saturating_add(1);
        }
    }

    /// Whether the change of a device's phase changes a count.
    pub fn counts(from: Phase, to: Phase) -> bool {
        from.vote() != to.vote()
    }

    /// A device of a group has changed its phase: its vote moves with it, so that it has one and never two.
    pub fn moved(&mut self, group: u8, from: Phase, to: Phase) {
        let Some(group) = self.groups.get_mut(usize::from(group)) else { return };
        if let Some(count) = group.count_of(from.vote()) {
            *count = count.saturating_sub(1);
        }
        if let Some(count) = group.count_of(to.vote()) {
            *count = count.saturating_add(1);
        }
    }

    /// Judges by the gates of all open groups, failures of any before the success of any; opens the next group, halts, or
    /// ends. Does one thing at a time: call it again until it answers [`Moved::Nothing`].
    pub fn judge(&mut self, now: Timestamp) -> Moved {
        if self.state != State::Running {
            return Moved::Nothing;
        }
        let open = self.open_groups();
        for number in 0..open {
            if self.judgement(number) == Judgement::Halt {
                let group = u8::try_from(number).unwrap_or(u8::MAX);
                self.recall = true;
                self.state = State::Halted { group, votes: self.groups[number].votes };
                return Moved::Halted(group);
            }
        }
        if open < self.groups.len() {
            return self.advance(open, now);
        }
        if self.groups.iter().all(Group::is_over) {
            self.state = State::Completed;
            return Moved::Completed;
        }
        Moved::Nothing
    }

    fn judgement(&self, number: usize) -> Judgement {
        self.plan.groups[number].gate.judge(self.groups[number].votes)
    }

    /// Opens the group after the first `open` ones, if the gate of the last of those has been satisfied for long enough.
    fn advance(&mut self, open: usize, now: Timestamp) -> Moved {
        let Some(last) = open.checked_sub(1) else { return Moved::Nothing };
        let good = self.judgement(last) == Judgement::Advance;
        let soak_s = self.plan.groups[last].gate.soak_s;
        let group = &mut self.groups[last];
        match (good, group.satisfied) {
            (false, None) => Moved::Nothing,
            (false, Some(_)) => {
                group.satisfied = None;
                Moved::Soaking
            }
            (true, None) if soak_s > 0 => {
                group.satisfied = Some(now);
                Moved::Soaking
            }
            (true, Some(since)) if now.since(since).as_secs() < u64::from(soak_s) => Moved::Nothing,
            (true, _) => {
                group.satisfied.get_or_insert(now);
                self.open(open, now);
                Moved::Opened(u8::try_from(open).unwrap_or(u8::MAX))
            }
        }
    }

    fn open(&mut self, number: usize, now: Timestamp) {
        self.round = self.round.saturating_add(1);
        if let Some(group) = self.groups.get_mut(number) {
            group.opened = Some(now);
        }
    }
}

impl Group {
    fn count_of(&mut self, vote: Vote) -> Option<&mut u32> {
        match vote {
            Vote::None => None,
            Vote::Success => Some(&mut self.votes.succeeded),
            Vote::Failure => Some(&mut self.votes.failed),
            Vote::Abstained => Some(&mut self.skipped),
        }
    }
}

impl Document for Rollout {
    const KIND: &'static str = "rollout";
    const FORMAT: u16 = 1;

    fn key(&self) -> Key {
        Self::key_of(&self.tenant, &self.id)
    }

    /// `tenant`; `product`: `<tenant>/<product>`; `current` (unique): `<tenant>/<product>` of the one that was started last;
    /// `active`: those that run, or are
    /// over and have devices to tell, of all tenants.
    fn index_keys(&self) -> Vec<IndexKey> {
        let product = Self::current_of(&self.tenant, &self.product);
        let mut keys = vec![IndexKey::many("tenant", self.tenant.as_str()), IndexKey::many("product", &product)];
        keys.extend(self.current.then(|| IndexKey::unique("current", &product)));
        keys.extend((self.state == State::Running || self.recall).then(|| IndexKey::many("active", "")));
        keys
    }
}
