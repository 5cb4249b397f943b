//! The payloads of the device tree, in JSON (RFC 8259) or CBOR (RFC 8949). Shapes: `docs/protocol.md`.
//!
//! Which of the two a device sends is seen from the first byte: all payloads are maps or arrays, which begin differently
//! in the two encodings.

use std::borrow::Cow;

use minicbor::data::Token;
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};

use crate::{
    device::Encoding,
    event::{Report, Value},
    id::{CommandId, Metric},
    limits::Limits,
    time::Timestamp,
};

/// A payload that the node refuses. The texts are sent to the device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPayload {
    /// Neither a JSON nor a CBOR map or array, or not of the documented shape.
    #[error("{0}")]
    Malformed(String),
    /// Beyond a limit, which is named.
    #[error("more than {max} {what}")]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// A time before 1970 or more than a day ahead of the node.
    #[error("the time of a report is before 1970 or more than a day ahead")]
    Time,
}

/// How far ahead of the node's clock a report may be.
pub const AHEAD_MAX: std::time::Duration = std::time::Duration::from_secs(24 * 3_600);

/// One report as a device sends it.
#[derive(Debug, Clone, PartialEq)]
pub struct Uplink {
    /// When, by the device.
    pub at: Option<Timestamp>,
    /// The device's count.
    pub sequence: Option<u64>,
    /// What.
    pub report: Report,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SampleBody {
    #[serde(default)]
    ts: Option<i64>,
    #[serde(default)]
    seq: Option<u64>,
    #[serde(deserialize_with = "values")]
    values: Vec<(Metric, Value)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventBody {
    #[serde(default)]
    ts: Option<i64>,
    #[serde(default)]
    seq: Option<u64>,
    name: Metric,
    #[serde(default)]
    data: serde_json::Value,
}

/// The answer of a device to a command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplyBody {
    /// Which command.
    pub id: CommandId,
    /// Done or not.
    pub status: ReplyStatus,
    /// A value, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<serde_json::Value>,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Done or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplyStatus {
    /// Done.
    Applied,
    /// Not done, and it will not be.
    Rejected,
}

/// A command as a device receives it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CommandBody {
    /// A repeat has the same id; a device answers it again without doing it again.
    pub id: CommandId,
    /// What to do.
    pub name: String,
    /// With which arguments.
    pub args: serde_json::Value,
    /// The device's ownership epoch in which it was asked for.
    pub epoch: u64,
    /// For how much longer it is worth doing.
    pub expires_in_ms: u64,
}

/// What the node tells a device about a message it refused, on `down/error`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorBody<'a> {
    /// The device's topic of the refused message.
    pub topic: Cow<'a, str>,
    /// Stable.
    pub code: Cow<'a, str>,
    /// For people.
    pub detail: Cow<'a, str>,
}

/// Whether a device is connected, on `status`, retained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusBody {
    /// Connected or not.
    pub online: bool,
    /// `online`, `suspect` (silent for longer than it said it would be, or its server was lost), or `offline`.
    pub state: Cow<'static, str>,
    /// Since when it is connected or not.
    pub since: Timestamp,
    /// Why it went, when it has gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Grows with every change: the greatest is the latest, in whatever order they come.
    pub epoch: u64,
}

/// Reads `up/telemetry`: one sample or an array of them.
pub fn telemetry(payload: &[u8], limits: &Limits, now: Timestamp) -> Result<Vec<Uplink>, InvalidPayload> {
    let bodies: Vec<SampleBody> = if is_array(payload) { decode(payload)? } else { vec![decode(payload)?] };
    if bodies.is_empty() {
        return Err(InvalidPayload::Malformed("an empty array of samples".to_owned()));
    }
    if bodies.len() > limits.samples_max {
        return Err(InvalidPayload::TooMuch { what: "samples", max: limits.samples_max });
    }
    bodies
        .into_iter()
        .map(|body| {
            check_values(&body.values, limits)?;
            Ok(Uplink { at: at(body.ts, now)?, sequence: body.seq, report: Report::Telemetry(body.values) })
        })
        .collect()
}

/// Reads `up/event`.
pub fn event(payload: &[u8], limits: &Limits, now: Timestamp) -> Result<Uplink, InvalidPayload> {
    let body: EventBody = decode(payload)?;
    if payload.len() > limits.value_bytes_max.saturating_add(256) {
        return Err(InvalidPayload::TooMuch { what: "bytes in an event", max: limits.value_bytes_max });
    }
    let report = Report::Event { name: body.name, data: body.data };
    Ok(Uplink { at: at(body.ts, now)?, sequence: body.seq, report })
}

/// Reads `up/reply`.
pub fn reply(payload: &[u8]) -> Result<ReplyBody, InvalidPayload> {
    decode(payload)
}

/// Reads any payload of the device tree.
pub fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, InvalidPayload> {
    match payload.first() {
        Some(b'{' | b'[' | b' ' | b'\t' | b'\r' | b'\n') => {
            serde_json::from_slice(payload).map_err(|e| InvalidPayload::Malformed(format!("JSON: {e}")))
        }
        Some(0x80..=0xbf) => decode_cbor(payload),
        _ => Err(InvalidPayload::Malformed("neither a JSON nor a CBOR map or array".to_owned())),
    }
}

/// Writes a payload towards a device.
pub fn encode<T: Serialize>(body: &T, encoding: Encoding) -> Vec<u8> {
    match encoding {
        Encoding::Json => serde_json::to_vec(body).expect("the bodies of this module have text keys only"),
        Encoding::Cbor => minicbor_serde::to_vec(body).expect("writing to memory does not fail"),
    }
}

/// The deepest nesting of arrays and maps in a payload; JSON has a limit of its own, 128.
pub const CBOR_DEPTH_MAX: usize = 32;

fn decode_cbor<T: DeserializeOwned>(payload: &[u8]) -> Result<T, InvalidPayload> {
    check_depth(payload)?;
    let mut deserializer = minicbor_serde::Deserializer::new(payload);
    let body = T::deserialize(&mut deserializer).map_err(|e| InvalidPayload::Malformed(format!("CBOR: {e}")))?;
    if deserializer.decoder().position() != payload.len() {
        return Err(InvalidPayload::Malformed("CBOR: bytes after the end".to_owned()));
    }
    Ok(body)
}

// The deserializer recurses and has no limit, so that nesting is bounded before it runs.
fn check_depth(payload: &[u8]) -> Result<(), InvalidPayload> {
    const INDEFINITE: u64 = u64::MAX;
    let mut open: Vec<u64> = Vec::new();
    for token in minicbor::decode::Tokenizer::new(payload) {
        let children = match token.map_err(|e| InvalidPayload::Malformed(format!("CBOR: {e}")))? {
            Token::Tag(_) => continue,
            Token::Break => {
                open.pop();
                None
            }
            Token::Array(length) => Some(length),
            Token::Map(length) => Some(length.saturating_mul(2)),
            Token::BeginArray | Token::BeginMap | Token::BeginBytes | Token::BeginString => Some(INDEFINITE),
            _ => None,
        };
        open.extend(children);
        if open.len() > CBOR_DEPTH_MAX {
            return Err(InvalidPayload::TooMuch { what: "levels of nesting", max: CBOR_DEPTH_MAX });
        }
        if children.is_none_or(|n| n == 0) {
            close_full(&mut open, children == Some(0));
        }
    }
    Ok(())
}

/// Counts one finished item against the containers around it.
fn close_full(open: &mut Vec<u64>, empty_container: bool) {
    if empty_container {
        open.pop();
    }
    while let Some(left) = open.last_mut() {
        if *left == u64::MAX {
            return;
        }
        *left = left.saturating_sub(1);
        if *left > 0 {
            return;
        }
        open.pop();
    }
}

fn is_array(payload: &[u8]) -> bool {
    payload.iter().find(|byte| !byte.is_ascii_whitespace()).is_some_and(|byte| matches!(byte, b'[' | 0x80..=0x9f))
}

fn at(ts: Option<i64>, now: Timestamp) -> Result<Option<Timestamp>, InvalidPayload> {
    let Some(millis) = ts else { return Ok(None) };
    let at = Timestamp::from_millis(millis);
    if millis < 0 || at > now.plus(AHEAD_MAX) { Err(InvalidPayload::Time) } else { Ok(Some(at)) }
}

fn check_values(values: &[(Metric, Value)], limits: &Limits) -> Result<(), InvalidPayload> {
    if values.is_empty() {
        return Err(InvalidPayload::Malformed("a sample without values".to_owned()));
    }
    if values.len() > limits.values_max {
        return Err(InvalidPayload::TooMuch { what: "values in a sample", max: limits.values_max });
    }
    let too_long = |value: &Value| match value {
        Value::Text(text) => text.len() > limits.value_bytes_max,
        Value::Json(json) => json.to_string().len() > limits.value_bytes_max,
        Value::Bool(_) | Value::Int(_) | Value::Float(_) => false,
    };
    if values.iter().any(|(_, value)| too_long(value)) {
        return Err(InvalidPayload::TooMuch { what: "bytes in a value", max: limits.value_bytes_max });
    }
    Ok(())
}

/// A map in the order of the message; a metric named twice is refused.
fn values<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(Metric, Value)>, D::Error> {
    struct Pairs;
    impl<'de> serde::de::Visitor<'de> for Pairs {
        type Value = Vec<(Metric, Value)>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object of values by metric name")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut pairs: Vec<(Metric, Value)> = Vec::with_capacity(map.size_hint().unwrap_or(4).min(64));
            while let Some((metric, value)) = map.next_entry::<Metric, Value>()? {
                if pairs.len() < 256 && pairs.iter().any(|(known, _)| *known == metric) {
                    return Err(serde::de::Error::custom(format_args!("the metric {metric} appears twice")));
                }
                pairs.push((metric, value));
            }
            Ok(pairs)
        }
    }
    deserializer.deserialize_map(Pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    fn read(text: &str) -> Result<Vec<Uplink>, InvalidPayload> {
        telemetry(text.as_bytes(), &Limits::default(), NOW)
    }

    #[test]
    fn a_sample_reads_the_same_from_json_and_cbor() {
        let json = r#"{"ts":1700000000000,"seq":7,"values":{"a":21.5,"b":-3,"c":true,"d":"x","e":{"f":[1]}}}"#;
        let tree: serde_json::Value = serde_json::from_str(json).unwrap();
        let cbor = minicbor_serde::to_vec(&tree).unwrap();
        let from_json = read(json).unwrap();
        assert_eq!(from_json, telemetry(&cbor, &Limits::default(), NOW).unwrap());
        let Report::Telemetry(values) = &from_json[0].report else { panic!("not telemetry") };
        assert_eq!(values[0].1, Value::Float(21.5));
        assert_eq!(values[1].1, Value::Int(-3));
        assert_eq!(from_json[0].sequence, Some(7));
    }

    #[test]
    fn whole_floats_stay_floats() {
        let Report::Telemetry(values) = &read(r#"{"values":{"t":21.0}}"#).unwrap()[0].report else {
            panic!("not telemetry")
        };
        assert_eq!(values[0].1, Value::Float(21.0));
    }

    #[test]
    fn wrong_payloads_are_refused_with_a_reason() {
        for bad in [
            "",
            "21.5",
            "null",
            "[]",
            "{}",
            r#"{"values":{}}"#,
            r#"{"values":{"a b":1}}"#,
            r#"{"values":{"a":null}}"#,
            r#"{"values":{"a":1},"extra":1}"#,
            r#"{"values":{"a":1}} x"#,
            r#"{"values":{"a":1,"a":2}}"#,
            "{\"values\"",
            "\u{1}",
        ] {
            assert!(matches!(read(bad), Err(InvalidPayload::Malformed(_))), "{bad:?}");
        }
        assert_eq!(read(r#"{"ts":-1,"values":{"a":1}}"#), Err(InvalidPayload::Time));
        assert_eq!(read(r#"{"ts":1900000000000,"values":{"a":1}}"#), Err(InvalidPayload::Time));
        let many: Vec<String> = (0..65).map(|n| format!("\"m{n}\":1")).collect();
        assert!(matches!(read(&format!("{{\"values\":{{{}}}}}", many.join(","))), Err(InvalidPayload::TooMuch { .. })));
        assert!(matches!(telemetry(b"\xa1", &Limits::default(), NOW), Err(InvalidPayload::Malformed(_))));
    }

    #[test]
    fn nesting_cannot_exhaust_the_stack() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(read(&deep).is_err());
        assert!(telemetry(&vec![0x81; 100_000], &Limits::default(), NOW).is_err());
        let mut inside = b"\xa1\x66values\xa1\x61a".to_vec();
        inside.extend(std::iter::repeat_n(0x81, 200_000));
        assert!(telemetry(&inside, &Limits::default(), NOW).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = telemetry(&bytes, &Limits::default(), NOW);
            let _ = event(&bytes, &Limits::default(), NOW);
            let _ = reply(&bytes);
        }
    }
}
