//! Identity of devices, applications and people: registry, certificates, claims, tokens,
//! accounts, and who may do what.
//!
//! Not a directory to sign in to other services with, and not a policy language: a principal is a device with a key of its
//! own, an application with a token or a person with an account, and its grants are relations that
//! `iot_core::access::check` decides by.
//!
//! | module | what | feature |
//! |---|---|---|
//! | `auth` | `Auth`: authenticates, and answers for standing principals | `server` |
//! | `registry` | products, homes, units, claim tokens, claims, revocation | `server` |
//! | `home` | homes, members, invitations | `server` |
//! | `binding` | binding codes for devices, binding, releasing | `server` |
//! | `token` | API tokens and the administrator's one-time password | `server` |
//! | `account` | people: registering, signing in and out, mailed codes, the vendor's own people | `server` |
//! | `mail` | mail to them: a folder; SMTP with feature `smtp` | `server` |
//! | `ca` | the built-in certificate authority | `server` |
//! | `keys` | the key ring in a file | `server` |
//! | `http` | routes for all of it | `http` |
//! | `device` | the device's own side: its key, its certificate, its claim | `device` |

#[cfg(feature = "server")]
pub mod account;
#[cfg(feature = "server")]
pub mod auth;
#[cfg(feature = "server")]
pub mod binding;
#[cfg(feature = "server")]
pub mod ca;
#[cfg(feature = "device")]
pub mod device;
#[cfg(feature = "server")]
mod files;
#[cfg(feature = "server")]
pub mod home;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "server")]
pub mod keys;
#[cfg(feature = "server")]
pub mod mail;
#[cfg(feature = "server")]
pub mod registry;
#[cfg(feature = "server")]
pub mod token;

#[cfg(feature = "server")]
pub use auth::{Auth, AuthError};
#[cfg(feature = "server")]
pub use files::SetupError;
