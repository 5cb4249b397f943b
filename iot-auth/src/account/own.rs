use std::{net::IpAddr, time::Duration};

use iot_core::{
    access::Principal,
    home::MembershipBell,
    id::AccountId,
    secret::Secret,
    store::{Batch, Check, MetaStoreExt, Step, Stored},
};

use super::{Password, SignedIn, password::Compared, record::Account};
use crate::{
    auth::{Auth, AuthError},
    home::Leaving,
    token::Role,
};

/// The answer to someone who wants another password.
#[must_use]
#[derive(Debug)]
pub enum PasswordChanged {
    /// It is the new one. All sign-ins are over; this is the first new one.
    Done(Box<SignedIn>),
    /// The present password is another.
    Wrong,
    /// This network has tried too often; it may try again after this time.
    Throttled(Duration),
}

/// The answer to someone who wants to be gone.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// Of the account only its random id is left, which names nobody any more: in the audit log, and in the bell that tells nodes of
    /// its end.
    Done,
    /// It owns homes: transfer or dissolve them first.
    OwnsHomes,
    /// It is an administrator of the vendor: another must take that from it first.
    IsAdmin,
    /// There is none.
    NoSuchAccount,
}

impl Auth {
    /// An account of the tenant of `by`.
    pub async fn account(&self, by: &Principal, id: &AccountId) -> Result<Option<Account>, AuthError> {
        let found = self.meta.find::<Account>(&Account::key_of(&by.tenant, id)).await?;
        Ok(found.map(|stored| stored.document))
    }

    /// Changes how a person is called; `false` if there is no such account.
    pub async fn rename_account(&self, by: &Principal, id: &AccountId, name: &str) -> Result<bool, AuthError> {
        let key = Account::key_of(&by.tenant, id);
        self.settle(|| async {
            let Some(known) = self.meta.find::<Account>(&key).await? else { return Ok(Step::Answer(false)) };
            let renamed = Account { name: name.to_owned(), ..known.document.clone() };
            let entry = self.done(by, "account_rename", &key);
            Ok(Step::Commit(Batch::default().replace(&known, &renamed).audited(entry), true))
        })
        .await
    }

    /// Sets another password for who knows the present one. Ends all sign-ins and begins one, in one commit.
    pub async fn change_password(
        &self,
        by: &Principal,
        id: &AccountId,
        present: &Secret,
        new: &Password,
        label: &str,
        from: IpAddr,
    ) -> Result<PasswordChanged, AuthError> {
        let key = Account::key_of(&by.tenant, id);
        let Some(known) = self.meta.find::<Account>(&key).await? else { return Ok(PasswordChanged::Wrong) };
        let refund = match self.spend_own_try(&known.document, from) {
            Ok(refund) => refund,
            Err(wait) => {
                self.refused(self.done(by, "password_change", &key), "throttled").await?;
                return Ok(PasswordChanged::Throttled(wait));
            }
        };
        let compared = self.compare_password(present, Some(&known)).await?;
        if compared == Compared::Wrong {
            self.refused(self.done(by, "password_change", &key), "credentials").await?;
            return Ok(PasswordChanged::Wrong);
        }
        let hash = self.accounts.hashes.hash(new).await?;
        refund();
        self.settle(|| async {
            let now = self.meta.find::<Account>(&key).await?;
            let same = |a: &Stored<Account>| {
                a.document.password == known.document.password && a.document.epoch == known.document.epoch
            };
            let Some(now) = now.filter(same) else { return Ok(Step::Answer(PasswordChanged::Wrong)) };
            let next = Account { password: hash.clone(), ..now.document.in_next_epoch() };
            let (login, signed_in) = self.new_login(&next, label).await?;
            let entry = self.done(by, "password_change", &key);
            let batch = self.end_epoch(&now, &next).await?.create(&login).audited(entry);
            Ok(Step::Commit(batch, PasswordChanged::Done(Box::new(signed_in))))
        })
        .await
    }

    /// Removes an account with its sign-ins, then its stored MQTT sessions; of an account that is gone already what was left of
    /// these. Never while it owns a home (SH-13) or is an administrator.
    pub async fn delete_account(&self, by: &Principal, id: &AccountId) -> Result<Deleted, AuthError> {
        let key = Account::key_of(&by.tenant, id);
        let answer = self.settle(|| self.deletion(by, id)).await?;
        let why = match answer {
            Deleted::Done => {
                self.forget_sessions(&by.tenant, id).await?;
                return Ok(answer);
            }
            Deleted::OwnsHomes => "owns_homes",
            Deleted::IsAdmin => "is_admin",
            Deleted::NoSuchAccount => {
                self.forget_sessions(&by.tenant, id).await?;
                "no_such_account"
            }
        };
        self.refused(self.done(by, "account_delete", &key), why).await?;
        Ok(answer)
    }

    async fn deletion(&self, by: &Principal, id: &AccountId) -> Result<Step<Deleted>, AuthError> {
        let key = Account::key_of(&by.tenant, id);
        // Read before the homes and checked in the batch: whoever becomes an owner meanwhile rings it.
        let bell_key = MembershipBell::key_of(&by.tenant, id);
        let bell = self.meta.find::<MembershipBell>(&bell_key).await?;
        let Some(known) = self.meta.find::<Account>(&key).await? else {
            return Ok(Step::Answer(Deleted::NoSuchAccount));
        };
        let Leaving::Ready(left) = self.leaving_all_homes(by, id).await? else {
            return Ok(Step::Answer(Deleted::OwnsHomes));
        };
        if known.document.staff == Some(Role::Admin) {
            return Ok(Step::Answer(Deleted::IsAdmin));
        }
        let logins = self.logins_of(&by.tenant, id).await?;
        let mut batch = logins.iter().fold(left.remove(&known), Batch::remove);
        batch.checks.push(match &bell {
            Some(bell) => Check::Version(bell_key, bell.version),
            None => Check::Absent(bell_key),
        });
        Ok(Step::Commit(batch.audited(self.done(by, "account_delete", &key)), Deleted::Done))
    }
}
