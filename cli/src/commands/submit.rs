//! `gavel submit`.

use clap::Args;

use super::connect::ConnectArguments;
use crate::assets;
use crate::client::Client;
use crate::config::{self, ConfigArguments};
use crate::diagnostic::Result;
use crate::runtime::block_on;

#[derive(Debug, Args)]
pub(crate) struct SubmitArguments {
    #[command(flatten)]
    pub(crate) config: ConfigArguments,
    /// Let the run go on where it stopped or failed; its labelled pictures are stored anew.
    #[arg(long)]
    pub(crate) resume: bool,
    #[command(flatten)]
    pub(crate) coordinator: ConnectArguments,
}

pub(super) fn submit(arguments: &SubmitArguments) -> Result<()> {
    let spec = config::load(&arguments.config)?;
    let files = assets::read(&spec)?;
    block_on(async {
        let client = Client::connect(&arguments.coordinator.connect).await?;
        let submitted = client.submit(&spec, &files).await?;
        let what = if submitted.existed {
            "was there already, with this configuration"
        } else {
            "is submitted"
        };
        println!("run {} {what} (spec {})", spec.run.name, submitted.spec_sha256);
        if arguments.resume {
            client.resume(&spec.id()).await?;
            println!("it goes on, if it had stopped");
        }
        println!(
            "`gavel status {} --connect {}` shows how it goes",
            spec.run.name, arguments.coordinator.connect
        );
        Ok(())
    })
}
