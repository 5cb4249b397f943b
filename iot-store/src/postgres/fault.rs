use std::{error::Error, sync::Arc};

use deadpool_postgres::PoolError;
use iot_core::store::StoreError;
use tokio_postgres::error::SqlState;

use crate::{chunk::ChunkError, codec::Damage};

pub(super) const BACKEND: &str = "postgresql";

type Source = Arc<dyn Error + Send + Sync>;

/// Why something failed. All jobs of a group may fail for one reason, so that it can be cloned.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// Another transaction was in the way, and nothing was written: try again.
    Again(Source),
    /// The connection was lost; what was under way is unknown.
    Lost(Source),
    /// The server cannot take what one job has written: the others of its group may still be carried out.
    Refused(String),
    Unavailable(Source),
    Full(Source),
    Damaged(String),
    Closed,
}

impl Fault {
    pub(super) fn unavailable(why: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unavailable(Arc::from(why.into()))
    }

    pub(super) fn again(why: &'static str) -> Self {
        Self::Again(Arc::from(Box::<dyn Error + Send + Sync>::from(why)))
    }

    pub(super) fn stopped() -> Self {
        Self::unavailable("what writes has stopped")
    }

    fn of_state(state: &SqlState, error: tokio_postgres::Error) -> Self {
        match *state {
            // A unique value is taken only if another transaction took it after it was looked for.
            SqlState::T_R_SERIALIZATION_FAILURE | SqlState::T_R_DEADLOCK_DETECTED | SqlState::UNIQUE_VIOLATION => {
                Self::Again(Arc::new(error))
            }
            SqlState::DISK_FULL => Self::Full(Arc::new(error)),
            SqlState::DATA_CORRUPTED | SqlState::INDEX_CORRUPTED => Self::Damaged(said(&error)),
            _ => match &state.code()[..2] {
                // Data, constraints, limits of the server: what was sent is not what these tables hold.
                "22" | "23" | "54" => Self::Refused(said(&error)),
                // Tables, columns or functions are not those of this version.
                "42" => Self::Damaged(said(&error)),
                // Connections, and the server's end or its operators' interventions.
                "08" => Self::Lost(Arc::new(error)),
                "57" if *state != SqlState::QUERY_CANCELED => Self::Lost(Arc::new(error)),
                _ => Self::Unavailable(Arc::new(error)),
            },
        }
    }
}

/// The server's own words, which the error hides in its source.
fn said(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string)
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.code().cloned() {
            Some(state) => Self::of_state(&state, error),
            // A column of another type than was asked for.
            None if error.source().is_some_and(<dyn Error>::is::<tokio_postgres::types::WrongType>) => {
                Self::Damaged(error.to_string())
            }
            None => Self::Lost(Arc::new(error)),
        }
    }
}

impl From<PoolError> for Fault {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Closed => Self::Closed,
            // Without a word of the pool's: what the server or the network said is what helps.
            PoolError::Backend(error) => Self::Unavailable(Arc::new(error)),
            other => Self::Unavailable(Arc::new(other)),
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
            Fault::Again(source) | Fault::Lost(source) | Fault::Unavailable(source) => {
                Self::Unavailable { backend: BACKEND, source: Box::new(source) }
            }
            Fault::Full(source) => Self::Full { backend: BACKEND, source: Box::new(source) },
            Fault::Refused(what) | Fault::Damaged(what) => Self::Damaged { backend: BACKEND, what },
            Fault::Closed => Self::Closed { backend: BACKEND },
        }
    }
}
