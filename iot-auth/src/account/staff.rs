use std::net::IpAddr;

use iot_core::{
    access::{Principal, Subject},
    id::AccountId,
    problem::Cursor,
    secret::Secret,
    store::{Batch, Document, MetaStoreExt, Page, Step, Stored},
};

use super::{EmailAddress, Password, record::Account};
use crate::{
    auth::{Auth, AuthError},
    token::Role,
};

/// The answer to the one-time password and what the first administrator is to be.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StaffCreated {
    /// There is an administrator now; the one-time password is used up.
    Done(AccountId),
    /// The one-time password is wrong or was used.
    Refused,
    /// The address has an account. The one-time password is still good.
    EmailTaken,
}

/// The answer to a change of who works for the vendor.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StaffSet {
    /// It is so.
    Done,
    /// There is no such account.
    NoSuchAccount,
    /// Nobody takes from themself what another administrator must take: so there is always one left.
    OwnHand,
    /// Whoever asks was an administrator a moment ago and is none any more.
    NotPermitted,
}

impl Auth {
    /// Makes the first administrator out of the printed one-time password, in place of the token that
    /// [`sign_in`](Self::sign_in) gives for it. Whoever has that password vouches for the address.
    pub async fn create_staff(
        &self,
        one_time: &Secret,
        email: &EmailAddress,
        password: &Password,
        name: &str,
        from: IpAddr,
    ) -> Result<StaffCreated, AuthError> {
        let tenant = Self::default_tenant();
        let refused = || self.entry(&tenant, from, "staff_create", "account");
        if self.one_time_password(&tenant, one_time).await?.is_none() {
            self.stranger_refused(refused(), "password").await?;
            return Ok(StaffCreated::Refused);
        }
        let email_code = self.email_code(&tenant, email).await?;
        let hash = self.accounts.hashes.hash(password).await?;
        let created = self
            .settle(|| async {
                let Some(stored) = self.one_time_password(&tenant, one_time).await? else {
                    return Ok(Step::Answer(StaffCreated::Refused));
                };
                if self.meta.find_by::<Account>("email", &email_code).await?.is_some() {
                    return Ok(Step::Answer(StaffCreated::EmailTaken));
                }
                let account = self.new_account(&tenant, email, email_code.clone(), name, hash.clone()).await?;
                let account = Account { verified: true, staff: Some(Role::Admin), ..account };
                let entry = self.entry(&tenant, from, "staff_create", account.key());
                let batch = Batch::default().remove(&stored).create(&account).audited(entry);
                Ok(Step::Commit(batch, StaffCreated::Done(account.id)))
            })
            .await?;
        match created {
            StaffCreated::Done(_) => {}
            StaffCreated::Refused => self.stranger_refused(refused(), "password").await?,
            StaffCreated::EmailTaken => self.stranger_refused(refused(), "email_taken").await?,
        }
        Ok(created)
    }

    /// Makes an account one of the vendor's people, or ends that. It holds from the next request on.
    pub async fn set_staff(&self, by: &Principal, id: &AccountId, role: Option<Role>) -> Result<StaffSet, AuthError> {
        let change = |account: &Account| Account { staff: role, ..account.clone() };
        self.administer(by, id, "staff_set", role == Some(Role::Admin), change).await
    }

    /// Shuts an account out, which ends all its sign-ins, or lets it in again.
    pub async fn set_disabled(&self, by: &Principal, id: &AccountId, disabled: bool) -> Result<StaffSet, AuthError> {
        let change = |account: &Account| Account { disabled, ..account.in_next_epoch() };
        self.administer(by, id, if disabled { "account_disable" } else { "account_enable" }, false, change).await
    }

    /// Accounts of the tenant of `by`.
    pub async fn accounts(
        &self,
        by: &Principal,
        after: Option<&Cursor>,
        limit: u32,
    ) -> Result<Page<Stored<Account>>, AuthError> {
        Ok(self.meta.page::<Account>("tenant", by.tenant.as_str(), after, limit).await?)
    }

    /// The account with this address, in the tenant of `by`: for those who may see all accounts anyway.
    pub async fn account_of(&self, by: &Principal, email: &EmailAddress) -> Result<Option<Account>, AuthError> {
        let email_code = self.email_code(&by.tenant, email).await?;
        let found = self.meta.find_by::<Account>("email", &email_code).await?;
        Ok(found.map(|stored| stored.document).filter(|account| account.tenant == by.tenant))
    }

    async fn administer(
        &self,
        by: &Principal,
        id: &AccountId,
        action: &str,
        harmless: bool,
        change: impl Fn(&Account) -> Account,
    ) -> Result<StaffSet, AuthError> {
        let key = Account::key_of(&by.tenant, id);
        let answer = self
            .settle(|| async {
                // Of two administrators who dismiss each other at once, one is first and the other no longer permitted.
                let actor = self.actor(by).await?;
                if actor.as_ref().is_some_and(|actor| !is_admin(&actor.document)) {
                    return Ok(Step::Answer(StaffSet::NotPermitted));
                }
                if actor.as_ref().is_some_and(|actor| actor.document.id == *id) && !harmless {
                    return Ok(Step::Answer(StaffSet::OwnHand));
                }
                let Some(known) = self.meta.find::<Account>(&key).await? else {
                    return Ok(Step::Answer(StaffSet::NoSuchAccount));
                };
                let batch = Batch::default().replace(&known, &change(&known.document));
                let batch = match actor.filter(|actor| actor.document.id != *id) {
                    Some(actor) => batch.unchanged(&actor),
                    None => batch,
                };
                Ok(Step::Commit(batch.audited(self.done(by, action, &key)), StaffSet::Done))
            })
            .await?;
        let why = match answer {
            StaffSet::Done => return Ok(answer),
            StaffSet::NoSuchAccount => "no_such_account",
            StaffSet::OwnHand => "own_hand",
            StaffSet::NotPermitted => "not_permitted",
        };
        self.refused(self.done(by, action, &key), why).await?;
        Ok(answer)
    }

    /// The account that acts, if it is one and not a token.
    async fn actor(&self, by: &Principal) -> Result<Option<Stored<Account>>, AuthError> {
        let Subject::Account { account, .. } = &by.subject else { return Ok(None) };
        Ok(self.meta.find::<Account>(&Account::key_of(&by.tenant, account)).await?)
    }
}

fn is_admin(account: &Account) -> bool {
    account.staff == Some(Role::Admin) && !account.disabled
}
