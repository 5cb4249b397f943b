//! One PostgreSQL database for several processes: for deployments that outgrow one machine.
//!
//! Version 15 or later, no extensions, so that managed servers do. All tables are in one schema, `iot` by default, which is
//! made and brought to the present layout when it is opened.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use iot_core::store::Stores;
//! use iot_store::{StoreLimits, postgres::{Postgres, PostgresSettings}};
//!
//! let settings = PostgresSettings::new("postgresql://iot@db.example/iot");
//! let postgres = Postgres::open(&settings, StoreLimits::default()).await?;
//! let stores = Stores::new(postgres.clone());
//! # drop(stores);
//! postgres.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! # How it keeps the contracts
//!
//! Each process has three lanes that write (records, sessions, telemetry), each with a connection of its own. What waits for
//! a lane is carried out in one transaction of two round trips: the first locks and reads what the group needs, the second
//! writes what was decided and commits. All callers are answered after the commit.
//!
//! - **Records**: every group first locks the row of the revision, and holds it until the commit is visible. So revisions
//!   grow in the order of the commits, and no reader of the changes sees one before an earlier one, in whichever process
//!   it was made. Sequences of PostgreSQL would not do: they do not wait for commits.
//! - **Sessions**: the row of a session is locked before its epoch is read, in each write. The counter of epochs is locked
//!   before those rows.
//! - **Telemetry**: sequences are counted in the row of their node, which is locked first. An event is a row until it has been
//!   there for one to two hours; then [`maintain`](iot_core::store::TelemetryStore::maintain), of one process at a time, seals
//!   it into a chunk of the same [format](crate::chunk) as everywhere, in steps of one transaction each. The chunks of a partition are in a
//!   table `chunk_<number>`, which is dropped when the partition is over. A page of a range and an aggregate are read at one
//!   moment (repeatable read).
//!
//! Rows are locked in one order, so that deadlocks are not expected; a group that meets one, or a serialization failure, is
//! tried up to ten times. A connection that is lost during a commit is [`StoreError::Unavailable`]: it may have happened.
//! Afterwards connections are made anew by themselves.
//!
//! # For operators
//!
//! - **Durability**: sessions of this backend have `synchronous_commit = on` (or `remote_apply`, if that is the server's
//!   setting), whatever the server's setting is; a server with `fsync = off` is refused. With synchronous standbys a commit is
//!   acknowledged when they have it.
//! - **TLS**: `Postgres::open_with_tls` (feature `postgres-tls`); without it, a URL with `sslmode=require` is refused.
//! - **Failover**: name several hosts in the URL; only one that accepts writes is used. A standby that is promoted without
//!   having all commits goes back in time, which breaks the promises of sessions: use synchronous standbys.
//! - **Times**: `statement_timeout` is 30 s, `lock_timeout` 20 s, and `idle_in_transaction_session_timeout` 5 s, which ends the
//!   transaction of a process that was frozen while it held locks.
//! - **Connections**: each process has at most [`PostgresSettings::connections_max`]; the sum must stay below the server's
//!   `max_connections`. A pooler between must keep a session's settings and prepared statements (PgBouncer: `pool_mode =
//!   session`).
//! - **Looking in**: `iot.document` shows records with their bodies as `jsonb`, for example
//!   `SELECT body->>'name' FROM iot.document WHERE kind = 'device'`. The table `iot.record` holds bodies as the texts that they
//!   came as: `jsonb` would change the order of members and the form of numbers, and refuses `\u0000`. Where a body is not
//!   JSON or has that escape, the view has NULL. U+0000 itself is kept as U+0001 U+0001, and U+0001 as U+0001 U+0002.
//! - **Vacuum**: rows of `queue`, `message` and `counter` change often; the default autovacuum is right, `off` is not.
//! - **Restoring**: stop all processes, restore, and call [`Postgres::raise_session_epochs`] before they start again.
//! - **Limits**: a key with its kind, index and value has at most some 2,700 bytes, and so has a topic with its tenant.
//!
//! [`StoreError::Unavailable`]: iot_core::store::StoreError::Unavailable

mod claim;
mod fault;
mod lane;
mod meta;
mod migrate;
mod pipeline;
mod pool;
mod restored;
mod session;
mod settings;
mod telemetry;
mod text;
#[cfg(feature = "postgres-tls")]
mod tls;

use std::{fmt, sync::Arc};

use deadpool_postgres::Pool;
use tokio_postgres::{
    Config, NoTls, Socket,
    tls::{MakeTlsConnect, TlsConnect},
};

pub use self::{
    claim::{Claim, ClaimError},
    settings::PostgresSettings,
};
use self::{fault::Fault, lane::Lane, meta::Records, session::Sessions, telemetry::Telemetry};
use crate::StoreLimits;

/// The fewest connections: one for each lane, and one that reads.
const CONNECTIONS_MIN: usize = 4;

/// The stores of one schema. Cheap to clone.
#[derive(Clone)]
pub struct Postgres {
    inner: Arc<Inner>,
}

struct Inner {
    limits: StoreLimits,
    schema: String,
    pool: Pool,
    records: Lane<Records>,
    sessions: Lane<Sessions>,
    telemetry: Lane<Telemetry>,
}

/// Why a database was not opened. Each text says what to look at; nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A setting is wrong.
    #[error("the setting {name} is wrong: {what}")]
    Setting {
        /// Which.
        name: &'static str,
        /// Why.
        what: String,
    },
    /// The server cannot be reached, refuses the connection, or fails.
    #[error("postgresql cannot be used")]
    Unavailable {
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server cannot keep what the contracts promise.
    #[error("postgresql: {what}")]
    Unsuitable {
        /// What is to be changed there.
        what: String,
    },
    /// A later version of this program has changed the layout.
    #[error("the schema was written by a newer version (layout {found}, this one knows {known})")]
    Newer {
        /// Its layout.
        found: usize,
        /// The newest layout of this version.
        known: usize,
    },
    /// It is not at the layout of this version, and was not to be brought there.
    #[error("the schema has an older layout ({found}, this one knows {known}), or none (0)")]
    Older {
        /// Its layout.
        found: usize,
        /// The newest layout of this version.
        known: usize,
    },
    /// The layout was made by steps that differ from those of this version.
    #[error("the schema was made by another step {number} than this version has")]
    Changed {
        /// The first step that differs.
        number: usize,
    },
    /// Not one of ours, or broken.
    #[error("the schema is damaged or not ours: {what}")]
    Damaged {
        /// What was found.
        what: String,
    },
}

impl From<Fault> for OpenError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Refused(what) | Fault::Damaged(what) => Self::Damaged { what },
            Fault::Again(source) | Fault::Lost(source) | Fault::Unavailable(source) | Fault::Full(source) => {
                Self::Unavailable { source: Box::new(source) }
            }
            Fault::Closed => Self::Unavailable { source: "closed".into() },
        }
    }
}

impl Postgres {
    /// Opens a database without TLS: for a socket of this machine, or a network that is trusted. Makes the schema and brings
    /// it to the present layout if need be. Needs a tokio runtime, here and later.
    pub async fn open(settings: &PostgresSettings, limits: StoreLimits) -> Result<Self, OpenError> {
        Self::open_by(settings, settings.parsed()?, limits, NoTls).await
    }

    /// Opens a database with TLS, whatever `sslmode` the URL has: a server without it is refused, and so is one whose
    /// certificate the configuration does not trust for the host's name. Passwords are bound to the certificate where the
    /// server can (`channel_binding=require` in the URL insists). The configuration's ALPN is replaced by the protocol's own.
    #[cfg(feature = "postgres-tls")]
    pub async fn open_with_tls(
        settings: &PostgresSettings,
        limits: StoreLimits,
        config: rustls::ClientConfig,
    ) -> Result<Self, OpenError> {
        let mut parsed = settings.parsed()?;
        parsed.ssl_mode(tokio_postgres::config::SslMode::Require);
        Self::open_by(settings, parsed, limits, tls::Tls::new(config)).await
    }

    async fn open_by<T>(
        settings: &PostgresSettings,
        config: Config,
        limits: StoreLimits,
        tls: T,
    ) -> Result<Self, OpenError>
    where
        T: MakeTlsConnect<Socket> + Clone + Sync + Send + 'static,
        T::Stream: Sync + Send,
        T::TlsConnect: Sync + Send,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        let schema = settings.schema.clone();
        let pool = pool::pool(config, tls, &schema, settings.connections_max.max(CONNECTIONS_MIN))?;
        let mut client = pool.get().await.map_err(Fault::from)?;
        migrate::check_server(&client).await?;
        migrate::migrate(&mut client, &schema, migrate::ALL, settings.upgrade).await?;
        drop(client);
        let inner = Inner {
            limits,
            schema,
            records: Lane::start(pool.clone(), Records::new(limits)),
            sessions: Lane::start(pool.clone(), Sessions::new(limits)),
            telemetry: Lane::start(pool.clone(), Telemetry::default()),
            pool,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The orderly end: finishes writes that were begun and closes the connections. All later calls, of all clones, fail
    /// with [`StoreError::Closed`](iot_core::store::StoreError::Closed). A second call does nothing.
    pub async fn close(&self) {
        self.inner.records.end().await;
        self.inner.sessions.end().await;
        self.inner.telemetry.end().await;
        self.inner.pool.close();
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").field("schema", &self.inner.schema).finish_non_exhaustive()
    }
}

/// A count as PostgreSQL orders it; beyond what it can hold, the greatest.
fn ordered(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
