//! `gavel verify`.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use gavel_core::ids::Step;
use gavel_review::verify::{Part, Progress, VerifyOptions, verify as verify_step};

use super::print_json;
use super::source::SourceArguments;
use crate::diagnostic::Result;
use crate::output;

#[derive(Debug, Args)]
pub(crate) struct VerifyArguments {
    #[command(flatten)]
    pub(crate) source: SourceArguments,
    /// The step to do again [default: the latest committed one].
    #[arg(long, value_name = "N")]
    pub(crate) step: Option<u32>,
    /// Only this part of the step; may be given several times [default: all].
    #[arg(long, value_enum)]
    pub(crate) part: Vec<PartArgument>,
    /// Where the base model is now, if not where the run found it.
    #[arg(long, value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
    /// Where the judge's model is now, if not where the run found it; a held-out judge of the same folder is there too.
    #[arg(long, value_name = "DIR")]
    pub(crate) judge: Option<PathBuf>,
    /// Print the findings as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// A part of a step, in the order in which they are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PartArgument {
    /// The initial policy; part of step 1.
    Initialise,
    /// Trajectories and images.
    Sample,
    /// Verdicts.
    Judge,
    /// Verdicts of the held-out judge.
    #[value(name = "held_out")]
    HeldOut,
    /// Gradient sums.
    Gradient,
    /// The new policy.
    Commit,
}

impl From<PartArgument> for Part {
    fn from(part: PartArgument) -> Self {
        match part {
            PartArgument::Initialise => Self::Initialise,
            PartArgument::Sample => Self::Sample,
            PartArgument::Judge => Self::Judge,
            PartArgument::HeldOut => Self::HeldOut,
            PartArgument::Gradient => Self::Gradient,
            PartArgument::Commit => Self::Commit,
        }
    }
}

/// Prints what was the same, part by part; the exit status is 1 when something is not confirmed.
pub(super) fn verify(arguments: &VerifyArguments) -> Result<ExitCode> {
    let source = arguments.source.open()?;
    let options = VerifyOptions {
        step: arguments.step.map(Step),
        parts: arguments.part.iter().copied().map(Part::from).collect(),
        model: arguments.model.clone(),
        judge: arguments.judge.clone(),
    };
    let mut printed = Ok(());
    let report = verify_step(source.as_ref(), &options, |progress| {
        printed = match progress {
            _ if arguments.json => Ok(()),
            Progress::Begun(report) => output::print_line(report.head()),
            Progress::Done(part) => output::print_line(part.line()),
        };
        match printed {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    printed?;
    if arguments.json {
        print_json(&report)?;
    } else {
        output::print(report.conclusion())?;
    }
    Ok(ExitCode::from(u8::from(!report.confirmed)))
}
