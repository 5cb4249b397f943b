//! One member of a home: what they are to it and until when, and the way out.

use std::time::Duration;

use askama::Template;
use axum::{extract::State, http::StatusCode};
use iot_core::{
    access::Permission,
    home::{Home, Member, Role, Ruling},
    id::AccountId,
    problem::Problem,
    store::Stored,
};
use iot_http::{Doc, Form, Guard, Identity, Path, ProblemResponse, Routes, Target};
use serde::Deserialize;

use super::{
    Console,
    confirm::{self, Confirmed, Question},
    form,
    home::reader_of,
    homes::{refusal, role_word},
    page::{Answer, Shell, Wrong, account_name, page_as, see},
    show::Moment,
};

pub(super) fn routes(routes: Routes<Console>) -> Routes<Console> {
    let (manage, own) = (Guard::Home(Permission::ManageHome), Guard::Home(Permission::OwnHome));
    routes
        .get("/homes/{home}/members/{account}", manage, Doc::new("A member of a home"), show)
        .post("/homes/{home}/members/{account}", manage, form("Change what a member is"), change)
        .get("/homes/{home}/members/{account}/remove", manage, Doc::new("Remove a member?"), ask_remove)
        .post("/homes/{home}/members/{account}/remove", manage, form("Remove a member"), remove)
        .get("/homes/{home}/members/{account}/own", own, Doc::new("Transfer a home?"), ask_transfer)
        .post("/homes/{home}/members/{account}/own", own, form("Transfer a home"), transfer)
}

#[derive(Deserialize)]
pub(super) struct MemberPath {
    account: AccountId,
}

/// Lengths of access that can be chosen, in seconds.
const LENGTHS: [(u64, &str); 4] = [
    (7_200, "two hours from now"),
    (86_400, "a day from now"),
    (604_800, "a week from now"),
    (2_592_000, "30 days from now"),
];

#[derive(Template)]
#[template(path = "member.html")]
struct MemberPage {
    shell: Shell,
    home: String,
    home_name: String,
    account: String,
    name: String,
    role: &'static str,
    /// Who let them in; empty for the owner.
    by: String,
    since: Moment,
    ends: Option<Moment>,
    is_over: bool,
    /// What the reader may make of them; nothing if they may change nothing.
    roles: Vec<(&'static str, &'static str)>,
    lengths: [(u64, &'static str); 4],
    may_transfer: bool,
    version: u64,
    asked: NewRole,
    wrong: Wrong,
    refused: &'static str,
}

/// The form for a role, as it was sent.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct NewRole {
    #[serde(default)]
    role: String,
    /// Seconds from now; empty for ever; `keep` for the end that there is.
    #[serde(default)]
    ends: String,
    #[serde(default)]
    seen: String,
}

pub(super) async fn show(
    State(console): State<Console>,
    who: Identity,
    Target(home): Target<Home>,
    Path(path): Path<MemberPath>,
) -> Answer {
    let member = known(&home, &path.account)?;
    let ends = if member.expires.is_some() { "keep" } else { "" };
    let asked = NewRole { role: role_word(member.role).to_owned(), ends: ends.to_owned(), seen: String::new() };
    let shown = compose(&console, &who, &home, member, asked).await?;
    Ok(page_as(StatusCode::OK, &shown))
}

fn known<'a>(home: &'a Stored<Home>, account: &AccountId) -> Result<&'a Member, ProblemResponse> {
    home.document.member(account).ok_or_else(|| Problem::not_found("member").into())
}

async fn compose(
    console: &Console,
    who: &Identity,
    stored: &Stored<Home>,
    member: &Member,
    asked: NewRole,
) -> Result<MemberPage, ProblemResponse> {
    let (home, now) = (&stored.document, console.now());
    let name = account_name(console, &home.tenant, &member.account).await?;
    let by = match &member.granted_by {
        Some(by) => account_name(console, &home.tenant, by).await?,
        None => String::new(),
    };
    let own = reader_of(who).and_then(|reader| home.role_of(reader, now));
    let may_change = own.is_some_and(|own| own.may_grant(member.role));
    let may_grant = |role: &Role| may_change && own.is_some_and(|own| own.may_grant(*role));
    let end = home.end_of(member);
    Ok(MemberPage {
        shell: Shell::of(console, who, "homes", name.as_str()).await?,
        home: home.id.to_string(),
        home_name: home.name.clone(),
        account: member.account.to_string(),
        name,
        role: role_word(member.role),
        by,
        since: Moment::of(member.since, now),
        ends: (end < iot_core::time::Timestamp::MAX).then(|| Moment::of(end, now)),
        is_over: end <= now,
        roles: Role::ALL
            .iter()
            .filter(|role| may_grant(role))
            .map(|role| (role_word(*role), role_says(*role)))
            .collect(),
        lengths: LENGTHS,
        may_transfer: own == Some(Role::Owner) && matches!(member.role, Role::Member | Role::Manager) && end > now,
        version: stored.version,
        asked,
        wrong: Wrong::default(),
        refused: "",
    })
}

/// What a role may, in a few words.
fn role_says(role: Role) -> &'static str {
    match role {
        Role::Guest => "guest: sees and controls",
        Role::Member => "member: history too",
        Role::Manager => "manager: invites and adds devices",
        Role::Owner => "owner",
    }
}

pub(super) async fn change(
    State(console): State<Console>,
    who: Identity,
    Target(home): Target<Home>,
    Path(path): Path<MemberPath>,
    Form(asked): Form<NewRole>,
) -> Answer {
    let member = known(&home, &path.account)?;
    let id = &home.document.id;
    if asked.seen != home.version.to_string() {
        let shown = compose(&console, &who, &home, member, asked).await?;
        let refused = "The home has changed since you looked. Check what is said here, and save again.";
        return Ok(page_as(StatusCode::CONFLICT, &MemberPage { refused, ..shown }));
    }
    let wrong = match (role_of(&asked.role), ends_of(&asked.ends, member, console.now())) {
        (None, _) => Wrong::default().with("role", "Choose what they are to be."),
        (_, Err(())) => Wrong::default().with("ends", "Choose for how long."),
        (Some(role), Ok(ends)) => match console.auth.set_role(&who.principal, id, &path.account, role, ends).await? {
            Ruling::Changed(_) => return Ok(see(&format!("/homes/{id}?done=role"))),
            Ruling::Refused(why) => Wrong::default().with("role", refusal(why)?),
        },
    };
    let shown = compose(&console, &who, &home, member, asked).await?;
    Ok(page_as(StatusCode::UNPROCESSABLE_ENTITY, &MemberPage { wrong, ..shown }))
}

fn role_of(word: &str) -> Option<Role> {
    Role::ALL.into_iter().find(|role| role_word(*role) == word)
}

/// The end that is asked for, among those that can be chosen.
fn ends_of(
    text: &str,
    member: &Member,
    now: iot_core::time::Timestamp,
) -> Result<Option<iot_core::time::Timestamp>, ()> {
    match text {
        "" => Ok(None),
        "keep" => Ok(member.expires),
        text => {
            let length = LENGTHS.iter().find(|(seconds, _)| seconds.to_string() == text).ok_or(())?;
            Ok(Some(now.plus(Duration::from_secs(length.0))))
        }
    }
}

async fn removal(
    console: &Console,
    who: &Identity,
    stored: &Stored<Home>,
    account: &AccountId,
) -> Result<Question, ProblemResponse> {
    let home = &stored.document;
    let name = account_name(console, &home.tenant, &known(stored, account)?.account).await?;
    let mut ends =
        vec![format!("{name} loses access to this home and its devices at once, live connections included.")];
    if let Some(Ruling::Changed(after)) = reader_of(who).map(|reader| home.remove(reader, account, console.now())) {
        let gone =
            home.members.iter().filter(|other| other.account != *account && after.member(&other.account).is_none());
        for other in gone {
            let other = account_name(console, &home.tenant, &other.account).await?;
            ends.push(format!("So does {other}, whose access was granted by {name}."));
        }
        let invites = home.invites.len() - after.invites.len();
        if invites > 0 {
            ends.push(format!("Their open invitations ({invites}) are withdrawn."));
        }
    }
    Ok(Question {
        section: "homes",
        asks: format!("Remove {name} from {}?", home.name),
        from: (format!("/homes/{}/members/{account}", home.id), name),
        ends,
        stays: vec!["The devices and their history stay in the home.".to_owned()],
        action: format!("/homes/{}/members/{account}/remove", home.id),
        seen: stored.version.to_string(),
        button: "Remove",
    })
}

pub(super) async fn ask_remove(
    State(console): State<Console>,
    who: Identity,
    Target(home): Target<Home>,
    Path(path): Path<MemberPath>,
) -> Answer {
    let question = removal(&console, &who, &home, &path.account).await?;
    confirm::ask(&console, &who, question).await
}

pub(super) async fn remove(
    State(console): State<Console>,
    who: Identity,
    Target(home): Target<Home>,
    Path(path): Path<MemberPath>,
    Form(confirmed): Form<Confirmed>,
) -> Answer {
    let question = removal(&console, &who, &home, &path.account).await?;
    if !confirmed.is_of(home.version) {
        return confirm::stale(&console, &who, question).await;
    }
    let id = &home.document.id;
    match console.auth.remove_member(&who.principal, id, &path.account).await? {
        Ruling::Changed(_) => Ok(see(&format!("/homes/{id}?done=removed"))),
        Ruling::Refused(why) => confirm::refuse(&console, &who, question, refusal(why)?).await,
    }
}

async fn handing_over(
    console: &Console,
    stored: &Stored<Home>,
    account: &AccountId,
) -> Result<Question, ProblemResponse> {
    let home = &stored.document;
    let name = account_name(console, &home.tenant, &known(stored, account)?.account).await?;
    Ok(Question {
        section: "homes",
        asks: format!("Make {name} the owner of {}?", home.name),
        ends: vec![
            format!("You are a manager from then on, and {name} can remove you."),
            "Only the new owner can release devices, dissolve the home, or give it back.".to_owned(),
        ],
        stays: vec!["Devices, their history, members and guests stay as they are.".to_owned()],
        action: format!("/homes/{}/members/{account}/own", home.id),
        from: (format!("/homes/{}/members/{account}", home.id), name),
        seen: stored.version.to_string(),
        button: "Transfer the home",
    })
}

pub(super) async fn ask_transfer(
    State(console): State<Console>,
    who: Identity,
    Target(home): Target<Home>,
    Path(path): Path<MemberPath>,
) -> Answer {
    let question = handing_over(&console, &home, &path.account).await?;
    confirm::ask(&console, &who, question).await
}

pub(super) async fn transfer(
    State(console): State<Console>,
    who: Identity,
    Target(home): Target<Home>,
    Path(path): Path<MemberPath>,
    Form(confirmed): Form<Confirmed>,
) -> Answer {
    let question = handing_over(&console, &home, &path.account).await?;
    if !confirmed.is_of(home.version) {
        return confirm::stale(&console, &who, question).await;
    }
    let id = &home.document.id;
    match console.auth.transfer_home(&who.principal, id, &path.account).await? {
        Ruling::Changed(_) => Ok(see(&format!("/homes/{id}?done=transferred"))),
        Ruling::Refused(why) => confirm::refuse(&console, &who, question, refusal(why)?).await,
    }
}
