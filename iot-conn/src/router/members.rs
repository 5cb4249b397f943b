use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};

use iot_core::message::QoS;

use super::{SubscriberId, Subscription};

/// One subscriber's subscription with one filter.
pub(super) struct Member<H> {
    pub(super) id: SubscriberId,
    pub(super) handle: H,
    /// 0 for none, which no client can choose (MQTT 5 §3.8.2.1.2).
    identifier: u32,
    qos: QoS,
    no_local: bool,
    retain_as_published: bool,
}

impl<H> Member<H> {
    pub(super) fn new(id: SubscriberId, handle: H, subscription: Subscription) -> Self {
        let Subscription { qos, no_local, retain_as_published, identifier } = subscription;
        Self { id, handle, identifier: identifier.unwrap_or(0), qos, no_local, retain_as_published }
    }

    pub(super) fn subscription(&self) -> Subscription {
        Subscription {
            qos: self.qos,
            no_local: self.no_local,
            retain_as_published: self.retain_as_published,
            identifier: Some(self.identifier).filter(|identifier| *identifier > 0),
        }
    }
}

/// All subscriptions with one filter. Nearly all filters have one, and there are as many filters as there are clients.
#[derive(Default)]
pub(super) enum Subscribers<H> {
    #[default]
    None,
    /// Not in a group.
    One(Member<H>),
    Crowd(Box<Crowd<H>>),
}

pub(super) struct Crowd<H> {
    plain: Members<H>,
    groups: BTreeMap<Box<str>, Group<H>>,
}

impl<H> Subscribers<H> {
    /// Adds the member to the group or to the plain subscriptions; gives back the one it replaces.
    pub(super) fn insert(&mut self, group: Option<&str>, member: Member<H>) -> Option<Member<H>> {
        match (self, group) {
            (Self::Crowd(crowd), None) => crowd.plain.insert(member),
            (Self::Crowd(crowd), Some(group)) => crowd.groups.entry(group.into()).or_default().members.insert(member),
            (Self::One(known), None) if known.id == member.id => Some(std::mem::replace(known, member)),
            (one @ Self::None, None) => {
                *one = Self::One(member);
                None
            }
            (few, group) => {
                let mut crowd = Crowd { plain: Members::default(), groups: BTreeMap::new() };
                if let Self::One(known) = std::mem::take(few) {
                    crowd.plain.insert(known);
                }
                *few = Self::Crowd(Box::new(crowd));
                few.insert(group, member)
            }
        }
    }

    pub(super) fn remove(&mut self, group: Option<&str>, id: SubscriberId) -> Option<Member<H>> {
        match (&mut *self, group) {
            (Self::One(known), None) if known.id == id => match std::mem::take(self) {
                Self::One(known) => Some(known),
                _ => None,
            },
            (Self::Crowd(crowd), _) => {
                let removed = crowd.remove(group, id);
                if crowd.plain.is_empty() && crowd.groups.is_empty() {
                    *self = Self::None;
                }
                removed
            }
            _ => None,
        }
    }

    pub(super) fn for_each_plain(&self, mut action: impl FnMut(&Member<H>)) {
        match self {
            Self::None => {}
            Self::One(member) => action(member),
            Self::Crowd(crowd) => crowd.plain.for_each(action),
        }
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = &Group<H>> {
        let crowd = if let Self::Crowd(crowd) = self { Some(crowd) } else { None };
        crowd.into_iter().flat_map(|crowd| crowd.groups.values())
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }
}

impl<H> Crowd<H> {
    fn remove(&mut self, group: Option<&str>, id: SubscriberId) -> Option<Member<H>> {
        let Some(name) = group else { return self.plain.remove(id) };
        let group = self.groups.get_mut(name)?;
        let removed = group.members.remove(id);
        if group.members.is_empty() {
            self.groups.remove(name);
        }
        removed
    }
}

/// The members of a shared subscription, who take turns in the order of their ids.
pub(super) struct Group<H> {
    members: Members<H>,
    /// Whose turn it was; an id, not a position, so that leaving members do not change the turn of others.
    served: AtomicU64,
}

impl<H> Group<H> {
    /// Whose turn it is: the next member who is online, else the next.
    pub(super) fn next(&self, online: &dyn Fn(&H) -> bool) -> Option<&Member<H>> {
        let mut served = self.served.load(Ordering::Relaxed);
        loop {
            let next = self.candidate(SubscriberId(served), online)?;
            match self.served.compare_exchange(served, next.id.0, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(next),
                Err(changed) => served = changed,
            }
        }
    }

    fn candidate(&self, served: SubscriberId, online: &dyn Fn(&H) -> bool) -> Option<&Member<H>> {
        let first = self.members.after(served)?;
        let mut next = first;
        loop {
            if online(&next.handle) {
                return Some(next);
            }
            next = self.members.after(next.id)?;
            if next.id == first.id {
                return Some(first);
            }
        }
    }
}

impl<H> Default for Group<H> {
    fn default() -> Self {
        Self { members: Members::default(), served: AtomicU64::new(u64::MAX) }
    }
}

/// Members by id. Most crowds are small, some are a hundred thousand.
enum Members<H> {
    /// In the order of their ids.
    Few(Vec<Member<H>>),
    Many(BTreeMap<SubscriberId, Member<H>>),
}

/// Up to here a sorted vector is smaller than a tree and no slower.
const FEW_MAX: usize = 32;

impl<H> Members<H> {
    fn insert(&mut self, member: Member<H>) -> Option<Member<H>> {
        match self {
            Self::Many(members) => members.insert(member.id, member),
            Self::Few(members) => match members.binary_search_by_key(&member.id, |known| known.id) {
                Ok(place) => Some(std::mem::replace(&mut members[place], member)),
                Err(_) if members.len() == FEW_MAX => {
                    let all = members.drain(..).chain([member]).map(|member| (member.id, member));
                    *self = Self::Many(all.collect());
                    None
                }
                Err(place) => {
                    members.insert(place, member);
                    None
                }
            },
        }
    }

    fn remove(&mut self, id: SubscriberId) -> Option<Member<H>> {
        match self {
            Self::Many(members) => members.remove(&id),
            Self::Few(members) => {
                let place = members.binary_search_by_key(&id, |known| known.id).ok()?;
                Some(members.remove(place))
            }
        }
    }

    /// The member that follows `id`, which need not be one, after the last the first; `None` only if there is none.
    fn after(&self, id: SubscriberId) -> Option<&Member<H>> {
        match self {
            Self::Few(members) => {
                let place = members.partition_point(|member| member.id <= id);
                members.get(place).or_else(|| members.first())
            }
            Self::Many(members) => {
                let later = members.range((Bound::Excluded(id), Bound::Unbounded)).next();
                later.or_else(|| members.first_key_value()).map(|(_, member)| member)
            }
        }
    }

    fn for_each(&self, action: impl FnMut(&Member<H>)) {
        match self {
            Self::Few(members) => members.iter().for_each(action),
            Self::Many(members) => members.values().for_each(action),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Few(members) => members.is_empty(),
            Self::Many(members) => members.is_empty(),
        }
    }
}

impl<H> Default for Members<H> {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_filter_with_one_subscriber_takes_24_bytes() {
        assert_eq!(size_of::<Subscribers<Arc<()>>>(), 24);
    }
}
