use std::sync::Arc;

use async_trait::async_trait;
use iot_core::store::Stores;
use iot_store::{StoreLimits, sqlite::Sqlite};

use super::Database;
use crate::{data_folder::DataFolder, failure::Failure};

pub(super) async fn open(folder: &DataFolder) -> Result<Arc<dyn Database>, Failure> {
    if folder.deployment().exists() {
        return Err(Failure::options(format!(
            "--data {}: belongs to a PostgreSQL database; name it with --postgres, or another folder",
            folder.path().display()
        )));
    }
    let opened = Sqlite::open(&folder.stores(), StoreLimits::default()).await;
    Ok(Arc::new(opened.map_err(|error| Failure::of("--data: ", &error))?))
}

#[async_trait]
impl Database for Sqlite {
    fn stores(&self) -> Stores {
        Stores::new(self.clone())
    }

    async fn close(&self) {
        Self::close(self).await;
    }
}
