//! How a command is told which run it looks back at, and where that is: spelled once for all of them.

use std::path::PathBuf;

use clap::Args;
use gavel_client::{ConnectOptions, Connection};
use gavel_coordinator::Address;
use gavel_core::ids::RunId;
use gavel_review::{RunFolder, RunSource, ServedRun, StoredRun};

use super::connect::CredentialArguments;
use crate::diagnostic::{Diagnostic, Result};
use crate::runtime::block_on;

/// A run in its folder, on a coordinator, or in a coordinator's stores.
#[derive(Debug, Args)]
pub(crate) struct SourceArguments {
    /// The run's folder, or its name in runs/; its name alone with --connect, or with --ledger and --blobs.
    #[arg(value_name = "RUN")]
    pub(crate) run: PathBuf,
    /// Read the run from the coordinator at this address, http://HOST:PORT or https://HOST:PORT.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "ledger")]
    pub(crate) connect: Option<String>,
    /// Read the run from this ledger: postgres://USER@HOST/DATABASE, or a SQLite file.
    #[arg(long, value_name = "URL", requires = "blobs")]
    pub(crate) ledger: Option<Address>,
    /// The blobs of --ledger: a folder, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX.
    #[arg(long, value_name = "URL", requires = "ledger")]
    pub(crate) blobs: Option<Address>,
    #[command(flatten)]
    pub(crate) credentials: CredentialArguments,
}

impl SourceArguments {
    /// Opens the run.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn open(&self) -> Result<Box<dyn RunSource>> {
        match (&self.connect, &self.ledger, &self.blobs) {
            (Some(addresses), ..) => {
                let run = self.name()?;
                block_on(async {
                    let options = ConnectOptions::with(addresses, self.credentials.read(addresses)?)?;
                    let coordinator = Connection::open(&options).await?;
                    Ok(Box::new(ServedRun::open(coordinator, &run).await?) as Box<dyn RunSource>)
                })
            }
            (None, Some(ledger), Some(blobs)) => {
                let run = self.name()?;
                block_on(async { Ok(Box::new(StoredRun::open(ledger, blobs, &run).await?) as Box<dyn RunSource>) })
            }
            _ => Ok(Box::new(RunFolder::open(&self.run)?)),
        }
    }

    /// The name by which others than the file system know the run.
    fn name(&self) -> Result<RunId> {
        match self.run.to_str() {
            Some(name) => Ok(RunId(name.to_owned())),
            None => Err(Diagnostic::new(format!("`{}` is no name of a run", self.run.display()))),
        }
    }
}
