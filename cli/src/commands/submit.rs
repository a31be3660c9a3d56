//! `gavel submit`.

use super::block_on;
use crate::args::SubmitArguments;
use crate::{assets, client, config};

pub(super) fn submit(arguments: &SubmitArguments) -> anyhow::Result<()> {
    let spec = config::load(&arguments.config)?;
    let files = assets::read(&spec)?;
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
