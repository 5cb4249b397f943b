use std::{error::Error, sync::Arc};

use iot_core::store::StoreError;
use rusqlite::ErrorCode;

use crate::{chunk::ChunkError, codec::Damage};

pub(super) const BACKEND: &str = "sqlite";

/// Why a job failed. All jobs of a group may fail for one reason, so that it can be cloned.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    Unavailable(Arc<dyn Error + Send + Sync>),
    Full(Arc<dyn Error + Send + Sync>),
    Damaged(String),
    Closed,
}

impl Fault {
    pub(super) fn stopped() -> Self {
        Self::Unavailable(Arc::from(Box::<dyn Error + Send + Sync>::from("the thread that writes has stopped")))
    }

    pub(super) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged(what.into())
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full(Arc::new(error)),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::ConstraintViolation) | None => {
                Self::Damaged(error.to_string())
            }
            Some(_) => Self::Unavailable(Arc::new(error)),
        }
    }
}

impl From<ChunkError> for Fault {
    fn from(error: ChunkError) -> Self {
        Self::Damaged(format!("a chunk: {error}"))
    }
}

impl From<Damage> for Fault {
    fn from(Damage(what): Damage) -> Self {
        Self::Damaged(what)
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unavailable(source) => Self::Unavailable { backend: BACKEND, source: Box::new(source) },
            Fault::Full(source) => Self::Full { backend: BACKEND, source: Box::new(source) },
            Fault::Damaged(what) => Self::Damaged { backend: BACKEND, what },
            Fault::Closed => Self::Closed { backend: BACKEND },
        }
    }
}
