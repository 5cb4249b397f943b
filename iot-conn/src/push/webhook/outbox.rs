//! From notifications to stored deliveries; dead letters and their replay.

use async_trait::async_trait;
use iot_core::{
    id::WebhookId,
    problem::Cursor,
    push::{Kind, Notification, NotificationId, Push, PushError, Pushed},
    store::{Batch, Document, MetaStoreExt, Page, Step, StoreError, Stored},
    time::Timestamp,
};

use super::{Delivery, DeliveryState, Place, WEBHOOKS_MAX, Webhook, WebhookError, Webhooks, worker::STORE_RETRY};

/// How many records are read at once.
const PAGE: u32 = 500;

/// How a replay ended.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replayed {
    /// So many deliveries will be tried again, at once and then for a day.
    Done(usize),
    /// There is no such webhook or dead letter.
    Unknown,
    /// The webhook is disabled: enable it first.
    Disabled,
    /// So many will be tried; there is no room for the others until those have ended.
    Full(usize),
}

#[async_trait]
impl Push for Webhooks {
    async fn push(&self, notification: &Notification) -> Result<Pushed, PushError> {
        let unavailable = |error: WebhookError| PushError::Unavailable(Box::new(error));
        let wanted = self.wanted_by(notification).await.map_err(|error| unavailable(error.into()))?;
        if wanted.is_empty() {
            return Ok(Pushed::Nobody);
        }
        self.enqueue(&wanted, notification).await.map_err(unavailable)?;
        Ok(Pushed::Taken)
    }
}

impl Webhooks {
    async fn wanted_by(&self, notification: &Notification) -> Result<Vec<Webhook>, StoreError> {
        let mut places = vec![Webhook::place(&notification.tenant, None)];
        places.extend(notification.home.iter().map(|home| Webhook::place(&notification.tenant, Some(home))));
        let mut wanted = Vec::new();
        for place in places {
            let page = self.meta.page::<Webhook>("place", &place, None, WEBHOOKS_MAX).await?;
            wanted.extend(page.items.into_iter().map(|stored| stored.document).filter(|hook| hook.wants(notification)));
        }
        Ok(wanted)
    }

    /// One commit for all webhooks; those that have this notification already are left alone.
    async fn enqueue(&self, webhooks: &[Webhook], notification: &Notification) -> Result<(), WebhookError> {
        let now = self.clock.timestamp();
        let mut deliveries = Vec::new();
        let mut reserved = Reserved { webhooks: self, keys: Vec::new() };
        for webhook in webhooks {
            let delivery = Delivery::of(webhook, notification, now);
            if reserved.reserve(&delivery.endpoint(), &delivery.key().key) {
                deliveries.push(delivery);
            } else {
                metrics::counter!("iot_webhook_notifications_dropped_total").increment(1);
                tracing::warn!(webhook = %webhook.id, notification = %notification.id, "dropped: too many deliveries wait");
            }
        }
        let fresh = self
            .settle(|| async {
                let keys: Vec<_> = deliveries.iter().map(Document::key).collect();
                let known = self.meta.get(&keys).await?;
                let fresh = deliveries.iter().zip(known).filter(|(_, known)| known.is_none());
                let fresh: Vec<&Delivery> = fresh.map(|(delivery, _)| delivery).collect();
                let batch = fresh.iter().fold(Batch::default(), |batch, delivery| batch.create(*delivery));
                let keys: Vec<String> = fresh.iter().map(|delivery| delivery.key().key).collect();
                Ok(if keys.is_empty() { Step::Answer(keys) } else { Step::Commit(batch, keys) })
            })
            .await?;
        reserved.fill(now, |key| fresh.iter().any(|fresh| fresh == key));
        Ok(())
    }

    /// Reads what waits. The bounds do not apply: it was taken.
    pub(super) async fn restore(&self) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let waiting = DeliveryState::Waiting.name();
            let page = self.meta.page::<Delivery>("state", waiting, after.as_ref(), PAGE).await?;
            let mut schedule = self.schedule();
            for stored in page.items {
                let delivery = stored.document;
                schedule.add(&delivery.endpoint(), &delivery.key().key, delivery.next);
            }
            drop(schedule);
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// The deliveries of a webhook that are stored, the dead letters only if `dead`. `None` if there is no such webhook.
    pub async fn deliveries(
        &self,
        place: &Place,
        id: &WebhookId,
        dead: bool,
        after: Option<&Cursor>,
        limit: u32,
    ) -> Result<Option<Page<Stored<Delivery>>>, StoreError> {
        if self.find(place, id).await?.is_none() {
            return Ok(None);
        }
        let index = if dead { "dead" } else { "webhook" };
        self.meta.page(index, &format!("{}/{id}", place.tenant), after, limit).await.map(Some)
    }

    /// Sends a notification of kind [`Kind::Test`] to one webhook, whatever kinds it wants.
    pub async fn test(&self, place: &Place, id: &WebhookId) -> Result<Option<NotificationId>, WebhookError> {
        let Some(found) = self.find(place, id).await? else { return Ok(None) };
        let name = NotificationId::parse(&format!("test-{}", uuid::Uuid::now_v7())).expect("a UUID fits");
        let at = self.clock.timestamp();
        let test = Notification::new(name.clone(), place.tenant.clone(), Kind::Test, at, []);
        let mut test = test.expect("a test has no fields");
        test.home.clone_from(&found.document.home);
        test.device.clone_from(&found.document.device);
        let audit = self.audit_of(place, "test_webhook", &found.document);
        self.meta.commit_or_conflict(Batch::default().audited(audit)).await?;
        self.enqueue(&[found.document], &test).await?;
        Ok(Some(name))
    }

    /// Tries a dead letter again, for another day.
    pub async fn replay(
        &self,
        place: &Place,
        id: &WebhookId,
        delivery: &NotificationId,
    ) -> Result<Replayed, WebhookError> {
        let now = self.clock.timestamp();
        let key = Delivery::key_of(&place.tenant, id, delivery);
        let endpoint = format!("{}/{id}", place.tenant);
        let mut reserved = Reserved { webhooks: self, keys: Vec::new() };
        if !reserved.reserve(&endpoint, &key.key) {
            return Ok(Replayed::Full(0));
        }
        let replayed = self
            .settle(|| async {
                let Some(webhook) = self.find(place, id).await? else { return Ok(Step::Answer(Replayed::Unknown)) };
                let found: Option<Stored<Delivery>> = self.meta.find(&key).await?;
                let Some(found) = found.filter(|found| found.document.state == DeliveryState::Dead) else {
                    return Ok(Step::Answer(Replayed::Unknown));
                };
                if webhook.document.disabled.is_some() {
                    return Ok(Step::Answer(Replayed::Disabled));
                }
                let audit = self.audit(place, "replay_webhook_delivery", &key.to_string(), None);
                let batch = Batch::default().replace(&found, &revived(&found.document, now)).audited(audit);
                Ok(Step::Commit(batch, Replayed::Done(1)))
            })
            .await?;
        reserved.fill(now, |_| matches!(replayed, Replayed::Done(_)));
        Ok(replayed)
    }

    /// Tries all dead letters of a webhook again.
    pub async fn replay_all(&self, place: &Place, id: &WebhookId) -> Result<Replayed, WebhookError> {
        let mut count = 0;
        let mut after = None;
        loop {
            let Some(page) = self.deliveries(place, id, true, after.as_ref(), PAGE).await? else {
                return Ok(Replayed::Unknown);
            };
            for dead in &page.items {
                match self.replay(place, id, &dead.document.id).await? {
                    Replayed::Done(one) => count += one,
                    Replayed::Full(_) => return Ok(Replayed::Full(count)),
                    Replayed::Disabled => return Ok(Replayed::Disabled),
                    // Somebody else has replayed it, or it was removed for its age.
                    Replayed::Unknown => {}
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(Replayed::Done(count));
            }
        }
    }

    /// Removes deliveries that came to their end long enough ago.
    pub(super) async fn sweep(&self, now: Timestamp) -> Result<(), StoreError> {
        let kept =
            [(DeliveryState::Delivered, self.limits.delivered_kept), (DeliveryState::Dead, self.limits.dead_kept)];
        for (state, kept) in kept {
            let mut after = None;
            loop {
                let page = self.meta.page::<Delivery>("state", state.name(), after.as_ref(), PAGE).await?;
                let old = page.items.iter().filter(|stored| stored.document.changed.plus(kept) <= now);
                for stored in old {
                    // One that was replayed meanwhile stays.
                    self.meta.commit_or_conflict(Batch::default().remove(stored)).await?;
                }
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Places in the schedule for what is about to be stored. Whoever is cancelled or gets an error in between does not know
/// whether it was: then an attempt looks, a little later.
struct Reserved<'w> {
    webhooks: &'w Webhooks,
    keys: Vec<(String, String)>,
}

impl Reserved<'_> {
    #[must_use]
    fn reserve(&mut self, endpoint: &str, delivery: &str) -> bool {
        let room = self.webhooks.schedule().reserve(endpoint);
        self.keys.extend(room.then(|| (endpoint.to_owned(), delivery.to_owned())));
        room
    }

    /// The places of those that were stored are filled, the others are free again.
    fn fill(mut self, at: Timestamp, stored: impl Fn(&str) -> bool) {
        let mut schedule = self.webhooks.schedule();
        for (endpoint, delivery) in std::mem::take(&mut self.keys) {
            match stored(&delivery) {
                true => schedule.add(&endpoint, &delivery, at),
                false => schedule.release(&endpoint),
            }
        }
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        let at = self.webhooks.clock.timestamp().plus(STORE_RETRY);
        let mut schedule = self.webhooks.schedule();
        for (endpoint, delivery) in &self.keys {
            schedule.add(endpoint, delivery, at);
        }
        drop(schedule);
        self.webhooks.wake.notify_one();
    }
}

fn revived(dead: &Delivery, now: Timestamp) -> Delivery {
    Delivery { state: DeliveryState::Waiting, attempts: 0, begun: now, next: now, changed: now, ..dead.clone() }
}
