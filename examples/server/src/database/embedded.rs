use std::sync::Arc;
#[cfg(feature = "parquet")]
use std::{
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

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

/// A copy for the time of its use.
#[cfg(feature = "parquet")]
struct Copy {
    sqlite: Sqlite,
    folder: PathBuf,
}

#[cfg(feature = "parquet")]
pub(super) async fn open_copy(data: &Path, folder: &Path) -> Result<Arc<dyn Database>, Failure> {
    let store = data.join("store");
    if !store.join("control.db").is_file() {
        return Err(Failure::options(format!(
            "--data {}: holds no store; name the folder of a server",
            data.display()
        )));
    }
    let made = std::fs::DirBuilder::new().mode(0o700).create(folder);
    made.map_err(|error| Failure::options(format!("{}: {error}", folder.display())))?;
    let copied = async {
        Sqlite::snapshot(&store, folder).await?;
        Sqlite::open(folder, StoreLimits::default()).await
    };
    match copied.await {
        Ok(sqlite) => Ok(Arc::new(Copy { sqlite, folder: folder.to_owned() })),
        Err(error) => {
            let _gone = std::fs::remove_dir_all(folder);
            Err(Failure::of("--data: ", &error))
        }
    }
}

#[cfg(feature = "parquet")]
#[async_trait]
impl Database for Copy {
    fn stores(&self) -> Stores {
        Stores::new(self.sqlite.clone())
    }

    async fn close(&self) {
        self.sqlite.close().await;
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            tracing::warn!(%error, folder = %self.folder.display(), "a copy of the stores cannot be removed");
        }
    }
}
