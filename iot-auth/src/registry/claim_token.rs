use std::time::Duration;

use iot_core::{
    access::Principal,
    device::Product,
    id::{ProductId, TenantId, TokenId},
    secret::Secret,
    store::{Batch, Contended, Document, IndexKey, Key, MetaStoreExt, Step},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::{
    auth::{Auth, AuthError},
    token::{Kind, TokenText},
};

/// The most uses of one claim token.
pub const CLAIM_USES_MAX: u32 = 1_000_000;

/// For how long a claim token is good where nothing else is asked for.
pub const CLAIM_VALIDITY_DEFAULT: Duration = Duration::from_secs(24 * 3_600);

/// The longest that a claim token is good.
pub const CLAIM_VALIDITY_MAX: Duration = Duration::from_secs(366 * 24 * 3_600);

/// A claim token as stored. A revoked one is deleted; the audit log remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimToken {
    /// Within which tenant.
    pub tenant: TenantId,
    /// Which.
    pub id: TokenId,
    /// For units of which product.
    pub product: ProductId,
    /// Keyed code of its secret part.
    pub code: String,
    /// How many units may claim with it.
    pub uses: u32,
    /// How many have.
    pub used: u32,
    /// Whether it may be used without naming a unit.
    pub assign: bool,
    /// When it was issued.
    pub created: Timestamp,
    /// Until when it is accepted.
    pub expires: Timestamp,
}

impl ClaimToken {
    /// Its key in a store. Ids are random, so that a text finds its record before its tenant is known.
    pub fn key_of(id: &TokenId) -> Key {
        Key::new(Self::KIND, id.as_str())
    }
}

impl Document for ClaimToken {
    const KIND: &'static str = "claim_token";
    const FORMAT: u16 = 1;

    fn key(&self) -> Key {
        Self::key_of(&self.id)
    }

    fn index_keys(&self) -> Vec<IndexKey> {
        vec![IndexKey::many("tenant", self.tenant.as_str())]
    }
}

/// A claim token and, this once, its text.
#[derive(Debug, Clone)]
pub struct IssuedClaimToken {
    /// As stored.
    pub token: ClaimToken,
    /// `ct_<id>_<secret>`.
    pub text: Secret,
}

impl Auth {
    /// Issues a claim token for a product of the tenant of `by`, who may do so; `None` if there is no such product. `uses` and
    /// `valid` are cut to [`CLAIM_USES_MAX`] and [`CLAIM_VALIDITY_MAX`].
    pub async fn issue_claim_token(
        &self,
        by: &Principal,
        product: &ProductId,
        uses: u32,
        valid: Duration,
        assign: bool,
    ) -> Result<Option<IssuedClaimToken>, AuthError> {
        if self.meta.find::<Product>(&Product::key_of(&by.tenant, product)).await?.is_none() {
            return Ok(None);
        }
        let text = TokenText::random(Kind::Claim)?;
        let token = ClaimToken {
            tenant: by.tenant.clone(),
            id: text.id.clone(),
            product: product.clone(),
            code: self.code_of(&text).await?,
            uses: uses.min(CLAIM_USES_MAX),
            used: 0,
            assign,
            created: self.now(),
            expires: self.now().plus(valid.min(CLAIM_VALIDITY_MAX)),
        };
        let entry = self.done(by, "claim_token_issue", &token.key());
        match self.meta.commit_or_conflict(Batch::default().create(&token).audited(entry)).await? {
            true => Ok(Some(IssuedClaimToken { token, text: text.reveal() })),
            false => Err(Contended.into()),
        }
    }

    /// Ends a claim token of the tenant of `by`; `false` if there is none. Units that have claimed with it keep their keys.
    pub async fn revoke_claim_token(&self, by: &Principal, id: &TokenId) -> Result<bool, AuthError> {
        let key = ClaimToken::key_of(id);
        self.settle(|| async {
            let stored = self.meta.find::<ClaimToken>(&key).await?;
            let Some(stored) = stored.filter(|stored| stored.document.tenant == by.tenant) else {
                return Ok(Step::Answer(false));
            };
            let entry = self.done(by, "claim_token_revoke", &key);
            Ok(Step::Commit(Batch::default().remove(&stored).audited(entry), true))
        })
        .await
    }
}
