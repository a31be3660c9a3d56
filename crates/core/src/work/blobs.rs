//! Which blobs a unit reads and which a result names.
//!
//! This is the only such list. Retention, the making of lost blobs again, `gavel verify`, `gavel audit` and the simulated blob
//! store all go by it: a blob that is missing here would be deleted while somebody still needs it.

use std::fmt;

use super::{Assignment, Outcome, Policy, PromptTask, Sampled, Side, Task};
use crate::assets::{Annotations, PromptRubrics, RunAssets};
use crate::ids::{Candidate, Digest, PromptIndex};

/// What a blob is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// The adapter that was submitted with the run, to be policy 0.
    InitialAdapter,
    /// A policy's adapter.
    Adapter,
    /// A policy's optimizer state.
    OptimizerState,
    /// A policy's averaged adapter.
    AveragedAdapter,
    /// How a candidate was sampled.
    Trajectory {
        /// The index of its prompt in the step.
        prompt_index: PromptIndex,
        /// Which of the prompt's candidates.
        candidate: Candidate,
    },
    /// What the denoiser was conditioned on: of a task, in whatever step it is sampled.
    Conditioning {
        /// The index of the prompt in the step.
        prompt_index: PromptIndex,
    },
    /// A candidate's picture.
    Image {
        /// The index of its prompt in the step or in the held-out set.
        prompt_index: PromptIndex,
        /// Which of the prompt's candidates; 0 in an evaluation.
        candidate: Candidate,
    },
    /// A picture that a judge compares with another one.
    PairImage {
        /// The index of its prompt in the step, the held-out set or the labelled set.
        prompt_index: PromptIndex,
        /// Which of the two.
        side: Side,
    },
    /// A shard's gradient sum. With `trainer.exchange = "nccl"` its digest is a name only: the sum stays with the trainer.
    Gradient {
        /// Its index among the sums of the assignment; 0 in the result of one shard.
        index: u32,
    },
    /// A source picture of a task.
    Source {
        /// The index of its prompt in the step, the held-out set or the labelled set; in the run's assets of its line in the file.
        prompt_index: PromptIndex,
    },
    /// The text of the rubric of one prompt.
    Rubric {
        /// The index of its prompt in the step, the held-out set or the labelled set; in the run's assets its index among them, and 0 where it
        /// is written.
        prompt_index: PromptIndex,
    },
    /// What an edit should come to, as the task's file has it.
    Target {
        /// The index of the task in its file.
        prompt_index: PromptIndex,
    },
    /// What an edit may change, as the task's file has it.
    Mask {
        /// The index of the task in its file.
        prompt_index: PromptIndex,
    },
}

impl Part {
    /// Whether this is a part of a policy.
    pub fn is_of_policy(&self) -> bool {
        matches!(self, Self::Adapter | Self::OptimizerState | Self::AveragedAdapter)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InitialAdapter => f.write_str("initial adapter"),
            Self::Adapter => f.write_str("adapter"),
            Self::OptimizerState => f.write_str("optimizer state"),
            Self::AveragedAdapter => f.write_str("averaged adapter"),
            Self::Trajectory {
                prompt_index,
                candidate,
            } => write!(f, "trajectory of prompt {prompt_index}, candidate {candidate}"),
            Self::Conditioning { prompt_index } => write!(f, "conditioning of prompt {prompt_index}"),
            Self::Image {
                prompt_index,
                candidate,
            } => write!(f, "image of prompt {prompt_index}, candidate {candidate}"),
            Self::PairImage { prompt_index, side } => {
                let which = match side {
                    Side::First => "first",
                    Side::Second => "second",
                };
                write!(f, "{which} image of pair {prompt_index}")
            }
            Self::Gradient { index } => write!(f, "gradient sum {index}"),
            Self::Source { prompt_index } => write!(f, "source picture of prompt {prompt_index}"),
            Self::Rubric { prompt_index } => write!(f, "rubric of prompt {prompt_index}"),
            Self::Target { prompt_index } => write!(f, "target picture of prompt {prompt_index}"),
            Self::Mask { prompt_index } => write!(f, "mask of prompt {prompt_index}"),
        }
    }
}

impl Assignment {
    /// The blobs that a worker reads to do this.
    pub fn inputs(&self) -> impl Iterator<Item = (Digest, Part)> {
        let mut inputs = Vec::new();
        match self {
            Self::Initialise { adapter } => inputs.extend(adapter.map(initial_adapter)),
            // A commit of nothing hands the policy on as it is.
            Self::Commit { terms: 0, .. } => {}
            Self::Sample { policy, prompts, .. } => {
                inputs.push((policy.adapter, Part::Adapter));
                inputs.extend(prompts.iter().flat_map(prompt_sources));
                inputs.extend(
                    prompts
                        .iter()
                        .filter_map(|prompt| conditioning(prompt.index, prompt.conditioning)),
                );
            }
            Self::EvaluateSample { policy, prompts, .. } => {
                inputs.extend(policy.as_ref().map(Policy::evaluated_part));
                inputs.extend(prompts.iter().flat_map(prompt_sources));
            }
            Self::Judge { pairs } => {
                for pair in pairs {
                    inputs.extend(compared(pair.prompt_index, pair.first, pair.second));
                    inputs.extend(sources(pair.prompt_index, &pair.task));
                    inputs.extend(pair.rubric.map(|rubric| prompt_rubric(pair.prompt_index, rubric)));
                }
            }
            Self::WriteRubric { task } => inputs.extend(sources(PromptIndex(0), task)),
            Self::AnswerQuestions {
                prompt_index,
                task,
                image,
                ..
            } => {
                let part = Part::Image {
                    prompt_index: *prompt_index,
                    candidate: Candidate(0),
                };
                inputs.push((*image, part));
                inputs.extend(sources(*prompt_index, task));
            }
            Self::Gradient { policy, groups, .. } => {
                inputs.extend(trained(policy));
                for group in groups {
                    inputs.extend(conditioning(group.prompt_index, group.conditioning));
                    let numbered = (0..).map(Candidate).zip(&group.candidates);
                    inputs.extend(numbered.map(|(number, candidate)| {
                        let part = Part::Trajectory {
                            prompt_index: group.prompt_index,
                            candidate: number,
                        };
                        (candidate.trajectory, part)
                    }));
                }
            }
            Self::Commit { policy, gradients, .. } => {
                inputs.extend(trained(policy));
                inputs.extend(
                    (0..)
                        .zip(gradients)
                        .map(|(index, sum)| (*sum, Part::Gradient { index })),
                );
            }
        }
        inputs.into_iter()
    }
}

impl Outcome {
    /// The blobs that this names: those that the worker stored, and in a commit of nothing those of the policy before it.
    pub fn outputs(&self) -> impl Iterator<Item = (Digest, Part)> {
        let mut outputs = Vec::new();
        match self {
            Self::Initialised { policy, .. } | Self::Committed { policy, .. } => outputs.extend(policy.blobs()),
            Self::Sampled { samples, .. } => outputs.extend(samples.iter().flat_map(Sampled::blobs)),
            Self::Judged { .. } | Self::QuestionsAnswered { .. } => {}
            Self::RubricWritten { rubric, .. } => {
                outputs.extend(rubric.map(|rubric| prompt_rubric(PromptIndex(0), rubric)))
            }
            Self::Gradient { gradient, .. } => outputs.extend(gradient.map(|sum| (sum, Part::Gradient { index: 0 }))),
        }
        outputs.into_iter()
    }
}

impl Policy {
    /// All that the policy consists of.
    pub fn blobs(&self) -> impl Iterator<Item = (Digest, Part)> + use<> {
        let averaged = self.averaged.map(|averaged| (averaged, Part::AveragedAdapter));
        trained(self).into_iter().chain(averaged)
    }

    fn evaluated_part(&self) -> (Digest, Part) {
        match self.averaged {
            Some(averaged) => (averaged, Part::AveragedAdapter),
            None => (self.adapter, Part::Adapter),
        }
    }

    /// The adapter that is evaluated and that the final folder holds: the average over the steps where the run keeps one, the
    /// trained adapter otherwise.
    pub fn evaluated(&self) -> Digest {
        self.evaluated_part().0
    }
}

impl Sampled {
    /// What was stored of the candidate, and what it shares with the others of its prompt.
    pub fn blobs(&self) -> impl Iterator<Item = (Digest, Part)> + use<> {
        let own = candidate_blobs(self.prompt_index, self.candidate, self.trajectory, self.image);
        conditioning(self.prompt_index, self.conditioning)
            .into_iter()
            .chain(own)
    }
}

impl RunAssets {
    /// The pictures, the rubrics of single prompts, and the adapter to start from, that were stored with the run.
    pub fn blobs(&self) -> impl Iterator<Item = (Digest, Part)> {
        let tasks = |tasks| (0..).map(PromptIndex).zip(tasks);
        let prompts = tasks(&self.prompts).chain(tasks(&self.held_out));
        let labelled = (0..).map(PromptIndex).zip(&self.labelled);
        let labelled = labelled.flat_map(|(index, pair)| {
            compared(index, pair.first, pair.second)
                .into_iter()
                .chain(sources(index, &pair.task))
        });
        prompts
            .flat_map(|(index, task): (PromptIndex, &Task)| sources(index, task))
            .chain(self.annotations.blobs())
            .chain(labelled)
            .chain(self.prompt_rubrics.blobs())
            .chain(
                self.held_out_judge
                    .iter()
                    .flat_map(|judge| judge.prompt_rubrics.blobs()),
            )
            .chain(self.initial_adapter.map(initial_adapter))
    }
}

impl PromptRubrics {
    fn blobs(&self) -> impl Iterator<Item = (Digest, Part)> {
        let numbered = (0..).map(PromptIndex).zip(self.iter());
        numbered.map(|(index, one)| prompt_rubric(index, one.rubric))
    }
}

impl Annotations {
    fn blobs(&self) -> impl Iterator<Item = (Digest, Part)> {
        self.prompts.iter().chain(&self.held_out).flat_map(|(index, given)| {
            let prompt_index = *index;
            let target = given.target.map(|target| (target, Part::Target { prompt_index }));
            let mask = given.mask.map(|mask| (mask, Part::Mask { prompt_index }));
            target.into_iter().chain(mask)
        })
    }
}

/// What the candidates of a prompt were conditioned on, where it is a blob of its own.
pub(crate) fn conditioning(prompt_index: PromptIndex, blob: Option<Digest>) -> Option<(Digest, Part)> {
    blob.map(|blob| (blob, Part::Conditioning { prompt_index }))
}

/// What was stored of one candidate.
pub(crate) fn candidate_blobs(
    prompt_index: PromptIndex,
    candidate: Candidate,
    trajectory: Option<Digest>,
    image: Digest,
) -> impl Iterator<Item = (Digest, Part)> {
    let trajectory = trajectory.map(|trajectory| {
        let part = Part::Trajectory {
            prompt_index,
            candidate,
        };
        (trajectory, part)
    });
    let part = Part::Image {
        prompt_index,
        candidate,
    };
    trajectory.into_iter().chain([(image, part)])
}

fn initial_adapter(adapter: Digest) -> (Digest, Part) {
    (adapter, Part::InitialAdapter)
}

/// What a trainer loads of a policy, for a gradient as for a commit.
fn trained(policy: &Policy) -> [(Digest, Part); 2] {
    [
        (policy.adapter, Part::Adapter),
        (policy.optimizer, Part::OptimizerState),
    ]
}

fn compared(prompt_index: PromptIndex, first: Digest, second: Digest) -> [(Digest, Part); 2] {
    [(first, Side::First), (second, Side::Second)].map(|(image, side)| (image, Part::PairImage { prompt_index, side }))
}

fn prompt_rubric(prompt_index: PromptIndex, rubric: Digest) -> (Digest, Part) {
    (rubric, Part::Rubric { prompt_index })
}

fn prompt_sources(prompt: &PromptTask) -> impl Iterator<Item = (Digest, Part)> {
    sources(prompt.index, &prompt.task)
}

fn sources(prompt_index: PromptIndex, task: &Task) -> impl Iterator<Item = (Digest, Part)> {
    task.sources
        .iter()
        .map(move |source| (*source, Part::Source { prompt_index }))
}
