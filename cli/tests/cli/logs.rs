//! What the processes of a run write with `--log-format json`: programs read each line, and follow a pair from its pictures to the gradient.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The lines that each process of a run wrote, by the name of its log.
fn logs_of_a_run(folder: &Path) -> BTreeMap<String, Vec<Value>> {
    let run = folder.join("run");
    let output = Command::new(env!("CARGO_BIN_EXE_gavel"))
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .args(["run", "tests/compatibility/small.toml", "--log-format", "json", "--out"])
        .arg(&run)
        .env("XDG_RUNTIME_DIR", folder)
        .env("RUST_LOG", "info,gavel_coordinator=debug,gavel_worker=debug")
        .output()
        .unwrap();
    let own = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{own}");
    let mut logs = BTreeMap::from([("gavel run".to_owned(), lines("gavel run", &own))]);
    for entry in std::fs::read_dir(run.join("logs")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        logs.insert(name.clone(), lines(&name, &text));
    }
    logs
}

fn lines(process: &str, text: &str) -> Vec<Value> {
    let read = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{process}: {error}: {line}"));
        assert!(value.is_object(), "{process}: {line}");
        value
    };
    text.lines().map(read).collect()
}

/// The spans of the lines that say `message`.
fn spans<'a>(lines: &'a [Value], message: &str) -> Vec<&'a Value> {
    let said = lines.iter().filter(|line| line["fields"]["message"] == message);
    said.map(|line| &line["span"]).collect()
}

#[test]
fn every_line_of_every_process_is_json_and_one_trace_goes_from_a_picture_to_its_gradient() {
    let folder = tempfile::tempdir().unwrap();
    let logs = logs_of_a_run(folder.path());
    let names: Vec<&str> = logs.keys().map(String::as_str).collect();
    assert_eq!(names, ["coordinator", "gavel run", "judge-0", "sampler-0", "trainer-0"]);
    // What was done of the first step, by whom, in which trace.
    let mut traces = BTreeMap::new();
    for process in ["sampler-0", "judge-0", "trainer-0"] {
        let done = spans(&logs[process], "unit done");
        assert!(!done.is_empty(), "{process}");
        for span in &done {
            for field in ["run", "unit", "fence", "worker", "trace"] {
                assert!(!span[field].is_null(), "{process} does not say its {field}: {span}");
            }
            assert_eq!(span["run"], "compatibility", "{process}");
        }
        let of_step = done.iter().filter(|span| span["step"] == 1);
        let of_step: BTreeSet<&str> = of_step.map(|span| span["trace"].as_str().unwrap()).collect();
        traces.insert(process, of_step);
    }
    let all: BTreeSet<&str> = traces.values().flatten().copied().collect();
    assert_eq!(all.len(), 1, "{traces:?}");
    let trace = *all.first().unwrap();
    // The coordinator tells of the same trace when it hands a unit out.
    let leased = spans(&logs["coordinator"], "unit leased");
    assert!(leased.iter().any(|span| span["trace"] == trace), "{leased:?}");
    assert!(leased.iter().any(|span| span["trace"] != trace), "{leased:?}");
}

#[test]
fn an_error_is_a_line_of_json_too() {
    let output = Command::new(env!("CARGO_BIN_EXE_gavel"))
        .args(["config", "check", "/none.toml"])
        .env("GAVEL_LOG_FORMAT", "json")
        .output()
        .unwrap();
    let told = lines("gavel", &String::from_utf8(output.stderr).unwrap());
    let [error] = told.as_slice() else { panic!("{told:?}") };
    assert!(error["error"].as_str().unwrap().contains("/none.toml"), "{error}");
}
