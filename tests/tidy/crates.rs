//! What each crate may depend on, and what each manifest says.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use crate::{SourceFile, assert_none, files_ending_in, has_word, root, rust_files};

/// More would be more than anybody keeps in mind.
const CRATES_MAX: usize = 17;

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

/// A crate that compiles otherwise with a feature has to hear of it from whoever switches it on: the program for GPUs once did not build,
/// because one crate was not told.
#[test]
fn a_feature_reaches_every_crate_that_has_it() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--no-deps"])
        .current_dir(root())
        .output()
        .expect("cargo metadata starts");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let features = |name: &str| {
        let package = packages.iter().find(|package| package["name"] == name)?;
        package["features"].as_object()
    };
    let mut unheard = Vec::new();
    for package in packages {
        for (feature, switches_on) in package["features"].as_object().expect("features") {
            let switches_on: Vec<&str> = switches_on
                .as_array()
                .expect("a list")
                .iter()
                .filter_map(Value::as_str)
                .collect();
            for dependency in package["dependencies"].as_array().expect("dependencies") {
                let name = dependency["name"].as_str().expect("name");
                let has = features(name).is_some_and(|features| features.contains_key(feature));
                if has && dependency["kind"].is_null() && !switches_on.contains(&format!("{name}/{feature}").as_str()) {
                    unheard.push(format!(
                        "{}: its feature `{feature}` is not passed on to {name}",
                        package["name"]
                    ));
                }
            }
        }
    }
    assert_none(&unheard);
}

/// Crates of others that have other features beside the tests than in a plain build, and are compiled twice for it: below them there is
/// little of ours.
const COMPILED_TWICE: [&str; 5] = ["chrono", "digest v0.10", "object_store", "sqlx ", "sqlx-core"];

/// `cli/src/unified.rs` has the reason. A crate that appears here wants a line there, or in the list above.
#[test]
fn a_plain_build_and_the_tests_share_what_they_compile() {
    let features = |arguments: &[&str]| -> BTreeSet<String> {
        let output = Command::new(env!("CARGO"))
            .args(["tree", "--locked", "--prefix", "none", "--format", "{p} {f}"])
            .args(arguments)
            .current_dir(root())
            .output()
            .expect("cargo tree starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let listed = String::from_utf8(output.stdout).expect("UTF-8");
        listed
            .lines()
            .map(|line| line.trim_end_matches(" (*)"))
            .filter(|line| !line.starts_with("gavel"))
            .map(str::to_owned)
            .collect()
    };
    let plain = features(&["--edges", "normal,build"]);
    let beside_tests = features(&["--workspace", "--edges", "normal,build,dev"]);
    let twice = plain
        .difference(&beside_tests)
        .filter(|line| !COMPILED_TWICE.iter().any(|name| line.starts_with(name)))
        .cloned()
        .collect::<Vec<_>>();
    assert_none(&twice);
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

/// What a crate must not reach, however many crates lie between.
const FORBIDDEN: &[(&str, &str)] = &[
    (
        "gavel-core",
        "tokio tonic candle-core sqlx rayon gavel-proto gavel-models",
    ),
    ("gavel-eval", "tokio tonic candle-core gavel-models"),
    ("gavel-models", "tokio tonic sqlx gavel-proto gavel-worker"),
    ("gavel-rubric", "tokio tonic candle-core gavel-models"),
    ("gavel-judge", "tonic sqlx gavel-worker gavel-coordinator"),
    (
        "gavel-policy",
        "tokio tonic sqlx gavel-proto gavel-worker gavel-coordinator",
    ),
    (
        "gavel-client",
        "candle-core sqlx gavel-models gavel-worker gavel-coordinator",
    ),
    ("gavel-telemetry", "candle-core sqlx gavel-models gavel-coordinator"),
    ("gavel-worker", "candle-core sqlx gavel-models gavel-coordinator"),
    (
        "gavel-loadtest",
        "candle-core sqlx gavel-models gavel-worker gavel-coordinator",
    ),
    ("gavel-coordinator", "candle-core gavel-models gavel-worker"),
    ("gavel-review", "clap indicatif"),
    (
        "gavel-sampler-worker",
        "gavel-judge-worker gavel-trainer-worker gavel-coordinator sqlx",
    ),
    (
        "gavel-judge-worker",
        "gavel-sampler-worker gavel-trainer-worker gavel-coordinator sqlx",
    ),
    (
        "gavel-trainer-worker",
        "gavel-sampler-worker gavel-judge-worker gavel-coordinator sqlx",
    ),
];

#[test]
fn no_room_depends_on_a_room_that_it_must_not_know() {
    let graph = dependencies();
    for (package, strangers) in FORBIDDEN {
        assert!(graph.contains_key(*package), "no package {package} in the workspace");
        let reached = reachable(&graph, package);
        for stranger in strangers.split(' ') {
            assert!(!reached.contains(stranger), "{package} must not depend on {stranger}");
        }
    }
}

/// A manifest of a member.
struct Manifest {
    /// The member's folder, from the repository's root.
    folder: String,
    path: String,
    table: toml::Table,
}

fn manifests() -> Vec<Manifest> {
    files_ending_in("Cargo.toml")
        .into_iter()
        .filter_map(|SourceFile { path, text }| {
            let folder = path.strip_suffix("/Cargo.toml")?.to_owned();
            let table = text.parse().expect("the manifest is TOML");
            Some(Manifest { folder, path, table })
        })
        .collect()
}

impl Manifest {
    fn dependencies(&self, kind: &str) -> impl Iterator<Item = (&String, &toml::Value)> {
        self.table
            .get(kind)
            .and_then(toml::Value::as_table)
            .into_iter()
            .flatten()
    }
}

#[test]
fn the_workspace_stays_small_enough_to_know_by_heart() {
    let manifests = manifests();
    assert!(manifests.len() > 10, "the search is broken");
    assert!(
        manifests.len() <= CRATES_MAX,
        "{} crates: find the one that two of them are",
        manifests.len()
    );
}

#[test]
fn every_manifest_inherits_what_the_workspace_decides() {
    let mut problems = Vec::new();
    for manifest in manifests() {
        let inherits = |value: Option<&toml::Value>| {
            value
                .and_then(|value| value.get("workspace"))
                .and_then(toml::Value::as_bool)
                .unwrap_or(false)
        };
        for key in ["version", "edition", "rust-version", "license", "publish"] {
            if !inherits(manifest.table.get("package").and_then(|package| package.get(key))) {
                problems.push(format!("{}: {key}.workspace = true is missing", manifest.path));
            }
        }
        if !inherits(manifest.table.get("lints")) {
            problems.push(format!("{}: [lints] workspace = true is missing", manifest.path));
        }
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (name, value) in manifest.dependencies(kind) {
                // A crate that turns its own features on for its tests names itself by its path.
                let is_itself = value.get("path").and_then(toml::Value::as_str) == Some(".");
                if !inherits(Some(value)) && !is_itself {
                    problems.push(format!("{}: {name} has a version of its own", manifest.path));
                }
            }
        }
    }
    assert_none(&problems);
}

#[test]
fn every_dependency_is_used() {
    let sources = rust_files();
    let mut problems = Vec::new();
    for manifest in manifests() {
        // Integration tests of the whole may lie elsewhere; the manifest says where.
        let targets: Vec<String> = ["test", "bench"]
            .iter()
            .filter_map(|kind| manifest.table.get(*kind)?.as_array())
            .flatten()
            .filter_map(|target| target.get("path")?.as_str()?.strip_prefix("../"))
            .map(|path| path.trim_end_matches("main.rs").to_owned())
            .collect();
        let own = |source: &&SourceFile| {
            source.path.starts_with(&format!("{}/", manifest.folder))
                || targets.iter().any(|target| source.path.starts_with(target.as_str()))
        };
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (name, _) in manifest.dependencies(kind) {
                let identifier = name.replace('-', "_");
                let is_used = sources.iter().filter(own).any(|source| {
                    (kind != "dependencies" || !source.is_test())
                        && source.text.lines().any(|line| has_word(line, &identifier))
                });
                if !is_used {
                    problems.push(format!("{}: nothing uses {name} of [{kind}]", manifest.path));
                }
            }
        }
    }
    assert_none(&problems);
}

#[test]
fn every_version_that_the_workspace_states_is_used() {
    let text = std::fs::read_to_string(root().join("Cargo.toml")).expect("the manifest is readable");
    let workspace: toml::Table = text.parse().expect("the manifest is TOML");
    let stated = workspace["workspace"]["dependencies"].as_table().expect("dependencies");
    let manifests = manifests();
    let problems: Vec<String> = stated
        .keys()
        .filter(|name| {
            let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
            !manifests.iter().any(|manifest| {
                kinds
                    .iter()
                    .any(|kind| manifest.dependencies(kind).any(|(used, _)| used == *name))
            })
        })
        .map(|name| format!("Cargo.toml: no crate depends on {name}"))
        .collect();
    assert_none(&problems);
}
