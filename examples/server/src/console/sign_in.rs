//! The way in, and out.

use askama::Template;
use axum::{extract::State, http::HeaderMap};
use iot_auth::account::{EmailAddress, LoggedIn, NAME_BYTES_MAX, Password, StaffCreated, WeakPassword};
use iot_core::{problem::Problem, secret::Secret};
use iot_http::{Form, Person, ProblemResponse, Query, identity::Connection, same_origin};
use serde::Deserialize;

use super::{
    Console,
    page::{Answer, Shell, Wrong, invalid, page, secret, see},
    session::{CookieChange, label},
    show,
};

#[derive(Deserialize)]
pub(super) struct Wish {
    /// Where to go afterwards.
    #[serde(default)]
    next: String,
    done: Option<String>,
}

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignInPage {
    shell: Shell,
    next: String,
    email: String,
    wrong: Wrong,
    /// Nobody has used the password that the server printed.
    first: bool,
}

pub(super) async fn show(State(console): State<Console>, Query(wish): Query<Wish>) -> Answer {
    let (shell, first) = (Shell::public("Sign in").noticing(wish.done.as_deref()), console.auth.awaits_admin().await?);
    Ok(page(&SignInPage { shell, next: wish.next, email: String::new(), wrong: Wrong::default(), first }))
}

#[derive(Deserialize)]
pub(super) struct Entry {
    #[serde(default)]
    email: String,
    #[serde(deserialize_with = "secret")]
    password: Secret,
    #[serde(default)]
    next: String,
}

pub(super) async fn sign_in(
    State(console): State<Console>,
    connection: Connection,
    headers: HeaderMap,
    Form(entry): Form<Entry>,
) -> Answer {
    trusted(connection, &headers)?;
    let what = match EmailAddress::parse(&entry.email) {
        Err(error) => ("email", format!("{}.", capital(&error.to_string()))),
        Ok(email) => match console.auth.log_in(&email, &entry.password, label(&headers), connection.peer.ip()).await? {
            LoggedIn::Granted(signed_in) => {
                let change = CookieChange::begin(connection, &signed_in, console.now());
                return Ok(change.onto(see(own_path(&entry.next))));
            }
            LoggedIn::Refused => ("password", "The e-mail and the password do not belong together.".to_owned()),
            LoggedIn::Throttled(wait) => {
                ("password", format!("Too many tries from your network; come again in {}.", show::span(wait)))
            }
        },
    };
    let wrong = Wrong::default().with(what.0, what.1);
    let (shell, first) = (Shell::public("Sign in"), console.auth.awaits_admin().await?);
    Ok(invalid(&SignInPage { shell, next: entry.next, email: entry.email, wrong, first }))
}

#[derive(Template)]
#[template(path = "setup.html")]
struct SetupPage {
    shell: Shell,
    email: String,
    name: String,
    wrong: Wrong,
}

const SETUP: &str = "First administrator";

/// The page for whoever has the printed password; once that is used, the one for signing in.
pub(super) async fn setup(State(console): State<Console>) -> Answer {
    if !console.auth.awaits_admin().await? {
        return Ok(see("/sign-in"));
    }
    let (email, name) = (String::new(), String::new());
    Ok(page(&SetupPage { shell: Shell::public(SETUP), email, name, wrong: Wrong::default() }))
}

#[derive(Deserialize)]
pub(super) struct First {
    #[serde(deserialize_with = "secret")]
    once: Secret,
    #[serde(default)]
    email: String,
    #[serde(default)]
    name: String,
    #[serde(deserialize_with = "secret")]
    password: Secret,
}

/// Makes the first administrator, who is then signed in.
pub(super) async fn set_up(
    State(console): State<Console>,
    connection: Connection,
    headers: HeaderMap,
    Form(first): Form<First>,
) -> Answer {
    trusted(connection, &headers)?;
    let wrong = match checked(&first) {
        Err(wrong) => wrong,
        Ok((email, password, name)) => {
            let from = connection.peer.ip();
            let once = Secret::new(first.once.expose().trim());
            match console.auth.create_staff(&once, &email, &password, name, from).await? {
                StaffCreated::Done(_) => {
                    let entry = Entry { email: first.email, password: first.password, next: String::new() };
                    return sign_in(State(console), connection, headers, Form(entry)).await;
                }
                StaffCreated::Refused => Wrong::default().with(
                    "once",
                    "This password is wrong or was used. Stop the server and run iot-server reset-admin for another.",
                ),
                StaffCreated::EmailTaken => Wrong::default().with("email", "This address has an account: sign in."),
            }
        }
    };
    Ok(invalid(&SetupPage { shell: Shell::public(SETUP), email: first.email, name: first.name, wrong }))
}

fn checked(first: &First) -> Result<(EmailAddress, Password, &str), Wrong> {
    let mut wrong = Wrong::default();
    let email = EmailAddress::parse(&first.email).map_err(|error| wrong.add("email", sentence(&error))).ok();
    let password = password(&first.password).map_err(|what| wrong.add("password", what)).ok();
    let name = person_name(&first.name).map_err(|what| wrong.add("name", what)).ok();
    match (email, password, name) {
        (Some(email), Some(password), Some(name)) => Ok((email, password, name)),
        _ => Err(wrong),
    }
}

/// A name by which a person wants to be called.
pub(super) fn person_name(text: &str) -> Result<&str, String> {
    let name = text.trim();
    let fits = !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.contains(char::is_control);
    if fits { Ok(name) } else { Err(format!("Give a name of at most {NAME_BYTES_MAX} characters.")) }
}

/// What is wrong with a password, for people.
pub(super) fn password(text: &Secret) -> Result<Password, String> {
    Password::parse(text).map_err(|weak| match weak {
        WeakPassword::Length => "Use 8 characters or more, and at most 1024.".to_owned(),
        weak => sentence(&weak),
    })
}

pub(super) fn sentence(error: &impl std::fmt::Display) -> String {
    format!("{}.", capital(&error.to_string()))
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

pub(super) async fn sign_out(State(console): State<Console>, connection: Connection, person: Person) -> Answer {
    let _was_there = console.auth.log_out(&person.principal, &person.account, &person.login).await?;
    Ok(CookieChange::end(connection).onto(see("/sign-in")))
}

/// Passwords travel encrypted or not at all, and nobody is signed in by another site's form.
pub(super) fn trusted(connection: Connection, headers: &HeaderMap) -> Result<(), ProblemResponse> {
    if !connection.is_private() {
        return Err(Problem::new(403, "unencrypted", "do this over HTTPS, or from the machine itself").into());
    }
    match same_origin(connection, headers) {
        true => Ok(()),
        false => Err(Problem::new(403, "cross_site", "another site made this request; open the console itself").into()),
    }
}

/// Where to go after signing in: a path of this server, whatever the form says.
fn own_path(next: &str) -> &str {
    let odd = next.contains(['\\', '\r', '\n']) || !next.is_ascii() || next.contains(char::is_control);
    match next.starts_with('/') && !next.starts_with("//") && !odd {
        true => next,
        false => "/",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_sent_elsewhere_after_signing_in() {
        assert_eq!(own_path("/devices?state=online"), "/devices?state=online");
        for other in ["", "//evil.example", "https://evil.example", "/\\evil.example", "evil", "/a\r\nb", "/\u{e9}"] {
            assert_eq!(own_path(other), "/", "{other}");
        }
    }
}
