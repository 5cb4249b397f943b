//! The exam. Telemetry and sessions are memory's, which keeps nothing.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use iot_core::store::Stores;
use iot_custom_store::Redb;
use iot_store::{
    conformance::{Backend, Capability, LIMITS},
    memory::Memory,
};
use tempfile::TempDir;

struct File(TempDir);

impl File {
    fn empty() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
}

#[async_trait::async_trait]
impl Backend for File {
    fn capabilities(&self) -> &'static [Capability] {
        &[Capability::DurableRecords, Capability::Rollups]
    }

    async fn open(&mut self) -> Stores {
        let records = Redb::open(&self.0.path().join("records.redb"), LIMITS.changes_kept).unwrap();
        Stores { meta: Arc::new(records), ..Stores::new(Memory::new(LIMITS)) }
    }
}

iot_store::conformance!(File::empty(), skips: [
    "durable::telemetry_is_there_again",
    "durable::maintained_telemetry_is_there_again",
    "durable::sessions_are_there_again",
    "durable::queues_are_there_again",
    "durable::retained_messages_are_there_again",
    "durable::counters_go_on",
    "shared::commits_are_seen_at_once",
    "shared::one_of_many_handles_wins",
    "shared::changes_are_complete_from_every_handle",
    "shared::a_session_passes_from_node_to_node",
    "shared::what_one_node_appends_another_reads",
]);
