//! Under construction.

#[cfg(feature = "device")]
pub mod device;
