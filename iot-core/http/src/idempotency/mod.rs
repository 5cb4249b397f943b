//! `Idempotency-Key` on `POST`: within a day the same key of the same credential on the same path answers as the first time.
//!
//! A request that has begun is carried out to its end even if its client goes away, so that the key then has its answer. Only a
//! node that stops in the middle leaves a key without one: after [`LEASE`] the request may be repeated.

mod memory;
mod stored;

use std::time::Duration;

use axum::{
    body::{Body, Bytes, HttpBody, to_bytes},
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header::CONTENT_TYPE},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http_body_util::LengthLimitError;
use iot_core::{keys::Purpose, problem::Problem};

pub(crate) use self::memory::MemoryResponses;
pub use self::stored::sweep;
use crate::{
    extract::unread,
    identity::Identity,
    problem::{ProblemResponse, unavailable},
    routes::GuardContext,
};

/// For how long a key keeps its answer.
pub const KEPT: Duration = Duration::from_secs(24 * 3_600);

/// For how long a request that was begun by a node holds its key without an answer.
pub const LEASE: Duration = Duration::from_secs(60);

/// The longest `Idempotency-Key`, in bytes.
pub const KEY_BYTES_MAX: usize = 128;

/// The largest response that is kept, in bytes; a key whose response is larger is not remembered, and that is logged.
pub const RESPONSE_BYTES_MAX: usize = 256 * 1024;

/// How a `POST` treats `Idempotency-Key`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Idempotency {
    /// Answers are sealed and stored, and outlive the node.
    #[default]
    Stored,
    /// Answers are kept in this node's memory: no write to disk, and a restart forgets them.
    Memory,
    /// The key is checked and otherwise not needed: the request has an identity of its own, and repeating it is safe. The only
    /// choice for public routes, where a stranger must not be able to fill the store.
    Natural,
}

/// What may be answered to a request with a key.
#[must_use]
#[derive(Debug)]
enum Begun<T> {
    /// It is the first: carry it out, then finish with this.
    First(T),
    /// It was answered before.
    Again(Kept),
    /// The first is under way.
    Busy,
    /// The key was used with another body.
    Mismatch,
    /// There is no room to remember one more.
    Full,
}

/// An answer that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    status: u16,
    content_type: String,
    body: Bytes,
}

/// The middleware of every `POST`.
pub(crate) async fn idempotent(
    State((context, idempotency, body_limit)): State<(GuardContext, Idempotency, usize)>,
    request: Request,
    next: Next,
) -> Response {
    let Some(key) = request.headers().get("idempotency-key").cloned() else { return next.run(request).await };
    if !is_key(&key) {
        let detail = "Idempotency-Key: 1 to 128 visible ASCII characters";
        return ProblemResponse(Problem::invalid("idempotency_key_invalid", detail)).into_response();
    }
    let Some(identity) = request.extensions().get::<Identity>().filter(|_| idempotency != Idempotency::Natural) else {
        return next.run(request).await;
    };
    let name =
        [identity.principal.to_string().as_bytes(), request.uri().path().as_bytes(), key.as_bytes()].join(&b'\n');
    let (parts, body) = request.into_parts();
    let body = match to_bytes(body, body_limit).await {
        Ok(body) => body,
        Err(error) => return unread(if is_too_large(&error) { 413 } else { 400 }).into_response(),
    };
    let request = Request::from_parts(parts, Body::from(body.clone()));
    let answer = match idempotency {
        Idempotency::Memory => in_memory(context, name, body, request, next).await,
        _ => in_store(context, name, body, request, next).await,
    };
    answer.into_response()
}

fn is_key(key: &HeaderValue) -> bool {
    (1..=KEY_BYTES_MAX).contains(&key.len()) && key.as_bytes().iter().all(u8::is_ascii_graphic)
}

fn is_too_large(error: &axum::Error) -> bool {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.into_iter().any(|cause| cause.is::<LengthLimitError>())
}

async fn in_store(
    context: GuardContext,
    name: Vec<u8>,
    body: Bytes,
    request: Request,
    next: Next,
) -> Result<Response, ProblemResponse> {
    let name = context.keys.code(Purpose::Response, &name).await?;
    let body = context.keys.code(Purpose::Response, &body).await?;
    let first = match stored::begin(&context, &name, &body).await? {
        Begun::First(first) => first,
        other => return other.answer(),
    };
    to_its_end(async move {
        let (response, kept) = keep(next.run(request).await).await;
        if let Err(error) = stored::finish(&context, first, kept.as_ref()).await {
            // The request was carried out: its answer is worth more than that of a repetition.
            tracing::error!(problem = error.0.code, "an idempotent answer could not be kept");
        }
        response
    })
    .await
}

async fn in_memory(
    context: GuardContext,
    name: Vec<u8>,
    body: Bytes,
    request: Request,
    next: Next,
) -> Result<Response, ProblemResponse> {
    let first = match context.memory.begin(name, &body, context.clock.monotonic()) {
        Begun::First(first) => first,
        other => return other.answer(),
    };
    to_its_end(async move {
        // Dropped without `finish` if the handler panics: the key is then free again.
        let pending = memory::Pending::new(context.memory.clone(), first);
        let (response, kept) = keep(next.run(request).await).await;
        pending.finish(kept);
        response
    })
    .await
}

/// Goes on even if the client does not wait for it.
async fn to_its_end(work: impl Future<Output = Response> + Send + 'static) -> Result<Response, ProblemResponse> {
    tokio::spawn(work).await.map_err(|error| unavailable(&error))
}

impl<T> Begun<T> {
    fn answer(self) -> Result<Response, ProblemResponse> {
        Err(ProblemResponse(match self {
            Self::Again(kept) => return Ok(kept.into_response()),
            Self::Mismatch => Problem::conflict("idempotency_mismatch", "this key was used with another body"),
            Self::Busy => Problem::conflict("idempotency_busy", "the first request with this key is under way"),
            Self::First(_) | Self::Full => Problem::unavailable(),
        }))
    }
}

/// Takes an answer apart so that it can be kept. Server errors are not kept: trying again may help.
async fn keep(response: Response) -> (Response, Option<Kept>) {
    let (parts, body) = response.into_parts();
    let too_large = body.size_hint().lower() > RESPONSE_BYTES_MAX as u64;
    if too_large || parts.status.is_server_error() {
        tracing::debug!(too_large, status = %parts.status, "an answer to an idempotent request is not kept");
        return (Response::from_parts(parts, body), None);
    }
    let body = match to_bytes(body, RESPONSE_BYTES_MAX).await {
        Ok(body) => body,
        Err(error) => {
            tracing::error!(%error, "an answer to an idempotent request broke off or is too large to be kept");
            return (ProblemResponse(Problem::unavailable()).into_response(), None);
        }
    };
    let content_type = parts.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let kept = Kept { status: parts.status.as_u16(), content_type, body: body.clone() };
    (Response::from_parts(parts, Body::from(body)), Some(kept))
}

impl IntoResponse for Kept {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if let Ok(value) = HeaderValue::from_str(&self.content_type).map_err(drop)
            && !value.is_empty()
        {
            response.headers_mut().insert(CONTENT_TYPE, value);
        }
        response
    }
}
