//! From subscriptions to the subscribers of a message (MQTT 5 §4.7, §4.8).
//!
//! A [`Router`] holds who subscribed to what and answers who receives a topic. It sends nothing and asks no clock. Filters
//! without a wildcard are looked up in a hash map, the others in a trie by level. Both are cut into shards by tenant and
//! first two levels, so that subscribing to one device's topics does not hold up messages of another. Names are kept as
//! hashes of 128 bits, keyed at random: chosen topics cannot be made to collide, and no others do.

mod digest;
mod identifiers;
mod members;
mod route;
mod trie;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};

use iot_core::message::QoS;
use iot_core::topic;

use self::digest::{ByDigest, Digest, Digests, InTenant, shrink};
pub use self::identifiers::Identifiers;
use self::members::{Member, Subscribers};
pub use self::route::Route;
use self::route::{Generation, States};
use self::trie::Trie;

/// Names a subscriber within a [`Router`], for as long as it has subscriptions there; the caller keeps them distinct.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug, Ord, PartialOrd)]
pub struct SubscriberId(pub u64);

/// The options of one subscription that matter to delivery (MQTT 5 §3.8.3.1).
#[derive(Copy, Clone, Eq, PartialEq, Debug, Default)]
pub struct Subscription {
    /// The highest quality of service at which the subscriber wants messages.
    pub qos: QoS,
    /// The subscriber's own messages are not for it. Ignored on a shared subscription, where MQTT 5 forbids it.
    pub no_local: bool,
    /// The retain flag is forwarded as it was published.
    pub retain_as_published: bool,
    /// The subscription identifier of MQTT 5, sent back with every message that matches.
    pub identifier: Option<u32>,
}

/// What [`Router::subscribe`] did.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
#[must_use = "retained messages are sent by it (MQTT 5 §3.8.3.1, retain handling 1)"]
#[expect(clippy::exhaustive_enums, reason = "a subscription was there or it was not")]
pub enum Subscribed {
    /// The subscriber had no subscription with this filter.
    New,
    /// Its subscription with this very filter was replaced (MQTT 5 §3.8.4).
    Replaced,
}

/// One delivery of a message: to whom and how.
#[derive(Clone, Eq, PartialEq, Debug)]
pub struct Match<H> {
    /// The subscriber.
    pub subscriber: SubscriberId,
    /// Its handle, as given with one of the matching subscriptions.
    pub handle: H,
    /// The highest quality of service among the matching subscriptions; the message's own may be lower.
    pub qos: QoS,
    /// One of the matching subscriptions wants the retain flag as published.
    pub retain_as_published: bool,
    /// The identifiers of all matching subscriptions, equal ones as often as they matched (MQTT 5 §3.3.4).
    pub identifiers: Identifiers,
}

/// The subscriptions of all tenants.
///
/// All methods take `&self` and may be called from any thread. Each locks one shard at a time, briefly: a message that is
/// matched while another thread subscribes sees that subscription or does not, and always sees those that were there
/// before. The number of subscriptions is bounded by the caller (sessions times subscriptions of each); what was removed
/// leaves nothing behind but spare capacity, of which little is kept.
pub struct Router<H> {
    shards: Box<[RwLock<Shard<H>>]>,
    generations: Box<[Generation]>,
    digests: Digests,
    subscriptions: AtomicUsize,
}

impl<H: Clone> Router<H> {
    /// Adds or replaces the subscription of `id` with `filter`, which may be a shared one (`$share/<group>/<filter>`).
    ///
    /// The filter was checked before ([`iot_core::topic::check_filter`]); another is kept and can be removed, but what it
    /// matches is not specified. With the same group and filter a shared subscription is replaced and keeps its turn.
    pub fn subscribe(
        &self,
        tenant: &str,
        filter: &str,
        id: SubscriberId,
        handle: &H,
        subscription: Subscription,
    ) -> Subscribed {
        let (group, filter) = split_group(filter);
        let member = Member::new(id, handle.clone(), subscription);
        // Dropped after the lock is released: a handle's own drop may lead back here.
        let names = self.digests.of_tenant(tenant);
        let replaced =
            self.change(names, filter, |shard| shard.subscribers(self.digests, names, filter).insert(group, member));
        if replaced.is_some() {
            return Subscribed::Replaced;
        }
        self.subscriptions.fetch_add(1, Ordering::Relaxed);
        Subscribed::New
    }

    /// Removes the subscription of `id` with this very filter; false if there is none (MQTT 5 §3.10.4).
    pub fn unsubscribe(&self, tenant: &str, filter: &str, id: SubscriberId) -> bool {
        let (group, filter) = split_group(filter);
        let names = self.digests.of_tenant(tenant);
        let removed = self.change(names, filter, |shard| shard.remove(self.digests, names, filter, group, id));
        if removed.is_some() {
            self.subscriptions.fetch_sub(1, Ordering::Relaxed);
        }
        removed.is_some()
    }

    /// Appends the deliveries of a message with this topic to `out`, in no particular order.
    ///
    /// The plain subscriptions of one subscriber become one delivery (MQTT 5 §3.3.4); `sender` names the publisher if it
    /// is a subscriber too, for [`Subscription::no_local`]. Each group of a shared subscription adds one delivery of its
    /// own: its members take turns, those that are not `online` are passed over, and if none is, all take turns
    /// (MQTT 5 §4.8.2).
    ///
    /// `online` is called with a shard locked for reading and must not call this router.
    pub fn matches(
        &self,
        tenant: &str,
        topic: &str,
        sender: Option<SubscriberId>,
        online: &dyn Fn(&H) -> bool,
        out: &mut Vec<Match<H>>,
    ) {
        self.search(tenant, topic, sender, online, out);
    }

    /// The same, in `route`: without a search if it was found there before, and nothing has changed since among the
    /// subscriptions that share a shard with one that may match. Whose turn it is in a shared subscription is asked each time.
    pub fn route<'r>(
        &self,
        tenant: &str,
        topic: &str,
        sender: Option<SubscriberId>,
        online: &dyn Fn(&H) -> bool,
        route: &'r mut Route<H>,
    ) -> &'r [Match<H>] {
        if !route.holds(tenant, topic, sender, |place| self.generations[place].get())
            && let Some(states) = self.search(tenant, topic, sender, online, route.begin())
        {
            route.remember(tenant, topic, sender, states);
        }
        route.matches()
    }

    /// Appends what matches; where it was found, if the next such message would find the same.
    fn search(
        &self,
        tenant: &str,
        topic: &str,
        sender: Option<SubscriberId>,
        online: &dyn Fn(&H) -> bool,
        out: &mut Vec<Match<H>>,
    ) -> Option<States> {
        let mut gathered = Gathered { sender, online, start: out.len(), out, shared: Vec::new(), sources: 0 };
        let names = self.digests.of_tenant(tenant);
        let (itself, name) = (names.itself(), names.name(topic));
        let mut look = |place: usize, with_exact: bool| {
            let shard = self.shards[place].read().unwrap_or_else(PoisonError::into_inner);
            // What lies far apart in memory is looked for before anything is added, so that the processor waits for it at once.
            let exact = shard.exact.get(&name).filter(|_| with_exact);
            shard.wildcard.visit(self.digests, itself, topic, &mut |found| gathered.add(found));
            exact.into_iter().for_each(|exact| gathered.add(exact));
            (place, self.generations[place].get())
        };
        let broad = place(itself);
        let narrow = prefix(topic).map_or(broad, |prefix| place(names.name(prefix)));
        let state = look(narrow, true);
        let states = [state, if broad == narrow { state } else { look(broad, false) }];
        let is_lasting = gathered.shared.is_empty();
        gathered.finish();
        is_lasting.then_some(states)
    }

    fn change<T>(&self, names: InTenant, filter: &str, change: impl FnOnce(&mut Shard<H>) -> T) -> T {
        let place = place(prefix(filter).map_or_else(|| names.itself(), |prefix| names.name(prefix)));
        let mut shard = self.shards[place].write().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut shard);
        self.generations[place].advance();
        changed
    }
}

impl<H> Router<H> {
    /// How many subscriptions there are, over all tenants.
    pub fn len(&self) -> usize {
        self.subscriptions.load(Ordering::Relaxed)
    }

    /// Whether there is no subscription.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<H> Default for Router<H> {
    fn default() -> Self {
        Self {
            shards: (0..1 << SHARD_BITS).map(|_| RwLock::default()).collect(),
            generations: (0..1 << SHARD_BITS).map(|_| Generation::default()).collect(),
            digests: Digests::new(),
            subscriptions: AtomicUsize::new(0),
        }
    }
}

impl<H> fmt::Debug for Router<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router").field("subscriptions", &self.len()).finish_non_exhaustive()
    }
}

/// Sixty-four shards: several times the threads of a node, and small enough to be free when empty.
const SHARD_BITS: u32 = 6;

/// The first two levels, if there are two and none is a wildcard. Filters without such a prefix are kept in one shard of
/// their tenant, which every message looks into as well.
fn prefix(text: &str) -> Option<&str> {
    let mut separators = 0;
    let second = text.bytes().position(|byte| {
        separators += usize::from(byte == b'/');
        separators == 2
    });
    let prefix = &text[..second.unwrap_or(text.len())];
    (separators > 0 && !topic::has_wildcard(prefix)).then_some(prefix)
}

/// The shard of a tenant or of a prefix.
fn place(digest: Digest) -> usize {
    usize::from((digest.bits() >> (u64::BITS - SHARD_BITS)) as u8)
}

fn split_group(filter: &str) -> (Option<&str>, &str) {
    match topic::parse_share(filter) {
        Ok(Some((group, plain))) => (Some(group), plain),
        _ => (None, filter),
    }
}

// === impl Shard ===

struct Shard<H> {
    exact: ByDigest<Subscribers<H>>,
    wildcard: Trie<H>,
}

impl<H> Default for Shard<H> {
    fn default() -> Self {
        Self { exact: ByDigest::default(), wildcard: Trie::default() }
    }
}

impl<H> Shard<H> {
    fn subscribers(&mut self, digests: Digests, names: InTenant, filter: &str) -> &mut Subscribers<H> {
        if topic::has_wildcard(filter) {
            return self.wildcard.subscribers(digests, names.itself(), filter);
        }
        self.exact.entry(names.name(filter)).or_default()
    }

    fn remove(
        &mut self,
        digests: Digests,
        names: InTenant,
        filter: &str,
        group: Option<&str>,
        id: SubscriberId,
    ) -> Option<Member<H>> {
        if topic::has_wildcard(filter) {
            return self.wildcard.remove(digests, names.itself(), filter, group, id);
        }
        let name = names.name(filter);
        let subscribers = self.exact.get_mut(&name)?;
        let removed = subscribers.remove(group, id);
        if subscribers.is_empty() {
            self.exact.remove(&name);
            shrink(&mut self.exact);
        }
        removed
    }
}

// === impl Gathered ===

struct Gathered<'a, H> {
    sender: Option<SubscriberId>,
    online: &'a dyn Fn(&H) -> bool,
    out: &'a mut Vec<Match<H>>,
    start: usize,
    shared: Vec<Match<H>>,
    /// How many filters gave plain matches; within one, no subscriber comes twice.
    sources: usize,
}

impl<H: Clone> Gathered<'_, H> {
    fn add(&mut self, found: &Subscribers<H>) {
        let before = self.out.len();
        let sender = self.sender;
        found.for_each_plain(|member| {
            if !(member.subscription().no_local && sender == Some(member.id)) {
                self.out.push(Match::of(member));
            }
        });
        self.sources += usize::from(self.out.len() > before);
        self.shared.extend(found.groups().filter_map(|group| group.next(self.online)).map(Match::of));
    }

    fn finish(mut self) {
        if self.sources > 1 {
            merge(self.out, self.start);
        }
        self.out.append(&mut self.shared);
    }
}

fn merge<H>(out: &mut Vec<Match<H>>, start: usize) {
    out[start..].sort_by_key(|found| found.subscriber);
    let mut kept = start;
    for next in start + 1..out.len() {
        let (head, tail) = out.split_at_mut(next);
        if head[kept].subscriber == tail[0].subscriber {
            head[kept].absorb(&tail[0]);
        } else {
            kept += 1;
            out.swap(kept, next);
        }
    }
    out.truncate(kept + 1);
}

impl<H: Clone> Match<H> {
    fn of(member: &Member<H>) -> Self {
        let Subscription { qos, retain_as_published, identifier, .. } = member.subscription();
        let (subscriber, handle) = (member.id, member.handle.clone());
        Self { subscriber, handle, qos, retain_as_published, identifiers: identifier.into_iter().collect() }
    }
}

impl<H> Match<H> {
    fn absorb(&mut self, other: &Self) {
        self.qos = self.qos.max(other.qos);
        self.retain_as_published |= other.retain_as_published;
        for identifier in other.identifiers.iter() {
            self.identifiers.push(*identifier);
        }
    }
}
