use serde::{Deserialize, Serialize};

use super::{InvalidQuota, Quota, Scope};
use crate::{
    id::TenantId,
    store::{
        self, Audit, Batch, Contended, Document, Index, IndexKey, Key, MetaStore, MetaStoreExt, Step, StoreError,
        Stored,
    },
    time::Timestamp,
};

/// The most quotas of one tenant, which a node has in memory. A further one is refused; those that come at the same time may go
/// beyond it by one each.
pub const QUOTAS_MAX: u64 = 10_000;

/// A quota on record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredQuota {
    /// Within which tenant.
    pub tenant: TenantId,
    /// For whom.
    pub scope: Scope,
    /// The limits.
    pub quota: Quota,
    /// When it was last set.
    pub changed: Timestamp,
}

impl StoredQuota {
    /// Its key in a store.
    pub fn key_of(tenant: &TenantId, scope: &Scope) -> Key {
        Key::new(Self::KIND, format!("{tenant}/{scope}"))
    }

    /// What a key names, if it is one of these.
    pub fn named_by(key: &Key) -> Option<(TenantId, Scope)> {
        let (tenant, scope) = key.key.split_once('/').filter(|_| key.kind == Self::KIND)?;
        Some((tenant.parse().ok()?, scope.parse().ok()?))
    }
}

impl Document for StoredQuota {
    const KIND: &'static str = "quota";
    const FORMAT: u16 = 1;

    fn key(&self) -> Key {
        Self::key_of(&self.tenant, &self.scope)
    }

    /// `tenant`.
    fn index_keys(&self) -> Vec<IndexKey> {
        vec![IndexKey::many("tenant", self.tenant.as_str())]
    }
}

/// How setting a quota ended.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PutQuota {
    /// It is set.
    Done,
    /// The limits make no sense.
    Invalid(InvalidQuota),
    /// The tenant has [`QUOTAS_MAX`] already.
    TooMany,
}

/// A quota could not be changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuotaError {
    /// The store failed; the quota may have changed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nothing has changed; try again.
    #[error(transparent)]
    Contended(#[from] Contended),
}

/// Sets a quota, in place of what its scope had, and records in the audit log that `actor` did. Who may do that is for the caller to
/// decide, and so is whether there is what the scope names.
pub async fn put(meta: &dyn MetaStore, actor: &str, quota: &StoredQuota) -> Result<PutQuota, QuotaError> {
    if let Err(invalid) = quota.quota.check() {
        return Ok(PutQuota::Invalid(invalid));
    }
    store::settle(meta, || async {
        let audit = Audit::done(quota.changed, &quota.tenant, actor, "quota_set", quota.key());
        let found: Option<Stored<StoredQuota>> = meta.find(&quota.key()).await?;
        let batch = match found {
            Some(former) => Batch::default().replace(&former, quota),
            None => {
                let all = Index::new(StoredQuota::KIND, "tenant", quota.tenant.as_str());
                if meta.count(&all).await? >= QUOTAS_MAX {
                    return Ok(Step::Answer(PutQuota::TooMany));
                }
                Batch::default().create(quota)
            }
        };
        Ok(Step::Commit(batch.audited(audit), PutQuota::Done))
    })
    .await
}

/// Removes a quota, and records that; whether there was one.
pub async fn remove(
    meta: &dyn MetaStore,
    actor: &str,
    tenant: &TenantId,
    scope: &Scope,
    now: Timestamp,
) -> Result<bool, QuotaError> {
    let key = StoredQuota::key_of(tenant, scope);
    store::settle(meta, || async {
        let found: Option<Stored<StoredQuota>> = meta.find(&key).await?;
        Ok(match found {
            Some(former) => {
                let audit = Audit::done(now, tenant, actor, "quota_remove", &key);
                Step::Commit(Batch::default().remove(&former).audited(audit), true)
            }
            None => Step::Answer(false),
        })
    })
    .await
}
