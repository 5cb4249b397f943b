//! The audit log: who did or tried what.

use askama::Template;
use axum::extract::State;
use iot_core::{
    id::TenantId,
    problem::Cursor,
    store::{Audit, MetaStore, StoreError},
    time::Timestamp,
};
use iot_http::{Identity, Query};
use serde::Deserialize;

use super::{
    Console,
    page::{Answer, Shell, encoded, page},
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

impl Entry {
    pub(super) fn of(entry: Audit, now: Timestamp) -> Self {
        let own = format!("{}/", entry.tenant);
        let without_tenant = |text: &str| text.replacen(&own, "", 1);
        let subject = without_tenant(&entry.subject);
        let link = match subject.split_once(':') {
            Some(("device", id)) => format!("/devices/{id}"),
            Some(("product", id)) => format!("/products/{id}"),
            _ => String::new(),
        };
        Self {
            at: Moment::of(entry.at, now),
            actor: without_tenant(&entry.actor).replacen('/', " ", 1).replacen("claim_token", "claim token", 1),
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
    let now = console.now();
    let entries = found.into_iter().map(|entry| Entry::of(entry, now)).collect();
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
