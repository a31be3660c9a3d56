//! `gavel run`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use gavel_core::run::Phase;
use gavel_core::spec::RunSpec;
use gavel_review::{Machine, RunFolder, report};

use crate::config::{self, ConfigArguments};
use crate::diagnostic::{Diagnostic, Result};
use crate::preflight;
use crate::run::{Ended, run as run_fleet};
use crate::runtime::block_on;

/// The exit status of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    #[command(flatten)]
    pub(crate) config: ConfigArguments,
    /// Sampler processes, instead of fleet.samplers.
    #[arg(long, value_name = "N")]
    pub(crate) samplers: Option<u32>,
    /// Judge processes, instead of fleet.judges.
    #[arg(long, value_name = "N")]
    pub(crate) judges: Option<u32>,
    /// Trainer processes, instead of fleet.trainers.
    #[arg(long, value_name = "N")]
    pub(crate) trainers: Option<u32>,
    /// Folder of the run's results [default: runs/<run.name>].
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Go on with the run that the folder holds.
    #[arg(long)]
    pub(crate) resume: bool,
    /// CPU threads of each process [default: 2, or fewer where the machine has fewer].
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
}

/// Runs a configuration from start or, with `--resume`, from its last commit.
pub(super) fn run(arguments: &RunArguments) -> Result<ExitCode> {
    let spec = load(arguments)?;
    config::check_build(&spec)?;
    let out = config::out_folder(&spec, arguments.out.as_deref());
    let files = preflight::preflight(&spec, &out, arguments.resume)?;
    let folder = if arguments.resume {
        block_on(async { Ok(RunFolder::resume(&out, &spec, &files.assets).await?) })?
    } else {
        RunFolder::create(&out, &spec)?
    };
    let threads = arguments.threads.unwrap_or_else(|| Machine::this().cores.min(2));
    let ended = run_fleet(&spec, &files, &folder, threads)?;
    conclude(ended, arguments, &folder)
}

fn load(arguments: &RunArguments) -> Result<RunSpec> {
    let mut overrides = arguments.config.overrides.clone();
    for (key, count) in [
        ("samplers", arguments.samplers),
        ("judges", arguments.judges),
        ("trainers", arguments.trainers),
    ] {
        overrides.extend(count.map(|count| format!("fleet.{key}={count}")));
    }
    config::load_file(&arguments.config.file, &overrides)
}

fn conclude(ended: Ended, arguments: &RunArguments, folder: &RunFolder) -> Result<ExitCode> {
    let again = again(arguments);
    match ended {
        Ended::Finished => {
            println!("{}", report::summary(folder)?);
            Ok(ExitCode::SUCCESS)
        }
        Ended::Interrupted { step } => {
            println!("stopped after step {step}; go on with: {again}");
            Ok(ExitCode::from(INTERRUPTED))
        }
        Ended::Halted { phase, step } => {
            let (what, reason) = match &phase {
                Phase::Failed { reason } => ("failed", reason.as_str()),
                Phase::Stopped { reason } => ("was stopped", reason.as_str()),
                _ => ("ended", "for a reason that this version does not know"),
            };
            Err(
                Diagnostic::new(format!("the run {what} after step {step}: {reason}")).with_hint(format!(
                    "what is committed is kept; {} tells more; once the cause is gone, go on with: {again}",
                    folder.logs().display()
                )),
            )
        }
    }
}

/// The command that goes on with this run.
fn again(arguments: &RunArguments) -> String {
    let mut command = format!("gavel run {}", arguments.config.file.display());
    for entry in &arguments.config.overrides {
        command += &format!(" --set '{entry}'");
    }
    if let Some(out) = &arguments.out {
        command += &format!(" --out {}", out.display());
    }
    command + " --resume"
}
