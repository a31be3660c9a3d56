//! Where the paths of a configuration point, from whichever folder `gavel` is started.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

fn root() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .canonicalize()
        .unwrap()
}

fn gavel(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gavel"))
        .current_dir(folder)
        .args(arguments)
        .env_remove("RUST_LOG")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The fingerprint that `gavel config check` prints.
fn fingerprint(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    let (_, rest) = stdout.split_once("(spec ").unwrap();
    rest.split(')').next().unwrap().to_owned()
}

#[test]
fn a_configuration_is_the_same_run_from_every_folder() {
    let elsewhere = TempDir::new().unwrap();
    let file = root().join("configs/quickstart.toml");
    let here = gavel(&root(), &["config", "check", "configs/quickstart.toml"]);
    let there = gavel(elsewhere.path(), &["config", "check", file.to_str().unwrap()]);
    let below = gavel(
        &root().join("configs/judge"),
        &["config", "check", "../quickstart.toml"],
    );
    for output in [&here, &there, &below] {
        assert_eq!(text(&output.stderr), "");
        assert_eq!(fingerprint(output), fingerprint(&here));
    }
    let seeded = gavel(
        elsewhere.path(),
        &["config", "check", file.to_str().unwrap(), "--set", "run.seed=1"],
    );
    assert_ne!(fingerprint(&seeded), fingerprint(&here));
}

#[test]
fn paths_of_overrides_are_relative_to_the_current_folder() {
    let elsewhere = TempDir::new().unwrap();
    let file = root().join("configs/quickstart.toml");
    std::fs::write(
        elsewhere.path().join("mine.txt"),
        "a red circle on a white background\n",
    )
    .unwrap();
    let check = |path: &str| {
        let prompts = format!("prompts.train={path}");
        gavel(
            elsewhere.path(),
            &["config", "check", file.to_str().unwrap(), "--set", &prompts],
        )
    };
    let output = check("mine.txt");
    assert!(
        text(&output.stdout).contains("prompts    1, "),
        "{}",
        text(&output.stderr)
    );
    // The file has a path of this spelling; the override means another.
    assert!(!check("quickstart/prompts.txt").status.success());
}

#[test]
fn paths_of_before_are_taken_from_the_current_folder_with_one_warning() {
    let elsewhere = TempDir::new().unwrap();
    let written = std::fs::read_to_string(root().join("configs/quickstart.toml")).unwrap();
    let before = written
        .replace("\"../models/", "\"models/")
        .replace("\"quickstart/", "\"configs/quickstart/")
        .replace("\"judge/", "\"configs/judge/");
    // Below the root, so that what to write is short.
    let file = elsewhere.path().join("run.toml");
    std::fs::write(&file, &before).unwrap();
    let output = gavel(&root(), &["config", "check", file.to_str().unwrap()]);
    let now = gavel(&root(), &["config", "check", "configs/quickstart.toml"]);
    assert_eq!(fingerprint(&output), fingerprint(&now));
    let warning = text(&output.stderr);
    assert_eq!(warning.matches("warning: ").count(), 1, "{warning}");
    assert_eq!(warning.lines().count(), 8, "{warning}");

    // What the warning says to write is right.
    let mut repaired: toml::Table = before.parse().unwrap();
    for line in warning.lines().skip(1) {
        let (key, path) = line.trim().split_once(" = ").unwrap();
        let (section, key) = key.split_once('.').unwrap();
        repaired[section][key] = path.trim_matches('"').into();
    }
    std::fs::write(&file, repaired.to_string()).unwrap();
    let output = gavel(elsewhere.path(), &["config", "check", "run.toml"]);
    assert_eq!(text(&output.stderr), "");
    assert_eq!(fingerprint(&output), fingerprint(&now));

    // From a folder in which nothing is either, the error names where it was looked for.
    std::fs::write(&file, &before).unwrap();
    let output = gavel(elsewhere.path(), &["config", "check", file.to_str().unwrap()]);
    let error = text(&output.stderr);
    let sought = elsewhere.path().join("models/tiny-flux");
    assert!(
        error.contains(&format!("there is no folder {}", sought.display())),
        "{error}"
    );
}

#[test]
fn a_published_recipe_lacks_nothing_but_the_weights_and_a_misspelt_family_is_refused() {
    for recipe in ["flux-dev", "qwen-image-edit"] {
        let output = gavel(&root(), &["config", "check", &format!("configs/{recipe}.toml")]);
        let told = text(&output.stderr);
        assert!(
            told.starts_with("error: `model.path`: there is no folder models/"),
            "{told}"
        );
    }
    let misspelt = [
        "config",
        "check",
        "configs/quickstart.toml",
        "--set",
        "model.family=fluks",
    ];
    let error = text(&gavel(&root(), &misspelt).stderr);
    assert!(
        error.contains("model.family: no model family is called `fluks`, did you mean `flux`; the families are `flux`, `qwen_image`"),
        "{error}"
    );
}

/// What docs/learning.md says of the graded base and of the base that counts stands and falls with this.
#[test]
fn the_mediocre_bases_are_measured_on_captions_that_nothing_is_trained_on() {
    assert_apart("quickstart-graded", (600, 200, 200));
    assert_apart("quickstart-counts", (288, 200, 40));
}

fn assert_apart(name: &str, counts: (usize, usize, usize)) {
    let folder = root().join("configs").join(name);
    let read = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap();
    let trained = read("prompts.txt");
    let trained: BTreeSet<&str> = trained.lines().collect();
    let captions = |file: &str| -> BTreeSet<String> {
        let caption = |line: &str| {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            record["prompt"].as_str().unwrap().to_owned()
        };
        read(file).lines().map(caption).collect()
    };
    let (held_out, tuning) = (captions("held-out.jsonl"), captions("tuning.jsonl"));
    assert_eq!((trained.len(), held_out.len(), tuning.len()), counts);
    assert!(held_out.is_disjoint(&tuning));
    assert!(
        held_out
            .union(&tuning)
            .all(|caption| !trained.contains(caption.as_str()))
    );
}
