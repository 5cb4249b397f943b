//! Under construction.

pub mod router;
