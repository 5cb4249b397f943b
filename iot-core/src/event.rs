//! What devices report.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{
        self, MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, SeqAccessDeserializer},
    },
};

use crate::{
    id::{DeviceId, HomeId, Metric, NodeId, OwnershipEpoch, ProductId, TenantId},
    time::Timestamp,
};

/// A measured value. `Float` may be any f64 bit pattern except that NaNs are one.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// true or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(String),
    /// An array or object.
    Json(serde_json::Value),
}

impl Value {
    /// As a number, for aggregates: booleans count as 0 and 1; `None` for text and JSON.
    #[expect(clippy::cast_precision_loss, reason = "aggregates are f64 by definition")]
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Bool(value) => Some(f64::from(u8::from(*value))),
            Self::Int(value) => Some(*value as f64),
            Self::Float(value) => Some(*value),
            Self::Text(_) | Self::Json(_) => None,
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a boolean, number, text, array or object")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    #[expect(clippy::cast_precision_loss, reason = "a whole number beyond i64 is kept as the nearest float")]
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or(Value::Float(value as f64), Value::Int))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Value, A::Error> {
        serde_json::Value::deserialize(SeqAccessDeserializer::new(seq)).map(Value::Json)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value, A::Error> {
        serde_json::Value::deserialize(MapAccessDeserializer::new(map)).map(Value::Json)
    }
}

/// What kind of report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Report {
    /// One sample: values taken at the same time.
    Telemetry(Vec<(Metric, Value)>),
    /// Something happened.
    Event {
        /// What.
        name: Metric,
        /// With which details.
        data: serde_json::Value,
    },
}

/// One report of one device: the unit that is stored, ordered and handed to consumers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Whose.
    pub tenant: TenantId,
    /// Of which product.
    pub product: ProductId,
    /// From which device.
    pub device: DeviceId,
    /// In which of its ownership epochs.
    pub epoch: OwnershipEpoch,
    /// Where it stood when the node received this.
    pub home: Option<HomeId>,
    /// When it was, by the device; by the node where the device did not say.
    pub at: Timestamp,
    /// When the node received it.
    pub received: Timestamp,
    /// The device's own count; a repeat within an epoch is recognised by it and stored once.
    pub device_sequence: Option<u64>,
    /// What.
    pub report: Report,
}

/// A place in a node's ingest log: grows with each stored event; there may be gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Sequence(pub u64);

/// Names a stored event in the whole cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EventId {
    /// The node that stored it.
    pub node: NodeId,
    /// Its place in that node's log.
    pub sequence: Sequence,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.node, self.sequence.0)
    }
}

/// An event that is durable.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredEvent {
    /// Its place in the log.
    pub sequence: Sequence,
    /// What was said.
    pub event: Event,
}
