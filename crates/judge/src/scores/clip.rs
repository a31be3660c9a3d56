//! Scores by a CLIP in this process.

use std::sync::Arc;

use gavel_core::Diagnostic;
use gavel_core::ids::Digest;
use gavel_core::spec::{ClipSpec, HostedModel};
use gavel_models::ModelError;
use gavel_models::clip::Clip;
use gavel_models::load;
use gavel_rubric::{AskError, Chat, Judge, JudgedPair};

use super::{ScoreJudge, Scorer, writes_nothing};
use crate::Error;
use crate::open::{BackEnd, Models, OpenOptions};

/// How well a picture fits the words of its prompt. The source pictures of an edit are not looked at.
struct ClipScorer {
    name: String,
    fingerprint: Digest,
    model: Arc<Clip>,
}

impl BackEnd for ClipSpec {
    fn fingerprint(&self) -> Result<Digest, Error> {
        Ok(load::fingerprint(&self.path)?)
    }

    fn judge(&self, options: &OpenOptions<'_>, models: &mut Models) -> Result<Box<dyn Judge>, Error> {
        let wanted = HostedModel {
            path: &self.path,
            device: self.device,
            dtype: self.dtype,
        };
        let (fingerprint, model) = models
            .clips
            .get(wanted, |placement| Ok(Clip::load(&self.path, placement)?))?;
        let scorer = ClipScorer {
            name: self.path.display().to_string(),
            fingerprint,
            model,
        };
        Ok(Box::new(ScoreJudge::new(scorer, self.temperature, options.margin)))
    }

    fn chat(&self, _: &mut Models) -> Result<Box<dyn Chat>, Error> {
        Err(writes_nothing())
    }
}

impl Scorer for ClipScorer {
    fn name(&self) -> &str {
        &self.name
    }

    fn identity(&self) -> Digest {
        self.fingerprint
    }

    fn scores(&self, pairs: &[JudgedPair<'_>]) -> Result<Vec<Result<[f64; 2], String>>, AskError> {
        let scores = pairs.iter().map(|pair| {
            let logits = self.model.logits(pair.prompt, &[pair.first, pair.second]);
            match logits.as_deref() {
                Ok([first, second]) => Ok(Ok([*first, *second])),
                Ok(_) => Ok(Err("the model did not give two scores".to_owned())),
                Err(error @ (ModelError::Value { .. } | ModelError::Tokenize(_) | ModelError::NotFinite { .. })) => {
                    Ok(Err(Diagnostic::of(error).to_string()))
                }
                Err(error) => Err(AskError::unanswerable(error)),
            }
        });
        scores.collect()
    }
}
