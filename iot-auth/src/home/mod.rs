//! Homes and sharing: creating, inviting, accepting, changing and ending, as `iot_core::home` rules.
//!
//! Each change checks and rewrites the home's record, so that two changes of one home never pass each other, and rings the
//! [`MembershipBell`] of each account that it is about. Each refusal is an audit entry.

mod change;
mod invite;

use std::collections::BTreeSet;

use iot_core::{
    access::{Principal, Subject, Tuple},
    home::{HOMES_PER_ACCOUNT_MAX, Home, HomeRefusal, MembershipBell, Ruling, member_index},
    id::{AccountId, HomeId, TenantId},
    store::{Batch, Check, Document, Index, Key, MetaStore, MetaStoreExt, Step, StoreError, Stored, Write},
    time::Timestamp,
};

pub use self::{
    change::Leaving,
    invite::{
        INVITE_URI, INVITE_USES_MAX, INVITE_VALIDITY_DEFAULT, INVITE_VALIDITY_MAX, InviteAsked, Invited, IssuedInvite,
    },
};
use crate::auth::{Auth, AuthError};

/// What an account is to the homes that it is in: the part of its grants that is about homes. The answer reflects every commit
/// that had returned before the call.
pub async fn home_tuples(
    meta: &dyn MetaStore,
    tenant: &TenantId,
    account: &AccountId,
) -> Result<Vec<Tuple>, StoreError> {
    let homes = homes_of(meta, tenant, account).await?;
    Ok(homes.iter().filter_map(|home| home.document.tuple_of(account)).collect())
}

/// The homes that an account is in, also those in which its access has ended.
pub(crate) async fn homes_of(
    meta: &dyn MetaStore,
    tenant: &TenantId,
    account: &AccountId,
) -> Result<Vec<Stored<Home>>, StoreError> {
    // Nobody is in more: whoever joins one checks it.
    let page = meta.page::<Home>("member", &member_index(tenant, account), None, HOMES_PER_ACCOUNT_MAX).await?;
    Ok(page.items)
}

pub(crate) fn account_of(by: &Principal) -> Option<&AccountId> {
    match &by.subject {
        Subject::Account { account, .. } => Some(account),
        _ => None,
    }
}

impl Auth {
    /// Decides about one home by a rule of core. One who is no account, and a home that is not there, are forbidden alike.
    async fn rule(
        &self,
        by: &Principal,
        home: &HomeId,
        action: &str,
        rule: impl Fn(&Home, &AccountId, Timestamp) -> Ruling,
    ) -> Result<Ruling, AuthError> {
        let key = Home::key_of(&by.tenant, home);
        let ruling = self
            .settle(|| async {
                let read = self.meta.find::<Home>(&key).await?;
                let (Some(read), Some(account)) = (read, account_of(by)) else {
                    return Ok(Step::Answer(Ruling::Refused(HomeRefusal::Forbidden)));
                };
                Ok(match rule(&read.document, account, self.now()) {
                    Ruling::Changed(home) => {
                        Step::Commit(self.home_change(by, action, &read, &home), Ruling::Changed(home))
                    }
                    refused => Step::Answer(refused),
                })
            })
            .await?;
        self.ruled(by, action, &key, ruling).await
    }

    /// Records a refusal.
    async fn ruled(&self, by: &Principal, action: &str, key: &Key, ruling: Ruling) -> Result<Ruling, AuthError> {
        if let Ruling::Refused(why) = &ruling {
            self.refused(self.done(by, action, key), why.code()).await?;
        }
        Ok(ruling)
    }

    /// A home as it is to become, and the bells of those for whom it is not what it was.
    fn home_change(&self, by: &Principal, action: &str, read: &Stored<Home>, home: &Home) -> Batch {
        let mut batch = Batch::default().replace(read, home).audited(self.done(by, action, &home.key()));
        batch.writes.extend(self.bells(&home.tenant, home.affected(&read.document)));
        batch
    }

    fn bells(&self, tenant: &TenantId, accounts: BTreeSet<AccountId>) -> Vec<Write> {
        let at = self.now();
        let bell = |account| MembershipBell { tenant: tenant.clone(), account, at };
        accounts.into_iter().map(|account| Write::put(&bell(account))).collect()
    }

    /// Whether an account may be in one more home, and the check that makes it so until the commit: each change of its homes
    /// writes its bell.
    async fn room_for_home(&self, tenant: &TenantId, account: &AccountId) -> Result<Option<Check>, AuthError> {
        let key = MembershipBell::key_of(tenant, account);
        let bell = self.meta.find::<MembershipBell>(&key).await?;
        let index = Index::new(Home::KIND, "member", member_index(tenant, account));
        if self.meta.count(&index).await? >= u64::from(HOMES_PER_ACCOUNT_MAX) {
            return Ok(None);
        }
        Ok(Some(bell.map_or_else(|| Check::Absent(key.clone()), |bell| Check::Version(key.clone(), bell.version))))
    }
}
