//! The way in.

use askama::Template;
use axum::response::Response;
use iot_http::Query;
use serde::Deserialize;

use super::page::{Shell, page};

#[derive(Deserialize)]
pub(super) struct Wish {
    /// Where to go afterwards.
    #[serde(default)]
    next: String,
}

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignInPage {
    shell: Shell,
    next: String,
}

pub(super) async fn show(Query(wish): Query<Wish>) -> Response {
    page(&SignInPage { shell: Shell::public("Sign in"), next: wish.next })
}

#[derive(Template)]
#[template(path = "setup.html")]
struct SetupPage {
    shell: Shell,
}

pub(super) async fn setup() -> Response {
    page(&SetupPage { shell: Shell::public("First administrator") })
}
