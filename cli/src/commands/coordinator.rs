//! `gavel coordinator`.

use std::io::Write as _;

use gavel_coordinator::{Coordinator, CoordinatorOptions, Error, Listeners};
use serde::{Deserialize, Serialize};

use super::block_on;
use super::runtime::shutdown_token;
use crate::args::CoordinatorArguments;

/// The line on standard output that says that a coordinator serves.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Ready {
    /// Address for workers and clients.
    pub(crate) grpc: String,
    /// Address of the dashboard.
    pub(crate) http: String,
}

pub(super) fn coordinator(arguments: CoordinatorArguments) -> anyhow::Result<()> {
    block_on(async {
        let shutdown = shutdown_token(arguments.parent);
        let listeners = Listeners::bind(arguments.grpc, arguments.http).await?;
        let mut options = CoordinatorOptions::new(arguments.data);
        options.ledger = arguments.ledger;
        options.blobs = arguments.blobs;
        options.heartbeat = arguments.heartbeat.into();
        options.worker_timeout = arguments.worker_timeout.into();
        let handle = match Coordinator::start(options, listeners, shutdown).await {
            Err(Error::EndedAsStandby) => return Ok(()),
            started => started?,
        };
        let ready = Ready {
            grpc: format!("http://{}", handle.grpc_address()),
            http: format!("http://{}", handle.http_address()),
        };
        println!("{}", serde_json::to_string(&ready)?);
        std::io::stdout().flush()?;
        handle.join().await?;
        Ok(())
    })
}
