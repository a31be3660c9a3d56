//! `gavel resume`.

use clap::Args;
use gavel_core::ids::RunId;

use super::connect::Connect;
use crate::diagnostic::Result;
use crate::output;
use crate::runtime::block_on;

#[derive(Debug, Args)]
pub(crate) struct ResumeArguments {
    /// The run's name.
    pub(crate) run: String,
    #[command(flatten)]
    pub(crate) connect: Connect,
}

pub(super) fn resume(arguments: &ResumeArguments) -> Result<()> {
    let ResumeArguments { run, connect } = arguments;
    let status = block_on(async {
        let runs = connect.open().await?.runs();
        let run = RunId(run.clone());
        runs.resume(&run).await?;
        Ok(runs.status(&run).await?)
    })?;
    output::tell(format_args!(
        "run {run} goes on after step {} of {}",
        status.step, status.steps_total
    ));
    Ok(())
}
