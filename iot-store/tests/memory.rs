//! The memory backend passes the exam.

use iot_core::store::Stores;
use iot_store::{
    conformance::{Backend, LIMITS},
    memory::Memory,
};

struct InMemory;

#[async_trait::async_trait]
impl Backend for InMemory {
    async fn open(&mut self) -> Stores {
        Stores::new(Memory::new(LIMITS))
    }
}

iot_store::conformance!(InMemory);
