//! `gavel run`: the whole fleet on one machine, until the report is written.

mod children;
mod folder;
mod follow;
mod history;
mod machine;
mod progress;

use std::process::ExitCode;

use anyhow::Context as _;
use gavel_client::Runs;
use gavel_core::ids::Step;
use gavel_core::run::{Phase, RunStatus};
use gavel_core::spec::RunSpec;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::args::RunArguments;
use crate::assets::Files;
use crate::commands::block_on;
use crate::fault::Fault;
use crate::{client, config, preflight, report};
use children::{CoordinatorProcess, Fleet};
pub(crate) use folder::RunFolder;
pub(crate) use follow::follow;
pub(crate) use history::History;
pub(crate) use machine::{Machine, Usage, peak_memory_bytes, usage};
pub(crate) use progress::Progress;

/// The exit status of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// Runs a configuration from start or, with `--resume`, from its last commit.
///
/// # Errors
/// Whatever keeps the run from its report. What is committed stays in the folder.
pub(crate) fn run(arguments: &RunArguments) -> anyhow::Result<ExitCode> {
    let spec = load(arguments)?;
    config::check_build(&spec)?;
    let out = config::out_folder(&spec, arguments.out.as_deref());
    let files = preflight::preflight(&spec, &out, arguments.resume)?;
    let folder = if arguments.resume {
        RunFolder::resume(&out, &spec)?
    } else {
        RunFolder::create(&out, &spec)?
    };
    let threads = arguments.threads.unwrap_or_else(|| Machine::this().cores.min(2));
    block_on(async {
        let mut signals = Signals::new()?;
        drive(&spec, &files, &folder, threads, &mut signals).await
    })
    .and_then(|ended| conclude(ended, arguments, &folder))
}

fn load(arguments: &RunArguments) -> anyhow::Result<RunSpec> {
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

/// How a run of the program ended.
enum Ended {
    Finished,
    Halted { phase: Phase, step: Step },
    Interrupted { step: u32 },
}

async fn drive(
    spec: &RunSpec,
    files: &Files,
    folder: &RunFolder,
    threads: usize,
    signals: &mut Signals,
) -> anyhow::Result<Ended> {
    let mut progress = Progress::start(spec.run.steps);
    let mut coordinator = CoordinatorProcess::start(spec, folder).await?;
    let connection = client::connect(&coordinator.ready.grpc).await?;
    client::submit(&connection, spec, files).await?;
    client::resume(&connection, &spec.id()).await?;
    progress.say(&format!("dashboard    {}", coordinator.ready.http));
    progress.say(&format!("results      {}", folder.path().display()));
    let runs = connection.runs();
    let mut fleet = Fleet::start(spec, &coordinator.ready.grpc, folder, threads);

    let followed = tokio::select! {
        ended = show(spec, &runs, folder, &mut progress) => ended,
        failure = fleet.failure() => Err(failure),
        failure = coordinator.failure() => Err(failure),
        () = signals.next() => Ok(None),
    };
    progress.end();
    if matches!(followed, Ok(None)) {
        println!("finishing what is at work; Ctrl-C again ends at once");
    }
    tokio::select! {
        () = async { fleet.stop().await; coordinator.stop().await } => {}
        () = signals.next() => {}
    }
    match followed? {
        None => Ok(Ended::Interrupted { step: progress.step() }),
        Some(status) if status.phase == Phase::Finished => {
            report::write(folder, spec).await.context("cannot write the report")?;
            Ok(Ended::Finished)
        }
        Some(status) => Ok(Ended::Halted {
            phase: status.phase,
            step: status.step,
        }),
    }
}

/// Shows the run's states until it has ended, and writes checkpoints as they come. A coordinator that is away is waited for:
/// it is being started again.
async fn show(
    spec: &RunSpec,
    runs: &Runs,
    folder: &RunFolder,
    progress: &mut Progress,
) -> anyhow::Result<Option<RunStatus>> {
    let each = async |status: &RunStatus| {
        progress.update(status);
        match status.policy.as_ref().filter(|_| is_checkpoint(spec, status.step.0)) {
            Some(policy) => folder.write_checkpoint(spec, status.step, policy).await,
            None => Ok(()),
        }
    };
    follow(runs, &spec.id(), None, each).await.map(Some)
}

/// Whether a step's policy belongs into `checkpoints/`.
pub(crate) fn is_checkpoint(spec: &RunSpec, step: u32) -> bool {
    spec.checkpoints.every > 0 && step > 0 && step.is_multiple_of(spec.checkpoints.every)
}

fn conclude(ended: Ended, arguments: &RunArguments, folder: &RunFolder) -> anyhow::Result<ExitCode> {
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
            Err(Fault::new(format!("the run {what} after step {step}: {reason}"))
                .with_hint(format!(
                    "what is committed is kept; {} tells more; once the cause is gone, go on with: {again}",
                    folder.logs().display()
                ))
                .into())
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

/// Ctrl-C and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
