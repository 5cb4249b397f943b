//! Reports as rows, and back.

use clickhouse::Row;
use iot_core::{
    event::{Event, Report, Sequence, StoredEvent, Value},
    id::{DeviceId, HomeId, Metric, NodeId, OwnershipEpoch, ProductId, TenantId},
    store::StoreError,
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

use super::damaged;

/// The columns of [`Stored`], in its order.
pub(super) const COLUMNS: &str =
    "tenant, product, device, epoch, home, at, received, node, sequence, counted, count, report,
    metrics, kinds, numbers, exacts, texts";

const TELEMETRY: u8 = 0;
const NAMED: u8 = 1;

const BOOL: u8 = 0;
const INT: u8 = 1;
const FLOAT: u8 = 2;
const TEXT: u8 = 3;
const JSON: u8 = 4;

/// A report as the table has it.
#[derive(Debug, Row, Serialize, Deserialize)]
pub(super) struct Stored {
    tenant: String,
    product: String,
    device: String,
    epoch: u64,
    /// Empty if there is none.
    home: String,
    at: i64,
    received: i64,
    node: String,
    sequence: u64,
    counted: u8,
    count: u64,
    report: u8,
    metrics: Vec<String>,
    kinds: Vec<u8>,
    numbers: Vec<f64>,
    exacts: Vec<i64>,
    texts: Vec<String>,
}

impl Stored {
    pub(super) fn new(node: &NodeId, sequence: Sequence, event: &Event) -> Self {
        let mut row = Self {
            tenant: event.tenant.as_str().to_owned(),
            product: event.product.as_str().to_owned(),
            device: event.device.as_str().to_owned(),
            epoch: event.epoch.0,
            home: event.home.as_ref().map_or_else(String::new, |home| home.as_str().to_owned()),
            at: event.at.as_micros(),
            received: event.received.as_micros(),
            node: node.as_str().to_owned(),
            sequence: sequence.0,
            counted: event.device_sequence.is_some().into(),
            count: event.device_sequence.unwrap_or_default(),
            report: TELEMETRY,
            metrics: Vec::new(),
            kinds: Vec::new(),
            numbers: Vec::new(),
            exacts: Vec::new(),
            texts: Vec::new(),
        };
        match &event.report {
            Report::Telemetry(values) => values.iter().for_each(|(metric, value)| row.push(metric, value)),
            Report::Event { name, data } => {
                row.report = NAMED;
                row.push(name, &Value::Json(data.clone()));
            }
        }
        row
    }

    pub(super) fn received(&self) -> i64 {
        self.received
    }

    fn push(&mut self, metric: &Metric, value: &Value) {
        let (kind, exact, text) = match value {
            Value::Bool(_) => (BOOL, 0, String::new()),
            Value::Int(exact) => (INT, *exact, String::new()),
            Value::Float(_) => (FLOAT, 0, String::new()),
            Value::Text(text) => (TEXT, 0, text.clone()),
            Value::Json(json) => (JSON, 0, json.to_string()),
        };
        self.metrics.push(metric.as_str().to_owned());
        self.kinds.push(kind);
        self.numbers.push(value.as_f64().unwrap_or_default());
        self.exacts.push(exact);
        self.texts.push(text);
    }

    pub(super) fn read(self) -> Result<StoredEvent, StoreError> {
        let place = format!("event {} of node {}", self.sequence, self.node);
        self.event().ok_or_else(|| damaged(place))
    }

    fn event(self) -> Option<StoredEvent> {
        let counts = [self.kinds.len(), self.numbers.len(), self.exacts.len(), self.texts.len()];
        if counts.iter().any(|count| *count != self.metrics.len()) {
            return None;
        }
        let parts = self.kinds.into_iter().zip(self.numbers).zip(self.exacts).zip(self.texts);
        let values = self.metrics.iter().zip(parts).map(|(metric, (((kind, number), exact), text))| {
            Some((Metric::parse(metric).ok()?, value(kind, number, exact, text)?))
        });
        let mut values = values.collect::<Option<Vec<_>>>()?;
        let report = match self.report {
            TELEMETRY => Report::Telemetry(values),
            NAMED => match values.pop()? {
                (name, Value::Json(data)) => Report::Event { name, data },
                _ => return None,
            },
            _ => return None,
        };
        let home = if self.home.is_empty() { None } else { Some(HomeId::parse(&self.home).ok()?) };
        let event = Event {
            tenant: TenantId::parse(&self.tenant).ok()?,
            product: ProductId::parse(&self.product).ok()?,
            device: DeviceId::parse(&self.device).ok()?,
            epoch: OwnershipEpoch(self.epoch),
            home,
            at: Timestamp::from_micros(self.at),
            received: Timestamp::from_micros(self.received),
            device_sequence: (self.counted != 0).then_some(self.count),
            report,
        };
        Some(StoredEvent { sequence: Sequence(self.sequence), event })
    }
}

/// A value from its columns.
pub(super) fn value(kind: u8, number: f64, exact: i64, text: String) -> Option<Value> {
    Some(match kind {
        BOOL => Value::Bool(number != 0.0),
        INT => Value::Int(exact),
        FLOAT => Value::Float(number),
        TEXT => Value::Text(text),
        JSON => Value::Json(serde_json::from_str(&text).ok()?),
        _ => return None,
    })
}
