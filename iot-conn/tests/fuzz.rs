//! What a fuzzer runs, on the corpus that is kept and on bytes of chance: see `iot-conn/fuzz/README.md`.

#[path = "../fuzz/entry/mod.rs"]
mod targets;

use std::{fs, path::Path};

use proptest::collection::vec;
use proptest::prelude::*;

/// Files in the corpus of each target, at least.
const FILES_MIN: usize = 12;

#[track_caller]
#[expect(clippy::print_stdout, reason = "the last file that is named is the one that fails")]
fn run_corpus(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut count = 0;
    for file in fs::read_dir(&folder).expect("the corpus is there") {
        let path = file.expect("it can be listed").path();
        println!("{}", path.display());
        run(&fs::read(&path).expect("it can be read"));
        count += 1;
    }
    assert!(count >= FILES_MIN, "{count} files in {}", folder.display());
}

#[test]
fn the_codec_holds_on_its_corpus() {
    run_corpus("decode", targets::decode);
}

#[test]
fn the_servers_engine_holds_on_its_corpus() {
    run_corpus("server", targets::server);
}

#[test]
fn the_clients_engine_holds_on_its_corpus() {
    run_corpus("client", targets::client);
}

fn cases() -> ProptestConfig {
    let cases = if std::env::var_os("IOT_LONG").is_some() { 20 * 500 } else { 500 };
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn the_codec_holds_on_any_bytes(bytes in vec(any::<u8>(), 0..60)) {
        targets::decode(&bytes);
    }

    #[test]
    fn the_servers_engine_holds_in_any_steps(first in any::<u8>(), bytes in vec(any::<u8>(), 0..400)) {
        targets::server(&[&[first | 2], &bytes[..]].concat());
    }

    #[test]
    fn the_clients_engine_holds_in_any_steps(first in any::<u8>(), bytes in vec(any::<u8>(), 0..400)) {
        targets::client(&[&[first | 2], &bytes[..]].concat());
    }
}
