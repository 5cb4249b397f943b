//! Tenants, products and the units they make.

use serde::{Deserialize, Serialize};

use crate::{
    id::{DeviceId, HomeId, OwnershipEpoch, PCode, ProductId, TenantId},
    store::{Document, IndexKey, Key},
    time::Timestamp,
};

/// A vendor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    /// Which.
    pub id: TenantId,
    /// For people.
    pub name: String,
}

impl Document for Tenant {
    const KIND: &'static str = "tenant";
    const FORMAT: u16 = 1;

    fn key(&self) -> Key {
        Key::new(Self::KIND, self.id.as_str())
    }

    fn index_keys(&self) -> Vec<IndexKey> {
        vec![IndexKey::many("all", "")]
    }
}

/// How a node writes to the devices of a product. What devices send is recognised by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// RFC 8259.
    #[default]
    Json,
    /// RFC 8949.
    Cbor,
}

/// A kind of device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Product {
    /// Whose.
    pub tenant: TenantId,
    /// Which.
    pub id: ProductId,
    /// For people.
    pub name: String,
    /// Of payloads towards the device.
    #[serde(default)]
    pub encoding: Encoding,
    /// Its devices come first when many want to connect at once: locks and heaters before lamps.
    #[serde(default)]
    pub critical: bool,
}

impl Product {
    /// One with JSON towards its devices, which are not critical.
    pub fn new(tenant: TenantId, id: ProductId, name: impl Into<String>) -> Self {
        Self { tenant, id, name: name.into(), encoding: Encoding::default(), critical: false }
    }

    /// Its key in a store.
    pub fn key_of(tenant: &TenantId, id: &ProductId) -> Key {
        Key::new(Self::KIND, format!("{tenant}/{id}"))
    }
}

impl Document for Product {
    const KIND: &'static str = "product";
    const FORMAT: u16 = 1;

    fn key(&self) -> Key {
        Self::key_of(&self.tenant, &self.id)
    }

    fn index_keys(&self) -> Vec<IndexKey> {
        vec![IndexKey::many("tenant", self.tenant.as_str())]
    }
}

/// Where a unit is in its life. Binding to an owner comes on top of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Stage {
    /// Imported; it has no key yet.
    Manufactured,
    /// It has claimed a certificate.
    Claimed,
    /// It has connected with that certificate.
    Activated,
    /// Out of service for good: none of its keys is accepted, and none can be claimed.
    Retired,
}

/// Whether a device's key is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum KeyState {
    /// Accepted.
    Active,
    /// Refused for good.
    Revoked,
}

/// A public key of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceKey {
    /// SHA-256 of the SubjectPublicKeyInfo (RFC 5280 §4.1), lower-case hex.
    pub fingerprint: String,
    /// Whether it is accepted.
    pub state: KeyState,
    /// Serial number of the newest certificate for it, lower-case hex.
    pub certificate_serial: String,
    /// End of that certificate.
    pub not_after: Timestamp,
}

/// One unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Whose.
    pub tenant: TenantId,
    /// Of which product.
    pub product: ProductId,
    /// Which.
    pub id: DeviceId,
    /// Printed on the unit.
    pub p_code: PCode,
    /// Where it is in its life.
    pub stage: Stage,
    /// Counts its owners.
    pub epoch: OwnershipEpoch,
    /// Where it stands, if anywhere.
    #[serde(default)]
    pub home: Option<HomeId>,
    /// Newest last; at most [`DEVICE_KEYS_MAX`].
    #[serde(default)]
    pub keys: Vec<DeviceKey>,
    /// When it was imported.
    pub created: Timestamp,
}

/// The most keys that one device's record holds; claiming one more drops the oldest revoked one, or is refused.
pub const DEVICE_KEYS_MAX: usize = 8;

impl Device {
    /// Its key in a store.
    pub fn key_of(tenant: &TenantId, id: &DeviceId) -> Key {
        Key::new(Self::KIND, format!("{tenant}/{id}"))
    }

    /// Whether the key with this fingerprint is accepted.
    pub fn accepts(&self, fingerprint: &str) -> bool {
        self.stage != Stage::Retired
            && self.keys.iter().any(|key| key.fingerprint == fingerprint && key.state == KeyState::Active)
    }
}

impl Document for Device {
    const KIND: &'static str = "device";
    const FORMAT: u16 = 1;

    fn key(&self) -> Key {
        Self::key_of(&self.tenant, &self.id)
    }

    /// `tenant`; `product`: `<tenant>/<product>`; `p_code` (unique): `<tenant>/<P code>`; `key` (unique): a fingerprint;
    /// `home`: `<tenant>/<home>`; `unclaimed`: `<tenant>/<product>` while [`Stage::Manufactured`].
    fn index_keys(&self) -> Vec<IndexKey> {
        let product = format!("{}/{}", self.tenant, self.product);
        let mut keys = vec![
            IndexKey::many("tenant", self.tenant.as_str()),
            IndexKey::many("product", &product),
            IndexKey::unique("p_code", &format!("{}/{}", self.tenant, self.p_code)),
        ];
        keys.extend(self.keys.iter().map(|key| IndexKey::unique("key", &key.fingerprint)));
        keys.extend(self.home.iter().map(|home| IndexKey::many("home", &format!("{}/{home}", self.tenant))));
        keys.extend((self.stage == Stage::Manufactured).then(|| IndexKey::many("unclaimed", &product)));
        keys
    }
}
