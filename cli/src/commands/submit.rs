//! `gavel submit`.

use super::block_on;
use crate::args::SubmitArguments;
use crate::client::Client;
use crate::{assets, config};

pub(super) fn submit(arguments: &SubmitArguments) -> anyhow::Result<()> {
    let spec = config::load(&arguments.config)?;
    let files = assets::read(&spec)?;
    block_on(async {
        let client = Client::connect(&arguments.connect).await?;
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
            spec.run.name, arguments.connect
        );
        Ok(())
    })
}
