//! `gavel extend`.

use clap::Args;
use gavel_core::ids::RunId;

use super::connect::Connect;
use crate::diagnostic::Result;
use crate::output;
use crate::runtime::block_on;

#[derive(Debug, Args)]
pub(crate) struct ExtendArguments {
    /// The run's name.
    pub(crate) run: String,
    /// How many steps it is to have in all; fewer than before let it end earlier, but no fewer than are committed.
    #[arg(long, value_name = "N")]
    pub(crate) steps: u32,
    #[command(flatten)]
    pub(crate) connect: Connect,
}

pub(super) fn extend(arguments: &ExtendArguments) -> Result<()> {
    let ExtendArguments { run, steps, connect } = arguments;
    let status = block_on(async {
        let runs = connect.open().await?.runs();
        let run = RunId(run.clone());
        runs.change_steps(&run, *steps).await?;
        Ok(runs.status(&run).await?)
    })?;
    output::tell(format_args!(
        "run {run} has {} steps, {} of them are committed; it is {}",
        status.steps_total, status.step, status.phase
    ));
    Ok(())
}
