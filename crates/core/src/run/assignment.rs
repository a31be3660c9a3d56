//! What a worker needs for a unit.

use std::ops::Range;

use super::{GroupResult, Run};
use crate::ids::{Digest, PromptIndex, Step, WorkerId};
use crate::rpo;
use crate::schedule;
use crate::work::{
    Arm, Assignment, Orders, Pair, Policy, PromptTask, RewardedCandidate, RewardedGroup, Task, TaskList, Unit, rules,
};

impl Run {
    /// What a worker needs to do `unit`; `None` while its inputs do not exist, and once its step is committed.
    pub fn assignment(&self, unit: &Unit) -> Option<Assignment> {
        match *unit {
            Unit::Initialise => Some(Assignment::Initialise {
                adapter: self.assets.initial_adapter,
            }),
            Unit::Sample { step, chunk } => self.sample_assignment(step, chunk),
            Unit::Judge { step, .. } => self.judge_assignment(unit, step, self.extent(unit)),
            Unit::HeldOutJudge { step, .. } => {
                let extent = self.extent(unit);
                let groups = self.flight(step)?.held_out(&extent);
                self.judge_assignment(unit, step, groups)
            }
            Unit::WriteRubric { place } => Some(Assignment::WriteRubric {
                task: self.assets.task(place)?.clone(),
            }),
            Unit::Gradient { step, .. } => {
                let flight = self.flights.front().filter(|flight| flight.step == step)?;
                let extent = self.extent(unit);
                let groups = extent.clone().zip(flight.part(&extent));
                let groups = groups.filter_map(|(index, group)| self.rewarded(index, group));
                Some(Assignment::Gradient {
                    step,
                    policy: self.policy()?.clone(),
                    groups: groups.collect(),
                    policy_lag: rules::policy_lag(&self.spec, step),
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
                    Some((gradient, WorkerId::clone(&maker.worker)))
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
                let extent = self.extent(unit);
                let prompts = extent.clone().zip(&self.assets.held_out[as_usize(&extent)]);
                Some(Assignment::EvaluateSample {
                    arm,
                    policy: self.arm_policy(arm)?,
                    prompts: prompts
                        .map(|(index, task)| PromptTask {
                            index: PromptIndex(index),
                            task: task.clone(),
                            conditioning: None,
                        })
                        .collect(),
                })
            }
            Unit::EvaluateJudge { probe, .. } => {
                let painted = self.results.images(Arm::compared(probe));
                let pairs = self.extent(unit).map(|index| {
                    let task = self.assets.held_out.get(index as usize)?;
                    Some(Pair {
                        prompt_index: PromptIndex(index),
                        task: task.clone(),
                        first: (*self.results.base_images.get(index as usize)?)?,
                        second: (*painted.get(index as usize)?)?,
                        rubric: self.own_rubric(unit, TaskList::HeldOut, index)?,
                        orders: Orders::Both,
                    })
                });
                Some(Assignment::Judge {
                    pairs: pairs.collect::<Option<_>>()?,
                })
            }
            Unit::AnswerQuestions { arm, prompt_index } => {
                let index = prompt_index.0 as usize;
                let questions = self.questions(prompt_index);
                let image = (*self.results.images(arm).get(index)?)?;
                (!questions.is_empty()).then_some(Assignment::AnswerQuestions {
                    prompt_index,
                    task: self.assets.held_out.get(index)?.clone(),
                    image,
                    questions: questions.to_vec(),
                })
            }
            Unit::CalibrateJudge { .. } => {
                let extent = self.extent(unit);
                let pairs = extent.clone().zip(&self.assets.labelled[as_usize(&extent)]);
                let pairs = pairs.map(|(index, labelled)| {
                    Some(Pair {
                        prompt_index: PromptIndex(index),
                        task: labelled.task.clone(),
                        first: labelled.first,
                        second: labelled.second,
                        rubric: self.own_rubric(unit, TaskList::Labelled, index)?,
                        orders: Orders::Both,
                    })
                });
                Some(Assignment::Judge {
                    pairs: pairs.collect::<Option<_>>()?,
                })
            }
        }
    }

    /// The indexes (in the step, the held-out set or the labelled set) of the prompts that a unit covers; empty for units without
    /// any.
    pub(super) fn extent(&self, unit: &Unit) -> Range<u32> {
        let spec = &self.spec;
        let per_step = spec.prompts.per_step;
        match *unit {
            Unit::Initialise | Unit::WriteRubric { .. } | Unit::Commit { .. } | Unit::AnswerQuestions { .. } => 0..0,
            Unit::Sample { chunk, .. } => schedule::extent(chunk, spec.sampling.batch, per_step),
            Unit::Judge { chunk, .. } | Unit::HeldOutJudge { chunk, .. } => {
                schedule::extent(chunk, spec.judge.batch, per_step)
            }
            Unit::Gradient { shard, .. } => schedule::extent(shard, spec.trainer.shard, per_step),
            Unit::EvaluateSample { arm, chunk } => {
                schedule::extent(chunk, spec.evaluation_batch(), self.results.images(arm).len() as u32)
            }
            Unit::EvaluateJudge { probe, chunk } => {
                schedule::extent(chunk, spec.judge.batch, self.results.comparisons(probe).len() as u32)
            }
            Unit::CalibrateJudge { chunk } => {
                schedule::extent(chunk, spec.judge.batch, self.results.calibration.len() as u32)
            }
        }
    }

    /// The prompt's index of each verdict of a judge unit: of a step's groups one for each match. None for the held-out judge where
    /// no group of the chunk is of its share.
    pub(super) fn verdict_prompts(&self, unit: &Unit) -> impl Iterator<Item = u32> + use<> {
        let matches = rpo::match_count(usize::from(self.spec.sampling.candidates));
        let extent = self.extent(unit);
        let (prompts, each): (Vec<u32>, usize) = match *unit {
            Unit::Judge { .. } => (extent.collect(), matches),
            Unit::HeldOutJudge { step, .. } => {
                let flight = self.flight(step).into_iter();
                (flight.flat_map(|flight| flight.held_out(&extent)).collect(), matches)
            }
            _ => (extent.collect(), 1),
        };
        prompts
            .into_iter()
            .flat_map(move |index| std::iter::repeat_n(index, each))
    }

    /// The rubric that decides about a prompt of a judge unit.
    pub(super) fn rubric(&self, unit: &Unit, index: u32) -> Digest {
        match self.judged_prompt(unit, index) {
            Some((list, index)) => self.rubric_of(unit, list, index),
            None => self.assets.general_rubric(unit),
        }
    }

    /// The matches of these groups of a step; `None` while one of them is not sampled.
    fn judge_assignment(&self, unit: &Unit, step: Step, groups: impl Iterator<Item = u32>) -> Option<Assignment> {
        let flight = self.flight(step)?;
        let mut pairs = Vec::new();
        for index in groups {
            let group = flight.groups.get(index as usize)?;
            if !group.is_sampled() {
                return None;
            }
            let task = self.task(group.line)?;
            let rubric = self.own_rubric(unit, TaskList::Prompts, group.line)?;
            let matches = rpo::matches(group.candidates.len()).enumerate();
            pairs.extend(matches.map(|(number, (first, second))| Pair {
                prompt_index: PromptIndex(index),
                task: task.clone(),
                first: group.candidates[first].image,
                second: group.candidates[second].image,
                rubric,
                orders: self.orders(unit, index, number),
            }));
        }
        Some(Assignment::Judge { pairs })
    }

    fn sample_assignment(&self, step: Step, chunk: u32) -> Option<Assignment> {
        let flight = self.flight(step)?;
        let extent = self.extent(&Unit::Sample { step, chunk });
        let prompts = extent.clone().zip(flight.part(&extent)).map(|(index, group)| {
            Some(PromptTask {
                index: PromptIndex(index),
                task: self.task(group.line)?.clone(),
                conditioning: self.conditionings.get(group.line),
            })
        });
        Some(Assignment::Sample {
            step,
            policy: self
                .results
                .policies
                .get(rules::sampling_version(&self.spec, step) as usize)?
                .clone(),
            prompts: prompts.collect::<Option<_>>()?,
        })
    }

    /// `Some(None)` for the base, `None` while the policy does not exist.
    pub(super) fn arm_policy(&self, arm: Arm) -> Option<Option<Policy>> {
        match arm {
            Arm::Base => Some(None),
            Arm::Probe(step) => self.results.policies.get(step.0 as usize).cloned().map(Some),
            Arm::Tuned if self.committed().0 == self.spec.run.steps => self.policy().cloned().map(Some),
            Arm::Tuned => None,
        }
    }

    fn task(&self, line: u32) -> Option<&Task> {
        self.assets.prompts.get(line as usize)
    }

    /// The candidates with the rewards that their ranks earn; `None` where the judge does not set them apart.
    fn rewarded(&self, index: u32, group: &GroupResult) -> Option<RewardedGroup> {
        let objective = &self.spec.objective;
        let rewards = rpo::rewards(
            &group.ranks()?,
            objective.reward_preferred,
            objective.reward_dispreferred,
        );
        let candidates = group.candidates.iter().zip(rewards);
        Some(RewardedGroup {
            prompt_index: PromptIndex(index),
            conditioning: group.conditioning,
            candidates: candidates
                .map(|(candidate, reward)| RewardedCandidate {
                    trajectory: candidate.trajectory,
                    reward,
                })
                .collect(),
        })
    }
}

fn as_usize(range: &Range<u32>) -> Range<usize> {
    range.start as usize..range.end as usize
}
