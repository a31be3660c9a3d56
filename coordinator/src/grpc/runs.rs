//! `gavel.v1.Runs`: what people do with runs.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt as _};
use gavel_core::RunAssets;
use gavel_core::bounds::{self, cut};
use gavel_core::ids::{RunId, Step, WorkerId};
use gavel_core::run::{Run, RunStatus, StepRecord};
use gavel_core::spec::{RunSpec, check_run_name};
use gavel_core::work::{Role, WorkerFilter};
use gavel_proto::v1;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{history, status};
use crate::driver::DriverHandle;
use crate::ledger::Ledger;
use crate::transport::{Busy, Kept, Rooms};

/// A watcher gets at most one state in this time; changes in between are told together.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

pub(super) struct Runs {
    driver: DriverHandle,
    ledger: Arc<dyn Ledger>,
    rooms: Rooms,
    shutdown: CancellationToken,
}

impl Runs {
    pub(super) fn new(
        driver: DriverHandle,
        ledger: Arc<dyn Ledger>,
        rooms: Rooms,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            driver,
            ledger,
            rooms,
            shutdown,
        }
    }
}

#[tonic::async_trait]
impl v1::runs_server::Runs for Runs {
    type WatchStream = BoxStream<'static, Result<v1::GetRunResponse, Status>>;
    type HistoryStream = BoxStream<'static, Result<v1::HistoryResponse, Status>>;

    async fn submit(&self, request: Request<v1::SubmitRequest>) -> Result<Response<v1::SubmitResponse>, Status> {
        let request = request.into_inner();
        let driver = self.driver.clone();
        let submitted = async move {
            // Megabytes of JSON keep a thread busy for a while.
            let read = tokio::task::spawn_blocking(move || read_submission(&request)).await;
            let (run, spec, assets) = read.map_err(|error| Status::internal(error.to_string()))??;
            let submitted = driver.submit(run, spec, assets).await;
            let submitted = submitted.map_err(|error| status::of_driver(&error))?;
            Ok(v1::SubmitResponse {
                spec_sha256: submitted.spec_sha256.to_string(),
                existed: submitted.existed,
            })
        };
        answer(self.rooms.submission().await, submitted).await
    }

    async fn get_spec(&self, request: Request<v1::GetSpecRequest>) -> Result<Response<v1::GetSpecResponse>, Status> {
        let run = RunId(request.into_inner().run_id);
        let driver = self.driver.clone();
        let spec = async move {
            let look = |run: &Run| (run.spec().clone(), run.shared_assets(), run.spec_sha256());
            let seen = driver.inspect(&run, look).await;
            let (spec, assets, digest) = seen.map_err(|error| status::of_driver(&error))?;
            Ok(v1::GetSpecResponse {
                spec_json: json(&spec)?,
                assets_json: json(&*assets)?,
                spec_sha256: digest.to_string(),
            })
        };
        answer(self.rooms.spec().await, spec).await
    }

    async fn get(&self, request: Request<v1::GetRunRequest>) -> Result<Response<v1::GetRunResponse>, Status> {
        let run = RunId(request.into_inner().run_id);
        let driver = self.driver.clone();
        let state = async move { response(&current(&driver, &run).await?) };
        answer(self.rooms.answer().await, state).await
    }

    async fn list(&self, _: Request<v1::ListRunsRequest>) -> Result<Response<v1::ListRunsResponse>, Status> {
        let driver = self.driver.clone();
        let states = async move {
            let states = driver.statuses().await;
            let states = states.map_err(|error| status::of_driver(&error))?;
            let status_json = states.into_iter().map(|state| json(&state));
            Ok(v1::ListRunsResponse {
                status_json: status_json.collect::<Result<_, _>>()?,
            })
        };
        answer(self.rooms.answer().await, states).await
    }

    async fn watch(&self, request: Request<v1::GetRunRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let run = RunId(request.into_inner().run_id);
        let mut changes = self
            .driver
            .watch(&run)
            .await
            .map_err(|error| status::of_driver(&error))?;
        let place = self.rooms.watcher().map_err(status::busy)?;
        // The present state is the first answer.
        changes.mark_changed();
        let watching = Watching {
            driver: self.driver.clone(),
            run,
            changes,
            told: Told::Nothing,
            step: None,
            _place: place,
        };
        let states = stream::try_unfold(watching, Watching::next);
        Ok(Response::new(
            states.take_until(self.shutdown.clone().cancelled_owned()).boxed(),
        ))
    }

    async fn history(&self, request: Request<v1::HistoryRequest>) -> Result<Response<Self::HistoryStream>, Status> {
        let run = RunId(request.into_inner().run_id);
        let room = self.rooms.history().await.map_err(status::busy)?;
        let mut response = Response::new(history::rows(Arc::clone(&self.ledger), run).await?);
        response.extensions_mut().insert(room);
        Ok(response)
    }

    async fn cancel(&self, request: Request<v1::CancelRequest>) -> Result<Response<v1::CancelResponse>, Status> {
        let request = request.into_inner();
        let cancelled = self.driver.cancel(&RunId(request.run_id), cut(request.reason)).await;
        cancelled.map_err(|error| status::of_driver(&error))?;
        Ok(Response::new(v1::CancelResponse {}))
    }

    async fn pause(&self, request: Request<v1::PauseRequest>) -> Result<Response<v1::PauseResponse>, Status> {
        let request = request.into_inner();
        let paused = self.driver.pause(&RunId(request.run_id), cut(request.reason)).await;
        paused.map_err(|error| status::of_driver(&error))?;
        Ok(Response::new(v1::PauseResponse {}))
    }

    async fn change_steps(
        &self,
        request: Request<v1::ChangeStepsRequest>,
    ) -> Result<Response<v1::ChangeStepsResponse>, Status> {
        let request = request.into_inner();
        let changed = self.driver.change_steps(&RunId(request.run_id), request.steps).await;
        changed.map_err(|error| status::of_driver(&error))?;
        Ok(Response::new(v1::ChangeStepsResponse {}))
    }

    async fn roll_back(&self, request: Request<v1::RollBackRequest>) -> Result<Response<v1::RollBackResponse>, Status> {
        let request = request.into_inner();
        let taken_back = self.driver.roll_back(&RunId(request.run_id), Step(request.step)).await;
        taken_back.map_err(|error| status::of_driver(&error))?;
        Ok(Response::new(v1::RollBackResponse {}))
    }

    async fn resume(&self, request: Request<v1::ResumeRequest>) -> Result<Response<v1::ResumeResponse>, Status> {
        let resumed = self.driver.resume(&RunId(request.into_inner().run_id)).await;
        resumed.map_err(|error| status::of_driver(&error))?;
        Ok(Response::new(v1::ResumeResponse {}))
    }

    async fn list_workers(
        &self,
        _: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        let driver = self.driver.clone();
        let workers = async move {
            let workers = driver.workers().await.map_err(|error| status::of_driver(&error))?;
            let worker_json = workers.iter().map(json).collect::<Result<_, _>>()?;
            Ok(v1::ListWorkersResponse { worker_json })
        };
        answer(self.rooms.answer().await, workers).await
    }

    async fn drain(&self, request: Request<v1::DrainRequest>) -> Result<Response<v1::DrainResponse>, Status> {
        let request = request.into_inner();
        let roles = request.roles.into_iter().map(|number| {
            let role = v1::Role::try_from(number).map_err(status::malformed)?;
            Role::try_from(role).map_err(status::malformed)
        });
        let meant = WorkerFilter {
            workers: request.workers.into_iter().map(WorkerId).collect(),
            hosts: request.hosts,
            roles: roles.collect::<Result<_, Status>>()?,
        };
        let told = self.driver.drain(meant).await;
        let workers = told.map_err(|error| status::of_driver(&error))?;
        Ok(Response::new(v1::DrainResponse {
            workers: u32::try_from(workers).unwrap_or(u32::MAX),
        }))
    }
}

/// One caller of Watch.
struct Watching {
    driver: DriverHandle,
    run: RunId,
    changes: watch::Receiver<u64>,
    told: Told,
    /// The latest step that was told.
    step: Option<StepRecord>,
    _place: OwnedSemaphorePermit,
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
        let status = self.driver.status_after(&self.run, self.step.clone()).await;
        let status = status.map_err(|error| status::of_driver(&error))?;
        self.step = status.steps.last().cloned().or(self.step);
        self.told = if status.phase.is_ended() {
            Told::TheEnd
        } else {
            Told::Something
        };
        Ok(Some((response(&status)?, self)))
    }
}

/// Makes an answer that may be large, in its room, which it keeps until it is sent.
async fn answer<T: Send + 'static>(
    room: Result<Kept, Busy>,
    make: impl Future<Output = Result<T, Status>> + Send + 'static,
) -> Result<Response<T>, Status> {
    let room = room.map_err(status::busy)?;
    let (made, room) = room.fill(make).await.map_err(status::busy)?;
    let mut response = Response::new(made?);
    response.extensions_mut().insert(room);
    Ok(response)
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

/// Reads and checks all of a run, before anything is built or written.
fn read_submission(request: &v1::SubmitRequest) -> Result<(RunId, RunSpec, RunAssets), Status> {
    let v1::SubmitRequest {
        run_id,
        spec_json,
        assets_json,
    } = request;
    check_run_name(run_id).map_err(status::malformed)?;
    let fits = bounds::SPEC.check("spec_json", spec_json.len());
    fits.map_err(status::malformed)?;
    let spec: RunSpec =
        serde_json::from_str(spec_json).map_err(|error| status::malformed(format!("spec_json: {error}")))?;
    spec.check().map_err(status::malformed)?;
    let assets = RunAssets::from_stranger(assets_json).map_err(status::malformed)?;
    assets.check(&spec).map_err(status::malformed)?;
    Ok((RunId(run_id.clone()), spec, assets))
}
