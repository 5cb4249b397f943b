use std::collections::BTreeMap;

use iot_core::{
    event::{Report, StoredEvent, Value},
    id::Metric,
    store::{Form, Partition, Policies, Series},
};

/// Divides reports by where they belong. One whose metrics are kept for different times goes in parts.
pub(crate) fn by_partition<'a>(
    policies: &Policies,
    series: &Series,
    events: impl Iterator<Item = &'a StoredEvent>,
) -> BTreeMap<Partition, Vec<StoredEvent>> {
    let mut divided: BTreeMap<Partition, Vec<StoredEvent>> = BTreeMap::new();
    for stored in events {
        let event = &stored.event;
        let of = |metric| {
            let retention = policies.of(&series.tenant, &event.product, metric);
            Partition::of(Form::Raw, &retention, event.received)
        };
        let values = match &event.report {
            Report::Telemetry(values) if !policies.metrics.is_empty() => values,
            Report::Telemetry(_) | Report::Event { .. } => {
                divided.entry(of(None)).or_default().push(stored.clone());
                continue;
            }
        };
        let mut parts: BTreeMap<Partition, Vec<(Metric, Value)>> = BTreeMap::new();
        for (metric, value) in values {
            parts.entry(of(Some(metric))).or_default().push((metric.clone(), value.clone()));
        }
        if parts.is_empty() {
            parts.insert(of(None), Vec::new());
        }
        for (partition, values) in parts {
            let mut part = stored.clone();
            part.event.report = Report::Telemetry(values);
            divided.entry(partition).or_default().push(part);
        }
    }
    divided
}
