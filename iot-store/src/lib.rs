//! Backends for the storage seams of `iot-core`, and the suite that every backend passes.
//!
//! Not an abstraction over databases: a backend here implements [`MetaStore`](iot_core::store::MetaStore),
//! [`TelemetryStore`](iot_core::store::TelemetryStore) and [`SessionStore`](iot_core::store::SessionStore), whose docs are
//! the contracts, and nothing more.
//!
//! ```
//! use iot_core::store::Stores;
//! use iot_store::{StoreLimits, memory::Memory};
//!
//! let stores = Stores::new(Memory::new(StoreLimits::default()));
//! # let _ = stores;
//! ```
//!
//! | module | what | feature |
//! |---|---|---|
//! | [`memory`] | everything in memory, gone at the end: the reference model, and a backend for tests | |
//! | `sqlite` | one folder, two files, durable: the embedded default | `sqlite` |
//! | `chunk` | sealed telemetry: the codec of compressed chunks and of rollups | `chunks` |
//! | `postgres` | one database, several processes | `postgres`, `postgres-tls` |
//! | `clickhouse` | telemetry in a ClickHouse server | `clickhouse`, `clickhouse-tls` |
//! | `parquet` | telemetry as a file that other tools read | `parquet` |
//! | `blobs` | large things by their SHA-256, in a folder, in memory or in a cloud | `blobs`; `s3`, `gcs`, `azure` |
//! | [`cache`] | remembers records, never stale: a decorator | |
//! | `faulty` | delays, refuses and loses answers by a seed: a decorator for tests | `faulty` |
//! | `conformance` | the exam | `conformance` |

#[cfg(feature = "blobs")]
pub mod blobs;
pub mod cache;
#[cfg(feature = "chunks")]
pub mod chunk;
#[cfg(feature = "clickhouse")]
pub mod clickhouse;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod codec;
#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "faulty")]
pub mod faulty;
mod limits;
pub mod memory;
#[cfg(feature = "parquet")]
pub mod parquet;
#[cfg(feature = "postgres")]
pub mod postgres;
mod rules;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod sealing;
#[cfg(feature = "sqlite")]
pub mod sqlite;

pub use limits::StoreLimits;
