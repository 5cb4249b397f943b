//! Homes: the groups in which people share devices.

use serde::{Deserialize, Serialize};

use crate::{
    id::{AccountId, HomeId, TenantId},
    store::{Document, IndexKey, Key},
    time::Timestamp,
};

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
}

impl Home {
    /// Its key in a store.
    pub fn key_of(tenant: &TenantId, id: &HomeId) -> Key {
        Key::new(Self::KIND, format!("{tenant}/{id}"))
    }
}

impl Document for Home {
    const KIND: &'static str = "home";
    const FORMAT: u16 = 1;

    fn key(&self) -> Key {
        Self::key_of(&self.tenant, &self.id)
    }

    fn index_keys(&self) -> Vec<IndexKey> {
        vec![IndexKey::many("tenant", self.tenant.as_str())]
    }
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
