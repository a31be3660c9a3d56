//! What the command line asks of a coordinator beyond a single call.

use gavel_client::{Code, ConnectOptions, Connection, Credentials, Submitted};
use gavel_core::ids::RunId;
use gavel_core::run::Phase;
use gavel_core::spec::RunSpec;

use crate::assets::Files;
use crate::diagnostic::{Context as _, Result};

/// Connects to a coordinator that this program started on this machine. Others are reached by `commands/connect.rs`.
///
/// # Errors
/// Not an address, or nobody answers there.
pub(crate) async fn connect_to_own(address: &str, credentials: Credentials) -> Result<Connection> {
    Ok(Connection::open(&ConnectOptions::with(address, credentials)?).await?)
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

/// Gives a run that is there as many steps as `spec` says, where that is all by which it differs.
///
/// # Errors
/// More steps are committed, or nobody answers.
pub(crate) async fn extend(coordinator: &Connection, spec: &RunSpec) -> Result<()> {
    let runs = coordinator.runs();
    let there = match runs.spec(&spec.id()).await {
        Ok(there) => there.spec,
        Err(error) if error.code() == Code::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if there.differs_in_steps_alone(spec) {
        runs.change_steps(&spec.id(), spec.run.steps).await?;
    }
    Ok(())
}

/// Lets a paused, stopped or failed run go on. One that does not stand still goes on as it is.
///
/// # Errors
/// No such run.
pub(crate) async fn resume(coordinator: &Connection, run: &RunId) -> Result<()> {
    let runs = coordinator.runs();
    match runs.status(run).await?.phase {
        Phase::Paused { .. } | Phase::Stopped { .. } | Phase::Failed { .. } => Ok(runs.resume(run).await?),
        _ => Ok(()),
    }
}
