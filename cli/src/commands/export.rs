//! `gavel export`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use gavel_core::ids::Step;
use gavel_review::Weights;

use super::source::SourceArguments;
use crate::diagnostic::{Context as _, Diagnostic, Result};
use crate::output;
use crate::runtime::block_on;

#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    #[command(flatten)]
    pub(crate) source: SourceArguments,
    /// The step that committed the adapter; 0 is the initial one [default: the latest].
    #[arg(long, value_name = "N")]
    pub(crate) step: Option<u32>,
    /// Which of the step's adapters, where the run keeps an average.
    #[arg(long, value_enum, default_value = "averaged")]
    pub(crate) weights: WeightsArgument,
    /// The new folder.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

/// The adapters of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum WeightsArgument {
    /// The moving average, which evaluation and the final folder use.
    Averaged,
    /// What the next step starts from.
    Trained,
}

impl From<WeightsArgument> for Weights {
    fn from(weights: WeightsArgument) -> Self {
        match weights {
            WeightsArgument::Averaged => Self::Averaged,
            WeightsArgument::Trained => Self::Trained,
        }
    }
}

pub(super) fn export(arguments: &ExportArguments) -> Result<()> {
    let out = &arguments.out;
    if out.is_dir() && out.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(
            Diagnostic::new(format!("{} is not empty", out.display())).with_hint("name a new folder with --out")
        );
    }
    let source = arguments.source.open()?;
    let (step, weights) = (arguments.step.map(Step), arguments.weights.into());
    let exported = block_on(async { Ok(gavel_review::export(source.as_ref(), step, weights, out).await?) })
        .with_context(|| format!("{}: nothing was exported", arguments.source.run.display()))?;
    output::tell(format_args!("step {}, adapter {}", exported.step, exported.digest));
    output::tell(out.display());
    Ok(())
}
