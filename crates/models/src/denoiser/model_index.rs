//! `model_index.json`: which classes a pipeline folder is made of.

use std::path::Path;

use serde_json::Value;

use crate::LoadError;
use crate::load::read_json;

/// Refuses a folder whose `model_index.json` names another pipeline than one of `pipelines`, or other classes for its `parts`.
/// Returns the pipeline's class.
///
/// # Errors
/// [`LoadError::FolderMissing`]; [`LoadError::Unsupported`] with the key; those of [`read_json`].
pub(crate) fn check_model_index(
    dir: &Path,
    pipelines: &[&str],
    parts: &[(&str, &[&str])],
) -> Result<String, LoadError> {
    if !dir.is_dir() {
        return Err(LoadError::FolderMissing { dir: dir.to_owned() });
    }
    let file = dir.join("model_index.json");
    let index = read_json(&file)?;
    let check = |key: &str, found: &Value, expected: &[&str]| {
        if let Some(found) = found.as_str().filter(|found| expected.contains(found)) {
            return Ok(found.to_owned());
        }
        let expected: Vec<String> = expected.iter().map(|class| format!("`{class}`")).collect();
        Err(LoadError::Unsupported {
            file: file.clone(),
            key: key.to_owned(),
            found: found.to_string(),
            expected: expected.join(" or "),
        })
    };
    let class = check("_class_name", &index["_class_name"], pipelines)?;
    for (part, classes) in parts {
        check(part, &index[part][1], classes)?;
    }
    Ok(class)
}
