//! A release: a manifest that describes one image, and signatures over its exact bytes.
//!
//! The keys that a product's devices pin sign releases, and nothing else does: whoever holds the cloud can offer a release,
//! withhold it or offer an older one, but cannot make one. [`verify`] answers who made it; [`Manifest::fits`] whether it is
//! for this device, now.
//!
//! What is signed is `iot-ota/1 release`, a zero byte and the manifest's bytes, with Ed25519 (RFC 8032). The manifest travels
//! as a text inside the signed release, so that nothing depends on how JSON is written.

mod digest;
mod image;
mod keys;
mod manifest;
mod refused;
mod signed;
#[cfg(test)]
mod tests;
mod text;

pub use digest::Digest;
#[cfg(feature = "device")]
pub(crate) use digest::Hasher;
pub use image::{CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, CHUNKS_MAX, IMAGE_BYTES_MAX, Image, Measure, NotAnImage, measure};
pub use keys::{KEYS_MAX, PublicKey, Signature, SigningKey, Trust, TrustError};
pub use manifest::{FORMAT, HARDWARE_MAX, Manifest, NOTES_BYTES_MAX, NUMBER_MAX, Target};
pub use refused::Refused;
pub use signed::{KeySignature, MANIFEST_BYTES_MAX, SIGNATURES_MAX, SIGNED_BYTES_MAX, SignedRelease, verify};
pub use text::{Hardware, InvalidText, TEXT_BYTES_MAX, Version};
