//! The kit that the HTTP faces of the iot crates share: guarded routes, problems, pages, idempotency.
//!
//! [`Routes`] is the one way to register a route, and no route can be registered without a [`Guard`]. The crates that have
//! an HTTP face each return `Routes`; a server merges them, turns them into a router and puts [`authenticate`] around it.
//! Do not use this crate for an API of another style: it knows JSON, bearer tokens, a session cookie and problem+json only.
//!
//! ```
//! use iot_core::access::Permission;
//! use iot_http::{Doc, Guard, GuardContext, Identity, Routes};
//!
//! async fn whoami(identity: Identity) -> String {
//!     identity.principal.to_string()
//! }
//!
//! fn routes(context: GuardContext) -> Routes {
//!     Routes::new(context).get("/v1/whoami", Guard::Tenant(Permission::ReadDevice), Doc::new("Who am I?"), whoami)
//! }
//! ```
//!
//! | module | |
//! |---|---|
//! | [`routes`] | registering, the table of routes, OpenAPI |
//! | [`identity`] | who asks |
//! | [`cookie`] | the same for browsers |
//! | [`extract`] | bodies, queries, pages, path parameters |
//! | [`problem`] | errors as responses |
//! | [`idempotency`] | `Idempotency-Key` |

pub mod cookie;
pub mod extract;
mod guard;
pub mod idempotency;
pub mod identity;
mod openapi;
pub mod problem;
pub mod routes;

pub use cookie::{Cookie, Cookies, same_origin};
pub use extract::{Body, Form, Items, PageQuery, Path, Query, read_body};
pub use guard::Target;
pub use idempotency::{Idempotency, sweep};
pub use identity::{Identity, Peer, Person, authenticate};
pub use problem::ProblemResponse;
pub use routes::{Doc, Guard, GuardContext, RouteInfo, Routes};
