//! The SQLite backend passes the exam.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use iot_core::store::Stores;
use iot_store::{
    conformance::{Backend, Capability, HISTORIES, LIMITS, model::compare_histories_together},
    sqlite::Sqlite,
};
use tempfile::TempDir;

struct Folder(TempDir);

impl Folder {
    fn empty() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
}

#[async_trait::async_trait]
impl Backend for Folder {
    fn capabilities(&self) -> &'static [Capability] {
        &[Capability::DurableRecords, Capability::DurableTelemetry, Capability::DurableSessions, Capability::Rollups]
    }

    fn histories(&self) -> u32 {
        if std::env::var_os("IOT_LONG").is_some() { 20 * HISTORIES } else { HISTORIES }
    }

    async fn open(&mut self) -> Stores {
        Stores::new(Sqlite::open(self.0.path(), LIMITS).await.unwrap())
    }

    async fn inspect(&mut self) {
        let beside = rusqlite::Connection::open(self.0.path().join("control.db")).unwrap();
        assert_eq!(beside.query_row(UNSOUND, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
    }
}

// One folder has one process: several nodes share PostgreSQL.
iot_store::conformance!(Folder::empty(), skips: [
    "shared::commits_are_seen_at_once",
    "shared::one_of_many_handles_wins",
    "shared::changes_are_complete_from_every_handle",
    "shared::a_session_passes_from_node_to_node",
    "shared::what_one_node_appends_another_reads",
]);

#[test]
fn steps_taken_together_are_answered_in_their_order() {
    compare_histories_together(Folder::empty);
}

/// How many rows contradict others, which no answer shows.
const UNSOUND: &str = "SELECT
    (SELECT count(*) FROM message WHERE uses <> (SELECT count(*) FROM queue WHERE queue.message = message.id))
    + (SELECT count(*) FROM message WHERE uses <= 0)
    + (SELECT count(*) FROM queue WHERE CASE WHEN body IS NULL THEN message NOT IN (SELECT id FROM message) ELSE message <> 0 END)
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
