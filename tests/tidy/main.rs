//! Holds the invariants of ARCHITECTURE.md: what may depend on what, where things may live, what every source file keeps to.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod crates;
mod files;
mod sources;
mod words;

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A file of the repository.
struct SourceFile {
    /// Its path from the repository's root, with `/`.
    path: String,
    text: String,
}

impl SourceFile {
    /// Whether it is compiled only for tests and measurements: it lies in a folder of these, or is named `tests.rs`.
    fn is_test(&self) -> bool {
        self.path
            .split('/')
            .any(|part| matches!(part, "tests" | "benches" | "simulation" | "tests.rs"))
    }

    /// The lines, with their numbers, of what is compiled for users: without the test module at a file's end.
    fn shipped_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let shipped = if self.is_test() { "" } else { self.text.as_str() };
        let shipped = shipped.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        shipped.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// `path:line` of each line of shipped code, comments aside, in which the test finds something.
    fn code_lines_where(&self, is_found: impl Fn(&str) -> bool) -> Vec<String> {
        self.shipped_lines()
            .filter(|(_, line)| !line.trim_start().starts_with("//") && is_found(line))
            .map(|(number, line)| format!("{}:{number}: {}", self.path, line.trim()))
            .collect()
    }
}

/// Every file of the repository with this ending, build outputs and recorded runs aside.
fn files_ending_in(ending: &str) -> Vec<SourceFile> {
    let root = root();
    let mut files = Vec::new();
    let mut open = vec![root.clone()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).expect("the folder is readable") {
            let path = entry.expect("the entry is readable").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if !["target", "runs", ".git"].contains(&name.as_str()) {
                    open.push(path);
                }
            } else if name.ends_with(ending) {
                files.push(SourceFile {
                    path: path.strip_prefix(&root).expect("below the root").display().to_string(),
                    text: std::fs::read_to_string(&path).expect("the file is UTF-8"),
                });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn rust_files() -> Vec<SourceFile> {
    let files = files_ending_in(".rs");
    let count = files.len();
    assert!(count > 200, "only {count} source files found: the search is broken");
    files
}

/// Whether `word` stands in `line` by itself, not as a part of a longer name.
fn has_word(line: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    line.match_indices(word).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        let after = line[start + word.len()..].chars().next();
        !before.is_some_and(is_name) && !after.is_some_and(is_name)
    })
}

fn assert_none(problems: &[String]) {
    assert!(
        problems.is_empty(),
        "{} problems\n{}",
        problems.len(),
        problems.join("\n")
    );
}
