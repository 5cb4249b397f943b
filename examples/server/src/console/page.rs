//! What every page has, and how a template becomes an answer.

use askama::Template;
use axum::{
    http::{HeaderValue, StatusCode, header::CACHE_CONTROL},
    response::{IntoResponse, Redirect, Response},
};
use iot_auth::{account::Account, token::ApiToken};
use iot_core::{
    access::{Permission, Principal, Resource, Subject, check},
    id::{AccountId, TenantId},
    problem::Problem,
    secret::Secret,
    store::{MetaStoreExt, StoreError},
    time::Timestamp,
};
use iot_http::{Identity, ProblemResponse};
use serde::{Deserialize, Deserializer};

use super::Console;

/// The answer of a page's handler.
pub(super) type Answer = Result<Response, ProblemResponse>;

/// What a form has done, by the word that its redirect carries.
const NOTICES: [(&str, &str); 41] = [
    ("registered", "Your account is ready. Sign in."),
    ("reset", "Your new password is set, and all sign-ins are over. Sign in."),
    ("deleted", "Your account is deleted."),
    ("name", "Your name is saved."),
    ("password", "Your password is changed, and all other sign-ins are over."),
    ("login", "That sign-in is over."),
    ("product", "The product is saved."),
    ("import", "The units are imported."),
    ("trust", "From now on these keys' signatures count."),
    ("moved", "The device was moved."),
    ("retired", "The device is out of service."),
    ("keys", "The keys are revoked."),
    ("twin", "What you desire is written; the device is told."),
    ("bound", "The device is yours now."),
    ("placed", "The device stands in its other home now."),
    ("released", "The device is released, and nothing of your time with it is left."),
    ("rollout", "The rollout is planned. Start it when you are ready."),
    ("start", "The rollout has begun with its first group."),
    ("pause", "No further device is offered the release."),
    ("resume", "The rollout goes on."),
    ("cancel", "The rollout is over."),
    ("release", "The release is taken in. Upload its image next."),
    ("image", "The image is the one that was signed: the release is ready."),
    ("known", "This release was here already; nothing has changed."),
    ("withdrawn-release", "The release is withdrawn for good."),
    ("home", "The home is made. Add devices, and share it."),
    ("renamed", "The name is saved."),
    ("joined", "You are in this home now."),
    ("left", "You have left the home."),
    ("withdrawn", "The invitation is withdrawn."),
    ("role", "What they may do is changed, from now on."),
    ("removed", "They are no longer in this home."),
    ("transferred", "The home has its new owner; you are a manager."),
    ("dissolved", "The home is dissolved, and its devices are released."),
    ("tested", "A test is on its way; how it ended stands below in a moment."),
    ("enabled", "The webhook gets deliveries again."),
    ("replayed", "It will be tried again now."),
    ("webhook-removed", "The webhook is removed."),
    ("staff", "What they are to the vendor is changed, from now on."),
    ("disabled", "They are shut out, and all their sign-ins are over."),
    ("let-in", "They may sign in again."),
];

/// The frame around a page.
#[derive(Debug, Clone, Default)]
pub(super) struct Shell {
    pub(super) title: String,
    /// Which entry of the navigation is current.
    pub(super) section: &'static str,
    /// Who is signed in, for people; empty if nobody is.
    pub(super) who: String,
    /// Whether it is a person, who has an account page.
    pub(super) is_person: bool,
    pub(super) may: May,
    /// What was done just now.
    pub(super) notice: &'static str,
}

/// Which parts of the console somebody may use; guards decide, this only hides what they would refuse.
#[derive(Debug, Clone, Copy, Default)]
#[expect(clippy::struct_excessive_bools, reason = "one for each permission")]
pub(super) struct May {
    pub(super) read: bool,
    pub(super) manage: bool,
    pub(super) credentials: bool,
    pub(super) audit: bool,
    pub(super) releases: bool,
    pub(super) accounts: bool,
    pub(super) webhooks: bool,
}

impl May {
    fn of(identity: &Identity, now: Timestamp) -> Self {
        let tenant = Resource::tenant(&identity.principal.tenant);
        let may = |permission| check(&identity.grants, permission, &tenant, now).allow;
        Self {
            read: may(Permission::ReadDevice),
            manage: may(Permission::ManageDevices),
            credentials: may(Permission::ManageCredentials),
            audit: may(Permission::ReadAudit),
            releases: may(Permission::ManageReleases),
            accounts: may(Permission::ManageAccounts),
            webhooks: may(Permission::ManageWebhooks),
        }
    }
}

impl Shell {
    /// The frame for somebody who is signed in.
    pub(super) async fn of(
        console: &Console,
        identity: &Identity,
        section: &'static str,
        title: impl Into<String>,
    ) -> Result<Self, StoreError> {
        let who = name_of(console, &identity.principal).await?;
        let may = May::of(identity, console.now());
        let is_person = matches!(identity.principal.subject, Subject::Account { .. });
        Ok(Self { title: title.into(), section, who, is_person, may, notice: "" })
    }

    /// The frame for a stranger.
    pub(super) fn public(title: impl Into<String>) -> Self {
        Self { title: title.into(), ..Self::default() }
    }

    /// Says what a form has done, by the word that its redirect carries.
    #[must_use]
    pub(super) fn noticing(self, done: Option<&str>) -> Self {
        let notice = done.and_then(|done| NOTICES.iter().find(|(word, _)| *word == done)).map_or("", |(_, says)| says);
        Self { notice, ..self }
    }
}

/// What somebody is called.
pub(super) async fn name_of(console: &Console, principal: &Principal) -> Result<String, StoreError> {
    Ok(match &principal.subject {
        Subject::Token(token) => match console.meta().find::<ApiToken>(&ApiToken::key_of(token)).await? {
            Some(stored) => stored.document.name,
            None => token.to_string(),
        },
        Subject::Account { account, .. } => account_name(console, &principal.tenant, account).await?,
        _ => principal.to_string(),
    })
}

/// What a person is called.
pub(super) async fn account_name(
    console: &Console,
    tenant: &TenantId,
    account: &AccountId,
) -> Result<String, StoreError> {
    let known = console.meta().find::<Account>(&Account::key_of(tenant, account)).await?;
    Ok(known.map_or_else(|| account.to_string(), |stored| stored.document.name))
}

/// A page that was found.
pub(super) fn page(template: &impl Template) -> Response {
    page_as(StatusCode::OK, template)
}

/// A page with a form that says what is wrong with it.
pub(super) fn invalid(template: &impl Template) -> Response {
    page_as(StatusCode::UNPROCESSABLE_ENTITY, template)
}

/// A page; nobody keeps it, for it shows what only its reader may see.
pub(super) fn page_as(status: StatusCode, template: &impl Template) -> Response {
    match template.render() {
        Ok(text) => {
            let mut response = (status, axum::response::Html(text)).into_response();
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }
        Err(error) => {
            tracing::error!(%error, "a page could not be made");
            ProblemResponse(Problem::unavailable()).into_response()
        }
    }
}

/// Where to go after a form has done its work.
pub(super) fn see(path: &str) -> Response {
    Redirect::to(path).into_response()
}

/// What is wrong with a form, field by field.
#[derive(Debug, Clone, Default)]
pub(super) struct Wrong(Vec<(&'static str, String)>);

impl Wrong {
    pub(super) fn add(&mut self, field: &'static str, what: impl Into<String>) {
        self.0.push((field, what.into()));
    }

    #[must_use]
    pub(super) fn with(mut self, field: &'static str, what: impl Into<String>) -> Self {
        self.add(field, what);
        self
    }

    /// What is wrong with a field; empty if nothing is.
    pub(super) fn at(&self, field: &str) -> &str {
        self.0.iter().find(|(name, _)| *name == field).map_or("", |(_, what)| what)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A field of a form that must not be shown or logged.
pub(super) fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
    String::deserialize(deserializer).map(Secret::new)
}

/// Text as one component of a query.
pub(super) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
