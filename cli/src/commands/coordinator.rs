//! `gavel coordinator`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use gavel_coordinator::{Adoption, Coordinator, CoordinatorOptions, Error, Listeners};
use gavel_review::CoordinatorAddresses;

use crate::diagnostic::Result;
use crate::runtime::{ParentArguments, block_on, shutdown_token};

#[derive(Debug, Args)]
pub(crate) struct CoordinatorArguments {
    /// Folder of the ledger and the blobs, unless --ledger and --blobs name other places.
    #[arg(long, value_name = "DIR", default_value = "gavel-data")]
    pub(crate) data: PathBuf,
    /// Ledger: postgres://USER@HOST/DATABASE, or a SQLite file [default: ledger.sqlite in --data]. With PostgreSQL, a second
    /// coordinator stands by until the first is gone.
    #[arg(long, value_name = "URL")]
    pub(crate) ledger: Option<String>,
    /// Blobs: a folder, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX [default: blobs in --data].
    #[arg(long, value_name = "URL")]
    pub(crate) blobs: Option<String>,
    /// Address for workers and clients; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7440")]
    pub(crate) grpc: SocketAddr,
    /// Address for the dashboard, probes and metrics; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7441")]
    pub(crate) http: SocketAddr,
    /// How often workers send heartbeats.
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    pub(crate) heartbeat: humantime::Duration,
    /// A worker that was silent for this long is given up.
    #[arg(long, value_name = "DURATION", default_value = "20s")]
    pub(crate) worker_timeout: humantime::Duration,
    /// How long blobs that no run needs any more are kept before they are deleted.
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    pub(crate) trash: humantime::Duration,
    /// Start although the blobs belong to another ledger, or to a newer state of this one: blobs that this ledger does not name
    /// are then deleted after --trash.
    #[arg(long)]
    pub(crate) adopt_blobs: bool,
    #[command(flatten)]
    pub(crate) parent: ParentArguments,
}

pub(super) fn coordinator(arguments: CoordinatorArguments) -> Result<()> {
    block_on(async {
        let shutdown = shutdown_token(arguments.parent);
        let listeners = Listeners::bind(arguments.grpc, arguments.http).await?;
        let mut options = CoordinatorOptions::new(arguments.data);
        options.ledger = arguments.ledger;
        options.blobs = arguments.blobs;
        options.heartbeat = arguments.heartbeat.into();
        options.worker_timeout = arguments.worker_timeout.into();
        options.trash = arguments.trash.into();
        if arguments.adopt_blobs {
            options.adoption = Adoption::Allowed;
        }
        let handle = match Coordinator::start(options, listeners, shutdown).await {
            Err(Error::EndedAsStandby) => return Ok(()),
            started => started?,
        };
        let addresses = CoordinatorAddresses {
            grpc: format!("http://{}", handle.grpc_address()),
            http: format!("http://{}", handle.http_address()),
        };
        println!("{}", serde_json::to_string(&addresses)?);
        std::io::stdout().flush()?;
        handle.join().await?;
        Ok(())
    })
}
