/// Why a release is not installed. The slot that runs was not touched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// Longer than any release; it was not read.
    #[error("the release is longer than {bytes_max} bytes")]
    TooLong {
        /// The bound that it broke, in bytes.
        bytes_max: usize,
    },
    /// Not what a signed release or a manifest looks like: unknown members, missing ones, other types.
    #[error("the release cannot be read: {0}")]
    Malformed(String),
    /// Of another format version.
    #[error("format {0} is not known; update by a release of an older format first")]
    Format(u32),
    /// Its fields contradict each other or their bounds.
    #[error("the manifest is not valid: {0}")]
    Manifest(&'static str),
    /// Fewer trusted keys than needed have signed these bytes.
    #[error("{valid} of {needed} needed signatures are valid")]
    Signatures {
        /// Trusted keys whose signature is valid.
        valid: u8,
        /// The trust's threshold.
        needed: u8,
    },
    /// For another tenant or product.
    #[error("the release is for another product")]
    Product,
    /// Not for this revision of the hardware.
    #[error("the release is not for this hardware")]
    Hardware,
    /// Older than what the device has run, by its sequence or its security version.
    #[error("the release is older than what was installed")]
    Rollback,
    /// Not newer: its sequence is the present one.
    #[error("the release's sequence is the one that runs already")]
    NotNewer,
    /// Its end, or the offer's, has passed.
    #[error("the release or its offer has expired")]
    Expired,
    /// It does not fit into the slot, or no slot.
    #[error("the image has {bytes} bytes, at most {bytes_max} fit")]
    ImageTooLarge {
        /// The image's length, in bytes.
        bytes: u64,
        /// What fits, in bytes.
        bytes_max: u64,
    },
    /// The chunks are as signed and the whole is not: the manifest contradicts itself.
    #[error("the image is not the one that was signed")]
    ImageHash,
    /// It was tried on this device before and was no good.
    #[error("the release was tried on this device and was no good")]
    Reverted,
}

impl Refused {
    /// Stable, `snake_case`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "release_too_long",
            Self::Malformed(_) => "release_malformed",
            Self::Format(_) => "release_format",
            Self::Manifest(_) => "manifest_invalid",
            Self::Signatures { .. } => "signatures_insufficient",
            Self::Product => "wrong_product",
            Self::Hardware => "wrong_hardware",
            Self::Rollback => "rollback",
            Self::NotNewer => "not_newer",
            Self::Expired => "expired",
            Self::ImageTooLarge { .. } => "image_too_large",
            Self::ImageHash => "image_hash",
            Self::Reverted => "reverted_before",
        }
    }
}
