use super::{Decision, Grants, Permission, Reason, Relation, Resource, Tuple, check, covers, permits};
use crate::{device::Device, home::Home, id::AccountId, store::Revision, time::Timestamp};

/// Why a decision fell as it did, relation by relation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// What [`check`] says.
    pub decision: Decision,
    /// Every relation that was looked at, in the order of the grants.
    pub considered: Vec<Considered>,
}

/// What one relation said to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Considered {
    /// The relation.
    pub tuple: Tuple,
    /// What it said.
    pub verdict: Verdict,
}

/// What a relation says to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is about something else.
    OtherObject,
    /// It does not include the permission.
    NotPermitted,
    /// It would permit it, but has ended.
    Expired,
    /// It permits it.
    Permits,
}

impl Verdict {
    /// Stable, `snake_case`.
    pub fn code(self) -> &'static str {
        match self {
            Self::OtherObject => "other_object",
            Self::NotPermitted => "not_permitted",
            Self::Expired => "expired",
            Self::Permits => "permits",
        }
    }
}

/// Decides like [`check`], and says what each relation had to do with it.
pub fn explain(grants: &Grants, permission: Permission, resource: &Resource, now: Timestamp) -> Explanation {
    let consider =
        |tuple: &Tuple| Considered { tuple: tuple.clone(), verdict: verdict(tuple, permission, resource, now) };
    Explanation {
        decision: check(grants, permission, resource, now),
        considered: grants.tuples.iter().map(consider).collect(),
    }
}

fn verdict(tuple: &Tuple, permission: Permission, resource: &Resource, now: Timestamp) -> Verdict {
    if !covers(&tuple.object, resource) {
        Verdict::OtherObject
    } else if !permits(tuple.relation, permission) {
        Verdict::NotPermitted
    } else if tuple.expires.is_some_and(|at| at <= now) {
        Verdict::Expired
    } else {
        Verdict::Permits
    }
}

/// Someone who may do something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    /// Who.
    pub account: AccountId,
    /// By which relation.
    pub relation: Relation,
    /// Until when.
    pub expires: Option<Timestamp>,
}

/// Which members of a home may do something to a device in it. People and applications of the vendor are not among them: they
/// stand to the tenant, not to the home.
pub fn who_can(home: &Home, device: &Device, permission: Permission, now: Timestamp) -> Vec<Allowed> {
    let resource = Resource::device(device);
    let allowed = |account: &AccountId| {
        let tuple = home.tuple_of(account)?;
        let (relation, expires) = (tuple.relation, tuple.expires);
        let grants = Grants { revision: Revision::default(), tuples: [tuple].into() };
        let decision = check(&grants, permission, &resource, now);
        decision.allow.then(|| Allowed { account: account.clone(), relation, expires })
    };
    home.members.iter().filter_map(|member| allowed(&member.account)).collect()
}

/// How much of a device's record someone may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sight {
    /// Nothing, not even that it exists.
    Nothing,
    /// What it is and where it stands: no keys, no P code, no times of its life.
    Guest,
    /// What is printed on it, too.
    Household,
    /// The whole record: for the vendor.
    Whole,
}

/// How much of a device's record these grants show.
pub fn sight(grants: &Grants, device: &Device, now: Timestamp) -> Sight {
    let may = |permission, resource: &Resource| check(grants, permission, resource, now).allow;
    let resource = Resource::device(device);
    if may(Permission::ReadDevice, &Resource::tenant(&device.tenant)) {
        Sight::Whole
    } else if may(Permission::ReadHome, &resource) {
        Sight::Household
    } else if may(Permission::ReadDevice, &resource) {
        Sight::Guest
    } else {
        Sight::Nothing
    }
}

impl Reason {
    /// Stable, `snake_case`.
    pub fn code(self) -> &'static str {
        match self {
            Self::Granted(_) => "granted",
            Self::NotPermitted => "not_permitted",
            Self::Expired => "grant_expired",
            Self::NoRelation => "no_relation",
        }
    }
}

impl Relation {
    /// Stable, `snake_case`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Viewer => "viewer",
            Self::Itself => "itself",
            Self::Owner => "owner",
            Self::Manager => "manager",
            Self::Member => "member",
            Self::Guest => "guest",
            Self::User => "user",
        }
    }
}

impl Permission {
    /// Stable, `snake_case`.
    pub fn name(self) -> &'static str {
        match self {
            Self::ReadDevice => "read_device",
            Self::ReadState => "read_state",
            Self::ReadTelemetry => "read_telemetry",
            Self::Control => "control",
            Self::ManageDevices => "manage_devices",
            Self::ManageCredentials => "manage_credentials",
            Self::ManageAccounts => "manage_accounts",
            Self::ManageReleases => "manage_releases",
            Self::ManageWebhooks => "manage_webhooks",
            Self::ManageQuotas => "manage_quotas",
            Self::ReadHome => "read_home",
            Self::ManageHome => "manage_home",
            Self::Bind => "bind",
            Self::OwnHome => "own_home",
            Self::ReadAudit => "read_audit",
            Self::Report => "report",
            Self::Obey => "obey",
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
        }
    }

    /// By its name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|permission| permission.name() == name)
    }
}
