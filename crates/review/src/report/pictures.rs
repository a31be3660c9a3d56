//! The held-out pictures of base and tuned policy, and what the evaluator finds in them.

use gavel_core::ids::Digest;
use gavel_core::run::Run;
use gavel_core::work::VerdictRecord;
use gavel_eval::{Evaluator, Facts};

use crate::{Error, RunSource};

/// Every held-out prompt that both policies painted, in order.
pub(super) struct Pictures(pub(super) Vec<Comparison>);

/// One held-out prompt, painted from the same noise by both.
pub(super) struct Comparison {
    pub(super) prompt: String,
    pub(super) base: Picture,
    pub(super) tuned: Picture,
    pub(super) verdict: Option<VerdictRecord>,
}

/// A picture.
pub(super) struct Picture {
    pub(super) png: Vec<u8>,
    /// `None` without an evaluator.
    pub(super) facts: Option<Facts>,
}

impl Pictures {
    /// Reads the pictures from the blobs and evaluates them.
    ///
    /// # Errors
    /// A blob that is gone or no picture, or a prompt that the evaluator does not understand.
    pub(super) async fn read(
        run: &Run,
        source: &dyn RunSource,
        evaluator: Option<&dyn Evaluator>,
    ) -> Result<Self, Error> {
        let results = run.results();
        let mut comparisons = Vec::new();
        for (index, task) in run.assets().held_out.iter().enumerate() {
            let at = |images: &[Option<Digest>]| images.get(index).copied().flatten();
            let (Some(base), Some(tuned)) = (at(&results.base_images), at(&results.tuned_images)) else {
                continue;
            };
            comparisons.push(Comparison {
                prompt: task.words.clone(),
                base: picture(&task.words, base, source, evaluator).await?,
                tuned: picture(&task.words, tuned, source, evaluator).await?,
                verdict: results.comparisons.get(index).cloned().flatten(),
            });
        }
        Ok(Self(comparisons))
    }
}

async fn picture(
    prompt: &str,
    digest: Digest,
    source: &dyn RunSource,
    evaluator: Option<&dyn Evaluator>,
) -> Result<Picture, Error> {
    let png = source.blob(&digest).await?.to_vec();
    let facts = match evaluator {
        Some(evaluator) => {
            let decoded = image::load_from_memory(&png).map_err(|source| Error::Picture { image: digest, source })?;
            Some(evaluator.evaluate(prompt, &decoded.to_rgb8())?)
        }
        None => None,
    };
    Ok(Picture { png, facts })
}
