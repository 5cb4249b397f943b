//! The engine of rollouts, with time and votes given to it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, time::Duration};

use iot_core::{
    device::{Device, Stage},
    id::{DeviceId, OwnershipEpoch, PCode, ProductId, ReleaseId, RolloutId, TenantId},
    time::Timestamp,
};
use iot_ota::{
    release::Hardware,
    rollout::{
        Assignment, Explanation, Facts, Gate, GroupPlan, Judgement, Moved, NAMED_DEVICES_MAX, NO_PROGRESS, Order,
        Ordered, Phase, Plan, PlanError, REASON_BYTES_MAX, ReleaseFacts, Reported, Rollout, RunsFacts, State, Votes,
        Walk, explain,
    },
};

const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);

fn after(s: u64) -> Timestamp {
    START.plus(Duration::from_secs(s))
}

fn gate(min_executed: u32, failure_per_mille_max: u16, success_per_mille_min: u16) -> Gate {
    Gate { min_executed, failure_per_mille_max, success_per_mille_min, soak_s: 0 }
}

fn group(reach_per_mille: u16, gate: Gate) -> GroupPlan {
    GroupPlan { reach_per_mille, devices: BTreeSet::new(), gate }
}

fn plan(groups: Vec<GroupPlan>) -> Plan {
    Plan { groups, patience_s: 3_600 }
}

fn rollout(plan: Plan) -> Rollout {
    assert_eq!(plan.check(), Ok(()));
    let of = (ProductId::parse("lamp").unwrap(), ReleaseId::parse("v2").unwrap());
    Rollout::draft(TenantId::parse("t").unwrap(), RolloutId::parse("r1").unwrap(), of, plan, START)
}

fn running(first: Gate) -> Rollout {
    let mut rollout = rollout(plan(vec![group(500, first), group(1_000, gate(1, 1_000, 0))]));
    assert_eq!(rollout.order(Order::Start, START), Ordered::Changed);
    rollout
}

/// So many devices of a group come to such an end.
fn vote(rollout: &mut Rollout, group: u8, count: u32, end: Phase) {
    for _ in 0..count {
        rollout.joined(group);
        rollout.moved(group, Phase::Pending, end);
    }
}

#[test]
fn ot_19_a_gate_decides_exactly_at_its_bounds() {
    let gate = gate(10, 100, 900);
    let judge = |succeeded, failed| gate.judge(Votes { succeeded, failed });
    assert_eq!(judge(0, 0), Judgement::TooEarly, "nothing is a share of nothing");
    assert_eq!(judge(0, 9), Judgement::TooEarly, "one too few");
    assert_eq!(judge(9, 0), Judgement::TooEarly, "one too few");
    assert_eq!(judge(9, 1), Judgement::Advance, "exactly 100 of 1000 are as many as may fail");
    assert_eq!(judge(8, 2), Judgement::Halt);
    // Around 100 of 1000, a device of 10,000 more or fewer.
    assert_eq!(judge(9_000, 1_000), Judgement::Advance);
    assert_eq!(judge(8_999, 1_001), Judgement::Halt, "100.1 of 1000");
    assert_eq!(judge(9_001, 999), Judgement::Advance);
    let strict = Gate { failure_per_mille_max: 200, ..gate };
    assert_eq!(strict.judge(Votes { succeeded: 8_999, failed: 1_001 }), Judgement::Wait, "899.9 are not 900");
    assert_eq!(strict.judge(Votes { succeeded: 9_000, failed: 1_000 }), Judgement::Advance);
    let all = Votes { succeeded: u32::MAX, failed: u32::MAX };
    assert_eq!(strict.judge(all), Judgement::Halt, "no figure overflows");
}

#[test]
fn ot_19_a_failure_and_a_success_at_once_are_judged_failure_first() {
    let mut rollout = running(gate(2, 499, 500));
    vote(&mut rollout, 0, 1, Phase::Confirmed);
    vote(&mut rollout, 0, 1, Phase::RolledBack);
    assert_eq!(rollout.judge(START), Moved::Halted(0), "half would do to go on, and half is too many failures");
    assert_eq!(rollout.state, State::Halted { group: 0, votes: Votes { succeeded: 1, failed: 1 } });
}

#[test]
fn ot_19_devices_that_are_offline_have_no_vote() {
    let mut rollout = running(gate(60, 0, 1_000));
    rollout.walked(0, 40, Walk::Done);
    vote(&mut rollout, 0, 59, Phase::Confirmed);
    assert_eq!(rollout.judge(START), Moved::Nothing, "59 of 60");
    vote(&mut rollout, 0, 1, Phase::Confirmed);
    assert_eq!(rollout.judge(START), Moved::Opened(1), "40 of 100 were never reached");
    assert_ne!(rollout.state, State::Completed);
}

#[test]
fn ot_18_few_devices_cannot_stop_a_rollout_however_loud_they_are() {
    let mut rollout = running(gate(100, 50, 950));
    let mut part = part(Phase::Offered);
    rollout.joined(0);
    for n in 0..10_000 {
        let reported =
            part.report([Phase::Failed, Phase::RolledBack, Phase::Refused][n % 3], None, Some("broken"), START);
        if let Reported::Changed(next) = reported {
            rollout.moved(0, part.phase, next.phase);
            part = next;
        }
        assert_eq!(rollout.judge(START), Moved::Nothing);
    }
    assert_eq!(rollout.groups[0].votes, Votes { succeeded: 0, failed: 1 }, "one device, one vote");
    vote(&mut rollout, 0, 4, Phase::Failed);
    assert_eq!(rollout.judge(START), Moved::Nothing, "5 failures, but only 5 have voted");
    vote(&mut rollout, 0, 95, Phase::Confirmed);
    assert_eq!(rollout.judge(START), Moved::Opened(1), "5 of 100 are as many as may fail");
}

#[test]
fn a_late_failure_of_an_earlier_group_halts_too() {
    let mut rollout = running(gate(2, 400, 500));
    vote(&mut rollout, 0, 2, Phase::Confirmed);
    assert_eq!(rollout.judge(START), Moved::Opened(1));
    vote(&mut rollout, 0, 2, Phase::RolledBack);
    assert_eq!(rollout.judge(START), Moved::Halted(0));
    assert_eq!(rollout.judge(START), Moved::Nothing, "halted is an end");
    assert_eq!(rollout.order(Order::Resume, START), Ordered::NotFrom(rollout.state));
}

#[test]
fn a_soak_must_pass_whole_and_begins_anew_when_the_gate_is_lost() {
    let mut rollout = running(Gate { soak_s: 600, failure_per_mille_max: 500, ..gate(2, 0, 1_000) });
    vote(&mut rollout, 0, 2, Phase::Confirmed);
    assert_eq!(rollout.judge(after(0)), Moved::Soaking);
    assert_eq!(rollout.judge(after(599)), Moved::Nothing);
    vote(&mut rollout, 0, 1, Phase::Failed);
    assert_eq!(rollout.judge(after(599)), Moved::Soaking, "no longer");
    rollout.moved(0, Phase::Failed, Phase::Confirmed);
    assert_eq!(rollout.judge(after(700)), Moved::Soaking, "again, from here");
    assert_eq!(rollout.judge(after(1_299)), Moved::Nothing);
    assert_eq!(rollout.judge(after(1_300)), Moved::Opened(1));
}

#[test]
fn it_completes_when_all_devices_have_come_to_an_end_and_not_before() {
    let mut rollout = running(gate(1, 0, 1_000));
    vote(&mut rollout, 0, 1, Phase::Confirmed);
    assert_eq!(rollout.judge(START), Moved::Opened(1));
    rollout.walked(0, 0, Walk::Done);
    rollout.walked(1, 2, Walk::After("t/lamp-7".into()));
    rollout.moved(1, Phase::Pending, Phase::Confirmed);
    rollout.moved(1, Phase::Pending, Phase::Skipped);
    assert_eq!(rollout.judge(START), Moved::Nothing, "not all devices were sought yet");
    rollout.walked(1, 1, Walk::Done);
    assert_eq!(rollout.judge(START), Moved::Nothing, "one is not at its end");
    rollout.moved(1, Phase::Installed, Phase::Confirmed);
    assert_eq!(rollout.judge(START), Moved::Completed);
    assert_eq!(rollout.order(Order::Cancel, START), Ordered::NotFrom(State::Completed));
}

#[test]
fn orders_and_states() {
    let orders = [Order::Start, Order::Pause, Order::Resume, Order::Cancel];
    let votes = Votes { succeeded: 0, failed: 1 };
    let halted = State::Halted { group: 0, votes };
    let (changed, unchanged) = (Ordered::Changed, Ordered::Unchanged);
    let table = [
        (State::Draft, [changed, Ordered::NotFrom(State::Draft), Ordered::NotFrom(State::Draft), changed]),
        (State::Running, [unchanged, changed, unchanged, changed]),
        (State::Paused, [Ordered::NotFrom(State::Paused), unchanged, changed, changed]),
        (halted, [Ordered::NotFrom(halted), Ordered::NotFrom(halted), Ordered::NotFrom(halted), changed]),
        (State::Completed, [Ordered::NotFrom(State::Completed); 4]),
        (
            State::Cancelled,
            [
                Ordered::NotFrom(State::Cancelled),
                Ordered::NotFrom(State::Cancelled),
                Ordered::NotFrom(State::Cancelled),
                unchanged,
            ],
        ),
    ];
    for (state, answers) in table {
        for (order, answer) in orders.into_iter().zip(answers) {
            let mut rollout =
                Rollout { state, ..rollout(plan(vec![group(1, gate(1, 0, 0)), group(2, gate(1, 0, 0))])) };
            assert_eq!(rollout.order(order, START), answer, "{order:?} from {state:?}");
        }
    }
}

#[test]
fn a_device_is_in_one_group_and_a_named_one_in_the_first() {
    let named = DeviceId::parse("lamp-named").unwrap();
    let mut first = group(0, gate(1, 0, 1_000));
    first.devices.insert(named.clone());
    let rollout = rollout(plan(vec![first, group(100, gate(1, 0, 0)), group(600, gate(1, 0, 0))]));
    assert_eq!(rollout.group_of(&named), Some(0));
    let devices = (0..10_000).map(|n| DeviceId::parse(&format!("lamp-{n}")).unwrap());
    let mut counts = [0_u32; 4];
    devices.for_each(|device| counts[rollout.group_of(&device).map_or(3, usize::from)] += 1);
    assert_eq!(counts[0], 0);
    for (count, expected) in counts[1..].iter().zip([1_000_u32, 5_000, 4_000]) {
        assert!(count.abs_diff(expected) < 200, "{counts:?}");
    }
}

#[test]
fn plans_that_cannot_be_carried_out_are_refused() {
    let one = || group(500, gate(1, 0, 0));
    let of = |groups| plan(groups).check();
    assert_eq!(of(vec![one()]), Err(PlanError::Groups));
    assert_eq!(of((1..=9).map(|n| group(n, gate(1, 0, 0))).collect()), Err(PlanError::Groups));
    assert_eq!(of((1..=8).map(|n| group(n, gate(1, 0, 0))).collect()), Ok(()));
    assert_eq!(of(vec![one(), one()]), Err(PlanError::Reach(1)));
    assert_eq!(of(vec![one(), group(1_001, gate(1, 0, 0))]), Err(PlanError::Reach(1)));
    assert_eq!(of(vec![group(0, gate(1, 0, 0)), one()]), Err(PlanError::Empty));
    assert_eq!(of(vec![group(1, gate(0, 0, 0)), one()]), Err(PlanError::Gate(0)));
    assert_eq!(of(vec![group(1, gate(1, 1_001, 0)), one()]), Err(PlanError::Gate(0)));
    let naming = |count: usize, reach| GroupPlan {
        devices: (0..count).map(|n| DeviceId::parse(&format!("d{n}")).unwrap()).collect(),
        ..group(reach, gate(2, 0, 0))
    };
    assert_eq!(of(vec![naming(NAMED_DEVICES_MAX, 0), one()]), Ok(()));
    assert_eq!(of(vec![naming(NAMED_DEVICES_MAX + 1, 0), one()]), Err(PlanError::Named(0)));
    assert_eq!(of(vec![group(1, gate(1, 0, 0)), naming(1, 2)]), Err(PlanError::Named(1)));
    assert_eq!(of(vec![naming(1, 0), one()]), Err(PlanError::Undecidable));
    assert_eq!(Plan { patience_s: 59, ..plan(vec![one(), one()]) }.check(), Err(PlanError::Patience));
}

fn part(phase: Phase) -> Assignment {
    Assignment {
        tenant: TenantId::parse("t").unwrap(),
        rollout: RolloutId::parse("r1").unwrap(),
        device: DeviceId::parse("lamp-1").unwrap(),
        release: ReleaseId::parse("v2").unwrap(),
        group: 0,
        phase,
        reason: None,
        progress_percent: None,
        changed: START,
    }
}

#[test]
fn reports_count_until_the_end_and_not_after_it() {
    let ends = [Phase::Confirmed, Phase::RolledBack, Phase::Refused, Phase::Failed, Phase::Skipped];
    for from in ends {
        for to in Phase::ALL.into_iter().filter(|to| *to != from) {
            assert_eq!(part(from).report(to, None, None, START), Reported::OutOfTurn, "{from:?} → {to:?}");
        }
    }
    for from in [Phase::Pending, Phase::Offered, Phase::Downloading, Phase::Verified, Phase::Installed] {
        for to in Phase::ALL.into_iter().filter(|to| *to != from) {
            let changed = matches!(part(from).report(to, None, None, START), Reported::Changed(_));
            let may = !matches!(to, Phase::Pending | Phase::Offered | Phase::Skipped);
            assert_eq!(changed, may, "{from:?} → {to:?}");
        }
    }
    assert_eq!(part(Phase::Downloading).report(Phase::Downloading, None, None, after(9)), Reported::Known);
    let Reported::Changed(on) = part(Phase::Downloading).report(Phase::Downloading, Some(7), None, after(9)) else {
        panic!()
    };
    assert_eq!((on.progress_percent, on.changed), (Some(7), after(9)), "progress is news");
}

#[test]
fn a_device_that_was_given_up_is_heard_when_it_comes_to_its_own_end() {
    let given_up = part(Phase::Offered).moved(Phase::Failed, Some(NO_PROGRESS), START);
    assert_eq!(given_up.report(Phase::Downloading, Some(1), None, START), Reported::OutOfTurn);
    let Reported::Changed(late) = given_up.report(Phase::Confirmed, None, None, after(9)) else { panic!() };
    assert_eq!((late.phase, &late.reason), (Phase::Confirmed, &None));
    let said = part(Phase::Offered).moved(Phase::Failed, Some("disk full"), START);
    assert_eq!(said.report(Phase::Confirmed, None, None, after(9)), Reported::OutOfTurn);
}

#[test]
fn a_reason_is_cut_at_its_bound_between_characters() {
    let long = "ä".repeat(REASON_BYTES_MAX);
    let Reported::Changed(failed) = part(Phase::Offered).report(Phase::Failed, None, Some(&long), START) else {
        panic!()
    };
    assert_eq!(failed.reason.unwrap(), "ä".repeat(REASON_BYTES_MAX / 2));
}

fn device() -> Device {
    Device {
        tenant: TenantId::parse("t").unwrap(),
        product: ProductId::parse("lamp").unwrap(),
        id: DeviceId::parse("lamp-1").unwrap(),
        p_code: PCode::parse("A1").unwrap(),
        stage: Stage::Activated,
        epoch: OwnershipEpoch(0),
        home: None,
        keys: vec![],
        created: START,
    }
}

#[test]
fn every_explanation_has_its_case() {
    let [rev_a, rev_b, rev_c] = ["rev-a", "rev-b", "rev-c"].map(|text| Hardware::parse(text).unwrap());
    let hardware = [rev_a.clone(), rev_b.clone()];
    let device = device();
    let retired = Device { stage: Stage::Retired, ..device.clone() };
    let mut first = group(0, gate(1, 0, 1_000));
    first.devices.insert(device.id.clone());
    let mut open = rollout(plan(vec![first.clone(), group(1_000, gate(1, 0, 0))]));
    assert_eq!(open.order(Order::Start, START), Ordered::Changed);
    let state = |state| Rollout { state, ..open.clone() };
    let halted = state(State::Halted { group: 0, votes: Votes { succeeded: 97, failed: 3 } });
    let (paused, cancelled, completed) = (state(State::Paused), state(State::Cancelled), state(State::Completed));
    let mut later = rollout(plan(vec![group(1, gate(1, 0, 0)), group(1_000, gate(1, 0, 0))]));
    assert_eq!(later.order(Order::Start, START), Ordered::Changed);
    let mut never = rollout(plan(vec![group(1, gate(1, 0, 0)), group(2, gate(1, 0, 0))]));
    assert_eq!(never.order(Order::Start, START), Ordered::Changed);
    let release = ReleaseFacts { sequence: 2, hardware: &hardware, ready: true };
    let due = Facts {
        device: &device,
        rollout: Some(&open),
        release: Some(release),
        runs: Some(RunsFacts { sequence: 1, hardware: &rev_b }),
        assignment: None,
        rolled_back: false,
        asks: true,
    };
    let (pending, loading, failed) = (
        part(Phase::Pending),
        part(Phase::Downloading),
        part(Phase::Offered).moved(Phase::Failed, Some("full"), START),
    );
    let cases = [
        ("due", due),
        ("due", Facts { assignment: Some(&pending), ..due }),
        ("retired", Facts { device: &retired, ..due }),
        ("no_rollout", Facts { rollout: None, ..due }),
        ("no_rollout", Facts { rollout: Some(&completed), ..due }),
        ("rollout_cancelled", Facts { rollout: Some(&cancelled), ..due }),
        ("rollout_halted", Facts { rollout: Some(&halted), ..due }),
        ("rollout_paused", Facts { rollout: Some(&paused), ..due }),
        ("group_not_open", Facts { rollout: Some(&later), ..due }),
        ("not_in_rollout", Facts { rollout: Some(&never), ..due }),
        ("release_not_ready", Facts { release: Some(ReleaseFacts { ready: false, ..release }), ..due }),
        ("release_not_ready", Facts { release: None, ..due }),
        ("rolled_back_before", Facts { rolled_back: true, ..due }),
        ("not_heard_from", Facts { runs: None, ..due }),
        ("hardware_mismatch", Facts { runs: Some(RunsFacts { sequence: 1, hardware: &rev_c }), ..due }),
        ("up_to_date", Facts { runs: Some(RunsFacts { sequence: 2, hardware: &rev_a }), ..due }),
        ("not_reached", Facts { asks: false, ..due }),
        ("under_way", Facts { assignment: Some(&loading), ..due }),
        ("under_way", Facts { assignment: Some(&loading), rollout: Some(&halted), ..due }),
        ("failed", Facts { assignment: Some(&failed), ..due }),
    ];
    for (code, facts) in cases {
        let explanation = explain(&facts);
        assert_eq!(explanation.code(), code, "{explanation:?}");
        assert!(!explanation.to_string().is_empty());
    }
    let figures = explain(&Facts { rollout: Some(&halted), ..due });
    assert!(figures.to_string().contains("3 of 100 devices failed, and at most 0 of 1000 may"), "{figures}");
    assert!(matches!(figures, Explanation::Halted { executed: 100, failed: 3, .. }));
}
