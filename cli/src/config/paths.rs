//! Where the paths of a configuration point.
//!
//! A path in the file is relative to the file's folder. What is not there but in the current folder is still taken, as files
//! of before have it, and said so. Paths of `--set` and of the environment are relative to the current folder.

use std::path::{Component, Path, PathBuf};

use gavel_core::spec::each_path;
use toml::Table;

/// A path that was found relative to the current folder.
#[derive(Debug, PartialEq, Eq)]
struct FoundHere {
    key: String,
    /// The same file, relative to the configuration's folder.
    relative_to_file: PathBuf,
}

/// Rewrites the paths of the file's own table from relative to the file to relative to the current folder, and returns the
/// warning that is due, if one is.
pub(super) fn resolve(table: &mut Table, file: &Path) -> Option<String> {
    let folder = file.parent().unwrap_or(Path::new(""));
    let mut found_here = Vec::new();
    each_path(table, |key, path| match resolve_one(Path::new(path.as_str()), folder) {
        Resolved::BesideTheFile(resolved) => {
            // A path that is no text cannot be written into a configuration; it stays as it was and is not found.
            if let Some(text) = resolved.to_str() {
                text.clone_into(path);
            }
        }
        Resolved::InTheCurrentFolder => found_here.push(FoundHere {
            key: key.to_owned(),
            relative_to_file: relative(Path::new(path.as_str()), folder),
        }),
        Resolved::AsWritten => {}
    });
    (!found_here.is_empty()).then(|| warning(file, &found_here))
}

#[derive(Debug, PartialEq, Eq)]
enum Resolved {
    BesideTheFile(PathBuf),
    InTheCurrentFolder,
    AsWritten,
}

fn resolve_one(path: &Path, folder: &Path) -> Resolved {
    if path.as_os_str().is_empty() || path.is_absolute() {
        return Resolved::AsWritten;
    }
    let beside = folder.join(path);
    if !beside.exists() && path.exists() {
        return Resolved::InTheCurrentFolder;
    }
    Resolved::BesideTheFile(plain(&beside))
}

/// The path without `.` and `a/..`, unless that names another file because `a` is a link.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if matches!(plain.components().next_back(), Some(Component::Normal(_))) => {
                plain.pop();
            }
            component => plain.push(component),
        }
    }
    if plain.as_os_str().is_empty() {
        plain.push(".");
    }
    match (path.canonicalize(), plain.canonicalize()) {
        (Ok(meant), found) if found.as_ref().ok() != Some(&meant) => path.to_owned(),
        _ => plain,
    }
}

/// How `path`, which is relative to the current folder, is written relative to `folder`.
fn relative(path: &Path, folder: &Path) -> PathBuf {
    let absolute = |path: &Path| plain(&std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
    let (path, folder) = (absolute(path), absolute(folder.join("").as_path()));
    let shared = path
        .components()
        .zip(folder.components())
        .take_while(|(a, b)| a == b)
        .count();
    let up = folder.components().skip(shared).map(|_| Component::ParentDir);
    up.chain(path.components().skip(shared)).collect()
}

fn warning(file: &Path, found_here: &[FoundHere]) -> String {
    let mut text = format!(
        "warning: {}: paths in the file are relative to its folder; nothing is there for these, so they were taken from the \
         current folder. Write",
        file.display()
    );
    for found in found_here {
        text += &format!("\n  {} = \"{}\"", found.key, found.relative_to_file.display());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(model: &str, prompts: &str) -> Table {
        format!("[model]\npath = \"{model}\"\n[prompts]\ntrain = \"{prompts}\"")
            .parse()
            .unwrap()
    }

    #[test]
    fn a_path_is_relative_to_the_file_whether_or_not_something_is_there() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("configs")).unwrap();
        std::fs::write(folder.path().join("prompts.txt"), "x").unwrap();
        let file = folder.path().join("configs/run.toml");
        let mut read = table("missing", "../prompts.txt");
        assert_eq!(resolve(&mut read, &file), None);
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        assert_eq!(
            read,
            table(
                &text(folder.path().join("configs/missing")),
                &text(folder.path().join("prompts.txt"))
            )
        );
        let mut absolute = table("/models/flux", "");
        assert_eq!(resolve(&mut absolute, &file), None);
        assert_eq!(absolute, table("/models/flux", ""));
    }

    #[test]
    fn what_is_in_the_current_folder_only_is_taken_with_one_warning() {
        // Tests run in the folder of this crate.
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("run.toml");
        let mut read = table("src", "Cargo.toml");
        let warning = resolve(&mut read, &file).unwrap();
        assert_eq!(read, table("src", "Cargo.toml"));
        assert!(
            warning.starts_with("warning: ") && warning.contains("\n  model.path = \"../"),
            "{warning}"
        );
        assert!(warning.ends_with("/cli/Cargo.toml\""), "{warning}");
        // The advice is right.
        for line in warning.lines().skip(1) {
            let path = line.split('"').nth(1).unwrap();
            assert!(folder.path().canonicalize().unwrap().join(path).exists(), "{path}");
        }
    }

    #[test]
    fn a_path_over_a_link_keeps_its_meaning() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("deep/configs")).unwrap();
        std::fs::write(at("deep/prompts.txt"), "x").unwrap();
        std::os::unix::fs::symlink(at("deep/configs"), at("link")).unwrap();
        let path = at("link/../prompts.txt");
        assert_eq!(plain(&path), path);
        assert_eq!(plain(&at("deep/./configs/../prompts.txt")), at("deep/prompts.txt"));
        assert_eq!(plain(Path::new("a/..")), Path::new("."));
        assert_eq!(plain(Path::new("../../a")), Path::new("../../a"));
    }
}
