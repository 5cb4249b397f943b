//! How many commits of one small record there are in a second, durably, with 1, 32 and 256 writers:
//! `cargo run --release -p iot-store --features sqlite,postgres --example meta -- [postgresql://…]`.
//!
//! Without a URL: SQLite, in a folder for temporary files. With one: PostgreSQL, in a schema `meta_<process>` that is removed
//! afterwards. Each writer replaces a record of its own, checks its version, has an index key and an audit entry, and waits for
//! the answer. Five runs each: the median, and the slowest and the fastest.
#![expect(clippy::print_stdout, reason = "a program that reports to people")]

use std::{
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};

use iot_core::{
    id::TenantId,
    store::{Audit, Batch, Check, Committed, IndexKey, Key, MetaStore, Write},
    time::Timestamp,
};
use iot_store::{
    StoreLimits,
    postgres::{Postgres, PostgresSettings},
    sqlite::Sqlite,
};

const RUNS: usize = 5;
const RUN: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args().nth(1) {
        None => {
            let folder = std::env::temp_dir().join(format!("iot-meta-{}", std::process::id()));
            measure("sqlite", Arc::new(Sqlite::open(&folder, StoreLimits::default()).await?)).await?;
            std::fs::remove_dir_all(&folder)?;
        }
        Some(url) => {
            let mut settings = PostgresSettings::new(&url);
            settings.schema = format!("meta_{}", std::process::id());
            measure("postgresql", Arc::new(Postgres::open(&settings, StoreLimits::default()).await?)).await?;
            let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
            tokio::spawn(connection);
            client.batch_execute(&format!("DROP SCHEMA {} CASCADE", settings.schema)).await?;
        }
    }
    Ok(())
}

async fn measure(name: &str, store: Arc<dyn MetaStore>) -> Result<(), Box<dyn Error>> {
    for writers in [1, 32, 256] {
        let mut rates = Vec::with_capacity(RUNS);
        for run in 0..RUNS {
            rates.push(rate(&store, writers, run).await?);
        }
        rates.sort_by(f64::total_cmp);
        let (median, slowest, fastest) = (rates[RUNS / 2], rates[0], rates[RUNS - 1]);
        println!("{name}, {writers} writer(s): {median:.0} commits/s ({slowest:.0} to {fastest:.0})");
    }
    Ok(())
}

/// Commits in a second.
async fn rate(store: &Arc<dyn MetaStore>, writers: usize, run: usize) -> Result<f64, Box<dyn Error>> {
    let began = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| tokio::spawn(write(Arc::clone(store), format!("{writers}-{run}-{writer}"), began + RUN)))
        .collect();
    let mut commits = 0.0;
    for task in tasks {
        commits += f64::from(task.await??);
    }
    Ok(commits / began.elapsed().as_secs_f64())
}

async fn write(store: Arc<dyn MetaStore>, name: String, until: Instant) -> Result<u32, iot_core::store::StoreError> {
    let key = Key::new("thing", name);
    let mut version = 0;
    while Instant::now() < until {
        let check = if version == 0 { Check::Absent(key.clone()) } else { Check::Version(key.clone(), version.into()) };
        let put = Write::Put {
            key: key.clone(),
            format: 1,
            body: format!("{{\"name\":\"a thing\",\"state\":{{\"on\":true,\"version\":{version}}}}}"),
            index_keys: vec![IndexKey::many("home", "h1")],
        };
        let audit = Audit {
            at: Timestamp::from_micros(i64::from(version)),
            tenant: TenantId::parse("t").expect("an id"),
            actor: "somebody".to_owned(),
            action: "thing.write".to_owned(),
            subject: key.to_string(),
            refused: None,
        };
        let batch = Batch { checks: vec![check], writes: vec![put], audit: vec![audit] };
        let Committed::Done(_) = store.commit(batch).await? else { break };
        version += 1;
    }
    Ok(version)
}
