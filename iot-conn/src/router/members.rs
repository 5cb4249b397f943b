use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{SubscriberId, Subscription};

/// One subscriber's subscription with one filter.
pub(super) struct Member<H> {
    pub(super) id: SubscriberId,
    pub(super) handle: H,
    pub(super) subscription: Subscription,
}

/// All subscriptions with one filter.
pub(super) struct Subscribers<H> {
    pub(super) plain: Members<H>,
    groups: BTreeMap<Box<str>, Group<H>>,
}

impl<H> Subscribers<H> {
    /// Adds the member to the group or to the plain subscriptions; gives back the one it replaces.
    pub(super) fn insert(&mut self, group: Option<&str>, member: Member<H>) -> Option<Member<H>> {
        match group {
            None => self.plain.insert(member),
            Some(group) => self.groups.entry(group.into()).or_default().members.insert(member),
        }
    }

    pub(super) fn remove(&mut self, group: Option<&str>, id: SubscriberId) -> Option<Member<H>> {
        let Some(name) = group else { return self.plain.remove(id) };
        let group = self.groups.get_mut(name)?;
        let removed = group.members.remove(id);
        if group.members.is_empty() {
            self.groups.remove(name);
        }
        removed
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = &Group<H>> {
        self.groups.values()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.groups.is_empty()
    }
}

impl<H> Default for Subscribers<H> {
    fn default() -> Self {
        Self { plain: Members::default(), groups: BTreeMap::new() }
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

/// Members by id. Nearly all filters have few, some have a hundred thousand.
pub(super) enum Members<H> {
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
                    if members.is_empty() {
                        members.reserve_exact(1);
                    }
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

    pub(super) fn for_each(&self, action: impl FnMut(&Member<H>)) {
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
