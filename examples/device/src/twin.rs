//! What the device says that it is, and how it comes to what is desired. An engine: no sockets, no clock.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::appliance::Appliance;

/// The longest and the shortest time between two samples that can be desired, in milliseconds.
const INTERVALS_MS: std::ops::RangeInclusive<u64> = 10..=86_400_000;

/// What of a difference this device has carried out.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Done {
    /// What is so now, to be reported.
    pub(crate) reported: Map<String, Value>,
    /// The time between two samples from now on.
    pub(crate) interval: Option<Duration>,
}

/// Everything that the device reports of itself.
pub(crate) fn whole(appliance: &Appliance, interval: Duration, firmware: &str) -> Map<String, Value> {
    let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
    let whole = json!({"on": appliance.is_on(), "report_interval_ms": interval_ms, "firmware": firmware});
    match whole {
        Value::Object(whole) => whole,
        _ => Map::new(),
    }
}

/// Carries out what is desired. What it does not know stays a difference, and so does what it cannot be.
pub(crate) fn carry_out(appliance: &mut Appliance, desired: &Map<String, Value>) -> Done {
    let mut done = Done::default();
    for (name, value) in desired {
        let is_done = match (name.as_str(), value) {
            ("on", Value::Bool(on)) => {
                appliance.switch(*on);
                true
            }
            ("report_interval_ms", value) => {
                let wanted = value.as_u64().filter(|ms| INTERVALS_MS.contains(ms));
                done.interval = wanted.map(Duration::from_millis);
                wanted.is_some()
            }
            _ => false,
        };
        if is_done {
            done.reported.insert(name.clone(), value.clone());
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired(value: &Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn what_is_desired_is_carried_out_and_the_rest_stays_a_difference() {
        let mut lamp = Appliance::new(&"lamp".parse().unwrap());
        let all = json!({"on": true, "report_interval_ms": 1_000, "colour": "red"});
        let done = carry_out(&mut lamp, &desired(&all));
        assert_eq!(Value::Object(done.reported), json!({"on": true, "report_interval_ms": 1_000}));
        assert_eq!(done.interval, Some(Duration::from_secs(1)));
        assert!(lamp.is_on());
        assert_eq!(whole(&lamp, Duration::from_secs(1), "1.0.0")["on"], true);
    }

    #[test]
    fn what_it_cannot_be_changes_nothing() {
        let mut lamp = Appliance::new(&"lamp".parse().unwrap());
        for wrong in [
            json!({"on": 1}),
            json!({"on": null}),
            json!({"on": {"x": true}}),
            json!({"report_interval_ms": 0}),
            json!({"report_interval_ms": 1e9}),
            json!({"report_interval_ms": "soon"}),
            json!({"firmware": "9.9.9"}),
            json!({}),
        ] {
            assert_eq!(carry_out(&mut lamp, &desired(&wrong)), Done::default(), "{wrong}");
            assert!(!lamp.is_on());
        }
    }
}
