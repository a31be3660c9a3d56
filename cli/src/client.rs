//! What the command line asks of a coordinator beyond a single call.

use gavel_client::{ConnectOptions, Connection, Submitted};
use gavel_core::ids::RunId;
use gavel_core::run::Phase;
use gavel_core::spec::RunSpec;

use crate::assets::Files;
use crate::diagnostic::{Context as _, Result};

/// Connects to a coordinator that this program started on this machine, which asks for nothing. Others are reached by
/// `commands/connect.rs`.
///
/// # Errors
/// Not an address, or nobody answers there.
pub(crate) async fn connect_to_own(address: &str) -> Result<Connection> {
    Ok(Connection::open(&ConnectOptions::new(address)?).await?)
}

/// Stores the pictures that the run's files name and submits the run.
///
/// # Errors
/// The coordinator refuses it, for example because another spec has this name.
pub(crate) async fn submit(coordinator: &Connection, spec: &RunSpec, files: &Files) -> Result<Submitted> {
    let blobs = coordinator.blobs();
    for (digest, picture) in &files.pictures {
        let stored = blobs.put(*digest, picture.clone().into()).await;
        stored.context("cannot store a picture of the run's files")?;
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
