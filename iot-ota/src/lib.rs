//! Signed releases, rollouts and their delivery to devices.
//!
//! | module | what | feature |
//! |---|---|---|
//! | [`release`] | manifests, signatures, and whether they are believed | |
//! | [`wire`] | what a device and the cloud say to each other | |
//! | [`rollout`] | which devices are offered a release, and when it stops | |
//! | `server` | `Ota`: keeps releases and carries rollouts out | `server` |
//! | `http` | routes for all of it, and downloads by range | `http` |
//! | `device` | the device's end: verifies, loads, tries, confirms or goes back | `device` |

#[cfg(feature = "device")]
pub mod device;
#[cfg(feature = "http")]
pub mod http;
pub mod release;
pub mod rollout;
#[cfg(feature = "server")]
pub mod server;
pub mod wire;
