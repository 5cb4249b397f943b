//! Signed releases, rollouts and their delivery to devices.

pub mod release;
pub mod wire;
