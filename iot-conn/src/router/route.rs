//! What a topic matched, remembered for the next message on it.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Match, SubscriberId};

/// So many matches are remembered; a topic with more of them is matched anew, which is little beside delivering to all.
const REMEMBERED_MAX: usize = 16;

/// The matches of a message. Given to [`Router::route`](super::Router::route) again, for a message of the same tenant, topic and
/// sender, it answers without a search, unless a subscription has changed since that may matter. Keeps the handles of the
/// subscribers for as long as it is kept.
#[derive(Debug)]
pub struct Route<H> {
    matches: Vec<Match<H>>,
    /// `None` if the matches hold for one message only.
    known: Option<Known>,
}

/// For what the matches hold.
#[derive(Debug)]
struct Known {
    /// The tenant, and behind it the topic.
    text: Box<str>,
    tenant_bytes: usize,
    sender: Option<SubscriberId>,
    states: States,
}

/// The shards that were searched, each with its generation then.
pub(super) type States = [(usize, u64); 2];

/// Counts the changes of a shard; changed only while that is locked for writing.
#[derive(Debug, Default)]
pub(super) struct Generation(AtomicU64);

impl Generation {
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    pub(super) fn advance(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

impl<H> Route<H> {
    /// To whom the message goes, in no particular order.
    pub fn matches(&self) -> &[Match<H>] {
        &self.matches
    }

    /// Whether the matches are those of such a message, as long as the shards have these generations.
    pub(super) fn holds(
        &self,
        tenant: &str,
        topic: &str,
        sender: Option<SubscriberId>,
        generation: impl Fn(usize) -> u64,
    ) -> bool {
        self.known.as_ref().is_some_and(|known| {
            let (known_tenant, known_topic) = known.text.as_bytes().split_at(known.tenant_bytes);
            known_topic == topic.as_bytes()
                && known_tenant == tenant.as_bytes()
                && known.sender == sender
                && known.states.iter().all(|(place, at)| generation(*place) == *at)
        })
    }

    /// Room for the matches of another message.
    pub(super) fn begin(&mut self) -> &mut Vec<Match<H>> {
        self.known = None;
        self.matches.clear();
        &mut self.matches
    }

    /// What was found holds for messages like this one.
    pub(super) fn remember(&mut self, tenant: &str, topic: &str, sender: Option<SubscriberId>, states: States) {
        if self.matches.len() <= REMEMBERED_MAX {
            let text = [tenant, topic].concat().into();
            self.known = Some(Known { text, tenant_bytes: tenant.len(), sender, states });
        }
    }
}

impl<H> Default for Route<H> {
    fn default() -> Self {
        Self { matches: Vec::new(), known: None }
    }
}
