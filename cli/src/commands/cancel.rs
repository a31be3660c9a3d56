//! `gavel cancel`.

use clap::Args;
use gavel_core::ids::RunId;

use super::connect::Connect;
use crate::diagnostic::Result;
use crate::output;
use crate::runtime::block_on;

#[derive(Debug, Args)]
pub(crate) struct CancelArguments {
    /// The run's name.
    pub(crate) run: String,
    /// Why, for those who look at the run later.
    #[arg(long, default_value = "cancelled")]
    pub(crate) reason: String,
    #[command(flatten)]
    pub(crate) connect: Connect,
}

pub(super) fn cancel(arguments: &CancelArguments) -> Result<()> {
    let CancelArguments { run, reason, connect } = arguments;
    block_on(async {
        let runs = connect.open().await?.runs();
        Ok(runs.cancel(&RunId(run.clone()), reason).await?)
    })?;
    output::tell(format_args!("run {run} is stopped; `gavel resume {run}` lets it go on"));
    Ok(())
}
