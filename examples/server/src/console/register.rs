//! How a stranger gets an account: a form, a mailed code, and they may sign in.

use askama::Template;
use axum::{extract::State, http::HeaderMap, response::Response};
use iot_auth::account::{EmailAddress, Password, Registered, Verified};
use iot_core::{id::TokenId, secret::Secret};
use iot_http::{Doc, Form, Guard, Query, Routes, identity::Connection};
use serde::Deserialize;

use super::{
    Console, form,
    page::{Answer, Shell, Wrong, invalid, page, secret, see},
    show,
    sign_in::{password, person_name, sentence, trusted},
};

pub(super) fn routes(routes: Routes<Console>) -> Routes<Console> {
    let anybody = Guard::Public { why: "who has no account yet has no credential" };
    let code = Guard::Public { why: "the mailed code is the credential" };
    routes
        .get("/register", anybody, Doc::new("Make an account"), show)
        .post("/register", anybody, form("Make an account"), register)
        .get("/register/code", code, Doc::new("The mailed code"), show_code)
        .post("/register/code", code, form("Have the account, by the mailed code"), verify)
}

const TITLE: &str = "Make an account";

#[derive(Template)]
#[template(path = "register.html")]
struct RegisterPage {
    shell: Shell,
    email: String,
    name: String,
    wrong: Wrong,
}

pub(super) async fn show() -> Response {
    let (email, name) = (String::new(), String::new());
    page(&RegisterPage { shell: Shell::public(TITLE), email, name, wrong: Wrong::default() })
}

#[derive(Deserialize)]
pub(super) struct Asked {
    #[serde(default)]
    email: String,
    #[serde(default)]
    name: String,
    #[serde(deserialize_with = "secret")]
    password: Secret,
}

impl Asked {
    fn checked(&self) -> Result<(EmailAddress, Password, &str), Wrong> {
        let mut wrong = Wrong::default();
        let email = EmailAddress::parse(&self.email).map_err(|error| wrong.add("email", sentence(&error))).ok();
        let password = password(&self.password).map_err(|what| wrong.add("password", what)).ok();
        let name = person_name(&self.name).map_err(|what| wrong.add("name", what)).ok();
        match (email, password, name) {
            (Some(email), Some(password), Some(name)) => Ok((email, password, name)),
            _ => Err(wrong),
        }
    }
}

/// The answer is the same whether or not the address has an account.
pub(super) async fn register(
    State(console): State<Console>,
    connection: Connection,
    headers: HeaderMap,
    Form(asked): Form<Asked>,
) -> Answer {
    trusted(connection, &headers)?;
    let wrong = match asked.checked() {
        Err(wrong) => wrong,
        Ok((email, password, name)) => {
            match console.auth.register(&email, &password, name, connection.peer.ip()).await? {
                Registered::Asked(confirmation) => {
                    return Ok(see(&format!("/register/code?confirmation={confirmation}")));
                }
                Registered::Throttled(wait) => Wrong::default().with("email", throttled(wait)),
            }
        }
    };
    Ok(invalid(&RegisterPage { shell: Shell::public(TITLE), email: asked.email, name: asked.name, wrong }))
}

fn throttled(wait: std::time::Duration) -> String {
    format!("Too many accounts are asked for from your network; come again in {}.", show::span(wait))
}

#[derive(Template)]
#[template(path = "register_code.html")]
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

const CODE_TITLE: &str = "Confirm your e-mail";

pub(super) async fn show_code(Query(waiting): Query<Waiting>) -> Response {
    let shell = Shell::public(CODE_TITLE);
    page(&CodePage { shell, confirmation: waiting.confirmation, wrong: Wrong::default() })
}

#[derive(Deserialize)]
pub(super) struct Shown {
    #[serde(default)]
    confirmation: String,
    #[serde(deserialize_with = "secret")]
    code: Secret,
}

pub(super) async fn verify(
    State(console): State<Console>,
    connection: Connection,
    headers: HeaderMap,
    Form(shown): Form<Shown>,
) -> Answer {
    trusted(connection, &headers)?;
    let verified = match TokenId::parse(&shown.confirmation) {
        Ok(confirmation) => console.auth.verify(&confirmation, &shown.code, connection.peer.ip()).await?,
        Err(_) => Verified::Wrong,
    };
    let what = match verified {
        Verified::Done(_) => return Ok(see("/sign-in?done=registered")),
        Verified::EmailTaken => "This address has an account meanwhile. Go to the sign-in page.",
        Verified::Expired => "This code is too old. Register again to get another.",
        Verified::Wrong => CODE_WRONG,
    };
    let wrong = Wrong::default().with("code", what);
    Ok(invalid(&CodePage { shell: Shell::public(CODE_TITLE), confirmation: shown.confirmation, wrong }))
}

/// After five tries no code is right any more, and nobody is told which of both it is.
pub(super) const CODE_WRONG: &str = "This code is not right, or was tried too often. Check it, or ask for another.";
