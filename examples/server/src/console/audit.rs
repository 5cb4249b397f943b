//! The audit log: who did or tried what.

use std::collections::HashMap;

use askama::Template;
use axum::extract::State;
use iot_core::{
    access::{Principal, Subject},
    id::{AccountId, LoginId, TenantId, TokenId},
    problem::Cursor,
    store::{Audit, MetaStore, StoreError},
    time::Timestamp,
};
use iot_http::{Identity, Query};
use serde::Deserialize;

use super::{
    Console,
    page::{Answer, Shell, encoded, name_of, page},
    show::Moment,
};

/// Entries of a page, and of one read.
const ROWS: u32 = 50;
/// The most entries that are looked through for one page; its end is then a place to go on from.
const SCANNED_MAX: u32 = 2_000;

/// An entry as it is shown.
pub(super) struct Entry {
    pub(super) at: Moment,
    pub(super) actor: String,
    pub(super) action: String,
    pub(super) subject: String,
    /// The page of what it is about; empty if there is none.
    pub(super) link: String,
    /// Why it was refused; empty if it was done.
    pub(super) refused: String,
}

/// Names of those who act, by how the log writes them. Each is looked up once.
#[derive(Debug, Default)]
pub(super) struct Names(HashMap<String, String>);

impl Names {
    pub(super) async fn of(
        console: &Console,
        tenant: &TenantId,
        actors: impl Iterator<Item = &str> + Send,
    ) -> Result<Self, StoreError> {
        let mut names = HashMap::new();
        for actor in actors {
            if names.contains_key(actor) {
                continue;
            }
            if let Some(subject) = person_or_token(actor) {
                let principal = Principal { tenant: tenant.clone(), subject };
                names.insert(actor.to_owned(), name_of(console, &principal).await?);
            }
        }
        Ok(Self(names))
    }

    fn show(&self, entry: &Audit) -> String {
        let kind_and_id = || {
            let own = format!("{}/", entry.tenant);
            entry.actor.replacen(&own, "", 1).replacen('/', " ", 1).replacen("claim_token", "claim token", 1)
        };
        self.0.get(&entry.actor).cloned().unwrap_or_else(kind_and_id)
    }
}

fn person_or_token(actor: &str) -> Option<Subject> {
    let mut parts = actor.splitn(3, '/').skip(1);
    match (parts.next()?, parts.next()?) {
        ("account", id) => {
            let login = LoginId::parse("none").expect("it is an identifier");
            Some(Subject::Account { account: AccountId::parse(id).ok()?, login })
        }
        ("token", id) => Some(Subject::Token(TokenId::parse(id).ok()?)),
        _ => None,
    }
}

/// Entries as they are shown.
pub(super) async fn shown(console: &Console, tenant: &TenantId, entries: Vec<Audit>) -> Result<Vec<Entry>, StoreError> {
    let names = Names::of(console, tenant, entries.iter().map(|entry| entry.actor.as_str())).await?;
    let now = console.now();
    Ok(entries.into_iter().map(|entry| Entry::of(entry, &names, now)).collect())
}

impl Entry {
    fn of(entry: Audit, names: &Names, now: Timestamp) -> Self {
        let own = format!("{}/", entry.tenant);
        let without_tenant = |text: &str| text.replacen(&own, "", 1);
        let subject = without_tenant(&entry.subject);
        let link = match subject.split_once(':') {
            Some(("device", id)) => format!("/devices/{id}"),
            Some(("product", id)) => format!("/products/{id}"),
            Some(("home", id)) => format!("/homes/{id}"),
            Some(("release", id)) => format!("/releases/{id}"),
            Some(("rollout", id)) => format!("/rollouts/{id}"),
            Some(("account", id)) => format!("/staff/{id}"),
            _ => String::new(),
        };
        Self {
            at: Moment::of(entry.at, now),
            actor: names.show(&entry),
            action: entry.action.replace('_', " "),
            subject: in_words(&subject),
            link,
            refused: entry.refused.unwrap_or_default().replace('_', " "),
        }
    }
}

/// A record's key with its kind in words: `claim_token:abc` is "claim token abc".
fn in_words(key: &str) -> String {
    key.split_once(':').map_or_else(|| key.to_owned(), |(kind, id)| format!("{} {id}", kind.replace('_', " ")))
}

/// What is looked for.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Filter {
    #[serde(default)]
    text: String,
    #[serde(default)]
    refused: String,
    cursor: Option<String>,
}

impl Filter {
    fn fits(&self, entry: &Audit) -> bool {
        let wanted = self.text.trim().to_lowercase().replace(' ', "_");
        let has = |text: &str| text.to_lowercase().replace(' ', "_").contains(&wanted);
        let reason = entry.refused.as_deref();
        (self.refused.is_empty() || reason.is_some())
            && (has(&entry.actor) || has(&entry.action) || has(&entry.subject) || reason.is_some_and(has))
    }

    fn query(&self, cursor: &Cursor) -> String {
        format!("/audit?text={}&refused={}&cursor={}", encoded(&self.text), encoded(&self.refused), cursor.encode())
    }
}

#[derive(Template)]
#[template(path = "audit.html")]
struct AuditPage {
    shell: Shell,
    filter: Filter,
    entries: Vec<Entry>,
    /// Where the next page is; empty after the last.
    next: String,
}

pub(super) async fn show(State(console): State<Console>, who: Identity, Query(filter): Query<Filter>) -> Answer {
    let shell = Shell::of(&console, &who, "audit", "Audit log").await?;
    let after = filter.cursor.as_deref().and_then(Cursor::decode);
    let tenant = &who.principal.tenant;
    let (found, next) = look(&console, tenant, after, ROWS, |entry| filter.fits(entry)).await?;
    let entries = shown(&console, tenant, found).await?;
    let next = next.map(|cursor| filter.query(&cursor)).unwrap_or_default();
    Ok(page(&AuditPage { shell, filter, entries, next }))
}

/// Entries that fit, newest first: at least `wanted` if there are so many among the next [`SCANNED_MAX`].
pub(super) async fn look(
    console: &Console,
    tenant: &TenantId,
    mut after: Option<Cursor>,
    wanted: u32,
    fits: impl Fn(&Audit) -> bool,
) -> Result<(Vec<Audit>, Option<Cursor>), StoreError> {
    let mut found = Vec::new();
    let mut scanned = 0;
    while found.len() < wanted as usize && scanned < SCANNED_MAX {
        let read = MetaStore::audit(&**console.meta(), tenant, after.as_ref(), ROWS).await?;
        scanned += ROWS;
        found.extend(read.items.into_iter().filter(&fits));
        after = read.next;
        if after.is_none() {
            break;
        }
    }
    Ok((found, after))
}
