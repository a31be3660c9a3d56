//! `gavel submit`.

use clap::Args;

use super::connect::Connect;
use crate::config::{self, ConfigArguments};
use crate::diagnostic::Result;
use crate::runtime::block_on;
use crate::{assets, client};

#[derive(Debug, Args)]
pub(crate) struct SubmitArguments {
    #[command(flatten)]
    pub(crate) config: ConfigArguments,
    /// Let the run go on where it stopped or failed; its labelled pictures are stored anew.
    #[arg(long)]
    pub(crate) resume: bool,
    #[command(flatten)]
    pub(crate) connect: Connect,
}

pub(super) fn submit(arguments: &SubmitArguments) -> Result<()> {
    let spec = config::load(&arguments.config)?;
    let files = assets::read(&spec)?;
    for notice in &files.notices {
        println!("notice: {notice}");
    }
    block_on(async {
        let addresses = &arguments.connect.addresses;
        let coordinator = client::connect(addresses).await?;
        let submitted = client::submit(&coordinator, &spec, &files).await?;
        let what = if submitted.existed {
            "was there already, with this configuration"
        } else {
            "is submitted"
        };
        println!("run {} {what} (spec {})", spec.run.name, submitted.spec);
        if arguments.resume {
            client::resume(&coordinator, &spec.id()).await?;
            println!("it goes on, if it had stopped");
        }
        println!(
            "`gavel status {} --connect {addresses}` shows how it goes",
            spec.run.name
        );
        Ok(())
    })
}
