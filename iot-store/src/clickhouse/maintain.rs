use std::{collections::BTreeMap, time::Duration};

use clickhouse::{Client, Row};
use iot_core::{
    id::{Metric, NodeId, ProductId, TenantId},
    store::{Form, Maintained, Policies, StoreError},
    time::Timestamp,
};
use serde::Deserialize;

use super::{damaged, row::COLUMNS, unavailable, write::mark};

const DAY_MICROS: i64 = 86_400_000_000;
/// A report is at least so old when it is forgotten.
const YOUNG: Duration = Duration::from_secs(3_600);
/// For so long a report waits for consumers that have asked and not come so far.
const AWAITED: Duration = Duration::from_secs(7 * 86_400);

const PRODUCTS: &str =
    "SELECT tenant, product, groupUniqArrayArray(metrics) AS metrics, min(received) AS oldest FROM event
    GROUP BY tenant, product";
const SLOWEST: &str = "SELECT node, min(reached) FROM (
        SELECT node, consumer, max(sequence) AS reached FROM checkpoint GROUP BY node, consumer
    ) GROUP BY node";

/// What maintenance has been done already.
#[derive(Debug)]
pub(super) struct Done {
    day: i64,
    policies: Policies,
}

#[derive(Row, Deserialize)]
struct Product {
    tenant: String,
    product: String,
    metrics: Vec<String>,
    oldest: i64,
}

/// Deletes what is over; what a consumer waits for is put aside first. `oldest` is the receipt of the oldest report that was
/// appended since. Since reports are over at the end of a day, there is nothing to do for the rest of it, unless older ones
/// came; looking for them reads a column of the whole table.
pub(super) async fn maintain(
    client: &Client,
    done: &mut Option<Done>,
    oldest: i64,
    now: Timestamp,
    policies: &Policies,
) -> Result<Maintained, StoreError> {
    let awaited = awaited(client, now).await?;
    delete(client, "awaited", &format!("NOT ({awaited})")).await?;
    let day = now.as_micros().div_euclid(DAY_MICROS);
    let is_known = done.as_ref().is_some_and(|done| done.day == day && done.policies == *policies);
    if is_known && oldest >= day.saturating_mul(DAY_MICROS) {
        return Ok(Maintained::default());
    }
    let products: Vec<Product> = client.query(PRODUCTS).fetch_all().await.map_err(unavailable)?;
    let mut over = Vec::new();
    for product in products {
        over.extend(conditions(&product, now, policies)?);
    }
    let forgotten = match over.is_empty() {
        true => 0,
        false => forget(client, &over.join(" OR "), &awaited).await?,
    };
    *done = Some(Done { day, policies: policies.clone() });
    Ok(Maintained { sealed: 0, forgotten })
}

async fn forget(client: &Client, over: &str, awaited: &str) -> Result<u64, StoreError> {
    let count = format!("SELECT count() FROM event WHERE {over}");
    let forgotten: u64 = client.query_raw(&count).fetch_one().await.map_err(unavailable)?;
    if forgotten > 0 {
        mark(client).await?;
        let keep =
            format!("INSERT INTO awaited ({COLUMNS}) SELECT {COLUMNS} FROM event WHERE ({over}) AND ({awaited})");
        client.query_raw(&keep).execute().await.map_err(unavailable)?;
        delete(client, "event", over).await?;
    }
    Ok(forgotten)
}

/// What some consumer of its node has not seen, and is not too old for that.
async fn awaited(client: &Client, now: Timestamp) -> Result<String, StoreError> {
    let slowest: Vec<(String, u64)> = client.query(SLOWEST).fetch_all().await.map_err(unavailable)?;
    let unseen: Vec<String> = slowest
        .iter()
        .filter_map(|(node, reached)| Some((NodeId::parse(node).ok()?, reached)))
        .map(|(node, reached)| format!("node = '{node}' AND sequence > {reached}"))
        .collect();
    let kept = now.minus(AWAITED).as_micros();
    Ok(match unseen.is_empty() {
        true => "0".to_owned(),
        false => format!("received >= {kept} AND ({})", unseen.join(" OR ")),
    })
}

async fn delete(client: &Client, table: &str, condition: &str) -> Result<(), StoreError> {
    let any = format!("SELECT count() FROM {table} WHERE {condition}");
    let found: u64 = client.query_raw(&any).fetch_one().await.map_err(unavailable)?;
    if found == 0 {
        return Ok(());
    }
    let delete = client.query_raw(&format!("ALTER TABLE {table} DELETE WHERE {condition}"));
    delete.with_setting("mutations_sync", "2").execute().await.map_err(unavailable)
}

/// Which reports of a product are over: for each time that some of its metrics are kept, those that have none which is kept
/// for longer.
fn conditions(product: &Product, now: Timestamp, policies: &Policies) -> Result<Vec<String>, StoreError> {
    let foreign = |_| damaged(format!("the product {:?} of {:?}", product.product, product.tenant));
    let tenant = TenantId::parse(&product.tenant).map_err(foreign)?;
    let id = ProductId::parse(&product.product).map_err(foreign)?;
    let days = |metric: Option<&Metric>| i64::from(policies.of(&tenant, &id, metric).days(Form::Raw));
    let mut kept: BTreeMap<i64, Vec<&str>> = BTreeMap::new();
    for name in &product.metrics {
        let metric = Metric::parse(name).map_err(foreign)?;
        kept.entry(days(Some(&metric))).or_default().push(name);
    }
    // Of what has no metric.
    let plain = days(None);
    kept.entry(plain).or_default();
    let of_product = format!("tenant = '{tenant}' AND product = '{id}'");
    let mut conditions = Vec::new();
    for days in kept.keys() {
        // Of a day, until so many days after its end.
        let end = now.as_micros().div_euclid(DAY_MICROS).saturating_sub(*days).saturating_mul(DAY_MICROS);
        let before = end.min(now.minus(YOUNG).as_micros());
        if product.oldest >= before {
            break;
        }
        let longer: Vec<String> =
            kept.range(days + 1..).flat_map(|(_, names)| names).map(|name| format!("'{name}'")).collect();
        let mut condition = format!("{of_product} AND received < {before}");
        if !longer.is_empty() {
            condition += &format!(" AND (report = 1 OR NOT hasAny(metrics, [{}]))", longer.join(","));
        }
        if *days < plain {
            condition += " AND report = 0 AND notEmpty(metrics)";
        }
        conditions.push(format!("({condition})"));
    }
    Ok(conditions)
}
