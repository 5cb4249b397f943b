//! The vendor's people: who has an account, and what they are.

use askama::Template;
use axum::extract::State;
use iot_auth::{
    account::{Account, EmailAddress, StaffSet},
    token::Role,
};
use iot_core::{
    access::Permission,
    id::AccountId,
    problem::{Cursor, Problem},
    store::{INDEX_PAGE_MAX, Stored},
};
use iot_http::{Doc, Form, Guard, Identity, Path, ProblemResponse, Query, Routes};
use serde::Deserialize;

use super::{
    Console,
    confirm::{self, Confirmed, Question},
    form,
    home::reader_of,
    page::{Answer, Shell, Wrong, encoded, invalid, page, see},
    show::Moment,
    sign_in::sentence,
};

/// Accounts of a page.
const ROWS: usize = 50;
/// The most accounts that are looked through for one page; its end is then a place to go on from.
const SCANNED_MAX: u32 = 2 * INDEX_PAGE_MAX;

pub(super) fn routes(routes: Routes<Console>) -> Routes<Console> {
    let manage = Guard::Tenant(Permission::ManageAccounts);
    routes
        .get("/staff", manage, Doc::new("The vendor's people"), list)
        .post("/staff", manage, form("Make somebody one of the vendor's people"), add)
        .get("/staff/{account}", manage, Doc::new("An account"), show)
        .post("/staff/{account}", manage, form("Change what an account is to the vendor"), change)
        .get("/staff/{account}/shut-out", manage, Doc::new("Shut an account out?"), ask_shut_out)
        .post("/staff/{account}/shut-out", manage, form("Shut an account out"), shut_out)
        .post("/staff/{account}/let-in", manage, form("Let an account in again"), let_in)
}

/// Roles that can be given: the word in forms, and what it means.
const ROLES: [(Role, &str, &str); 3] = [
    (Role::Viewer, "viewer", "viewer: sees everything"),
    (Role::Operator, "operator", "operator: controls and updates"),
    (Role::Admin, "admin", "administrator: people and keys too"),
];

fn role_word(role: Option<Role>) -> &'static str {
    ROLES.iter().find(|(of, ..)| Some(*of) == role).map_or("", |(_, word, _)| word)
}

/// The role of a word; `None` for no role.
fn role_of(word: &str) -> Result<Option<Role>, &'static str> {
    match ROLES.iter().find(|(_, of, _)| *of == word) {
        Some((role, ..)) => Ok(Some(*role)),
        None if word == "none" => Ok(None),
        None => Err("Choose a role."),
    }
}

struct Row {
    id: String,
    name: String,
    email: String,
    /// Empty for a customer.
    role: &'static str,
    disabled: bool,
    verified: bool,
    is_reader: bool,
    created: Moment,
}

impl Row {
    async fn of(console: &Console, who: &Identity, account: Account) -> Result<Self, ProblemResponse> {
        let email = console.auth.email_of(&account).await?;
        Ok(Self {
            is_reader: reader_of(who) == Some(&account.id),
            id: account.id.to_string(),
            email: email.expose().to_owned(),
            role: role_word(account.staff),
            disabled: account.disabled,
            verified: account.verified,
            created: Moment::of(account.created, console.now()),
            name: account.name,
        })
    }
}

/// Who is looked for.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Filter {
    /// Not empty: customers too.
    #[serde(default)]
    all: String,
    #[serde(default)]
    text: String,
    cursor: Option<String>,
    done: Option<String>,
}

impl Filter {
    fn fits(&self, account: &Account) -> bool {
        (!self.all.is_empty() || account.staff.is_some())
            && account.name.to_lowercase().contains(&self.text.trim().to_lowercase())
    }
}

#[derive(Template)]
#[template(path = "staff.html")]
struct StaffPage {
    shell: Shell,
    filter: Filter,
    rows: Vec<Row>,
    /// Where the next page is; empty after the last.
    next: String,
    roles: [(Role, &'static str, &'static str); 3],
    asked: NewStaff,
    wrong: Wrong,
}

pub(super) async fn list(State(console): State<Console>, who: Identity, Query(filter): Query<Filter>) -> Answer {
    let shown = compose(&console, &who, filter).await?;
    Ok(page(&shown))
}

async fn compose(console: &Console, who: &Identity, filter: Filter) -> Result<StaffPage, ProblemResponse> {
    let shell = Shell::of(console, who, "staff", "People").await?.noticing(filter.done.as_deref());
    let mut after = filter.cursor.as_deref().and_then(Cursor::decode);
    let (mut rows, mut scanned) = (Vec::new(), 0);
    while rows.len() < ROWS && scanned < SCANNED_MAX {
        let read = console.auth.accounts(&who.principal, after.as_ref(), 50).await?;
        scanned += 50;
        for Stored { document: account, .. } in read.items {
            if filter.fits(&account) {
                rows.push(Row::of(console, who, account).await?);
            }
        }
        after = read.next;
        if after.is_none() {
            break;
        }
    }
    let query = |cursor: Cursor| {
        let [all, text] = [&filter.all, &filter.text].map(|wish| encoded(wish));
        format!("/staff?all={all}&text={text}&cursor={}", cursor.encode())
    };
    let next = after.map(query).unwrap_or_default();
    Ok(StaffPage { shell, filter, rows, next, roles: ROLES, asked: NewStaff::default(), wrong: Wrong::default() })
}

/// The form for somebody who has an account.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct NewStaff {
    #[serde(default)]
    email: String,
    #[serde(default)]
    role: String,
}

pub(super) async fn add(State(console): State<Console>, who: Identity, Form(asked): Form<NewStaff>) -> Answer {
    let mut wrong = Wrong::default();
    let role = role_of(&asked.role).map_err(|what| wrong.add("role", what)).ok().flatten();
    let email = EmailAddress::parse(&asked.email).map_err(|error| wrong.add("email", sentence(&error))).ok();
    if let (Some(email), Some(role)) = (email, role) {
        match console.auth.account_of(&who.principal, &email).await? {
            None => wrong.add("email", "Nobody has an account with this address. Let them register first."),
            Some(account) => match console.auth.set_staff(&who.principal, &account.id, Some(role)).await? {
                StaffSet::Done => return Ok(see("/staff?done=staff")),
                StaffSet::NotPermitted => return Err(Problem::forbidden().into()),
                StaffSet::OwnHand => wrong.add("email", OWN_HAND),
                StaffSet::NoSuchAccount => wrong.add("email", "This account was deleted just now."),
            },
        }
    }
    let shown = compose(&console, &who, Filter::default()).await?;
    Ok(invalid(&StaffPage { asked, wrong, ..shown }))
}

const OWN_HAND: &str = "This is your own account: another administrator must do this.";

#[derive(Deserialize)]
pub(super) struct PersonPath {
    account: AccountId,
}

#[derive(Template)]
#[template(path = "person.html")]
struct PersonPage {
    shell: Shell,
    person: Row,
    roles: [(Role, &'static str, &'static str); 3],
    asked: String,
    wrong: Wrong,
}

pub(super) async fn show(State(console): State<Console>, who: Identity, Path(path): Path<PersonPath>) -> Answer {
    let shown = compose_one(&console, &who, &path.account).await?;
    Ok(page(&shown))
}

async fn known(console: &Console, who: &Identity, id: &AccountId) -> Result<Account, ProblemResponse> {
    let found = console.auth.account(&who.principal, id).await?;
    found.ok_or_else(|| Problem::not_found("account").into())
}

async fn compose_one(console: &Console, who: &Identity, id: &AccountId) -> Result<PersonPage, ProblemResponse> {
    let account = known(console, who, id).await?;
    let shell = Shell::of(console, who, "staff", account.name.as_str()).await?;
    let person = Row::of(console, who, account).await?;
    let asked = person.role.to_owned();
    Ok(PersonPage { shell, person, roles: ROLES, asked, wrong: Wrong::default() })
}

#[derive(Deserialize)]
pub(super) struct NewRole {
    #[serde(default)]
    role: String,
}

pub(super) async fn change(
    State(console): State<Console>,
    who: Identity,
    Path(path): Path<PersonPath>,
    Form(asked): Form<NewRole>,
) -> Answer {
    let what = match role_of(&asked.role) {
        Err(what) => what,
        Ok(role) => match console.auth.set_staff(&who.principal, &path.account, role).await? {
            StaffSet::Done => return Ok(see("/staff?done=staff")),
            StaffSet::OwnHand => OWN_HAND,
            StaffSet::NoSuchAccount => return Err(Problem::not_found("account").into()),
            StaffSet::NotPermitted => return Err(Problem::forbidden().into()),
        },
    };
    let shown = compose_one(&console, &who, &path.account).await?;
    let wrong = Wrong::default().with("role", what);
    Ok(invalid(&PersonPage { asked: asked.role, wrong, ..shown }))
}

fn shutting_out(account: &Account) -> Question {
    Question {
        section: "staff",
        asks: format!("Shut {} out?", account.name),
        from: (format!("/staff/{}", account.id), account.name.clone()),
        ends: vec![
            "All their sign-ins are over at once, live connections included.".to_owned(),
            "They cannot sign in, and cannot set a new password.".to_owned(),
        ],
        stays: vec!["Their homes, devices and role, for when you let them in again.".to_owned()],
        action: format!("/staff/{}/shut-out", account.id),
        seen: account.epoch.to_string(),
        button: "Shut out",
    }
}

pub(super) async fn ask_shut_out(
    State(console): State<Console>,
    who: Identity,
    Path(path): Path<PersonPath>,
) -> Answer {
    let account = known(&console, &who, &path.account).await?;
    confirm::ask(&console, &who, shutting_out(&account)).await
}

pub(super) async fn shut_out(
    State(console): State<Console>,
    who: Identity,
    Path(path): Path<PersonPath>,
    Form(confirmed): Form<Confirmed>,
) -> Answer {
    let account = known(&console, &who, &path.account).await?;
    if !confirmed.is_of(account.epoch) {
        return confirm::stale(&console, &who, shutting_out(&account)).await;
    }
    match console.auth.set_disabled(&who.principal, &account.id, true).await? {
        StaffSet::Done => Ok(see("/staff?done=disabled")),
        StaffSet::OwnHand => confirm::refuse(&console, &who, shutting_out(&account), OWN_HAND).await,
        StaffSet::NoSuchAccount => Err(Problem::not_found("account").into()),
        StaffSet::NotPermitted => Err(Problem::forbidden().into()),
    }
}

pub(super) async fn let_in(State(console): State<Console>, who: Identity, Path(path): Path<PersonPath>) -> Answer {
    match console.auth.set_disabled(&who.principal, &path.account, false).await? {
        StaffSet::Done => Ok(see("/staff?done=let-in")),
        StaffSet::OwnHand | StaffSet::NotPermitted => Err(Problem::forbidden().into()),
        StaffSet::NoSuchAccount => Err(Problem::not_found("account").into()),
    }
}
