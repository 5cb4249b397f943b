//! Where records, sessions and telemetry are: in the data folder, or in a PostgreSQL database.

mod embedded;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;

#[cfg(feature = "parquet")]
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use iot_core::store::Stores;

use crate::{data_folder::DataFolder, failure::Failure, options::Options};

/// The stores of this process.
#[async_trait]
pub(crate) trait Database: Send + Sync {
    fn stores(&self) -> Stores;

    /// Resolves when another process has taken it over, so that this one must end.
    async fn lost(&self) -> Failure {
        std::future::pending().await
    }

    /// The orderly end: what was begun is finished.
    async fn close(&self);
}

/// Opens it for this process alone.
pub(crate) async fn open(options: &Options, folder: &DataFolder) -> Result<Arc<dyn Database>, Failure> {
    match &options.postgres {
        Some(url) => postgres::open(url, options.postgres_ca.as_deref(), folder).await,
        None => embedded::open(folder).await,
    }
}

/// Opens what it holds now to read it, while a server may use it. `beside` names a folder that can be made for the time.
#[cfg(feature = "parquet")]
pub(crate) async fn open_to_read(options: &Options, beside: &Path) -> Result<Arc<dyn Database>, Failure> {
    match &options.postgres {
        Some(url) => postgres::open_to_read(url, options.postgres_ca.as_deref()).await,
        None => embedded::open_copy(&options.data, beside).await,
    }
}

/// For servers that were built without it.
#[cfg(not(feature = "postgres"))]
pub(crate) mod postgres {
    #[cfg(not(feature = "parquet"))]
    use std::path::Path;

    use iot_core::store::Revision;

    use super::*;
    use crate::options::DatabaseUrl;

    pub(super) async fn open(_: &DatabaseUrl, _: Option<&Path>, _: &DataFolder) -> Result<Arc<dyn Database>, Failure> {
        Err(missing())
    }

    #[cfg(feature = "parquet")]
    pub(super) async fn open_to_read(_: &DatabaseUrl, _: Option<&Path>) -> Result<Arc<dyn Database>, Failure> {
        Err(missing())
    }

    pub(crate) async fn dump(_: &DatabaseUrl, _: Option<&Path>, _: &Path, _: &Path) -> Result<Revision, Failure> {
        Err(missing())
    }

    pub(crate) async fn restore(_: &DatabaseUrl, _: Option<&Path>, _: &Path) -> Result<(), Failure> {
        Err(missing())
    }

    pub(crate) async fn check_vacant(_: &DatabaseUrl, _: Option<&Path>) -> Result<(), Failure> {
        Err(missing())
    }

    pub(crate) async fn fence_sessions(_: &DatabaseUrl, _: Option<&Path>) -> Result<u64, Failure> {
        Err(missing())
    }

    fn missing() -> Failure {
        Failure::options("--postgres: this server was built without it; build with --features postgres")
    }
}
