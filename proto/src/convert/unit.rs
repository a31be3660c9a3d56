//! Roles, units and lease keys.

use gavel_core::bounds;
use gavel_core::ids::{Fence, PromptIndex, RunId, Step};
use gavel_core::work::{Arm, LeaseKey, PromptPlace, Role, TaskList, Unit};

use super::{Malformed, required};
use crate::v1;
use crate::v1::unit::Kind;

impl From<LeaseKey> for v1::LeaseKey {
    fn from(key: LeaseKey) -> Self {
        Self {
            run_id: key.run.0,
            unit: Some(key.unit.into()),
            fence: key.fence.0,
        }
    }
}

impl TryFrom<v1::LeaseKey> for LeaseKey {
    type Error = Malformed;

    fn try_from(key: v1::LeaseKey) -> Result<Self, Malformed> {
        bounds::name("LeaseKey.run_id", &key.run_id)?;
        Ok(Self {
            run: RunId(key.run_id),
            unit: required(key.unit, "LeaseKey.unit")?.try_into()?,
            fence: Fence(key.fence),
        })
    }
}

impl From<Role> for v1::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Sampler => Self::Sampler,
            Role::Judge => Self::Judge,
            Role::Trainer => Self::Trainer,
        }
    }
}

impl TryFrom<v1::Role> for Role {
    type Error = Malformed;

    fn try_from(role: v1::Role) -> Result<Self, Malformed> {
        match role {
            v1::Role::Sampler => Ok(Self::Sampler),
            v1::Role::Judge => Ok(Self::Judge),
            v1::Role::Trainer => Ok(Self::Trainer),
            v1::Role::Unspecified => Err(Malformed::Missing { field: "role" }),
        }
    }
}

impl From<Arm> for v1::Arm {
    fn from(arm: Arm) -> Self {
        match arm {
            Arm::Base => Self::Base,
            Arm::Tuned => Self::Tuned,
            Arm::Probe(_) => Self::Probe,
        }
    }
}

/// The step of the arm that is a probe's.
pub(super) fn probe(arm: Arm) -> Option<u32> {
    match arm {
        Arm::Probe(step) => Some(step.0),
        Arm::Base | Arm::Tuned => None,
    }
}

/// Reads an arm from its number on the wire and, for a probe, its step.
pub(super) fn arm(number: i32, probe: Option<u32>, field: &'static str) -> Result<Arm, Malformed> {
    match v1::Arm::try_from(number) {
        Ok(v1::Arm::Base) => Ok(Arm::Base),
        Ok(v1::Arm::Tuned) => Ok(Arm::Tuned),
        Ok(v1::Arm::Probe) => Ok(Arm::Probe(Step(probe.ok_or(Malformed::Missing { field })?))),
        Ok(v1::Arm::Unspecified) => Err(Malformed::Missing { field }),
        Err(_) => Err(Malformed::Range {
            field,
            found: number.into(),
        }),
    }
}

impl From<PromptPlace> for v1::unit::WriteRubric {
    fn from(place: PromptPlace) -> Self {
        let list = match place.list {
            TaskList::Prompts => v1::TaskList::Prompts,
            TaskList::HeldOut => v1::TaskList::HeldOut,
            TaskList::Labelled => v1::TaskList::Labelled,
        };
        Self {
            list: list.into(),
            index: place.index,
        }
    }
}

impl TryFrom<v1::unit::WriteRubric> for PromptPlace {
    type Error = Malformed;

    fn try_from(place: v1::unit::WriteRubric) -> Result<Self, Malformed> {
        let field = "Unit.WriteRubric.list";
        let list = match v1::TaskList::try_from(place.list) {
            Ok(v1::TaskList::Prompts) => TaskList::Prompts,
            Ok(v1::TaskList::HeldOut) => TaskList::HeldOut,
            Ok(v1::TaskList::Labelled) => TaskList::Labelled,
            Ok(v1::TaskList::Unspecified) => return Err(Malformed::Missing { field }),
            Err(_) => {
                return Err(Malformed::Range {
                    field,
                    found: place.list.into(),
                });
            }
        };
        Ok(Self {
            list,
            index: place.index,
        })
    }
}

impl From<Unit> for v1::Unit {
    fn from(unit: Unit) -> Self {
        let part = |step: Step, part| v1::unit::StepPart { step: step.0, part };
        let kind = match unit {
            Unit::Initialise => Kind::Initialise(v1::unit::Initialise {}),
            Unit::Sample { step, chunk } => Kind::Sample(part(step, chunk)),
            Unit::Judge { step, chunk } => Kind::Judge(part(step, chunk)),
            Unit::HeldOutJudge { step, chunk } => Kind::HeldOutJudge(part(step, chunk)),
            Unit::WriteRubric { place } => Kind::WriteRubric(place.into()),
            Unit::Gradient { step, shard } => Kind::Gradient(part(step, shard)),
            Unit::Commit { step } => Kind::Commit(v1::unit::StepCommit { step: step.0 }),
            Unit::EvaluateSample { arm, chunk } => Kind::EvaluateSample(v1::unit::EvaluationChunk {
                arm: v1::Arm::from(arm).into(),
                chunk,
                probe: probe(arm),
            }),
            Unit::EvaluateJudge { probe, chunk } => Kind::EvaluateJudge(v1::unit::ComparisonChunk {
                chunk,
                probe: probe.map(|step| step.0),
            }),
            Unit::CalibrateJudge { chunk } => Kind::CalibrateJudge(v1::unit::Chunk { chunk }),
            Unit::AnswerQuestions { arm, prompt_index } => Kind::AnswerQuestions(v1::unit::AnswerQuestions {
                arm: v1::Arm::from(arm).into(),
                prompt_index: prompt_index.0,
                probe: probe(arm),
            }),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<v1::Unit> for Unit {
    type Error = Malformed;

    fn try_from(unit: v1::Unit) -> Result<Self, Malformed> {
        Ok(match required(unit.kind, "Unit.kind")? {
            Kind::Initialise(_) => Self::Initialise,
            Kind::Sample(part) => Self::Sample {
                step: Step(part.step),
                chunk: part.part,
            },
            Kind::Judge(part) => Self::Judge {
                step: Step(part.step),
                chunk: part.part,
            },
            Kind::HeldOutJudge(part) => Self::HeldOutJudge {
                step: Step(part.step),
                chunk: part.part,
            },
            Kind::WriteRubric(place) => Self::WriteRubric {
                place: place.try_into()?,
            },
            Kind::Gradient(part) => Self::Gradient {
                step: Step(part.step),
                shard: part.part,
            },
            Kind::Commit(commit) => Self::Commit {
                step: Step(commit.step),
            },
            Kind::EvaluateSample(chunk) => Self::EvaluateSample {
                arm: arm(chunk.arm, chunk.probe, "Unit.EvaluationChunk.arm")?,
                chunk: chunk.chunk,
            },
            Kind::EvaluateJudge(chunk) => Self::EvaluateJudge {
                probe: chunk.probe.map(Step),
                chunk: chunk.chunk,
            },
            Kind::CalibrateJudge(chunk) => Self::CalibrateJudge { chunk: chunk.chunk },
            Kind::AnswerQuestions(picture) => Self::AnswerQuestions {
                arm: arm(picture.arm, picture.probe, "Unit.AnswerQuestions.arm")?,
                prompt_index: PromptIndex(picture.prompt_index),
            },
        })
    }
}
