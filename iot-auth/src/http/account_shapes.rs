//! What the bodies about accounts look like. Passwords and codes come in only; tokens go out once.

use iot_core::{
    id::{AccountId, LoginId, TokenId},
    secret::Secret,
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

use super::shapes::secret;
use crate::{
    account::{Account, Login, SignedIn},
    token::Role,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewAccount {
    pub(super) email: String,
    #[serde(deserialize_with = "secret")]
    pub(super) password: Secret,
    pub(super) name: String,
}

#[derive(Serialize)]
pub(super) struct Confirmation {
    pub(super) confirmation: TokenId,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VerifyAsked {
    pub(super) confirmation: TokenId,
    #[serde(deserialize_with = "secret")]
    pub(super) code: Secret,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogInAsked {
    pub(super) email: String,
    #[serde(deserialize_with = "secret")]
    pub(super) password: Secret,
    pub(super) label: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RefreshAsked {
    #[serde(deserialize_with = "secret")]
    pub(super) refresh_token: Secret,
    pub(super) label: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NameAsked {
    pub(super) name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewPassword {
    #[serde(deserialize_with = "secret")]
    pub(super) present: Secret,
    #[serde(deserialize_with = "secret")]
    pub(super) password: Secret,
    pub(super) label: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ResetWanted {
    pub(super) email: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ResetConfirmed {
    pub(super) confirmation: TokenId,
    #[serde(deserialize_with = "secret")]
    pub(super) code: Secret,
    #[serde(deserialize_with = "secret")]
    pub(super) password: Secret,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FirstAdmin {
    #[serde(deserialize_with = "secret")]
    pub(super) one_time_password: Secret,
    pub(super) email: String,
    #[serde(deserialize_with = "secret")]
    pub(super) password: Secret,
    pub(super) name: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StaffAsked {
    /// Must be said, so that an empty object dismisses nobody.
    #[serde(deserialize_with = "Option::deserialize")]
    pub(super) role: Option<Role>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DisabledAsked {
    pub(super) disabled: bool,
}

#[derive(Serialize)]
pub(super) struct SignedInShown {
    account: AccountId,
    login: LoginId,
    access_token: String,
    access_expires: Timestamp,
    refresh_token: String,
    expires: Timestamp,
}

impl SignedInShown {
    pub(super) fn of(signed_in: SignedIn) -> Self {
        let SignedIn { account, login, access, access_expires, refresh, expires } = signed_in;
        let (access_token, refresh_token) = (access.expose().to_owned(), refresh.expose().to_owned());
        Self { account, login, access_token, access_expires, refresh_token, expires }
    }
}

#[derive(Serialize)]
pub(super) struct LoginShown {
    id: LoginId,
    label: String,
    /// Whether the request was made by it.
    present: bool,
    created: Timestamp,
    last_used: Timestamp,
    expires: Timestamp,
}

impl LoginShown {
    pub(super) fn of(login: Login, present: &LoginId) -> Self {
        let Login { id, label, created, last_used, expires, .. } = login;
        Self { present: id == *present, id, label, created, last_used, expires }
    }
}

#[derive(Serialize)]
pub(super) struct AccountShown {
    id: AccountId,
    email: String,
    name: String,
    staff: Option<Role>,
    disabled: bool,
    created: Timestamp,
}

impl AccountShown {
    pub(super) fn of(account: Account, email: &Secret) -> Self {
        let Account { id, name, staff, disabled, created, .. } = account;
        Self { id, email: email.expose().to_owned(), name, staff, disabled, created }
    }
}
