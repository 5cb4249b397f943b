//! Samples that wait for the connection.

use std::collections::VecDeque;

use serde::Serialize;

use crate::appliance::Values;

/// The most samples that wait; a further one pushes out the oldest. As many as one message may carry.
pub const SAMPLES_MAX: usize = 100;

/// A sample as `up/telemetry` carries it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Sample {
    /// What was measured.
    pub values: Values,
    /// When, in milliseconds since 1970.
    pub ts: i64,
    /// The device's count.
    pub seq: u64,
}

/// Samples, oldest first.
#[derive(Debug, Default)]
pub struct Outbox(VecDeque<Sample>);

impl Outbox {
    /// Keeps a sample until it is sent.
    pub fn push(&mut self, values: Values, ts: i64, seq: u64) {
        if self.0.len() >= SAMPLES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(Sample { values, ts, seq });
    }

    /// The payload of one message with all of them: a sample by itself, or an array.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        let samples = self.0.make_contiguous();
        let payload = match samples {
            [] => return None,
            [sample] => serde_json::to_vec(sample),
            several => serde_json::to_vec(several),
        };
        self.0.clear();
        Some(payload.expect("samples are structs of numbers and booleans"))
    }
}

#[cfg(test)]
mod tests {
    use iot_core::{id::DeviceId, limits::Limits, payload, time::Timestamp};

    use super::*;
    use crate::appliance::Appliance;

    fn filled(count: u64) -> Outbox {
        let mut appliance = Appliance::new(&DeviceId::parse("lamp").unwrap());
        let mut outbox = Outbox::default();
        for seq in 0..count {
            outbox.push(appliance.measure(std::time::Duration::from_secs(seq)), 1_763_856_000_000, seq);
        }
        outbox
    }

    fn sequences(payload: &[u8]) -> Vec<u64> {
        let now = Timestamp::from_millis(1_763_856_000_000);
        let uplinks = payload::telemetry(payload, &Limits::default(), now).unwrap();
        uplinks.iter().map(|uplink| uplink.sequence.unwrap()).collect()
    }

    #[test]
    fn the_cloud_reads_one_sample_and_many() {
        assert_eq!(filled(0).take(), None);
        assert_eq!(sequences(&filled(1).take().unwrap()), [0]);
        let mut outbox = filled(3);
        assert_eq!(sequences(&outbox.take().unwrap()), [0, 1, 2]);
        assert_eq!(outbox.take(), None);
    }

    #[test]
    fn when_it_is_full_the_oldest_go() {
        let kept = sequences(&filled(SAMPLES_MAX as u64 + 5).take().unwrap());
        assert_eq!((kept.len(), kept[0]), (SAMPLES_MAX, 5));
    }
}
