//! The name of a node: one process has it, through crashes of the server and cut connections.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use std::time::Duration;

use iot_core::{id::NodeId, store::StoreError};
use iot_store::{
    StoreLimits,
    postgres::{Claim, ClaimError, Postgres, PostgresSettings},
};
use tokio::time::timeout;

use self::cluster::Cluster;

const HOLDER: &str = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted";
/// Longer than a claim needs to be made anew, several times over.
const LONG: Duration = Duration::from_secs(60);
/// Longer than a claim takes to see that its connection is gone.
const A_WHILE: Duration = Duration::from_secs(4);

fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

async fn open(settings: &PostgresSettings) -> Postgres {
    Postgres::open(settings, StoreLimits::default()).await.unwrap()
}

async fn is_lost(claim: &Claim, within: Duration) -> bool {
    timeout(within, claim.lost()).await.is_ok()
}

#[tokio::test]
async fn a_name_is_one_process_s_until_it_ends() {
    let settings = cluster::fresh();
    let (first, second) = (open(&settings).await, open(&settings).await);
    let claim = first.claim(&node("n1")).await.unwrap();
    let refused = second.claim(&node("n1")).await.unwrap_err();
    assert!(matches!(&refused, ClaimError::Taken { node } if node.as_str() == "n1"), "{refused:?}");
    second.claim(&node("n2")).await.unwrap();
    open(&cluster::fresh()).await.claim(&node("n1")).await.unwrap();
    drop(claim);
    second.claim(&node("n1")).await.unwrap();
    second.close().await;
    let closed = second.claim(&node("n1")).await.unwrap_err();
    assert!(matches!(closed, ClaimError::Store(StoreError::Closed { .. })), "{closed:?}");
}

#[tokio::test]
async fn a_name_outlives_its_connection_and_the_server() {
    let cluster = tokio::task::spawn_blocking(|| Cluster::start(&[])).await.unwrap();
    let settings = cluster::settings(&cluster.url());
    let (first, second) = (open(&settings).await, open(&settings).await);
    let claim = first.claim(&node("n1")).await.unwrap();
    let beside = cluster::connect(&settings).await;
    let before: i32 = beside.query_one(HOLDER, &[]).await.unwrap().get(0);
    beside.execute("SELECT pg_terminate_backend($1)", &[&before]).await.unwrap();
    let again = async {
        loop {
            match beside.query_opt(HOLDER, &[]).await.unwrap() {
                Some(row) if row.get::<_, i32>(0) != before => break,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    timeout(LONG, again).await.unwrap();
    drop(beside);
    cluster.crash();
    assert!(!is_lost(&claim, A_WHILE).await, "nobody else has it");
    cluster.resume();
    assert!(!is_lost(&claim, A_WHILE).await, "it is back");
    assert!(matches!(second.claim(&node("n1")).await, Err(ClaimError::Taken { .. })));
}

/// It cannot be prevented: while the first has no connection, nothing says that it lives.
#[tokio::test]
async fn who_comes_first_after_a_crash_has_the_name_and_the_other_learns_it() {
    let cluster = tokio::task::spawn_blocking(|| Cluster::start(&[])).await.unwrap();
    let settings = cluster::settings(&cluster.url());
    let first = open(&settings).await;
    let claim = first.claim(&node("n1")).await.unwrap();
    let beside = cluster::connect(&settings).await;
    // The end of the first one's connection and the other's claim are one statement, so that it is always too late.
    let row =
        beside.query_one("SELECT pid, objid::bigint, classid::bigint FROM pg_locks WHERE locktype = 'advisory'", &[]);
    let row = row.await.unwrap();
    let name = (row.get::<_, i64>(2) << 32) | row.get::<_, i64>(1);
    let take = "SELECT pg_terminate_backend($1), pg_advisory_lock($2)";
    beside.query_one(take, &[&row.get::<_, i32>(0), &name]).await.unwrap();
    assert!(is_lost(&claim, LONG).await);
}
