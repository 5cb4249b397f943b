//! A name that one process has at a time.

use std::time::Duration;

use deadpool_postgres::{Client, ClientWrapper};
use iot_core::{id::NodeId, store::StoreError};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{Postgres, fault::Fault};

/// How often a name that another connection has is asked for: that of a process that has ended may need a moment.
const CLAIM_TRIES: usize = 20;
const CLAIM_AGAIN: Duration = Duration::from_millis(250);
/// How often the connection that holds the name is looked at.
const PROBE_EVERY: Duration = Duration::from_secs(2);
const PROBE_WITHIN: Duration = Duration::from_secs(10);

/// The server ends a connection whose other end is silent for some 25 s, so that the machine of a process may fail.
const SETTINGS: &str = "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3";
const CLAIM: &str = "SELECT pg_try_advisory_lock(hashtextextended($1, 0))";
const WHO: &str = "SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()";
const END: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND backend_start::text = $2";

/// Why a name was not given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// Another process has it.
    #[error("another process is {node} in this database")]
    Taken {
        /// The name.
        node: NodeId,
    },
    /// The database did not answer as it should.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// This process has the name of a node, and no other has it at the same time. It ends when this is dropped, or the process ends.
///
/// The name is an advisory lock of a connection. While that connection is being made anew, after a restart of the database
/// say, another process may get the name first: then [`lost`](Self::lost) resolves, and this one has to end.
#[derive(Debug)]
pub struct Claim {
    lost: watch::Receiver<bool>,
    keeper: JoinHandle<()>,
}

impl Claim {
    /// Resolves when another process has the name, and never before.
    pub async fn lost(&self) {
        let mut lost = self.lost.clone();
        if lost.wait_for(|lost| *lost).await.is_err() {
            // The store was closed, and nothing of this process writes any more.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Postgres {
    /// Makes this process the only one that is `node` in this schema, for as long as the answer is kept. A process that was
    /// killed has lost its name at once, one whose machine failed after half a minute. Needs a connection beside those of the pool.
    pub async fn claim(&self, node: &NodeId) -> Result<Claim, ClaimError> {
        let name = format!("iot-store {} {node}", self.inner.schema);
        for _ in 0..CLAIM_TRIES {
            if let Some(held) = self.hold(&name, None).await.map_err(StoreError::from)? {
                let (tell, lost) = watch::channel(false);
                let keeper = tokio::spawn(keep(self.clone(), name, held, tell));
                return Ok(Claim { lost, keeper });
            }
            sleep(CLAIM_AGAIN).await;
        }
        Err(ClaimError::Taken { node: node.clone() })
    }

    /// Nothing if another connection has the name. Ends `former` first: that one may not know yet that it was cut.
    async fn hold(&self, name: &str, former: Option<&Backend>) -> Result<Option<Held>, Fault> {
        let client = Client::take(self.inner.pool.get().await?);
        if let Some(Backend { pid, started }) = former {
            client.query(END, &[pid, started]).await?;
        }
        client.batch_execute(SETTINGS).await?;
        if !client.query_one(CLAIM, &[&name]).await?.try_get::<_, bool>(0)? {
            return Ok(None);
        }
        let row = client.query_one(WHO, &[]).await?;
        Ok(Some(Held { backend: Backend { pid: row.try_get(0)?, started: row.try_get(1)? }, client }))
    }
}

/// The connection that has the name.
struct Held {
    client: ClientWrapper,
    backend: Backend,
}

/// The server's process of a connection; numbers are used again.
struct Backend {
    pid: i32,
    started: String,
}

async fn keep(store: Postgres, name: String, mut held: Held, lost: watch::Sender<bool>) {
    loop {
        sleep(PROBE_EVERY).await;
        if let Ok(Ok(())) = timeout(PROBE_WITHIN, held.client.batch_execute("")).await {
            continue;
        }
        match regain(&store, &name, &held.backend).await {
            Some(Ok(again)) => held = again,
            Some(Err(())) => {
                lost.send_replace(true);
                return;
            }
            None => return,
        }
    }
}

/// Waits for the database for as long as it takes. An error if another process has the name, nothing if the store is closed.
async fn regain(store: &Postgres, name: &str, former: &Backend) -> Option<Result<Held, ()>> {
    let mut taken = 0;
    while taken < CLAIM_TRIES {
        match store.hold(name, Some(former)).await {
            Ok(Some(held)) => return Some(Ok(held)),
            Ok(None) => taken += 1,
            Err(Fault::Closed) => return None,
            Err(_) => taken = 0,
        }
        sleep(CLAIM_AGAIN).await;
    }
    Some(Err(()))
}
