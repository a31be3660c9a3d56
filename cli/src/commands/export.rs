//! `gavel export`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use gavel_core::ids::Step;
use gavel_review::{RunSource, Weights};

use super::source::SourceArguments;
use crate::diagnostic::{Context as _, Diagnostic, Result};
use crate::output;
use crate::runtime::block_on;

#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    #[command(flatten)]
    pub(crate) source: SourceArguments,
    /// The step that committed the adapter, or `best`: the probed one with the highest win rate; 0 is the initial one [default: the latest].
    #[arg(long, value_name = "N")]
    pub(crate) step: Option<StepArgument>,
    /// Which of the step's adapters, where the run keeps an average.
    #[arg(long, value_enum, default_value = "averaged")]
    pub(crate) weights: WeightsArgument,
    /// The new folder.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

/// Which step's adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StepArgument {
    Number(Step),
    Best,
}

impl FromStr for StepArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "best" => Ok(Self::Best),
            number => {
                let number = number
                    .parse()
                    .map_err(|_| "expected a step's number, or `best`".to_owned())?;
                Ok(Self::Number(Step(number)))
            }
        }
    }
}

impl StepArgument {
    /// The step that is meant.
    async fn of(self, source: &dyn RunSource) -> Result<Step> {
        match self {
            Self::Number(step) => Ok(step),
            Self::Best => source.run().await?.best().ok_or_else(|| {
                Diagnostic::new("no step of the run is the best: no probe is judged to the end")
                    .with_hint("a run has probes with `evaluation.every`; name a step by its number")
            }),
        }
    }
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
    let (step, weights) = (arguments.step, arguments.weights.into());
    let exported = block_on(async {
        let step = match step {
            Some(step) => Some(step.of(source.as_ref()).await?),
            None => None,
        };
        Ok(gavel_review::export(source.as_ref(), step, weights, out).await?)
    })
    .with_context(|| format!("{}: nothing was exported", arguments.source.run.display()))?;
    output::tell(format_args!("step {}, adapter {}", exported.step, exported.digest));
    output::tell(out.display());
    Ok(())
}
