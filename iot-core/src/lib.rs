//! The vocabulary and the seams of an IoT cloud.
//!
//! Everything that two crates of this workspace must agree on is defined here, and nothing else is: identifiers and
//! topics, the domain's records and pure rules, and the traits behind which backends are swapped. The other crates
//! know `iot-core` and never each other; a `main.rs` joins them.
//!
//! Do not depend on this crate alone to get a server: it opens no socket and no file, and starts no task.
//!
//! | layer | modules |
//! |---|---|
//! | 2: seams | [`store`], [`access`], [`bus`], [`clock`], [`keys`], [`logic`], [`service`], [`push`], [`mail`], [`problem`] |
//! | 1: domain | [`device`], [`home`], [`binding`], [`session`], [`message`], [`command`], [`twin`], [`event`], [`payload`], [`quota`] |
//! | 0: words | [`id`], [`secret`], [`code`], [`topic`], [`time`], [`limits`], [`rate`], [`network`] |
//!
//! ```
//! use iot_core::{access::{Grants, Object, Permission, Relation, Resource, check}, id::TenantId, time::Timestamp};
//!
//! let tenant = TenantId::parse("acme")?;
//! let grants = Grants::of(Object::Tenant(tenant.clone()), Relation::Viewer);
//! let resource = Resource::tenant(&tenant);
//! assert!(check(&grants, Permission::ReadDevice, &resource, Timestamp::EPOCH).allow);
//! assert!(!check(&grants, Permission::Control, &resource, Timestamp::EPOCH).allow);
//! # Ok::<(), iot_core::id::InvalidId>(())
//! ```

pub mod access;
pub mod binding;
pub mod bus;
pub mod clock;
pub mod code;
pub mod command;
pub mod device;
pub mod event;
pub mod home;
pub mod id;
pub mod keys;
pub mod limits;
pub mod logic;
pub mod mail;
pub mod message;
pub mod network;
pub mod payload;
pub mod problem;
pub mod push;
pub mod quota;
pub mod rate;
pub mod secret;
pub mod service;
pub mod session;
pub mod store;
pub mod time;
pub mod topic;
pub mod twin;
