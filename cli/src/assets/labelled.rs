//! Pairs with a known answer: `{"query": ..., "response": [a, b], "label_rank": [1, 2]}` on each line.

use std::path::Path;

use anyhow::Context as _;
use gavel_core::LabelledPair;
use gavel_core::ids::Digest;
use gavel_core::verdict::Side;
use serde::Deserialize;

use super::read_text;
use crate::fault::Fault;

/// The pairs of a file, and their pictures' bytes.
#[derive(Debug, Default)]
pub(super) struct Labelled {
    pub(super) pairs: Vec<LabelledPair>,
    pub(super) images: Vec<Vec<u8>>,
}

#[derive(Debug, Deserialize)]
struct Line {
    query: String,
    #[serde(
        alias = "responses",
        alias = "images",
        alias = "image_paths",
        alias = "generated_images"
    )]
    response: [String; 2],
    /// 1 is the better one.
    label_rank: [u32; 2],
}

/// Reads a JSON Lines file; picture paths are absolute or relative to it.
///
/// # Errors
/// A line that is no labelled pair, or a picture that cannot be read, with the line's number.
pub(super) fn read(file: &Path) -> anyhow::Result<Labelled> {
    let folder = file.parent().unwrap_or(Path::new(""));
    let mut labelled = Labelled::default();
    for (index, text) in read_text(file)?.lines().enumerate() {
        let place = || format!("{}: line {}", file.display(), index + 1);
        let line: Line = serde_json::from_str(text).with_context(|| {
            Fault::new(format!("{} is no labelled pair", place()))
                .with_hint("write {\"query\": TEXT, \"response\": [PICTURE, PICTURE], \"label_rank\": [1, 2]}, 1 being the better one")
        })?;
        let preferred = match line.label_rank[0].cmp(&line.label_rank[1]) {
            std::cmp::Ordering::Less => Side::First,
            std::cmp::Ordering::Greater => Side::Second,
            std::cmp::Ordering::Equal => {
                return Err(Fault::new(format!("{}: both pictures have the same rank", place()))
                    .with_hint("one of the two must be the better one: `label_rank` [1, 2] or [2, 1]")
                    .into());
            }
        };
        let mut picture = |path: &str| -> anyhow::Result<Digest> {
            let path = folder.join(path);
            let bytes = std::fs::read(&path).with_context(|| format!("{}: cannot read {}", place(), path.display()))?;
            image::load_from_memory(&bytes)
                .with_context(|| format!("{}: {} is no picture", place(), path.display()))?;
            let digest = Digest::of(&bytes);
            labelled.images.push(bytes);
            Ok(digest)
        };
        let (first, second) = (picture(&line.response[0])?, picture(&line.response[1])?);
        labelled.pairs.push(LabelledPair {
            text: line.query,
            first,
            second,
            preferred,
        });
    }
    Ok(labelled)
}
