//! Signed releases, rollouts and their delivery to devices.
//!
//! Not a build system and not a boot loader: it takes an image as bytes, and asks the device's boot loader for three things
//! (try this slot, keep it, go back). Not TUF either: one signed manifest per release, with keys that devices pin from the
//! factory; there is no delegation and no rotation of those keys but by a release that brings new ones.
//!
//! ```text
//!   maker's keys ── sign ──▶ signed release ──▶ cloud ── offer ──▶ device: signatures, product, hardware, sequence, end
//!                                                 ◀── hello, report ──       │
//!   image ─────────────────────────────────────▶ cloud ◀── ranges ──── chunks, each as signed
//! ```
//!
//! | module | what | feature |
//! |---|---|---|
//! | [`release`] | manifests, signatures, and whether they are believed | |
//! | [`wire`] | what a device and the cloud say to each other | |
//! | [`rollout`] | which devices are offered a release, and when it stops | |
//! | `server` | `Ota`: keeps releases and carries rollouts out | `server` |
//! | `http` | routes for all of it, and downloads by range | `http` |
//! | `device` | the device's end: what it takes, loads, tries and takes back | `device` |
//!
//! A release is signed, offered, loaded, tried and kept:
//!
//! ```
//! use std::time::Duration;
//! use iot_core::{id::{ProductId, RolloutId, TenantId}, time::{Monotonic, Timestamp}};
//! use iot_ota::release::{CHUNK_BYTES_MIN, FORMAT, Hardware, Image, Manifest, SignedRelease, SigningKey, Trust, Version};
//! use iot_ota::release::verify;
//!
//! // The maker: describes the image and signs. (A real seed is 32 random bytes that never leave the maker.)
//! let key = SigningKey::from_seed(&[7; 32]).unwrap();
//! let image = vec![42; 5000];
//! let now = Timestamp::from_millis(1_800_000_000_000);
//! let manifest = Manifest {
//!     format: FORMAT,
//!     tenant: TenantId::parse("acme")?,
//!     product: ProductId::parse("lamp")?,
//!     version: Version::parse("2.0.0")?,
//!     sequence: 2,
//!     security_version: 1,
//!     hardware: vec![Hardware::parse("r1")?],
//!     image: Image::of(&image, CHUNK_BYTES_MIN)?,
//!     notes: "Brighter.".into(),
//!     created: now,
//!     expires: now.plus(Duration::from_secs(30 * 86_400)),
//! };
//! let release = SignedRelease::sign(&manifest, &[&key])?;
//!
//! // Whoever pins the key: believes it.
//! let trust = Trust::new(1, vec![key.public()])?;
//! assert_eq!(verify(&trust, &release)?, manifest);
//!
//! # #[cfg(feature = "device")] {
//! use iot_ota::device::{Action, Identity, Limits, Now, Offered, Running, Slot, Updater};
//! use iot_ota::wire::{Offer, ReportState};
//!
//! // The device: takes the offer, loads the image into the slot that does not run, and starts it.
//! let factory = Running { version: Version::parse("1.0.0")?, sequence: 1, security_version: 1, manifest: None };
//! let (tenant, product) = (manifest.tenant.clone(), manifest.product.clone());
//! let identity = Identity { tenant, product, hardware: Hardware::parse("r1")?, factory, slot_bytes: 1 << 20 };
//! let now = Now { time: now, uptime: Monotonic::ZERO };
//! let url = "https://cloud.example/image".to_owned();
//! let offer = Offer { rollout: RolloutId::parse("spring")?, release, url, expires: manifest.expires };
//!
//! let mut updater = Updater::new(identity, trust, Limits::default(), None);
//! updater.booted(now, Slot::A);
//! assert_eq!(updater.offer(now, &offer), Offered::Accepted);
//! let (mut flash, mut reports) = (vec![0; 1 << 20], Vec::new());
//! while let Some(action) = updater.poll_action() {
//!     // A real device stores `updater.state()` here.
//!     match action {
//!         Action::Read { chunk, range, .. } => {
//!             updater.stored(now, chunk, &flash[range.start as usize..range.end as usize]);
//!         }
//!         Action::Fetch { chunk, range, .. } => {
//!             updater.chunk(now, chunk, image[range.start as usize..range.end as usize].to_vec());
//!         }
//!         Action::Write { offset, bytes, .. } => {
//!             flash[offset as usize..offset as usize + bytes.len()].copy_from_slice(&bytes);
//!             updater.written(now);
//!         }
//!         Action::Activate { slot } => {
//!             updater.booted(now, slot);
//!             updater.health(now, true);
//!         }
//!         Action::Confirm { .. } => updater.confirmed(),
//!         Action::Report(report) => reports.push(report.state),
//!         other => unreachable!("{other:?}"),
//!     }
//! }
//! assert!(flash.starts_with(&image));
//! assert_eq!(updater.hello().version.as_str(), "2.0.0");
//! assert_eq!(reports.last(), Some(&ReportState::Confirmed));
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(feature = "device")]
pub mod device;
#[cfg(feature = "http")]
pub mod http;
pub mod release;
pub mod rollout;
#[cfg(feature = "server")]
pub mod server;
pub mod wire;
