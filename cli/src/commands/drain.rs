//! `gavel drain`.

use clap::Args;

use super::connect::Connect;
use crate::diagnostic::Result;
use crate::output;
use crate::runtime::block_on;

#[derive(Debug, Args)]
pub(crate) struct DrainArguments {
    #[command(flatten)]
    pub(crate) connect: Connect,
}

pub(super) fn drain(arguments: &DrainArguments) -> Result<()> {
    block_on(async {
        let runs = arguments.connect.open().await?.runs();
        Ok(runs.drain().await?)
    })?;
    output::tell("the workers finish what they hold and leave; workers that start later stay");
    Ok(())
}
