//! Who gets in, and what each may do: encryption, certificates and tokens, by real servers and clients on loopback.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

#[expect(
    dead_code,
    reason = "workers and submitters have credentials here, and start in other ways"
)]
#[path = "../support/mod.rs"]
mod support;

mod authority;
mod browser;
mod encryption;
mod exposure;
mod keys;
mod renewal;
mod tokens;
