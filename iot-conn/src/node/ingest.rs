use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use iot_core::{
    event::{Event, Sequence, StoredEvent},
    id::NodeId,
    logic::{BoxError, EventBatch},
    store::TelemetryStore,
};
use tower::{Service, ServiceExt};

use super::{gate::Part, plane::Plane, tail::Tail};
use crate::mqtt::ReasonCode;

/// The most reports that are appended at once.
pub const INGEST_BATCH_MAX: usize = 2_048;
/// As many reports may wait before connections stop reading.
pub(crate) const INGEST_PRESSED: usize = 65_536;

/// Reports on their way to the log.
#[derive(Debug, Clone)]
pub struct IngestBatch {
    /// Into whose log.
    pub node: NodeId,
    /// In the order of arrival.
    pub events: Arc<[Event]>,
}

/// What became of one report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ingested {
    /// It is durable.
    Stored(Sequence),
    /// It was there before.
    Duplicate,
    /// A layer refused it; its device is told "quota exceeded".
    Refused,
}

/// The innermost ingest service: appends to the log of a [`TelemetryStore`]. Layers before it may refuse reports.
#[derive(Debug, Clone)]
pub struct Append {
    store: Arc<dyn TelemetryStore>,
}

impl Append {
    /// Appends to `store`.
    pub fn new(store: Arc<dyn TelemetryStore>) -> Self {
        Self { store }
    }
}

impl Service<IngestBatch> for Append {
    type Response = Vec<Ingested>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Vec<Ingested>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, batch: IngestBatch) -> Self::Future {
        let store = self.store.clone();
        Box::pin(async move {
            let sequences = store.append(&batch.node, &batch.events).await?;
            let ingested = |sequence: Option<Sequence>| sequence.map_or(Ingested::Duplicate, Ingested::Stored);
            Ok(sequences.into_iter().map(ingested).collect())
        })
    }
}

/// An ingest service as a node holds it.
pub type BoxIngest = tower::util::BoxCloneSyncService<IngestBatch, Vec<Ingested>, BoxError>;

/// One inbound message's reports, and the part of its gate.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) events: Vec<Event>,
    pub(crate) part: Part,
}

/// Appends what arrives, batch after batch; a failing store is tried again until it works, and nothing is acknowledged
/// meanwhile.
pub(crate) async fn run(node: NodeId, plane: Arc<Plane<Arrival>>, mut service: BoxIngest, tail: Arc<Tail>) {
    while let Some(arrivals) = plane.take(INGEST_BATCH_MAX).await {
        let events: Arc<[Event]> = arrivals.iter().flat_map(|arrival| arrival.events.iter().cloned()).collect();
        let batch = IngestBatch { node: node.clone(), events: events.clone() };
        let ingested = append(&mut service, batch).await;
        metrics::histogram!("iot_ingest_batch_events")
            .record(f64::from(u32::try_from(events.len()).unwrap_or(u32::MAX)));
        tail.push(EventBatch { node: node.clone(), events: stored(&events, &ingested) });
        settle(arrivals, &ingested);
    }
}

async fn append(service: &mut BoxIngest, batch: IngestBatch) -> Vec<Ingested> {
    let mut pause = Duration::from_millis(50);
    loop {
        let attempt = async { service.ready().await?.call(batch.clone()).await };
        match attempt.await {
            Ok(ingested) if ingested.len() == batch.events.len() => return ingested,
            Ok(_) => tracing::error!("an ingest layer answered for another number of reports"),
            Err(error) => tracing::error!(error = &*error, "reports cannot be stored; trying again"),
        }
        metrics::counter!("iot_ingest_failures_total").increment(1);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}

fn stored(events: &[Event], ingested: &[Ingested]) -> Arc<[StoredEvent]> {
    let keep = |(event, ingested): (&Event, &Ingested)| match ingested {
        Ingested::Stored(sequence) => Some(StoredEvent { sequence: *sequence, event: event.clone() }),
        Ingested::Duplicate | Ingested::Refused => None,
    };
    events.iter().zip(ingested).filter_map(keep).collect()
}

fn settle(arrivals: Vec<Arrival>, ingested: &[Ingested]) {
    let mut rest = ingested;
    for arrival in arrivals {
        let (own, others) = rest.split_at(arrival.events.len());
        rest = others;
        let count = |which: fn(&Ingested) -> bool| own.iter().filter(|i| which(i)).count() as u64;
        metrics::counter!("iot_reports_stored_total").increment(count(|i| matches!(i, Ingested::Stored(_))));
        metrics::counter!("iot_reports_repeated_total").increment(count(|i| matches!(i, Ingested::Duplicate)));
        let refused = own.contains(&Ingested::Refused);
        arrival.part.finish(if refused { ReasonCode::QuotaExceeded } else { ReasonCode::Success });
    }
}
