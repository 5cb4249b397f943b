//! The memory backend passes the exam.

use iot_core::store::Stores;
use iot_store::{
    conformance::{Backend, Capability, LIMITS},
    memory::Memory,
};

struct InMemory;

#[async_trait::async_trait]
impl Backend for InMemory {
    fn capabilities(&self) -> &'static [Capability] {
        &[Capability::Rollups]
    }

    async fn open(&mut self) -> Stores {
        Stores::new(Memory::new(LIMITS))
    }
}

iot_store::conformance!(InMemory, skips: [
    "durable::records_and_changes_are_there_again",
    "durable::telemetry_is_there_again",
    "durable::maintained_telemetry_is_there_again",
    "durable::sessions_are_there_again",
    "durable::queues_are_there_again",
    "durable::retained_messages_are_there_again",
    "durable::counters_go_on",
    "durable::writes_from_many_tasks_are_there_again",
    "shared::commits_are_seen_at_once",
    "shared::one_of_many_handles_wins",
    "shared::changes_are_complete_from_every_handle",
    "shared::a_session_passes_from_node_to_node",
    "shared::what_one_node_appends_another_reads",
]);
