//! A person's own account: name, password, and the browsers and applications that are signed in.

use askama::Template;
use axum::{extract::State, http::HeaderMap};
use iot_auth::account::{Deleted, Login, PasswordChanged};
use iot_core::{id::LoginId, problem::Problem, secret::Secret};
use iot_http::{Form, Identity, Path, Person, ProblemResponse, Query, identity::Connection};
use serde::Deserialize;

use super::{
    Console,
    confirm::{self, Question},
    page::{Answer, Shell, Wrong, invalid, page, secret, see},
    session::{CookieChange, label},
    show::{self, Moment},
    sign_in::{password, person_name},
};

#[derive(Deserialize)]
pub(super) struct View {
    done: Option<String>,
}

#[derive(Template)]
#[template(path = "account.html")]
struct AccountPage {
    shell: Shell,
    email: String,
    /// Whether it was proved that the address is theirs.
    verified: bool,
    /// What the account is to the vendor; empty for a customer.
    role: String,
    name: String,
    logins: Vec<LoginShown>,
    wrong: Wrong,
}

struct LoginShown {
    id: String,
    label: String,
    is_this: bool,
    begun: Moment,
    used: Moment,
}

pub(super) async fn show(
    State(console): State<Console>,
    who: Identity,
    person: Person,
    Query(view): Query<View>,
) -> Answer {
    let shown = compose(&console, &who, &person, view.done.as_deref()).await?;
    Ok(page(&shown))
}

async fn compose(
    console: &Console,
    who: &Identity,
    person: &Person,
    done: Option<&str>,
) -> Result<AccountPage, ProblemResponse> {
    let shell = Shell::of(console, who, "account", "Your account").await?.noticing(done);
    let account = console.auth.account(&person.principal, &person.account).await?;
    let account = account.ok_or_else(|| Problem::not_found("account"))?;
    let email = console.auth.email_of(&account).await?;
    let logins = console.auth.logins(&person.principal.tenant, &person.account).await?;
    let now = console.now();
    let shown = |login: Login| LoginShown {
        is_this: login.id == person.login,
        id: login.id.to_string(),
        label: software(&login.label),
        begun: Moment::of(login.created, now),
        used: Moment::of(login.last_used, now),
    };
    Ok(AccountPage {
        shell,
        email: email.expose().to_owned(),
        verified: account.verified,
        role: account.staff.map(|role| format!("{role:?}").to_lowercase()).unwrap_or_default(),
        name: account.name,
        logins: logins.into_iter().map(shown).collect(),
        wrong: Wrong::default(),
    })
}

/// What a client says of itself, in words that people know.
fn software(label: &str) -> String {
    let find =
        |names: &[(&str, &'static str)]| names.iter().find(|(mark, _)| label.contains(mark)).map(|(_, name)| *name);
    let browser = find(&[
        ("Edg/", "Edge"),
        ("Firefox/", "Firefox"),
        ("Chrome/", "Chrome"),
        ("Safari/", "Safari"),
        ("curl/", "curl"),
    ]);
    let system = find(&[
        ("Android", "Android"),
        ("iPhone", "iPhone"),
        ("iPad", "iPad"),
        ("Windows", "Windows"),
        ("Mac OS", "macOS"),
        ("Linux", "Linux"),
    ]);
    match (browser, system) {
        (Some(browser), Some(system)) => format!("{browser} on {system}"),
        (Some(browser), None) => browser.to_owned(),
        _ if label.is_empty() => "unnamed".to_owned(),
        _ => label.to_owned(),
    }
}

#[derive(Deserialize)]
pub(super) struct NewName {
    #[serde(default)]
    name: String,
}

pub(super) async fn rename(
    State(console): State<Console>,
    who: Identity,
    person: Person,
    Form(asked): Form<NewName>,
) -> Answer {
    match person_name(&asked.name) {
        Ok(name) => match console.auth.rename_account(&person.principal, &person.account, name).await? {
            true => Ok(see("/account?done=name")),
            false => Err(Problem::not_found("account").into()),
        },
        Err(what) => {
            let shown = compose(&console, &who, &person, None).await?;
            Ok(invalid(&AccountPage { name: asked.name, wrong: Wrong::default().with("name", what), ..shown }))
        }
    }
}

#[derive(Deserialize)]
pub(super) struct NewPassword {
    #[serde(deserialize_with = "secret")]
    present: Secret,
    #[serde(deserialize_with = "secret")]
    password: Secret,
}

pub(super) async fn change_password(
    State(console): State<Console>,
    connection: Connection,
    headers: HeaderMap,
    (who, person): (Identity, Person),
    Form(asked): Form<NewPassword>,
) -> Answer {
    let wrong = match password(&asked.password) {
        Err(what) => Wrong::default().with("password", what),
        Ok(new) => {
            let (label, from) = (label(&headers), connection.peer.ip());
            let Person { principal, account, .. } = &person;
            match console.auth.change_password(principal, account, &asked.present, &new, label, from).await? {
                PasswordChanged::Done(signed_in) => {
                    let change = CookieChange::begin(connection, &signed_in, console.now());
                    return Ok(change.onto(see("/account?done=password")));
                }
                PasswordChanged::Wrong => Wrong::default().with("present", "This is not your present password."),
                PasswordChanged::Throttled(wait) => Wrong::default()
                    .with("present", format!("Too many tries from your network; come again in {}.", show::span(wait))),
            }
        }
    };
    let shown = compose(&console, &who, &person, None).await?;
    Ok(invalid(&AccountPage { wrong, ..shown }))
}

pub(super) async fn end_login(
    State(console): State<Console>,
    connection: Connection,
    person: Person,
    Path(login): Path<LoginId>,
) -> Answer {
    match console.auth.log_out(&person.principal, &person.account, &login).await? {
        true if login == person.login => Ok(CookieChange::end(connection).onto(see("/sign-in"))),
        true => Ok(see("/account?done=login")),
        false => Err(Problem::not_found("sign-in").into()),
    }
}

pub(super) async fn ask_end_all(State(console): State<Console>, who: Identity) -> Answer {
    let question = Question {
        section: "account",
        asks: "Sign out everywhere?".to_owned(),
        from: account_page(),
        ends: vec!["Every browser and every application is signed out, this browser too.".to_owned()],
        stays: vec!["Your account, your homes and your devices.".to_owned()],
        action: "/account/sign-out-everywhere".to_owned(),
        seen: String::new(),
        button: "Sign out everywhere",
    };
    confirm::ask(&console, &who, question).await
}

fn account_page() -> (String, String) {
    ("/account".to_owned(), "Your account".to_owned())
}

pub(super) async fn end_all(State(console): State<Console>, connection: Connection, person: Person) -> Answer {
    match console.auth.log_out_everywhere(&person.principal, &person.account).await? {
        true => Ok(CookieChange::end(connection).onto(see("/sign-in"))),
        false => Err(Problem::not_found("account").into()),
    }
}

fn deletion() -> Question {
    Question {
        section: "account",
        asks: "Delete your account?".to_owned(),
        from: account_page(),
        ends: vec![
            "Your name, your address and your password are erased, and all sign-ins are over.".to_owned(),
            "You leave every home that you were let into, with all whom you have let in.".to_owned(),
        ],
        stays: vec!["Homes of others and their devices. You can register again with the same address.".to_owned()],
        action: "/account/delete".to_owned(),
        seen: String::new(),
        button: "Delete the account",
    }
}

pub(super) async fn ask_delete(State(console): State<Console>, who: Identity) -> Answer {
    confirm::ask(&console, &who, deletion()).await
}

pub(super) async fn delete(
    State(console): State<Console>,
    connection: Connection,
    (who, person): (Identity, Person),
) -> Answer {
    let why = match console.auth.delete_account(&person.principal, &person.account).await? {
        Deleted::Done => return Ok(CookieChange::end(connection).onto(see("/sign-in?done=deleted"))),
        Deleted::OwnsHomes => "You own homes: transfer them to somebody or dissolve them first.",
        Deleted::IsAdmin => "You are an administrator: another one must take that from you first.",
        Deleted::NoSuchAccount => return Err(Problem::not_found("account").into()),
    };
    confirm::refuse(&console, &who, deletion(), why).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_are_called_by_their_names() {
        let chrome =
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36";
        assert_eq!(software(chrome), "Chrome on Linux");
        assert_eq!(software("Ann's phone"), "Ann's phone");
        assert_eq!(software(""), "unnamed");
    }
}
