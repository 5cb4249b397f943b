//! Errors as responses.

use axum::{
    Json,
    http::{
        HeaderValue, StatusCode,
        header::{CONTENT_TYPE, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use iot_core::{id::InvalidId, keys::KeyError, problem::Problem, store::StoreError};
use serde_json::json;

/// A [`Problem`] as `application/problem+json` (RFC 9457); the error type of handlers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProblemResponse(pub Problem);

impl IntoResponse for ProblemResponse {
    fn into_response(self) -> Response {
        let Problem { code, status, detail } = self.0;
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let title = status.canonical_reason().unwrap_or("Error");
        let body = json!({ "code": code, "status": status.as_u16(), "title": title, "detail": detail });
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<Problem> for ProblemResponse {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl From<StoreError> for ProblemResponse {
    /// `503 unavailable`; the cause goes to the log only.
    fn from(error: StoreError) -> Self {
        unavailable(&error)
    }
}

impl From<KeyError> for ProblemResponse {
    /// `503 unavailable`; the cause goes to the log only.
    fn from(error: KeyError) -> Self {
        unavailable(&error)
    }
}

impl From<InvalidId> for ProblemResponse {
    /// `400 id_invalid`.
    fn from(error: InvalidId) -> Self {
        Self(Problem::invalid("id_invalid", error.to_string()))
    }
}

/// `503 unavailable`, and `error` with its sources to the log.
pub fn unavailable(error: &(dyn std::error::Error + 'static)) -> ProblemResponse {
    let causes: String = std::iter::successors(error.source(), |e| e.source()).map(|e| format!(": {e}")).collect();
    tracing::error!(error = %format!("{error}{causes}"), "a request failed");
    ProblemResponse(Problem::unavailable())
}
