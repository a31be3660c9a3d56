//! `gavel run`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use clap::builder::RangedU64ValueParser;
use gavel_core::run::Phase;
use gavel_review::metrics::{JSONL_FILE, Metrics};
use gavel_review::{Machine, RunFolder, report};

use crate::config::{self, ConfigArguments, FleetArguments};
use crate::diagnostic::{Diagnostic, Result};
use crate::output;
use crate::preflight;
use crate::run::{Ended, ExposureArguments, lock, run as run_fleet};
use crate::runtime::block_on;
use crate::shell;

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    #[command(flatten)]
    pub(crate) config: ConfigArguments,
    #[command(flatten)]
    pub(crate) fleet: FleetArguments,
    /// Folder of the run's results [default: runs/<run.name>].
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Write the steps' figures for TensorBoard too, to tensorboard/ in the run's folder; metrics.jsonl is always written.
    #[arg(long)]
    pub(crate) tensorboard: bool,
    /// Go on with the run that the folder holds.
    #[arg(long)]
    pub(crate) resume: bool,
    /// CPU threads of each process [default: 2, or fewer where the machine has fewer].
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=1024))]
    pub(crate) threads: Option<usize>,
    #[command(flatten)]
    pub(crate) exposure: ExposureArguments,
}

/// Runs a configuration from start or, with `--resume`, from its last commit.
pub(super) fn run(arguments: &RunArguments) -> Result<ExitCode> {
    let spec = config::load_with(&arguments.config, arguments.fleet)?;
    config::check_build(&spec)?;
    let out = config::out_folder(&spec, arguments.out.as_deref());
    // A run that goes on there is told of before its ports are found taken. A folder is only made when all else is well.
    let mut locked = out.is_dir().then(|| lock(&out)).transpose()?;
    let files = preflight::preflight(&spec, &out, arguments.resume)?;
    if locked.is_none() && !arguments.resume {
        locked = Some(lock(&out)?);
    }
    let folder = if arguments.resume {
        block_on(async { Ok(RunFolder::resume(&out, &spec, &files.assets).await?) })?
    } else {
        RunFolder::create(&out, &spec)?
    };
    let threads = arguments.threads.unwrap_or_else(|| Machine::this().cores.min(2));
    let board = arguments.tensorboard.then(|| folder.path().join("tensorboard"));
    let metrics = Metrics::begin(Some(&folder.path().join(JSONL_FILE)), board.as_deref())?;
    let ended = run_fleet(&spec, &files, &folder, metrics, threads, &arguments.exposure)?;
    drop(locked);
    conclude(ended, arguments, &folder)
}

fn conclude(ended: Ended, arguments: &RunArguments, folder: &RunFolder) -> Result<ExitCode> {
    let again = again(arguments, &config::variables());
    match ended {
        Ended::Finished => {
            output::tell(report::summary(folder.path())?);
            Ok(ExitCode::SUCCESS)
        }
        Ended::Interrupted { signal, step } => {
            output::tell(format_args!("stopped after step {step}; go on with: {again}"));
            Ok(ExitCode::from(signal.exit_status()))
        }
        Ended::Halted { phase, step } => {
            let (what, reason) = match &phase {
                Phase::Paused { reason } => ("is paused", reason.as_str()),
                Phase::Failed { reason } => ("failed", reason.as_str()),
                Phase::Stopped { reason } => ("was stopped", reason.as_str()),
                _ => ("ended", "for a reason that this version does not know"),
            };
            let hint = match &phase {
                Phase::Paused { .. } => format!("what is committed is kept; go on with: {again}"),
                _ => format!(
                    "what is committed is kept; {} tells more; once the cause is gone, go on with: {again}",
                    folder.logs().display()
                ),
            };
            Err(Diagnostic::new(format!("the run {what} after step {step}: {reason}")).with_hint(hint))
        }
    }
}

/// The command that goes on with this run, to be pasted into a shell: the one that was given, with every option and with the
/// variables that override keys.
fn again(arguments: &RunArguments, variables: &[(String, String)]) -> String {
    let RunArguments {
        config: ConfigArguments {
            file: config,
            overrides,
        },
        fleet: FleetArguments {
            samplers,
            judges,
            trainers,
        },
        out,
        tensorboard,
        resume: _,
        threads,
        exposure:
            ExposureArguments {
                tls_cert,
                tls_key,
                tls_ca,
                tokens,
                insecure,
            },
    } = arguments;
    let file = |file: &Option<PathBuf>| file.as_ref().map(|file| file.display().to_string());
    let mut words = vec!["gavel".to_owned(), "run".to_owned(), config.display().to_string()];
    for entry in overrides {
        words.extend(["--set".to_owned(), entry.clone()]);
    }
    let options = [
        ("--samplers", samplers.as_ref().map(u32::to_string)),
        ("--judges", judges.as_ref().map(u32::to_string)),
        ("--trainers", trainers.as_ref().map(u32::to_string)),
        ("--threads", threads.as_ref().map(usize::to_string)),
        ("--out", file(out)),
        ("--tls-cert", file(tls_cert)),
        ("--tls-key", file(tls_key)),
        ("--tls-ca", file(tls_ca)),
        ("--tokens", file(tokens)),
    ];
    for (option, value) in options {
        words.extend(value.into_iter().flat_map(|value| [option.to_owned(), value]));
    }
    words.extend(tensorboard.then(|| "--tensorboard".to_owned()));
    words.extend(insecure.then(|| "--insecure".to_owned()));
    words.push("--resume".to_owned());
    let variables = variables
        .iter()
        .map(|(name, text)| format!("{name}={} ", shell::word(text)));
    variables.collect::<String>() + &shell::command(words.iter().map(String::as_str))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::commands::{Arguments, Command};

    fn parsed<S: AsRef<str>>(words: &[S]) -> RunArguments {
        match Arguments::try_parse_from(words.iter().map(AsRef::as_ref))
            .unwrap()
            .command
        {
            Command::Run(arguments) => arguments,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_that_goes_on_says_all_that_the_first_one_said_to_a_shell() {
        let first = [
            "gavel",
            "run",
            "my files/it's mine.toml",
            "--set",
            "run.name=a b",
            "--set",
            "lora.target_modules=[\"attn.to_q\"]",
            "--samplers",
            "2",
            "--judges",
            "0",
            "--trainers",
            "3",
            "--threads",
            "4",
            "--out",
            "my runs/$HOME",
            "--tls-cert",
            "server.pem",
            "--tls-key",
            "server.key",
            "--tls-ca",
            "ca.pem",
            "--tokens",
            "tokens.toml",
            "--tensorboard",
            "--insecure",
        ];
        let command = again(&parsed(&first), &[]);
        let words = shlex::split(&command).unwrap();
        let expected = RunArguments {
            resume: true,
            ..parsed(&first)
        };
        assert_eq!(format!("{:?}", parsed(&words)), format!("{expected:?}"), "{command}");
        assert_eq!(again(&expected, &[]), command, "resumed once more");
    }

    #[test]
    fn variables_that_override_keys_stand_before_the_command() {
        let first = ["gavel", "run", "configs/quickstart.toml", "--samplers", "2"];
        let command = "gavel run configs/quickstart.toml --samplers 2 --resume";
        assert_eq!(again(&parsed(&first), &[]), command);
        let variables = [("GAVEL__RUN__NAME".to_owned(), "a b".to_owned())];
        let command = format!("GAVEL__RUN__NAME='a b' {command}");
        assert_eq!(again(&parsed(&first), &variables), command);
    }
}
