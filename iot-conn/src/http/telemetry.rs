use std::time::Duration;

use axum::{Json, extract::State};
use iot_core::{
    device::Device,
    event::{Report, StoredEvent},
    id::Metric,
    store::{Aggregate, Bucket, LatestValue, Range, Series},
    time::Timestamp,
};
use iot_http::{Items, PageQuery, ProblemResponse, Query, Target};
use serde::{Deserialize, Serialize};

use crate::node::{Node, live::plain};

/// What `from` is when it is left out.
const SPAN_DEFAULT: Duration = Duration::from_secs(3_600);

fn series(device: &Device) -> Series {
    Series { tenant: device.tenant.clone(), device: device.id.clone(), epoch: device.epoch }
}

#[derive(Deserialize)]
pub(super) struct Span {
    metric: Option<Metric>,
    from: Option<Timestamp>,
    until: Option<Timestamp>,
    #[serde(default)]
    order: Order,
}

#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Order {
    #[default]
    Asc,
    Desc,
}

/// A number as JSON can write it: NaN and the infinities are texts.
fn number(value: f64) -> serde_json::Value {
    match serde_json::Number::from_f64(value) {
        Some(number) => number.into(),
        None => value.to_string().into(),
    }
}

#[derive(Serialize)]
pub(super) struct ReportView {
    at: Timestamp,
    received: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    values: Option<serde_json::Map<String, serde_json::Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<NamedView>,
}

#[derive(Serialize)]
struct NamedView {
    name: String,
    data: serde_json::Value,
}

pub(super) fn report(stored: StoredEvent) -> ReportView {
    let event = stored.event;
    let (values, named) = match event.report {
        Report::Telemetry(pairs) => (Some(pairs.into_iter().map(|(m, v)| (m.to_string(), plain(&v))).collect()), None),
        Report::Event { name, data } => (None, Some(NamedView { name: name.to_string(), data })),
    };
    ReportView { at: event.at, received: event.received, seq: event.device_sequence, values, event: named }
}

pub(super) async fn range(
    State(node): State<Node>,
    Target(device): Target<Device>,
    page: PageQuery,
    Query(span): Query<Span>,
) -> Result<Items<ReportView>, ProblemResponse> {
    let (from, until) = bounds(&node, span.from, span.until)?;
    let range = Range { series: series(&device.document), metric: span.metric, from, until };
    let newest_first = span.order == Order::Desc;
    let found = node.stores().telemetry.range(&range, newest_first, page.after.as_ref(), page.limit).await?;
    Ok(Items::of(found, report))
}

fn bounds(
    node: &Node,
    from: Option<Timestamp>,
    until: Option<Timestamp>,
) -> Result<(Timestamp, Timestamp), ProblemResponse> {
    // A report of this very microsecond is included by default.
    let until = until.unwrap_or_else(|| node.clock().timestamp().plus(Duration::from_micros(1)));
    let from = from.unwrap_or_else(|| until.minus(SPAN_DEFAULT));
    if from > until {
        return Err(super::query_invalid("from is after until").into());
    }
    Ok((from, until))
}

#[derive(Serialize)]
pub(super) struct All<T> {
    items: Vec<T>,
}

#[derive(Serialize)]
pub(super) struct LatestView {
    metric: Metric,
    at: Timestamp,
    value: serde_json::Value,
}

pub(super) async fn latest(
    State(node): State<Node>,
    Target(device): Target<Device>,
) -> Result<Json<All<LatestView>>, ProblemResponse> {
    let found = node.stores().telemetry.latest(&series(&device.document)).await?;
    let view = |latest: LatestValue| LatestView { metric: latest.metric, at: latest.at, value: plain(&latest.value) };
    Ok(Json(All { items: found.into_iter().map(view).collect() }))
}

#[derive(Deserialize)]
pub(super) struct AggregateQuery {
    metric: Metric,
    from: Option<Timestamp>,
    until: Option<Timestamp>,
    #[serde(default = "bucket_default")]
    bucket_s: u64,
    #[serde(default = "limit_default")]
    limit: u32,
}

fn bucket_default() -> u64 {
    60
}

fn limit_default() -> u32 {
    100
}

#[derive(Serialize)]
pub(super) struct BucketView {
    start: Timestamp,
    count: u64,
    min: serde_json::Value,
    max: serde_json::Value,
    sum: serde_json::Value,
    mean: serde_json::Value,
    first: serde_json::Value,
    last: serde_json::Value,
}

#[expect(clippy::cast_precision_loss, reason = "a mean is a float")]
fn bucket(bucket: &Bucket) -> BucketView {
    BucketView {
        start: bucket.start,
        count: bucket.count,
        min: number(bucket.min),
        max: number(bucket.max),
        sum: number(bucket.sum),
        mean: number(bucket.sum / bucket.count as f64),
        first: number(bucket.first),
        last: number(bucket.last),
    }
}

pub(super) async fn aggregate(
    State(node): State<Node>,
    Target(device): Target<Device>,
    Query(query): Query<AggregateQuery>,
) -> Result<Json<All<BucketView>>, ProblemResponse> {
    let (from, until) = bounds(&node, query.from, query.until)?;
    if query.bucket_s == 0 || query.bucket_s > 366 * 24 * 3_600 {
        return Err(super::query_invalid("bucket_s: 1 to 31622400").into());
    }
    if !(1..=1_000).contains(&query.limit) {
        return Err(super::query_invalid("limit: from 1 to 1000").into());
    }
    let bucket_width = Duration::from_secs(query.bucket_s);
    let aggregate =
        Aggregate { series: series(&device.document), metric: query.metric, from, until, bucket: bucket_width };
    let found = node.stores().telemetry.aggregate(&aggregate, query.limit).await?;
    Ok(Json(All { items: found.iter().map(bucket).collect() }))
}
