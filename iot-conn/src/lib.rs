//! Under construction.

pub mod mqtt;
