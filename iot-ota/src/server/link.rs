//! Links by which one device loads one image.

use std::{ops::Range, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use iot_core::{
    device::{Device, Stage},
    id::{DeviceId, OwnershipEpoch, ReleaseId, TenantId},
    keys::Purpose,
    store::{BlobError, MetaStoreExt},
    time::Timestamp,
};

use super::{
    Ota, OtaError,
    records::{ReleaseRecord, ReleaseState},
};

/// How long a link is good for. A device asks for a new one when it needs more time, and goes on where it was.
pub const LINK_VALIDITY: Duration = Duration::from_secs(3_600);

/// What a link says: itself the credential, for one device in one ownership epoch, one release, one hour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DownloadLink {
    /// Whose.
    pub tenant: TenantId,
    /// Of which image.
    pub release: ReleaseId,
    /// For whom.
    pub device: DeviceId,
    /// In which of its ownership epochs.
    pub epoch: OwnershipEpoch,
    /// Until when, in whole seconds since 1970.
    pub expires_s: u64,
    /// The keyed code over all of the above.
    pub code: String,
}

impl DownloadLink {
    /// The path and query, without scheme and host.
    pub fn path(&self) -> String {
        let Self { tenant, release, device, epoch, expires_s, code } = self;
        let epoch = epoch.0;
        format!("/v1/firmware/{release}?tenant={tenant}&device={device}&epoch={epoch}&expires={expires_s}&code={code}")
    }

    /// Until when.
    pub fn expires(&self) -> Timestamp {
        Timestamp::from_millis(i64::try_from(self.expires_s).unwrap_or(i64::MAX).saturating_mul(1_000))
    }
}

/// The answer to a link.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// It is good, for this.
    Image(Box<ReleaseRecord>),
    /// It is not. Why is not said: whoever guesses learns nothing.
    Refused,
}

impl Ota {
    /// A link for a device, from now for [`LINK_VALIDITY`].
    pub async fn link(&self, device: &Device, release: &ReleaseId) -> Result<DownloadLink, OtaError> {
        let expires_s = u64::try_from(self.now().plus(LINK_VALIDITY).as_micros() / 1_000_000).unwrap_or(0);
        let mut link = DownloadLink {
            tenant: device.tenant.clone(),
            release: release.clone(),
            device: device.id.clone(),
            epoch: device.epoch,
            expires_s,
            code: String::new(),
        };
        link.code = self.code_of(&link).await?;
        Ok(link)
    }

    /// Opens what a link names, if it is one of ours, its hour is not over, and its device and release are still as they were.
    /// The code is looked at first: a guess costs no look at the store.
    pub async fn open(&self, link: &DownloadLink) -> Result<Opened, OtaError> {
        let code = self.code_of(link).await?;
        if aws_lc_rs::constant_time::verify_slices_are_equal(code.as_bytes(), link.code.as_bytes()).is_err() {
            return Ok(Opened::Refused);
        }
        let now_s = u64::try_from(self.now().as_micros() / 1_000_000).unwrap_or(u64::MAX);
        if now_s >= link.expires_s {
            return Ok(Opened::Refused);
        }
        let device = self.meta.find::<Device>(&Device::key_of(&link.tenant, &link.device)).await?;
        let stands = |device: &Device| device.epoch == link.epoch && device.stage != Stage::Retired;
        if !device.is_some_and(|device| stands(&device.document)) {
            return Ok(Opened::Refused);
        }
        let release = self.meta.find::<ReleaseRecord>(&ReleaseRecord::key_of(&link.tenant, &link.release)).await?;
        Ok(match release {
            Some(release) if release.document.state == ReleaseState::Ready => Opened::Image(Box::new(release.document)),
            _ => Opened::Refused,
        })
    }

    /// The bytes of an image within a range, verified as they come from where they are kept.
    pub async fn read(
        &self,
        release: &ReleaseRecord,
        range: Range<u64>,
    ) -> Result<impl Stream<Item = Result<Bytes, OtaError>> + Send + use<>, OtaError> {
        let image = release.image();
        let found = self.blobs.read(&image, Some(range)).await?;
        let missing = || BlobError::Damaged { backend: "images", id: image, what: "it is not there".to_owned() };
        Ok(found.ok_or_else(missing)?.map(|bytes| bytes.map_err(OtaError::from)))
    }

    /// No part contains a line feed, so that no two links read the same.
    async fn code_of(&self, link: &DownloadLink) -> Result<String, OtaError> {
        let DownloadLink { tenant, release, device, epoch, expires_s, .. } = link;
        let data = format!("{tenant}\n{release}\n{device}\n{}\n{expires_s}", epoch.0);
        Ok(self.keys.code(Purpose::DownloadLink, data.as_bytes()).await?)
    }
}
