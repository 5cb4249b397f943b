use iot_core::{
    id::{ProductId, TenantId},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

use super::{Hardware, Image, Refused, Version};

/// The format version that is written. Another one is refused.
pub const FORMAT: u32 = 1;
/// The most hardware revisions of one release.
pub const HARDWARE_MAX: usize = 32;
/// The longest notes, in bytes.
pub const NOTES_BYTES_MAX: usize = 2048;
/// The largest sequence and security version: the largest whole number that every reader of JSON reads exactly (RFC 8259 §6).
pub const NUMBER_MAX: u64 = (1 << 53) - 1;

/// What is signed: one image, and for whom it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "a field more is another format")]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// Whose product.
    pub tenant: TenantId,
    /// For which product.
    pub product: ProductId,
    /// For people.
    pub version: Version,
    /// Counts the product's releases, from 1. A device never goes back.
    pub sequence: u64,
    /// Raised by a release that mends a hole: a device never takes a smaller one.
    pub security_version: u64,
    /// On which revisions of the hardware it runs; at least one.
    pub hardware: Vec<Hardware>,
    /// What is installed.
    pub image: Image,
    /// For people; may be empty.
    pub notes: String,
    /// When it was made.
    pub created: Timestamp,
    /// From then on no device begins to install it.
    pub expires: Timestamp,
}

/// What a release is measured against.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::exhaustive_structs, reason = "whoever checks a release must say all of it")]
pub struct Target<'a> {
    /// The device's tenant.
    pub tenant: &'a TenantId,
    /// The device's product.
    pub product: &'a ProductId,
    /// The device's hardware.
    pub hardware: &'a Hardware,
    /// The highest sequence that the device has confirmed.
    pub sequence: u64,
    /// The highest security version that the device has confirmed.
    pub security_version: u64,
    /// The size of the slot, in bytes.
    pub slot_bytes: u64,
    /// The time, as well as it is known.
    pub now: Timestamp,
}

impl Manifest {
    /// Whether it may be installed there now. Says nothing about who made it: that is [`verify`](super::verify).
    pub fn fits(&self, target: &Target<'_>) -> Result<(), Refused> {
        if (&self.tenant, &self.product) != (target.tenant, target.product) {
            return Err(Refused::Product);
        }
        if !self.hardware.contains(target.hardware) {
            return Err(Refused::Hardware);
        }
        if self.sequence < target.sequence || self.security_version < target.security_version {
            return Err(Refused::Rollback);
        }
        if self.sequence == target.sequence {
            return Err(Refused::NotNewer);
        }
        if self.expires <= target.now {
            return Err(Refused::Expired);
        }
        if self.image.size_bytes > target.slot_bytes {
            return Err(Refused::ImageTooLarge { bytes: self.image.size_bytes, bytes_max: target.slot_bytes });
        }
        Ok(())
    }

    /// Whether its fields keep their bounds and agree with each other.
    pub fn check(&self) -> Result<(), Refused> {
        if self.format != FORMAT {
            return Err(Refused::Format(self.format));
        }
        if !(1..=NUMBER_MAX).contains(&self.sequence) || self.security_version > NUMBER_MAX {
            return Err(Refused::Manifest("a sequence is 1 to 2^53 - 1, a security version at most that"));
        }
        if self.hardware.is_empty() || self.hardware.len() > HARDWARE_MAX {
            return Err(Refused::Manifest("there must be 1 to 32 hardware revisions"));
        }
        if self.notes.len() > NOTES_BYTES_MAX || self.notes.chars().any(|c| c.is_control() && c != '\n') {
            return Err(Refused::Manifest("the notes are too long or have control characters"));
        }
        if self.expires <= self.created {
            return Err(Refused::Manifest("it expires before it was made"));
        }
        self.image.check()
    }
}
