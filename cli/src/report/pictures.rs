//! The held-out pictures of base and tuned policy, and what the evaluator finds in them.

use gavel_coordinator::blobs::Blobs;
use gavel_core::ids::Digest;
use gavel_core::run::Run;
use gavel_core::work::VerdictRecord;
use gavel_eval::{Evaluator, Facts};

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
    pub(super) async fn read(run: &Run, blobs: &Blobs, evaluator: Option<&dyn Evaluator>) -> anyhow::Result<Self> {
        let results = run.results();
        let mut comparisons = Vec::new();
        for (index, task) in run.assets().held_out.iter().enumerate() {
            let at = |images: &[Option<Digest>]| images.get(index).copied().flatten();
            let (Some(base), Some(tuned)) = (at(&results.base_images), at(&results.tuned_images)) else {
                continue;
            };
            comparisons.push(Comparison {
                prompt: task.words.clone(),
                base: picture(&task.words, base, blobs, evaluator).await?,
                tuned: picture(&task.words, tuned, blobs, evaluator).await?,
                verdict: results.comparisons.get(index).cloned().flatten(),
            });
        }
        Ok(Self(comparisons))
    }
}

async fn picture(
    prompt: &str,
    digest: Digest,
    blobs: &Blobs,
    evaluator: Option<&dyn Evaluator>,
) -> anyhow::Result<Picture> {
    let png = blobs.get(&digest).await?.to_vec();
    let facts = match evaluator {
        Some(evaluator) => Some(evaluator.evaluate(prompt, &image::load_from_memory(&png)?.to_rgb8())?),
        None => None,
    };
    Ok(Picture { png, facts })
}
