//! Who may do what: principals, relations, and the one pure function that decides.

mod explain;

use std::{fmt, net::SocketAddr, sync::Arc};

use async_trait::async_trait;

pub use self::explain::{Allowed, Considered, Explanation, Sight, Verdict, explain, sight, who_can};
use crate::{
    id::{AccountId, DeviceId, HomeId, LoginId, OwnershipEpoch, TenantId, TokenId},
    secret::Secret,
    store::{Key, Revision, StoreError},
    time::Timestamp,
};

/// Someone who has proved who they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Principal {
    /// Within which tenant; nothing of another is visible.
    pub tenant: TenantId,
    /// Who.
    pub subject: Subject,
}

/// Kinds of principals.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Subject {
    /// A device, by a key of its own.
    Device {
        /// Which.
        device: DeviceId,
        /// The key that it proved, as in [`DeviceKey::fingerprint`](crate::device::DeviceKey::fingerprint).
        fingerprint: String,
    },
    /// An application, by an API token.
    Token(TokenId),
    /// A person, by an account.
    Account {
        /// Which.
        account: AccountId,
        /// By which of its sign-ins.
        login: LoginId,
    },
    /// A client without credentials, where a listener allows it.
    Anonymous,
}

impl fmt::Display for Principal {
    /// For audit and logs; contains no secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subject {
            Subject::Device { device, .. } => write!(f, "{}/device/{device}", self.tenant),
            Subject::Token(token) => write!(f, "{}/token/{token}", self.tenant),
            Subject::Account { account, .. } => write!(f, "{}/account/{account}", self.tenant),
            Subject::Anonymous => write!(f, "{}/anonymous", self.tenant),
        }
    }
}

/// What relations are about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Object {
    /// All of a tenant.
    Tenant(TenantId),
    /// A home and the devices in it.
    Home(TenantId, HomeId),
    /// One device, in one ownership epoch.
    Device(TenantId, DeviceId, OwnershipEpoch),
    /// The topics outside the device trees.
    Topics(TenantId),
}

/// How a subject stands to an object. Each includes what is written after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Relation {
    /// Of a tenant: everything in it. Includes [`Operator`](Self::Operator).
    Admin,
    /// Of a tenant: devices and commands, but no credentials. Includes [`Viewer`](Self::Viewer).
    Operator,
    /// Of a tenant: reads devices and telemetry.
    Viewer,
    /// Of a device: is that device.
    Itself,
    /// Of a home: it is theirs, with the devices that are bound to it. Includes [`Manager`](Self::Manager).
    Owner,
    /// Of a home: invites and removes members and guests, and binds devices. Includes [`Member`](Self::Member).
    Manager,
    /// Of a home: uses everything in it and sees its history. Includes [`Guest`](Self::Guest).
    Member,
    /// Of a home: sees the present state of its devices and controls them.
    Guest,
    /// Of topics: publishes and subscribes.
    User,
}

/// `object#relation`, for the principal whose grants these are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// About what.
    pub object: Object,
    /// How.
    pub relation: Relation,
    /// Until when.
    pub expires: Option<Timestamp>,
}

/// All that a principal was granted, as of a revision of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grants {
    /// As of when.
    pub revision: Revision,
    /// In no order.
    pub tuples: Arc<[Tuple]>,
}

impl Grants {
    /// One grant without an end.
    pub fn of(object: Object, relation: Relation) -> Self {
        Self { revision: Revision::default(), tuples: [Tuple { object, relation, expires: None }].into() }
    }
}

/// Something that can be permitted. Every route and every topic names one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Permission {
    /// See products, devices, homes and whether devices are connected.
    ReadDevice,
    /// See the present state of a device: its twin and newest values.
    ReadState,
    /// Query and subscribe to what devices report.
    ReadTelemetry,
    /// Send commands and `down/custom`.
    Control,
    /// Create products and homes, import units, move devices, revoke keys.
    ManageDevices,
    /// Issue and revoke tokens and claim tokens.
    ManageCredentials,
    /// Make people of the vendor out of accounts, and end that.
    ManageAccounts,
    /// Upload releases and roll them out.
    ManageReleases,
    /// Register and remove webhooks.
    ManageWebhooks,
    /// Limit what products, devices and users take.
    ManageQuotas,
    /// See a home's name and members.
    ReadHome,
    /// Rename a home, invite members and guests and remove them.
    ManageHome,
    /// Bind a device to a home.
    Bind,
    /// Unbind devices, decide about managers, transfer or dissolve the home.
    OwnHome,
    /// Read the audit log.
    ReadAudit,
    /// Publish what a device reports, as that device.
    Report,
    /// Receive what is meant for a device, as that device.
    Obey,
    /// Publish outside the device trees.
    Publish,
    /// Subscribe outside the device trees.
    Subscribe,
}

impl Permission {
    /// Every permission, for tables and tests.
    pub const ALL: [Self; 19] = [
        Self::ReadDevice,
        Self::ReadState,
        Self::ReadTelemetry,
        Self::Control,
        Self::ManageDevices,
        Self::ManageCredentials,
        Self::ManageAccounts,
        Self::ManageReleases,
        Self::ManageWebhooks,
        Self::ManageQuotas,
        Self::ReadHome,
        Self::ManageHome,
        Self::Bind,
        Self::OwnHome,
        Self::ReadAudit,
        Self::Report,
        Self::Obey,
        Self::Publish,
        Self::Subscribe,
    ];
}

/// What a permission is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Whose.
    pub tenant: TenantId,
    /// A device with its present epoch, if it is about one.
    pub device: Option<(DeviceId, OwnershipEpoch)>,
    /// The home in which that device stands, or the home itself.
    pub home: Option<HomeId>,
}

impl Resource {
    /// The tenant as a whole.
    pub fn tenant(tenant: &TenantId) -> Self {
        Self { tenant: tenant.clone(), device: None, home: None }
    }

    /// A home.
    pub fn home(tenant: &TenantId, home: &HomeId) -> Self {
        Self { tenant: tenant.clone(), device: None, home: Some(home.clone()) }
    }

    /// A device.
    pub fn device(device: &crate::device::Device) -> Self {
        Self {
            tenant: device.tenant.clone(),
            device: Some((device.id.clone(), device.epoch)),
            home: device.home.clone(),
        }
    }
}

/// An answer with its reason.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Yes or no.
    pub allow: bool,
    /// Why.
    pub reason: Reason,
}

/// Why a decision fell as it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// This relation permits it.
    Granted(Relation),
    /// Relations to the object exist, but none permits this.
    NotPermitted,
    /// A relation that would permit it has ended.
    Expired,
    /// No relation to the object exists.
    NoRelation,
}

/// Decides. Pure: the same answer for HTTP, MQTT and logic. Time is the only other input.
pub fn check(grants: &Grants, permission: Permission, resource: &Resource, now: Timestamp) -> Decision {
    let mut reason = Reason::NoRelation;
    for tuple in grants.tuples.iter().filter(|tuple| covers(&tuple.object, resource)) {
        if !permits(tuple.relation, permission) {
            if reason == Reason::NoRelation {
                reason = Reason::NotPermitted;
            }
        } else if tuple.expires.is_some_and(|at| at <= now) {
            reason = Reason::Expired;
        } else {
            return Decision { allow: true, reason: Reason::Granted(tuple.relation) };
        }
    }
    Decision { allow: false, reason }
}

fn covers(object: &Object, resource: &Resource) -> bool {
    match object {
        Object::Tenant(tenant) => *tenant == resource.tenant,
        Object::Topics(tenant) => *tenant == resource.tenant && resource.device.is_none() && resource.home.is_none(),
        Object::Home(tenant, home) => *tenant == resource.tenant && resource.home.as_ref() == Some(home),
        Object::Device(tenant, device, epoch) => {
            *tenant == resource.tenant && resource.device.as_ref().is_some_and(|(d, e)| d == device && e == epoch)
        }
    }
}

fn permits(relation: Relation, permission: Permission) -> bool {
    use Permission as P;
    match relation {
        Relation::Admin => !matches!(permission, P::Report | P::Obey | P::Bind | P::OwnHome),
        Relation::Operator => {
            matches!(permission, P::Control | P::ManageDevices | P::ManageReleases | P::Publish)
                || permits(Relation::Viewer, permission)
        }
        Relation::Viewer => {
            matches!(permission, P::ReadDevice | P::ReadState | P::ReadTelemetry | P::ReadHome | P::Subscribe)
        }
        Relation::Itself => matches!(permission, P::Report | P::Obey),
        Relation::Owner => permission == P::OwnHome || permits(Relation::Manager, permission),
        Relation::Manager => {
            matches!(permission, P::ManageHome | P::Bind | P::ManageWebhooks) || permits(Relation::Member, permission)
        }
        Relation::Member => {
            matches!(permission, P::ReadTelemetry | P::ReadHome) || permits(Relation::Guest, permission)
        }
        Relation::Guest => matches!(permission, P::ReadDevice | P::ReadState | P::Control),
        Relation::User => matches!(permission, P::Publish | P::Subscribe),
    }
}

/// What someone shows to prove who they are.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Proof {
    /// The end-entity certificate (DER) of a TLS handshake, full or resumed, whose chain was verified.
    Certificate(Vec<u8>),
    /// An API token.
    Token(Secret),
    /// Nothing.
    Nothing,
}

/// A request to be let in.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The proof.
    pub proof: Proof,
    /// The MQTT client identifier; `None` over HTTP, empty if the client leaves the choice to the node.
    pub client_id: Option<String>,
    /// From where.
    pub peer: SocketAddr,
    /// Whether the connection is encrypted. Without it tokens are accepted from loopback peers only.
    pub encrypted: bool,
    /// Whether the listener lets clients in that show nothing.
    pub anonymous_allowed: bool,
}

/// The answer to [`Credentials`].
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authentication {
    /// Let in.
    Accepted(Principal, Grants),
    /// Not let in.
    Refused(Refusal),
}

/// Why someone is not let in. The words go to the log and the audit, not to the peer, who only learns "refused".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// Nothing was shown where something must be.
    NoCredential,
    /// The key or token is not known, or its text is malformed.
    Unknown,
    /// It was revoked, has expired, or its device is retired.
    Revoked,
    /// A valid credential with the client identifier of somebody else.
    ClientId,
    /// A token over an unencrypted connection from elsewhere.
    Unencrypted,
}

impl Refusal {
    /// Stable, `snake_case`.
    pub fn code(self) -> &'static str {
        match self {
            Self::NoCredential => "no_credential",
            Self::Unknown => "unknown_credential",
            Self::Revoked => "revoked",
            Self::ClientId => "client_id_of_another",
            Self::Unencrypted => "unencrypted",
        }
    }
}

/// Authentication as a node and an HTTP face hold it. An error means that it could not be decided: try again.
pub type BoxAuthenticator = tower::util::BoxCloneSyncService<Credentials, Authentication, crate::logic::BoxError>;

/// Whether a principal still stands.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It does, with these grants.
    Current(Grants),
    /// Its credential was revoked or has expired, or it is gone.
    Revoked,
}

/// The seam to grants.
#[async_trait]
pub trait Access: fmt::Debug + Send + Sync + 'static {
    /// What `principal` may do now. The answer reflects every commit that had returned before the call. Cancelling has
    /// no effect.
    async fn standing(&self, principal: &Principal) -> Result<Standing, StoreError>;

    /// The records that the standing of `principal` is read from: when one of them changes, ask again.
    fn depends_on(&self, principal: &Principal) -> Vec<Key>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::parse(name).unwrap()
    }

    fn lamp(tenant_name: &str, epoch: u64) -> Resource {
        Resource {
            tenant: tenant(tenant_name),
            device: Some((DeviceId::parse("lamp").unwrap(), OwnershipEpoch(epoch))),
            home: None,
        }
    }

    fn allowed(grants: &Grants, resource: &Resource) -> Vec<Permission> {
        let at = Timestamp::EPOCH;
        Permission::ALL.into_iter().filter(|p| check(grants, *p, resource, at).allow).collect()
    }

    #[test]
    fn the_table_of_relations_and_permissions() {
        use Permission as P;
        let of = |relation| Grants::of(Object::Tenant(tenant("t")), relation);
        let viewer = vec![P::ReadDevice, P::ReadState, P::ReadTelemetry, P::ReadHome, P::Subscribe];
        assert_eq!(allowed(&of(Relation::Viewer), &lamp("t", 0)), viewer);
        let added = [P::Control, P::ManageDevices, P::ManageReleases, P::Publish];
        let operator: Vec<_> =
            P::ALL.into_iter().filter(|permission| viewer.contains(permission) || added.contains(permission)).collect();
        assert_eq!(allowed(&of(Relation::Operator), &lamp("t", 0)), operator);
        assert_eq!(allowed(&of(Relation::Admin), &lamp("t", 0)).len(), P::ALL.len() - 4);
        let device = Object::Device(tenant("t"), DeviceId::parse("lamp").unwrap(), OwnershipEpoch(3));
        assert_eq!(allowed(&Grants::of(device.clone(), Relation::Itself), &lamp("t", 3)), vec![P::Report, P::Obey]);
        assert_eq!(allowed(&Grants::of(device, Relation::Itself), &lamp("t", 4)), vec![]);
        let topics = Grants::of(Object::Topics(tenant("t")), Relation::User);
        assert_eq!(allowed(&topics, &Resource::tenant(&tenant("t"))), vec![P::Publish, P::Subscribe]);
        assert_eq!(allowed(&topics, &lamp("t", 0)), vec![]);
    }

    #[test]
    fn another_tenant_is_never_covered() {
        for relation in [Relation::Admin, Relation::Operator, Relation::Viewer] {
            assert_eq!(allowed(&Grants::of(Object::Tenant(tenant("t")), relation), &lamp("u", 0)), vec![]);
        }
    }

    #[test]
    fn a_grant_ends_at_its_end_and_says_so() {
        let mut grants = Grants::of(Object::Tenant(tenant("t")), Relation::Admin);
        grants.tuples = [Tuple { expires: Some(Timestamp::from_millis(10)), ..grants.tuples[0].clone() }].into();
        let ask = |ms| check(&grants, Permission::Control, &lamp("t", 0), Timestamp::from_millis(ms));
        assert!(ask(9).allow);
        assert_eq!(ask(10), Decision { allow: false, reason: Reason::Expired });
    }
}
