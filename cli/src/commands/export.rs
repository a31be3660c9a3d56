//! `gavel export`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use gavel_core::ids::Step;
use gavel_core::spec::Dtype;
use gavel_review::{Export, Format, RunSource, Weights};

use super::dtype::DtypeArgument;
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
    /// Who is to read it.
    #[arg(long, value_enum, default_value = "peft")]
    pub(crate) format: FormatArgument,
    /// Number format of the adapter's weights; merged weights keep the base's [default: f32].
    #[arg(long, value_enum)]
    pub(crate) dtype: Option<DtypeArgument>,
    /// Folder of the base model, in the diffusers layout, read for `kohya` and `merged` [default: the run's `model.path`].
    #[arg(long, value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
    /// What the model card calls the base, as a model hub knows it [default: by the model's folder].
    #[arg(long, value_name = "OWNER/NAME")]
    pub(crate) base_model: Option<String>,
    /// The new folder.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

/// The layouts of an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormatArgument {
    /// A folder for peft, which diffusers loads too.
    Peft,
    /// One file for diffusers.
    Diffusers,
    /// One file for ComfyUI and kohya's scripts.
    Kohya,
    /// The denoiser's own folder, with the adapter merged into its weights.
    Merged,
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

/// The layout with its number format, where it has the choice.
fn format(arguments: &ExportArguments) -> Result<Format> {
    let dtype = arguments.dtype.map_or(Dtype::F32, Dtype::from);
    Ok(match arguments.format {
        FormatArgument::Peft => Format::Peft(dtype),
        FormatArgument::Diffusers => Format::Diffusers(dtype),
        FormatArgument::Kohya => Format::Kohya(dtype),
        FormatArgument::Merged if arguments.dtype.is_some() => {
            return Err(
                Diagnostic::new("merged weights have the number format of the base").with_hint("leave --dtype out")
            );
        }
        FormatArgument::Merged => Format::Merged,
    })
}

pub(super) fn export(arguments: &ExportArguments) -> Result<()> {
    let out = &arguments.out;
    if out.is_dir() && out.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(
            Diagnostic::new(format!("{} is not empty", out.display())).with_hint("name a new folder with --out")
        );
    }
    let source = arguments.source.open()?;
    let (step, format) = (arguments.step, format(arguments)?);
    let exported = block_on(async {
        let step = match step {
            Some(step) => Some(step.of(source.as_ref()).await?),
            None => None,
        };
        let what = Export {
            step,
            weights: arguments.weights.into(),
            format,
            model: arguments.model.clone(),
            base_model: arguments.base_model.clone(),
        };
        Ok(gavel_review::export(source.as_ref(), &what, out).await?)
    })
    .with_context(|| format!("{}: nothing was exported", arguments.source.run.display()))?;
    output::tell(format_args!("step {}, adapter {}", exported.step, exported.digest));
    output::tell(out.display());
    Ok(())
}
