//! What the tests of the kit share: a store, a clock, three tokens.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses a part")]

use std::sync::Arc;

use async_trait::async_trait;
use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, StatusCode, header::AUTHORIZATION},
    response::Response,
};
use iot_core::{
    access::{
        Authentication, BoxAuthenticator, Credentials, Grants, Object, Principal, Proof, Refusal, Relation, Subject,
    },
    clock::ManualClock,
    id::{AccountId, LoginId, TenantId, TokenId},
    keys::{KeyError, KeyRing, Purpose},
    logic::BoxError,
    store::{Audit, MetaStore, Revision},
    time::Timestamp,
};
use iot_http::{GuardContext, Routes, authenticate};
use iot_store::{StoreLimits, memory::Memory};
use serde_json::Value;
use tower::{ServiceExt, service_fn};

/// Binds to purpose and context as a ring must, and hides nothing.
#[derive(Debug)]
struct OpenRing;

#[async_trait]
impl KeyRing for OpenRing {
    async fn seal(&self, purpose: Purpose, context: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, KeyError> {
        Ok([purpose.name().as_bytes(), context, plaintext].join(&0))
    }

    async fn open(&self, purpose: Purpose, context: &[u8], sealed: &[u8]) -> Result<Vec<u8>, KeyError> {
        let prefix = [purpose.name().as_bytes(), context, b""].join(&0);
        sealed.strip_prefix(prefix.as_slice()).map(<[u8]>::to_vec).ok_or(KeyError::Unopenable)
    }

    async fn code(&self, purpose: Purpose, data: &[u8]) -> Result<String, KeyError> {
        Ok(format!("{}:{}", purpose.name(), data.escape_ascii()))
    }
}

pub struct Site {
    pub meta: Arc<dyn MetaStore>,
    pub clock: Arc<ManualClock>,
    pub context: GuardContext,
}

pub fn acme() -> TenantId {
    TenantId::parse("acme").unwrap()
}

impl Site {
    pub fn new() -> Self {
        let meta: Arc<dyn MetaStore> = Arc::new(Memory::new(StoreLimits::default()));
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_763_856_000_000)));
        let context = GuardContext::new(meta.clone(), Arc::new(OpenRing), clock.clone());
        Self { meta, clock, context }
    }

    pub fn routes(&self) -> Routes {
        Routes::new(self.context.clone())
    }

    pub async fn audit(&self) -> Vec<Audit> {
        self.meta.audit(&acme(), None, 1_000).await.unwrap().items
    }
}

pub fn person() -> Principal {
    let (account, login) = (AccountId::parse("ann").unwrap(), LoginId::parse("phone").unwrap());
    Principal { tenant: acme(), subject: Subject::Account { account, login } }
}

/// `admin` and `viewer` are tokens of acme, `topics` is one that may use free topics only, `person` is an account that may do
/// nothing, all others are unknown.
pub fn authenticator() -> BoxAuthenticator {
    BoxAuthenticator::new(service_fn(|credentials: Credentials| async move {
        let Proof::Token(token) = credentials.proof else { return Ok(Authentication::Refused(Refusal::NoCredential)) };
        if token.expose() == "person" {
            return Ok(Authentication::Accepted(person(), Grants { revision: Revision::default(), tuples: [].into() }));
        }
        let (object, relation) = match token.expose() {
            "admin" => (Object::Tenant(acme()), Relation::Admin),
            "viewer" => (Object::Tenant(acme()), Relation::Viewer),
            "topics" => (Object::Topics(acme()), Relation::User),
            "far" => return Ok(Authentication::Refused(Refusal::Unencrypted)),
            "broken" => return Err(BoxError::from("the store is gone")),
            _ => return Ok(Authentication::Refused(Refusal::Unknown)),
        };
        let subject = Subject::Token(TokenId::parse(token.expose())?);
        Ok(Authentication::Accepted(Principal { tenant: acme(), subject }, Grants::of(object, relation)))
    }))
}

pub fn serve(routes: Routes) -> Router {
    authenticate(routes.into_router(), authenticator(), false)
}

/// `"POST /v1/x"` with a token, or none if it is empty.
pub fn request(line: &str, token: &str) -> axum::http::request::Builder {
    let (method, path) = line.split_once(' ').unwrap();
    let request = Request::builder().method(method).uri(path);
    if token.is_empty() { request } else { request.header(AUTHORIZATION, format!("Bearer {token}")) }
}

pub async fn send(router: &Router, request: Request<Body>) -> Response {
    router.clone().oneshot(request).await.unwrap()
}

pub async fn ask(router: &Router, line: &str, token: &str) -> (StatusCode, Value) {
    read(send(router, request(line, token).body(Body::empty()).unwrap()).await).await
}

/// Status and JSON body, `Null` where the body is no JSON.
pub async fn read(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}
