//! Where the paths of a configuration point.

use std::path::{Path, PathBuf};

use gavel_core::spec::RunSpec;

/// Paths are relative to the current folder; where nothing is there, to the configuration file's folder.
pub(super) fn resolve(spec: &mut RunSpec, folder: &Path) {
    let mut paths = vec![
        &mut spec.model.path,
        &mut spec.prompts.train,
        &mut spec.judge.path,
        &mut spec.judge.template,
        &mut spec.judge.rubric,
    ];
    for member in &mut spec.judge.members {
        paths.extend([&mut member.path, &mut member.template]);
    }
    paths.extend(spec.judge.reasons.as_mut().map(|reasons| &mut reasons.template));
    paths.extend(&mut spec.prompts.held_out);
    paths.extend(
        spec.evaluation
            .as_mut()
            .and_then(|evaluation| evaluation.labelled.as_mut()),
    );
    for path in paths {
        resolve_one(path, folder);
    }
}

fn resolve_one(path: &mut PathBuf, folder: &Path) {
    let beside = folder.join(&*path);
    if !path.as_os_str().is_empty() && !path.exists() && beside.exists() {
        *path = beside;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_beside_the_file_is_found_and_a_missing_one_stays_as_written() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("prompts.txt"), "x").unwrap();
        let mut path = PathBuf::from("prompts.txt");
        resolve_one(&mut path, folder.path());
        assert_eq!(path, folder.path().join("prompts.txt"));
        let mut missing = PathBuf::from("missing.txt");
        resolve_one(&mut missing, folder.path());
        assert_eq!(missing, Path::new("missing.txt"));
    }
}
