//! A new password for who has forgotten theirs, by a mailed code.

use askama::Template;
use axum::{extract::State, http::HeaderMap, response::Response};
use iot_auth::account::{EmailAddress, ResetDone};
use iot_core::{id::TokenId, secret::Secret};
use iot_http::{Doc, Form, Guard, Query, Routes, identity::Connection};
use serde::Deserialize;

use super::{
    Console, form,
    page::{Answer, Shell, Wrong, invalid, page, secret, see},
    register::CODE_WRONG,
    sign_in::{password, sentence, trusted},
};

pub(super) fn routes(routes: Routes<Console>) -> Routes<Console> {
    let anybody = Guard::Public { why: "who has lost the password has no credential" };
    let code = Guard::Public { why: "the mailed code is the credential" };
    routes
        .get("/reset", anybody, Doc::new("A new password"), show)
        .post("/reset", anybody, form("Ask for a new password"), ask)
        .get("/reset/code", code, Doc::new("The mailed code"), show_code)
        .post("/reset/code", code, form("Set a new password by the mailed code"), confirm)
}

const TITLE: &str = "Forgotten password";

#[derive(Template)]
#[template(path = "reset.html")]
struct ResetPage {
    shell: Shell,
    email: String,
    wrong: Wrong,
}

pub(super) async fn show() -> Response {
    page(&ResetPage { shell: Shell::public(TITLE), email: String::new(), wrong: Wrong::default() })
}

#[derive(Deserialize)]
pub(super) struct Asked {
    #[serde(default)]
    email: String,
}

/// The answer is the same whether or not the address has an account.
pub(super) async fn ask(
    State(console): State<Console>,
    connection: Connection,
    headers: HeaderMap,
    Form(asked): Form<Asked>,
) -> Answer {
    trusted(connection, &headers)?;
    match EmailAddress::parse(&asked.email) {
        Ok(email) => {
            let begun = console.auth.begin_reset(email, connection.peer.ip())?;
            Ok(see(&format!("/reset/code?confirmation={}", begun.confirmation)))
        }
        Err(error) => {
            let wrong = Wrong::default().with("email", sentence(&error));
            Ok(invalid(&ResetPage { shell: Shell::public(TITLE), email: asked.email, wrong }))
        }
    }
}

#[derive(Template)]
#[template(path = "reset_code.html")]
struct CodePage {
    shell: Shell,
    confirmation: String,
    wrong: Wrong,
}

/// What the mailed code belongs to.
#[derive(Deserialize)]
pub(super) struct Waiting {
    #[serde(default)]
    confirmation: String,
}

pub(super) async fn show_code(Query(waiting): Query<Waiting>) -> Response {
    let shell = Shell::public(TITLE);
    page(&CodePage { shell, confirmation: waiting.confirmation, wrong: Wrong::default() })
}

#[derive(Deserialize)]
pub(super) struct Shown {
    #[serde(default)]
    confirmation: String,
    #[serde(deserialize_with = "secret")]
    code: Secret,
    #[serde(deserialize_with = "secret")]
    password: Secret,
}

pub(super) async fn confirm(
    State(console): State<Console>,
    connection: Connection,
    headers: HeaderMap,
    Form(shown): Form<Shown>,
) -> Answer {
    trusted(connection, &headers)?;
    let wrong = match password(&shown.password) {
        Err(what) => Wrong::default().with("password", what),
        Ok(password) => {
            let done = match TokenId::parse(&shown.confirmation) {
                Ok(confirmation) => {
                    console.auth.confirm_reset(&confirmation, &shown.code, &password, connection.peer.ip()).await?
                }
                Err(_) => ResetDone::Wrong,
            };
            let what = match done {
                ResetDone::Done => return Ok(see("/sign-in?done=reset")),
                ResetDone::Expired => "This code is too old. Ask for another.",
                ResetDone::Wrong => CODE_WRONG,
            };
            Wrong::default().with("code", what)
        }
    };
    Ok(invalid(&CodePage { shell: Shell::public(TITLE), confirmation: shown.confirmation, wrong }))
}
