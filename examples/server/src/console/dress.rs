//! What surrounds the console: strict headers on every answer, and problems as pages for those who read pages.

use askama::Template;
use axum::{
    Router,
    body::to_bytes,
    extract::{Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
        header::{ACCEPT, CONTENT_TYPE, LOCATION, SET_COOKIE},
    },
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
};
use iot_http::{Identity, ProblemResponse};
use serde::Deserialize;

use super::{
    Console,
    page::{Shell, encoded, page_as, see},
    session::{self, CookieChange},
};

/// Nothing from elsewhere, nothing inline, no frames.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const STRICT: [(&str, &str); 5] = [
    ("content-security-policy", CONTENT_SECURITY_POLICY),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
];

/// The largest problem that is shown as a page.
const PROBLEM_BYTES_MAX: usize = 16 * 1024;

/// Inside authentication: lets [`outside`] know for whom a problem is shown.
pub(crate) fn inside(router: Router) -> Router {
    router.layer(from_fn(async |request: Request, next: Next| {
        let identity = request.extensions().get::<Identity>().cloned();
        let mut response = next.run(request).await;
        if let Some(identity) = identity {
            response.extensions_mut().insert(identity);
        }
        response
    }))
}

/// Outside of authentication, so that its refusals are pages too.
pub(crate) fn outside(router: Router, console: Console, encrypted: bool) -> Router {
    router.layer(from_fn_with_state((console, encrypted), dress))
}

async fn dress(State((console, encrypted)): State<(Console, bool)>, mut request: Request, next: Next) -> Response {
    let asked = Asked::of(&request);
    let renewed = match asked.keeps_session {
        true => session::renew(&console, session::connection(&request, encrypted), &mut request).await,
        false => Ok(CookieChange::default()),
    };
    let mut response = match renewed {
        Ok(change) => change.onto(next.run(request).await),
        Err(error) => ProblemResponse::from(error).into_response(),
    };
    if asked.reads_pages && is_problem(&response) {
        response = shown(&console, asked, response).await;
    }
    for (name, value) in STRICT {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

/// What was asked, as far as a page about its failure needs to know.
struct Asked {
    reads_pages: bool,
    /// It is part of what a person does at the console.
    keeps_session: bool,
    /// By script, in a page that stands already.
    in_place: bool,
    /// Where to come back to after signing in.
    back: String,
}

impl Asked {
    fn of(request: &Request) -> Self {
        let in_place = request.headers().contains_key("hx-request");
        let path = request.uri().path();
        let back = match (request.method(), in_place) {
            (&Method::GET, false) => request.uri().path_and_query().map_or(path, |full| full.as_str()).to_owned(),
            _ => "/".to_owned(),
        };
        let reads_pages = !path.starts_with("/v1/") && (in_place || accepts_pages(request.headers()));
        let keeps_session = !path.starts_with("/console/assets/") && (reads_pages || path == "/console/live");
        Self { reads_pages, keeps_session, in_place, back }
    }

    fn sign_in(&self) -> Response {
        let path = match self.back.as_str() {
            "/" => "/sign-in".to_owned(),
            back => format!("/sign-in?next={}", encoded(back)),
        };
        if !self.in_place {
            return see(&path);
        }
        // A redirect would be followed by the script, which would put the sign-in page into a part of this one.
        let location = HeaderValue::try_from(path).unwrap_or(HeaderValue::from_static("/sign-in"));
        ([(HeaderName::from_static("hx-redirect"), location)], StatusCode::NO_CONTENT).into_response()
    }
}

fn accepts_pages(headers: &HeaderMap) -> bool {
    headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).is_some_and(|accept| accept.contains("text/html"))
}

fn is_problem(response: &Response) -> bool {
    response.headers().get(CONTENT_TYPE).is_some_and(|of| of == "application/problem+json")
        && !response.headers().contains_key(LOCATION)
}

#[derive(Deserialize)]
struct Problem {
    code: String,
    detail: String,
}

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage {
    shell: Shell,
    status: u16,
    code: String,
    what: &'static str,
    detail: String,
}

async fn shown(console: &Console, asked: Asked, mut response: Response) -> Response {
    let status = response.status();
    let cookies: Vec<HeaderValue> = response.headers_mut().get_all(SET_COOKIE).iter().cloned().collect();
    let mut page = match status {
        StatusCode::UNAUTHORIZED => asked.sign_in(),
        _ => explained(console, response).await,
    };
    page.headers_mut().extend(cookies.into_iter().map(|cookie| (SET_COOKIE, cookie)));
    page
}

async fn explained(console: &Console, response: Response) -> Response {
    let status = response.status();
    let (parts, body) = response.into_parts();
    let Ok(body) = to_bytes(body, PROBLEM_BYTES_MAX).await else { return status.into_response() };
    let Ok(Problem { code, detail }) = serde_json::from_slice(&body) else {
        return Response::from_parts(parts, body.into());
    };
    let what = title(status);
    let shell = match parts.extensions.get::<Identity>() {
        Some(identity) => Shell::of(console, identity, "", what).await.unwrap_or_else(|_| Shell::public(what)),
        None => Shell::public(what),
    };
    page_as(status, &ErrorPage { shell, status: status.as_u16(), code, what, detail })
}

fn title(status: StatusCode) -> &'static str {
    match status.as_u16() {
        403 => "Not permitted",
        404 => "Not found",
        409 => "It has changed meanwhile",
        413 => "Too large",
        429 => "Too many at once",
        503 => "Not available now",
        500..=599 => "Something failed",
        _ => "That cannot be done",
    }
}
