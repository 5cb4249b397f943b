//! Backplanes between nodes. One node needs none: [`InProcess`] carries hints within it.

mod in_process;

pub use in_process::{INBOX_MAX, InProcess};
