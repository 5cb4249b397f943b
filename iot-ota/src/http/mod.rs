//! Routes for releases, rollouts and downloads. See `docs/protocol.md` for the rules that hold for all of them.

mod firmware;
mod range;
mod releases;
mod rollouts;
mod shapes;

use std::sync::Arc;

use iot_core::problem::Problem;
use iot_http::{GuardContext, ProblemResponse, Routes, problem::unavailable};

use crate::server::{Ota, OtaError};

/// All routes of updates.
pub fn routes(ota: Arc<Ota>, context: GuardContext) -> Routes {
    let routes = Routes::with_state(context, ota);
    let routes = releases::register(routes);
    let routes = rollouts::register(routes);
    firmware::register(routes).erased()
}

impl From<OtaError> for ProblemResponse {
    /// `409 conflict` where trying again helps at once; else `503 unavailable`, with the cause in the log only.
    fn from(error: OtaError) -> Self {
        match error {
            OtaError::Contended(_) => {
                Problem::conflict("conflict", "others changed the same records; try again").into()
            }
            error => unavailable(&error),
        }
    }
}
