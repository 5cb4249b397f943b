use std::{net::IpAddr, time::Duration};

use iot_core::{
    access::Principal,
    code::Code,
    home::{Home, HomeRefusal, Invite, NewInvite, Role, Ruling},
    id::{HomeId, InviteId, TenantId},
    keys::Purpose,
    secret::Secret,
    store::{Contended, Key, MetaStoreExt, Step},
    time::Timestamp,
};

use super::account_of;
use crate::{
    auth::{Auth, AuthError},
    token::{random_code, random_text},
};

/// For how long an invitation is good where nothing else is asked for.
pub const INVITE_VALIDITY_DEFAULT: Duration = Duration::from_secs(24 * 3_600);

/// The longest that an invitation is good.
pub const INVITE_VALIDITY_MAX: Duration = Duration::from_secs(7 * 24 * 3_600);

/// The most people who accept one invitation.
pub const INVITE_USES_MAX: u32 = 32;

/// What the text of an invitation's QR code begins with. It is no address of a web site, so that no browser sends the code anywhere.
pub const INVITE_URI: &str = "iot-invite:";

const INVITE_ID_BYTES: usize = 10;

/// What is asked of an invitation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InviteAsked {
    /// What who accepts it becomes.
    pub role: Role,
    /// For how long it can be accepted; cut to [`INVITE_VALIDITY_MAX`].
    pub valid: Duration,
    /// Until when the access lasts that it gives.
    pub access_expires: Option<Timestamp>,
    /// How many may accept it; cut to [`INVITE_USES_MAX`].
    pub uses: u32,
}

impl InviteAsked {
    /// For one person, for [`INVITE_VALIDITY_DEFAULT`], to stay.
    pub fn one(role: Role) -> Self {
        Self { role, valid: INVITE_VALIDITY_DEFAULT, access_expires: None, uses: 1 }
    }
}

/// The answer to an invitation.
#[must_use]
#[derive(Debug, Clone)]
pub enum Invited {
    /// It is open.
    Done(Box<IssuedInvite>),
    /// It is not.
    Refused(HomeRefusal),
}

/// An invitation and, this once, its code.
#[derive(Debug, Clone)]
pub struct IssuedInvite {
    /// As stored.
    pub invite: Invite,
    /// The code, in groups.
    pub code: Secret,
    /// The code as a text for a QR code.
    pub uri: Secret,
}

impl Auth {
    /// Opens an invitation to a home.
    pub async fn invite(&self, by: &Principal, home: &HomeId, asked: &InviteAsked) -> Result<Invited, AuthError> {
        let text = random_code()?;
        let id = InviteId::parse(&random_text::<INVITE_ID_BYTES>()?).map_err(|_| AuthError::Random)?;
        let code = self.share_code(&by.tenant, &text).await?;
        let ruling = self
            .rule(by, home, "invite", |home, account, now| {
                let new = NewInvite {
                    id: id.clone(),
                    code: code.clone(),
                    role: asked.role,
                    expires: now.plus(asked.valid.min(INVITE_VALIDITY_MAX)),
                    access_expires: asked.access_expires,
                    uses: asked.uses.min(INVITE_USES_MAX),
                };
                home.invite(account, new, now)
            })
            .await?;
        let home = match ruling {
            Ruling::Changed(home) => home,
            Ruling::Refused(why) => return Ok(Invited::Refused(why)),
        };
        let invite = home.invites.into_iter().find(|invite| invite.id == id).ok_or(Contended)?;
        let code = text.grouped();
        let uri = Secret::new(format!("{INVITE_URI}{}", code.expose()));
        Ok(Invited::Done(Box::new(IssuedInvite { invite, code, uri })))
    }

    /// Withdraws an invitation.
    pub async fn withdraw_invite(&self, by: &Principal, home: &HomeId, invite: &InviteId) -> Result<Ruling, AuthError> {
        self.rule(by, home, "invite_withdraw", |home, account, now| home.withdraw_invite(account, invite, now)).await
    }

    /// Accepts an invitation by its code or its URI. Wrong codes are counted, by account and by address.
    pub async fn accept_invite(&self, by: &Principal, text: &Secret, from: IpAddr) -> Result<Ruling, AuthError> {
        let nowhere = Key::new("home", "");
        let Ok(tries) = self.spend_code(by, from) else {
            let entry = self.done(by, "invite_accept", &nowhere);
            self.stranger_refused(entry, HomeRefusal::Throttled.code()).await?;
            return Ok(Ruling::Refused(HomeRefusal::Throttled));
        };
        let text = text.expose().trim();
        let ruling = match Code::parse(text.strip_prefix(INVITE_URI).unwrap_or(text)) {
            Some(code) => self.accept(by, &code).await?,
            None => (nowhere, Ruling::Refused(HomeRefusal::CodeMismatch)),
        };
        if ruling.1 != Ruling::Refused(HomeRefusal::CodeMismatch) {
            self.refund_code(&tries);
        }
        self.ruled(by, "invite_accept", &ruling.0, ruling.1).await
    }

    async fn accept(&self, by: &Principal, code: &Code) -> Result<(Key, Ruling), AuthError> {
        let code = self.share_code(&by.tenant, code).await?;
        let refused = |key, why| Ok(Step::Answer((key, Ruling::Refused(why))));
        self.settle(|| async {
            let Some(account) = account_of(by) else { return refused(Key::new("home", ""), HomeRefusal::Forbidden) };
            let Some(read) = self.meta.find_by::<Home>("invite", &code).await? else {
                return refused(Key::new("home", ""), HomeRefusal::CodeMismatch);
            };
            let key = Home::key_of(&by.tenant, &read.document.id);
            let home = match read.document.accept(account, &code, self.now()) {
                Ruling::Changed(home) => home,
                Ruling::Refused(why) => return refused(key, why),
            };
            let mut batch = self.home_change(by, "invite_accept", &read, &home);
            // One who only comes back after their access ended takes no further place.
            if read.document.member(account).is_none() {
                match self.room_for_home(&by.tenant, account).await? {
                    Some(room) => batch.checks.push(room),
                    None => return refused(key, HomeRefusal::HomesFull),
                }
            }
            Ok(Step::Commit(batch, (key, Ruling::Changed(home))))
        })
        .await
    }

    /// The stored form of an invitation's code. Bound to the tenant: what is shown to another is unknown there.
    async fn share_code(&self, tenant: &TenantId, code: &Code) -> Result<String, AuthError> {
        let data = [tenant.as_str(), code.expose_canonical()].join("\n");
        Ok(self.keys.code(Purpose::ShareCode, data.as_bytes()).await?)
    }
}
