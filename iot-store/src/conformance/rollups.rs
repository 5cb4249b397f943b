//! What [`TelemetryStore::maintain`](iot_core::store::TelemetryStore::maintain) promises of metrics and of rollups.

use std::time::Duration;

use iot_core::{
    event::{Report, Value},
    store::{Aggregate, Maintained, Retention},
};

use super::{
    Backend,
    maintenance::{DAY, HOUR, MINUTE, append, half, ints, kept, reports, time},
    samples::{event, metric, sample, series},
};

/// Two metrics of one report part when one of them is forgotten.
pub async fn each_metric_is_kept_for_its_time(backend: &mut dyn Backend) {
    let store = &backend.open().await.telemetry;
    let s = series("d", 1);
    let report = Report::Telemetry(vec![(metric("m"), Value::Int(1)), (metric("short"), Value::Int(2))]);
    append(store, &[event(&s, time(5), report.clone())]).await;
    let mut policies = kept(30, 30, 30, 30);
    let key = (s.tenant.clone(), "p".parse().unwrap(), metric("short"));
    policies.metrics.insert(key, Retention::new(1, 1, 1, 1).unwrap());
    assert_eq!(store.maintain(time(DAY), &policies).await.unwrap(), Maintained { sealed: 1, forgotten: 0 });
    assert_eq!(reports(store, &s).await, [report]);
    assert_eq!(store.maintain(time(2 * DAY), &policies).await.unwrap().forgotten, 1);
    assert_eq!(reports(store, &s).await, [Report::Telemetry(vec![(metric("m"), Value::Int(1))])]);
    assert_eq!(store.latest(&s).await.unwrap().len(), 2);
}

/// Minutes, hours and days, each for its time; where buckets fit none of them, only what is kept as it came counts.
pub async fn rollups_outlive_what_they_were_made_from(backend: &mut dyn Backend) {
    let store = &backend.open().await.telemetry;
    let s = series("d", 1);
    let policies = kept(1, 10, 100, 1_000);
    append(store, &(0..200).map(|n| sample(&s, time(n * 30), "m", half(n))).collect::<Vec<_>>()).await;
    let of = |width: i64| {
        let bucket = Duration::from_secs(width.unsigned_abs());
        Aggregate { series: s.clone(), metric: metric("m"), from: time(0), until: time(DAY), bucket }
    };
    let mut before = Vec::new();
    for width in [MINUTE, 5 * MINUTE, HOUR, DAY] {
        before.push(store.aggregate(&of(width), 10_000).await.unwrap());
    }
    for (days, alive) in [(2, [true; 4]), (11, [false, false, true, true]), (130, [false, false, false, true])] {
        let _ = store.maintain(time(days * DAY), &policies).await.unwrap();
        assert_eq!(ints(store, &s).await, [0; 0]);
        assert_eq!(store.aggregate(&of(7), 10_000).await.unwrap(), []);
        for ((width, before), alive) in [MINUTE, 5 * MINUTE, HOUR, DAY].into_iter().zip(&before).zip(alive) {
            let now = store.aggregate(&of(width), 10_000).await.unwrap();
            assert_eq!(now, if alive { before.clone() } else { Vec::new() }, "buckets of {width} s after {days} days");
        }
    }
    let _ = store.maintain(time(1_400 * DAY), &policies).await.unwrap();
    assert_eq!(store.aggregate(&of(DAY), 10_000).await.unwrap(), []);
}
