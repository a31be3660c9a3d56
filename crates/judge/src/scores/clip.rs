//! Scores by a CLIP in this process.

use std::sync::Arc;

use gavel_core::Diagnostic;
use gavel_core::ids::Digest;
use gavel_core::spec::{ClipSpec, HostedModel};
use gavel_models::ModelError;
use gavel_models::clip::{AestheticHead, Clip};
use gavel_models::load::{self, Placement};
use gavel_rubric::{AskError, Chat, Judge, JudgedPair};

use super::{ScoreJudge, Scorer, writes_nothing};
use crate::Error;
use crate::open::{BackEnd, Models, OpenOptions};

/// How well a picture fits the words of its prompt, or what a head makes of the picture alone. The source pictures of an edit are not
/// looked at.
struct ClipScorer {
    name: String,
    fingerprint: Digest,
    model: Arc<Clip>,
    head: Option<AestheticHead>,
}

impl ClipScorer {
    fn scores_of(&self, pair: &JudgedPair<'_>) -> Result<[f64; 2], ModelError> {
        let pictures = [pair.first, pair.second];
        let Some(head) = &self.head else {
            let logits = self.model.logits(pair.prompt, &pictures)?;
            return Ok([logits[0], logits[1]]);
        };
        let score = |picture| head.score(&self.model.picture_embedding(picture)?);
        Ok([score(pictures[0])?, score(pictures[1])?])
    }
}

/// The fingerprint of a folder, and of the head in it where there is one.
fn identity(model: Digest, head: Option<Digest>) -> Digest {
    match head {
        Some(head) => Digest::of(format!("{model} {head}").as_bytes()),
        None => model,
    }
}

impl BackEnd for ClipSpec {
    fn fingerprint(&self) -> Result<Digest, Error> {
        let head = self.head.as_ref().map(|head| load::fingerprint(&self.path.join(head)));
        Ok(identity(load::fingerprint(&self.path)?, head.transpose()?))
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
        let (head, head_fingerprint) = match &self.head {
            Some(head) => {
                let dir = self.path.join(head);
                let placement = Placement::open(self.device, self.dtype).map_err(|source| Error::Device {
                    device: self.device.to_string(),
                    source,
                })?;
                let head = AestheticHead::load(&dir, model.width(), &placement)?;
                (Some(head), Some(load::fingerprint(&dir)?))
            }
            None => (None, None),
        };
        let scorer = ClipScorer {
            name: self.path.display().to_string(),
            fingerprint: identity(fingerprint, head_fingerprint),
            model,
            head,
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
        let scores = pairs.iter().map(|pair| match self.scores_of(pair) {
            Ok(scores) => Ok(Ok(scores)),
            Err(error @ (ModelError::Value { .. } | ModelError::Tokenize(_) | ModelError::NotFinite { .. })) => {
                Ok(Err(Diagnostic::of(&error).to_string()))
            }
            Err(error) => Err(AskError::unanswerable(&error)),
        });
        scores.collect()
    }
}
