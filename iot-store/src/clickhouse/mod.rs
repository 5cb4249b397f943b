//! Telemetry in a [ClickHouse](https://clickhouse.com/docs) server: for deployments whose analysts ask it questions that span
//! the fleet. Records and sessions are another backend's.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use iot_core::store::Stores;
//! use iot_store::{StoreLimits, clickhouse::{ClickHouse, ClickHouseSettings}, memory::Memory};
//!
//! let settings = ClickHouseSettings::new("http://clickhouse.example:8123", "iot");
//! let telemetry = Arc::new(ClickHouse::open(&settings).await?);
//! let stores = Stores { telemetry, ..Stores::new(Memory::new(StoreLimits::default())) };
//! # drop(stores);
//! # Ok(())
//! # }
//! ```
//!
//! # Layout
//!
//! The table `event` has a row per report, in the order of series and device's time; its values are the arrays `metrics`, `kinds`
//! (0 boolean, 1 whole number, 2 other number, 3 text, 4 JSON), `numbers` (of kinds 0 to 2, for arithmetic), `exacts` (whole
//! numbers) and `texts` (kinds 3 and 4). All times are microseconds since 1970. For example:
//!
//! ```sql
//! SELECT device, avg(number) FROM event ARRAY JOIN metrics AS metric, numbers AS number
//! WHERE product = 'lamp' AND metric = 'temperature' AND at >= toUnixTimestamp(today()) * 1000000 GROUP BY device
//! ```
//!
//! `newest` has the latest value of each metric, kept up to date by a materialized view.
//!
//! # How it keeps the contract
//!
//! - **One at a time**: what waits to be appended is written in one `INSERT` of one block into one partition, which ClickHouse
//!   does wholly or not at all, with `fsync_after_insert`. ClickHouse wants few and large inserts: [`linger`] says how long one
//!   waits for more.
//! - **Sequences** of a node are counted by the process that appends for it: each node is one process, as everywhere.
//! - **Repeats** are looked for in the table, among all reports that are kept. Of one report that two nodes append in the same
//!   moment both may be stored; that takes a device with two connections.
//! - **Erasing** a series is a mutation, during which nothing is appended.
//! - **Retention**: there are no rollups. A report is forgotten when the longest time of its metrics is over, by the policies of
//!   that day; a mutation deletes it, once a day.
//! - A server must be of version 23.8 or later. Replicated tables, clusters and `Distributed` are not used.
//!
//! # What was run
//!
//! The exam of the conformance suite, against the engine of ClickHouse 26.9 in the form of `chdb`, behind an
//! HTTP front of the tests' own that speaks as much of the interface as this needs; and opening, which is refused, against the server that
//! Debian 12 has (18.16). **Not run against a current ClickHouse server**: none could be had on the machines where this was made.
//!
//! [`linger`]: ClickHouseSettings::linger

mod maintain;
mod read;
mod row;
mod write;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use clickhouse::Client;
use iot_core::{
    event::{Event, Sequence, StoredEvent},
    id::{ConsumerId, NodeId},
    problem::Cursor,
    store::{
        Aggregate, Bucket, LatestValue, Maintained, Page, Policies, Range, Series, StoreError, TelemetryStore, Usage,
    },
    time::Timestamp,
};
use tokio::{
    sync::{Mutex, mpsc},
    time::timeout,
};

use self::write::Job;
use crate::rules::checksum;

const BACKEND: &str = "clickhouse";
/// The statements that make the tables, separated by `;`.
const LAYOUT: &str = include_str!("layout.sql");
/// The oldest server: with durable inserts, and still cared for when this was written.
const VERSION_MIN: (u32, u32) = (23, 8);
/// How long a server has to answer; then a write may or may not have happened.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// How long it has to delete, for which it rewrites what lies beside that.
const DELETED_WITHIN: Duration = Duration::from_secs(3_600);
/// How many calls may wait for the writer; more wait for their place.
const WAITING_MAX: usize = 1_024;

/// Which server and database.
#[derive(Clone)]
#[non_exhaustive]
pub struct ClickHouseSettings {
    /// The HTTP interface; `https` needs the feature `clickhouse-tls`.
    pub url: String,
    /// The database, which must be there: it holds nothing but this.
    pub database: String,
    /// Who.
    pub user: String,
    /// With which password.
    pub password: String,
    /// How long what is to be appended waits for more of it.
    pub linger: Duration,
}

impl ClickHouseSettings {
    /// User `default` without a password; appends wait for 20 ms.
    pub fn new(url: impl Into<String>, database: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            database: database.into(),
            user: "default".to_owned(),
            password: String::new(),
            linger: Duration::from_millis(20),
        }
    }
}

/// Without the password.
impl fmt::Debug for ClickHouseSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, database, user, linger, .. } = self;
        f.debug_struct("ClickHouseSettings")
            .field("url", url)
            .field("database", database)
            .field("user", user)
            .field("linger", linger)
            .finish_non_exhaustive()
    }
}

/// Why a database was not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The server cannot be reached, refuses, or fails.
    #[error("clickhouse cannot be used")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The server is too old.
    #[error("clickhouse: version {found} is older than {}.{}", VERSION_MIN.0, VERSION_MIN.1)]
    TooOld {
        /// What it says of itself.
        found: String,
    },
    /// The tables are not those of this version.
    #[error("the database was made by another version, or is not ours")]
    Changed,
}

/// The telemetry of one database. Cheap to clone.
#[derive(Clone)]
pub struct ClickHouse {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    writer: mpsc::Sender<Job>,
    /// Of two calls of [`TelemetryStore::maintain`] at a time one waits.
    maintenance: Mutex<Option<maintain::Done>>,
    /// The receipt of the oldest report that was appended since, in microseconds.
    oldest: Arc<AtomicI64>,
}

impl ClickHouse {
    /// Opens a database and makes its tables if they are not there. Needs a tokio runtime, here and later.
    pub async fn open(settings: &ClickHouseSettings) -> Result<Self, OpenError> {
        let client = match timeout(ANSWER_WITHIN, prepare(settings)).await {
            Ok(prepared) => prepared?,
            Err(late) => return Err(OpenError::Unavailable(Box::new(late))),
        };
        let (writer, jobs) = mpsc::channel(WAITING_MAX);
        let oldest = Arc::new(AtomicI64::new(i64::MAX));
        tokio::spawn(write::Writer::new(client.clone(), oldest.clone()).run(jobs, settings.linger));
        Ok(Self { inner: Arc::new(Inner { client, writer, maintenance: Mutex::default(), oldest }) })
    }
}

/// Looks at the server, and makes the tables if they are not there.
async fn prepare(settings: &ClickHouseSettings) -> Result<Client, OpenError> {
    // The rows are checked by the layout's checksum, once, in place of by each answer's header.
    let client = Client::default()
        .with_url(&settings.url)
        .with_database(&settings.database)
        .with_user(&settings.user)
        .with_password(&settings.password)
        .with_setting("async_insert", "0")
        .with_validation(false);
    let failed = |error: clickhouse::error::Error| OpenError::Unavailable(Box::new(error));
    let found: String = client.query("SELECT version()").fetch_one().await.map_err(failed)?;
    if !is_new_enough(&found) {
        return Err(OpenError::TooOld { found });
    }
    for statement in LAYOUT.split(';').map(str::trim).filter(|statement| !statement.is_empty()) {
        client.query(statement).execute().await.map_err(failed)?;
    }
    let wanted = checksum(LAYOUT);
    let known: Vec<String> = client.query("SELECT checksum FROM layout").fetch_all().await.map_err(failed)?;
    if known.is_empty() {
        client.query("INSERT INTO layout VALUES (?)").bind(&wanted).execute().await.map_err(failed)?;
    } else if known.iter().any(|known| *known != wanted) {
        return Err(OpenError::Changed);
    }
    Ok(client)
}

impl fmt::Debug for ClickHouse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClickHouse").field("database", &self.inner.client.database()).finish_non_exhaustive()
    }
}

fn is_new_enough(version: &str) -> bool {
    let mut numbers = version.split('.').map_while(|part| part.parse::<u32>().ok());
    numbers.next().zip(numbers.next()).is_some_and(|version| version >= VERSION_MIN)
}

/// A server that says nothing holds up nobody for ever.
async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let late = |late| Err(StoreError::Unavailable { backend: BACKEND, source: Box::new(late) });
    timeout(limit, call).await.unwrap_or_else(late)
}

/// What was asked for may have happened.
fn unavailable(error: clickhouse::error::Error) -> StoreError {
    use clickhouse::error::Error;
    match error {
        Error::NotEnoughData | Error::SchemaMismatch(_) | Error::InvalidUtf8Encoding(_) => damaged(error.to_string()),
        error => StoreError::Unavailable { backend: BACKEND, source: Box::new(error) },
    }
}

fn damaged(what: String) -> StoreError {
    StoreError::Damaged { backend: BACKEND, what }
}

#[async_trait]
impl TelemetryStore for ClickHouse {
    async fn append(&self, node: &NodeId, events: &[Event]) -> Result<Vec<Option<Sequence>>, StoreError> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        self.write(|answer| Job::Append { node: node.clone(), events: events.to_vec(), answer }).await
    }

    async fn after(&self, node: &NodeId, after: Sequence, limit: u32) -> Result<Vec<StoredEvent>, StoreError> {
        within(ANSWER_WITHIN, read::after(&self.inner.client, node, after, limit)).await
    }

    async fn latest(&self, series: &Series) -> Result<Vec<LatestValue>, StoreError> {
        within(ANSWER_WITHIN, read::latest(&self.inner.client, series)).await
    }

    async fn range(
        &self,
        range: &Range,
        newest_first: bool,
        cursor: Option<&Cursor>,
        limit: u32,
    ) -> Result<Page<StoredEvent>, StoreError> {
        within(ANSWER_WITHIN, read::range(&self.inner.client, range, newest_first, cursor, limit)).await
    }

    async fn aggregate(&self, aggregate: &Aggregate, limit: u32) -> Result<Vec<Bucket>, StoreError> {
        within(ANSWER_WITHIN, read::aggregate(&self.inner.client, aggregate, limit)).await
    }

    async fn maintain(&self, now: Timestamp, policies: &Policies) -> Result<Maintained, StoreError> {
        let mut done = self.inner.maintenance.lock().await;
        let oldest = self.inner.oldest.swap(i64::MAX, Ordering::AcqRel);
        let maintain = maintain::maintain(&self.inner.client, &mut done, oldest, now, policies);
        let outcome = within(DELETED_WITHIN, maintain).await;
        if outcome.is_err() {
            self.inner.oldest.fetch_min(oldest, Ordering::AcqRel);
        }
        outcome
    }

    async fn erase(&self, series: &Series) -> Result<u64, StoreError> {
        self.write(|answer| Job::Erase { series: series.clone(), answer }).await
    }

    async fn usage(&self) -> Result<Usage, StoreError> {
        within(ANSWER_WITHIN, read::usage(&self.inner.client)).await
    }

    async fn checkpoint(&self, node: &NodeId, consumer: &ConsumerId) -> Result<Sequence, StoreError> {
        self.write(|answer| Job::Checkpoint { node: node.clone(), consumer: consumer.clone(), to: None, answer }).await
    }

    async fn advance(&self, node: &NodeId, consumer: &ConsumerId, to: Sequence) -> Result<(), StoreError> {
        let (node, consumer) = (node.clone(), consumer.clone());
        self.write(|answer| Job::Checkpoint { node, consumer, to: Some(to), answer }).await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        for new in ["23.8.1.1", "23.10.2.3", "26.9.2.1", "24.1"] {
            assert!(is_new_enough(new), "{new}");
        }
        for old in ["18.16.1", "23.7.9.1", "9.99", "", "x.y"] {
            assert!(!is_new_enough(old), "{old}");
        }
    }
}
