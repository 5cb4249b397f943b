//! What a fuzzer drives: bytes in, a panic if something does not hold. The same functions are run over the corpus by
//! `iot-conn/tests/fuzz.rs`, which includes this file.
//!
//! They use what is public only, so that the crate has nothing for them.

mod client;
mod decode;
mod input;
mod server;
mod wire;

pub(crate) use client::client;
pub(crate) use decode::decode;
pub(crate) use server::server;
