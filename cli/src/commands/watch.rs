//! `gavel watch`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use gavel_client::Runs;
use gavel_core::ids::{Millis, RunId};
use gavel_core::run::{Phase, RunStatus};
use gavel_review::metrics::Metrics;
use gavel_review::{RunFolder, RunSource as _};

use super::connect::Connect;
use super::status::describe;
use crate::client;
use crate::diagnostic::{Diagnostic, Result};
use crate::output;
use crate::run::{Lines, Progress, credentials_of, follow};
use crate::runtime::block_on;

#[derive(Debug, Args)]
pub(crate) struct WatchArguments {
    /// A run's folder or its name in runs/, its name on the coordinator at --connect, or the address of a coordinator with one run.
    #[arg(value_name = "RUN_OR_ADDRESS")]
    pub(crate) what: Option<String>,
    #[command(flatten)]
    pub(crate) connect: Connect,
    /// Write each step's figures to this file, one line of JSON a step.
    #[arg(long, value_name = "FILE")]
    pub(crate) metrics: Option<PathBuf>,
    /// Write them to this folder, for TensorBoard.
    #[arg(long, value_name = "DIR")]
    pub(crate) tensorboard: Option<PathBuf>,
}

/// A coordinator is started again within this time, or not at all.
const PATIENCE: Duration = Duration::from_secs(20);

/// Follows a run until it ends; the exit status is 1 when it did not finish.
pub(super) fn watch(arguments: &WatchArguments) -> Result<ExitCode> {
    let mut metrics = Metrics::begin(arguments.metrics.as_deref(), arguments.tensorboard.as_deref())?;
    let status = block_on(async {
        match target(arguments) {
            Target::Folder(folder) => watch_folder(&folder, &mut metrics).await,
            Target::Run(run) => {
                let runs = arguments.connect.open().await?.runs();
                watch_run(&runs, &RunId(run.to_owned()), &mut metrics).await
            }
            Target::Address(address) => {
                let runs = arguments.connect.open_at(address).await?.runs();
                let run = choose(&runs.list().await?, address)?;
                watch_run(&runs, &run, &mut metrics).await
            }
        }
    })?;
    output::print(describe(&status))?;
    Ok(match status.phase {
        Phase::Finished => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

enum Target<'a> {
    Folder(Box<RunFolder>),
    Run(&'a str),
    Address(&'a str),
}

/// What has a colon is an address, which no run's name has; a folder that `gavel run` wrote knows its coordinator.
fn target(arguments: &WatchArguments) -> Target<'_> {
    match &arguments.what {
        Some(address) if address.contains(':') => Target::Address(address),
        Some(run) => match RunFolder::open(Path::new(run)) {
            Ok(folder) => Target::Folder(Box::new(folder)),
            Err(_) => Target::Run(run),
        },
        None => Target::Address(&arguments.connect.addresses),
    }
}

async fn watch_run(runs: &Runs, run: &RunId, metrics: &mut Metrics) -> Result<RunStatus> {
    let first = runs.status(run).await?;
    let mut progress = Progress::start(first.steps_total, Lines::Printed);
    let each = async |status: &RunStatus| {
        metrics.note(status)?;
        progress.update(status)
    };
    let ended = follow(runs, run, Some(PATIENCE), each).await;
    progress.end();
    ended
}

/// Follows the run by its coordinator; where none serves any more, the ledger tells how the run ended.
async fn watch_folder(folder: &RunFolder, metrics: &mut Metrics) -> Result<RunStatus> {
    let id = folder.spec().id();
    if let Some(addresses) = folder.coordinator()
        && let Ok(coordinator) = client::connect_to_own(&addresses.grpc, credentials_of(folder)?).await
        && coordinator.runs().status(&id).await.is_ok()
    {
        // A coordinator that ends with its run may be gone before it has told the end.
        if let Ok(status) = watch_run(&coordinator.runs(), &id, metrics).await {
            return Ok(status);
        }
    }
    let run = folder.run().await?;
    if run.phase().is_ended() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let status = run.status(Millis(now.as_millis() as u64));
        metrics.note(&status)?;
        return Ok(status);
    }
    Err(Diagnostic::new(format!(
        "run `{}` stands after step {}, and no coordinator serves it",
        run.id(),
        run.committed()
    ))
    .with_hint("`gavel run` with its configuration and --resume lets it go on"))
}

/// The only run, or the only one that goes on.
fn choose(runs: &[RunStatus], address: &str) -> Result<RunId> {
    let going: Vec<&RunStatus> = runs.iter().filter(|run| !run.phase.is_ended()).collect();
    match (going.as_slice(), runs) {
        ([run], _) => Ok(run.run.clone()),
        ([], [run]) => Ok(run.run.clone()),
        ([], []) => Err(Diagnostic::new(format!("the coordinator at {address} has no run"))
            .with_hint("`gavel submit` hands it one")),
        _ => {
            let names: Vec<&str> = runs.iter().map(|run| run.run.0.as_str()).collect();
            Err(Diagnostic::new(format!(
                "the coordinator at {address} has several runs: {}",
                names.join(", ")
            ))
            .with_hint("name one of them: gavel watch RUN --connect ADDRESS"))
        }
    }
}
