use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use iot_core::{
    access::{Grants, Object, Tuple},
    home::MembershipBell,
    id::{AccountId, LoginId, TenantId},
    keys::{KeyError, Purpose},
    secret::Secret,
    store::{Key, MetaStoreExt, Revision, StoreError},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

use super::record::{Account, Login};
use crate::{
    auth::{Auth, AuthError},
    home::home_tuples,
};

/// For how long an access token is good. A connection that was opened with one goes on for as long as the sign-in stands.
pub const ACCESS_VALIDITY: Duration = Duration::from_secs(15 * 60);

const PREFIX: &str = "ua_";
const TEXT_BYTES_MAX: usize = 1_024;

/// What an access token says, sealed: `ua_<login>_<base64url>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AccessToken {
    pub(crate) tenant: TenantId,
    pub(crate) account: AccountId,
    pub(crate) login: LoginId,
    pub(crate) epoch: u64,
    pub(crate) expires: Timestamp,
}

/// Whether a text means to be an access token.
pub(crate) fn is_access_token(text: &Secret) -> bool {
    text.expose().starts_with(PREFIX)
}

impl Auth {
    pub(super) async fn seal_access(&self, login: &Login, expires: Timestamp) -> Result<Secret, AuthError> {
        let Login { tenant, account, id, epoch, .. } = login.clone();
        let token = AccessToken { tenant, account, login: id, epoch, expires };
        let text = Secret::new(serde_json::to_string(&token).map_err(|_| AuthError::Random)?);
        let context = token.login.as_str().as_bytes();
        let sealed = self.keys.seal(Purpose::AccessToken, context, text.expose().as_bytes()).await?;
        Ok(Secret::new(format!("{PREFIX}{}_{}", token.login, BASE64URL_NOPAD.encode(&sealed))))
    }

    /// What a token says; `None` if this cloud did not make it. Says nothing about whether it still holds.
    pub(crate) async fn open_access(&self, text: &Secret) -> Result<Option<AccessToken>, AuthError> {
        let parts = text.expose().strip_prefix(PREFIX).filter(|rest| rest.len() <= TEXT_BYTES_MAX);
        let Some((login, sealed)) = parts.and_then(|rest| rest.split_once('_')) else { return Ok(None) };
        let Ok(sealed) = BASE64URL_NOPAD.decode(sealed.as_bytes()) else { return Ok(None) };
        match self.keys.open(Purpose::AccessToken, login.as_bytes(), &sealed).await {
            Ok(token) => Ok(serde_json::from_slice(&token).ok()),
            Err(KeyError::Unopenable) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What an account may do by one of its sign-ins; `None` if that is over, or is of another epoch than is asked for.
    pub(crate) async fn login_grants(
        &self,
        tenant: &TenantId,
        account: &AccountId,
        login: &LoginId,
        epoch: Option<u64>,
        revision: Revision,
    ) -> Result<Option<Grants>, StoreError> {
        let Some((account, login)) = self.login_of(tenant, account, login).await? else { return Ok(None) };
        if !login.stands(&account, self.now()) || epoch.is_some_and(|epoch| epoch != account.epoch) {
            return Ok(None);
        }
        let staff = account.staff.map(|role| {
            let object = Object::Tenant(account.tenant.clone());
            Tuple { object, relation: role.relation(), expires: None }
        });
        let mut tuples = home_tuples(&*self.meta, tenant, &account.id).await?;
        tuples.extend(staff);
        Ok(Some(Grants { revision, tuples: tuples.into() }))
    }

    async fn login_of(
        &self,
        tenant: &TenantId,
        account: &AccountId,
        login: &LoginId,
    ) -> Result<Option<(Account, Login)>, StoreError> {
        // The account last: an epoch that has moved meanwhile is seen.
        let login = self.meta.find::<Login>(&Login::key_of(login)).await?;
        let account = self.meta.find::<Account>(&Account::key_of(tenant, account)).await?;
        Ok(account.zip(login).map(|(account, login)| (account.document, login.document)))
    }
}

/// The records that [`Auth::login_grants`] reads.
pub(crate) fn login_depends_on(tenant: &TenantId, account: &AccountId, login: &LoginId) -> Vec<Key> {
    vec![Account::key_of(tenant, account), Login::key_of(login), MembershipBell::key_of(tenant, account)]
}
