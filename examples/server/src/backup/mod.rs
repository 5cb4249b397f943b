//! A copy of the data folder while the server runs, and the way back.
//!
//! ```text
//! DIR/store/control.db, data.db   the stores, each as at one moment
//! DIR/store/postgresql.dump       in their place, if they are in a PostgreSQL database: all of it as at one moment
//! DIR/blobs/<sha-256>             what the records name
//! DIR/…                           keys and certificates, as they lie in the data folder
//! DIR/manifest.json               every file with its size and SHA-256; written last: without it, it is no backup
//! ```

mod files;
mod manifest;
mod restore;
mod take;

pub(crate) use self::{restore::restore, take::take};

use std::path::Path;

use crate::failure::Failure;

const STORE: &str = "store";
const BLOBS: &str = "blobs";
const DUMP: &str = "store/postgresql.dump";

/// Something that could not be done with a file.
fn failed(path: &Path) -> impl Fn(std::io::Error) -> Failure + '_ {
    move |error| Failure::part(format!("{}: {error}", path.display()))
}
