//! The program, as tests call it.

use std::path::Path;
use std::process::{Command, Output};

/// The repository's root.
pub(crate) fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The program with these arguments, in the repository's root.
pub(crate) fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gavel"));
    command.current_dir(root()).args(arguments).env_remove("RUST_LOG");
    command
}

/// What the program gives with these arguments.
pub(crate) fn gavel(arguments: &[&str]) -> Output {
    program(arguments).output().unwrap()
}

/// Standard output of a command that must succeed.
pub(crate) fn told(arguments: &[&str]) -> String {
    let output = gavel(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
