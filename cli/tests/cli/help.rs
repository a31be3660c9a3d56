//! The help texts, so that a change of the command line is a change of these snapshots.

use std::process::Command;

fn help(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_gavel"))
        .args(arguments)
        .env_remove("GAVEL_COORDINATOR")
        .output()
        .unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_whole_program() {
    insta::assert_snapshot!(help(&["--help"]));
}

#[test]
fn run() {
    insta::assert_snapshot!(help(&["run", "--help"]));
}

#[test]
fn judge_is_a_worker_with_an_address_and_a_tool_with_two_pictures() {
    insta::assert_snapshot!(help(&["judge", "--help"]));
}

#[test]
fn sample() {
    insta::assert_snapshot!(help(&["sample", "--help"]));
}
