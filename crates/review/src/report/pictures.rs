//! The held-out pictures of base and tuned policy, and what the evaluator finds in them.

use gavel_core::ids::{Digest, PromptIndex};
use gavel_core::run::Run;
use gavel_core::work::{Task, VerdictRecord};
use gavel_eval::{Answer, Evaluator};
use gavel_rubric::data::{self, ReadOptions};
use image::RgbImage;
use serde_json::{Map, Value};

use crate::{Error, RunSource};

/// Every held-out prompt that both policies painted, in order.
pub(super) struct Pictures(pub(super) Vec<Comparison>);

/// One held-out prompt, painted from the same noise by both.
pub(super) struct Comparison {
    pub(super) prompt: String,
    /// What is edited; empty where nothing is.
    pub(super) sources: Vec<Picture>,
    /// What the task's file says it should come to.
    pub(super) target: Option<Picture>,
    /// What the task's file says may change.
    pub(super) mask: Option<Picture>,
    /// The other fields that the task has in its file.
    pub(super) fields: Map<String, Value>,
    pub(super) base: Picture,
    pub(super) tuned: Picture,
    pub(super) verdict: Option<VerdictRecord>,
}

/// A picture.
pub(super) struct Picture {
    pub(super) digest: Digest,
    pub(super) png: Vec<u8>,
    /// `None` without an evaluator. A source is answered for as if it were its own edit: the baseline of an editor that
    /// changes nothing; `None` where the evaluator knows no edits.
    pub(super) answer: Option<Answer>,
}

impl Pictures {
    /// Reads the pictures from the blobs and evaluates them.
    ///
    /// # Errors
    /// A blob that is gone or no picture, or a task that the evaluator does not understand.
    pub(super) async fn read(
        run: &Run,
        source: &dyn RunSource,
        evaluator: Option<&dyn Evaluator>,
    ) -> Result<Self, Error> {
        let results = run.results();
        let mut comparisons = Vec::new();
        let assets = run.assets();
        for (index, task) in assets.held_out.iter().enumerate() {
            let at = |images: &[Option<Digest>]| images.get(index).copied().flatten();
            let (Some(base), Some(tuned)) = (at(&results.base_images), at(&results.tuned_images)) else {
                continue;
            };
            let given = assets.annotations.held_out.get(&PromptIndex(index as u32));
            let given = given.cloned().unwrap_or_default();
            let mut comparison = Comparison {
                prompt: task.words.clone(),
                sources: Vec::new(),
                target: Picture::read_optional(given.target, source).await?,
                mask: Picture::read_optional(given.mask, source).await?,
                fields: given.fields,
                base: Picture::read(base, source).await?,
                tuned: Picture::read(tuned, source).await?,
                verdict: results.comparisons.get(index).cloned().flatten(),
            };
            for digest in &task.sources {
                comparison.sources.push(Picture::read(*digest, source).await?);
            }
            if let Some(evaluator) = evaluator {
                comparison.evaluate(task, evaluator)?;
            }
            comparisons.push(comparison);
        }
        Ok(Self(comparisons))
    }
}

impl Comparison {
    fn evaluate(&mut self, task: &Task, evaluator: &dyn Evaluator) -> Result<(), Error> {
        let sources: Vec<RgbImage> = self.sources.iter().map(Picture::decode).collect::<Result<_, _>>()?;
        let asked = gavel_eval::Task {
            words: &task.words,
            sources: &sources,
        };
        for picture in [&mut self.base, &mut self.tuned] {
            picture.answer = Some(evaluator.evaluate(&asked, &picture.decode()?)?);
        }
        let is_edit = self
            .base
            .answer
            .as_ref()
            .is_some_and(|answer| answer.preservation.is_some());
        if is_edit {
            for (picture, decoded) in self.sources.iter_mut().zip(&sources) {
                picture.answer = Some(evaluator.evaluate(&asked, decoded)?);
            }
        }
        Ok(())
    }
}

impl Picture {
    pub(super) async fn read(digest: Digest, source: &dyn RunSource) -> Result<Self, Error> {
        Ok(Self {
            digest,
            png: source.blob(&digest).await?.to_vec(),
            answer: None,
        })
    }

    async fn read_optional(digest: Option<Digest>, source: &dyn RunSource) -> Result<Option<Self>, Error> {
        match digest {
            Some(digest) => Self::read(digest, source).await.map(Some),
            None => Ok(None),
        }
    }

    /// The pixels.
    ///
    /// # Errors
    /// The blob is no picture.
    pub(super) fn decode(&self) -> Result<RgbImage, Error> {
        data::Picture::decode(&self.png, &ReadOptions::painted()).map_err(|fault| Error::Picture {
            image: self.digest,
            source: fault.into(),
        })
    }
}
