//! Files that a command reads or writes by name.

use std::path::{Path, PathBuf};

use gavel_core::text;

use crate::diagnostic::{Context as _, Diagnostic, Result};

/// Reads a text file.
///
/// # Errors
/// The file cannot be read, or is no UTF-8.
pub(crate) fn read_text(file: &Path) -> Result<String> {
    text::of(std::fs::read(file)).with_context(|| format!("{}: cannot read", file.display()))
}

/// Writes a file, creating its folder.
///
/// # Errors
/// The folder or the file cannot be written.
pub(crate) fn write(file: &Path, bytes: &[u8]) -> Result<()> {
    let unwritable = || {
        Diagnostic::new(format!("{}: cannot write", file.display()))
            .with_hint("choose a place that this user may write to")
    };
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).with_context(unwritable)?;
    }
    std::fs::write(file, bytes).with_context(unwritable)
}

/// Writes a file by way of another: a kill leaves the old one or the new one.
///
/// # Errors
/// As [`write()`].
pub(crate) fn write_whole(file: &Path, text: &str) -> Result<()> {
    let part = beside(file, "part");
    write(&part, text.as_bytes())?;
    std::fs::rename(&part, file).with_context(|| format!("{}: cannot write", file.display()))
}

/// `rubric.toml` -> `rubric.toml.journal`.
pub(crate) fn beside(file: &Path, ending: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    PathBuf::from(name)
}
