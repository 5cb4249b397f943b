//! Signed releases, rollouts and their delivery to devices.

#[cfg(feature = "device")]
pub mod device;
pub mod release;
pub mod wire;
