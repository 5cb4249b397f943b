//! The one way to register a route.

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    handler::Handler,
    http::{Method, StatusCode},
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::{MethodFilter, on},
};
use iot_core::{access::Permission, clock::Clock, keys::KeyRing, problem::Problem, store::MetaStore};
use serde_json::Value;

use crate::{
    extract::BODY_BYTES_MAX,
    guard::guard,
    idempotency::{Idempotency, MemoryResponses, idempotent},
    openapi,
    problem::ProblemResponse,
};

/// What must be true of a request before its handler sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// Anybody. The reason stands in the table of routes.
    Public {
        /// Why.
        why: &'static str,
    },
    /// Any account that is signed in, whatever it may do. The handler shows and changes only what belongs to that account,
    /// and takes [`Person`](crate::Person) to know whose.
    Account,
    /// Anybody who is signed in: a person or an application. The handler shows only what the grants of the
    /// [`Identity`](crate::Identity) cover.
    SignedIn,
    /// A principal with this permission on its tenant.
    Tenant(Permission),
    /// A principal with this permission on its tenant, or any account. The handler shows and changes what belongs to that account
    /// only, where the account has not the permission itself.
    TenantOrAccount(Permission),
    /// A principal with this permission on the device that `{device}` in the path names; the handler may take
    /// [`Target<Device>`](crate::Target). An unknown device is `404` for those who have the permission on the tenant, else `403`.
    Device(Permission),
    /// The same for `{home}` and [`Target<Home>`](crate::Target).
    Home(Permission),
}

/// What guards and idempotency need.
#[derive(Debug, Clone)]
pub struct GuardContext {
    pub(crate) meta: Arc<dyn MetaStore>,
    pub(crate) keys: Arc<dyn KeyRing>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) memory: Arc<MemoryResponses>,
}

impl GuardContext {
    /// One for all the routes of a server: its clones share the table of idempotent responses that are kept in memory.
    pub fn new(meta: Arc<dyn MetaStore>, keys: Arc<dyn KeyRing>, clock: Arc<dyn Clock>) -> Self {
        Self { meta, keys, clock, memory: Arc::default() }
    }

    /// Its clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }
}

/// A row of the table of routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteInfo {
    /// The method.
    pub method: Method,
    /// The path with its parameters in braces.
    pub path: &'static str,
    /// What guards it.
    pub guard: Guard,
}

/// What a route is, for people and OpenAPI, and how it treats bodies.
#[derive(Debug, Clone)]
pub struct Doc {
    pub(crate) summary: &'static str,
    pub(crate) request: Option<(&'static str, Value)>,
    pub(crate) responses: Vec<(u16, &'static str, Value)>,
    pub(crate) query: Vec<(&'static str, &'static str)>,
    pub(crate) idempotency: Idempotency,
    pub(crate) body_limit: usize,
}

impl Doc {
    /// One line.
    pub fn new(summary: &'static str) -> Self {
        Self {
            summary,
            request: None,
            responses: Vec::new(),
            query: Vec::new(),
            idempotency: Idempotency::default(),
            body_limit: BODY_BYTES_MAX,
        }
    }

    /// An example of the JSON body that it takes.
    #[must_use]
    pub fn request(self, example: Value) -> Self {
        self.request_of("application/json", example)
    }

    /// An example of a body of another media type that it takes.
    #[must_use]
    pub fn request_of(mut self, media_type: &'static str, example: impl Into<Value>) -> Self {
        self.request = Some((media_type, example.into()));
        self
    }

    /// An example of the JSON body that it answers with; [`Value::Null`] for none.
    #[must_use]
    pub fn response(self, status: u16, example: Value) -> Self {
        self.response_of(status, "application/json", example)
    }

    /// An example of a body of another media type that it answers with.
    #[must_use]
    pub fn response_of(mut self, status: u16, media_type: &'static str, example: impl Into<Value>) -> Self {
        self.responses.push((status, media_type, example.into()));
        self
    }

    /// A query parameter that may be left out.
    #[must_use]
    pub fn query(mut self, name: &'static str, description: &'static str) -> Self {
        self.query.push((name, description));
        self
    }

    /// The parameters of a list.
    #[must_use]
    pub fn paged(self) -> Self {
        self.query("cursor", "`next` of the page before").query("limit", "1 to 1000, default 100")
    }

    /// How a `POST` treats `Idempotency-Key`.
    #[must_use]
    pub fn idempotency(mut self, idempotency: Idempotency) -> Self {
        self.idempotency = idempotency;
        self
    }

    /// The largest body in bytes, in place of [`BODY_BYTES_MAX`].
    #[must_use]
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.body_limit = bytes;
        self
    }
}

/// Routes, each with its guard. Handlers may take `State<S>`.
#[derive(Debug)]
pub struct Routes<S = ()> {
    context: GuardContext,
    state: S,
    router: Router,
    list: Vec<RouteInfo>,
    docs: Vec<Doc>,
}

impl Routes {
    /// None yet; handlers without state.
    pub fn new(context: GuardContext) -> Self {
        Self::with_state(context, ())
    }
}

impl<S: Clone + Send + Sync + 'static> Routes<S> {
    /// None yet; handlers may take `State<S>`.
    pub fn with_state(context: GuardContext, state: S) -> Self {
        Self { context, state, router: Router::new(), list: Vec::new(), docs: Vec::new() }
    }

    /// Registers a `GET`, and with it `HEAD`.
    #[must_use]
    pub fn get<T: 'static>(self, path: &'static str, guard: Guard, doc: Doc, handler: impl Handler<T, S>) -> Self {
        self.route((Method::GET, MethodFilter::GET), path, guard, doc, handler)
    }

    /// Registers a `POST`, which honours `Idempotency-Key` as its [`Doc::idempotency`] says.
    #[must_use]
    pub fn post<T: 'static>(self, path: &'static str, guard: Guard, doc: Doc, handler: impl Handler<T, S>) -> Self {
        self.route((Method::POST, MethodFilter::POST), path, guard, doc, handler)
    }

    /// Registers a `PUT`.
    #[must_use]
    pub fn put<T: 'static>(self, path: &'static str, guard: Guard, doc: Doc, handler: impl Handler<T, S>) -> Self {
        self.route((Method::PUT, MethodFilter::PUT), path, guard, doc, handler)
    }

    /// Registers a `PATCH`.
    #[must_use]
    pub fn patch<T: 'static>(self, path: &'static str, guard: Guard, doc: Doc, handler: impl Handler<T, S>) -> Self {
        self.route((Method::PATCH, MethodFilter::PATCH), path, guard, doc, handler)
    }

    /// Registers a `DELETE`.
    #[must_use]
    pub fn delete<T: 'static>(self, path: &'static str, guard: Guard, doc: Doc, handler: impl Handler<T, S>) -> Self {
        self.route((Method::DELETE, MethodFilter::DELETE), path, guard, doc, handler)
    }

    /// Panics where a path is registered twice for a method: that is a mistake of the program, seen at its start.
    fn route<T: 'static>(
        mut self,
        (method, filter): (Method, MethodFilter),
        path: &'static str,
        guarded: Guard,
        doc: Doc,
        handler: impl Handler<T, S>,
    ) -> Self {
        let mut methods = on(filter, handler).with_state(self.state.clone());
        if method == Method::POST {
            let settings = (self.context.clone(), doc.idempotency, doc.body_limit);
            methods = methods.route_layer(from_fn_with_state(settings, idempotent));
        }
        let methods = methods
            .route_layer(DefaultBodyLimit::max(doc.body_limit))
            // Outermost: a refused request costs no body, and no idempotent answer reaches one who may no longer have it.
            .route_layer(from_fn_with_state((self.context.clone(), guarded), guard));
        self.router = self.router.route(path, methods);
        self.list.push(RouteInfo { method, path, guard: guarded });
        self.docs.push(doc);
        self
    }

    /// Adds the routes of another part.
    #[must_use]
    pub fn merge<T>(mut self, other: Routes<T>) -> Self {
        self.router = self.router.merge(other.router);
        self.list.extend(other.list);
        self.docs.extend(other.docs);
        self
    }

    /// The same routes, for those who need not know of their state.
    #[must_use]
    pub fn erased(self) -> Routes {
        Routes { context: self.context, state: (), router: self.router, list: self.list, docs: self.docs }
    }
}

impl<S> Routes<S> {
    /// All routes, in the order of their registration.
    pub fn list(&self) -> &[RouteInfo] {
        &self.list
    }

    /// An OpenAPI 3.1 document of all routes.
    pub fn openapi(&self, title: &str, version: &str) -> Value {
        openapi::document(title, version, self.list.iter().zip(&self.docs))
    }

    /// The router; what it does not know is answered with `404 no_such_route` or `405 method_not_allowed`. Put
    /// [`authenticate`](crate::authenticate) around it.
    pub fn into_router(self) -> Router {
        self.router.method_not_allowed_fallback(method_not_allowed).fallback(no_such_route)
    }
}

async fn no_such_route() -> ProblemResponse {
    ProblemResponse(Problem::new(
        StatusCode::NOT_FOUND.as_u16(),
        "no_such_route",
        "see /openapi.json for what there is",
    ))
}

async fn method_not_allowed() -> Response {
    ProblemResponse(Problem::new(405, "method_not_allowed", "this path has other methods: see Allow")).into_response()
}
