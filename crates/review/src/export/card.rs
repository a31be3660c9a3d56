//! The model card of an exported adapter: what it is, what it needs, and how it came to be, for people and for the hubs that list models.

use std::path::{Component, Path};
use std::time::{Duration, UNIX_EPOCH};

use gavel_core::ids::{Digest, Millis, Step};
use gavel_core::run::Run;
use gavel_core::spec::{JudgeBackEnd, RunSpec};
use minijinja::{Environment, context};

use super::{Export, Format};
use crate::Error;

/// Where hubs look for a model's card.
pub(super) const FILE: &str = "README.md";

/// What a card tells.
pub(super) struct Card<'a> {
    pub(super) run: &'a Run,
    pub(super) step: Step,
    /// When the step was committed.
    pub(super) committed: Option<Millis>,
    /// Whether this is the adapter that the run compared with its base.
    pub(super) evaluated: bool,
    pub(super) adapter: Digest,
    pub(super) export: &'a Export,
}

impl Card<'_> {
    pub(super) fn render(&self) -> Result<String, Error> {
        let spec = self.run.spec();
        let named = self.export.base_model.clone();
        let base = named.or_else(|| on_a_hub(&spec.model.path));
        let edits = self.run.assets().prompts.iter().any(|task| !task.sources.is_empty());
        let win_rate = self
            .run
            .status(Millis(0))
            .evaluation
            .and_then(|evaluation| evaluation.win_rate);
        let (format, dtype) = match self.export.format {
            Format::Peft(dtype) => ("peft", Some(dtype)),
            Format::Diffusers(dtype) => ("diffusers", Some(dtype)),
            Format::Kohya(dtype) => ("kohya", Some(dtype)),
            Format::Merged => ("merged", None),
        };
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_keep_trailing_newline(true);
        let card = environment.render_str(
            include_str!("card.md"),
            context! {
                // A string of JSON is one of YAML.
                base_model => base.as_ref().map(serde_json::to_string).transpose()?,
                base => base.unwrap_or_else(|| last_part(&spec.model.path)),
                family => spec.model.family.as_str(),
                pipeline => if edits { "image-to-image" } else { "text-to-image" },
                library => if format == "peft" { "peft" } else { "diffusers" },
                format,
                dtype => dtype,
                file => format!("{}.safetensors", self.run.id().0),
                run => self.run.id().0,
                rank => spec.lora.rank,
                alpha => spec.lora.alpha,
                targets => spec.lora.target_modules.join("`, `"),
                step => self.step.0,
                steps => spec.run.steps,
                averaged => self.export.weights == super::Weights::Averaged && spec.optimizer.averages(),
                per_step => spec.prompts.per_step,
                candidates => spec.sampling.candidates,
                kl => spec.objective.kl_beta,
                learning_rate => spec.optimizer.learning_rate,
                width => spec.sampling.width,
                height => spec.sampling.height,
                judge => judge(spec),
                rubric => self.run.assets().rubric.digest.to_string(),
                win_rate => self.evaluated.then_some(win_rate).flatten(),
                date => self.committed.map(date),
                adapter => self.adapter.to_string(),
                start => self.run.assets().initial_adapter.map(|adapter| adapter.to_string()),
                spec => self.run.spec_sha256().to_string(),
                version => env!("CARGO_PKG_VERSION"),
            },
        );
        Ok(card?)
    }
}

/// The name that a hub gives the model of a folder in the hub's own cache: `models--owner--name`.
fn on_a_hub(model: &Path) -> Option<String> {
    model.components().rev().find_map(|component| {
        let name = component.as_os_str().to_str()?.strip_prefix("models--")?;
        let (owner, name) = name.split_once("--")?;
        Some(format!("{owner}/{name}"))
    })
}

fn last_part(model: &Path) -> String {
    let named = |component: Component| match component {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        _ => None,
    };
    model.components().rev().find_map(named).unwrap_or_default()
}

/// The judge in a few words.
fn judge(spec: &RunSpec) -> String {
    let names: Vec<String> = spec
        .judge
        .back_ends()
        .filter_map(|back_end| match back_end {
            JudgeBackEnd::InProcess(judge) => Some(on_a_hub(&judge.path).unwrap_or_else(|| last_part(&judge.path))),
            JudgeBackEnd::Clip(clip) => Some(on_a_hub(&clip.path).unwrap_or_else(|| last_part(&clip.path))),
            JudgeBackEnd::Server(server) => Some(server.model.clone()),
            JudgeBackEnd::Scorer(_) => Some("scores of a server".to_owned()),
            JudgeBackEnd::Evaluator(rules) => Some(gavel_eval::named(rules.evaluator).name().to_owned()),
            JudgeBackEnd::Ensemble(_) => None,
        })
        .collect();
    names.join(", ")
}

/// The day in UTC, as 2026-01-31.
fn date(at: Millis) -> String {
    let moment = UNIX_EPOCH + Duration::from_millis(at.0);
    let text = humantime::format_rfc3339_seconds(moment).to_string();
    text.split_once('T').map_or(text.clone(), |(day, _)| day.to_owned())
}
