use std::time::Duration;

use iot_core::{
    access::{Principal, Relation},
    id::{TenantId, TokenId},
    secret::Secret,
    store::{Batch, Contended, Document, IndexKey, Key, MetaStoreExt, Step},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

use super::{Kind, TokenText};
use crate::auth::{Auth, AuthError};

/// The longest name of a token, in bytes.
pub const TOKEN_NAME_BYTES_MAX: usize = 128;

/// The longest that a token with an end is good.
pub const TOKEN_VALIDITY_MAX: Duration = Duration::from_secs(3_652 * 24 * 3_600);

/// What a token's holder is to its tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Role {
    /// [`Relation::Admin`].
    Admin,
    /// [`Relation::Operator`].
    Operator,
    /// [`Relation::Viewer`].
    Viewer,
}

impl Role {
    /// The relation that it grants.
    pub fn relation(self) -> Relation {
        match self {
            Self::Admin => Relation::Admin,
            Self::Operator => Relation::Operator,
            Self::Viewer => Relation::Viewer,
        }
    }
}

/// An API token as stored. A revoked one is deleted; the audit log remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiToken {
    /// Within which tenant.
    pub tenant: TenantId,
    /// Which.
    pub id: TokenId,
    /// For people.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Keyed code of its secret part.
    pub code: String,
    /// When it was issued.
    pub created: Timestamp,
    /// Until when it is accepted.
    #[serde(default)]
    pub expires: Option<Timestamp>,
}

impl ApiToken {
    /// Its key in a store. Ids are random, so that a text finds its record before its tenant is known.
    pub fn key_of(id: &TokenId) -> Key {
        Key::new(Self::KIND, id.as_str())
    }

    /// Whether it has ended.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }
}

impl Document for ApiToken {
    const KIND: &'static str = "api_token";
    const FORMAT: u16 = 1;

    fn key(&self) -> Key {
        Self::key_of(&self.id)
    }

    fn index_keys(&self) -> Vec<IndexKey> {
        vec![IndexKey::many("tenant", self.tenant.as_str())]
    }
}

/// A token and, this once, its text.
#[derive(Debug, Clone)]
pub struct IssuedToken {
    /// As stored.
    pub token: ApiToken,
    /// `at_<id>_<secret>`.
    pub text: Secret,
}

impl Auth {
    /// Issues an API token of the tenant of `by`, who may do so. `name` is for people.
    pub async fn issue_token(
        &self,
        by: &Principal,
        name: &str,
        role: Role,
        expires: Option<Timestamp>,
    ) -> Result<IssuedToken, AuthError> {
        let issued = self.new_token(&by.tenant, name, role, expires).await?;
        let entry = self.done(by, "token_issue", &issued.token.key());
        let batch = Batch::default().create(&issued.token).audited(entry);
        match self.meta.commit_or_conflict(batch).await? {
            true => Ok(issued),
            false => Err(Contended.into()),
        }
    }

    /// Ends an API token of the tenant of `by`; `false` if there is none. Sessions that stand on it end within a second.
    pub async fn revoke_token(&self, by: &Principal, id: &TokenId) -> Result<bool, AuthError> {
        let key = ApiToken::key_of(id);
        self.settle(|| async {
            let stored = self.meta.find::<ApiToken>(&key).await?;
            let Some(stored) = stored.filter(|stored| stored.document.tenant == by.tenant) else {
                return Ok(Step::Answer(false));
            };
            let entry = self.done(by, "token_revoke", &key);
            Ok(Step::Commit(Batch::default().remove(&stored).audited(entry), true))
        })
        .await
    }

    pub(super) async fn new_token(
        &self,
        tenant: &TenantId,
        name: &str,
        role: Role,
        expires: Option<Timestamp>,
    ) -> Result<IssuedToken, AuthError> {
        let text = TokenText::random(Kind::Api)?;
        let token = ApiToken {
            tenant: tenant.clone(),
            id: text.id.clone(),
            name: name.to_owned(),
            role,
            code: self.code_of(&text).await?,
            created: self.now(),
            expires,
        };
        Ok(IssuedToken { token, text: text.reveal() })
    }
}
