//! Rollouts: releases on their way to devices, in groups with gates.

use std::collections::BTreeSet;

use askama::Template;
use axum::extract::State;
use iot_core::{
    id::{DeviceId, ReleaseId, RolloutId, TenantId},
    problem::{Cursor, Problem},
    store::{MetaStoreExt, StoreError},
    time::Timestamp,
};
use iot_http::{Form, Identity, Path, ProblemResponse, Query};
use iot_ota::{
    rollout::{Assignment, Gate, GroupPlan, Order, PATIENCE_S_DEFAULT, Phase, Plan, Rollout, State as Life},
    server::{ReleaseRecord, RolloutCreated, RolloutOrdered},
};
use serde::Deserialize;

use super::{
    Console,
    confirm::{self, Question},
    page::{Answer, Shell, Wrong, invalid, page, see},
    releases::ReleaseShown,
    show::Moment,
};

/// Rollouts and devices of a page.
const ROWS: u32 = 50;
/// Releases that can be chosen from.
const CHOICES_MAX: u32 = 200;

#[derive(Default, Deserialize)]
pub(super) struct View {
    cursor: Option<String>,
    done: Option<String>,
    /// The release for which a rollout is to be planned.
    release: Option<String>,
}

struct Row {
    id: String,
    product: String,
    version: String,
    state: &'static str,
    /// `good`, `bad`, `open` or nothing.
    kind: &'static str,
    open_groups: usize,
    groups: usize,
    succeeded: u32,
    failed: u32,
    created: Moment,
}

impl Row {
    fn of(rollout: &Rollout, version: String, now: Timestamp) -> Self {
        Self {
            id: rollout.id.to_string(),
            product: rollout.product.to_string(),
            version,
            state: rollout.state.code(),
            kind: match rollout.state {
                Life::Completed => "good",
                Life::Halted { .. } => "bad",
                Life::Running => "open",
                _ => "",
            },
            open_groups: rollout.groups.iter().filter(|group| group.opened.is_some()).count(),
            groups: rollout.groups.len(),
            succeeded: rollout.groups.iter().map(|group| group.votes.succeeded).sum(),
            failed: rollout.groups.iter().map(|group| group.votes.failed).sum(),
            created: Moment::of(rollout.created, now),
        }
    }
}

#[derive(Template)]
#[template(path = "rollouts.html")]
struct RolloutsPage {
    shell: Shell,
    rows: Vec<Row>,
    /// Where the next page is; empty after the last.
    next: String,
    releases: Vec<ReleaseShown>,
    asked: NewRollout,
    wrong: Wrong,
}

/// The form for a rollout in two groups.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct NewRollout {
    #[serde(default)]
    release: String,
    /// Percent of the product's devices.
    #[serde(default)]
    first: String,
    /// Device ids, with blanks or commas.
    #[serde(default)]
    devices: String,
    #[serde(default)]
    min: String,
    /// Percent of those that have voted.
    #[serde(default)]
    failures: String,
    /// Minutes.
    #[serde(default)]
    soak: String,
}

impl Default for NewRollout {
    fn default() -> Self {
        let text = ToString::to_string;
        let (first, min, failures, soak) = (text(&10), text(&1), text(&5), text(&0));
        Self { release: String::new(), first, devices: String::new(), min, failures, soak }
    }
}

impl NewRollout {
    fn plan(&self) -> Result<(ReleaseId, Plan), Wrong> {
        let mut wrong = Wrong::default();
        let mut number = |field: &'static str, text: &str, most: u32| -> u32 {
            let number = text.trim().parse().ok().filter(|number| *number <= most);
            number.unwrap_or_else(|| {
                wrong.add(field, format!("Give a whole number up to {most}."));
                0
            })
        };
        let reach = number("first", &self.first, 99) * 10;
        let min_executed = number("min", &self.min, 1_000_000);
        let failures = number("failures", &self.failures, 100) * 10;
        let soak_s = number("soak", &self.soak, 43_200) * 60;
        let named = self.devices.split([',', ' ', '\n', '\r']).filter(|id| !id.is_empty()).map(DeviceId::parse);
        let devices = named.collect::<Result<BTreeSet<_>, _>>().unwrap_or_else(|error| {
            wrong.add("devices", format!("{error}."));
            BTreeSet::new()
        });
        let release = ReleaseId::parse(&self.release).map_err(|_| wrong.add("release", "Choose a release.")).ok();
        let per_mille = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
        let gate = Gate {
            min_executed,
            failure_per_mille_max: per_mille(failures),
            success_per_mille_min: per_mille(1_000_u32.saturating_sub(failures)),
            soak_s,
        };
        let groups = vec![
            GroupPlan { reach_per_mille: per_mille(reach), devices, gate },
            GroupPlan { reach_per_mille: 1_000, devices: BTreeSet::new(), gate },
        ];
        match release.filter(|_| wrong.is_empty()) {
            Some(release) => Ok((release, Plan { groups, patience_s: PATIENCE_S_DEFAULT })),
            None => Err(wrong),
        }
    }
}

pub(super) async fn list(State(console): State<Console>, who: Identity, Query(view): Query<View>) -> Answer {
    let shown = compose_list(&console, &who, view).await?;
    Ok(page(&shown))
}

async fn compose_list(console: &Console, who: &Identity, view: View) -> Result<RolloutsPage, StoreError> {
    let tenant = &who.principal.tenant;
    let shell = Shell::of(console, who, "rollouts", "Rollouts").await?.noticing(view.done.as_deref());
    let after = view.cursor.as_deref().and_then(Cursor::decode);
    let found = console.meta().page::<Rollout>("tenant", tenant.as_str(), after.as_ref(), ROWS).await?;
    let next = found.next.map(|cursor| format!("/rollouts?cursor={}", cursor.encode())).unwrap_or_default();
    let mut rows = Vec::with_capacity(found.items.len());
    for stored in found.items.into_iter().rev() {
        let version = version_of(console, tenant, &stored.document.release).await?;
        rows.push(Row::of(&stored.document, version, console.now()));
    }
    let releases = console.meta().page::<ReleaseRecord>("tenant", tenant.as_str(), None, CHOICES_MAX).await?;
    let releases =
        releases.items.into_iter().rev().map(|stored| ReleaseShown::of(&stored.document, console.now())).collect();
    let asked = NewRollout { release: view.release.unwrap_or_default(), ..NewRollout::default() };
    Ok(RolloutsPage { shell, rows, next, releases, asked, wrong: Wrong::default() })
}

async fn version_of(console: &Console, tenant: &TenantId, release: &ReleaseId) -> Result<String, StoreError> {
    let found = console.meta().find::<ReleaseRecord>(&ReleaseRecord::key_of(tenant, release)).await?;
    Ok(found.map_or_else(|| release.to_string(), |stored| stored.document.version.to_string()))
}

pub(super) async fn create(State(console): State<Console>, who: Identity, Form(asked): Form<NewRollout>) -> Answer {
    let wrong = match asked.plan() {
        Err(wrong) => wrong,
        Ok((release, plan)) => match console.ota.create_rollout(&who.principal, &release, plan).await? {
            RolloutCreated::Done(rollout) => return Ok(see(&format!("/rollouts/{}?done=rollout", rollout.id))),
            RolloutCreated::Invalid(error) => Wrong::default().with("first", format!("{error}.")),
            RolloutCreated::NoSuchRelease => Wrong::default().with("release", "This release is gone; choose another."),
            RolloutCreated::TooMany => Wrong::default().with("release", "The product has too many rollouts."),
        },
    };
    let shown = compose_list(&console, &who, View::default()).await?;
    Ok(invalid(&RolloutsPage { asked, wrong, ..shown }))
}

#[derive(Template)]
#[template(path = "rollout.html")]
struct RolloutPage {
    shell: Shell,
    rollout: Row,
    halted: String,
    groups: Vec<GroupShown>,
    phases: Vec<PhaseShown>,
    may_order: bool,
    is_over: bool,
    devices: Vec<PartShown>,
    state: String,
    /// Where the next page is; empty after the last.
    next: String,
    /// What stood against an order; empty if nothing.
    refused: String,
}

struct GroupShown {
    number: usize,
    reach: String,
    opened: Option<Moment>,
    assigned: u32,
    succeeded: u32,
    failed: u32,
    skipped: u32,
    gate: String,
}

/// How many devices are in a phase, and its part of a bar of 1,000.
struct PhaseShown {
    code: &'static str,
    word: String,
    kind: &'static str,
    count: u64,
    from: u64,
    width: u64,
}

struct PartShown {
    device: String,
    group: u8,
    word: String,
    kind: &'static str,
    detail: String,
    changed: Moment,
}

#[derive(Deserialize)]
pub(super) struct OneView {
    cursor: Option<String>,
    done: Option<String>,
    #[serde(default)]
    state: String,
}

pub(super) async fn show(
    State(console): State<Console>,
    who: Identity,
    Path(id): Path<RolloutId>,
    Query(view): Query<OneView>,
) -> Answer {
    let shown = compose(&console, &who, &id, view).await?;
    Ok(page(&shown))
}

async fn compose(
    console: &Console,
    who: &Identity,
    id: &RolloutId,
    view: OneView,
) -> Result<RolloutPage, ProblemResponse> {
    let (tenant, now) = (&who.principal.tenant, console.now());
    let rollout = console.ota.rollout(tenant, id).await?.ok_or_else(|| Problem::not_found("rollout"))?;
    let version = version_of(console, tenant, &rollout.release).await?;
    let title = format!("{} {version}", rollout.product);
    let shell = Shell::of(console, who, "rollouts", title).await?.noticing(view.done.as_deref());
    let phases = phases(&console.ota.phases(&rollout).await?);
    let (index, value) = match Phase::of_code(&view.state) {
        Some(phase) => ("phase", Assignment::in_phase(tenant, id, phase)),
        None => ("rollout", format!("{tenant}/{id}")),
    };
    let after = view.cursor.as_deref().and_then(Cursor::decode);
    let found = console.meta().page::<Assignment>(index, &value, after.as_ref(), ROWS).await?;
    let next = found.next.map(|at| format!("/rollouts/{id}?state={}&cursor={}", view.state, at.encode()));
    Ok(RolloutPage {
        may_order: shell.may.releases,
        shell,
        halted: halted(&rollout),
        groups: groups(&rollout, now),
        phases,
        is_over: rollout.state.is_final(),
        devices: found.items.into_iter().map(|stored| part(stored.document, now)).collect(),
        state: view.state,
        next: next.unwrap_or_default(),
        refused: String::new(),
        rollout: Row::of(&rollout, version, now),
    })
}

fn halted(rollout: &Rollout) -> String {
    let Life::Halted { group, votes } = rollout.state else { return String::new() };
    let executed = votes.executed();
    format!("The gate of group {} has stopped it: {} of {executed} devices failed.", group + 1, votes.failed)
}

fn groups(rollout: &Rollout, now: Timestamp) -> Vec<GroupShown> {
    let shown = |(number, (plan, group)): (usize, (&GroupPlan, &iot_ota::rollout::Group))| {
        let named = match plan.devices.len() {
            0 => String::new(),
            count => format!(" and {count} named"),
        };
        let gate = plan.gate;
        GroupShown {
            number: number + 1,
            reach: format!("{} %{named}", percent(plan.reach_per_mille)),
            opened: group.opened.map(|at| Moment::of(at, now)),
            assigned: group.assigned,
            succeeded: group.votes.succeeded,
            failed: group.votes.failed,
            skipped: group.skipped,
            gate: format!(
                "after {} devices, stop above {} % failures, go on from {} % successes",
                gate.min_executed,
                percent(gate.failure_per_mille_max),
                percent(gate.success_per_mille_min)
            ),
        }
    };
    rollout.plan.groups.iter().zip(&rollout.groups).enumerate().map(shown).collect()
}

fn percent(per_mille: u16) -> String {
    super::show::number(f64::from(per_mille) / 10.0)
}

fn kind(phase: Phase) -> &'static str {
    match phase {
        Phase::Confirmed => "good",
        Phase::RolledBack | Phase::Refused | Phase::Failed => "bad",
        Phase::Pending | Phase::Skipped => "idle",
        _ => "open",
    }
}

fn word(phase: Phase) -> String {
    phase.code().replace('_', " ")
}

fn phases(counts: &[(Phase, u64)]) -> Vec<PhaseShown> {
    let all: u64 = counts.iter().map(|(_, count)| count).sum();
    let mut seen = 0;
    let shown = |(phase, count): &(Phase, u64)| {
        let (from, to) = (seen * 1_000 / all, (seen + count) * 1_000 / all);
        seen += count;
        PhaseShown { code: phase.code(), word: word(*phase), kind: kind(*phase), count: *count, from, width: to - from }
    };
    counts.iter().filter(|(_, count)| *count > 0).map(shown).collect()
}

fn part(part: Assignment, now: Timestamp) -> PartShown {
    let progress = part.progress_percent.map(|percent| format!("{percent} %"));
    PartShown {
        device: part.device.to_string(),
        group: part.group + 1,
        word: word(part.phase),
        kind: kind(part.phase),
        detail: part.reason.map(|reason| reason.replace('_', " ")).or(progress).unwrap_or_default(),
        changed: Moment::of(part.changed, now),
    }
}

#[derive(Deserialize)]
pub(super) struct Asked {
    order: String,
}

pub(super) async fn order(
    State(console): State<Console>,
    who: Identity,
    Path(id): Path<RolloutId>,
    Form(asked): Form<Asked>,
) -> Answer {
    let order = match asked.order.as_str() {
        "start" => Order::Start,
        "pause" => Order::Pause,
        "resume" => Order::Resume,
        _ => return Err(Problem::invalid("body_invalid", "order: start, pause or resume").into()),
    };
    let refused = match obeyed(console.ota.order(&who.principal, &id, order).await?)? {
        None => return Ok(see(&format!("/rollouts/{id}?done={}", asked.order))),
        Some(refused) => refused,
    };
    let view = OneView { cursor: None, done: None, state: String::new() };
    let shown = compose(&console, &who, &id, view).await?;
    Ok(invalid(&RolloutPage { refused, ..shown }))
}

/// What stands against an order; `None` if it was carried out.
fn obeyed(ordered: RolloutOrdered) -> Result<Option<String>, ProblemResponse> {
    Ok(Some(match ordered {
        RolloutOrdered::Done(_) => return Ok(None),
        RolloutOrdered::NoSuchRollout => return Err(Problem::not_found("rollout").into()),
        RolloutOrdered::NotFrom(state) => format!("That cannot be done: the rollout is {}.", state.code()),
        RolloutOrdered::ReleaseNotReady => "Upload the image of the release first; or it was withdrawn.".to_owned(),
        RolloutOrdered::Another(other) => {
            format!("Rollout {other} of the same product is not over. Cancel it first.")
        }
    }))
}

async fn cancelling(console: &Console, who: &Identity, id: &RolloutId) -> Result<Question, ProblemResponse> {
    let tenant = &who.principal.tenant;
    let found = console.meta().find::<Rollout>(&Rollout::key_of(tenant, id)).await?;
    let rollout = found.ok_or_else(|| Problem::not_found("rollout"))?.document;
    let version = version_of(console, tenant, &rollout.release).await?;
    let name = format!("{} {version}", rollout.product);
    Ok(Question {
        section: "rollouts",
        asks: format!("Cancel the rollout of {name}?"),
        from: (format!("/rollouts/{id}"), name),
        ends: vec![
            "No further device gets the release by this rollout. It cannot be started again: plan another.".to_owned(),
        ],
        stays: vec![
            "Devices that have the release keep it, and one that installs it now finishes.".to_owned(),
            "To hold it for a while, pause it instead.".to_owned(),
        ],
        action: format!("/rollouts/{id}/cancel"),
        seen: String::new(),
        button: "Cancel the rollout",
    })
}

pub(super) async fn ask_cancel(State(console): State<Console>, who: Identity, Path(id): Path<RolloutId>) -> Answer {
    let question = cancelling(&console, &who, &id).await?;
    confirm::ask(&console, &who, question).await
}

pub(super) async fn cancel(State(console): State<Console>, who: Identity, Path(id): Path<RolloutId>) -> Answer {
    match obeyed(console.ota.order(&who.principal, &id, Order::Cancel).await?)? {
        None => Ok(see(&format!("/rollouts/{id}?done=cancel"))),
        Some(why) => {
            let question = cancelling(&console, &who, &id).await?;
            confirm::refuse(&console, &who, question, why).await
        }
    }
}
