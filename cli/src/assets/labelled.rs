//! Pairs with a known answer, as a run needs them.

use std::path::Path;

use gavel_core::LabelledPair;
use gavel_core::work::Task;
use gavel_rubric::data::{LabelledSet, Labelling, ReadOptions};

use super::Pictures;
use crate::diagnostic::{Diagnostic, Result};

/// Reads a file of labelled pairs, and their pictures into `pictures`; picture paths are absolute or relative to the file.
/// `edits`: the run's family edits source pictures.
///
/// # Errors
/// A record that is no labelled pair, or a picture that cannot be read; scores, and edits where the run edits nothing, which a
/// run does not measure.
pub(super) fn read(file: &Path, edits: bool, pictures: &mut Pictures) -> Result<Vec<LabelledPair>> {
    let set = LabelledSet::read(file, &ReadOptions::local())?;
    let made_from = if edits {
        gavel_rubric::data::Task::Editing
    } else {
        gavel_rubric::data::Task::TextToImage
    };
    if (set.task, set.labelling) != (made_from, Labelling::Ranked) {
        let (fault, hint) = if edits {
            (
                "a run of a family that edits measures its judge on ranked edits",
                "give pairs with `label_rank` and the picture that was edited",
            )
        } else {
            (
                "a run measures its judge on ranked pictures of prompts",
                "give pairs with `label_rank` and without a source picture",
            )
        };
        return Err(Diagnostic::new(format!("{}: {fault}", file.display())).with_hint(hint));
    }
    let pairs = set.pairs().into_iter().map(|pair| {
        let shown = pair.pictures.into_iter().chain(&pair.example.source);
        pictures.extend(shown.map(|picture| (picture.digest, picture.encoded.clone())));
        LabelledPair {
            task: Task {
                words: pair.example.prompt.clone(),
                sources: pair.example.source.iter().map(|source| source.digest).collect(),
            },
            first: pair.pictures[0].digest,
            second: pair.pictures[1].digest,
            preferred: pair.preferred,
        }
    });
    Ok(pairs.collect())
}
