//! The device's side: its key, its claim and where it keeps its identity. No socket, no async.
//!
//! The order matters: a device saves its key **before** it sends the claim. The cloud answers a repeated claim with the
//! same key as it did the first time, so a lost answer is asked for again; a lost key would be a lost unit.
//!
//! ```
//! use iot_auth::device::{ClaimRequest, ClaimResponse, IdentityFolder, State};
//! use iot_core::secret::Secret;
//! # fn send(_: &ClaimRequest) -> Result<ClaimResponse, Box<dyn std::error::Error>> { Err("no cloud here".into()) }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let parent = tempfile::tempdir()?;
//! # let path = parent.path().join("state");
//! let folder = IdentityFolder::open(&path)?;
//! let key = match folder.load()? {
//!     State::Claimed(identity) => return Ok(println!("{}", identity.device_id)),
//!     State::Keyed(key) => key,
//!     State::New => folder.create_key()?,
//! };
//! let request = ClaimRequest::new(&Secret::new("ct_…"), &key, None)?;
//! # if false {
//! let identity = folder.save(&key, send(&request)?)?;
//! # let _ = identity;
//! # }
//! # Ok(())
//! # }
//! ```

mod claim;
mod folder;
mod key;

pub use claim::{ClaimRequest, ClaimResponse};
pub use folder::{Identity, IdentityError, IdentityFolder, State, replace_file};
pub use key::{DeviceKey, InvalidKey};
