//! The SQLite backend passes the exam.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use iot_core::store::Stores;
use iot_store::{
    conformance::{Backend, Capability, HISTORIES, LIMITS},
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
        &[Capability::DurableRecords, Capability::DurableTelemetry, Capability::DurableSessions]
    }

    fn histories(&self) -> u32 {
        if std::env::var_os("IOT_LONG").is_some() { 20 * HISTORIES } else { HISTORIES }
    }

    async fn open(&mut self) -> Stores {
        Stores::new(Sqlite::open(self.0.path(), LIMITS).await.unwrap())
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
