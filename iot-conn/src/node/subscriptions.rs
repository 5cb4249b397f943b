//! SUBSCRIBE and UNSUBSCRIBE of one session.

use std::sync::{Arc, PoisonError};

use iot_core::{
    access::{Permission, Resource},
    message::{Message, QoS},
    store::{Fenced, StoredSubscription, Target},
    topic,
};

use super::{
    endpoint::{Endpoint, full_filter, reaches_devices},
    gate::Gate,
    mailbox::{Kind, Outgoing},
    offers::Offer,
    places::named_device,
    presence::Presence,
    session::Session,
};
use crate::{
    mqtt::{ReasonCode, RetainHandling, packet::Version, server::SubscribeOptions},
    router::{Identifiers, Subscribed, Subscription},
};

/// How many retained messages one look at the store brings. Each may be as large as a packet.
const RETAINED_PAGE: u32 = 64;

/// Retained messages that a client has asked for.
pub(crate) struct RetainedWanted {
    filter: String,
    qos: QoS,
    identifier: Option<u32>,
    /// The last topic that was read.
    after: Option<Arc<str>>,
}

impl Session {
    /// Subscribes to what is permitted; a code per filter, and the filters that were not subscribed before. Stored before it is
    /// answered, for a persistent session.
    pub(crate) async fn subscribe(
        &mut self,
        filters: &[(String, SubscribeOptions)],
        identifier: Option<u32>,
    ) -> (Vec<ReasonCode>, Vec<String>) {
        let mut codes = Vec::with_capacity(filters.len());
        let mut granted = Vec::new();
        let held = self.endpoint.subscriptions_len();
        let limited = self.metering.as_ref().and_then(|metering| metering.subscriptions_max());
        let max = limited.map_or(self.node.limits.subscriptions_max, |max| max.min(self.node.limits.subscriptions_max));
        for (filter, options) in filters {
            let full = full_filter(self.link.device.as_deref(), filter);
            if held + granted.len() >= max && !self.endpoint.has_subscription(&full) {
                if let Some(metering) = self.metering.as_ref().filter(|_| limited == Some(max)) {
                    metering.subscription_refused();
                }
                codes.push(ReasonCode::QuotaExceeded);
                continue;
            }
            match self.permit(filter).await {
                Ok(()) => {
                    codes.push(granted_code(options.qos));
                    granted.push(StoredSubscription {
                        filter: full,
                        qos: options.qos,
                        no_local: options.no_local,
                        retain_as_published: options.retain_as_published,
                        identifier,
                    });
                }
                Err(reason) => codes.push(reason),
            }
        }
        // Not while another connection takes the session: it would inherit what it did not ask for.
        let endpoint = self.endpoint.clone();
        let _opening = endpoint.opening.lock().await;
        if !self.is_current() || !self.store(&granted).await {
            return (vec![ReasonCode::UnspecifiedError; filters.len()], Vec::new());
        }
        let fresh = granted.iter().filter(|subscription| !endpoint.has_subscription(&subscription.filter));
        let fresh = fresh.map(|subscription| subscription.filter.clone()).collect();
        granted.iter().for_each(|subscription| self.node.subscribe(&endpoint, subscription));
        (codes, fresh)
    }

    /// Whether this connection still has its session; if not, it ends.
    fn is_current(&mut self) -> bool {
        let current = self.endpoint.is_linked_to(&self.link);
        if !current {
            self.wire.engine.disconnect(ReasonCode::SessionTakenOver);
        }
        current
    }

    async fn permit(&self, filter: &str) -> Result<(), ReasonCode> {
        let node = &self.node;
        let limits = &node.limits;
        if topic::check_filter(filter, limits.topic_bytes_max, limits.topic_levels_max).is_err() {
            return Err(ReasonCode::TopicFilterInvalid);
        }
        let now = node.clock.timestamp();
        let tenant = &self.link.principal.tenant;
        if let Some(device) = &self.link.device {
            let shared = filter.starts_with("$share/");
            let allowed = !shared && self.link.permits(Permission::Obey, &device.resource(tenant), now);
            return if allowed { Ok(()) } else { Err(ReasonCode::NotAuthorized) };
        }
        let everything = Resource::tenant(tenant);
        let plain = topic::parse_share(filter).ok().flatten().map_or(filter, |(_, plain)| plain);
        let only_devices = plain.starts_with(topic::DEVICE_ROOT);
        let permission = if only_devices { Permission::ReadTelemetry } else { Permission::Subscribe };
        if self.link.permits(permission, &everything, now) {
            return Ok(());
        }
        let Some(device) = named_device(filter) else { return Err(ReasonCode::NotAuthorized) };
        match node.may_watch(&self.endpoint, &self.link, &device).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(ReasonCode::NotAuthorized),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a device cannot be read");
                Err(ReasonCode::UnspecifiedError)
            }
        }
    }

    async fn store(&mut self, granted: &[StoredSubscription]) -> bool {
        if !self.link.persistent || granted.is_empty() {
            return true;
        }
        let store = &self.node.stores.sessions;
        match store.subscribe(&self.endpoint.session, self.link.epoch, granted).await {
            Ok(Fenced::Done) => true,
            Ok(Fenced::Superseded) => {
                self.wire.engine.disconnect(ReasonCode::SessionTakenOver);
                false
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a subscription cannot be stored");
                false
            }
        }
    }

    /// Unsubscribes; a code per filter.
    pub(crate) async fn unsubscribe(&mut self, filters: &[String]) -> Vec<ReasonCode> {
        let full: Vec<String> = filters.iter().map(|filter| full_filter(self.link.device.as_deref(), filter)).collect();
        let endpoint = self.endpoint.clone();
        let _opening = endpoint.opening.lock().await;
        if !self.is_current() {
            return vec![ReasonCode::UnspecifiedError; filters.len()];
        }
        if self.link.persistent {
            let store = &self.node.stores.sessions;
            match store.unsubscribe(&self.endpoint.session, self.link.epoch, &full).await {
                Ok(Fenced::Done) => {}
                Ok(Fenced::Superseded) => {
                    self.wire.engine.disconnect(ReasonCode::SessionTakenOver);
                    return vec![ReasonCode::UnspecifiedError; filters.len()];
                }
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "an unsubscription cannot be stored");
                    // The UNSUBACK of 3.1.1 has no reason: it would say that nothing comes any more.
                    if self.wire.engine.version() == Some(Version::V311) {
                        self.wire.engine.disconnect(ReasonCode::UnspecifiedError);
                    }
                    return vec![ReasonCode::UnspecifiedError; filters.len()];
                }
            }
        }
        full.iter().for_each(|filter| self.forget_retained(filter));
        let code = |removed| if removed { ReasonCode::Success } else { ReasonCode::NoSubscriptionExisted };
        full.iter().map(|filter| code(self.node.unsubscribe(&self.endpoint, filter))).collect()
    }

    /// Has retained messages sent that new subscriptions match (MQTT 5 §3.3.1.3). What a stored session has at QoS 1 and 2 goes to
    /// its queue, now and for good. All else is read page by page, as the client takes it: who asks for a whole tenant's messages
    /// and reads none of them costs a page.
    pub(crate) async fn want_retained(
        &mut self,
        filters: &[(String, SubscribeOptions)],
        codes: &[ReasonCode],
        fresh: &[String],
        identifier: Option<u32>,
    ) {
        for ((filter, options), code) in filters.iter().zip(codes) {
            let full = full_filter(self.link.device.as_deref(), filter);
            let wanted = match options.retain_handling {
                RetainHandling::Send => true,
                RetainHandling::SendIfNew => fresh.contains(&full),
                RetainHandling::DoNotSend => false,
            };
            if code.is_error() || !wanted || filter.starts_with("$share/") {
                continue;
            }
            let mut wanted = RetainedWanted { filter: full, qos: options.qos, identifier, after: None };
            if self.link.persistent && options.qos > QoS::AtMostOnce {
                while !self.send_retained(&mut wanted).await {}
            } else {
                self.forget_retained(&wanted.filter);
                self.rare().retained.push_back(wanted);
            }
        }
    }

    /// Sends the next page of retained messages that were asked for.
    pub(crate) async fn read_retained(&mut self) {
        let Some(mut wanted) = self.rare().retained.pop_front() else { return };
        if !self.send_retained(&mut wanted).await {
            self.rare().retained.push_front(wanted);
        }
    }

    /// They are not sent any more.
    fn forget_retained(&mut self, filter: &str) {
        if let Some(rare) = &mut self.rare {
            rare.retained.retain(|wanted| wanted.filter != filter);
        }
    }

    /// Sends a page; whether it was the last.
    async fn send_retained(&mut self, wanted: &mut RetainedWanted) -> bool {
        match self.send_retained_page(wanted).await {
            Ok(is_last) => is_last,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "retained messages cannot be read");
                self.wire.engine.disconnect(ReasonCode::UnspecifiedError);
                true
            }
        }
    }

    async fn send_retained_page(&mut self, wanted: &mut RetainedWanted) -> Result<bool, iot_core::store::StoreError> {
        let node = self.node.clone();
        let tenant = self.link.principal.tenant.clone();
        let (filter, qos, identifier) = (wanted.filter.as_str(), wanted.qos, wanted.identifier);
        let now = node.clock.timestamp();
        // What was published before the subscription and is not stored yet would be missed.
        node.offers.flushed().await;
        let page = node.stores.sessions.retained(&tenant, filter, wanted.after.as_deref(), RETAINED_PAGE, now).await?;
        let is_last = page.len() < RETAINED_PAGE as usize;
        wanted.after = page.last().map(|message| message.topic.clone());
        for message in page {
            if self.epoch_is_current(&message).await? && self.link.may_receive(&message, now) {
                self.send_one_retained(message, qos, identifier);
            }
        }
        if is_last && self.link.device.is_none() && reaches_devices(filter) {
            for (device, presence) in node.presences_of(&tenant) {
                let message = node.status_message(&tenant, &device, &presence).await?;
                if let Some(message) = message.filter(|message| topic::matches(filter, &message.topic))
                    && self.link.may_receive(&message, now)
                {
                    self.send_one_retained(message, qos, identifier);
                }
            }
        }
        Ok(is_last)
    }

    async fn epoch_is_current(&self, message: &Message) -> Result<bool, iot_core::store::StoreError> {
        let Some((device, epoch)) = &message.device else { return Ok(true) };
        let node = &self.node;
        let found = node.directory.device(&*node.stores.meta, &message.tenant, device).await?;
        Ok(found.is_some_and(|found| found.epoch == *epoch))
    }

    fn send_one_retained(&self, message: Message, qos: QoS, identifier: Option<u32>) {
        let qos = qos.min(message.qos);
        let identifiers: Identifiers = identifier.into_iter().collect();
        if qos == QoS::AtMostOnce || !self.link.persistent {
            let outgoing = Outgoing { message, qos, retain: true, identifiers, kind: Kind::Passing };
            self.link.mailbox.post_retained(outgoing);
            return;
        }
        let target =
            Target { session: self.endpoint.session.clone(), qos, retain: true, identifiers: identifiers.to_vec() };
        let message = Message { retain: false, ..message };
        let to = vec![(self.endpoint.clone(), target)];
        self.node.offers.push(Offer { message, to, passing: Vec::new(), received: None, part: Gate::open().part() });
    }
}

impl super::Inner {
    /// Enters a subscription into the routing table.
    pub(crate) fn subscribe(&self, endpoint: &Arc<Endpoint>, stored: &StoredSubscription) {
        let subscription = Subscription {
            qos: stored.qos,
            no_local: stored.no_local,
            retain_as_published: stored.retain_as_published,
            identifier: stored.identifier,
        };
        let tenant = endpoint.session.tenant();
        let _ordered = self.retaining.write().unwrap_or_else(PoisonError::into_inner);
        if self.router.subscribe(tenant, &stored.filter, endpoint.subscriber, endpoint, subscription) == Subscribed::New
        {
            metrics::gauge!("iot_subscriptions").increment(1.0);
        }
        endpoint.add_subscription(&stored.filter);
    }

    /// Takes a subscription out of the routing table; whether it was there.
    pub(crate) fn unsubscribe(&self, endpoint: &Endpoint, filter: &str) -> bool {
        endpoint.remove_subscription(filter);
        let removed = self.router.unsubscribe(endpoint.session.tenant(), filter, endpoint.subscriber);
        if removed {
            metrics::gauge!("iot_subscriptions").decrement(1.0);
        }
        removed
    }

    /// Takes all subscriptions of a session out of the routing table.
    pub(crate) fn unsubscribe_all(&self, endpoint: &Endpoint) {
        for filter in endpoint.filters() {
            self.unsubscribe(endpoint, &filter);
        }
    }

    /// What is said on a device's `status`; `None` if there is no such device.
    pub(crate) async fn status_message(
        &self,
        tenant: &iot_core::id::TenantId,
        device: &iot_core::id::DeviceId,
        presence: &Presence,
    ) -> Result<Option<Message>, iot_core::store::StoreError> {
        let Some(found) = self.directory.device(&*self.stores.meta, tenant, device).await? else { return Ok(None) };
        let body = iot_core::payload::StatusBody {
            online: presence.is_online(),
            state: presence.state.code().into(),
            since: presence.since,
            cause: presence.cause.as_deref().map(Into::into),
            epoch: presence.epoch,
        };
        Ok(Some(Message {
            tenant: tenant.clone(),
            topic: topic::of_device(device, "status").into(),
            payload: iot_core::payload::encode(&body, iot_core::device::Encoding::Json).into(),
            qos: QoS::AtLeastOnce,
            retain: false,
            properties: None,
            published: self.clock.timestamp(),
            expires: None,
            device: Some((device.clone(), found.epoch)),
        }))
    }
}

fn granted_code(qos: QoS) -> ReasonCode {
    match qos {
        QoS::AtMostOnce => ReasonCode::Success,
        QoS::AtLeastOnce => ReasonCode::GrantedQoS1,
        QoS::ExactlyOnce => ReasonCode::GrantedQoS2,
    }
}
