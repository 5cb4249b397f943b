//! Merging against RFC 7396 and a naive model of it; deltas, expiry, versions; limits.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn twin() -> Twin {
    Twin::new(TenantId::parse("acme").unwrap(), DeviceId::parse("lamp").unwrap(), OwnershipEpoch(0))
}

fn object(value: Value) -> Object {
    match value {
        Value::Object(members) => members,
        other => panic!("{other} is no object"),
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_millis(second * 1_000)
}

fn desire(twin: &mut Twin, second: i64, patch: Value, expires: Option<i64>) -> Written {
    twin.write_desired(at(second), "acme/token/a", object(patch), None, expires.map(at), &TwinLimits::default())
}

fn report(twin: &mut Twin, second: i64, patch: Value) -> Written {
    twin.write_reported(at(second), object(patch), None, &TwinLimits::default())
}

/// RFC 7396 §2, word for word.
fn merge_patch(target: &Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut target = target.as_object().cloned().unwrap_or_default();
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            let merged = merge_patch(target.get(name).unwrap_or(&Value::Null), value);
            target.insert(name.clone(), merged);
        }
    }
    Value::Object(target)
}

#[test]
fn the_examples_of_rfc_7396_appendix_a_hold() {
    // Those whose target and patch are objects; a patch of another kind cannot be written into a twin.
    for (target, patch, result) in [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
        (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
        (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
        (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
        (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
    ] {
        let mut merged = object(target.clone());
        merge(&mut merged, object(patch.clone()));
        assert_eq!(Value::Object(merged), result, "{target} with {patch}");
        assert_eq!(merge_patch(&target, &patch), result, "the model: {target} with {patch}");
    }
}

#[test]
fn numbers_are_the_same_by_value_and_nothing_else_is() {
    for (a, b) in [(json!(1), json!(1.0)), (json!(0), json!(-0.0)), (json!([{"a": 2}]), json!([{"a": 2.0}]))] {
        assert!(same(&a, &b), "{a} {b}");
    }
    let beyond = json!(9_007_199_254_740_993_u64);
    for (a, b) in [
        (json!(1), json!("1")),
        (json!(1), json!(true)),
        (beyond, json!(9_007_199_254_740_992.0)),
        (json!(u64::MAX), json!(-1)),
        (json!([1, 2]), json!([2, 1])),
        (json!({"a": 1}), json!({"a": 1, "b": 1})),
        (json!(1e300), json!(2e300)),
    ] {
        assert!(!same(&a, &b), "{a} {b}");
    }
}

#[test]
fn a_delta_is_what_the_device_does_not_report() {
    let mut twin = twin();
    let Written::Done { version: 1, delta } =
        desire(&mut twin, 1, json!({"on": true, "colour": {"r": 1, "g": 2}, "scenes": [1, 2]}), None)
    else {
        panic!("{twin:?}")
    };
    assert_eq!(delta, twin.desired);
    let _done = report(&mut twin, 2, json!({"on": true, "colour": {"r": 1.0, "g": 3}, "scenes": [1], "uptime": 7}));
    assert_eq!(Value::Object(twin.delta()), json!({"colour": {"g": 2}, "scenes": [1, 2]}));
    let _done = report(&mut twin, 3, json!({"colour": {"g": 2}, "scenes": [1, 2]}));
    assert!(twin.delta().is_empty());
    assert_eq!(twin.version, 3);
}

#[test]
fn each_value_knows_its_time_and_writer() {
    let mut twin = twin();
    let _done = desire(&mut twin, 1, json!({"on": true, "a/b~c": {"x": 1}}), None);
    let written =
        twin.write_desired(at(2), "acme/account/ann", object(json!({"on": false})), None, None, &TwinLimits::default());
    assert!(matches!(written, Written::Done { version: 2, .. }));
    let by = |path: &str| (twin.desired_meta[path].at, twin.desired_meta[path].by.as_str());
    assert_eq!(by("/on"), (at(2), "acme/account/ann"));
    assert_eq!(by("/a~1b~0c/x"), (at(1), "acme/token/a"));

    let _done = report(&mut twin, 3, json!({"on": false, "level": 4}));
    assert_eq!(report(&mut twin, 9, json!({"on": false})), Written::Unchanged { version: 3 });
    assert_eq!((twin.reported_meta["/on"].at, twin.reported_meta["/level"].at), (at(9), at(3)));
    let _done = report(&mut twin, 10, json!({"on": null}));
    assert!(!twin.reported_meta.contains_key("/on"));
}

#[test]
fn a_write_that_changes_nothing_makes_no_version() {
    let mut twin = twin();
    let _done = desire(&mut twin, 1, json!({"on": true, "level": 1}), None);
    let before = twin.clone();
    assert_eq!(
        desire(&mut twin, 2, json!({"on": true, "level": 1.0, "none": null}), None),
        Written::Unchanged { version: 1 }
    );
    assert_eq!(twin.desired_meta, before.desired_meta);
    assert!(
        matches!(desire(&mut twin, 3, json!({"on": true}), Some(10)), Written::Done { version: 2, .. }),
        "a new end is a change"
    );
    assert!(twin.desired_meta["/level"].expires.is_none());
}

#[test]
fn a_write_for_another_version_changes_nothing() {
    let mut twin = twin();
    let limits = TwinLimits::default();
    let _done = desire(&mut twin, 1, json!({"on": true}), None);
    let before = twin.clone();
    for expected in [0, 2, u64::MAX] {
        let patch = || object(json!({"on": false}));
        let mismatch = Written::VersionMismatch { version: 1 };
        assert_eq!(twin.write_desired(at(2), "x", patch(), Some(expected), None, &limits), mismatch);
        assert_eq!(twin.write_reported(at(2), patch(), Some(expected), &limits), mismatch);
    }
    assert_eq!(twin, before);
    let written = twin.write_desired(at(2), "x", object(json!({"on": false})), Some(1), None, &limits);
    assert!(matches!(written, Written::Done { version: 2, .. }));
}

#[test]
fn what_has_expired_is_gone_and_the_version_is_the_same_for_all_who_look() {
    let mut twin = twin();
    let _done = desire(&mut twin, 0, json!({"boost": {"fan": 3}}), Some(10));
    let _done = desire(&mut twin, 0, json!({"night": true}), Some(20));
    let _done = desire(&mut twin, 0, json!({"on": true}), None);
    let (mut often, mut once) = (twin.clone(), twin.clone());
    assert!(!often.expire(Timestamp::from_micros(at(10).as_micros() - 1)));
    assert!(often.expire(at(10)));
    assert_eq!(Value::Object(often.delta()), json!({"night": true, "on": true}), "the emptied object is gone too");
    assert!(!often.expire(at(19)) && often.expire(at(20)));
    assert!(once.expire(at(100)));
    assert_eq!(often, once);
    assert_eq!(once.version, 5);

    // A write for the version that a reader was shown after the expiry succeeds.
    let written = twin.write_desired(at(30), "x", object(json!({"on": false})), Some(5), None, &TwinLimits::default());
    let Written::Done { version: 6, delta } = written else { panic!("{written:?}") };
    assert_eq!(Value::Object(delta), json!({"on": false}));
    let late = twin.write_desired(at(30), "x", object(json!({"on": true})), None, Some(at(30)), &TwinLimits::default());
    assert_eq!(late, Written::Refused(TwinRefusal::Expired));
}

#[test]
fn each_limit_holds_at_its_bound_and_refuses_beyond() {
    let nested = |levels: usize| (1..levels).fold(json!({"a": 1}), |inner, _| json!({"a": inner}));
    let wide = |keys: usize| Value::Object((0..keys).map(|n| (format!("k{n}"), json!(1))).collect());
    let named = |bytes: usize| json!({"n".repeat(bytes): 1});
    let large = |bytes: usize| json!({"text": "x".repeat(bytes)});
    let room = {
        let mut twin = twin();
        let _done = report(&mut twin, 1, large(0));
        TwinLimits::default().bytes_max - twin.bytes()
    };
    for (within, beyond, code) in [
        (nested(32), nested(33), "twin_too_deep"),
        (
            json!({"a": (2..32).fold(json!([]), |inner, _| json!([inner]))}),
            json!({"a": (2..33).fold(json!([]), |inner, _| json!([inner]))}),
            "twin_too_deep",
        ),
        (wide(512), wide(513), "twin_too_many_keys"),
        (named(64), named(65), "twin_key_too_long"),
        (large(room), large(room + 1), "twin_too_large"),
    ] {
        let mut twin = twin();
        let before = twin.clone();
        let Written::Refused(why) = report(&mut twin, 1, beyond) else { panic!("{code}: not refused") };
        assert_eq!((why.code(), &twin), (code, &before));
        assert!(matches!(report(&mut twin, 1, within), Written::Done { version: 1, .. }), "{code}");
    }
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0..3_i64).prop_map(Value::from),
        Just(json!(1.0)),
        "[ab]{0,2}".prop_map(Value::from)
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            members(inner).prop_map(Value::Object),
        ]
    })
}

fn members(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Object> {
    prop::collection::vec(("[a-c/~]", value), 0..4).prop_map(|members| members.into_iter().collect())
}

#[derive(Debug, Clone)]
enum Step {
    Desired(Object, Option<i64>),
    Reported(Object),
    Expire,
    Obey,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (members(json_value()), prop::option::of(1..5_i64)).prop_map(|(patch, after)| Step::Desired(patch, after)),
        members(json_value()).prop_map(Step::Reported),
        Just(Step::Expire),
        Just(Step::Obey),
    ]
}

/// Every desired leaf is reported so, told without the code under test.
fn met(desired: &Object, reported: &Object) -> bool {
    desired.iter().all(|(name, wanted)| match (wanted, reported.get(name)) {
        (Value::Object(wanted), Some(Value::Object(is))) => met(wanted, is),
        (wanted, Some(is)) => same(wanted, is),
        (_, None) => false,
    })
}

proptest! {
    #[test]
    fn merging_is_the_model(mut target in members(json_value()), patch in members(json_value())) {
        let expected = merge_patch(&Value::Object(target.clone()), &Value::Object(patch.clone()));
        merge(&mut target, patch);
        prop_assert_eq!(Value::Object(target), expected);
    }

    #[test]
    fn any_history_keeps_what_a_twin_promises(steps in prop::collection::vec(step(), 1..24)) {
        let limits = TwinLimits { bytes_max: 900, depth_max: 4, keys_max: 12, key_bytes_max: 8 };
        let mut twin = twin();
        for (step, second) in steps.into_iter().zip(0..) {
            let before = twin.clone();
            let now = at(second);
            let written = match step {
                Step::Desired(patch, after) => {
                    twin.write_desired(now, "x", patch, None, after.map(|after| now.plus(Duration::from_secs(after.unsigned_abs()))), &limits)
                }
                Step::Reported(patch) => twin.write_reported(now, patch, None, &limits),
                Step::Expire => { twin.expire(now); continue; }
                Step::Obey => { twin.expire(now); let delta = twin.delta(); let wide = TwinLimits::default(); let mut obeyed = twin.clone();
                    let _done = obeyed.write_reported(now, delta, None, &wide);
                    prop_assert!(obeyed.delta().is_empty(), "a device that does what it is told has met it: {:?}", obeyed);
                    continue;
                }
            };
            match written {
                Written::Done { version, delta } => {
                    prop_assert!(version > before.version);
                    prop_assert_eq!(delta, twin.delta());
                }
                Written::Unchanged { version } => prop_assert_eq!(version, twin.version),
                Written::Refused(_) => prop_assert_eq!(&twin, &before),
                Written::VersionMismatch { .. } => prop_assert!(false, "no version was expected"),
            }
            prop_assert_eq!(twin.delta().is_empty(), met(&twin.desired, &twin.reported));
            let mut names = Vec::new();
            for object in [&twin.desired, &twin.reported] {
                prop_assert!(merge::depth(object) <= limits.depth_max);
                merge::names(object, &mut |name| names.push(name.len()));
            }
            prop_assert!(twin.bytes() <= limits.bytes_max && names.len() <= limits.keys_max);
            prop_assert!(twin.desired_meta.keys().eq(merge::leaves(&twin.desired).keys()));
            prop_assert!(twin.reported_meta.keys().eq(merge::leaves(&twin.reported).keys()));
            let read: Twin = serde_json::from_str(&serde_json::to_string(&twin).unwrap()).unwrap();
            prop_assert_eq!(&read, &twin);
        }
    }
}
