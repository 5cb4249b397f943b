//! The PostgreSQL backend passes the exam.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use iot_core::store::Stores;
use iot_store::{
    conformance::{Backend, LIMITS},
    postgres::{Postgres, PostgresSettings},
};

struct Schema(PostgresSettings);

#[async_trait::async_trait]
impl Backend for Schema {
    async fn open(&mut self) -> Stores {
        Stores::new(Postgres::open(&self.0, LIMITS).await.unwrap())
    }
}

iot_store::conformance!(Schema(cluster::fresh()));
iot_store::conformance_durable!(Schema(cluster::fresh()));
