//! `gavel.v1.Runs`: what people do with runs.

use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt as _};
use gavel_core::RunAssets;
use gavel_core::ids::RunId;
use gavel_core::run::RunStatus;
use gavel_core::spec::RunSpec;
use gavel_proto::v1;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::status;
use crate::driver::DriverHandle;

/// A watcher gets at most one state in this time; changes in between are told together.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

pub(super) struct Runs {
    driver: DriverHandle,
    shutdown: CancellationToken,
}

impl Runs {
    pub(super) fn new(driver: DriverHandle, shutdown: CancellationToken) -> Self {
        Self { driver, shutdown }
    }
}

#[tonic::async_trait]
impl v1::runs_server::Runs for Runs {
    type WatchStream = BoxStream<'static, Result<v1::GetRunResponse, Status>>;

    async fn submit(&self, request: Request<v1::SubmitRequest>) -> Result<Response<v1::SubmitResponse>, Status> {
        let request = request.into_inner();
        let spec: RunSpec = serde_json::from_str(&request.spec_json)
            .map_err(|error| status::malformed(format!("spec_json: {error}")))?;
        let assets: RunAssets = serde_json::from_str(&request.assets_json)
            .map_err(|error| status::malformed(format!("assets_json: {error}")))?;
        spec.check().map_err(status::malformed)?;
        check_submission(&request.run_id, &assets)?;
        let submitted = self.driver.submit(RunId(request.run_id), spec, assets).await;
        let submitted = submitted.map_err(|error| status::of_driver(&error))?;
        Ok(Response::new(v1::SubmitResponse {
            spec_sha256: submitted.spec_sha256.to_string(),
            existed: submitted.existed,
        }))
    }

    async fn get_spec(&self, request: Request<v1::GetSpecRequest>) -> Result<Response<v1::GetSpecResponse>, Status> {
        let run = RunId(request.into_inner().run_id);
        let look = |run: &gavel_core::run::Run| (run.spec().clone(), run.assets().clone(), run.spec_sha256());
        let (spec, assets, digest) = self
            .driver
            .inspect(&run, look)
            .await
            .map_err(|error| status::of_driver(&error))?;
        Ok(Response::new(v1::GetSpecResponse {
            spec_json: json(&spec)?,
            assets_json: json(&assets)?,
            spec_sha256: digest.to_string(),
        }))
    }

    async fn get(&self, request: Request<v1::GetRunRequest>) -> Result<Response<v1::GetRunResponse>, Status> {
        let run = RunId(request.into_inner().run_id);
        Ok(Response::new(response(&current(&self.driver, &run).await?)?))
    }

    async fn list(&self, _: Request<v1::ListRunsRequest>) -> Result<Response<v1::ListRunsResponse>, Status> {
        let statuses = self
            .driver
            .statuses()
            .await
            .map_err(|error| status::of_driver(&error))?;
        let status_json = statuses.iter().map(json).collect::<Result<_, _>>()?;
        Ok(Response::new(v1::ListRunsResponse { status_json }))
    }

    async fn watch(&self, request: Request<v1::GetRunRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let run = RunId(request.into_inner().run_id);
        let mut changes = self
            .driver
            .watch(&run)
            .await
            .map_err(|error| status::of_driver(&error))?;
        // The present state is the first answer.
        changes.mark_changed();
        let watching = Watching {
            driver: self.driver.clone(),
            run,
            changes,
            told: Told::Nothing,
        };
        let states = stream::try_unfold(watching, Watching::next);
        Ok(Response::new(
            states.take_until(self.shutdown.clone().cancelled_owned()).boxed(),
        ))
    }

    async fn cancel(&self, request: Request<v1::CancelRequest>) -> Result<Response<v1::CancelResponse>, Status> {
        let request = request.into_inner();
        let cancelled = self.driver.cancel(&RunId(request.run_id), request.reason).await;
        cancelled.map_err(|error| status::of_driver(&error))?;
        Ok(Response::new(v1::CancelResponse {}))
    }

    async fn resume(&self, request: Request<v1::ResumeRequest>) -> Result<Response<v1::ResumeResponse>, Status> {
        let resumed = self.driver.resume(&RunId(request.into_inner().run_id)).await;
        resumed.map_err(|error| status::of_driver(&error))?;
        Ok(Response::new(v1::ResumeResponse {}))
    }

    async fn drain(&self, _: Request<v1::DrainRequest>) -> Result<Response<v1::DrainResponse>, Status> {
        self.driver.drain().await.map_err(|error| status::of_driver(&error))?;
        Ok(Response::new(v1::DrainResponse {}))
    }
}

/// One caller of Watch.
struct Watching {
    driver: DriverHandle,
    run: RunId,
    changes: watch::Receiver<u64>,
    told: Told,
}

/// What a watcher has been told so far.
#[derive(PartialEq)]
enum Told {
    Nothing,
    Something,
    TheEnd,
}

impl Watching {
    async fn next(mut self) -> Result<Option<(v1::GetRunResponse, Self)>, Status> {
        if self.told == Told::TheEnd || self.changes.changed().await.is_err() {
            return Ok(None);
        }
        if self.told == Told::Something {
            tokio::time::sleep(WATCH_INTERVAL).await;
        }
        self.changes.mark_unchanged();
        let status = current(&self.driver, &self.run).await?;
        self.told = if status.phase.is_ended() {
            Told::TheEnd
        } else {
            Told::Something
        };
        Ok(Some((response(&status)?, self)))
    }
}

async fn current(driver: &DriverHandle, run: &RunId) -> Result<RunStatus, Status> {
    driver.status(run).await.map_err(|error| status::of_driver(&error))
}

fn response(status: &RunStatus) -> Result<v1::GetRunResponse, Status> {
    Ok(v1::GetRunResponse {
        status_json: json(status)?,
    })
}

fn json(value: &impl serde::Serialize) -> Result<String, Status> {
    serde_json::to_string(value).map_err(|error| Status::internal(error.to_string()))
}

/// A run's name is a folder's name and a part of addresses.
fn check_submission(run: &str, assets: &RunAssets) -> Result<(), Status> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if run.is_empty() || run.len() > 100 || run.starts_with('.') || !run.chars().all(is_plain) {
        return Err(status::malformed(format!(
            "run.name: `{run}` must be 1 to 100 letters, digits, `-`, `_` or `.`, and not begin with `.`"
        )));
    }
    if assets.prompts.is_empty() {
        return Err(status::malformed("prompts.train: the file holds no prompt"));
    }
    Ok(())
}
