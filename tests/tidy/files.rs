//! Where files may lie.

use crate::{assert_none, root, rust_files};

/// A module with children is `x/mod.rs`; `x.rs` beside a folder `x/` would be a second way to say the same.
#[test]
fn a_module_with_children_is_a_folder_with_mod_rs() {
    let problems: Vec<String> = rust_files()
        .iter()
        .filter_map(|file| file.path.strip_suffix(".rs"))
        .filter(|module| root().join(module).is_dir())
        .map(|module| format!("{module}.rs: move it to {module}/mod.rs"))
        .collect();
    assert_none(&problems);
}

#[test]
fn source_files_stay_small_and_finished() {
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
    ];
    let mut problems = Vec::new();
    for file in rust_files() {
        if file.path.starts_with("proto/src/generated/") {
            continue;
        }
        let lines = file.text.lines().count();
        if lines > 800 {
            problems.push(format!("{}: {lines} lines, find the seam", file.path));
        }
        for mark in marks {
            if file.text.contains(mark) {
                problems.push(format!("{}: `{mark}` left behind", file.path));
            }
        }
    }
    assert_none(&problems);
}

/// Whoever looks for a configuration finds no pictures there: these lie in examples/.
#[test]
fn the_folder_of_configurations_holds_toml_and_text() {
    const TEXT: &[&str] = &["toml", "txt", "jsonl"];
    let mut problems = Vec::new();
    let mut open = vec![root().join("configs")];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).expect("the folder is readable") {
            let path = entry.expect("the entry is readable").path();
            let ending = path.extension().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                open.push(path);
            } else if !TEXT.contains(&ending.as_str()) {
                problems.push(path.display().to_string());
            }
        }
    }
    assert_none(&problems);
}

/// The coordinator of Kubernetes could not write to its own volume, which belonged to root.
#[test]
fn pods_and_their_volumes_are_of_the_images_user() {
    let read = |name: &str| std::fs::read_to_string(root().join("deploy").join(name)).expect("the file is readable");
    let image = read("Dockerfile");
    let user = image.lines().find_map(|line| line.strip_prefix("USER "));
    let (user, group) = user.and_then(|user| user.split_once(':')).expect("a user and a group");
    assert!(user.parse::<u32>().is_ok_and(|user| user > 0), "{user} is no number");
    let pods = read("helm/gavel/templates/_helpers.tpl");
    for setting in [format!("runAsUser: {user}"), format!("fsGroup: {group}")] {
        assert!(pods.contains(&setting), "`{setting}` is missing in what all pods have");
    }
}
