//! Holds the invariants of ARCHITECTURE.md: what may depend on what, and what every source file keeps to.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Package name -> names of its normal (not build, not dev) dependencies, over the whole lock file.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform"])
        .arg(format!("{}-unknown-linux-gnu", std::env::consts::ARCH))
        .current_dir(root())
        .output()
        .expect("cargo metadata starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let names: BTreeMap<&str, &str> = metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .map(|package| {
            (
                package["id"].as_str().expect("id"),
                package["name"].as_str().expect("name"),
            )
        })
        .collect();
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for node in metadata["resolve"]["nodes"].as_array().expect("nodes") {
        let name = names[node["id"].as_str().expect("id")];
        let entry = graph.entry(name.to_owned()).or_default();
        for dependency in node["deps"].as_array().expect("deps") {
            let normal = dependency["dep_kinds"]
                .as_array()
                .expect("kinds")
                .iter()
                .any(|kind| kind["kind"].is_null());
            if normal {
                entry.insert(names[dependency["pkg"].as_str().expect("pkg")].to_owned());
            }
        }
    }
    graph
}

fn reachable(graph: &BTreeMap<String, BTreeSet<String>>, from: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut open = vec![from.to_owned()];
    while let Some(name) = open.pop() {
        for next in graph.get(&name).into_iter().flatten() {
            if seen.insert(next.clone()) {
                open.push(next.clone());
            }
        }
    }
    seen
}

#[test]
fn no_room_depends_on_a_room_that_it_must_not_know() {
    let graph = dependencies();
    let forbidden: &[(&str, &[&str])] = &[
        (
            "gavel-core",
            &[
                "tokio",
                "tonic",
                "candle-core",
                "sqlx",
                "rayon",
                "gavel-proto",
                "gavel-models",
            ],
        ),
        ("gavel-eval", &["tokio", "tonic", "candle-core", "gavel-models"]),
        (
            "gavel-models",
            &["tokio", "tonic", "sqlx", "gavel-proto", "gavel-worker"],
        ),
        ("gavel-rubric", &["tokio", "tonic", "candle-core", "gavel-models"]),
        ("gavel-judge", &["tonic", "sqlx", "gavel-worker", "gavel-coordinator"]),
        (
            "gavel-worker",
            &["candle-core", "sqlx", "gavel-models", "gavel-coordinator"],
        ),
        (
            "gavel-loadtest",
            &[
                "candle-core",
                "sqlx",
                "gavel-models",
                "gavel-worker",
                "gavel-coordinator",
            ],
        ),
        ("gavel-coordinator", &["candle-core", "gavel-models", "gavel-worker"]),
        ("gavel-review", &["clap", "indicatif"]),
        (
            "gavel-sampler-worker",
            &[
                "gavel-judge-worker",
                "gavel-trainer-worker",
                "gavel-coordinator",
                "sqlx",
            ],
        ),
        (
            "gavel-judge-worker",
            &[
                "gavel-sampler-worker",
                "gavel-trainer-worker",
                "gavel-coordinator",
                "sqlx",
            ],
        ),
        (
            "gavel-trainer-worker",
            &[
                "gavel-sampler-worker",
                "gavel-judge-worker",
                "gavel-coordinator",
                "sqlx",
            ],
        ),
    ];
    for (package, strangers) in forbidden {
        assert!(graph.contains_key(*package), "no package {package} in the workspace");
        let reached = reachable(&graph, package);
        for stranger in *strangers {
            assert!(!reached.contains(*stranger), "{package} must not depend on {stranger}");
        }
    }
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("folder is readable") {
        let path = entry.expect("entry is readable").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !["target", "runs", ".git"].contains(&name.as_str()) {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

#[test]
fn source_files_stay_small_and_finished() {
    let mut files = Vec::new();
    rust_files(&root(), &mut files);
    assert!(
        files.len() > 50,
        "only {} source files found: the search is broken",
        files.len()
    );
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
    ];
    let mut problems = Vec::new();
    for file in &files {
        let text = std::fs::read_to_string(file).expect("source is UTF-8");
        let lines = text.lines().count();
        if lines > 800 {
            problems.push(format!("{}: {lines} lines, find the seam", file.display()));
        }
        for mark in marks {
            if text.contains(mark) {
                problems.push(format!("{}: `{mark}` left behind", file.display()));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn configurations_are_text() {
    let mut open = vec![root().join("configs")];
    let mut others = Vec::new();
    let mut count = 0;
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).expect("folder is readable") {
            let path = entry.expect("entry is readable").path();
            let ending = path.extension().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                open.push(path);
            } else if ["toml", "txt", "jsonl"].contains(&ending.as_str()) {
                count += 1;
            } else {
                others.push(path.display().to_string());
            }
        }
    }
    assert!(count > 10, "only {count} files found: the search is broken");
    assert!(
        others.is_empty(),
        "pictures belong into examples/: {}",
        others.join(", ")
    );
}
