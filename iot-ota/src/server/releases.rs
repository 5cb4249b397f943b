//! Trust, and releases from their manifest to their end.

use iot_core::{
    access::Principal,
    device::Product,
    id::{ProductId, ReleaseId},
    store::{Batch, Document, Index, MetaStoreExt, Step},
};

use super::{
    Ota, OtaError,
    records::{ProductTrust, ReleaseRecord, ReleaseState, SignedRecord},
};
use crate::release::{Manifest, Refused, SignedRelease, Trust, verify};

/// The most releases of a product, withdrawn ones included.
pub const RELEASES_MAX: u64 = 1_000;

/// The answer to a change of trust.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrustPut {
    /// There was none.
    Created,
    /// It is now as was asked. Releases that are there already stay; devices verify them by what they trust themselves.
    Replaced,
    /// There is no such product.
    NoSuchProduct,
}

/// The answer to a signed release.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    /// It is kept and waits for its image.
    Done(Box<ReleaseRecord>),
    /// It was given before: the same manifest.
    AlreadyThere(Box<ReleaseRecord>),
    /// It is not one, is not of this tenant, or too few of the product's keys have signed it.
    Refused(Refused),
    /// It has expired already.
    Expired,
    /// There is no such product, or nobody has said whose signatures count for it.
    NoTrust(ProductId),
    /// Another release of the product has this sequence.
    SequenceTaken(u64),
    /// The product has [`RELEASES_MAX`].
    TooMany,
}

/// The answer to a withdrawal.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Withdrawn {
    /// It is withdrawn, or was already.
    Done(Box<ReleaseRecord>),
    /// There is no such release.
    NoSuchRelease,
}

impl Ota {
    /// Sets whose signatures count for a product's releases.
    pub async fn put_trust(&self, by: &Principal, product: &ProductId, trust: Trust) -> Result<TrustPut, OtaError> {
        let trust = ProductTrust { tenant: by.tenant.clone(), product: product.clone(), trust };
        self.settle(|| async {
            let Some(product) = self.meta.find::<Product>(&Product::key_of(&by.tenant, product)).await? else {
                return Ok(Step::Answer(TrustPut::NoSuchProduct));
            };
            let batch = Batch::default().unchanged(&product).audited(self.done(by, "trust_put", &trust.key()));
            Ok(match self.meta.find::<ProductTrust>(&trust.key()).await? {
                Some(former) => Step::Commit(batch.replace(&former, &trust), TrustPut::Replaced),
                None => Step::Commit(batch.create(&trust), TrustPut::Created),
            })
        })
        .await
    }

    /// Whose signatures count for a product's releases.
    pub async fn trust(&self, by: &Principal, product: &ProductId) -> Result<Option<Trust>, OtaError> {
        let found = self.meta.find::<ProductTrust>(&ProductTrust::key_of(&by.tenant, product)).await?;
        Ok(found.map(|stored| stored.document.trust))
    }

    /// Takes a signed release in, if enough of the product's keys have signed it. A refusal for want of signatures is recorded.
    pub async fn create_release(&self, by: &Principal, signed: &SignedRelease) -> Result<Created, OtaError> {
        let said = match signed.read() {
            Ok(said) if said.tenant == by.tenant => said,
            Ok(_) => return self.not_taken(by, Refused::Product).await,
            Err(refused) => return self.not_taken(by, refused).await,
        };
        let Some(trust) = self.trust(by, &said.product).await? else { return Ok(Created::NoTrust(said.product)) };
        let manifest = match verify(&trust, signed) {
            Ok(manifest) => manifest,
            Err(refused) => return self.not_taken(by, refused).await,
        };
        if manifest.expires <= self.now() {
            return Ok(Created::Expired);
        }
        self.settle(|| self.decide_create(by, signed, &manifest)).await
    }

    async fn not_taken(&self, by: &Principal, refused: Refused) -> Result<Created, OtaError> {
        let entry = self.entry(&by.tenant, by, "release_create", ReleaseRecord::KIND);
        self.refused(entry, refused.code()).await?;
        Ok(Created::Refused(refused))
    }

    async fn decide_create(
        &self,
        by: &Principal,
        signed: &SignedRelease,
        manifest: &Manifest,
    ) -> Result<Step<Created>, OtaError> {
        let product = ReleaseRecord::of_product(&by.tenant, &manifest.product);
        let same = format!("{product}/{}", manifest.sequence);
        if let Some(other) = self.meta.find_by::<ReleaseRecord>("sequence", &same).await? {
            return Ok(Step::Answer(match other.document.manifest == signed.digest() {
                true => Created::AlreadyThere(Box::new(other.document)),
                false => Created::SequenceTaken(manifest.sequence),
            }));
        }
        if self.meta.count(&Index::new(ReleaseRecord::KIND, "product", product)).await? >= RELEASES_MAX {
            return Ok(Step::Answer(Created::TooMany));
        }
        let release = ReleaseRecord {
            tenant: by.tenant.clone(),
            id: ReleaseId::parse(&self.new_id()?).map_err(|_| OtaError::Random)?,
            product: manifest.product.clone(),
            sequence: manifest.sequence,
            version: manifest.version.clone(),
            hardware: manifest.hardware.clone(),
            size_bytes: manifest.image.size_bytes,
            sha256: manifest.image.sha256,
            manifest: signed.digest(),
            notes: manifest.notes.clone(),
            expires: manifest.expires,
            state: ReleaseState::Uploading,
            created: self.now(),
        };
        let kept = SignedRecord { tenant: by.tenant.clone(), release: release.id.clone(), signed: signed.clone() };
        let batch = Batch::default().create(&release).create(&kept);
        let batch = batch.audited(self.done(by, "release_create", &release.key()));
        Ok(Step::Commit(batch, Created::Done(Box::new(release))))
    }

    /// The signed release as it was given.
    pub async fn signed(&self, release: &ReleaseRecord) -> Result<SignedRelease, OtaError> {
        let key = SignedRecord::key_of(&release.tenant, &release.id);
        let found = self.meta.find::<SignedRecord>(&key).await?;
        found.map(|stored| stored.document.signed).ok_or_else(|| OtaError::Damaged(format!("{key} is gone")))
    }

    /// Its manifest: what was verified when it came.
    pub(super) async fn manifest(&self, release: &ReleaseRecord) -> Result<Manifest, OtaError> {
        let signed = self.signed(release).await?;
        signed.read().map_err(|refused| OtaError::Damaged(format!("{}: {refused}", release.key())))
    }

    /// A release of a tenant.
    pub async fn release(&self, by: &Principal, id: &ReleaseId) -> Result<Option<ReleaseRecord>, OtaError> {
        Ok(self.meta.find(&ReleaseRecord::key_of(&by.tenant, id)).await?.map(|stored| stored.document))
    }

    /// Withdraws a release for good: it is offered to no device any more, and no link opens its image.
    pub async fn withdraw(&self, by: &Principal, id: &ReleaseId) -> Result<Withdrawn, OtaError> {
        self.settle(|| async {
            let Some(read) = self.meta.find::<ReleaseRecord>(&ReleaseRecord::key_of(&by.tenant, id)).await? else {
                return Ok(Step::Answer(Withdrawn::NoSuchRelease));
            };
            if read.document.state == ReleaseState::Withdrawn {
                return Ok(Step::Answer(Withdrawn::Done(Box::new(read.document))));
            }
            let gone = ReleaseRecord { state: ReleaseState::Withdrawn, ..read.document.clone() };
            let batch = Batch::default().replace(&read, &gone).audited(self.done(by, "release_withdraw", &gone.key()));
            Ok(Step::Commit(batch, Withdrawn::Done(Box::new(gone))))
        })
        .await
    }
}
