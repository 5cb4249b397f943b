use iot_core::{id::RolloutId, time::Monotonic};

use super::{
    Action, FetchFailure, Identity, Limits, Now, Running, Slot, State,
    load::{Load, Next},
    state::Stage,
};
use crate::{
    release::{Manifest, Refused, Trust, verify},
    wire::{Hello, Report, ReportState},
};

/// How much further a download must be before it is reported again, in percent.
const PROGRESS_STEP_PERCENT: u8 = 10;

/// Decides about updates of one device. See [the module](super) for its course and for the one rule of use.
///
/// After every call, [`poll_action`](Self::poll_action) until there is none, and [`poll_deadline`](Self::poll_deadline).
/// Actions are carried out one after another; an answer to something that was not asked is ignored.
#[derive(Debug)]
pub struct Updater {
    pub(super) identity: Identity,
    pub(super) trust: Trust,
    limits: Limits,
    pub(super) state: State,
    /// Of the job, after its signatures were verified by this process.
    pub(super) manifest: Option<Manifest>,
    pub(super) load: Option<Load>,
    pub(super) link: Option<String>,
    pub(super) running: Option<Slot>,
    trial_until: Option<Monotonic>,
    step: Option<Action>,
    pub(super) report: Option<Report>,
    pub(super) outcome_due: bool,
    reported_percent: u8,
}

impl Updater {
    /// Of a device with this state; `None` if it was never stored. What the state says about a release is verified again.
    pub fn new(identity: Identity, trust: Trust, limits: Limits, state: Option<State>) -> Self {
        let state = state.unwrap_or_else(|| State::factory(identity.factory.clone()));
        let mut updater = Self {
            outcome_due: state.outcome.is_some(),
            identity,
            trust,
            limits,
            state,
            manifest: None,
            load: None,
            link: None,
            running: None,
            trial_until: None,
            step: None,
            report: None,
            reported_percent: 0,
        };
        updater.verify_again();
        updater
    }

    /// What must be stored durably after every call that changed it, before an action is carried out. It does not change
    /// while chunks are loaded.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What the device runs.
    pub fn hello(&self) -> Hello {
        let slot = self.running.unwrap_or(self.state.active);
        let running = self.image_of(slot);
        let (version, sequence, security_version) = (running.version, running.sequence, running.security_version);
        Hello { version, sequence, security_version, hardware: self.identity.hardware.clone(), slot }
    }

    /// The next thing to do.
    #[must_use]
    pub fn poll_action(&mut self) -> Option<Action> {
        if let Some(report) = self.report.take() {
            return Some(Action::Report(report));
        }
        if std::mem::take(&mut self.outcome_due)
            && let Some(outcome) = &self.state.outcome
        {
            return Some(Action::Report(outcome.clone()));
        }
        self.step.take()
    }

    /// When to call [`tick`](Self::tick), if nothing happens before.
    #[must_use]
    pub fn poll_deadline(&self) -> Option<Monotonic> {
        self.trial_until.or_else(|| self.load.as_ref().and_then(Load::deadline))
    }

    /// The device has started from `slot`: the first thing to say in every start.
    pub fn booted(&mut self, now: Now, slot: Slot) {
        self.running = Some(slot);
        let tried = slot != self.state.active;
        match self.state.stage().cloned() {
            Some(Stage::Trial { activations, boots }) if tried => self.begin_trial(now, activations, boots),
            Some(Stage::Confirming) if tried => self.step = Some(Action::Confirm { slot }),
            Some(Stage::Reverting { .. }) if tried => self.step = Some(Action::Revert { slot: slot.other() }),
            // The boot loader was never told, or does not do it.
            Some(Stage::Trial { activations, boots: 0 }) if activations < self.limits.activations_max => {
                self.state.set_stage(Stage::Loading { activations });
                self.begin_load();
            }
            Some(Stage::Trial { boots: 0, .. }) => self.rolled_back("not_started"),
            Some(Stage::Trial { .. } | Stage::Confirming) => self.rolled_back("boot_failed"),
            Some(Stage::Reverting { reason }) => self.rolled_back(&reason),
            Some(Stage::Loading { .. }) | None => {
                // What runs is never written to, even if the boot loader has gone back on its own.
                self.state.active = slot;
                self.begin_load();
            }
        }
    }

    /// Whether the image that runs does its work. Decides a trial; says nothing at other times.
    pub fn health(&mut self, _now: Now, well: bool) {
        if self.trial_until.is_none() {
            return;
        }
        if !well {
            return self.revert("unhealthy");
        }
        self.trial_until = None;
        self.state.set_stage(Stage::Confirming);
        self.step = Some(Action::Confirm { slot: self.state.active.other() });
    }

    /// The boot loader keeps the slot of [`Action::Confirm`].
    pub fn confirmed(&mut self) {
        if self.state.stage() != Some(&Stage::Confirming) || self.running != Some(self.state.active.other()) {
            return;
        }
        if let (Some(job), Some(manifest)) = (&self.state.job, self.manifest.take()) {
            let digest = job.release.digest();
            self.state.confirm(&manifest, digest);
            self.end(ReportState::Confirmed, None);
        }
    }

    /// What stands in the slot at the chunk of [`Action::Read`].
    pub fn stored(&mut self, now: Now, chunk: u32, bytes: &[u8]) {
        self.advance(now, |load, manifest, limits| load.stored(&manifest.image, limits, chunk, bytes));
    }

    /// The body that [`Action::Fetch`] asked for, whatever it is: at most one byte longer than the range.
    pub fn chunk(&mut self, now: Now, chunk: u32, bytes: Vec<u8>) {
        self.advance(now, |load, manifest, limits| load.fetched(&manifest.image, limits, chunk, bytes));
    }

    /// [`Action::Fetch`] brought no body.
    pub fn fetch_failed(&mut self, now: Now, failure: FetchFailure) {
        let code = match failure {
            FetchFailure::Unreachable => "unreachable",
            FetchFailure::LinkExpired => {
                self.link = None;
                "link_expired"
            }
        };
        self.advance(now, |load, _, limits| load.lost(limits, code, now.uptime));
    }

    /// [`Action::Write`] is done and will survive a power cut.
    pub fn written(&mut self, now: Now) {
        self.advance(now, |load, manifest, _| load.written(&manifest.image));
        self.report_progress();
    }

    /// [`Action::Read`] or [`Action::Write`] could not be done.
    pub fn storage_failed(&mut self, now: Now) {
        self.advance(now, |_, _, _| Next::Failed("storage"));
    }

    /// The rollout offers its release no more. What is being tried is tried to its end.
    pub fn cancelled(&mut self, rollout: &RolloutId) {
        let loading = matches!(self.state.stage(), Some(Stage::Loading { .. }));
        if loading && self.state.job.as_ref().is_some_and(|job| &job.rollout == rollout) {
            self.forget_job();
        }
    }

    /// The cloud has no release for this device now. What it still loads was withdrawn; what is being tried is tried.
    pub fn nothing(&mut self) {
        if matches!(self.state.stage(), Some(Stage::Loading { .. })) {
            self.forget_job();
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Now) {
        if self.trial_until.is_some_and(|until| until <= now.uptime) {
            return self.revert("health_timeout");
        }
        self.advance(now, |load, _, limits| load.tick(limits, now.uptime));
    }

    /// The cloud has this final report.
    pub fn reported(&mut self, report: &Report) {
        self.state.outcome.take_if(|outcome| outcome == report);
    }

    /// Reads the slot that does not run and loads what differs, once it is known which one that is.
    pub(super) fn begin_load(&mut self) {
        let (Some(manifest), Some(running)) = (&self.manifest, self.running) else { return };
        if matches!(self.state.stage(), Some(Stage::Loading { .. })) {
            debug_assert_eq!(running, self.state.active, "a download begins where the good image runs");
            let mut load = Load::new(running.other());
            if let Next::Do(action) = load.read(&manifest.image, 0) {
                self.step = Some(action);
            }
            self.load = Some(load);
            self.reported_percent = 0;
        }
    }

    pub(super) fn forget_job(&mut self) {
        self.state.job = None;
        (self.manifest, self.load, self.link, self.step) = (None, None, None, None);
        self.trial_until = None;
    }

    pub(super) fn image_of(&self, slot: Slot) -> Running {
        let tried = self.manifest.as_ref().filter(|_| slot != self.state.active).map(|manifest| Running {
            version: manifest.version.clone(),
            sequence: manifest.sequence,
            security_version: manifest.security_version,
            manifest: None,
        });
        tried.or_else(|| self.state.image(slot).cloned()).unwrap_or_else(|| self.identity.factory.clone())
    }

    /// One step of a download, and what follows from it.
    pub(super) fn advance(&mut self, now: Now, step: impl FnOnce(&mut Load, &Manifest, &Limits) -> Next) {
        let (Some(load), Some(manifest)) = (&mut self.load, &self.manifest) else { return };
        match step(load, manifest, &self.limits) {
            Next::Do(action) => self.step = Some(action),
            Next::Fetch(chunk) => self.fetch(now, chunk),
            Next::Wait => {}
            Next::Whole => self.activate(),
            Next::Contradiction => self.refuse_for_good(&Refused::ImageHash),
            Next::Failed(code) => self.end(ReportState::Failed, Some(code)),
        }
    }

    fn fetch(&mut self, now: Now, chunk: u32) {
        let (Some(load), Some(manifest)) = (&mut self.load, &self.manifest) else { return };
        if let Some(url) = &self.link {
            let range = manifest.image.range(chunk).unwrap_or_default();
            load.fetching(&self.limits, chunk, now.uptime);
            self.step = Some(Action::Fetch { url: url.clone(), chunk, range });
        } else if let Next::Failed(code) = load.pause(&self.limits, chunk, "no_link", now.uptime) {
            self.end(ReportState::Failed, Some(code));
        } else {
            self.step = Some(Action::Hello);
        }
    }

    fn activate(&mut self) {
        let Some(Stage::Loading { activations }) = self.state.stage() else { return };
        let activations = activations + 1;
        self.load = None;
        self.state.set_stage(Stage::Trial { activations, boots: 0 });
        self.say(ReportState::Verified, None);
        self.step = Some(Action::Activate { slot: self.state.active.other() });
    }

    fn begin_trial(&mut self, now: Now, activations: u8, boots: u8) {
        self.state.set_stage(Stage::Trial { activations, boots: boots.max(1) });
        self.trial_until = Some(now.uptime.plus(self.limits.trial));
        self.say(ReportState::Installed, None);
    }

    fn revert(&mut self, reason: &str) {
        self.trial_until = None;
        self.state.set_stage(Stage::Reverting { reason: reason.to_owned() });
        self.step = Some(Action::Revert { slot: self.state.active });
    }

    fn rolled_back(&mut self, reason: &str) {
        self.remember_job();
        self.end(ReportState::RolledBack, Some(reason));
    }

    /// It would be found again only after all of it was loaded again.
    fn refuse_for_good(&mut self, refused: &Refused) {
        self.remember_job();
        self.end(ReportState::Refused, Some(refused.code()));
    }

    fn remember_job(&mut self) {
        if let Some(job) = &self.state.job {
            let digest = job.release.digest();
            self.state.remember_reverted(digest);
        }
    }

    fn end(&mut self, state: ReportState, reason: Option<&str>) {
        let Some(job) = &self.state.job else { return };
        self.state.outcome = Some(report(&job.rollout, state, reason));
        self.outcome_due = true;
        self.report = None;
        self.forget_job();
    }

    fn say(&mut self, state: ReportState, percent: Option<u8>) {
        if let Some(job) = &self.state.job {
            self.report = Some(Report { progress_percent: percent, ..report(&job.rollout, state, None) });
        }
    }

    pub(super) fn say_downloading(&mut self) {
        self.say(ReportState::Downloading, Some(self.reported_percent));
    }

    fn report_progress(&mut self) {
        let (Some(load), Some(manifest)) = (&self.load, &self.manifest) else { return };
        let Some(percent) = load.percent(&manifest.image) else { return };
        if percent >= self.reported_percent.saturating_add(PROGRESS_STEP_PERCENT) {
            self.reported_percent = percent;
            self.say_downloading();
        }
    }

    /// A stored job counts for as much as its signatures.
    fn verify_again(&mut self) {
        let Some(job) = &self.state.job else { return };
        match (verify(&self.trust, &job.release), &job.stage) {
            (Ok(manifest), _) => self.manifest = Some(manifest),
            (Err(_), Stage::Loading { .. }) => self.forget_job(),
            (Err(refused), _) => self.state.set_stage(Stage::Reverting { reason: refused.code().to_owned() }),
        }
    }
}

pub(super) fn report(rollout: &RolloutId, state: ReportState, reason: Option<&str>) -> Report {
    Report { rollout: rollout.clone(), state, progress_percent: None, reason: reason.map(str::to_owned) }
}
