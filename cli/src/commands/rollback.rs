//! `gavel rollback`.

use clap::Args;
use gavel_core::ids::{RunId, Step};

use super::connect::Connect;
use crate::diagnostic::Result;
use crate::output;
use crate::runtime::block_on;

#[derive(Debug, Args)]
pub(crate) struct RollbackArguments {
    /// The run's name.
    pub(crate) run: String,
    /// The last step that stays: a checkpoint, or one of the latest that the run keeps.
    #[arg(long, value_name = "N")]
    pub(crate) step: u32,
    #[command(flatten)]
    pub(crate) connect: Connect,
}

pub(super) fn rollback(arguments: &RollbackArguments) -> Result<()> {
    let RollbackArguments { run, step, connect } = arguments;
    block_on(async {
        let runs = connect.open().await?.runs();
        Ok(runs.roll_back(&RunId(run.clone()), Step(*step)).await?)
    })?;
    output::tell(format_args!(
        "run {run} stands at step {step} and is paused: `gavel resume {run}` takes the same steps again, `gavel extend {run} --steps {step}` \
         makes this step its last"
    ));
    Ok(())
}
