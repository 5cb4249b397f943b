//! Routes for the registry: sign-in, tokens, products, units, claims, accounts, the audit log; homes,
//! their members, and bindings.
//!
//! No answer shows a secret twice, and none shows a code. See `docs/protocol.md` for the rules that hold for all of them.

mod account_shapes;
mod accounts;
mod bindings;
mod claims;
mod homes;
mod members;
mod places;
mod shapes;
mod staff;
mod tokens;
mod units;

use std::sync::Arc;

use axum::extract::State;
use iot_core::{
    access::Permission,
    problem::Problem,
    store::{Audit, MetaStore},
};
use iot_http::{Doc, Guard, GuardContext, Identity, Items, PageQuery, ProblemResponse, Routes, problem::unavailable};
use serde_json::json;

use crate::auth::{Auth, AuthError};

/// All routes of the registry.
pub fn routes(auth: Arc<Auth>, context: GuardContext) -> Routes {
    let routes = Routes::with_state(context, auth);
    let routes = tokens::register(routes);
    let routes = places::register(routes);
    let routes = homes::register(routes);
    let routes = members::register(routes);
    let routes = bindings::register(routes);
    let routes = units::register(routes);
    let routes = claims::register(routes);
    let routes = accounts::register(routes);
    let routes = staff::register(routes);
    let doc = Doc::new("The audit log, newest first").paged().response(
        200,
        json!({ "items": [{
            "at": "2026-11-23T00:00:00Z", "tenant": "default", "actor": "default/token/abc", "action": "retire",
            "subject": "device:default/lamp-1", "refused": null,
        }], "next": null }),
    );
    routes.get("/v1/audit", Guard::Tenant(Permission::ReadAudit), doc, audit).erased()
}

async fn audit(State(auth): State<Arc<Auth>>, who: Identity, page: PageQuery) -> Result<Items<Audit>, ProblemResponse> {
    let found = MetaStore::audit(&*auth.meta, &who.principal.tenant, page.after.as_ref(), page.limit).await?;
    Ok(Items::of(found, |entry| entry))
}

impl From<AuthError> for ProblemResponse {
    /// `409 conflict` or `503 busy` where trying again helps at once; else `503 unavailable`, with the cause in the log only.
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Contended(_) => {
                Problem::conflict("conflict", "others changed the same records; try again").into()
            }
            AuthError::Busy => Problem::new(503, "busy", "too many ask at once; try again in a second").into(),
            error => unavailable(&error),
        }
    }
}

/// A name for people: not empty, of bounded length, without control characters.
fn checked_name(name: &str, bytes_max: usize) -> Result<&str, ProblemResponse> {
    match !name.is_empty() && name.len() <= bytes_max && !name.contains(char::is_control) {
        true => Ok(name),
        false => {
            Err(Problem::invalid("body_invalid", format!("name: 1 to {bytes_max} bytes, no control characters")).into())
        }
    }
}
