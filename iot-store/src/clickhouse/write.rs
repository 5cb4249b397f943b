//! The one task that writes: what waits for it is written together.

use std::{
    collections::{HashMap, HashSet},
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use clickhouse::{Client, Row};
use iot_core::{
    event::{Event, Sequence},
    id::{ConsumerId, NodeId},
    store::{Series, StoreError},
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};

use super::{ANSWER_WITHIN, BACKEND, ClickHouse, DELETED_WITHIN, row::Stored, unavailable, within};

/// So many events, and one call more, are written at once: far below the rows of a block.
const EVENTS_MAX: usize = 20_000;
/// About how many characters a list in a statement has: a server takes 256 KiB.
const LIST_BYTES_MAX: usize = 100_000;

/// The newest values of what a node has appended last, again: a failure may have come between an event and them. Nothing is
/// appended after a failure before this, so that it is in the last insert.
const FOLD: &str = "INSERT INTO newest SELECT tenant, device, epoch, metric,
        argMaxState(tuple(at, kind, number, exact, text), tuple(at, sequence, place)) AS newest
    FROM event ARRAY JOIN metrics AS metric, kinds AS kind, numbers AS number, exacts AS exact, texts AS text,
        arrayEnumerate(metrics) AS place
    WHERE report = 0 AND node = ? AND appended >= (SELECT max(appended) FROM event WHERE node = ?) - INTERVAL 1 MINUTE
    GROUP BY tenant, device, epoch, metric";
const HIGHEST: &str = "SELECT greatest((SELECT max(sequence) FROM event WHERE node = ?),
    (SELECT max(sequence) FROM awaited WHERE node = ?), (SELECT max(sequence) FROM mark WHERE node = ?))";
const MARK_ALL: &str = "INSERT INTO mark SELECT node, max(sequence) FROM event GROUP BY node";

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

pub(super) enum Job {
    /// See [`TelemetryStore::append`](iot_core::store::TelemetryStore::append).
    Append { node: NodeId, events: Vec<Event>, answer: Answer<Vec<Option<Sequence>>> },
    /// See [`TelemetryStore::erase`](iot_core::store::TelemetryStore::erase).
    Erase { series: Series, answer: Answer<u64> },
    /// Reads where a consumer is, and moves it on if `to` is beyond.
    Checkpoint { node: NodeId, consumer: ConsumerId, to: Option<Sequence>, answer: Answer<Sequence> },
}

impl ClickHouse {
    pub(super) async fn write<T>(&self, job: impl FnOnce(Answer<T>) -> Job) -> Result<T, StoreError> {
        let closed = || StoreError::Closed { backend: BACKEND };
        let (answer, answered) = oneshot::channel();
        self.inner.writer.send(job(answer)).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }
}

/// Remembers which sequences were given, before events are removed.
pub(super) async fn mark(client: &Client) -> Result<(), StoreError> {
    client.query(MARK_ALL).execute().await.map_err(unavailable)
}

#[derive(Row, Serialize, Deserialize)]
struct Checkpoint {
    node: String,
    consumer: String,
    sequence: u64,
}

/// Where a count of a device is: tenant, device, epoch, count.
type Counted = (String, String, u64, u64);

/// A call that waits.
struct Append {
    node: NodeId,
    events: Vec<Event>,
    answer: Answer<Vec<Option<Sequence>>>,
}

pub(super) struct Writer {
    client: Client,
    /// The last that was given.
    sequences: HashMap<NodeId, u64>,
    checkpoints: HashMap<(NodeId, ConsumerId), Sequence>,
    /// The nodes of whose events the newest values lack none.
    complete: HashSet<NodeId>,
    /// The receipt of the oldest report that was appended since somebody looked.
    oldest: Arc<AtomicI64>,
}

impl Writer {
    pub(super) fn new(client: Client, oldest: Arc<AtomicI64>) -> Self {
        Self { client, sequences: HashMap::new(), checkpoints: HashMap::new(), complete: HashSet::new(), oldest }
    }

    pub(super) async fn run(mut self, mut jobs: mpsc::Receiver<Job>, linger: Duration) {
        while let Some(first) = jobs.recv().await {
            let (mut appends, mut other, mut events) = (Vec::new(), None, 0);
            let until = Instant::now() + linger;
            let mut next = Some(first);
            while let Some(job) = next.take() {
                match job {
                    Job::Append { node, events: these, answer } => {
                        events += these.len();
                        appends.push(Append { node, events: these, answer });
                    }
                    // It is not kept waiting, and overtakes nothing.
                    job => other = Some(job),
                }
                if events < EVENTS_MAX && other.is_none() {
                    next = match jobs.try_recv() {
                        Ok(job) => Some(job),
                        Err(_) => timeout_at(until, jobs.recv()).await.ok().flatten(),
                    };
                }
            }
            if !appends.is_empty() {
                self.append(appends).await;
            }
            match other {
                Some(Job::Erase { series, answer }) => {
                    drop(answer.send(within(DELETED_WITHIN, self.erase(&series)).await));
                }
                Some(Job::Checkpoint { node, consumer, to, answer }) => {
                    let reached = within(ANSWER_WITHIN, self.checkpoint(node, consumer, to)).await;
                    drop(answer.send(reached));
                }
                Some(Job::Append { .. }) | None => {}
            }
        }
    }

    async fn append(&mut self, appends: Vec<Append>) {
        let outcome = within(ANSWER_WITHIN, self.append_all(&appends)).await;
        let (sequences, failed) = match outcome {
            Ok(sequences) => (sequences, None),
            Err(error) => (Vec::new(), Some(Arc::new(error))),
        };
        let mut sequences = sequences.into_iter();
        for append in appends {
            let answer = match &failed {
                Some(error) => Err(StoreError::Unavailable { backend: BACKEND, source: Box::new(error.clone()) }),
                None => Ok(sequences.next().unwrap_or_default()),
            };
            let _gone = append.answer.send(answer);
        }
    }

    async fn append_all(&mut self, appends: &[Append]) -> Result<Vec<Vec<Option<Sequence>>>, StoreError> {
        for append in appends {
            self.complete(&append.node).await?;
        }
        let mut known = self.known(appends).await?;
        let (mut rows, mut answers) = (Vec::new(), Vec::new());
        for Append { node, events, .. } in appends {
            let mut last = self.last(node).await?;
            let mut sequences = Vec::new();
            for event in events {
                let is_repeat = counted(event).is_some_and(|counted| !known.insert(counted));
                sequences.push((!is_repeat).then(|| {
                    last += 1;
                    rows.push(Stored::new(node, Sequence(last), event));
                    Sequence(last)
                }));
            }
            self.sequences.insert(node.clone(), last);
            answers.push(sequences);
        }
        // They are complete again when all has gone well; a call that is late is dropped here.
        let nodes = std::mem::take(&mut self.complete);
        self.insert(&rows).await?;
        self.complete = nodes;
        Ok(answers)
    }

    async fn insert(&self, rows: &[Stored]) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        // It may be there even if this fails.
        self.oldest.fetch_min(rows.iter().map(Stored::received).min().unwrap_or(i64::MAX), Ordering::AcqRel);
        let mut insert = self.client.insert::<Stored>("event").await.map_err(unavailable)?;
        for row in rows {
            insert.write(row).await.map_err(unavailable)?;
        }
        insert.end().await.map_err(unavailable)
    }

    async fn complete(&mut self, node: &NodeId) -> Result<(), StoreError> {
        if !self.complete.contains(node) {
            let fold = self.client.query(FOLD).bind(node.as_str()).bind(node.as_str());
            fold.execute().await.map_err(unavailable)?;
            self.complete.insert(node.clone());
        }
        Ok(())
    }

    /// The last sequence that a node has given.
    async fn last(&mut self, node: &NodeId) -> Result<u64, StoreError> {
        if let Some(last) = self.sequences.get(node) {
            return Ok(*last);
        }
        let query = self.client.query(HIGHEST).bind(node.as_str()).bind(node.as_str()).bind(node.as_str());
        let last = query.fetch_one().await.map_err(unavailable)?;
        self.sequences.insert(node.clone(), last);
        Ok(last)
    }

    /// Which of the devices' counts there are already.
    async fn known(&self, appends: &[Append]) -> Result<HashSet<Counted>, StoreError> {
        let counts = appends.iter().flat_map(|append| &append.events).filter_map(counted);
        let (mut known, mut list) = (HashSet::new(), String::new());
        for (tenant, device, epoch, count) in counts {
            // Identifiers hold nothing that a literal would have to escape.
            let _fits =
                write!(list, "{}('{tenant}','{device}',{epoch},{count})", if list.is_empty() { "" } else { "," });
            if list.len() > LIST_BYTES_MAX {
                known.extend(self.among(&std::mem::take(&mut list)).await?);
            }
        }
        if !list.is_empty() {
            known.extend(self.among(&list).await?);
        }
        Ok(known)
    }

    async fn among(&self, list: &str) -> Result<Vec<Counted>, StoreError> {
        let sql = format!(
            "SELECT tenant, device, epoch, count FROM event
            WHERE counted = 1 AND (tenant, device, epoch, count) IN ({list})"
        );
        self.client.query_raw(&sql).fetch_all().await.map_err(unavailable)
    }

    async fn erase(&mut self, series: &Series) -> Result<u64, StoreError> {
        mark(&self.client).await?;
        let of = |sql: &str| {
            let query = self.client.query(&format!("{sql} WHERE tenant = ? AND device = ? AND epoch = ?"));
            query.bind(series.tenant.as_str()).bind(series.device.as_str()).bind(series.epoch.0)
        };
        let events = of("SELECT count() FROM event").fetch_one().await.map_err(unavailable)?;
        for table in ["event", "awaited", "newest"] {
            let delete = of(&format!("ALTER TABLE {table} DELETE")).with_setting("mutations_sync", "2");
            delete.execute().await.map_err(unavailable)?;
        }
        Ok(events)
    }

    async fn checkpoint(
        &mut self,
        node: NodeId,
        consumer: ConsumerId,
        to: Option<Sequence>,
    ) -> Result<Sequence, StoreError> {
        let key = (node, consumer);
        let known = match self.checkpoints.get(&key) {
            Some(known) => Some(*known),
            None => self.stored(&key).await?,
        };
        let wanted = to.unwrap_or_default().max(known.unwrap_or_default());
        if known != Some(wanted) {
            let row =
                Checkpoint { node: key.0.as_str().to_owned(), consumer: key.1.as_str().to_owned(), sequence: wanted.0 };
            let mut insert = self.client.insert::<Checkpoint>("checkpoint").await.map_err(unavailable)?;
            insert.write(&row).await.map_err(unavailable)?;
            insert.end().await.map_err(unavailable)?;
        }
        self.checkpoints.insert(key, wanted);
        Ok(wanted)
    }

    /// Nothing if the consumer has never asked.
    async fn stored(&self, (node, consumer): &(NodeId, ConsumerId)) -> Result<Option<Sequence>, StoreError> {
        let sql = "SELECT count(), max(sequence) FROM checkpoint WHERE node = ? AND consumer = ?";
        let query = self.client.query(sql).bind(node.as_str()).bind(consumer.as_str());
        let (rows, sequence): (u64, u64) = query.fetch_one().await.map_err(unavailable)?;
        Ok((rows > 0).then_some(Sequence(sequence)))
    }
}

fn counted(event: &Event) -> Option<Counted> {
    let Event { tenant, device, epoch, device_sequence, .. } = event;
    device_sequence.map(|count| (tenant.as_str().to_owned(), device.as_str().to_owned(), epoch.0, count))
}
