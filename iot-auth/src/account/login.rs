use std::net::IpAddr;

use iot_core::{
    access::Principal,
    id::{AccountId, LoginId, TenantId},
    network::Network,
    secret::Secret,
    store::{Batch, Document, MetaStoreExt, Step, Stored},
    time::Timestamp,
};

use super::{
    ACCESS_VALIDITY, EmailAddress, LABEL_BYTES_MAX, LOGIN_IDLE_MAX, LOGIN_VALIDITY_MAX, LOGINS_MAX, Password,
    SIGN_IN_PERIOD, SIGN_IN_TRIES_MAX, SIGN_IN_TRIES_PER_NETWORK_MAX, bounded, earlier,
    password::Compared,
    random_id,
    record::{Account, Login},
    throttle::Limit,
};
use crate::auth::{Auth, AuthError};

/// A sign-in and, this once, its tokens.
#[derive(Debug, Clone)]
pub struct SignedIn {
    /// Whose.
    pub account: AccountId,
    /// Which.
    pub login: LoginId,
    /// `ua_…`, for requests.
    pub access: Secret,
    /// Until when the access token is good.
    pub access_expires: Timestamp,
    /// `ur_…`, for the next pair.
    pub refresh: Secret,
    /// When the sign-in is over unless it is refreshed.
    pub expires: Timestamp,
}

/// The answer to an address and a password.
#[must_use]
#[derive(Debug)]
pub enum LoggedIn {
    /// They belong together.
    Granted(Box<SignedIn>),
    /// They do not, or nobody has that address, or the account is shut out: which of these is not told.
    Refused,
    /// This network has tried too often; it may try again after this time. Others may now.
    Throttled(std::time::Duration),
}

/// The keys under which tries to sign in are counted.
struct Tries {
    account: String,
    network: String,
}

impl Auth {
    /// Signs in with an address and a password. `label` is the client's name for itself. Every way to a refusal costs one hash,
    /// but for a text that cannot be anybody's password.
    pub async fn log_in(
        &self,
        email: &EmailAddress,
        password: &Secret,
        label: &str,
        from: IpAddr,
    ) -> Result<LoggedIn, AuthError> {
        let tenant = Self::default_tenant();
        let code = self.email_code(&tenant, email).await?;
        let tries = match self.spend_try(&code, from) {
            Ok(tries) => tries,
            Err(wait) => {
                self.stranger_refused(self.entry(&tenant, from, "login", "account"), "throttled").await?;
                return Ok(LoggedIn::Throttled(wait));
            }
        };
        let known = self.meta.find_by::<Account>("email", &code).await?;
        let compared = self.compare_password(password, known.as_ref()).await?;
        let Some((known, Compared::Right { weak })) = known.filter(|a| !a.document.disabled).map(|a| (a, compared))
        else {
            self.stranger_refused(self.entry(&tenant, from, "login", "account"), "credentials").await?;
            return Ok(LoggedIn::Refused);
        };
        let upgraded = match weak {
            true => self.rehashed(password).await?,
            false => None,
        };
        let granted = self.begin_login(&known.document, upgraded, label, from).await?;
        self.refund(&tries.account);
        self.refund(&tries.network);
        Ok(granted.map_or(LoggedIn::Refused, |signed_in| LoggedIn::Granted(Box::new(signed_in))))
    }

    /// A stored password is compared, or that of nobody. What cannot be a password is wrong without a hash.
    pub(super) async fn compare_password(
        &self,
        password: &Secret,
        known: Option<&Stored<Account>>,
    ) -> Result<Compared, AuthError> {
        let Some(password) = Password::shown(password) else { return Ok(Compared::Wrong) };
        let stored = known.map(|known| known.document.password.as_str());
        self.accounts.hashes.compare(&password, stored).await
    }

    async fn rehashed(&self, password: &Secret) -> Result<Option<String>, AuthError> {
        match Password::shown(password) {
            Some(password) => Ok(Some(self.accounts.hashes.hash(&password).await?)),
            None => Ok(None),
        }
    }

    /// Counts a try of one network for one account, and for all accounts.
    fn spend_try(&self, account: &str, from: IpAddr) -> Result<Tries, std::time::Duration> {
        let network = Network::of_customer(from).to_string();
        let tries = Tries { account: format!("login {account} {network}"), network: format!("login {network}") };
        self.spend(&tries.account, Limit { tries: SIGN_IN_TRIES_MAX, period: SIGN_IN_PERIOD })?;
        self.spend(&tries.network, Limit { tries: SIGN_IN_TRIES_PER_NETWORK_MAX, period: SIGN_IN_PERIOD })?;
        Ok(tries)
    }

    /// Counts a try to show a password while signed in, from the same budget as signing in.
    pub(super) fn spend_own_try(&self, account: &Account, from: IpAddr) -> Result<impl Fn() + '_, std::time::Duration> {
        let tries = self.spend_try(&account.email_code, from)?;
        Ok(move || {
            self.refund(&tries.account);
            self.refund(&tries.network);
        })
    }

    /// `None` if the account changed meanwhile so that what was compared no longer holds.
    async fn begin_login(
        &self,
        compared: &Account,
        upgraded: Option<String>,
        label: &str,
        from: IpAddr,
    ) -> Result<Option<SignedIn>, AuthError> {
        let _turn = self.accounts.signing_in.lock().await;
        self.settle(|| async {
            let key = Account::key_of(&compared.tenant, &compared.id);
            let known = self.meta.find::<Account>(&key).await?;
            let same = |a: &Account| a.password == compared.password && a.epoch == compared.epoch && !a.disabled;
            let Some(known) = known.filter(|known| same(&known.document)) else { return Ok(Step::Answer(None)) };
            let (login, signed_in) = self.new_login(&known.document, label).await?;
            let entry = self.entry(&login.tenant, from, "login", login.key());
            let batch = match &upgraded {
                Some(hash) => {
                    let account = Account { password: hash.clone(), ..known.document.clone() };
                    Batch::default().replace(&known, &account)
                }
                None => Batch::default().unchanged(&known),
            };
            let batch = self.make_room(batch, &login).await?;
            Ok(Step::Commit(batch.create(&login).audited(entry), Some(signed_in)))
        })
        .await
    }

    /// Drops the sign-ins that were used longest ago, so that one more has room.
    async fn make_room(&self, batch: Batch, for_login: &Login) -> Result<Batch, AuthError> {
        let mut others = self.logins_of(&for_login.tenant, &for_login.account).await?;
        others.sort_by_key(|login| login.document.last_used);
        let surplus = (others.len() + 1).saturating_sub(LOGINS_MAX);
        Ok(others.iter().take(surplus).fold(batch, Batch::remove))
    }

    /// A sign-in that is not stored yet, and its first tokens.
    pub(super) async fn new_login(&self, account: &Account, label: &str) -> Result<(Login, SignedIn), AuthError> {
        let now = self.now();
        let login = Login {
            tenant: account.tenant.clone(),
            account: account.id.clone(),
            id: random_id(LoginId::parse)?,
            epoch: account.epoch,
            codes: vec![],
            former: None,
            label: bounded(label, LABEL_BYTES_MAX),
            created: now,
            last_used: now,
            expires: now,
        };
        self.next_pair(login).await
    }

    /// A sign-in with one more refresh token that is good, and that with an access token.
    pub(super) async fn next_pair(&self, login: Login) -> Result<(Login, SignedIn), AuthError> {
        let now = self.now();
        let expires = earlier(now.plus(LOGIN_IDLE_MAX), login.created.plus(LOGIN_VALIDITY_MAX));
        let (refresh, code) = self.new_refresh(&login.id).await?;
        let codes = login.codes.iter().cloned().chain([code]).collect();
        let login = Login { codes, last_used: now, expires, ..login };
        let access_expires = earlier(now.plus(ACCESS_VALIDITY), expires);
        let access = self.seal_access(&login, access_expires).await?;
        let (account, id) = (login.account.clone(), login.id.clone());
        Ok((login, SignedIn { account, login: id, access, access_expires, refresh, expires }))
    }

    /// The sign-ins of an account, those that are over among them. Their number is bounded.
    pub(super) async fn logins_of(
        &self,
        tenant: &TenantId,
        account: &AccountId,
    ) -> Result<Vec<Stored<Login>>, AuthError> {
        let value = Login::of_account(tenant, account);
        // A little more than there can be: nodes that sign in at the same time may exceed the bound for a moment.
        let limit = 4 * u32::try_from(LOGINS_MAX).unwrap_or(u32::MAX);
        Ok(self.meta.page::<Login>("account", &value, None, limit).await?.items)
    }

    /// The sign-ins of an account that stand, the latest first.
    pub async fn logins(&self, tenant: &TenantId, account: &AccountId) -> Result<Vec<Login>, AuthError> {
        let Some(known) = self.meta.find::<Account>(&Account::key_of(tenant, account)).await? else {
            return Ok(vec![]);
        };
        let logins = self.logins_of(tenant, account).await?.into_iter().map(|login| login.document);
        let mut logins: Vec<_> = logins.filter(|login| login.stands(&known.document, self.now())).collect();
        logins.sort_by_key(|login| std::cmp::Reverse(login.last_used));
        Ok(logins)
    }

    /// Ends one sign-in of an account; `false` if it has no such one.
    pub async fn log_out(&self, by: &Principal, account: &AccountId, login: &LoginId) -> Result<bool, AuthError> {
        self.settle(|| async {
            let stored = self.meta.find::<Login>(&Login::key_of(login)).await?;
            let own = |login: &Login| login.tenant == by.tenant && login.account == *account;
            let Some(stored) = stored.filter(|stored| own(&stored.document)) else { return Ok(Step::Answer(false)) };
            let entry = self.done(by, "logout", &stored.document.key());
            Ok(Step::Commit(Batch::default().remove(&stored).audited(entry), true))
        })
        .await
    }

    /// Ends all sign-ins of an account in one commit, on all nodes; `false` if there is no such account.
    pub async fn log_out_everywhere(&self, by: &Principal, account: &AccountId) -> Result<bool, AuthError> {
        self.settle(|| async {
            let key = Account::key_of(&by.tenant, account);
            let Some(known) = self.meta.find::<Account>(&key).await? else { return Ok(Step::Answer(false)) };
            let entry = self.done(by, "logout_everywhere", &key);
            let batch = self.end_epoch(&known, &known.document.in_next_epoch()).await?;
            Ok(Step::Commit(batch.audited(entry), true))
        })
        .await
    }

    /// Writes an account, whose epoch is the next one, and drops all its sign-ins.
    pub(super) async fn end_epoch(&self, known: &Stored<Account>, next: &Account) -> Result<Batch, AuthError> {
        let logins = self.logins_of(&next.tenant, &next.id).await?;
        Ok(logins.iter().fold(Batch::default().replace(known, next), Batch::remove))
    }
}
