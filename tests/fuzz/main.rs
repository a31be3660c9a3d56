//! What comes from outside, with bytes changed: every reader gives a value or an error, never a panic, and never takes memory by the word of
//! a header.
//!
//! Each target starts from files that are good and changes them a few times: bits, bytes, pieces, and numbers, which become the largest, the
//! smallest and none. The normal run does the same few hundred changes each time. `GAVEL_FUZZ_SECONDS=60 cargo test -p gavel --test fuzz`
//! goes on with others for a minute a target.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod allocation;
mod change;
mod models;
mod records;
mod wire;

use std::time::{Duration, Instant};

use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Changed files of each target in a normal run.
const CASES: u32 = 256;
/// The largest piece of memory that a reader of these small files may ask for.
const BYTES_MAX: usize = 64 << 20;

/// Gives changed versions of the files in `corpus` to `target`.
fn fuzz(corpus: &[Vec<u8>], target: impl Fn(&[u8])) {
    fuzz_cases(CASES, corpus, target);
}

/// As [`fuzz`], for a target that takes long.
fn fuzz_cases(cases: u32, corpus: &[Vec<u8>], target: impl Fn(&[u8])) {
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    let checked = |bytes: Vec<u8>| {
        let largest = allocation::largest_during(|| target(&bytes));
        assert!(largest <= BYTES_MAX, "{largest} bytes were asked for at once");
        Ok(())
    };
    for bytes in corpus {
        target(bytes);
    }
    let run = |mut runner: TestRunner| {
        if let Err(error) = runner.run(&change::changed(corpus), checked) {
            panic!("{error}");
        }
    };
    let Some(time) = time_for_more() else {
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        return run(TestRunner::new_with_rng(config, rng));
    };
    let started = Instant::now();
    while started.elapsed() < time {
        run(TestRunner::new(config.clone()));
    }
}

/// How long each target goes on, where somebody asked for more than the normal run.
fn time_for_more() -> Option<Duration> {
    let seconds = std::env::var("GAVEL_FUZZ_SECONDS").ok()?;
    Some(Duration::from_secs(seconds.parse().unwrap()))
}

/// A file of the repository.
fn file(path: &str) -> Vec<u8> {
    std::fs::read(root().join(path)).unwrap()
}

fn root() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
