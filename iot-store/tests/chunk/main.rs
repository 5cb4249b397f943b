//! What the codec of sealed telemetry promises.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod damage;
mod reading;
mod refusals;
mod rollups;
mod round_trip;
mod samples;
mod stats;
