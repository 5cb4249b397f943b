use std::net::IpAddr;

use iot_core::{
    device::Tenant,
    id::TenantId,
    keys::Purpose,
    secret::Secret,
    store::{Batch, Document, IndexKey, Key, MetaStoreExt, Step, Stored},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

use super::{IssuedToken, Role, text::random_secret};
use crate::auth::{Auth, AuthError, same_code};

/// The name that signs in with the one-time password.
pub const ADMIN_USER: &str = "admin";

/// The one-time password of a tenant's first administrator, as stored. Gone once it is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminPassword {
    /// Of which tenant.
    pub tenant: TenantId,
    /// Keyed code of the password.
    pub code: String,
    /// When it was made.
    pub created: Timestamp,
}

impl AdminPassword {
    fn key_of(tenant: &TenantId) -> Key {
        Key::new(Self::KIND, tenant.as_str())
    }
}

impl Document for AdminPassword {
    const KIND: &'static str = "admin_password";
    const FORMAT: u16 = 1;

    fn key(&self) -> Key {
        Self::key_of(&self.tenant)
    }

    fn index_keys(&self) -> Vec<IndexKey> {
        vec![]
    }
}

/// The answer to a password.
#[must_use]
#[derive(Debug)]
pub enum SignIn {
    /// It was right and is used up; this is an admin token.
    Granted(Box<IssuedToken>),
    /// Wrong, used before, or another name.
    Refused,
}

impl Auth {
    /// Makes tenant `default` and the password of its administrator if there is none yet: to be printed once. `None` on every
    /// later start, also if that print was missed: then [`reset_admin`](Self::reset_admin) helps.
    pub async fn first_start(&self) -> Result<Option<Secret>, AuthError> {
        let id = Self::default_tenant();
        let tenant = Tenant { id: id.clone(), name: "Default".to_owned() };
        if self.meta.find::<Tenant>(&tenant.key()).await?.is_some() {
            return Ok(None);
        }
        let (password, stored) = self.new_password(&id).await?;
        let entry = self.entry(&id, "server", "first_start", tenant.key());
        let batch = Batch::default().create(&tenant).create(&stored).audited(entry);
        // In a conflict another node has had its first start and prints the password.
        Ok(self.meta.commit_or_conflict(batch).await?.then_some(password))
    }

    /// Whether there is a one-time password that nobody has used.
    pub async fn awaits_admin(&self) -> Result<bool, AuthError> {
        Ok(self.meta.find::<AdminPassword>(&AdminPassword::key_of(&Self::default_tenant())).await?.is_some())
    }

    /// A new one-time password for the administrator, in place of any other. Tokens stay as they are.
    pub async fn reset_admin(&self) -> Result<Secret, AuthError> {
        let tenant = Self::default_tenant();
        let (password, stored) = self.new_password(&tenant).await?;
        self.settle(|| async {
            let entry = self.entry(&tenant, "server", "admin_reset", stored.key());
            let batch = match self.meta.find::<AdminPassword>(&stored.key()).await? {
                Some(former) => Batch::default().replace(&former, &stored),
                None => Batch::default().create(&stored),
            };
            Ok(Step::Commit(batch.audited(entry), ()))
        })
        .await?;
        Ok(password)
    }

    /// Exchanges the one-time password for an admin token. Of two that come at once one is refused.
    pub async fn sign_in(&self, user: &str, password: &Secret, from: IpAddr) -> Result<SignIn, AuthError> {
        let tenant = Self::default_tenant();
        let stored = self.one_time_password(&tenant, password).await?;
        if let Some(stored) = stored.filter(|_| user == ADMIN_USER) {
            let issued = self.new_token(&tenant, "first administrator", Role::Admin, None).await?;
            let entry = self.entry(&tenant, from, "sign_in", issued.token.key());
            let batch = Batch::default().remove(&stored).create(&issued.token).audited(entry);
            if self.meta.commit_or_conflict(batch).await? {
                return Ok(SignIn::Granted(Box::new(issued)));
            }
        }
        self.stranger_refused(self.entry(&tenant, from, "sign_in", AdminPassword::key_of(&tenant)), "password").await?;
        Ok(SignIn::Refused)
    }

    /// The stored one-time password, if this is the one.
    pub(crate) async fn one_time_password(
        &self,
        tenant: &TenantId,
        shown: &Secret,
    ) -> Result<Option<Stored<AdminPassword>>, AuthError> {
        let code = self.password_code(tenant, shown).await?;
        let stored = self.meta.find::<AdminPassword>(&AdminPassword::key_of(tenant)).await?;
        Ok(stored.filter(|stored| same_code(&stored.document.code, &code)))
    }

    async fn new_password(&self, tenant: &TenantId) -> Result<(Secret, AdminPassword), AuthError> {
        let password = random_secret()?;
        let code = self.password_code(tenant, &password).await?;
        Ok((password, AdminPassword { tenant: tenant.clone(), code, created: self.now() }))
    }

    async fn password_code(&self, tenant: &TenantId, password: &Secret) -> Result<String, AuthError> {
        let data = ["admin-password", tenant.as_str(), password.expose()].join("\n");
        Ok(self.keys.code(Purpose::TokenHash, data.as_bytes()).await?)
    }
}
