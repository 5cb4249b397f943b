//! Homes: those that somebody is in, and for the vendor's people all of them.

use askama::Template;
use axum::extract::State;
use iot_core::{
    home::{HOMES_PER_ACCOUNT_MAX, Home, HomeRefusal, Ruling, member_index},
    id::AccountId,
    problem::{Cursor, Problem},
    secret::Secret,
    store::{MetaStoreExt, StoreError},
    time::Timestamp,
};
use iot_http::{Form, Identity, Person, ProblemResponse, Query, identity::Connection};
use serde::Deserialize;

use super::{
    Console,
    home::reader_of,
    page::{Answer, Shell, Wrong, invalid, page, secret, see},
    sign_in::person_name,
};

/// Homes of a page.
const ROWS: u32 = 50;

#[derive(Deserialize)]
pub(super) struct View {
    cursor: Option<String>,
    done: Option<String>,
}

struct Row {
    id: String,
    name: String,
    /// What the reader is to it; empty if nothing.
    role: String,
    /// Whether the reader's access has ended, so that they can only leave.
    is_over: bool,
    members: usize,
}

impl Row {
    fn of(home: &Home, reader: Option<&AccountId>, now: Timestamp) -> Self {
        let role = reader.and_then(|reader| home.member(reader)).map(|member| role_word(member.role).to_owned());
        Self {
            id: home.id.to_string(),
            name: home.name.clone(),
            is_over: role.is_some() && reader.is_none_or(|reader| home.role_of(reader, now).is_none()),
            role: role.unwrap_or_default(),
            members: home.members.len(),
        }
    }
}

/// A role as people say it.
pub(super) fn role_word(role: iot_core::home::Role) -> &'static str {
    match role {
        iot_core::home::Role::Guest => "guest",
        iot_core::home::Role::Member => "member",
        iot_core::home::Role::Manager => "manager",
        iot_core::home::Role::Owner => "owner",
    }
}

#[derive(Template)]
#[template(path = "homes.html")]
struct HomesPage {
    shell: Shell,
    own: Vec<Row>,
    /// Of the tenant, for those who may see them.
    all: Vec<Row>,
    /// Where the next page is; empty after the last.
    next: String,
    name: String,
    wrong: Wrong,
}

pub(super) async fn list(State(console): State<Console>, who: Identity, Query(view): Query<View>) -> Answer {
    let shown = compose(&console, &who, view).await?;
    Ok(page(&shown))
}

async fn compose(console: &Console, who: &Identity, view: View) -> Result<HomesPage, StoreError> {
    let tenant = &who.principal.tenant;
    let shell = Shell::of(console, who, "homes", "Homes").await?.noticing(view.done.as_deref());
    let (reader, now) = (reader_of(who), console.now());
    let mut own = Vec::new();
    if let Some(account) = reader {
        let index = member_index(tenant, account);
        let found = console.meta().page::<Home>("member", &index, None, HOMES_PER_ACCOUNT_MAX).await?;
        own.extend(found.items.iter().map(|stored| Row::of(&stored.document, reader, now)));
    }
    let (mut all, mut next) = (Vec::new(), String::new());
    if shell.may.read {
        let after = view.cursor.as_deref().and_then(Cursor::decode);
        let found = console.meta().page::<Home>("tenant", tenant.as_str(), after.as_ref(), ROWS).await?;
        all.extend(found.items.iter().map(|stored| Row::of(&stored.document, reader, now)));
        next = found.next.map(|cursor| format!("/homes?cursor={}", cursor.encode())).unwrap_or_default();
    }
    Ok(HomesPage { shell, own, all, next, name: String::new(), wrong: Wrong::default() })
}

#[derive(Deserialize)]
pub(super) struct NewHome {
    #[serde(default)]
    name: String,
}

pub(super) async fn create(
    State(console): State<Console>,
    who: Identity,
    person: Person,
    Form(asked): Form<NewHome>,
) -> Answer {
    let what = match person_name(&asked.name) {
        Err(what) => what,
        Ok(name) => match console.auth.create_home(&person.principal, name).await? {
            Ruling::Changed(home) => return Ok(see(&format!("/homes/{}?done=home", home.id))),
            Ruling::Refused(why) => refusal(why)?,
        },
    };
    let shown = compose(&console, &who, View { cursor: None, done: None }).await?;
    Ok(invalid(&HomesPage { name: asked.name, wrong: Wrong::default().with("name", what), ..shown }))
}

#[derive(Deserialize)]
pub(super) struct Accepting {
    #[serde(deserialize_with = "secret")]
    code: Secret,
}

pub(super) async fn accept(
    State(console): State<Console>,
    connection: Connection,
    who: Identity,
    person: Person,
    Form(asked): Form<Accepting>,
) -> Answer {
    match console.auth.accept_invite(&person.principal, &asked.code, connection.peer.ip()).await? {
        Ruling::Changed(home) => Ok(see(&format!("/homes/{}?done=joined", home.id))),
        Ruling::Refused(why) => {
            let wrong = Wrong::default().with("code", refusal(why)?);
            let shown = compose(&console, &who, View { cursor: None, done: None }).await?;
            Ok(invalid(&HomesPage { wrong, ..shown }))
        }
    }
}

/// Why something about a home was refused, for the person who asked; an error where there is nothing to mend.
pub(super) fn refusal(why: HomeRefusal) -> Result<String, ProblemResponse> {
    Ok(match why {
        HomeRefusal::NoSuchMember => return Err(Problem::not_found("member").into()),
        HomeRefusal::NoSuchInvite => return Err(Problem::not_found("invitation").into()),
        HomeRefusal::AlreadyMember => "You are in this home already.",
        HomeRefusal::CodeMismatch => "No open invitation has this code. Check it, or ask for another.",
        HomeRefusal::CodeExpired => "The invitation has ended; ask for another.",
        HomeRefusal::CodeUsed => "The invitation was accepted by somebody else; ask for another.",
        HomeRefusal::LastOwner => "You are the owner: transfer the home to a member first, or dissolve it.",
        HomeRefusal::MembersFull => "The home has as many members as it can have.",
        HomeRefusal::InvitesFull => "The home has as many open invitations as it can have; withdraw one.",
        HomeRefusal::HomesFull => "You are in as many homes as you can be in; leave one.",
        HomeRefusal::AlreadyOver => "That end is past; choose a later one.",
        HomeRefusal::Throttled => "Too many wrong codes; wait ten minutes.",
        _ => return Err(Problem::forbidden().into()),
    }
    .to_owned())
}
