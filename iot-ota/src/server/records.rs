//! What is stored.

use iot_core::{
    id::{DeviceId, ProductId, ReleaseId, TenantId},
    store::{BLOB_INDEX, BlobId, Document, IndexKey, Key},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::release::{Digest, Hardware, SignedRelease, Trust, Version};

/// Whose signatures count for the releases of a product.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProductTrust {
    /// Whose.
    pub tenant: TenantId,
    /// Of which product.
    pub product: ProductId,
    /// Keys and threshold.
    pub trust: Trust,
}

impl ProductTrust {
    /// Its key in a store.
    pub fn key_of(tenant: &TenantId, product: &ProductId) -> Key {
        Key::new(Self::KIND, format!("{tenant}/{product}"))
    }
}

impl Document for ProductTrust {
    const KIND: &'static str = "product_trust";
    const FORMAT: u16 = 1;

    fn key(&self) -> Key {
        Self::key_of(&self.tenant, &self.product)
    }

    fn index_keys(&self) -> Vec<IndexKey> {
        vec![]
    }
}

/// How far a release is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ReleaseState {
    /// Its manifest is here, its image is not.
    Uploading,
    /// Its image is here, and is what the manifest says.
    Ready,
    /// For good: no device is offered it, and no link opens its image.
    Withdrawn,
}

/// A release: what counts of its manifest. The signed manifest itself is kept beside it, so that lists stay light.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseRecord {
    /// Whose.
    pub tenant: TenantId,
    /// Which.
    pub id: ReleaseId,
    /// Of which product.
    pub product: ProductId,
    /// Grows with each release of the product.
    pub sequence: u64,
    /// For people.
    pub version: Version,
    /// What it is for.
    pub hardware: Vec<Hardware>,
    /// The size of the image, in bytes.
    pub size_bytes: u64,
    /// Of the image.
    pub sha256: Digest,
    /// Of the manifest's bytes: what devices name the release by.
    pub manifest: Digest,
    /// For people.
    pub notes: String,
    /// From then on it is offered to no device.
    pub expires: Timestamp,
    /// How far it is.
    pub state: ReleaseState,
    /// When its manifest came.
    pub created: Timestamp,
}

impl ReleaseRecord {
    /// Its key in a store.
    pub fn key_of(tenant: &TenantId, id: &ReleaseId) -> Key {
        Key::new(Self::KIND, format!("{tenant}/{id}"))
    }

    /// The value of index `product`.
    pub fn of_product(tenant: &TenantId, product: &ProductId) -> String {
        format!("{tenant}/{product}")
    }

    /// By what its image is kept.
    pub fn image(&self) -> BlobId {
        BlobId::new(*self.sha256.as_bytes())
    }
}

impl Document for ReleaseRecord {
    const KIND: &'static str = "release";
    const FORMAT: u16 = 1;

    fn key(&self) -> Key {
        Self::key_of(&self.tenant, &self.id)
    }

    /// `tenant`; `product`: `<tenant>/<product>`; `sequence` (unique): `<tenant>/<product>/<sequence>`; [`BLOB_INDEX`] unless it
    /// is withdrawn.
    fn index_keys(&self) -> Vec<IndexKey> {
        let product = Self::of_product(&self.tenant, &self.product);
        let image = (self.state != ReleaseState::Withdrawn).then(|| self.image().to_string());
        let mut keys = vec![
            IndexKey::many("tenant", self.tenant.as_str()),
            IndexKey::many("product", &product),
            IndexKey::unique("sequence", &format!("{product}/{}", self.sequence)),
        ];
        keys.extend(image.map(|image| IndexKey::many(BLOB_INDEX, &image)));
        keys
    }
}

/// A release as it was signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SignedRecord {
    pub(super) tenant: TenantId,
    pub(super) release: ReleaseId,
    pub(super) signed: SignedRelease,
}

impl SignedRecord {
    pub(super) fn key_of(tenant: &TenantId, release: &ReleaseId) -> Key {
        Key::new(Self::KIND, format!("{tenant}/{release}"))
    }
}

impl Document for SignedRecord {
    const KIND: &'static str = "signed_release";
    const FORMAT: u16 = 1;

    fn key(&self) -> Key {
        Self::key_of(&self.tenant, &self.release)
    }

    fn index_keys(&self) -> Vec<IndexKey> {
        vec![]
    }
}

/// What a device last said that it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runs {
    /// Whose.
    pub tenant: TenantId,
    /// Which device.
    pub device: DeviceId,
    /// The sequence of its release.
    pub sequence: u64,
    /// The version of its release, for people.
    pub version: Version,
    /// What it is.
    pub hardware: Hardware,
    /// Since when it says so.
    pub since: Timestamp,
}

impl Runs {
    /// Its key in a store.
    pub fn key_of(tenant: &TenantId, device: &DeviceId) -> Key {
        Key::new(Self::KIND, format!("{tenant}/{device}"))
    }
}

impl Document for Runs {
    const KIND: &'static str = "device_runs";
    const FORMAT: u16 = 1;

    fn key(&self) -> Key {
        Self::key_of(&self.tenant, &self.device)
    }

    fn index_keys(&self) -> Vec<IndexKey> {
        vec![]
    }
}
