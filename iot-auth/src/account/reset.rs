use std::{error::Error, net::IpAddr, sync::Arc};

use iot_core::{
    id::TokenId,
    secret::Secret,
    store::{MetaStoreExt, Step},
};

use super::{
    CODE_VALIDITY, EmailAddress, Password,
    code::{Checked, confirmation_id},
    record::{Account, Pending, Then},
};
use crate::auth::{Auth, AuthError};

/// The answer to someone who has forgotten a password: the same whether or not the address has an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResetAsked {
    /// With this and the mailed code the password can be set.
    pub confirmation: TokenId,
}

/// The answer to the mailed code and a new password.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetDone {
    /// The password is the new one; all sign-ins are over.
    Done,
    /// Right, but too late, or the account has changed its password or ended its sign-ins since.
    Expired,
    /// Wrong, used, or tried too often.
    Wrong,
}

impl Auth {
    /// What is answered to whoever asks for a reset, before [`reset`](Self::reset) looks for the address.
    pub fn ask_reset() -> Result<ResetAsked, AuthError> {
        Ok(ResetAsked { confirmation: confirmation_id()? })
    }

    /// Answers whoever asks for a reset and then looks for the address, in a task of its own: the time that the answer takes says
    /// nothing. A node that stops meanwhile forgets the mail, and the person asks again.
    pub fn begin_reset(self: &Arc<Self>, email: EmailAddress, from: IpAddr) -> Result<ResetAsked, AuthError> {
        let place = self.accounts.resets.clone().try_acquire_owned().map_err(|_| AuthError::Busy)?;
        let (auth, asked) = (self.clone(), Self::ask_reset()?);
        let answer = asked.clone();
        tokio::spawn(async move {
            let _held = place;
            if let Err(error) = auth.reset(&asked, &email, from).await {
                tracing::error!(%error, cause = ?error.source(), "no code could be mailed");
            }
        });
        Ok(answer)
    }

    /// Mails a code to an address if it has an account. Takes longer if it has: answer first.
    pub async fn reset(&self, asked: &ResetAsked, email: &EmailAddress, from: IpAddr) -> Result<(), AuthError> {
        let tenant = Self::default_tenant();
        let email_code = self.email_code(&tenant, email).await?;
        let known = self.meta.find_by::<Account>("email", &email_code).await?;
        let entry = self.entry(&tenant, from, "reset", "account");
        let Some(known) = known.map(|known| known.document).filter(|account| !account.disabled) else {
            return self.stranger_refused(entry, "credentials").await;
        };
        if !self.may_mail(&email_code) {
            return self.stranger_refused(entry, "too_many_mails").await;
        }
        let then = Then::Reset { account: known.id, epoch: known.epoch };
        let code = self.begin(&tenant, &asked.confirmation, then).await?;
        let text = format!(
            "Your code for a new password is\n\n    {}\n\nType it where you asked for it, within {} minutes.\n\
             If you did not ask, there is nothing to do. Give the code to nobody.\n",
            code.shown(),
            CODE_VALIDITY.as_secs() / 60,
        );
        self.accounts.send(email, "Your code for a new password", text).await
    }

    /// Sets a password by the mailed code, and ends all sign-ins in the same commit.
    pub async fn confirm_reset(
        &self,
        id: &TokenId,
        code: &Secret,
        password: &Password,
        from: IpAddr,
    ) -> Result<ResetDone, AuthError> {
        // Before the hash: who has no code costs none.
        let stored = match self.check_code(id, code).await? {
            Checked::Right(stored) => stored,
            Checked::Expired => return self.not_reset(ResetDone::Expired, "code_expired", from).await,
            Checked::Wrong => return self.not_reset(ResetDone::Wrong, "code", from).await,
        };
        let Then::Reset { account, epoch } = &stored.document.then else {
            return self.not_reset(ResetDone::Wrong, "code", from).await;
        };
        let hash = self.accounts.hashes.hash(password).await?;
        let key = Account::key_of(&stored.document.tenant, account);
        let done = self
            .settle(|| async {
                // Read again: of two that come at once one finds it used up.
                let Some(pending) = self.meta.find::<Pending>(&Pending::key_of(id)).await? else {
                    return Ok(Step::Answer(ResetDone::Wrong));
                };
                let known = self.meta.find::<Account>(&key).await?;
                let Some(known) = known.filter(|known| known.document.epoch == *epoch && !known.document.disabled)
                else {
                    return Ok(Step::Answer(ResetDone::Expired));
                };
                let next = Account { password: hash.clone(), verified: true, ..known.document.in_next_epoch() };
                let entry = self.entry(&next.tenant, from, "reset", &key);
                let batch = self.end_epoch(&known, &next).await?.remove(&pending).audited(entry);
                Ok(Step::Commit(batch, ResetDone::Done))
            })
            .await?;
        match done {
            ResetDone::Done => Ok(done),
            ResetDone::Expired => self.not_reset(done, "code_expired", from).await,
            ResetDone::Wrong => self.not_reset(done, "code", from).await,
        }
    }

    async fn not_reset(&self, answer: ResetDone, why: &str, from: IpAddr) -> Result<ResetDone, AuthError> {
        self.stranger_refused(self.entry(&Self::default_tenant(), from, "reset", "account"), why).await?;
        Ok(answer)
    }
}
