//! The run specification: one TOML file, one struct for each section, checked as a whole before anything starts.
//!
//! A new key is a field of its section's struct; a new section is a struct that is a `Section`, and a line in the one list
//! of them below. Tests then ask for the key's row in docs/configuration.md and whether it is part of the fingerprint.

mod checkpoints;
mod coordinator;
mod device;
mod duration;
mod evaluation;
mod fingerprint;
mod fleet;
mod fork;
mod judge;
mod keys;
mod limits;
mod lora;
mod model;
mod needs;
mod objective;
mod optimizer;
mod parse;
mod paths;
mod problems;
mod prompts;
mod run;
mod sampling;
mod schema;
mod section;
mod stop;
mod trainer;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Table;

pub use checkpoints::CheckpointSpec;
pub use coordinator::CoordinatorSpec;
pub use device::{Device, Dtype, InvalidDevice, Quantization};
pub use evaluation::{EvaluationSpec, EvaluatorName};
pub use fingerprint::with_paths as fingerprint_with_paths;
pub use fleet::FleetSpec;
pub use judge::{
    AdaptiveOrders, ClipFamily, ClipSpec, Combine, Connection, Duty, EmbeddingServerSpec, EmbeddingSpec,
    EnsembleFamily, EnsembleSpec, EvaluatorFamily, EvaluatorSpec, HeldOutJudgeSpec, HostedModel, InProcessFamily,
    InProcessSpec, JudgeBackEnd, JudgeSpec, MemberSpec, NamedJudge, OrdersRule, ReasonsSpec, ScorerFamily, ScorerSpec,
    ServerAddress, ServerAddressError, ServerFamily, ServerSpec, Tally, TextEncoderFamily, TextEncoderSpec, WriterSpec,
};
pub use limits::LimitsSpec;
pub use lora::LoraSpec;
pub use model::{FamilyName, InvalidFamilyName, ModelSpec};
pub use needs::Needs;
pub use objective::ObjectiveSpec;
pub use optimizer::{LearningRateSchedule, OptimizerSpec};
pub use paths::each_path;
pub use problems::{Problem, Problems};
pub use prompts::PromptsSpec;
pub use run::{RunSection, check_run_name};
pub use sampling::SamplingSpec;
pub use schema::schema;
pub use stop::StopSpec;
pub use trainer::{GradientExchange, TrainerSpec};

use crate::bounds;
use crate::ids::{Digest, RunId};
use crate::rpo;
use crate::work::Role;
use section::Section;

/// Makes [`RunSpec`] and everything that must know each section from the one list of them.
macro_rules! sections {
    ($($(#[$attribute:meta])* $name:ident: $section:ty,)*) => {
        /// A whole run, as the configuration file says it. What [`RunSpec::from_value`] returns has passed every check.
        #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        #[schemars(extend("required" = ["run", "model", "prompts", "judge"]))]
        pub struct RunSpec {
            $($(#[$attribute])* pub $name: $section,)*
        }

        /// The sections' names, in the order of the documentation, each with a function that lists its keys.
        const SECTIONS: &[(&str, fn() -> Vec<&'static str>)] = &[$((stringify!($name), <$section as Section>::keys),)*];

        impl RunSpec {
            /// Reads each section from its table.
            fn read(mut tables: BTreeMap<String, Table>, problems: &mut Problems) -> Self {
                Self {
                    $($name: Section::read(tables.remove(stringify!($name)), stringify!($name), problems),)*
                }
            }

            /// Checks each section by itself.
            fn check_sections(&self, problems: &mut Problems) {
                $(self.$name.check(problems);)*
            }
        }
    };
}

sections! {
    /// Name, seed and length.
    run: RunSection,
    /// The frozen base.
    model: ModelSpec,
    /// Prompt files.
    prompts: PromptsSpec,
    /// The stochastic sampler.
    sampling: SamplingSpec,
    /// The adapter.
    lora: LoraSpec,
    /// The loss.
    objective: ObjectiveSpec,
    /// AdamW.
    optimizer: OptimizerSpec,
    /// The judge.
    judge: JudgeSpec,
    /// How gradient work is cut.
    trainer: TrainerSpec,
    /// Which policies are kept.
    checkpoints: CheckpointSpec,
    /// Base against tuned on held-out prompts; `None` for a run without evaluation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    evaluation: Option<EvaluationSpec>,
    /// Rules by which the run pauses itself; `None` for a run without any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stop: Option<StopSpec>,
    /// What a run puts up with.
    limits: LimitsSpec,
    /// Local workers and leases.
    fleet: FleetSpec,
    /// Addresses.
    coordinator: CoordinatorSpec,
}

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
            .flat_map(|(section, keys)| keys().into_iter().map(move |key| (*section, key)))
    }

    /// The run's id: `run.name`.
    pub fn id(&self) -> RunId {
        RunId(self.run.name.clone())
    }

    /// What the workers of a role compute on; `None` for judges that ask servers alone. Of an ensemble, the first that is loaded.
    pub fn device(&self, role: Role) -> Option<Device> {
        match role {
            Role::Sampler | Role::Trainer => Some(self.model.device),
            Role::Judge => self.judge.models().next().map(|(_, model)| model.device),
        }
    }

    /// Fingerprint of what determines the result, as far as the keys say it. What the files and folders hold that the spec
    /// names is compared by itself ([`RunAssets`](crate::RunAssets)), so where they are is no part of it.
    pub fn digest(&self) -> Digest {
        fingerprint::of(self)
    }

    /// The keys by which two specs differ, of those that are part of [`RunSpec::digest`]: `section.key`.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        fingerprint::differences(self, other)
    }

    /// Whether this is `other` with another number of steps.
    pub fn differs_in_steps_alone(&self, other: &Self) -> bool {
        self.differences(other) == ["run.steps"]
    }

    /// These keys as people look for them: each with the files that it names here. `judge.members.template` stands for those of all
    /// members.
    pub fn with_files(&self, keys: &[&str]) -> Vec<String> {
        let mut spec = self.clone();
        let paths = paths::of(&mut spec);
        let files = |key: &str| {
            let of_key = paths.iter().filter(|(path, _)| without_index(path) == key);
            of_key.map(|(_, file)| file.display().to_string()).collect::<Vec<_>>()
        };
        let named = keys.iter().map(|key| match files(key).as_slice() {
            [] => (*key).to_owned(),
            files => format!("{key} ({})", files.join(", ")),
        });
        named.collect()
    }

    /// Every file and folder that the spec names, by its key.
    pub fn paths(&self) -> BTreeMap<String, PathBuf> {
        let mut spec = self.clone();
        let paths = paths::of(&mut spec).into_iter();
        paths.map(|(key, path)| (key, std::mem::take(path))).collect()
    }

    /// Takes the paths of `other` if it is the same run with its files elsewhere, and nothing if it is another run.
    pub fn relocate(&mut self, other: &Self) {
        if self.digest() != other.digest() {
            return;
        }
        let elsewhere = other.paths();
        for (key, path) in paths::of(self) {
            if let Some(found) = elsewhere.get(&key) {
                path.clone_from(found);
            }
        }
    }

    /// Whether workers of this role open a model on a GPU.
    pub fn uses_gpu(&self, role: Role) -> bool {
        match role {
            Role::Judge => self.judge.models().any(|(_, model)| model.device.is_gpu()),
            Role::Sampler | Role::Trainer => self.model.device.is_gpu(),
        }
    }

    /// Puts what is on a GPU on this one, by ordinal.
    pub fn place_on_gpu(&mut self, ordinal: usize) {
        for device in self.judge.devices_mut().chain([&mut self.model.device]) {
            if device.is_gpu() {
                *device = Device::Cuda(ordinal);
            }
        }
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

    /// Checks what depends on how many steps there are.
    ///
    /// # Errors
    /// There are more than a run may have, or none and no evaluation either.
    pub fn check_steps(&self) -> Result<(), Problems> {
        let mut problems = Problems::default();
        run::check_steps(self.run.steps, &mut problems);
        self.check_purpose(&mut problems);
        self.check_products(&mut problems);
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// Held-out prompts that a sampler leases at a time.
    pub fn evaluation_batch(&self) -> u32 {
        self.evaluation.as_ref().map_or(1, |evaluation| evaluation.batch)
    }

    /// Matches of one step: each candidate of a prompt against each other.
    pub fn matches_per_step(&self) -> u64 {
        let matches = rpo::match_count(self.sampling.candidates.into()) as u64;
        matches * u64::from(self.prompts.per_step)
    }

    fn check_into(&self, problems: &mut Problems) {
        self.check_sections(problems);
        problems.require(
            self.evaluation.is_none() || self.prompts.held_out.is_some(),
            "prompts.held_out",
            || "must be set when there is an `[evaluation]` section: a text file of held-out prompts".into(),
        );
        self.check_purpose(problems);
        let patience = self.stop.as_ref().and_then(|stop| stop.patience);
        let every = self.evaluation.as_ref().and_then(|evaluation| evaluation.every);
        problems.require(patience.is_none() || every.is_some(), "stop.patience", || {
            "counts probes, and there are none: set evaluation.every too".into()
        });
        let agreement = self.stop.as_ref().and_then(|stop| stop.agreement_min);
        problems.require(
            agreement.is_none() || self.judge.held_out.is_some(),
            "stop.agreement_min",
            || "looks at how often a held-out judge agrees, and there is none: add a section `[judge.held_out]`".into(),
        );
        problems.require(
            self.trainer.exchange == GradientExchange::Blobs || self.model.device.is_gpu(),
            "trainer.exchange",
            || "\"nccl\" works between NVIDIA GPUs, and model.device is the CPU: set it to \"cuda\", or this key to \"blobs\"".into(),
        );
        let uses_gpus = [Role::Judge, Role::Trainer].into_iter().any(|role| self.uses_gpu(role));
        problems.require(self.fleet.gpus.is_empty() || uses_gpus, "fleet.gpus", || {
            "names GPUs, and every model of the run is on the \"cpu\": set model.device to \"cuda\", or this key to []".into()
        });
        problems.require(
            !(self.objective.ignore_last && self.sampling.steps == 1),
            "objective.ignore_last",
            || "must be false when sampling.steps is 1: there would be no step to train".into(),
        );
        if problems.is_empty() {
            self.check_products(problems);
        }
    }

    /// A run that trains nothing evaluates.
    fn check_purpose(&self, problems: &mut Problems) {
        problems.require(self.run.steps > 0 || self.evaluation.is_some(), "run.steps", || {
            "is 0, and there is no `[evaluation]` section: the run would do nothing".into()
        });
    }

    /// Bounds what keys that are each within their bounds come to together.
    fn check_products(&self, problems: &mut Problems) {
        let (prompts, candidates) = (self.prompts.per_step, self.sampling.candidates);
        let matches = self.matches_per_step();
        let most = bounds::MATCHES_PER_STEP.most;
        problems.require(matches <= most, "prompts.per_step", || {
            format!("{prompts} prompts with sampling.candidates = {candidates} are {matches} matches in a step, at most {most} are taken")
        });
        let all = u64::from(prompts) * u64::from(candidates);
        let all = all.saturating_mul(self.run.steps.into());
        let most = bounds::CANDIDATES.most;
        problems.require(all <= most, "run.steps", || {
            format!("{} steps of {prompts} prompts with {candidates} candidates are {all} candidates, at most {most} are taken", self.run.steps)
        });
        let probed = self
            .evaluation
            .as_ref()
            .map_or(0, |evaluation| evaluation.probed_pictures(self.run.steps));
        problems.require(probed <= most, "evaluation.every", || {
            format!(
                "probes of {} steps paint {probed} pictures, at most {most} are taken",
                self.run.steps
            )
        });
    }
}

/// `judge.members[1].path` -> `judge.members.path`.
fn without_index(path: &str) -> String {
    match (path.find('['), path.find(']')) {
        (Some(open), Some(close)) => format!("{}{}", &path[..open], &path[close + 1..]),
        _ => path.to_owned(),
    }
}
