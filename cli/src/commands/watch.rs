//! `gavel watch`.

use std::process::ExitCode;
use std::time::Duration;

use gavel_core::ids::RunId;
use gavel_core::run::{Phase, RunStatus};

use super::block_on;
use super::status::describe;
use crate::args::WatchArguments;
use crate::client::Client;
use crate::fault::Fault;
use crate::run::{Progress, follow};

/// A coordinator is started again within this time, or not at all.
const PATIENCE: Duration = Duration::from_secs(60);

/// Follows a run until it ends; the exit status is 1 when it did not finish.
pub(super) fn watch(arguments: &WatchArguments) -> anyhow::Result<ExitCode> {
    let (address, run) = target(arguments);
    let status = block_on(async {
        let client = Client::connect(address).await?;
        let run = match run {
            Some(run) => run,
            None => choose(&client.list().await?, address)?,
        };
        let first = client.status(&run).await?;
        let mut progress = Progress::start(first.steps_total);
        let each = async |status: &RunStatus| {
            progress.update(status);
            Ok(())
        };
        let ended = follow(&client, &run, Some(PATIENCE), each).await;
        progress.end();
        ended
    })?;
    print!("{}", describe(&status));
    Ok(match status.phase {
        Phase::Finished => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// The coordinator's address, and the run if one is named: what has a colon is an address, which no run's name has.
fn target(arguments: &WatchArguments) -> (&str, Option<RunId>) {
    match &arguments.run_or_address {
        Some(address) if address.contains(':') => (address, None),
        Some(run) => (&arguments.connect, Some(RunId(run.clone()))),
        None => (&arguments.connect, None),
    }
}

/// The only run, or the only one that goes on.
fn choose(runs: &[RunStatus], address: &str) -> Result<RunId, Fault> {
    let going: Vec<&RunStatus> = runs.iter().filter(|run| !run.phase.is_ended()).collect();
    match (going.as_slice(), runs) {
        ([run], _) => Ok(run.run.clone()),
        ([], [run]) => Ok(run.run.clone()),
        ([], []) => {
            Err(Fault::new(format!("the coordinator at {address} has no run")).with_hint("`gavel submit` hands it one"))
        }
        _ => {
            let names: Vec<&str> = runs.iter().map(|run| run.run.0.as_str()).collect();
            Err(Fault::new(format!(
                "the coordinator at {address} has several runs: {}",
                names.join(", ")
            ))
            .with_hint("name one of them: gavel watch RUN --connect ADDRESS"))
        }
    }
}
