//! The SQLite backend passes the exam.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use iot_core::store::Stores;
use iot_store::{
    conformance::{Backend, LIMITS},
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
    async fn open(&mut self) -> Stores {
        Stores::new(Sqlite::open(self.0.path(), LIMITS).await.unwrap())
    }
}

iot_store::conformance!(Folder::empty());
iot_store::conformance_durable!(Folder::empty());
