//! What handlers take apart: bodies, queries, pages, path parameters. Every refusal is a problem with a stable code.

use axum::{
    Json,
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Request},
    http::{HeaderMap, header::CONTENT_TYPE, request::Parts},
    response::{IntoResponse, Response},
};
use iot_core::{
    problem::{Cursor, Problem},
    store::{INDEX_PAGE_MAX, Page},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::problem::{ProblemResponse, body_invalid};

/// The largest body of a request, in bytes, where [`Doc::body_limit`](crate::Doc::body_limit) does not say otherwise.
pub const BODY_BYTES_MAX: usize = 64 * 1024;

/// The page size of a list without `limit`.
pub const PAGE_DEFAULT: u32 = 100;

/// A JSON body. Errors: `415 content_type`, `413 body_too_large`, `400 body_invalid`.
#[derive(Debug, Clone)]
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ProblemResponse;

    async fn from_request(request: Request, _: &S) -> Result<Self, ProblemResponse> {
        let body = read_body(request, "application/json").await?;
        serde_json::from_slice(&body).map(Self).map_err(|error| body_invalid(&error).into())
    }
}

/// A form, as a browser sends it. Errors: `415 content_type`, `413 body_too_large`, `400 body_invalid`.
#[derive(Debug, Clone)]
pub struct Form<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Form<T> {
    type Rejection = ProblemResponse;

    async fn from_request(request: Request, state: &S) -> Result<Self, ProblemResponse> {
        const FORM: &str = "application/x-www-form-urlencoded";
        let rejection = match axum::Form::<T>::from_request(request, state).await {
            Ok(axum::Form(form)) => return Ok(Self(form)),
            Err(rejection) => rejection,
        };
        Err(match rejection.status().as_u16() {
            415 => Problem::new(415, "content_type", format!("send Content-Type: {FORM}")).into(),
            400 | 422 => Problem::invalid("body_invalid", plain(&rejection.body_text())).into(),
            other => unread(other),
        })
    }
}

/// What a rejection says, without which extractor says it.
fn plain(text: &str) -> String {
    let known = ["Failed to deserialize form body: ", "Failed to deserialize query string: ", "Invalid URL: "];
    let stripped = known.iter().find_map(|prefix| text.strip_prefix(prefix));
    stripped.unwrap_or(text).to_owned()
}

/// Reads a body of one media type within the route's limit. Errors: `415 content_type`, `413 body_too_large`,
/// `400 body_invalid` if it breaks off.
pub async fn read_body(request: Request, media_type: &'static str) -> Result<Bytes, ProblemResponse> {
    if !is_of(request.headers(), media_type) {
        return Err(Problem::new(415, "content_type", format!("send Content-Type: {media_type}")).into());
    }
    Bytes::from_request(request, &()).await.map_err(|rejection| unread(rejection.status().as_u16()))
}

/// The problem of a body that could not be read, by the status that axum gives it.
pub(crate) fn unread(status: u16) -> ProblemResponse {
    ProblemResponse(match status {
        413 => Problem::new(413, "body_too_large", "the body is larger than this route accepts"),
        _ => Problem::invalid("body_invalid", "the body broke off"),
    })
}

fn is_of(headers: &HeaderMap, media_type: &str) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case(media_type))
}

/// Query parameters. Error: `400 query_invalid`.
#[derive(Debug, Clone)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ProblemResponse> {
        match axum::extract::Query::<T>::try_from_uri(&parts.uri) {
            Ok(axum::extract::Query(query)) => Ok(Self(query)),
            Err(rejection) => Err(Problem::invalid("query_invalid", plain(&rejection.body_text())).into()),
        }
    }
}

/// `?cursor=&limit=` of a list; stands beside a [`Query`] with the list's own parameters. Errors: `400 query_invalid`,
/// `400 cursor_invalid`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageQuery {
    /// Where the page begins.
    pub after: Option<Cursor>,
    /// From 1 to [`INDEX_PAGE_MAX`].
    pub limit: u32,
}

impl<S: Sync> FromRequestParts<S> for PageQuery {
    type Rejection = ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ProblemResponse> {
        let Query(PageText { cursor, limit }) = Query::from_request_parts(parts, state).await?;
        if !(1..=INDEX_PAGE_MAX).contains(&limit) {
            return Err(Problem::invalid("query_invalid", format!("limit: from 1 to {INDEX_PAGE_MAX}")).into());
        }
        let foreign = || Problem::invalid("cursor_invalid", "cursor: send what `next` said, or leave it out");
        let after = cursor.map(|text| Cursor::decode(&text).ok_or_else(foreign)).transpose()?;
        Ok(Self { after, limit })
    }
}

#[derive(Deserialize)]
struct PageText {
    cursor: Option<String>,
    #[serde(default = "page_default")]
    limit: u32,
}

fn page_default() -> u32 {
    PAGE_DEFAULT
}

/// One page of a list, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Items<T> {
    /// In the order of the list.
    pub items: Vec<T>,
    /// The `cursor` of the next page, `null` after the last.
    pub next: Option<String>,
}

impl<T> Items<T> {
    /// A page of a store, each item turned into what the API shows of it.
    pub fn of<U>(page: Page<U>, show: impl FnMut(U) -> T) -> Self {
        let next = page.next.as_ref().map(Cursor::encode);
        Self { items: page.items.into_iter().map(show).collect(), next }
    }
}

impl<T: Serialize> IntoResponse for Items<T> {
    fn into_response(self) -> Response {
        Json(self).into_response()
    }
}

/// Path parameters. Error: `400 id_invalid`.
#[derive(Debug, Clone)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ProblemResponse> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(path)) => Ok(Self(path)),
            Err(rejection) => Err(Problem::invalid("id_invalid", plain(&rejection.body_text())).into()),
        }
    }
}
