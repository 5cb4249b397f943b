//! Connections: how they are made, what each session is told, and reading.

use std::time::Duration;

use deadpool_postgres::{Client, Hook, HookError, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use tokio_postgres::{
    Config, Row, Socket,
    config::TargetSessionAttrs,
    tls::{MakeTlsConnect, TlsConnect},
    types::ToSql,
};

use super::fault::Fault;

/// How long a caller waits for a connection while all are in use; then it is told that the store is unavailable.
const POOL_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long it may take to connect.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// How long what was sent may remain without an acknowledgement before the connection counts as cut.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// How often a read is tried when its connection is lost: one that was idle while the server restarted is found out then.
pub(super) const READS_MAX: usize = 3;

/// What each session is told: durability as strong as the contracts, one isolation, and times after which the server
/// ends what hangs. The last of them frees the locks of a process that was stopped in the middle of a transaction. Every
/// statement here has an index; its plan, which is made once, may be made while its table is nearly empty and is used when it is
/// not, so that it must not be one that reads the whole table.
const SETTINGS: &str = "
    SET enable_seqscan = off;
    SET default_transaction_isolation = 'read committed';
    SET default_transaction_read_only = off;
    SET statement_timeout = '30s';
    SET lock_timeout = '20s';
    SET idle_in_transaction_session_timeout = '5s';
    SELECT set_config('synchronous_commit', 'on', false)
        WHERE current_setting('synchronous_commit') NOT IN ('on', 'remote_apply');";

pub(super) fn pool<T>(mut config: Config, tls: T, schema: &str, connections_max: usize) -> Result<Pool, Fault>
where
    T: MakeTlsConnect<Socket> + Clone + Sync + Send + 'static,
    T::Stream: Sync + Send,
    T::TlsConnect: Sync + Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    config.connect_timeout(CONNECT_WITHIN).tcp_user_timeout(SILENCE_MAX).keepalives_idle(SILENCE_MAX);
    if config.get_application_name().is_none() {
        config.application_name("iot-store");
    }
    // Made of letters, digits and underscores; in quotes it may also be a word of SQL.
    let settings = format!("SET search_path = \"{schema}\"; {SETTINGS}");
    let tell = Hook::async_fn(move |client: &mut deadpool_postgres::ClientWrapper, _| {
        let settings = settings.clone();
        Box::pin(async move { client.batch_execute(&settings).await.map_err(HookError::Backend) })
    });
    Pool::builder(Manager::from_config(config, tls, ManagerConfig { recycling_method: RecyclingMethod::Fast }))
        .max_size(connections_max)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(POOL_WAIT_MAX))
        .create_timeout(Some(CONNECT_WITHIN))
        .recycle_timeout(Some(CONNECT_WITHIN))
        .post_create(tell)
        .build()
        .map_err(Fault::unavailable)
}

/// Evaluates what reads again if the connection was lost, or another transaction was in the way.
macro_rules! reread {
    ($read:expr) => {{
        let mut attempt = 1;
        loop {
            match $read {
                Err($crate::postgres::fault::Fault::Lost(_) | $crate::postgres::fault::Fault::Again(_))
                    if attempt < $crate::postgres::pool::READS_MAX =>
                {
                    attempt += 1;
                }
                outcome => break outcome,
            }
        }
    }};
}
pub(super) use reread;

/// The rows of a statement that may be carried out twice.
pub(super) async fn rows(
    pool: &Pool,
    sql: &'static str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, Fault> {
    reread!(rows_once(pool, sql, parameters).await)
}

async fn rows_once(pool: &Pool, sql: &'static str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Fault> {
    let client = pool.get().await?;
    let outcome = query(&client, sql, parameters).await;
    if outcome.is_err() {
        // Perhaps only this connection is the matter: it may know statements of a former layout.
        drop(Client::take(client));
    }
    outcome
}

async fn query(client: &Client, sql: &'static str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Fault> {
    let statement = client.prepare_cached(sql).await?;
    Ok(client.query(&statement, parameters).await?)
}

/// The one number of an answer.
pub(super) fn number(rows: &[Row]) -> Result<i64, Fault> {
    let row = rows.first().ok_or_else(|| Fault::Damaged("a counter is missing".to_owned()))?;
    Ok(row.try_get(0)?)
}
