use std::{collections::BTreeMap, time::Duration};

use iot_core::{
    event::{Report, StoredEvent},
    id::Metric,
    store::{Form, Partition, Policies, Retention, Series},
    time::Timestamp,
};

use crate::chunk::{Point, Rollup, Rollups, Summary};

/// How many buckets one row holds at most.
const ERA_BUCKETS: i64 = 32_768;

/// New statistics, by the start of their buckets.
#[derive(Default)]
pub(crate) struct Sums(BTreeMap<i64, Summary>);

impl Sums {
    pub(crate) fn add(&mut self, form: Form, point: Point) {
        let start = start(point.at.as_micros(), width(form));
        self.0.entry(start).and_modify(|sum| sum.add(point)).or_insert_with(|| Summary::of(point));
    }

    /// Divided into rows: of each era those that belong into one, in ascending order.
    pub(crate) fn by_era(&self, form: Form) -> BTreeMap<i64, Rollups> {
        let resolution = Duration::from_micros(width(form).unsigned_abs());
        let mut eras: BTreeMap<i64, Rollups> = BTreeMap::new();
        for (start, summary) in &self.0 {
            let row = Rollup { start: Timestamp::from_micros(*start), summary: *summary };
            let rollups = eras.entry(era(form, *start)).or_insert_with(|| Rollups { resolution, rows: Vec::new() });
            rollups.rows.push(row);
        }
        eras
    }
}

/// In which row the statistics of a time are kept.
pub(crate) fn era(form: Form, at: i64) -> i64 {
    at.div_euclid(width(form)).div_euclid(ERA_BUCKETS)
}

/// The width of a rollup's buckets in microseconds.
fn width(form: Form) -> i64 {
    form.bucket_micros().unwrap_or(1)
}

// The first bucket begins where time does.
fn start(at: i64, width: i64) -> i64 {
    at.div_euclid(width).checked_mul(width).unwrap_or(i64::MIN)
}

/// Where statistics are kept: in which form, for how many days, in which span, of which metric.
pub(crate) type RollupKey<'a> = (Form, u32, i64, &'a Metric);

/// The statistics of new reports, by where they are kept.
pub(crate) fn rollups<'a>(
    policies: &Policies,
    series: &Series,
    events: &'a [StoredEvent],
) -> BTreeMap<RollupKey<'a>, Sums> {
    let mut rollups: BTreeMap<RollupKey<'a>, Sums> = BTreeMap::new();
    for stored in events {
        let Report::Telemetry(values) = &stored.event.report else { continue };
        for (metric, value) in values {
            let Some(value) = value.as_f64() else { continue };
            let point = Point { at: stored.event.at, sequence: stored.sequence, value };
            let retention: Retention = policies.of(&series.tenant, &stored.event.product, Some(metric));
            for form in [Form::Minute, Form::Hour, Form::Day] {
                let Partition { kept, span, .. } = Partition::of(form, &retention, stored.event.received);
                rollups.entry((form, kept, span, metric)).or_default().add(form, point);
            }
        }
    }
    rollups
}
