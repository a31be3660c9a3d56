//! `gavel replay`.

use std::path::PathBuf;

use clap::Args;
use gavel_core::spec::{LimitsSpec, LoraSpec, ObjectiveSpec, OptimizerSpec};
use gavel_models::load::Placement;
use gavel_models::lora::{LoraAdapter, LoraConfig};
use gavel_models::{Family, denoiser::ActivationMemory};
use gavel_policy::train::replay::{ReplaySettings, optimizer_beside, parse_rewards, read_trajectory, replay as update};
use gavel_policy::train::{PolicyState, Trainer, activation_memory};

use crate::config;
use crate::diagnostic::{Context as _, Result};
use crate::files::read_text;
use crate::output;

#[derive(Debug, Args)]
pub(crate) struct ReplayArguments {
    /// Folder of the base model, in the diffusers layout.
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Adapter to update, with the optimizer state beside it if there is one [default: a new one].
    #[arg(long, value_name = "DIR")]
    pub(crate) adapter: Option<PathBuf>,
    /// {"rewards": [..]} in the order of --trajectory, or {"rewards": {"file name": reward}}.
    #[arg(long, value_name = "FILE.json")]
    pub(crate) rewards: PathBuf,
    /// A recorded trajectory; as often as there are candidates.
    #[arg(long = "trajectory", value_name = "FILE", required = true)]
    pub(crate) trajectories: Vec<PathBuf>,
    #[arg(
        long,
        value_name = "CONFIG",
        help = "Take [lora], [objective] and [optimizer] from this configuration [default: the published recipe]"
    )]
    pub(crate) config: Option<PathBuf>,
    /// Override a key of the configuration.
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "config")]
    pub(crate) overrides: Vec<String>,
    /// Seed of a new adapter.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Folder of the new adapter and its optimizer state.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Write the mean gradient before clipping.
    #[arg(long, value_name = "OUT.safetensors")]
    pub(crate) gradients: Option<PathBuf>,
}

pub(super) fn replay(arguments: &ReplayArguments) -> Result<()> {
    let (lora, settings) = settings(arguments)?;
    let text = read_text(&arguments.rewards)?;
    let rewards =
        parse_rewards(&text, &arguments.trajectories).with_context(|| arguments.rewards.display().to_string())?;
    let trajectories = arguments
        .trajectories
        .iter()
        .map(|file| Ok(read_trajectory(file)?))
        .collect::<Result<Vec<_>>>()?;
    let family = match trajectories.first() {
        Some(trajectory) => trajectory.metadata.family,
        None => Family::of_folder(&arguments.model)?,
    };
    let trainer = Trainer::load(family, &arguments.model, &Placement::cpu())?;
    let averages = settings.optimizer.averages();
    let state = match &arguments.adapter {
        Some(dir) => {
            let adapter = LoraAdapter::load(dir, trainer.denoiser().layers())?;
            let optimizer = optimizer_beside(dir, &adapter, averages)?;
            PolicyState { adapter, optimizer }
        }
        None => trainer.initialise(&LoraConfig::from(&lora), arguments.seed, averages)?,
    };
    let replayed = update(&trainer, &state, trajectories, &rewards, &settings)?;
    std::fs::create_dir_all(&arguments.out)
        .with_context(|| format!("{}: cannot create the folder", arguments.out.display()))?;
    replayed.save(&arguments.out)?;
    if let Some(file) = &arguments.gradients {
        replayed.save_gradients(file)?;
    }
    let statistics = &replayed.statistics;
    let per_term = |sum: f64| sum / statistics.terms.max(1) as f64;
    output::tell(format_args!(
        "{} terms, loss {:.6}, kl {:.6}, clipped {}, ratio deviation {:.2e}, gradient norm {:.6}",
        statistics.terms,
        per_term(statistics.loss),
        per_term(statistics.kl),
        statistics.clipped,
        statistics.ratio_deviation,
        replayed.grad_norm
    ));
    for skipped in &replayed.skipped {
        output::tell(format_args!(
            "skipped {}: {}",
            arguments.trajectories[skipped.prompt_index.0 as usize].display(),
            skipped.reason
        ));
    }
    if let Some(deviation) = &replayed.deviation {
        output::tell(format_args!(
            "the ratio is not 1: {deviation}; expected unless the trajectories come from another adapter"
        ));
    }
    output::tell(arguments.out.display());
    Ok(())
}

fn settings(arguments: &ReplayArguments) -> Result<(LoraSpec, ReplaySettings)> {
    let settings = |objective, optimizer, memory, ratio_deviation| ReplaySettings {
        objective,
        optimizer,
        memory,
        ratio_deviation,
    };
    Ok(match &arguments.config {
        Some(file) => {
            let spec = config::load_file(file, &arguments.overrides)?;
            let memory = activation_memory(&spec.trainer);
            (
                spec.lora,
                settings(spec.objective, spec.optimizer, memory, spec.limits.ratio_deviation),
            )
        }
        None => {
            let limits = LimitsSpec::default();
            let recipe = (ObjectiveSpec::default(), OptimizerSpec::default());
            (
                LoraSpec::default(),
                settings(recipe.0, recipe.1, ActivationMemory::KeepAll, limits.ratio_deviation),
            )
        }
    })
}
