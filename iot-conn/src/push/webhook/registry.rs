//! Registering, rotating, enabling, deleting.

use std::collections::HashSet;

use data_encoding::BASE64;
use iot_core::{
    device::Device,
    home::Home,
    id::{DeviceId, TenantId, WebhookId},
    keys::Purpose,
    problem::Cursor,
    push::Kind,
    secret::Secret,
    store::{Audit, Batch, Document, MetaStoreExt, Page, Step, StoreError, Stored},
};

use super::{PreviousSecret, ROTATION, UrlRefusal, WEBHOOKS_MAX, Webhook, WebhookError, Webhooks, signature};

/// Whose webhooks: those of a tenant as a whole, or of one home.
#[derive(Debug, Clone)]
pub struct Place {
    /// The tenant.
    pub tenant: TenantId,
    /// The home, as it was when the request was permitted: nothing is written if it has changed since.
    pub home: Option<Stored<Home>>,
    /// Who asks, for the audit.
    pub actor: String,
}

/// What somebody wants to register.
#[derive(Debug, Clone)]
pub struct NewWebhook {
    /// Where deliveries go.
    pub url: String,
    /// Which kinds; all, if empty.
    pub kinds: Vec<Kind>,
    /// Only about this device, for as long as its present ownership epoch lasts.
    pub device: Option<DeviceId>,
}

/// A webhook with its secret, which is shown this once.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The webhook.
    pub webhook: Webhook,
    /// `whsec_` and base64.
    pub secret: Secret,
}

/// How a registration ended.
#[must_use]
#[derive(Debug)]
pub enum Registered {
    /// It is there.
    Done(Box<Shown>),
    /// The URL must be another.
    Url(UrlRefusal),
    /// There are [`WEBHOOKS_MAX`] already.
    TooMany,
    /// There is no such device in this tenant or home.
    NoSuchDevice,
    /// The home has changed since the request was permitted: ask again.
    HomeChanged,
}

impl Place {
    fn index(&self) -> String {
        Webhook::place(&self.tenant, self.home.as_ref().map(|home| &home.document.id))
    }

    fn holds(&self, webhook: &Webhook) -> bool {
        webhook.tenant == self.tenant && webhook.home.as_ref() == self.home.as_ref().map(|home| &home.document.id)
    }
}

impl Webhooks {
    /// Registers a webhook.
    pub async fn register(&self, place: &Place, new: &NewWebhook) -> Result<Registered, WebhookError> {
        if let Err(refusal) = self.client.check(&new.url).await {
            let audit = self.audit(place, "create_webhook", &place.index(), Some(refusal.code()));
            self.meta.commit_or_conflict(Batch::default().audited(audit)).await?;
            return Ok(Registered::Url(refusal));
        }
        let id = WebhookId::parse(&uuid::Uuid::now_v7().to_string()).expect("a UUID is an id");
        let secret = signature::draw()?;
        let sealed = self.seal(&place.tenant, &id, &secret).await?;
        self.settle(|| self.place_webhook(place, new, &id, &secret, &sealed)).await
    }

    async fn place_webhook(
        &self,
        place: &Place,
        new: &NewWebhook,
        id: &WebhookId,
        secret: &Secret,
        sealed: &str,
    ) -> Result<Step<Registered>, WebhookError> {
        let mut batch = Batch::default();
        if let Some(home) = &place.home {
            let present: Option<Stored<Home>> = self.meta.find(&home.document.key()).await?;
            if present.is_none_or(|present| present.version != home.version) {
                return Ok(Step::Answer(Registered::HomeChanged));
            }
            batch = batch.unchanged(home);
        }
        let mut about = None;
        if let Some(device) = &new.device {
            let found: Option<Stored<Device>> = self.meta.find(&Device::key_of(&place.tenant, device)).await?;
            let home = place.home.as_ref().map(|home| &home.document.id);
            let Some(found) = found.filter(|found| home.is_none() || found.document.home.as_ref() == home) else {
                return Ok(Step::Answer(Registered::NoSuchDevice));
            };
            about = Some((device.clone(), found.document.epoch));
            batch = batch.unchanged(&found);
        }
        let others = self.meta.page::<Webhook>("place", &place.index(), None, WEBHOOKS_MAX).await?;
        let taken: HashSet<u32> = others.items.iter().map(|other| other.document.slot).collect();
        let Some(slot) = (0..WEBHOOKS_MAX).find(|slot| !taken.contains(slot)) else {
            let audit = self.audit(place, "create_webhook", &place.index(), Some("too_many_webhooks"));
            return Ok(Step::Commit(Batch::default().audited(audit), Registered::TooMany));
        };
        let webhook = Webhook {
            tenant: place.tenant.clone(),
            home: place.home.as_ref().map(|home| home.document.id.clone()),
            device: about,
            id: id.clone(),
            slot,
            url: new.url.clone(),
            kinds: new.kinds.clone(),
            secret: sealed.to_owned(),
            previous: None,
            created: self.clock.timestamp(),
            disabled: None,
            failing_since: None,
        };
        let batch = batch.create(&webhook).audited(self.audit_of(place, "create_webhook", &webhook));
        Ok(Step::Commit(batch, Registered::Done(Box::new(Shown { webhook, secret: secret.clone() }))))
    }

    /// The webhooks of a place.
    pub async fn list(
        &self,
        place: &Place,
        after: Option<&Cursor>,
        limit: u32,
    ) -> Result<Page<Stored<Webhook>>, StoreError> {
        self.meta.page("place", &place.index(), after, limit).await
    }

    /// A webhook of a place.
    pub async fn find(&self, place: &Place, id: &WebhookId) -> Result<Option<Stored<Webhook>>, StoreError> {
        let found: Option<Stored<Webhook>> = self.meta.find(&Webhook::key_of(&place.tenant, id)).await?;
        Ok(found.filter(|found| place.holds(&found.document)))
    }

    /// Deletes a webhook; what waits for it is dropped when its turn comes. `false` if there is none.
    pub async fn delete(&self, place: &Place, id: &WebhookId) -> Result<bool, WebhookError> {
        self.settle(|| async {
            let Some(found) = self.find(place, id).await? else { return Ok(Step::Answer(false)) };
            let audit = self.audit_of(place, "delete_webhook", &found.document);
            Ok(Step::Commit(Batch::default().remove(&found).audited(audit), true))
        })
        .await
    }

    /// Gives a webhook a new secret, shown this once. For [`ROTATION`] deliveries are signed with the former one too.
    pub async fn rotate(&self, place: &Place, id: &WebhookId) -> Result<Option<Shown>, WebhookError> {
        let secret = signature::draw()?;
        let sealed = self.seal(&place.tenant, id, &secret).await?;
        let changed = self
            .change(place, id, "rotate_webhook", |webhook| {
                let former = std::mem::replace(&mut webhook.secret, sealed.clone());
                let until = self.clock.timestamp().plus(ROTATION);
                webhook.previous = Some(PreviousSecret { secret: former, until });
            })
            .await?;
        Ok(changed.map(|webhook| Shown { webhook, secret }))
    }

    /// Lets a webhook that was disabled get deliveries again. Its dead letters stay until they are replayed.
    pub async fn enable(&self, place: &Place, id: &WebhookId) -> Result<Option<Webhook>, WebhookError> {
        self.change(place, id, "enable_webhook", |webhook| {
            webhook.disabled = None;
            webhook.failing_since = None;
        })
        .await
    }

    async fn change(
        &self,
        place: &Place,
        id: &WebhookId,
        action: &str,
        change: impl Fn(&mut Webhook),
    ) -> Result<Option<Webhook>, WebhookError> {
        self.settle(|| async {
            let Some(found) = self.find(place, id).await? else { return Ok(Step::Answer(None)) };
            let mut webhook = found.document.clone();
            change(&mut webhook);
            let batch = Batch::default().replace(&found, &webhook).audited(self.audit_of(place, action, &webhook));
            Ok(Step::Commit(batch, Some(webhook)))
        })
        .await
    }

    async fn seal(&self, tenant: &TenantId, id: &WebhookId, secret: &Secret) -> Result<String, WebhookError> {
        let context = Webhook::key_of(tenant, id).to_string();
        let sealed = self.keys.seal(Purpose::WebhookSecret, context.as_bytes(), secret.expose().as_bytes()).await?;
        Ok(BASE64.encode(&sealed))
    }

    pub(super) fn audit_of(&self, place: &Place, action: &str, webhook: &Webhook) -> Audit {
        self.audit(place, action, &webhook.key().to_string(), None)
    }

    pub(super) fn audit(&self, place: &Place, action: &str, subject: &str, refused: Option<&str>) -> Audit {
        Audit {
            at: self.clock.timestamp(),
            tenant: place.tenant.clone(),
            actor: place.actor.clone(),
            action: action.to_owned(),
            subject: subject.to_owned(),
            refused: refused.map(ToOwned::to_owned),
        }
    }
}
