use std::time::Duration;

use data_encoding::BASE64;
use iot_core::{
    id::{AccountId, LoginId, TenantId, TokenId},
    keys::Purpose,
    secret::Secret,
    store::{Document, IndexKey, Key, StoreError},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

use super::EmailAddress;
use crate::{
    auth::{Auth, AuthError},
    token::Role,
};

/// How many sign-ins an account has at once. A further one takes the place of the one that was used longest ago.
pub const LOGINS_MAX: usize = 32;
/// A sign-in that is not used for so long is over.
pub const LOGIN_IDLE_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);
/// A sign-in is over after so long in any case.
pub const LOGIN_VALIDITY_MAX: Duration = Duration::from_secs(90 * 24 * 3_600);
/// The longest label of a sign-in, in bytes; a longer one is cut.
pub const LABEL_BYTES_MAX: usize = 128;
/// The longest name of a person, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// A person, as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// With which vendor.
    pub tenant: TenantId,
    /// Which; random.
    pub id: AccountId,
    /// The address, sealed; in base64.
    pub email: String,
    /// Keyed code of the address, by which it is found.
    pub email_code: String,
    /// How they wish to be called.
    pub name: String,
    /// The password as a PHC string.
    pub password: String,
    /// The session epoch: whatever carries a lower one is dead.
    pub epoch: u64,
    /// Whether they proved that the address is theirs, or an administrator vouched for it.
    pub verified: bool,
    /// What they are to the vendor, if they work there.
    #[serde(default)]
    pub staff: Option<Role>,
    /// Whether an administrator has shut them out.
    #[serde(default)]
    pub disabled: bool,
    /// Since when.
    pub created: Timestamp,
}

impl Account {
    /// Its key in a store.
    pub fn key_of(tenant: &TenantId, id: &AccountId) -> Key {
        Key::new(Self::KIND, format!("{tenant}/{id}"))
    }

    /// With everything that carries the present epoch dead.
    #[must_use]
    pub(super) fn in_next_epoch(&self) -> Self {
        Self { epoch: self.epoch.saturating_add(1), ..self.clone() }
    }
}

impl Document for Account {
    const KIND: &'static str = "account";
    const FORMAT: u16 = 1;

    fn key(&self) -> Key {
        Self::key_of(&self.tenant, &self.id)
    }

    fn index_keys(&self) -> Vec<IndexKey> {
        vec![IndexKey::many("tenant", self.tenant.as_str()), IndexKey::unique("email", &self.email_code)]
    }
}

/// One sign-in of an account, as stored. Gone when it is signed out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// With which vendor.
    pub tenant: TenantId,
    /// Whose.
    pub account: AccountId,
    /// Which; random.
    pub id: LoginId,
    /// The account's epoch when it began.
    pub epoch: u64,
    /// Keyed codes of the refresh tokens that are good: one, or several if an answer with one was lost.
    pub codes: Vec<String>,
    /// The refresh token for which they were given.
    #[serde(default)]
    pub former: Option<FormerCode>,
    /// The client's name for itself, for people to recognise it by.
    pub label: String,
    /// When it began.
    pub created: Timestamp,
    /// When it was last refreshed.
    pub last_used: Timestamp,
    /// When it is over unless it is used.
    pub expires: Timestamp,
}

/// A refresh token that was used up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormerCode {
    /// Its keyed code.
    pub code: String,
    /// When it was used.
    pub used: Timestamp,
}

impl Login {
    /// Its key in a store. Ids are random, so that a token's text finds its record.
    pub fn key_of(id: &LoginId) -> Key {
        Key::new(Self::KIND, id.as_str())
    }

    /// Under which value of index `account` the sign-ins of an account are listed.
    pub fn of_account(tenant: &TenantId, account: &AccountId) -> String {
        format!("{tenant}/{account}")
    }

    /// Whether it still stands for this account.
    pub fn stands(&self, account: &Account, now: Timestamp) -> bool {
        let same = self.tenant == account.tenant && self.account == account.id && self.epoch == account.epoch;
        same && !account.disabled && now < self.expires
    }
}

impl Document for Login {
    const KIND: &'static str = "login";
    const FORMAT: u16 = 1;

    fn key(&self) -> Key {
        Self::key_of(&self.id)
    }

    fn index_keys(&self) -> Vec<IndexKey> {
        vec![IndexKey::many("account", &Self::of_account(&self.tenant, &self.account)), IndexKey::many("all", "")]
    }
}

/// Something that happens once a mailed code comes back, as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pending {
    pub(super) tenant: TenantId,
    /// Told to whoever asked, so that only they can try codes.
    pub(super) id: TokenId,
    /// Keyed code of the mailed one.
    pub(super) code: String,
    pub(super) expires: Timestamp,
    pub(super) tries_left: u32,
    pub(super) then: Then,
}

/// What happens then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Then {
    /// An account comes to be.
    Register { email: String, email_code: String, name: String, password: String },
    /// The account gets another password, if its epoch is still this one.
    Reset { account: AccountId, epoch: u64 },
}

impl Pending {
    pub(super) fn key_of(id: &TokenId) -> Key {
        Key::new(Self::KIND, id.as_str())
    }
}

impl Document for Pending {
    const KIND: &'static str = "account_confirmation";
    const FORMAT: u16 = 1;

    fn key(&self) -> Key {
        Self::key_of(&self.id)
    }

    fn index_keys(&self) -> Vec<IndexKey> {
        vec![IndexKey::many("all", "")]
    }
}

impl Auth {
    /// An address as the record `owner` keeps it.
    pub(super) async fn seal_email(&self, owner: &Key, email: &EmailAddress) -> Result<String, AuthError> {
        let address = email.secret().expose().as_bytes();
        Ok(BASE64.encode(&self.keys.seal(Purpose::Email, owner.to_string().as_bytes(), address).await?))
    }

    /// The address that the record `owner` keeps.
    pub(super) async fn open_email(&self, owner: &Key, sealed: &str) -> Result<EmailAddress, AuthError> {
        let damaged = || StoreError::Damaged { backend: "records", what: format!("{owner}: its address") };
        let sealed = BASE64.decode(sealed.as_bytes()).map_err(|_| damaged())?;
        let address = self.keys.open(Purpose::Email, owner.to_string().as_bytes(), &sealed).await?;
        let address = Secret::new(String::from_utf8(address).map_err(|_| damaged())?);
        Ok(EmailAddress::parse(address.expose()).map_err(|_| damaged())?)
    }

    /// The address of an account, for the person themself and for administrators.
    pub async fn email_of(&self, account: &Account) -> Result<Secret, AuthError> {
        Ok(self.open_email(&account.key(), &account.email).await?.secret().clone())
    }
}
