//! PostgreSQL for tests: a server that a test process shares, and schemas of its own for each test.
//!
//! `IOT_POSTGRES_URL` names another server instead of a private one; tests that restart the server always start one.
#![allow(dead_code, reason = "each test program uses a part")]

pub(crate) mod samples;
mod server;

use std::{
    env,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use iot_store::postgres::PostgresSettings;
use tokio_postgres::{Client, NoTls};

pub(crate) use self::server::Cluster;

const URL: &str = "IOT_POSTGRES_URL";

/// The server that the tests of this process share.
pub(crate) fn shared() -> &'static str {
    static SHARED: OnceLock<String> = OnceLock::new();
    SHARED.get_or_init(|| env::var(URL).unwrap_or_else(|_| Cluster::start(&[]).url()))
}

/// A schema of the shared server that nobody has used yet.
pub(crate) fn fresh() -> PostgresSettings {
    settings(shared())
}

/// A schema of a server that nobody has used yet.
pub(crate) fn settings(url: &str) -> PostgresSettings {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let mut settings = PostgresSettings::new(url);
    settings.schema = format!("t{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    settings
}

/// A connection beside those of a store.
pub(crate) async fn connect(settings: &PostgresSettings) -> Client {
    let (client, connection) = tokio_postgres::connect(&settings.url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute(&format!("SET search_path = {}", settings.schema)).await.unwrap();
    client
}
