use async_trait::async_trait;
use iot_core::{
    access::{Access, Principal, Standing, Subject},
    device::Device,
    store::{Key, MetaStoreExt, StoreError},
    time::Timestamp,
};

use super::{
    Auth,
    authenticate::{anonymous_grants, device_grants, token_grants},
};
use crate::{account::login_depends_on, token::ApiToken};

#[async_trait]
impl Access for Auth {
    async fn standing(&self, principal: &Principal) -> Result<Standing, StoreError> {
        // Read first: the grants are at least as new as this.
        let revision = self.meta.revision().await?;
        let tenant = &principal.tenant;
        let grants = match &principal.subject {
            Subject::Device { device, fingerprint } => {
                let stored = self.meta.find::<Device>(&Device::key_of(tenant, device)).await?;
                let device = stored.map(|s| s.document).filter(|d| is_current(d, fingerprint, self.now()));
                device.map(|device| device_grants(&device, revision))
            }
            Subject::Token(id) => {
                let stored = self.meta.find::<ApiToken>(&ApiToken::key_of(id)).await?;
                let token = stored.map(|s| s.document).filter(|t| t.tenant == *tenant && !t.is_over(self.now()));
                token.map(|token| token_grants(&token, revision))
            }
            Subject::Account { account, login } => self.login_grants(tenant, account, login, None, revision).await?,
            Subject::Anonymous => Some(anonymous_grants(tenant, revision)),
            _ => None,
        };
        Ok(grants.map_or(Standing::Revoked, Standing::Current))
    }

    fn depends_on(&self, principal: &Principal) -> Vec<Key> {
        match &principal.subject {
            Subject::Device { device, .. } => vec![Device::key_of(&principal.tenant, device)],
            Subject::Token(id) => vec![ApiToken::key_of(id)],
            Subject::Account { account, login } => login_depends_on(&principal.tenant, account, login),
            _ => vec![],
        }
    }
}

fn is_current(device: &Device, fingerprint: &str, now: Timestamp) -> bool {
    let newest = device.keys.iter().find(|key| key.fingerprint == fingerprint);
    device.accepts(fingerprint) && newest.is_some_and(|key| now <= key.not_after)
}
