//! What a worker needs for a unit.

use std::ops::Range;

use super::Run;
use crate::ids::{Digest, PromptIndex, Step};
use crate::schedule;
use crate::unit::{Arm, Assignment, Pair, Policy, PromptText, RewardedCandidate, RewardedPair, Unit};
use crate::verdict::{Side, Verdict, VerdictRecord};

impl Run {
    /// What a worker needs to do `unit`; `None` while its inputs do not exist, and once its step is committed.
    pub fn assignment(&self, unit: &Unit) -> Option<Assignment> {
        match *unit {
            Unit::Initialise => Some(Assignment::Initialise),
            Unit::Sample { step, chunk } => self.sample_assignment(step, chunk),
            Unit::Judge { step, .. } => {
                let flight = self.flight(step)?;
                let places = self.places(unit);
                let pairs = places.clone().zip(flight.part(&places)).map(|(place, pair)| {
                    let [first, second] = pair.candidates?;
                    Some(Pair {
                        prompt: PromptIndex(place),
                        text: self.prompt(pair.line)?.to_owned(),
                        first: first.image,
                        second: second.image,
                    })
                });
                Some(Assignment::Judge {
                    pairs: pairs.collect::<Option<_>>()?,
                })
            }
            Unit::Gradient { step, .. } => {
                let flight = self.flights.front().filter(|flight| flight.step == step)?;
                let places = self.places(unit);
                let pairs = places.clone().zip(flight.part(&places)).filter_map(|(place, pair)| {
                    let VerdictRecord {
                        verdict: Verdict::Preferred { side },
                        ..
                    } = pair.verdict.as_ref()?
                    else {
                        return None;
                    };
                    Some(self.rewarded(place, pair.candidates?.map(|candidate| candidate.trajectory), *side))
                });
                Some(Assignment::Gradient {
                    step,
                    policy: self.policy()?.clone(),
                    pairs: pairs.collect(),
                    policy_lag: step.0 - 1 - self.sampling_version(step),
                })
            }
            Unit::Commit { step } => {
                let flight = self
                    .flights
                    .front()
                    .filter(|flight| flight.step == step && flight.is_trained())?;
                let sums = (0..).zip(&flight.shards).filter_map(|(shard, result)| {
                    let gradient = result.as_ref()?.gradient?;
                    let maker = self.accepted.get(&Unit::Gradient { step, shard })?;
                    Some((gradient, maker.worker.clone()))
                });
                let (gradients, holders) = sums.unzip();
                Some(Assignment::Commit {
                    step,
                    policy: self.policy()?.clone(),
                    gradients,
                    holders,
                    terms: flight.terms(),
                })
            }
            Unit::EvaluateSample { arm, .. } => {
                let places = self.places(unit);
                let prompts = places.clone().zip(&self.assets.held_out[as_usize(&places)]);
                Some(Assignment::EvaluateSample {
                    arm,
                    policy: self.arm_policy(arm)?,
                    prompts: prompts
                        .map(|(place, text)| PromptText {
                            index: PromptIndex(place),
                            text: text.clone(),
                        })
                        .collect(),
                })
            }
            Unit::EvaluateJudge { .. } => {
                let pairs = self.places(unit).map(|place| {
                    Some(Pair {
                        prompt: PromptIndex(place),
                        text: self.assets.held_out.get(place as usize)?.clone(),
                        first: (*self.results.base_images.get(place as usize)?)?,
                        second: (*self.results.tuned_images.get(place as usize)?)?,
                    })
                });
                Some(Assignment::Judge {
                    pairs: pairs.collect::<Option<_>>()?,
                })
            }
            Unit::CalibrateJudge { .. } => {
                let places = self.places(unit);
                let pairs = places.clone().zip(&self.assets.labelled[as_usize(&places)]);
                Some(Assignment::Judge {
                    pairs: pairs
                        .map(|(place, labelled)| Pair {
                            prompt: PromptIndex(place),
                            text: labelled.text.clone(),
                            first: labelled.first,
                            second: labelled.second,
                        })
                        .collect(),
                })
            }
        }
    }

    /// The places (in the step, the held-out set or the labelled set) that a unit covers; empty for units without any.
    pub(super) fn places(&self, unit: &Unit) -> Range<u32> {
        let spec = &self.spec;
        let per_step = spec.prompts.per_step;
        let held_out = self.results.base_images.len() as u32;
        match *unit {
            Unit::Initialise | Unit::Commit { .. } => 0..0,
            Unit::Sample { chunk, .. } => schedule::extent(chunk, spec.sampling.batch, per_step),
            Unit::Judge { chunk, .. } => schedule::extent(chunk, spec.judge.batch, per_step),
            Unit::Gradient { shard, .. } => schedule::extent(shard, spec.trainer.shard, per_step),
            Unit::EvaluateSample { chunk, .. } => {
                let batch = spec.evaluation.as_ref().map_or(1, |evaluation| evaluation.batch);
                schedule::extent(chunk, batch, held_out)
            }
            Unit::EvaluateJudge { chunk } => schedule::extent(chunk, spec.judge.batch, held_out),
            Unit::CalibrateJudge { chunk } => {
                schedule::extent(chunk, spec.judge.batch, self.results.calibration.len() as u32)
            }
        }
    }

    fn sample_assignment(&self, step: Step, chunk: u32) -> Option<Assignment> {
        let flight = self.flight(step)?;
        let places = self.places(&Unit::Sample { step, chunk });
        let prompts = places.clone().zip(flight.part(&places)).map(|(place, pair)| {
            Some(PromptText {
                index: PromptIndex(place),
                text: self.prompt(pair.line)?.to_owned(),
            })
        });
        Some(Assignment::Sample {
            step,
            policy: self.results.policies.get(self.sampling_version(step) as usize)?.clone(),
            prompts: prompts.collect::<Option<_>>()?,
        })
    }

    /// The version of the policy that samples a step: as far behind the one that it trains as `sampling.max_policy_lag`
    /// says, as soon as there are so many. A rule, not a race, so that the run's bytes do not depend on who was faster.
    pub(super) fn sampling_version(&self, step: Step) -> u32 {
        (step.0 - 1).saturating_sub(self.spec.sampling.max_policy_lag)
    }

    /// `Some(None)` for the base, `None` while the tuned policy does not exist.
    pub(super) fn arm_policy(&self, arm: Arm) -> Option<Option<Policy>> {
        match arm {
            Arm::Base => Some(None),
            Arm::Tuned if self.committed().0 == self.spec.run.steps => self.policy().cloned().map(Some),
            Arm::Tuned => None,
        }
    }

    fn prompt(&self, line: u32) -> Option<&str> {
        self.assets.prompts.get(line as usize).map(String::as_str)
    }

    fn rewarded(&self, place: u32, trajectories: [Digest; 2], preferred: Side) -> RewardedPair {
        let (good, bad) = (
            self.spec.objective.reward_preferred,
            self.spec.objective.reward_dispreferred,
        );
        let rewards = match preferred {
            Side::First => [good, bad],
            Side::Second => [bad, good],
        };
        RewardedPair {
            prompt: PromptIndex(place),
            candidates: trajectories
                .into_iter()
                .zip(rewards)
                .map(|(trajectory, reward)| RewardedCandidate { trajectory, reward })
                .collect(),
        }
    }
}

fn as_usize(range: &Range<u32>) -> Range<usize> {
    range.start as usize..range.end as usize
}
