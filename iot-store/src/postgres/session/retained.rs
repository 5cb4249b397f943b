//! Deciding about retained messages.

use std::collections::BTreeMap;

use iot_core::{id::TenantId, message::Message, time::Timestamp};

use super::{super::ordered, job::Offer};
use crate::StoreLimits;

/// What was found of the tenants that publish retained messages, and what has become of it.
pub(super) struct Retained<'a> {
    max: i64,
    bytes_max: i64,
    pub(super) tenants: BTreeMap<&'a TenantId, Tenant<'a>>,
}

#[derive(Default)]
pub(super) struct Tenant<'a> {
    /// How many messages there are.
    pub(super) count: i64,
    /// How many bytes of them.
    pub(super) size: i64,
    /// Those of the topics in question that have one, with its bytes.
    pub(super) there: BTreeMap<String, i64>,
    /// When messages expire; read only if there may be too many.
    pub(super) expiries: BTreeMap<String, i64>,
    /// What topics have become: `None` if the message was removed.
    pub(super) changed: BTreeMap<String, Option<Kept<'a>>>,
}

/// A message to be kept.
pub(super) struct Kept<'a> {
    pub(super) expires: Option<i64>,
    pub(super) body: &'a [u8],
    pub(super) size: i64,
}

/// The retained messages among offers.
pub(super) fn messages<'a>(offers: impl Iterator<Item = &'a Offer>) -> impl Iterator<Item = &'a Message> {
    offers.map(|offer| &offer.publication.message).filter(|message| message.retain)
}

impl<'a> Retained<'a> {
    pub(super) fn new(limits: &StoreLimits) -> Self {
        let (max, bytes_max) = (ordered(limits.retained_max as u64), ordered(limits.retained_bytes_max as u64));
        Self { max, bytes_max, tenants: BTreeMap::new() }
    }

    /// Tenants that may have too many, with the latest time at which they publish.
    pub(super) fn crowded(&self, messages: impl Iterator<Item = &'a Message>) -> Vec<(&'a TenantId, Timestamp)> {
        let mut latest: BTreeMap<&TenantId, (Timestamp, i64, i64)> = BTreeMap::new();
        for message in messages {
            let (at, more, size) = latest.entry(&message.tenant).or_insert((message.published, 0, 0));
            *at = message.published.max(*at);
            *more += 1;
            *size += ordered(message.size() as u64);
        }
        let there = |tenant| self.tenants.get(tenant).map_or((0, 0), |tenant| (tenant.count, tenant.size));
        let crowded = latest.into_iter().filter(|(tenant, (_, more, size))| {
            let (count, there) = there(*tenant);
            count + more > self.max || there + size > self.bytes_max
        });
        crowded.map(|(tenant, (at, ..))| (tenant, at)).collect()
    }

    /// Sets or removes the retained message of a topic; `false` if there is no room.
    pub(super) fn retain(&mut self, message: &'a Message, body: &'a [u8]) -> bool {
        let (max, bytes_max) = (self.max, self.bytes_max);
        let tenant = self.tenants.entry(&message.tenant).or_default();
        if message.payload.is_empty() {
            tenant.remove(&message.topic);
            return true;
        }
        let size = ordered(message.size() as u64);
        let former = tenant.there.get(&*message.topic).copied();
        let has_room = |tenant: &Tenant<'_>| match former {
            Some(former) if size <= former => true,
            Some(_) => tenant.size < bytes_max,
            None => tenant.count < max && tenant.size < bytes_max,
        };
        if !has_room(tenant) {
            tenant.forget_expired(message.published, &message.topic);
            if !has_room(tenant) {
                return false;
            }
        }
        tenant.count += i64::from(former.is_none());
        tenant.size += size - former.unwrap_or(0);
        tenant.keep(message, body, size);
        true
    }
}

impl<'a> Tenant<'a> {
    fn keep(&mut self, message: &'a Message, body: &'a [u8], size: i64) {
        let topic = message.topic.to_string();
        let expires = message.expires.map(Timestamp::as_micros);
        match expires {
            Some(at) => self.expiries.insert(topic.clone(), at),
            None => self.expiries.remove(&topic),
        };
        self.there.insert(topic.clone(), size);
        self.changed.insert(topic, Some(Kept { expires, body, size }));
    }

    fn remove(&mut self, topic: &str) {
        self.expiries.remove(topic);
        if let Some(size) = self.there.remove(topic) {
            self.count -= 1;
            self.size -= size;
            self.changed.insert(topic.to_owned(), None);
        }
    }

    /// All but that of a topic: it stays if there is no room for its next.
    fn forget_expired(&mut self, now: Timestamp, topic: &str) {
        let expired = self.expiries.iter().filter(|(of, at)| **at <= now.as_micros() && *of != topic);
        let expired: Vec<String> = expired.map(|(topic, _)| topic.clone()).collect();
        expired.iter().for_each(|topic| self.remove(topic));
    }
}
