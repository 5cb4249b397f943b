#![no_main]

#[allow(dead_code, unused_imports, reason = "each target is one of its functions")]
#[path = "../entry/mod.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::server(data));
