//! Twins: what a device should be and what it says it is, as two JSON objects with one version.
//!
//! A twin belongs to one ownership epoch of its device: a new owner finds a new one. People and applications write what is
//! desired, the device what it reports; both by merge patches (RFC 7396). The delta is what the device has yet to do.
//!
//! ```
//! use iot_core::{id::{DeviceId, OwnershipEpoch, TenantId}, time::Timestamp, twin::{Twin, TwinLimits, Written}};
//! use serde_json::json;
//!
//! let (limits, now) = (TwinLimits::default(), Timestamp::EPOCH);
//! let mut lamp = Twin::new(TenantId::parse("acme")?, DeviceId::parse("lamp-1")?, OwnershipEpoch(0));
//! let patch = |value: serde_json::Value| value.as_object().cloned().unwrap_or_default();
//! let written = lamp.write_desired(now, "acme/account/ann", patch(json!({"on": true})), None, None, &limits);
//! assert!(matches!(written, Written::Done { version: 1, .. }));
//! assert_eq!(lamp.delta(), patch(json!({"on": true})));
//! let written = lamp.write_reported(now, patch(json!({"on": true})), None, &limits);
//! assert!(matches!(written, Written::Done { version: 2, .. }));
//! assert!(lamp.delta().is_empty());
//! # Ok::<(), iot_core::id::InvalidId>(())
//! ```

mod merge;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use serde::{Deserialize, Serialize};

pub use self::merge::{Object, merge, same};
use crate::{
    device::Device,
    id::{DeviceId, OwnershipEpoch, TenantId},
    store::{Document, IndexKey, Key},
    time::Timestamp,
};

/// The bounds of one twin. A write that would pass one is refused and changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TwinLimits {
    /// The whole record as JSON, times and writers included, in bytes.
    pub bytes_max: usize,
    /// How deep objects and arrays may lie in each other, in each of the two objects.
    pub depth_max: usize,
    /// The members of all objects, desired and reported together.
    pub keys_max: usize,
    /// The longest name of a member, in bytes.
    pub key_bytes_max: usize,
}

impl Default for TwinLimits {
    /// 64 KiB, 32 deep, 512 members, 64 bytes.
    fn default() -> Self {
        Self { bytes_max: 64 * 1024, depth_max: 32, keys_max: 512, key_bytes_max: 64 }
    }
}

/// Who wrote a desired value, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredMeta {
    /// When it was written.
    pub at: Timestamp,
    /// By whom, as [`Principal`](crate::access::Principal) displays.
    pub by: String,
    /// From when on it is not desired any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

/// When a value was reported. The writer is the device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedMeta {
    /// When it was reported last, changed or not.
    pub at: Timestamp,
}

/// The twin of one device in one ownership epoch.
///
/// Leaves are what is no object, and objects without members; `desired_meta` and `reported_meta` have an entry for each, by
/// its JSON pointer (RFC 6901), and no other. An array is one leaf.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Twin {
    /// Whose.
    pub tenant: TenantId,
    /// Of which device.
    pub device: DeviceId,
    /// In which epoch.
    pub epoch: OwnershipEpoch,
    /// 0 at first, one more with each write that changes a value or an expiry, and with each moment at which desired values
    /// expire.
    pub version: u64,
    /// What the device should be.
    pub desired: Object,
    /// What it says it is.
    pub reported: Object,
    /// Of each desired leaf.
    pub desired_meta: BTreeMap<String, DesiredMeta>,
    /// Of each reported leaf.
    pub reported_meta: BTreeMap<String, ReportedMeta>,
}

/// What became of a write.
#[must_use]
#[derive(Debug, Clone, PartialEq)]
pub enum Written {
    /// It changed the twin.
    Done {
        /// The new version.
        version: u64,
        /// What the device has yet to do.
        delta: Object,
    },
    /// All values were there already. The version stays; the times of reported values are new, those of desired ones not.
    Unchanged {
        /// The present version.
        version: u64,
    },
    /// The twin is not at the version that the writer expected. Nothing was changed.
    VersionMismatch {
        /// The present version.
        version: u64,
    },
    /// A limit stands against it. Nothing was changed.
    Refused(TwinRefusal),
}

/// Why a write is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TwinRefusal {
    /// [`TwinLimits::bytes_max`].
    #[error("the twin would be larger than {0} bytes: remove values with null first")]
    TooLarge(usize),
    /// [`TwinLimits::depth_max`].
    #[error("objects and arrays would lie more than {0} deep in each other")]
    TooDeep(usize),
    /// [`TwinLimits::keys_max`].
    #[error("the twin would have more than {0} members: remove some with null first")]
    TooManyKeys(usize),
    /// [`TwinLimits::key_bytes_max`].
    #[error("the names of members have at most {0} bytes")]
    KeyTooLong(usize),
    /// The end of a desired value is not after the time of its writing.
    #[error("the values would have expired already")]
    Expired,
}

impl TwinRefusal {
    /// Stable, for programs.
    pub fn code(self) -> &'static str {
        match self {
            Self::TooLarge(_) => "twin_too_large",
            Self::TooDeep(_) => "twin_too_deep",
            Self::TooManyKeys(_) => "twin_too_many_keys",
            Self::KeyTooLong(_) => "twin_key_too_long",
            Self::Expired => "twin_expired",
        }
    }
}

impl Twin {
    /// An empty one, at version 0.
    pub fn new(tenant: TenantId, device: DeviceId, epoch: OwnershipEpoch) -> Self {
        Self {
            tenant,
            device,
            epoch,
            version: 0,
            desired: Object::new(),
            reported: Object::new(),
            desired_meta: BTreeMap::new(),
            reported_meta: BTreeMap::new(),
        }
    }

    /// The key of a device's twin in its present epoch.
    pub fn key_of(device: &Device) -> Key {
        key(&device.tenant, &device.id, device.epoch)
    }

    /// Merges `patch` into what is desired, for `by`. With `expected_version`, only if the twin is at that version once what has
    /// expired is gone. `expires` holds for the leaves of this patch and replaces what held for them before.
    pub fn write_desired(
        &mut self,
        now: Timestamp,
        by: &str,
        patch: Object,
        expected_version: Option<u64>,
        expires: Option<Timestamp>,
        limits: &TwinLimits,
    ) -> Written {
        if expires.is_some_and(|expires| expires <= now) {
            return Written::Refused(TwinRefusal::Expired);
        }
        self.write(now, expected_version, limits, |twin| {
            let before = std::mem::take(&mut twin.desired);
            let touched = pointers(&patch);
            twin.desired.clone_from(&before);
            merge(&mut twin.desired, patch);
            let (old, new) = (merge::leaves(&before), merge::leaves(&twin.desired));
            let mut meta = std::mem::take(&mut twin.desired_meta);
            let mut changed = old.len() != new.len();
            for (path, value) in &new {
                let differs = old.get(path).is_none_or(|old| !same(old, value));
                let lasts = meta.get(path).is_some_and(|meta| meta.expires == expires) || !touched.contains(path);
                let kept = meta.remove(path).filter(|_| !differs && lasts);
                changed |= kept.is_none();
                let written = || DesiredMeta { at: now, by: by.to_owned(), expires };
                twin.desired_meta.insert(path.clone(), kept.unwrap_or_else(written));
            }
            changed
        })
    }

    /// Merges `patch` into what is reported, for the device itself. A value that it repeats gets a new time.
    pub fn write_reported(
        &mut self,
        now: Timestamp,
        patch: Object,
        expected_version: Option<u64>,
        limits: &TwinLimits,
    ) -> Written {
        self.write(now, expected_version, limits, |twin| {
            let before = std::mem::take(&mut twin.reported);
            let touched = pointers(&patch);
            twin.reported.clone_from(&before);
            merge(&mut twin.reported, patch);
            let (old, new) = (merge::leaves(&before), merge::leaves(&twin.reported));
            let mut meta = std::mem::take(&mut twin.reported_meta);
            let mut changed = old.len() != new.len();
            for (path, value) in &new {
                let differs = old.get(path).is_none_or(|old| !same(old, value));
                let kept = meta.remove(path).filter(|_| !differs && !touched.contains(path));
                changed |= differs;
                twin.reported_meta.insert(path.clone(), kept.unwrap_or(ReportedMeta { at: now }));
            }
            changed
        })
    }

    /// What the device has yet to do: desired leaves that it does not report, or not so; numbers are compared by value. Call
    /// [`expire`](Self::expire) before.
    pub fn delta(&self) -> Object {
        merge::difference(&self.desired, &self.reported)
    }

    /// Removes desired values whose time is over, and objects that become empty by that. The version grows by one for each
    /// moment at which some expired, so that all who look see the same version, however often they looked. Answers whether
    /// anything was removed.
    pub fn expire(&mut self, now: Timestamp) -> bool {
        let due = |meta: &DesiredMeta| meta.expires.filter(|expires| *expires <= now);
        let moments: BTreeSet<_> = self.desired_meta.values().filter_map(due).collect();
        for path in self.desired_meta.extract_if(.., |_, meta| due(meta).is_some()).map(|(path, _)| path) {
            merge::remove(&mut self.desired, &path);
        }
        self.version += moments.len() as u64;
        !moments.is_empty()
    }

    /// Carries `change` out on a copy, which becomes the twin if nothing stands against it.
    fn write(
        &mut self,
        now: Timestamp,
        expected_version: Option<u64>,
        limits: &TwinLimits,
        change: impl FnOnce(&mut Self) -> bool,
    ) -> Written {
        let mut next = self.clone();
        next.expire(now);
        let version = next.version;
        if expected_version.is_some_and(|expected| expected != version) {
            return Written::VersionMismatch { version };
        }
        let changed = change(&mut next);
        next.version += u64::from(changed);
        if let Err(why) = next.check(limits) {
            return Written::Refused(why);
        }
        *self = next;
        match changed {
            true => Written::Done { version: self.version, delta: self.delta() },
            false => Written::Unchanged { version },
        }
    }

    fn check(&self, limits: &TwinLimits) -> Result<(), TwinRefusal> {
        let (mut keys, mut longest) = (0, 0);
        for object in [&self.desired, &self.reported] {
            if merge::depth(object) > limits.depth_max {
                return Err(TwinRefusal::TooDeep(limits.depth_max));
            }
            merge::names(object, &mut |name| {
                keys += 1;
                longest = longest.max(name.len());
            });
        }
        if longest > limits.key_bytes_max {
            return Err(TwinRefusal::KeyTooLong(limits.key_bytes_max));
        }
        if keys > limits.keys_max {
            return Err(TwinRefusal::TooManyKeys(limits.keys_max));
        }
        if self.bytes() > limits.bytes_max {
            return Err(TwinRefusal::TooLarge(limits.bytes_max));
        }
        Ok(())
    }

    /// Its size as a record, as [`TwinLimits::bytes_max`] counts it.
    pub fn bytes(&self) -> usize {
        let mut counted = Counted(0);
        serde_json::to_writer(&mut counted, self).map_or(usize::MAX, |()| counted.0)
    }
}

impl Document for Twin {
    const KIND: &'static str = "twin";
    const FORMAT: u16 = 1;

    fn key(&self) -> Key {
        key(&self.tenant, &self.device, self.epoch)
    }

    /// `device`: `<tenant>/<device>`, all of its epochs.
    fn index_keys(&self) -> Vec<IndexKey> {
        vec![IndexKey::many("device", &format!("{}/{}", self.tenant, self.device))]
    }
}

fn key(tenant: &TenantId, device: &DeviceId, epoch: OwnershipEpoch) -> Key {
    Key::new(Twin::KIND, format!("{tenant}/{device}/{}", epoch.0))
}

fn pointers(object: &Object) -> BTreeSet<String> {
    merge::leaves(object).into_keys().collect()
}

/// Counts what is written to it.
struct Counted(usize);

impl io::Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
