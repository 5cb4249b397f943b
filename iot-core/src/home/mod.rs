//! Homes: the groups in which people share devices.

mod rules;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub use self::rules::{HomeRefusal, NewInvite, Ruling};
use crate::{
    access::{Grants, Object, Permission, Relation, Resource, Tuple, check},
    id::{AccountId, HomeId, InviteId, TenantId},
    store::{Document, IndexKey, Key, Revision},
    time::Timestamp,
};

/// The most members of one home, guests included.
pub const MEMBERS_MAX: usize = 64;

/// The most open invitations of one home.
pub const INVITES_MAX: usize = 16;

/// The most homes that one account is in.
pub const HOMES_PER_ACCOUNT_MAX: u32 = 32;

/// The most devices that are bound to one home, so that dissolving it is one commit. Homes without an owner have no such bound.
pub const HOME_DEVICES_MAX: u32 = 256;

/// What a member is to a home, the least first. Each includes what is written before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// [`Relation::Guest`].
    Guest,
    /// [`Relation::Member`].
    Member,
    /// [`Relation::Manager`].
    Manager,
    /// [`Relation::Owner`]. There is one at most.
    Owner,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Guest, Self::Member, Self::Manager, Self::Owner];

    /// The relation that it is.
    pub fn relation(self) -> Relation {
        match self {
            Self::Guest => Relation::Guest,
            Self::Member => Relation::Member,
            Self::Manager => Relation::Manager,
            Self::Owner => Relation::Owner,
        }
    }

    /// Whether one of this role may give, change and end `other`: only what stands below it, and only from manager upwards.
    pub fn may_grant(self, other: Self) -> bool {
        self >= Self::Manager && self > other
    }
}

/// Someone in a home.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Who.
    pub account: AccountId,
    /// As what.
    pub role: Role,
    /// By whom, a member of a higher role; `None` for the owner. What someone granted ends with them.
    #[serde(default)]
    pub granted_by: Option<AccountId>,
    /// From when.
    pub since: Timestamp,
    /// Until when, if it ends by itself.
    #[serde(default)]
    pub expires: Option<Timestamp>,
}

/// An open invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invite {
    /// Which.
    pub id: InviteId,
    /// Keyed code of its text.
    pub code: String,
    /// What who accepts it becomes.
    pub role: Role,
    /// Who invites. The invitation is worth what they may grant when it is accepted.
    pub by: AccountId,
    /// Until when it can be accepted.
    pub expires: Timestamp,
    /// Until when the access lasts that it gives.
    #[serde(default)]
    pub access_expires: Option<Timestamp>,
    /// How many may still accept it.
    pub uses_left: u32,
}

/// A home. It is the unit of consistency: whatever touches its members, grants or devices checks and rewrites this
/// record, so that the record's version orders all of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Home {
    /// Whose.
    pub tenant: TenantId,
    /// Which.
    pub id: HomeId,
    /// For people.
    pub name: String,
    /// At most [`MEMBERS_MAX`]; empty in a home that the vendor keeps.
    #[serde(default)]
    pub members: Vec<Member>,
    /// At most [`INVITES_MAX`].
    #[serde(default)]
    pub invites: Vec<Invite>,
}

impl Home {
    /// Its key in a store.
    pub fn key_of(tenant: &TenantId, id: &HomeId) -> Key {
        Key::new(Self::KIND, format!("{tenant}/{id}"))
    }

    /// A home that the vendor keeps: nobody owns it, and devices in it are not bound.
    pub fn without_owner(tenant: TenantId, id: HomeId, name: impl Into<String>) -> Self {
        Self { tenant, id, name: name.into(), members: vec![], invites: vec![] }
    }

    /// The owner. Devices in a home with an owner are bound to that owner.
    pub fn owner(&self) -> Option<&AccountId> {
        self.members.iter().find(|member| member.role == Role::Owner).map(|member| &member.account)
    }

    /// As what someone was made a member, whether or not it has ended.
    pub fn member(&self, account: &AccountId) -> Option<&Member> {
        self.members.iter().find(|member| member.account == *account)
    }

    /// What an account is to this home now.
    pub fn role_of(&self, account: &AccountId, now: Timestamp) -> Option<Role> {
        self.member(account).filter(|member| self.end_of(member) > now).map(|member| member.role)
    }

    /// When a member's access ends: when the first ends of theirs and of those by whom it was granted; [`Timestamp::MAX`] for
    /// never. What does not lead to the owner by growing roles has ended from the beginning.
    pub fn end_of(&self, member: &Member) -> Timestamp {
        let (mut at, mut end) = (member, Timestamp::MAX);
        for _ in Role::ALL {
            end = end.min(at.expires.unwrap_or(Timestamp::MAX));
            if at.role == Role::Owner {
                return end;
            }
            match at.granted_by.as_ref().and_then(|by| self.member(by)) {
                Some(granter) if granter.role.may_grant(at.role) => at = granter,
                _ => return Timestamp::EPOCH,
            }
        }
        Timestamp::EPOCH
    }

    /// What an account is to this home, as a relation; `None` if it is nothing.
    pub fn tuple_of(&self, account: &AccountId) -> Option<Tuple> {
        let member = self.member(account)?;
        let end = self.end_of(member);
        let expires = (end < Timestamp::MAX).then_some(end);
        Some(Tuple {
            object: Object::Home(self.tenant.clone(), self.id.clone()),
            relation: member.role.relation(),
            expires,
        })
    }

    /// Whether an account may do something to this home by what it is to it.
    pub fn allows(&self, account: &AccountId, permission: Permission, now: Timestamp) -> bool {
        let grants = Grants { revision: Revision::default(), tuples: self.tuple_of(account).into_iter().collect() };
        check(&grants, permission, &Resource::home(&self.tenant, &self.id), now).allow
    }

    /// The accounts that are something else to `self` than to `other`: whose grants are old when
    /// one takes the place of the other.
    pub fn affected(&self, other: &Self) -> BTreeSet<AccountId> {
        let differs = |a: &Self, b: &Self| {
            let changed = a.members.iter().filter(|m| b.tuple_of(&m.account) != a.tuple_of(&m.account));
            changed.map(|m| m.account.clone()).collect::<Vec<_>>()
        };
        differs(self, other).into_iter().chain(differs(other, self)).collect()
    }
}

impl Document for Home {
    const KIND: &'static str = "home";
    /// 1 had neither members nor invites.
    const FORMAT: u16 = 2;

    fn key(&self) -> Key {
        Self::key_of(&self.tenant, &self.id)
    }

    /// `tenant`; `member`: `<tenant>/<account>` of each; `invite` (unique): the code of each.
    fn index_keys(&self) -> Vec<IndexKey> {
        let mut keys = vec![IndexKey::many("tenant", self.tenant.as_str())];
        keys.extend(self.members.iter().map(|m| IndexKey::many("member", &member_index(&self.tenant, &m.account))));
        keys.extend(self.invites.iter().map(|invite| IndexKey::unique("invite", &invite.code)));
        keys
    }
}

/// The value of the index `member` by which the homes of an account are found.
pub fn member_index(tenant: &TenantId, account: &AccountId) -> String {
    format!("{tenant}/{account}")
}

/// Written in every batch that changes what an account is to any home, so that whoever holds the account's grants learns
/// that they are old. It needs no check: the last one wins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipBell {
    /// Whose.
    pub tenant: TenantId,
    /// Which account.
    pub account: AccountId,
    /// When it rang.
    pub at: Timestamp,
}

impl MembershipBell {
    /// Its key in a store.
    pub fn key_of(tenant: &TenantId, account: &AccountId) -> Key {
        Key::new(Self::KIND, format!("{tenant}/{account}"))
    }
}

impl Document for MembershipBell {
    const KIND: &'static str = "membership_bell";
    const FORMAT: u16 = 1;

    fn key(&self) -> Key {
        Self::key_of(&self.tenant, &self.account)
    }

    fn index_keys(&self) -> Vec<IndexKey> {
        vec![]
    }
}

#[cfg(test)]
mod tests;
