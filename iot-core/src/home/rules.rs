use std::collections::BTreeSet;

use super::{Home, INVITES_MAX, Invite, MEMBERS_MAX, Member, Role};
use crate::{
    access::Permission,
    id::{AccountId, HomeId, InviteId, TenantId},
    time::Timestamp,
};

/// What a rule about a home comes to.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ruling {
    /// The home is to become this.
    Changed(Home),
    /// Nothing is to change.
    Refused(HomeRefusal),
}

/// Why something about a home is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HomeRefusal {
    /// Who asks may not do this.
    Forbidden,
    /// Nobody of that account is in the home.
    NoSuchMember,
    /// The home has no such invitation.
    NoSuchInvite,
    /// The account is in the home already.
    AlreadyMember,
    /// No open invitation has this code.
    CodeMismatch,
    /// The invitation has ended, or who invited may not invite any more.
    CodeExpired,
    /// All uses of the invitation are spent.
    CodeUsed,
    /// The owner must transfer or dissolve the home.
    LastOwner,
    /// The home has as many members as it can have.
    MembersFull,
    /// The home has as many open invitations as it can have.
    InvitesFull,
    /// The account is in as many homes as it can be in.
    HomesFull,
    /// The end that was asked for is past.
    AlreadyOver,
    /// Too many wrong codes came from this account or address.
    Throttled,
}

impl HomeRefusal {
    /// Stable, `snake_case`.
    pub fn code(self) -> &'static str {
        match self {
            Self::Forbidden => "forbidden",
            Self::NoSuchMember => "no_such_member",
            Self::NoSuchInvite => "no_such_invite",
            Self::AlreadyMember => "already_member",
            Self::CodeMismatch => "code_mismatch",
            Self::CodeExpired => "code_expired",
            Self::CodeUsed => "code_used",
            Self::LastOwner => "last_owner",
            Self::MembersFull => "members_full",
            Self::InvitesFull => "invites_full",
            Self::HomesFull => "homes_full",
            Self::AlreadyOver => "already_over",
            Self::Throttled => "throttled",
        }
    }
}

/// What is asked of an invitation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewInvite {
    /// A new id.
    pub id: InviteId,
    /// Keyed code of a new text.
    pub code: String,
    /// What who accepts it becomes.
    pub role: Role,
    /// Until when it can be accepted.
    pub expires: Timestamp,
    /// Until when the access lasts that it gives.
    pub access_expires: Option<Timestamp>,
    /// How many may accept it.
    pub uses: u32,
}

type Decided = Result<Home, HomeRefusal>;

impl From<Decided> for Ruling {
    fn from(decided: Decided) -> Self {
        match decided {
            Ok(home) => Self::Changed(home),
            Err(why) => Self::Refused(why),
        }
    }
}

/// The rules. `by` is the account that asks; what it is to the home decides. Nothing is changed in place.
impl Home {
    /// A new home of an account.
    pub fn create(tenant: TenantId, id: HomeId, name: impl Into<String>, owner: AccountId, now: Timestamp) -> Self {
        let owner = Member { account: owner, role: Role::Owner, granted_by: None, since: now, expires: None };
        Self { members: vec![owner], ..Self::without_owner(tenant, id, name) }
    }

    /// Gives it another name.
    pub fn rename(&self, by: &AccountId, name: &str, now: Timestamp) -> Ruling {
        match self.allows(by, Permission::ManageHome, now) {
            true => Ruling::Changed(Self { name: name.to_owned(), ..self.clone() }),
            false => Ruling::Refused(HomeRefusal::Forbidden),
        }
    }

    /// Opens an invitation. Members and invitations that have ended make room.
    pub fn invite(&self, by: &AccountId, invite: NewInvite, now: Timestamp) -> Ruling {
        self.decide_invite(by, invite, now).into()
    }

    fn decide_invite(&self, by: &AccountId, new: NewInvite, now: Timestamp) -> Decided {
        self.ranks_above(by, new.role, now)?;
        if new.uses == 0 || new.expires <= now || new.access_expires.is_some_and(|at| at <= now) {
            return Err(HomeRefusal::AlreadyOver);
        }
        let mut home = self.without_expired(now);
        home.invites.retain(|invite| self.objection_to(invite, now).is_none());
        if home.invites.len() >= INVITES_MAX {
            return Err(HomeRefusal::InvitesFull);
        }
        let NewInvite { id, code, role, expires, access_expires, uses } = new;
        home.invites.push(Invite { id, code, role, by: by.clone(), expires, access_expires, uses_left: uses });
        Ok(home)
    }

    /// Withdraws an invitation: for who invited, and for those above the role that it gives.
    pub fn withdraw_invite(&self, by: &AccountId, id: &InviteId, now: Timestamp) -> Ruling {
        self.decide_withdraw(by, id, now).into()
    }

    fn decide_withdraw(&self, by: &AccountId, id: &InviteId, now: Timestamp) -> Decided {
        self.ranks_above(by, Role::Guest, now)?;
        let invite = self.invites.iter().find(|invite| invite.id == *id).ok_or(HomeRefusal::NoSuchInvite)?;
        if invite.by != *by {
            self.ranks_above(by, invite.role, now)?;
        }
        let mut home = self.clone();
        home.invites.retain(|invite| invite.id != *id);
        Ok(home)
    }

    /// Accepts the invitation with this keyed code.
    pub fn accept(&self, account: &AccountId, code: &str, now: Timestamp) -> Ruling {
        self.decide_accept(account, code, now).into()
    }

    fn decide_accept(&self, account: &AccountId, code: &str, now: Timestamp) -> Decided {
        let invite = self.invites.iter().find(|invite| invite.code == code).ok_or(HomeRefusal::CodeMismatch)?;
        if let Some(why) = self.objection_to(invite, now) {
            return Err(why);
        }
        let mut home = self.without_expired(now);
        if home.member(account).is_some() {
            return Err(HomeRefusal::AlreadyMember);
        }
        if home.members.len() >= MEMBERS_MAX {
            return Err(HomeRefusal::MembersFull);
        }
        for open in home.invites.iter_mut().filter(|open| open.id == invite.id) {
            open.uses_left = open.uses_left.saturating_sub(1);
        }
        home.members.push(Member {
            account: account.clone(),
            role: invite.role,
            granted_by: Some(invite.by.clone()),
            since: now,
            expires: invite.access_expires,
        });
        Ok(home)
    }

    /// Why an invitation cannot be accepted.
    fn objection_to(&self, invite: &Invite, now: Timestamp) -> Option<HomeRefusal> {
        if invite.uses_left == 0 {
            return Some(HomeRefusal::CodeUsed);
        }
        let over = invite.expires <= now || invite.access_expires.is_some_and(|at| at <= now);
        let inviter_may = self.role_of(&invite.by, now).is_some_and(|role| role.may_grant(invite.role));
        (over || !inviter_may).then_some(HomeRefusal::CodeExpired)
    }

    /// Makes a member something else, until `expires`. Nobody gives what is not below themselves, takes it from who is not below
    /// themselves, or changes themselves. What the member granted and might not grant any more passes to `by`.
    pub fn set_role(
        &self,
        by: &AccountId,
        account: &AccountId,
        role: Role,
        expires: Option<Timestamp>,
        now: Timestamp,
    ) -> Ruling {
        self.decide_role(by, account, (role, expires), now).into()
    }

    fn decide_role(
        &self,
        by: &AccountId,
        account: &AccountId,
        (role, expires): (Role, Option<Timestamp>),
        now: Timestamp,
    ) -> Decided {
        let own = self.ranks_above(by, role, now)?;
        let former = self.member(account).ok_or(HomeRefusal::NoSuchMember)?.clone();
        self.ranks_above(by, former.role, now)?;
        if expires.is_some_and(|at| at <= now) {
            return Err(HomeRefusal::AlreadyOver);
        }
        let mut home = self.clone();
        for member in &mut home.members {
            if member.account == *account {
                // Of two who granted it the higher answers for it, so that it does not end with the lower one.
                let granter = former.granted_by.as_ref().and_then(|granter| self.role_of(granter, now));
                let keep = granter.is_some_and(|granter| granter > own);
                let granted_by = if keep { former.granted_by.clone() } else { Some(by.clone()) };
                *member = Member { role, expires, granted_by, ..former.clone() };
            } else if member.granted_by.as_ref() == Some(account) && !role.may_grant(member.role) {
                member.granted_by = Some(by.clone());
            }
        }
        Ok(home)
    }

    /// Ends a membership, with everything that was granted by it, and so on.
    pub fn remove(&self, by: &AccountId, account: &AccountId, now: Timestamp) -> Ruling {
        self.decide_remove(by, account, now).into()
    }

    fn decide_remove(&self, by: &AccountId, account: &AccountId, now: Timestamp) -> Decided {
        self.ranks_above(by, Role::Guest, now)?;
        let member = self.member(account).ok_or(HomeRefusal::NoSuchMember)?;
        self.ranks_above(by, member.role, now)?;
        Ok(self.without(account))
    }

    /// Ends one's own membership, with everything that was granted by it. The owner transfers or dissolves instead.
    pub fn leave(&self, account: &AccountId) -> Ruling {
        match self.member(account).map(|member| member.role) {
            None => Ruling::Refused(HomeRefusal::Forbidden),
            Some(Role::Owner) => Ruling::Refused(HomeRefusal::LastOwner),
            Some(_) => Ruling::Changed(self.without(account)),
        }
    }

    /// Makes a member the owner, and the owner a manager by their leave. What the former owner granted, the new one answers for.
    /// The devices stay, in the same ownership epoch.
    pub fn transfer(&self, by: &AccountId, to: &AccountId, now: Timestamp) -> Ruling {
        self.decide_transfer(by, to, now).into()
    }

    fn decide_transfer(&self, by: &AccountId, to: &AccountId, now: Timestamp) -> Decided {
        if !self.allows(by, Permission::OwnHome, now) || by == to {
            return Err(HomeRefusal::Forbidden);
        }
        match self.role_of(to, now) {
            None => return Err(HomeRefusal::NoSuchMember),
            Some(Role::Guest) => return Err(HomeRefusal::Forbidden),
            Some(_) => {}
        }
        let mut home = self.clone();
        for member in &mut home.members {
            if member.account == *to {
                *member = Member { role: Role::Owner, granted_by: None, expires: None, ..member.clone() };
            } else if member.account == *by {
                *member = Member { role: Role::Manager, granted_by: Some(to.clone()), ..member.clone() };
            } else if member.granted_by.as_ref() == Some(by) {
                member.granted_by = Some(to.clone());
            }
        }
        home.invites.retain(|invite| invite.by != *by || Role::Manager.may_grant(invite.role));
        Ok(home)
    }

    /// Ends the home for all of its members. The record that is left has none: it is to be deleted together with the binding of
    /// its devices.
    pub fn dissolve(&self, by: &AccountId, now: Timestamp) -> Ruling {
        match self.allows(by, Permission::OwnHome, now) {
            true => Ruling::Changed(Self { members: vec![], invites: vec![], ..self.clone() }),
            false => Ruling::Refused(HomeRefusal::Forbidden),
        }
    }

    /// Answers the role of `by`, if it may grant `role`.
    fn ranks_above(&self, by: &AccountId, role: Role, now: Timestamp) -> Result<Role, HomeRefusal> {
        self.role_of(by, now).filter(|own| own.may_grant(role)).ok_or(HomeRefusal::Forbidden)
    }

    /// Without those whose access has ended; what they granted ends at the same time.
    fn without_expired(&self, now: Timestamp) -> Self {
        let over = self.members.iter().filter(|member| self.end_of(member) <= now);
        self.without_all(&over.map(|member| member.account.clone()).collect())
    }

    /// Without a member and all that was granted by them.
    fn without(&self, account: &AccountId) -> Self {
        let mut gone = BTreeSet::from([account.clone()]);
        // Roles fall along a chain of grants, so that it is no longer than there are roles.
        for _ in Role::ALL {
            let granted = |member: &&Member| member.granted_by.as_ref().is_some_and(|by| gone.contains(by));
            let more: Vec<_> = self.members.iter().filter(granted).map(|member| member.account.clone()).collect();
            gone.extend(more);
        }
        self.without_all(&gone)
    }

    fn without_all(&self, gone: &BTreeSet<AccountId>) -> Self {
        let mut home = self.clone();
        home.members.retain(|member| !gone.contains(&member.account));
        home.invites.retain(|invite| !gone.contains(&invite.by));
        home
    }
}
