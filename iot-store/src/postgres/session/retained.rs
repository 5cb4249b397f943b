//! Deciding about retained messages.

use std::collections::{BTreeMap, BTreeSet};

use iot_core::{id::TenantId, message::Message, time::Timestamp};

use super::{super::ordered, job::Offer};

/// What was found of the tenants that publish retained messages, and what has become of it.
#[derive(Default)]
pub(super) struct Retained<'a> {
    max: i64,
    pub(super) tenants: BTreeMap<&'a TenantId, Tenant<'a>>,
}

#[derive(Default)]
pub(super) struct Tenant<'a> {
    /// How many messages there are.
    pub(super) count: i64,
    /// Those of the topics in question that have one.
    pub(super) there: BTreeSet<String>,
    /// When messages expire; read only if there may be too many.
    pub(super) expiries: BTreeMap<String, i64>,
    /// What topics have become: `None` if the message was removed.
    pub(super) changed: BTreeMap<String, Option<Kept<'a>>>,
}

/// A message to be kept.
pub(super) struct Kept<'a> {
    pub(super) expires: Option<i64>,
    pub(super) body: &'a [u8],
}

/// The retained messages among offers.
pub(super) fn messages<'a>(offers: impl Iterator<Item = &'a Offer>) -> impl Iterator<Item = &'a Message> {
    offers.map(|offer| &offer.publication.message).filter(|message| message.retain)
}

impl<'a> Retained<'a> {
    pub(super) fn new(retained_max: usize) -> Self {
        Self { max: ordered(retained_max as u64), tenants: BTreeMap::new() }
    }

    /// Tenants that may have too many, with the latest time at which they publish.
    pub(super) fn crowded(&self, messages: impl Iterator<Item = &'a Message>) -> Vec<(&'a TenantId, Timestamp)> {
        let mut latest: BTreeMap<&TenantId, (Timestamp, i64)> = BTreeMap::new();
        for message in messages {
            let (at, more) = latest.entry(&message.tenant).or_insert((message.published, 0));
            *at = message.published.max(*at);
            *more += 1;
        }
        let count = |tenant| self.tenants.get(tenant).map_or(0, |tenant| tenant.count);
        let crowded = latest.into_iter().filter(|(tenant, (_, more))| count(*tenant) + more > self.max);
        crowded.map(|(tenant, (at, _))| (tenant, at)).collect()
    }

    /// Sets or removes the retained message of a topic; `false` if there is no room.
    pub(super) fn retain(&mut self, message: &'a Message, body: &'a [u8]) -> bool {
        let tenant = self.tenants.entry(&message.tenant).or_default();
        if message.payload.is_empty() {
            tenant.remove(&message.topic);
            return true;
        }
        if !tenant.there.contains(&*message.topic) {
            if tenant.count >= self.max {
                tenant.forget_expired(message.published);
            }
            if tenant.count >= self.max {
                return false;
            }
            tenant.there.insert(message.topic.to_string());
            tenant.count += 1;
        }
        tenant.keep(message, body);
        true
    }
}

impl<'a> Tenant<'a> {
    fn keep(&mut self, message: &'a Message, body: &'a [u8]) {
        let expires = message.expires.map(Timestamp::as_micros);
        match expires {
            Some(at) => self.expiries.insert(message.topic.to_string(), at),
            None => self.expiries.remove(&*message.topic),
        };
        self.changed.insert(message.topic.to_string(), Some(Kept { expires, body }));
    }

    fn remove(&mut self, topic: &str) {
        self.expiries.remove(topic);
        if self.there.remove(topic) {
            self.count -= 1;
            self.changed.insert(topic.to_owned(), None);
        }
    }

    fn forget_expired(&mut self, now: Timestamp) {
        let expired: Vec<String> =
            self.expiries.iter().filter(|(_, at)| **at <= now.as_micros()).map(|(topic, _)| topic.clone()).collect();
        for topic in expired {
            // It is there, whether or not it was in question.
            self.there.insert(topic.clone());
            self.remove(&topic);
        }
    }
}
