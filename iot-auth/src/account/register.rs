use std::{net::IpAddr, time::Duration};

use iot_core::{
    id::{AccountId, TenantId, TokenId},
    network::Network,
    secret::Secret,
    store::{Batch, Contended, Document, Index, MetaStore, MetaStoreExt, Step},
};

use super::{
    CODE_TRIES_MAX, CODE_VALIDITY, EmailAddress, HOUR, Password, REGISTRATIONS_PER_HOUR_MAX,
    code::{Checked, CodeText, confirmation_id},
    random_id,
    record::{Account, Pending, Then},
    throttle::Limit,
};
use crate::auth::{Auth, AuthError};

/// How many confirmations wait for their codes. When as many do, a further one is refused as busy until some are over:
/// each is good for [`CODE_VALIDITY`] and [`Auth::sweep_accounts`] removes those that are not.
pub const PENDING_MAX: u64 = 10_000;

/// The answer to someone who wants an account.
#[must_use]
#[derive(Debug)]
pub enum Registered {
    /// Mail is on its way; with this and the code in it there will be an account. The same where the address has one: then its
    /// owner is told, and this leads nowhere.
    Asked(TokenId),
    /// This network has begun too many; it may go on after this time.
    Throttled(Duration),
}

/// The answer to a mailed code.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub enum Verified {
    /// Right: there is an account now.
    Done(AccountId),
    /// Right, but too late.
    Expired,
    /// Right, but the address got an account in another way meanwhile.
    EmailTaken,
    /// Wrong, used, or tried too often.
    Wrong,
}

impl Auth {
    /// Begins an account. Where addresses are verified nothing is there until the mailed code comes back, so nobody can hold an
    /// address that is not theirs; else the account is there at once. The answer and the work are the same whether or not the
    /// address has an account.
    pub async fn register(
        &self,
        email: &EmailAddress,
        password: &Password,
        name: &str,
        from: IpAddr,
    ) -> Result<Registered, AuthError> {
        let tenant = Self::default_tenant();
        let limit = Limit { tries: REGISTRATIONS_PER_HOUR_MAX, period: HOUR };
        if let Err(wait) = self.spend(&format!("register {}", Network::of_customer(from)), limit) {
            self.stranger_refused(self.entry(&tenant, from, "register", "account"), "throttled").await?;
            return Ok(Registered::Throttled(wait));
        }
        let password = self.accounts.hashes.hash(password).await?;
        let email_code = self.email_code(&tenant, email).await?;
        let id = confirmation_id()?;
        if self.meta.find_by::<Account>("email", &email_code).await?.is_some() {
            self.stranger_refused(self.entry(&tenant, from, "register", "account"), "email_taken").await?;
            self.tell_owner(email, &email_code).await?;
        } else if self.accounts.options.verify_email {
            self.await_code(&tenant, &id, email, &email_code, name, password, from).await?;
        } else {
            let account = self.new_account(&tenant, email, email_code, name, password).await?;
            let entry = self.entry(&tenant, from, "register", account.key());
            // In a conflict somebody else got the address at this moment: the answer is the same.
            self.meta.commit_or_conflict(Batch::default().create(&account).audited(entry)).await?;
        }
        Ok(Registered::Asked(id))
    }

    async fn tell_owner(&self, email: &EmailAddress, email_code: &str) -> Result<(), AuthError> {
        if !self.may_mail(email_code) {
            return Ok(());
        }
        let text = "Somebody wanted to register with your address, which has an account already.\n\
                    If it was you: sign in, or ask for a new password. If not, there is nothing to do.\n";
        self.accounts.send(email, "You have an account already", text.to_owned()).await
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one record")]
    async fn await_code(
        &self,
        tenant: &TenantId,
        id: &TokenId,
        email: &EmailAddress,
        email_code: &str,
        name: &str,
        password: String,
        from: IpAddr,
    ) -> Result<(), AuthError> {
        if !self.may_mail(email_code) {
            return self.stranger_refused(self.entry(tenant, from, "register", "account"), "too_many_mails").await;
        }
        let sealed = self.seal_email(&Pending::key_of(id), email).await?;
        let (email_code, name) = (email_code.to_owned(), name.to_owned());
        let code = self.begin(tenant, id, Then::Register { email: sealed, email_code, name, password }).await?;
        let text = format!(
            "Your code is\n\n    {}\n\nType it where you registered, within {} minutes.\n\
             If you did not register, there is nothing to do: without the code there is no account.\n",
            code.shown(),
            CODE_VALIDITY.as_secs() / 60,
        );
        self.accounts.send(email, "Your code", text).await
    }

    /// Stores what is to happen once the code, which this makes, comes back.
    pub(super) async fn begin(&self, tenant: &TenantId, id: &TokenId, then: Then) -> Result<CodeText, AuthError> {
        if MetaStore::count(&*self.meta, &Index::new(Pending::KIND, "all", "")).await? >= PENDING_MAX {
            return Err(AuthError::Busy);
        }
        let code = CodeText::random()?;
        let pending = Pending {
            tenant: tenant.clone(),
            id: id.clone(),
            code: self.mailed_code(id, &code).await?,
            expires: self.now().plus(CODE_VALIDITY),
            tries_left: CODE_TRIES_MAX,
            then,
        };
        match self.meta.commit_or_conflict(Batch::default().create(&pending)).await? {
            true => Ok(code),
            false => Err(Contended.into()),
        }
    }

    /// Makes the account whose mailed code comes back. `id` is what [`register`](Self::register) answered: it ties the account,
    /// with its password, to whoever asked for it, whatever codes others had sent to the same address.
    pub async fn verify(&self, id: &TokenId, code: &Secret, from: IpAddr) -> Result<Verified, AuthError> {
        let tenant = Self::default_tenant();
        self.settle(|| async {
            let stored = match self.check_code(id, code).await? {
                Checked::Right(stored) => stored,
                other => return Ok(Step::Answer(self.not_verified(&tenant, &other, from).await?)),
            };
            let Then::Register { email, email_code, name, password } = &stored.document.then else {
                return Ok(Step::Answer(self.not_verified(&tenant, &Checked::Wrong, from).await?));
            };
            if self.meta.find_by::<Account>("email", email_code).await?.is_some() {
                let entry = self.entry(&tenant, from, "verify", "account");
                self.refused(entry, "email_taken").await?;
                return Ok(Step::Commit(Batch::default().remove(&stored), Verified::EmailTaken));
            }
            let email = self.open_email(&stored.document.key(), email).await?;
            let account = self.new_account(&tenant, &email, email_code.clone(), name, password.clone()).await?;
            let account = Account { verified: true, ..account };
            let entry = self.entry(&tenant, from, "register", account.key());
            let batch = Batch::default().remove(&stored).create(&account).audited(entry);
            Ok(Step::Commit(batch, Verified::Done(account.id)))
        })
        .await
    }

    async fn not_verified(&self, tenant: &TenantId, checked: &Checked, from: IpAddr) -> Result<Verified, AuthError> {
        let (answer, why) = match checked {
            Checked::Expired => (Verified::Expired, "code_expired"),
            Checked::Right(_) | Checked::Wrong => (Verified::Wrong, "code"),
        };
        self.stranger_refused(self.entry(tenant, from, "verify", "account"), why).await?;
        Ok(answer)
    }

    pub(super) async fn new_account(
        &self,
        tenant: &TenantId,
        email: &EmailAddress,
        email_code: String,
        name: &str,
        password: String,
    ) -> Result<Account, AuthError> {
        let id = random_id(AccountId::parse)?;
        let email = self.seal_email(&Account::key_of(tenant, &id), email).await?;
        Ok(Account {
            tenant: tenant.clone(),
            id,
            email,
            email_code,
            name: name.to_owned(),
            password,
            epoch: 1,
            verified: false,
            staff: None,
            disabled: false,
            created: self.now(),
        })
    }

    /// Removes confirmations and sign-ins that are over; the answer is how many. To be called now and then.
    pub async fn sweep_accounts(&self) -> Result<u64, AuthError> {
        let now = self.now();
        let confirmations = self.sweep_kind::<Pending>(|pending| pending.expires <= now).await?;
        Ok(confirmations + self.sweep_kind::<super::Login>(|login| login.expires <= now).await?)
    }

    async fn sweep_kind<T: Document>(&self, over: impl Fn(&T) -> bool + Send + Sync) -> Result<u64, AuthError> {
        let (mut removed, mut after) = (0, None);
        loop {
            let page = self.meta.page::<T>("all", "", after.as_ref(), iot_core::store::INDEX_PAGE_MAX).await?;
            for stored in page.items.iter().filter(|stored| over(&stored.document)) {
                // In a conflict it is used or removed by another at this moment.
                removed += u64::from(self.meta.commit_or_conflict(Batch::default().remove(stored)).await?);
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(removed),
            }
        }
    }
}
