//! What the command line asks of a coordinator beyond a single call.

use gavel_client::{ConnectOptions, Connection, Submitted};
use gavel_core::ids::RunId;
use gavel_core::run::Phase;
use gavel_core::spec::RunSpec;

use crate::assets::Files;
use crate::diagnostic::{Context as _, Result};

/// Connects to the first of these addresses, separated by commas, whose coordinator does not stand by.
///
/// # Errors
/// Not an address, or nobody who leads answers there.
pub(crate) async fn connect(addresses: &str) -> Result<Connection> {
    Ok(Connection::open(&ConnectOptions::new(addresses)?).await?)
}

/// Stores the pictures and the adapter that the run's files name, and submits the run.
///
/// # Errors
/// The coordinator refuses it, for example because another spec has this name.
pub(crate) async fn submit(coordinator: &Connection, spec: &RunSpec, files: &Files) -> Result<Submitted> {
    let blobs = coordinator.blobs();
    for (digest, bytes) in files.blobs() {
        let stored = blobs.put(digest, bytes.clone().into()).await;
        stored.context("cannot store a blob of the run's files")?;
    }
    Ok(coordinator.runs().submit(&spec.id(), spec, &files.assets).await?)
}

/// Lets a stopped or failed run go on. One that is not stopped goes on as it is.
///
/// # Errors
/// No such run.
pub(crate) async fn resume(coordinator: &Connection, run: &RunId) -> Result<()> {
    let runs = coordinator.runs();
    match runs.status(run).await?.phase {
        Phase::Stopped { .. } | Phase::Failed { .. } => Ok(runs.resume(run).await?),
        _ => Ok(()),
    }
}
