//! `gavel pause`.

use clap::Args;
use gavel_core::ids::RunId;

use super::connect::Connect;
use crate::diagnostic::Result;
use crate::output;
use crate::runtime::block_on;

#[derive(Debug, Args)]
pub(crate) struct PauseArguments {
    /// The run's name.
    pub(crate) run: String,
    /// Why, for those who look at the run later.
    #[arg(long, default_value = "by hand")]
    pub(crate) reason: String,
    #[command(flatten)]
    pub(crate) connect: Connect,
}

pub(super) fn pause(arguments: &PauseArguments) -> Result<()> {
    let PauseArguments { run, reason, connect } = arguments;
    block_on(async {
        let runs = connect.open().await?.runs();
        Ok(runs.pause(&RunId(run.clone()), reason).await?)
    })?;
    output::tell(format_args!(
        "run {run} is paused: what is in work comes to its end; `gavel resume {run}` lets it go on"
    ));
    Ok(())
}
