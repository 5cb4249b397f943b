//! The PostgreSQL backend passes the exam.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use iot_core::store::Stores;
use iot_store::{
    conformance::{Backend, Capability, LIMITS, model::compare_histories_together},
    postgres::{Postgres, PostgresSettings},
};

/// Fewer than elsewhere: each step is observed by some forty round trips.
const HISTORIES: u32 = 16;

struct Schema(PostgresSettings);

impl Schema {
    fn empty() -> Self {
        Self(cluster::fresh())
    }
}

#[async_trait::async_trait]
impl Backend for Schema {
    fn capabilities(&self) -> &'static [Capability] {
        &[
            Capability::DurableRecords,
            Capability::DurableTelemetry,
            Capability::DurableSessions,
            Capability::Rollups,
            Capability::Shared,
        ]
    }

    fn histories(&self) -> u32 {
        if std::env::var_os("IOT_LONG").is_some() { 20 * HISTORIES } else { HISTORIES }
    }

    async fn open(&mut self) -> Stores {
        Stores::new(Postgres::open(&self.0, LIMITS).await.unwrap())
    }

    async fn inspect(&mut self) {
        let row = cluster::connect(&self.0).await.query_one(UNSOUND, &[]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), 0);
    }
}

iot_store::conformance!(Schema::empty());

#[test]
fn steps_taken_together_are_answered_in_their_order() {
    compare_histories_together(Schema::empty);
}

/// How many rows contradict others, which no answer shows.
const UNSOUND: &str = "SELECT
    (SELECT count(*) FROM message WHERE uses <> (SELECT count(*) FROM queue WHERE queue.message = message.id))
    + (SELECT count(*) FROM message WHERE uses <= 0)
    + (SELECT count(*) FROM queue WHERE message NOT IN (SELECT id FROM message))
    + (SELECT count(*) FROM chunk WHERE part NOT IN (SELECT id FROM part WHERE form = 0))
    + (SELECT count(*) FROM chunk WHERE series NOT IN (SELECT id FROM series))
    + (SELECT count(*) FROM rollup WHERE part NOT IN (SELECT id FROM part WHERE form > 0))
    + (SELECT count(*) FROM rollup WHERE series NOT IN (SELECT id FROM series))
    + (SELECT count(*) FROM queue WHERE session NOT IN (SELECT id FROM session))
    + (SELECT count(*) FROM subscription WHERE session NOT IN (SELECT id FROM session))
    + (SELECT count(*) FROM received WHERE session NOT IN (SELECT id FROM session))
    + (SELECT count(*) FROM session WHERE queued <> (SELECT count(*) FROM queue WHERE queue.session = session.id))
    + (SELECT count(*) FROM session
        WHERE queued_size <> (SELECT coalesce(sum(size), 0) FROM queue WHERE queue.session = session.id))
    + (SELECT count(*) FROM retained_count
        WHERE messages <> (SELECT count(*) FROM retained WHERE retained.tenant = retained_count.tenant))
    + (SELECT count(*) FROM retained_count
        WHERE size <> (SELECT coalesce(sum(size), 0) FROM retained WHERE retained.tenant = retained_count.tenant))
    + (SELECT count(*) FROM index_key WHERE NOT EXISTS
        (SELECT 1 FROM record WHERE record.kind = index_key.kind AND record.key = index_key.key))";
