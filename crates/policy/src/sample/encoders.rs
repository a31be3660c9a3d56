//! What a task's conditioning is made with, named by its files.

use std::io;
use std::path::Path;

use gavel_core::ids::Digest;
use gavel_models::{Family, LoadError, load::fingerprint};
use serde_json::Value;

/// Says how noise levels are chosen; no conditioning depends on it.
const SCHEDULER: &str = "scheduler";

/// Fingerprint of the parts of a pipeline folder beside the denoiser, as `model_index.json` lists them: text encoders and
/// tokenizers, and the autoencoder that encodes source pictures.
///
/// # Errors
/// [`LoadError::Read`], and those of [`fingerprint`].
pub(super) fn encoders(family: Family, dir: &Path) -> Result<Digest, LoadError> {
    let file = dir.join("model_index.json");
    let parse = |text: Vec<u8>| serde_json::from_slice::<Value>(&text).map_err(io::Error::from);
    let read = std::fs::read(&file).and_then(parse);
    let index = read.map_err(|source| LoadError::Read { file, source })?;
    let denoiser = family.denoiser_dir(dir);
    let mut parts = Vec::new();
    for (name, classes) in index.as_object().into_iter().flatten() {
        let part = dir.join(name);
        // A part that the pipeline could have and has not is `[null, null]`.
        if classes[0].is_string() && name != SCHEDULER && part != denoiser && part.is_dir() {
            parts.push(format!("{name} {}\n", fingerprint(&part)?));
        }
    }
    parts.sort();
    Ok(Digest::of(parts.concat().as_bytes()))
}
