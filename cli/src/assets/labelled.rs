//! Pairs with a known answer, as a run needs them.

use std::path::Path;

use gavel_core::LabelledPair;
use gavel_rubric::data::{LabelledSet, Labelling, ReadOptions, Task};

use crate::diagnostic::{Diagnostic, Result};

/// The pairs of a file, and their pictures' bytes.
#[derive(Debug, Default)]
pub(super) struct Labelled {
    pub(super) pairs: Vec<LabelledPair>,
    pub(super) images: Vec<Vec<u8>>,
}

/// Reads a file of labelled pairs; picture paths are absolute or relative to it.
///
/// # Errors
/// A record that is no labelled pair, or a picture that cannot be read; scores and edits, which a run does not measure.
pub(super) fn read(file: &Path) -> Result<Labelled> {
    let set = LabelledSet::read(file, &ReadOptions::local())?;
    if (set.task, set.labelling) != (Task::TextToImage, Labelling::Ranked) {
        return Err(Diagnostic::new(format!(
            "{}: a run measures its judge on ranked pictures of captions",
            file.display()
        ))
        .with_hint("give pairs with `label_rank` and without a base image"));
    }
    let mut labelled = Labelled::default();
    for pair in set.pairs() {
        labelled
            .images
            .extend(pair.pictures.map(|picture| picture.encoded.clone()));
        labelled.pairs.push(LabelledPair {
            text: pair.example.prompt.clone(),
            first: pair.pictures[0].digest,
            second: pair.pictures[1].digest,
            preferred: pair.preferred,
        });
    }
    Ok(labelled)
}
