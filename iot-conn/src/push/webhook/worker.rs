//! Attempts, and what follows from how they end.

use std::{sync::Arc, time::Duration};

use data_encoding::BASE64;
use iot_core::{
    device::Device,
    home::Home,
    keys::Purpose,
    secret::Secret,
    store::{Audit, Batch, Document, Key, MetaStoreExt, Step, Stored},
    time::Timestamp,
};
use tokio::task::JoinSet;

use super::{
    Delivery, DeliveryState, Disabled, DisabledReason, Next, Webhook, WebhookError, Webhooks, after_failure,
    client::Outcome,
    record::{Standing, WEBHOOK_DELETED, standing},
    signature::{seconds, sign},
};

/// How long until another try when it is our own side that failed: that costs the receiver none of its attempts.
pub(super) const STORE_RETRY: Duration = Duration::from_secs(5);

/// The longest sleep, so that a wall clock that is set makes no attempt late by more.
const SLEEP_MAX: Duration = Duration::from_secs(30);

const SWEEP_EVERY: Duration = Duration::from_secs(3_600);

impl Webhooks {
    /// Tries deliveries as they fall due, until `shutdown` resolves. An attempt that is under way then is broken off and made
    /// again after the next start.
    pub async fn run(self: Arc<Self>, shutdown: impl Future<Output = ()> + Send) {
        let mut attempts = JoinSet::new();
        let mut sweep = tokio::time::interval(SWEEP_EVERY);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        tokio::pin!(shutdown);
        loop {
            while let Some((endpoint, delivery)) = self.take() {
                let webhooks = self.clone();
                attempts.spawn(async move { webhooks.attempt(endpoint, delivery).await });
            }
            let next = self.schedule().next_at();
            let sleep = next.map_or(SLEEP_MAX, |at| at.since(self.clock.timestamp()).min(SLEEP_MAX));
            tokio::select! {
                () = &mut shutdown => return,
                Some(_) = attempts.join_next() => {}
                () = self.wake.notified() => {}
                () = tokio::time::sleep(sleep) => {}
                _ = sweep.tick() => {
                    if let Err(error) = self.sweep(self.clock.timestamp()).await {
                        tracing::error!(error = &error as &dyn std::error::Error, "old deliveries cannot be removed");
                    }
                }
            }
        }
    }

    pub(super) fn take(&self) -> Option<(String, String)> {
        let now = self.clock.timestamp();
        self.schedule().take(now)
    }

    /// One attempt of a delivery that was taken from the schedule.
    pub(super) async fn attempt(&self, endpoint: String, delivery: String) {
        // Dropped on a panic too: the place of the attempt comes back.
        let mut place = InFlight { webhooks: self, endpoint, delivery, again: None };
        place.again = Some(self.clock.timestamp().plus(STORE_RETRY));
        match self.try_to_deliver(&place.delivery).await {
            Ok(again) => place.again = again,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a delivery cannot be read or recorded");
            }
        }
    }

    async fn try_to_deliver(&self, key: &str) -> Result<Option<Timestamp>, WebhookError> {
        let key = Key::new(Delivery::KIND, key);
        let found: Option<Stored<Delivery>> = self.meta.find(&key).await?;
        let Some(found) = found.filter(|found| found.document.state == DeliveryState::Waiting) else { return Ok(None) };
        let delivery = &found.document;
        if delivery.next > self.clock.timestamp() {
            return Ok(Some(delivery.next));
        }
        let webhook = self.webhook_of(delivery).await?;
        match self.standing(delivery, webhook.as_ref()).await? {
            Standing::Ended(why) => self.drop_delivery(&found, why).await,
            Standing::Disabled => self.settled(&found, None, "webhook_disabled").await,
            Standing::Stands => {
                let Some(webhook) = webhook else { return Ok(None) };
                let outcome = self.send(delivery, &webhook.document).await?;
                metrics::counter!("iot_webhook_attempts_total", "success" => if outcome.is_success() { "true" } else { "false" })
                    .increment(1);
                self.settled(&found, Some(outcome), &outcome.code()).await
            }
        }
    }

    async fn webhook_of(&self, delivery: &Delivery) -> Result<Option<Stored<Webhook>>, WebhookError> {
        Ok(self.meta.find(&Webhook::key_of(&delivery.tenant, &delivery.webhook)).await?)
    }

    async fn standing(&self, delivery: &Delivery, hook: Option<&Stored<Webhook>>) -> Result<Standing, WebhookError> {
        let device: Option<Stored<Device>> = match &delivery.device {
            Some((device, _)) => self.meta.find(&Device::key_of(&delivery.tenant, device)).await?,
            None => None,
        };
        let home = hook.and_then(|webhook| webhook.document.home.as_ref());
        let home_exists = match home {
            Some(home) => self.meta.find::<Home>(&Home::key_of(&delivery.tenant, home)).await?.is_some(),
            None => true,
        };
        let (hook, device) = (hook.map(|hook| &hook.document), device.as_ref().map(|device| &device.document));
        Ok(standing(delivery, hook, device, home_exists))
    }

    async fn send(&self, delivery: &Delivery, webhook: &Webhook) -> Result<Outcome, WebhookError> {
        let now = self.clock.timestamp();
        let context = webhook.key().to_string();
        let former = webhook.previous.as_ref().filter(|former| now < former.until).map(|former| &former.secret);
        let mut secrets = Vec::new();
        for sealed in std::iter::once(&webhook.secret).chain(former) {
            let sealed = BASE64.decode(sealed.as_bytes()).map_err(|_| iot_core::keys::KeyError::Unopenable)?;
            let opened = self.keys.open(Purpose::WebhookSecret, context.as_bytes(), &sealed).await?;
            let text = String::from_utf8(opened).map_err(|_| iot_core::keys::KeyError::Unopenable)?;
            secrets.push(Secret::new(text));
        }
        let signature = sign(&secrets, delivery.id.as_str(), now, &delivery.body)?;
        let headers = [
            ("webhook-id", delivery.id.to_string()),
            ("webhook-timestamp", seconds(now).to_string()),
            ("webhook-signature", signature),
        ];
        Ok(self.client.post(&webhook.url, &headers, &delivery.body).await)
    }

    /// What the receiver must not hear any more is gone for good, and the audit tells so once.
    async fn drop_delivery(&self, found: &Stored<Delivery>, why: &str) -> Result<Option<Timestamp>, WebhookError> {
        metrics::counter!("iot_webhook_deliveries_ended_total", "why" => why.to_owned()).increment(1);
        let mut batch = Batch::default().remove(found);
        // That a webhook was deleted stands in the audit already.
        if why != WEBHOOK_DELETED {
            batch = batch.audited(self.own_audit(&found.document, "deliver_webhook", &found.document.key(), Some(why)));
        }
        self.meta.commit_or_conflict(batch).await?;
        Ok(None)
    }

    /// Records how an attempt ended; `None` if none was made because the webhook is disabled.
    async fn settled(
        &self,
        found: &Stored<Delivery>,
        outcome: Option<Outcome>,
        code: &str,
    ) -> Result<Option<Timestamp>, WebhookError> {
        let now = self.clock.timestamp();
        let mut delivery = found.document.clone();
        delivery.attempts += u32::from(outcome.is_some());
        delivery.changed = now;
        delivery.last = Some(code.to_owned());
        let next = match outcome {
            Some(outcome) if outcome.is_success() => None,
            Some(outcome) if !outcome.is_gone() => {
                match after_failure(delivery.attempts, delivery.begun, now, jitter()) {
                    Next::Again(at) => Some(at),
                    Next::GiveUp => None,
                }
            }
            _ => None,
        };
        delivery.state = match (next, outcome) {
            (Some(at), _) => {
                delivery.next = at;
                DeliveryState::Waiting
            }
            (None, Some(outcome)) if outcome.is_success() => DeliveryState::Delivered,
            (None, _) => DeliveryState::Dead,
        };
        let dead_before = match delivery.state {
            DeliveryState::Dead => self.dead_letters(&delivery).await?,
            _ => 0,
        };
        self.settle(|| async {
            let mut batch = Batch::default().replace(found, &delivery);
            let present: Option<Stored<Delivery>> = self.meta.find(&delivery.key()).await?;
            if present.is_none_or(|present| present.version != found.version) {
                return Ok(Step::Answer(None));
            }
            if let Some(webhook) = self.webhook_of(&delivery).await? {
                let changed = self.after(&webhook.document, &delivery, outcome, dead_before);
                if changed != webhook.document {
                    let disabled = changed.disabled.as_ref().filter(|_| webhook.document.disabled.is_none());
                    let why = disabled.map(|disabled| disabled.reason.code());
                    batch
                        .audit
                        .extend(why.map(|why| self.own_audit(&delivery, "disable_webhook", &changed.key(), Some(why))));
                    batch = batch.replace(&webhook, &changed);
                }
            }
            Ok(Step::Commit(batch, next))
        })
        .await
    }

    async fn dead_letters(&self, delivery: &Delivery) -> Result<u64, WebhookError> {
        let index = iot_core::store::Index::new(Delivery::KIND, "dead", delivery.endpoint());
        Ok(self.meta.count(&index).await?)
    }

    /// The webhook after one of its deliveries came to this state.
    fn after(&self, webhook: &Webhook, delivery: &Delivery, outcome: Option<Outcome>, dead_before: u64) -> Webhook {
        let mut webhook = webhook.clone();
        if delivery.state == DeliveryState::Delivered {
            webhook.failing_since = None;
        }
        if delivery.state != DeliveryState::Dead || webhook.disabled.is_some() {
            return webhook;
        }
        let since = *webhook.failing_since.get_or_insert(delivery.begun);
        let reason = if outcome.is_some_and(Outcome::is_gone) {
            Some(DisabledReason::Gone)
        } else if dead_before + 1 >= self.limits.dead_letters_max {
            Some(DisabledReason::DeadLetters)
        } else if delivery.changed.since(since) >= self.limits.failing_max {
            Some(DisabledReason::Failing)
        } else {
            None
        };
        webhook.disabled = reason.map(|reason| Disabled { at: delivery.changed, reason });
        webhook
    }

    /// By the webhook itself: nobody asked for it.
    fn own_audit(&self, delivery: &Delivery, action: &str, subject: &Key, refused: Option<&str>) -> Audit {
        Audit {
            at: self.clock.timestamp(),
            tenant: delivery.tenant.clone(),
            actor: format!("{}/webhook/{}", delivery.tenant, delivery.webhook),
            action: action.to_owned(),
            subject: subject.to_string(),
            refused: refused.map(ToOwned::to_owned),
        }
    }
}

/// An attempt that is under way. When it is dropped its place is free again.
struct InFlight<'w> {
    webhooks: &'w Webhooks,
    endpoint: String,
    delivery: String,
    again: Option<Timestamp>,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.webhooks.schedule().finish(&self.endpoint, &self.delivery, self.again);
    }
}

/// A source that fails delays by nothing more.
fn jitter() -> u8 {
    let mut byte = [0];
    aws_lc_rs::rand::fill(&mut byte).map_or(0, |()| byte[0])
}
