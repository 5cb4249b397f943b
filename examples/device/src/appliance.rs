//! What the simulated device is: a lamp with a thermometer and a hygrometer. The same id and the same time give the same
//! values.

use std::{f64::consts::TAU, time::Duration};

use iot_core::id::DeviceId;
use serde::Serialize;
use serde_json::{Value, json};

use crate::obey::Outcome;

/// The slow wave of the temperature: its period in seconds and its height in degrees.
const WAVE: (f64, f64) = (600.0, 2.0);

/// The largest noise on the temperature, in degrees.
const NOISE: f64 = 0.1;

/// The temperatures that `set_temperature` takes, in degrees Celsius.
const TEMPERATURES: std::ops::RangeInclusive<f64> = -100.0..=1_000.0;

/// What is measured at one time.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Values {
    /// In degrees Celsius.
    pub temperature: f64,
    /// Relative, in percent.
    pub humidity: f64,
    /// Since the device started, in seconds.
    pub uptime_s: u64,
    /// Whether the lamp is on.
    pub on: bool,
}

/// The state of one device's hardware.
#[derive(Debug)]
pub struct Appliance {
    seed: u64,
    count: u64,
    /// The middle of the wave.
    temperature: f64,
    on: bool,
}

impl Appliance {
    /// A device that was just switched on; `id` decides how its values wander.
    pub fn new(id: &DeviceId) -> Self {
        Self { seed: mixed(id.as_str().as_bytes()), count: 0, temperature: 21.0, on: false }
    }

    /// Measures, `uptime` after the start.
    pub fn measure(&mut self, uptime: Duration) -> Values {
        self.count += 1;
        let noise = NOISE * (2.0 * self.fraction(self.count) - 1.0);
        let wave = self.wave(uptime);
        Values {
            temperature: hundredths(self.temperature + wave + noise),
            humidity: hundredths((45.0 - 3.0 * wave + 10.0 * noise).clamp(0.0, 100.0)),
            uptime_s: uptime.as_secs(),
            on: self.on,
        }
    }

    /// Carries out a command: `set`, `set_temperature`, `echo`, `fail`; refuses others.
    pub fn act(&mut self, uptime: Duration, name: &str, args: &Value) -> Outcome {
        match name {
            "set" => self.set(args),
            "set_temperature" => self.set_temperature(uptime, args),
            "echo" => Ok(Some(args.clone())),
            "fail" => Err("this command always fails".to_owned()),
            _ => Err("unknown command".to_owned()),
        }
    }

    /// Whether the lamp is on.
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// Switches the lamp.
    pub fn switch(&mut self, on: bool) {
        self.on = on;
    }

    fn set(&mut self, args: &Value) -> Outcome {
        self.switch(args["on"].as_bool().ok_or("expected {\"on\": true} or {\"on\": false}")?);
        Ok(Some(json!({"on": self.on})))
    }

    fn set_temperature(&mut self, uptime: Duration, args: &Value) -> Outcome {
        let value = args["value"].as_f64().filter(|value| TEMPERATURES.contains(value));
        let value = value.ok_or("expected {\"value\": degrees}, from -100 to 1000")?;
        self.temperature = value - self.wave(uptime);
        Ok(Some(json!({"temperature": value})))
    }

    fn wave(&self, uptime: Duration) -> f64 {
        WAVE.1 * (TAU * (uptime.as_secs_f64() / WAVE.0 + self.fraction(0))).sin()
    }

    /// From 0 up to 1, different for each device and `n`.
    fn fraction(&self, n: u64) -> f64 {
        let bits = mixed(&(self.seed ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes());
        f64::from(u32::try_from(bits >> 32).unwrap_or(0)) / f64::from(u32::MAX)
    }
}

fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// FNV-1a, finished as SplitMix64 is, so that neighbours differ in all bits.
fn mixed(bytes: &[u8]) -> u64 {
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn appliance(id: &str) -> Appliance {
        Appliance::new(&DeviceId::parse(id).unwrap())
    }

    #[test]
    fn values_repeat_for_the_same_id_and_differ_between_ids() {
        let (mut a, mut again, mut b) = (appliance("a"), appliance("a"), appliance("b"));
        let at = Duration::from_secs(7);
        assert_eq!(a.measure(at), again.measure(at));
        assert_ne!(a.measure(at).temperature, b.measure(at).temperature);
    }

    #[test]
    fn the_temperature_wanders_slowly_around_a_room() {
        let mut a = appliance("a");
        let values: Vec<_> = (0..600).map(|s| a.measure(Duration::from_secs(s)).temperature).collect();
        assert!(values.iter().all(|t| (18.8..=23.2).contains(t)));
        assert!(values.windows(2).all(|w| (w[0] - w[1]).abs() < 0.3));
        assert!(values.iter().any(|t| *t > 22.5) && values.iter().any(|t| *t < 19.5));
    }

    #[test]
    fn commands_change_what_is_measured_next() {
        let (mut a, at) = (appliance("a"), Duration::from_secs(100));
        assert_eq!(a.act(at, "set", &json!({"on": true})), Ok(Some(json!({"on": true}))));
        assert_eq!(a.act(at, "set_temperature", &json!({"value": 80})), Ok(Some(json!({"temperature": 80.0}))));
        let values = a.measure(at);
        assert!(values.on);
        assert!((values.temperature - 80.0).abs() <= NOISE + 0.01, "{}", values.temperature);
    }

    #[test]
    fn what_it_does_not_understand_is_refused_and_changes_nothing() {
        let (mut a, at) = (appliance("a"), Duration::ZERO);
        let before = format!("{a:?}");
        for (name, args) in [
            ("set", json!({})),
            ("set", json!({"on": 1})),
            ("set", json!([true])),
            ("set_temperature", json!({"value": "hot"})),
            ("set_temperature", json!({"value": 1e9})),
            ("fail", json!(null)),
            ("explode", json!(null)),
        ] {
            assert!(a.act(at, name, &args).is_err(), "{name} {args}");
        }
        assert_eq!(format!("{a:?}"), before);
        assert_eq!(a.act(at, "echo", &json!([1, "x"])), Ok(Some(json!([1, "x"]))));
    }
}
