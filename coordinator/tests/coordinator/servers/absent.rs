//! What a test does when the server that it needs is not installed.

use std::io::Write as _;

/// Fails where `CI` is set, since CI must have every server; elsewhere says so past the test harness, which would keep what a
/// passing test prints to itself.
pub(crate) fn skip(server: &str, remedy: &str) {
    assert!(
        std::env::var_os("CI").is_none(),
        "{server} is not installed, and CI must not skip: {remedy}"
    );
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // A terminal that is gone cannot be told.
    let _ = writeln!(
        std::io::stderr(),
        "\nSKIPPED {test}: {server} is not installed; {remedy}\n"
    );
}
