//! Tests that have a process of their own: this program once more, with one of its ignored tests.

use std::process::Command;

/// The process of an ignored test, which is called by its path in this program.
pub(crate) fn process(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", test, "--ignored", "--nocapture"]);
    command
}

/// Runs an ignored test with some variables in its environment, which a process cannot change of its own while other tests read it.
pub(crate) fn runs_alone<'a>(test: &str, environment: impl IntoIterator<Item = (&'a str, String)>) {
    let output = process(test).envs(environment).output().expect("a process");
    let [said, told] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    // A name that no test has is no failure to the test harness.
    assert!(said.contains("test result: ok. 1 passed"), "{test}\n{said}\n{told}");
}
