//! JSON documents: merging, comparing, taking apart.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value};

/// A JSON object.
pub type Object = Map<String, Value>;

/// Applies a merge patch to an object (RFC 7396 §2): null removes a member, an object is merged, all else, arrays too, replaces.
pub fn merge(target: &mut Object, patch: Object) {
    for (name, value) in patch {
        match value {
            Value::Null => drop(target.remove(&name)),
            Value::Object(patch) => {
                let member = target.entry(name).or_insert_with(|| Value::Object(Object::new()));
                match member {
                    Value::Object(member) => merge(member, patch),
                    other => {
                        let mut member = Object::new();
                        merge(&mut member, patch);
                        *other = Value::Object(member);
                    }
                }
            }
            other => drop(target.insert(name, other)),
        }
    }
}

/// Whether two values are the same; numbers by value, so that 1 is 1.0.
pub fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => same_number(a, b),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

fn same_number(a: &Number, b: &Number) -> bool {
    match (whole(a), whole(b)) {
        (Some(a), Some(b)) => a == b,
        (None, None) => a.as_f64() == b.as_f64(),
        _ => false,
    }
}

/// A number as a whole one, if it is one. Those too large for the type are not whole numbers of JSON texts but floats, and
/// compare as such.
#[expect(clippy::cast_possible_truncation, reason = "it is whole and in range")]
fn whole(number: &Number) -> Option<i128> {
    const BEYOND: f64 = 1e30;
    let exact = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
    exact.or_else(|| number.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < BEYOND).map(|f| f as i128))
}

/// The part of `desired` that `reported` does not meet: its leaves that are absent or different there. An empty object is
/// met by any object.
pub(super) fn difference(desired: &Object, reported: &Object) -> Object {
    let differs = |(name, wanted): (&String, &Value)| {
        let rest = match (wanted, reported.get(name)) {
            (Value::Object(wanted), Some(Value::Object(is))) => {
                Some(difference(wanted, is)).filter(|rest| !rest.is_empty()).map(Value::Object)
            }
            (wanted, Some(is)) if same(wanted, is) => None,
            (wanted, _) => Some(wanted.clone()),
        };
        rest.map(|rest| (name.clone(), rest))
    };
    desired.iter().filter_map(differs).collect()
}

/// The leaves of an object by their JSON pointers (RFC 6901): what is no object, and objects without members.
pub(super) fn leaves(object: &Object) -> BTreeMap<String, &Value> {
    let mut found = BTreeMap::new();
    collect(object, "", &mut found);
    found
}

fn collect<'a>(object: &'a Object, path: &str, found: &mut BTreeMap<String, &'a Value>) {
    for (name, value) in object {
        let path = format!("{path}/{}", name.replace('~', "~0").replace('/', "~1"));
        match value {
            Value::Object(members) if !members.is_empty() => collect(members, &path, found),
            leaf => drop(found.insert(path, leaf)),
        }
    }
}

/// Removes a leaf by its pointer, and the objects that become empty by that.
pub(super) fn remove(object: &mut Object, pointer: &str) {
    let path: Vec<_> = pointer.split('/').skip(1).map(|name| name.replace("~1", "/").replace("~0", "~")).collect();
    remove_at(object, &path);
}

fn remove_at(object: &mut Object, path: &[String]) {
    let Some((name, rest)) = path.split_first() else { return };
    let emptied = match object.get_mut(name) {
        Some(Value::Object(members)) if !rest.is_empty() => {
            remove_at(members, rest);
            members.is_empty()
        }
        found => found.is_some() && rest.is_empty(),
    };
    if emptied {
        object.remove(name);
    }
}

/// How deep objects and arrays lie in each other; 1 for an object of plain values.
pub(super) fn depth(object: &Object) -> usize {
    1 + object.values().map(depth_of).max().unwrap_or(0)
}

fn depth_of(value: &Value) -> usize {
    match value {
        Value::Object(members) => depth(members),
        Value::Array(items) => 1 + items.iter().map(depth_of).max().unwrap_or(0),
        _ => 0,
    }
}

/// Calls `seen` with each member's name, also of objects in arrays.
pub(super) fn names(object: &Object, seen: &mut impl FnMut(&str)) {
    for (name, value) in object {
        seen(name);
        names_of(value, seen);
    }
}

fn names_of(value: &Value, seen: &mut impl FnMut(&str)) {
    match value {
        Value::Object(members) => names(members, seen),
        Value::Array(items) => items.iter().for_each(|item| names_of(item, seen)),
        _ => {}
    }
}
