use std::time::Duration;

use iot_core::{
    access::Principal,
    home::Role as HomeRole,
    id::{AccountId, HomeId, InviteId, LoginId, TenantId},
    session::SessionId,
    store::{Audit, MetaStore, MetaStoreExt, Opening, StoredSession},
    time::Timestamp,
};
use serde::Serialize;

use super::record::Account;
use crate::{
    auth::{Auth, AuthError},
    home::homes_of,
    token::Role,
};

/// The layout of an export.
const FORMAT: u32 = 1;
/// How many entries of the tenant's audit log are looked through, the newest, for those that name the account.
pub const AUDIT_SEARCHED_MAX: usize = 100_000;
/// How many entries one export holds, the newest.
pub const AUDIT_EXPORTED_MAX: usize = 10_000;
const AUDIT_PAGE: u32 = 1_000;
const SESSIONS_PAGE: u32 = 100;

/// All that is kept about an account (GDPR Art. 15 and 20), but for what only proves that it is they: the password's hash, codes of
/// tokens and invitations. What devices report belongs to the devices and is exported there.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct AccountExport {
    /// The layout of this document.
    pub format: u32,
    /// When it was made.
    pub exported: Timestamp,
    /// Who.
    pub account: AccountProfile,
    /// Their sign-ins that stand, the latest first.
    pub logins: Vec<LoginExport>,
    /// The homes that they are in.
    pub homes: Vec<HomeExport>,
    /// What waits for their MQTT clients that are to be known again.
    pub sessions: Vec<SessionExport>,
    /// Entries of the audit log by them or about them, the newest first.
    pub audit: Vec<Audit>,
    /// Whether these are all; `false` where [`AUDIT_SEARCHED_MAX`] or [`AUDIT_EXPORTED_MAX`] were reached.
    pub audit_complete: bool,
}

/// Who an account is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AccountProfile {
    /// Which.
    pub id: AccountId,
    /// The address.
    pub email: String,
    /// How they wish to be called.
    pub name: String,
    /// Whether the address is known to be theirs.
    pub verified: bool,
    /// What they are to the vendor.
    pub staff: Option<Role>,
    /// Whether they are shut out.
    pub disabled: bool,
    /// Since when.
    pub created: Timestamp,
}

/// A sign-in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LoginExport {
    /// Which.
    pub id: LoginId,
    /// What the client called itself.
    pub label: String,
    /// When it began.
    pub created: Timestamp,
    /// When it was last refreshed.
    pub last_used: Timestamp,
    /// When it is over unless it is used.
    pub expires: Timestamp,
}

/// A home, as far as it is theirs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HomeExport {
    /// Which.
    pub id: HomeId,
    /// Its name.
    pub name: String,
    /// What they are to it.
    pub role: HomeRole,
    /// Who made them that.
    pub granted_by: Option<AccountId>,
    /// From when.
    pub since: Timestamp,
    /// Until when.
    pub expires: Option<Timestamp>,
    /// The open invitations that they made.
    pub invitations: Vec<InviteExport>,
}

/// An open invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct InviteExport {
    /// Which.
    pub id: InviteId,
    /// What who accepts it becomes.
    pub role: HomeRole,
    /// Until when it can be accepted.
    pub expires: Timestamp,
    /// Until when the access lasts that it gives.
    pub access_expires: Option<Timestamp>,
    /// How many may still accept it.
    pub uses_left: u32,
}

/// A stored MQTT session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SessionExport {
    /// The client's name for itself.
    pub client: String,
    /// What it subscribed to.
    pub filters: Vec<String>,
    /// For how long it is kept without a connection, in seconds.
    pub keep_s: u64,
}

impl Auth {
    /// All that is kept about an account of the tenant of `by`; `None` if there is none. Leaves an audit entry, which is the first of
    /// the answer.
    pub async fn export_account(&self, by: &Principal, id: &AccountId) -> Result<Option<AccountExport>, AuthError> {
        let key = Account::key_of(&by.tenant, id);
        let Some(known) = self.meta.find::<Account>(&key).await? else { return Ok(None) };
        let entry = self.done(by, "account_export", &key);
        // Without checks and writes nothing can conflict.
        self.meta.commit_or_conflict(iot_core::store::Batch::default().audited(entry)).await?;
        let (audit, audit_complete) = self.audit_about(&by.tenant, id).await?;
        Ok(Some(AccountExport {
            format: FORMAT,
            exported: self.now(),
            logins: self.logins(&by.tenant, id).await?.into_iter().map(LoginExport::of).collect(),
            homes: self.homes_about(&by.tenant, id).await?,
            sessions: self.sessions_of(&by.tenant, id).await?.iter().map(SessionExport::of).collect(),
            account: AccountProfile::of(&known.document, self.email_of(&known.document).await?.expose()),
            audit,
            audit_complete,
        }))
    }

    async fn homes_about(&self, tenant: &TenantId, id: &AccountId) -> Result<Vec<HomeExport>, AuthError> {
        let homes = homes_of(&*self.meta, tenant, id).await?.into_iter().map(|home| home.document);
        let export = |home: iot_core::home::Home| {
            let member = home.member(id)?.clone();
            let own = home.invites.iter().filter(|invite| invite.by == *id);
            let invitations = own.map(|invite| InviteExport {
                id: invite.id.clone(),
                role: invite.role,
                expires: invite.expires,
                access_expires: invite.access_expires,
                uses_left: invite.uses_left,
            });
            Some(HomeExport {
                invitations: invitations.collect(),
                id: home.id,
                name: home.name,
                role: member.role,
                granted_by: member.granted_by,
                since: member.since,
                expires: member.expires,
            })
        };
        Ok(homes.filter_map(export).collect())
    }

    async fn audit_about(&self, tenant: &TenantId, id: &AccountId) -> Result<(Vec<Audit>, bool), AuthError> {
        let (mut found, mut searched, mut before) = (Vec::new(), 0, None);
        loop {
            let page = MetaStore::audit(&*self.meta, tenant, before.as_ref(), AUDIT_PAGE).await?;
            searched += page.items.len();
            found.extend(page.items.into_iter().filter(|entry| names(&entry.actor, id) || names(&entry.subject, id)));
            match page.next {
                None if found.len() <= AUDIT_EXPORTED_MAX => return Ok((found, true)),
                Some(next) if searched < AUDIT_SEARCHED_MAX && found.len() <= AUDIT_EXPORTED_MAX => before = Some(next),
                _ => {
                    found.truncate(AUDIT_EXPORTED_MAX);
                    return Ok((found, false));
                }
            }
        }
    }

    async fn sessions_of(&self, tenant: &TenantId, id: &AccountId) -> Result<Vec<StoredSession>, AuthError> {
        let prefix = SessionId::account(tenant, id, "");
        let (mut found, mut after) = (Vec::new(), prefix.clone());
        loop {
            let page = self.sessions.sessions(Some(&after), SESSIONS_PAGE).await?;
            let own = page.iter().take_while(|stored| stored.session.as_str().starts_with(prefix.as_str()));
            let before = found.len();
            found.extend(own.cloned());
            match found.last() {
                Some(last) if found.len() - before == SESSIONS_PAGE as usize => after = last.session.clone(),
                _ => return Ok(found),
            }
        }
    }

    /// Drops the stored MQTT sessions of an account with all that waits for them.
    pub(super) async fn forget_sessions(&self, tenant: &TenantId, id: &AccountId) -> Result<(), AuthError> {
        for stored in self.sessions_of(tenant, id).await? {
            let (session, keep, at) = (stored.session, Duration::ZERO, self.now());
            // Its will, too, is nobody's any more.
            let _ended = self.sessions.open(Opening { session, clean: true, keep, will: None, at }).await?;
        }
        Ok(())
    }
}

impl AccountProfile {
    fn of(account: &Account, email: &str) -> Self {
        let Account { id, name, verified, staff, disabled, created, .. } = account.clone();
        Self { id, email: email.to_owned(), name, verified, staff, disabled, created }
    }
}

impl LoginExport {
    fn of(login: super::Login) -> Self {
        let super::Login { id, label, created, last_used, expires, .. } = login;
        Self { id, label, created, last_used, expires }
    }
}

impl SessionExport {
    fn of(stored: &StoredSession) -> Self {
        // `<tenant>/a/<account>/<client>`, and only the client may have slashes.
        let client = stored.session.as_str().splitn(4, '/').nth(3).unwrap_or_default().to_owned();
        let filters = stored.subscriptions.iter().map(|subscription| subscription.filter.clone()).collect();
        Self { client, filters, keep_s: stored.keep.as_secs() }
    }
}

/// Whether a text of the audit log names an account: its id stands there as a word.
fn names(text: &str, id: &AccountId) -> bool {
    let in_word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    text.split(|c| !in_word(c)).any(|word| word == id.as_str())
}
