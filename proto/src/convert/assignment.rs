//! What a worker is given.

use gavel_core::ids::{PromptIndex, Step, WorkerId};
use gavel_core::work::{Assignment, Orders, Pair, Policy, PromptTask, RewardedCandidate, RewardedGroup, Task};

use super::unit::{arm, probe};
use super::{Malformed, all, bytes, digest, digests, each, optional_digest, required};
use crate::v1;
use crate::v1::assignment::Kind;

/// How many bytes of a message an assignment takes.
pub fn encoded_len(assignment: Assignment) -> usize {
    prost::Message::encoded_len(&v1::Assignment::from(assignment))
}

impl From<Policy> for v1::Policy {
    fn from(policy: Policy) -> Self {
        Self {
            adapter: bytes(policy.adapter),
            optimizer: bytes(policy.optimizer),
            averaged: policy.averaged.map(bytes),
            manifest: bytes(policy.manifest),
            tensors: policy.tensors,
        }
    }
}

impl TryFrom<v1::Policy> for Policy {
    type Error = Malformed;

    fn try_from(policy: v1::Policy) -> Result<Self, Malformed> {
        Ok(Self {
            adapter: digest(&policy.adapter, "Policy.adapter")?,
            optimizer: digest(&policy.optimizer, "Policy.optimizer")?,
            averaged: optional_digest(policy.averaged.as_deref(), "Policy.averaged")?,
            manifest: digest(&policy.manifest, "Policy.manifest")?,
            tensors: policy.tensors,
        })
    }
}

impl From<Task> for v1::Task {
    fn from(task: Task) -> Self {
        Self {
            words: task.words,
            sources: task.sources.into_iter().map(bytes).collect(),
        }
    }
}

impl TryFrom<v1::Task> for Task {
    type Error = Malformed;

    fn try_from(task: v1::Task) -> Result<Self, Malformed> {
        Ok(Self {
            words: task.words,
            sources: digests(&task.sources, "Task.sources")?,
        })
    }
}

impl From<PromptTask> for v1::Prompt {
    fn from(prompt: PromptTask) -> Self {
        Self {
            index: prompt.index.0,
            task: Some(prompt.task.into()),
            conditioning: prompt.conditioning.map(bytes),
        }
    }
}

impl TryFrom<v1::Prompt> for PromptTask {
    type Error = Malformed;

    fn try_from(prompt: v1::Prompt) -> Result<Self, Malformed> {
        Ok(Self {
            index: PromptIndex(prompt.index),
            task: required(prompt.task, "Prompt.task")?.try_into()?,
            conditioning: optional_digest(prompt.conditioning.as_deref(), "Prompt.conditioning")?,
        })
    }
}

impl From<Pair> for v1::Pair {
    fn from(pair: Pair) -> Self {
        Self {
            prompt_index: pair.prompt_index.0,
            task: Some(pair.task.into()),
            first: bytes(pair.first),
            second: bytes(pair.second),
            rubric: pair.rubric.map(bytes),
            orders: v1::Orders::from(pair.orders).into(),
        }
    }
}

impl TryFrom<v1::Pair> for Pair {
    type Error = Malformed;

    fn try_from(pair: v1::Pair) -> Result<Self, Malformed> {
        Ok(Self {
            prompt_index: PromptIndex(pair.prompt_index),
            task: required(pair.task, "Pair.task")?.try_into()?,
            first: digest(&pair.first, "Pair.first")?,
            second: digest(&pair.second, "Pair.second")?,
            rubric: optional_digest(pair.rubric.as_deref(), "Pair.rubric")?,
            orders: orders(pair.orders, "Pair.orders")?,
        })
    }
}

impl From<Orders> for v1::Orders {
    fn from(orders: Orders) -> Self {
        match orders {
            Orders::Both => Self::Both,
            Orders::Straight => Self::Straight,
            Orders::Swapped => Self::Swapped,
        }
    }
}

/// The image orders of a pair; both in messages of before there was another choice.
pub(super) fn orders(number: i32, field: &'static str) -> Result<Orders, Malformed> {
    match v1::Orders::try_from(number) {
        Ok(v1::Orders::Both) => Ok(Orders::Both),
        Ok(v1::Orders::Straight) => Ok(Orders::Straight),
        Ok(v1::Orders::Swapped) => Ok(Orders::Swapped),
        Err(_) => Err(Malformed::Range {
            field,
            found: number.into(),
        }),
    }
}

impl From<RewardedGroup> for v1::RewardedGroup {
    fn from(group: RewardedGroup) -> Self {
        let candidates = group.candidates.into_iter().map(|candidate| v1::RewardedCandidate {
            trajectory: bytes(candidate.trajectory),
            reward: candidate.reward,
        });
        Self {
            prompt: group.prompt_index.0,
            candidates: candidates.collect(),
            conditioning: group.conditioning.map(bytes),
        }
    }
}

impl TryFrom<v1::RewardedGroup> for RewardedGroup {
    type Error = Malformed;

    fn try_from(group: v1::RewardedGroup) -> Result<Self, Malformed> {
        let candidates = group.candidates.into_iter().map(|candidate| -> Result<_, Malformed> {
            Ok(RewardedCandidate {
                trajectory: digest(&candidate.trajectory, "RewardedCandidate.trajectory")?,
                reward: candidate.reward,
            })
        });
        Ok(Self {
            prompt_index: PromptIndex(group.prompt),
            conditioning: optional_digest(group.conditioning.as_deref(), "RewardedGroup.conditioning")?,
            candidates: candidates.collect::<Result<_, _>>()?,
        })
    }
}

impl From<Assignment> for v1::Assignment {
    fn from(assignment: Assignment) -> Self {
        let kind = match assignment {
            Assignment::Initialise { adapter } => Kind::Initialise(v1::assignment::Initialise {
                adapter: adapter.map(bytes),
            }),
            Assignment::Sample { step, policy, prompts } => Kind::Sample(v1::assignment::Sample {
                step: step.0,
                policy: Some(policy.into()),
                prompts: each(prompts),
            }),
            Assignment::EvaluateSample { arm, policy, prompts } => {
                Kind::EvaluateSample(v1::assignment::EvaluateSample {
                    arm: v1::Arm::from(arm).into(),
                    policy: policy.map(Into::into),
                    prompts: each(prompts),
                    probe: probe(arm),
                })
            }
            Assignment::Judge { pairs } => Kind::Judge(v1::assignment::Judge { pairs: each(pairs) }),
            Assignment::WriteRubric { task } => Kind::WriteRubric(v1::assignment::WriteRubric {
                task: Some(task.into()),
            }),
            Assignment::AnswerQuestions {
                prompt_index,
                task,
                image,
                questions,
            } => Kind::AnswerQuestions(v1::assignment::AnswerQuestions {
                prompt_index: prompt_index.0,
                task: Some(task.into()),
                image: bytes(image),
                questions,
            }),
            Assignment::Gradient {
                step,
                policy,
                groups,
                policy_lag,
            } => Kind::Gradient(v1::assignment::Gradient {
                step: step.0,
                policy: Some(policy.into()),
                groups: each(groups),
                policy_lag,
            }),
            Assignment::Commit {
                step,
                policy,
                gradients,
                holders,
                terms,
            } => Kind::Commit(v1::assignment::Commit {
                step: step.0,
                policy: Some(policy.into()),
                gradients: gradients.into_iter().map(bytes).collect(),
                terms,
                holders: holders.into_iter().map(|holder| holder.0).collect(),
            }),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<v1::Assignment> for Assignment {
    type Error = Malformed;

    fn try_from(assignment: v1::Assignment) -> Result<Self, Malformed> {
        Ok(match required(assignment.kind, "Assignment.kind")? {
            Kind::Initialise(initialise) => Self::Initialise {
                adapter: optional_digest(initialise.adapter.as_deref(), "Assignment.Initialise.adapter")?,
            },
            Kind::Sample(sample) => Self::Sample {
                step: Step(sample.step),
                policy: required(sample.policy, "Assignment.Sample.policy")?.try_into()?,
                prompts: all(sample.prompts)?,
            },
            Kind::EvaluateSample(sample) => Self::EvaluateSample {
                arm: arm(sample.arm, sample.probe, "Assignment.EvaluateSample.arm")?,
                policy: sample.policy.map(Policy::try_from).transpose()?,
                prompts: all(sample.prompts)?,
            },
            Kind::Judge(judge) => Self::Judge {
                pairs: all(judge.pairs)?,
            },
            Kind::WriteRubric(write) => Self::WriteRubric {
                task: required(write.task, "Assignment.WriteRubric.task")?.try_into()?,
            },
            Kind::AnswerQuestions(asked) => Self::AnswerQuestions {
                prompt_index: PromptIndex(asked.prompt_index),
                task: required(asked.task, "Assignment.AnswerQuestions.task")?.try_into()?,
                image: digest(&asked.image, "Assignment.AnswerQuestions.image")?,
                questions: asked.questions,
            },
            Kind::Gradient(gradient) => Self::Gradient {
                step: Step(gradient.step),
                policy: required(gradient.policy, "Assignment.Gradient.policy")?.try_into()?,
                groups: all(gradient.groups)?,
                policy_lag: gradient.policy_lag,
            },
            Kind::Commit(commit) => {
                if commit.holders.len() != commit.gradients.len() {
                    return Err(Malformed::Range {
                        field: "Assignment.Commit.holders",
                        found: commit.holders.len() as i64,
                    });
                }
                Self::Commit {
                    step: Step(commit.step),
                    policy: required(commit.policy, "Assignment.Commit.policy")?.try_into()?,
                    gradients: digests(&commit.gradients, "Assignment.Commit.gradients")?,
                    holders: commit.holders.into_iter().map(WorkerId).collect(),
                    terms: commit.terms,
                }
            }
        })
    }
}
