//! Counters of messages that the node has dropped, read back as its metrics.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

/// Records why messages were dropped, and nothing else.
#[derive(Debug, Default)]
pub(super) struct Dropped {
    counters: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
}

impl Dropped {
    pub(super) fn count(&self, reason: &str) -> u64 {
        self.counters.lock().unwrap().get(reason).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }
}

impl Recorder for Dropped {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        if key.name() != "iot_messages_dropped_total" {
            return Counter::noop();
        }
        let reason = key.labels().find(|label| label.key() == "reason").map_or("", |label| label.value());
        let counter = self.counters.lock().unwrap().entry(reason.to_owned()).or_default().clone();
        Counter::from_arc(counter)
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
