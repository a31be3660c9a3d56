//! `gavel submit`.

use clap::Args;

use super::connect::Connect;
use crate::config::{self, ConfigArguments};
use crate::diagnostic::Result;
use crate::output;
use crate::runtime::block_on;
use crate::{assets, client, shell};

#[derive(Debug, Args)]
pub(crate) struct SubmitArguments {
    #[command(flatten)]
    pub(crate) config: ConfigArguments,
    /// Let the run go on where it was paused, stopped or failed, with as many steps as the configuration says now; its labelled
    /// pictures are stored anew.
    #[arg(long)]
    pub(crate) resume: bool,
    #[command(flatten)]
    pub(crate) connect: Connect,
}

pub(super) fn submit(arguments: &SubmitArguments) -> Result<()> {
    let spec = config::load(&arguments.config)?;
    let files = assets::read(&spec)?;
    for notice in files.notices() {
        output::tell(format_args!("notice: {notice}"));
    }
    block_on(async {
        let addresses = &arguments.connect.addresses;
        let coordinator = arguments.connect.open().await?;
        if arguments.resume {
            client::extend(&coordinator, &spec).await?;
        }
        let submitted = client::submit(&coordinator, &spec, &files).await?;
        let what = if submitted.existed {
            "was there already, with this configuration"
        } else {
            "is submitted"
        };
        output::tell(format_args!("run {} {what} (spec {})", spec.run.name, submitted.spec));
        if arguments.resume {
            client::resume(&coordinator, &spec.id()).await?;
            output::tell("it goes on, if it had stopped");
        }
        let status = shell::command(["gavel", "status", &spec.run.name, "--connect", addresses]);
        output::tell(format_args!("`{status}` shows how it goes"));
        Ok(())
    })
}
