//! The run specification: one TOML file, one struct for each section, checked as a whole before anything starts.

mod device;
mod digest;
mod duration;
mod fleet;
mod judge;
mod keys;
mod model;
mod objective;
mod parse;
mod problems;
mod reasons;
mod run;
mod sampling;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use device::{Device, Dtype, InvalidDevice};
pub use fleet::{CoordinatorSpec, FleetSpec, GradientExchange, LimitsSpec, TrainerSpec};
pub use judge::{JudgeFamily, JudgeSpec, NamedJudge};
pub use model::{LoraSpec, ModelFamily, ModelSpec};
pub use objective::{LearningRateSchedule, ObjectiveSpec, OptimizerSpec};
pub use problems::{Problem, Problems};
pub use reasons::ReasonsSpec;
pub use run::{CheckpointSpec, EvaluationSpec, EvaluatorName, RunSection};
pub use sampling::{PromptsSpec, SamplingSpec};

use crate::ids::{Digest, RunId};

/// A whole run, as the configuration file says it. What [`RunSpec::from_value`] returns has passed every check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunSpec {
    /// Name, seed and length.
    pub run: RunSection,
    /// The frozen base.
    pub model: ModelSpec,
    /// Prompt files.
    pub prompts: PromptsSpec,
    /// The stochastic sampler.
    pub sampling: SamplingSpec,
    /// The adapter.
    pub lora: LoraSpec,
    /// The loss.
    pub objective: ObjectiveSpec,
    /// AdamW.
    pub optimizer: OptimizerSpec,
    /// The judge.
    pub judge: JudgeSpec,
    /// How gradient work is cut.
    pub trainer: TrainerSpec,
    /// Which policies are kept.
    pub checkpoints: CheckpointSpec,
    /// Base against tuned on held-out prompts; `None` for a run without evaluation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<EvaluationSpec>,
    /// What a run puts up with.
    pub limits: LimitsSpec,
    /// Local workers and leases.
    pub fleet: FleetSpec,
    /// Addresses.
    pub coordinator: CoordinatorSpec,
}

/// A section's name with a function that lists its keys.
type Section = (&'static str, fn() -> &'static [&'static str]);

/// The sections with the keys of each, in the order of the documentation.
const SECTIONS: &[Section] = &[
    ("run", keys::of::<RunSection>),
    ("model", keys::of::<ModelSpec>),
    ("prompts", keys::of::<PromptsSpec>),
    ("sampling", keys::of::<SamplingSpec>),
    ("lora", keys::of::<LoraSpec>),
    ("objective", keys::of::<ObjectiveSpec>),
    ("optimizer", keys::of::<OptimizerSpec>),
    ("judge", keys::of::<JudgeSpec>),
    ("trainer", keys::of::<TrainerSpec>),
    ("checkpoints", keys::of::<CheckpointSpec>),
    ("evaluation", keys::of::<EvaluationSpec>),
    ("limits", keys::of::<LimitsSpec>),
    ("fleet", keys::of::<FleetSpec>),
    ("coordinator", keys::of::<CoordinatorSpec>),
];

impl RunSpec {
    /// Reads and checks a configuration that is already layered (file, environment, command line).
    ///
    /// # Errors
    /// All problems at once: unknown sections and keys with the nearest valid name, values of a wrong type, values out of
    /// range, keys that contradict each other.
    pub fn from_value(value: toml::Table) -> Result<Self, Problems> {
        parse::from_value(value)
    }

    /// Every key that a configuration may have, as `section.key`.
    pub fn keys() -> impl Iterator<Item = (&'static str, &'static str)> {
        SECTIONS
            .iter()
            .flat_map(|(section, keys)| keys().iter().map(move |key| (*section, *key)))
    }

    /// The run's id: `run.name`.
    pub fn id(&self) -> RunId {
        RunId(self.run.name.clone())
    }

    /// Fingerprint of what determines the result: canonical JSON (sorted keys) of every section but `[fleet]` and
    /// `[coordinator]`, without `trainer.exchange`, with paths spelled without `.` and doubled separators.
    pub fn digest(&self) -> Digest {
        digest::of(self)
    }

    /// The denoising steps that carry noise and a gradient, in sampling order.
    pub fn trained_steps(&self) -> Vec<usize> {
        let last = self.sampling.steps - usize::from(self.objective.ignore_last);
        (0..self.sampling.noise_steps.min(last)).collect()
    }

    /// Checks a specification that was read from elsewhere than a configuration file.
    ///
    /// # Errors
    /// All problems at once.
    pub fn check(&self) -> Result<(), Problems> {
        let mut problems = Problems::default();
        self.check_into(&mut problems);
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn check_into(&self, problems: &mut Problems) {
        self.run.check(problems);
        self.model.check(problems);
        self.prompts.check(problems);
        self.sampling.check(problems);
        self.lora.check(problems);
        self.objective.check(problems);
        self.optimizer.check(problems);
        self.judge.check(problems);
        self.trainer.check(problems);
        if let Some(evaluation) = &self.evaluation {
            evaluation.check(problems);
            problems.require(self.prompts.held_out.is_some(), "prompts.held_out", || {
                "must be set when there is an `[evaluation]` section: a text file of held-out prompts".into()
            });
        }
        self.limits.check(problems);
        self.fleet.check(problems);
        problems.require(
            self.trainer.exchange == GradientExchange::Blobs || self.model.device != Device::Cpu,
            "trainer.exchange",
            || "\"nccl\" works between NVIDIA GPUs, and model.device is \"cpu\": set it to \"cuda\", or this key to \"blobs\"".into(),
        );
        problems.require(
            !(self.objective.ignore_last && self.sampling.steps == 1),
            "objective.ignore_last",
            || "must be false when sampling.steps is 1: there would be no step to train".into(),
        );
    }
}
