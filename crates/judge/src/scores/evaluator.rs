//! Scores by an evaluator's rules.

use gavel_core::ids::Digest;
use gavel_core::spec::EvaluatorSpec;
use gavel_eval::{Answer, EvalError, Evaluator, Task};
use gavel_rubric::{AskError, Chat, Judge, JudgedPair};
use image::RgbImage;

use super::{ScoreJudge, Scorer, writes_nothing};
use crate::Error;
use crate::open::{BackEnd, Models, OpenOptions};

/// Raised when the same rules give other scores, so that no verdict that is kept is taken for one of these.
const RULES_VERSION: u32 = 1;

/// The share of a task's facts that hold in a picture; of an edit, times how much of the rest is as it was.
struct RuleScorer {
    name: String,
    evaluator: Box<dyn Evaluator>,
}

impl BackEnd for EvaluatorSpec {
    fn fingerprint(&self) -> Result<Digest, Error> {
        Ok(RuleScorer::of(self).identity())
    }

    fn judge(&self, options: &OpenOptions<'_>, _: &mut Models) -> Result<Box<dyn Judge>, Error> {
        let scorer = RuleScorer::of(self);
        Ok(Box::new(ScoreJudge::new(scorer, self.temperature, options.margin)))
    }

    fn chat(&self, _: &mut Models) -> Result<Box<dyn Chat>, Error> {
        Err(writes_nothing())
    }
}

impl RuleScorer {
    fn of(spec: &EvaluatorSpec) -> Self {
        let evaluator = gavel_eval::named(spec.evaluator);
        Self {
            name: format!("rules of {}", evaluator.name()),
            evaluator,
        }
    }

    fn score(&self, task: &Task<'_>, image: &RgbImage) -> Result<f64, EvalError> {
        let Answer { facts, preservation } = self.evaluator.evaluate(task, image)?;
        Ok(facts.share() * preservation.unwrap_or(1.0))
    }
}

impl Scorer for RuleScorer {
    fn name(&self) -> &str {
        &self.name
    }

    fn identity(&self) -> Digest {
        Digest::of(format!("evaluator {} {RULES_VERSION}", self.evaluator.name()).as_bytes())
    }

    fn scores(&self, pairs: &[JudgedPair<'_>]) -> Result<Vec<Result<[f64; 2], String>>, AskError> {
        let scores = pairs.iter().map(|pair| {
            let task = Task {
                words: pair.prompt,
                sources: pair.sources,
            };
            let scores = [self.score(&task, pair.first), self.score(&task, pair.second)];
            match scores {
                [Ok(first), Ok(second)] => Ok([first, second]),
                [Err(error), _] | [_, Err(error)] => Err(error.to_string()),
            }
        });
        Ok(scores.collect())
    }
}
