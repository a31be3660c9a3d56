//! Made-up outcomes that the state machine accepts: of the right shape, with digests that name no blob.

use gavel_core::ids::{Candidate, Digest, WorkerId};
use gavel_core::work::{Assignment, Outcome, Policy, Sampled, ShardStatistics, Unit};
use gavel_core::work::{Side, Verdict, VerdictRecord};

use crate::synthetic::SyntheticRun;

/// What the outcomes of a run have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Maker {
    rubric: Digest,
    model: Digest,
    terms_per_candidate: u64,
    averages: bool,
}

impl Maker {
    pub(crate) fn new(run: &SyntheticRun) -> Self {
        Self {
            rubric: run.assets.rubric.digest,
            model: Digest::of(b"no model"),
            terms_per_candidate: run.spec.trained_steps().len() as u64,
            averages: run.spec.optimizer.averages(),
        }
    }

    /// An outcome for the unit. The digests tell who made them, so that no two results are alike.
    pub(crate) fn outcome(&self, unit: &Unit, assignment: &Assignment, worker: &WorkerId) -> Outcome {
        let made_up = |what: &str, place: u32| Digest::of(format!("{unit} {what} {place} {worker}").as_bytes());
        match assignment {
            Assignment::Initialise => Outcome::Initialised {
                policy: self.policy(made_up),
                model: self.model,
            },
            Assignment::Sample { policy, prompts, .. } => {
                let samples = prompts.iter().flat_map(|prompt| {
                    [0, 1].map(|candidate| Sampled {
                        prompt: prompt.index,
                        candidate: Candidate(candidate),
                        trajectory: Some(made_up("trajectory", 2 * prompt.index.0 + u32::from(candidate))),
                        image: made_up("image", 2 * prompt.index.0 + u32::from(candidate)),
                    })
                });
                Outcome::Sampled {
                    samples: samples.collect(),
                    manifest: Some(policy.manifest),
                    model: self.model,
                    seconds: 0.0,
                }
            }
            Assignment::EvaluateSample { policy, prompts, .. } => {
                let samples = prompts.iter().map(|prompt| Sampled {
                    prompt: prompt.index,
                    candidate: Candidate(0),
                    trajectory: None,
                    image: made_up("image", prompt.index.0),
                });
                Outcome::Sampled {
                    samples: samples.collect(),
                    manifest: policy.as_ref().map(|policy| policy.manifest),
                    model: self.model,
                    seconds: 0.0,
                }
            }
            Assignment::Judge { pairs } => {
                let verdicts = pairs.iter().map(|pair| VerdictRecord {
                    prompt: pair.prompt,
                    // Every pair is decided: a shard without a decided pair would need no trainer.
                    verdict: Verdict::Preferred { side: Side::First },
                    probability_first: 0.875,
                    order_probabilities: [0.9, 0.85],
                    rubric: self.rubric,
                    votes: Vec::new(),
                    reasons: Vec::new(),
                });
                Outcome::Judged {
                    verdicts: verdicts.collect(),
                    model: self.model,
                    seconds: 0.0,
                }
            }
            Assignment::Gradient { policy, groups, .. } => {
                let candidates: usize = groups.iter().map(|group| group.candidates.len()).sum();
                let terms = candidates as u64 * self.terms_per_candidate;
                Outcome::Gradient {
                    gradient: (terms > 0).then(|| made_up("gradient", 0)),
                    manifest: policy.manifest,
                    statistics: ShardStatistics {
                        terms,
                        kl: 0.0125,
                        clipped: 0,
                        ratio_deviation: 0.0,
                        loss: -0.375,
                    },
                    skipped: Vec::new(),
                    model: self.model,
                    seconds: 0.0,
                }
            }
            Assignment::Commit { policy, .. } => Outcome::Committed {
                policy: Policy {
                    manifest: policy.manifest,
                    ..self.policy(made_up)
                },
                grad_norm: 0.5,
                learning_rate: 1e-4,
                seconds: 0.0,
            },
        }
    }

    fn policy(&self, made_up: impl Fn(&str, u32) -> Digest) -> Policy {
        Policy {
            adapter: made_up("adapter", 0),
            optimizer: made_up("optimizer", 0),
            averaged: self.averages.then(|| made_up("average", 0)),
            manifest: made_up("manifest", 0),
            tensors: 2,
        }
    }
}
