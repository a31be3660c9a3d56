//! What people ask of a coordinator: to submit runs, to look at them, to let them go on. Workers fetch specs here.

use std::time::Duration;

use gavel_core::RunAssets;
use gavel_core::ids::{Digest, RunId, Step};
use gavel_core::run::{RunStatus, StepRecord};
use gavel_core::spec::RunSpec;
use gavel_core::work::{WorkerFilter, WorkerStatus};
use gavel_proto::MESSAGE_BYTES_MAX;
use gavel_proto::v1;
use gavel_proto::v1::runs_client::RunsClient;
use gavel_proto::v1::{
    CancelRequest, ChangeStepsRequest, DrainRequest, GetRunRequest, GetRunResponse, GetSpecRequest, HistoryRequest,
    ListRunsRequest, ListWorkersRequest, PauseRequest, ResumeRequest, RollBackRequest, SubmitRequest,
};
use tonic::{Request, Status, Streaming};

use crate::connection::Connection;
use crate::error::CallError;
use crate::failover::Failover;
use crate::history::HistoryRows;

/// How long an answer may take, unless the caller says otherwise.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// The coordinator's runs.
#[derive(Debug, Clone)]
pub struct Runs {
    connection: Connection,
    answer_within: Duration,
}

/// The coordinator's answer to a submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submitted {
    /// The spec's fingerprint.
    pub spec: Digest,
    /// Whether the run was there already, with this spec.
    pub existed: bool,
}

/// A run as it was submitted.
#[derive(Debug, Clone)]
pub struct SpecifiedRun {
    /// What is to be done.
    pub spec: RunSpec,
    /// The contents of the files that the spec names.
    pub assets: RunAssets,
    /// The spec's fingerprint.
    pub digest: Digest,
}

impl Runs {
    pub(crate) fn new(connection: Connection) -> Self {
        Self {
            connection,
            answer_within: ANSWER_WITHIN,
        }
    }

    /// The same runs for a caller who waits this long for an answer, instead of 30 seconds.
    #[must_use]
    pub fn within(&self, limit: Duration) -> Self {
        Self {
            answer_within: limit,
            ..self.clone()
        }
    }

    fn client(&self) -> RunsClient<Failover> {
        RunsClient::new(self.connection.transport())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.answer_within);
        request
    }

    fn failed(&self, status: &Status) -> CallError {
        self.connection.failed(status)
    }

    /// Creates a run. Submitting the same spec under the same name again is harmless. Takes as long as it takes: a run with
    /// many prompts is a large message, and is written before it is answered.
    ///
    /// # Errors
    /// ALREADY_EXISTS where another spec has this name, INVALID_ARGUMENT where the spec breaks a rule.
    pub async fn submit(&self, run: &RunId, spec: &RunSpec, assets: &RunAssets) -> Result<Submitted, CallError> {
        let unwritable = |error: serde_json::Error| {
            let message = format!("the run cannot be written as JSON: {error}");
            self.failed(&Status::invalid_argument(message))
        };
        let request = SubmitRequest {
            run_id: run.0.clone(),
            spec_json: serde_json::to_string(spec).map_err(unwritable)?,
            assets_json: serde_json::to_string(assets).map_err(unwritable)?,
        };
        let answer = self.client().submit(request).await;
        let answer = answer.map_err(|status| self.failed(&status))?.into_inner();
        Ok(Submitted {
            spec: self.read_digest(&answer.spec_sha256)?,
            existed: answer.existed,
        })
    }

    /// A run's spec, with the files that it names.
    ///
    /// # Errors
    /// NOT_FOUND where there is no such run, FAILED_PRECONDITION where this version cannot read its spec.
    pub async fn spec(&self, run: &RunId) -> Result<SpecifiedRun, CallError> {
        let request = self.request(GetSpecRequest { run_id: run.0.clone() });
        let answer = self.client().get_spec(request).await;
        let answer = answer.map_err(|status| self.failed(&status))?.into_inner();
        let unreadable = |what: &str, error: serde_json::Error| self.connection.unreadable(format!("{what}: {error}"));
        Ok(SpecifiedRun {
            spec: serde_json::from_str(&answer.spec_json).map_err(|error| unreadable("the spec", error))?,
            assets: serde_json::from_str(&answer.assets_json).map_err(|error| unreadable("the assets", error))?,
            digest: self.read_digest(&answer.spec_sha256)?,
        })
    }

    /// One run's state.
    ///
    /// # Errors
    /// NOT_FOUND where there is no such run.
    pub async fn status(&self, run: &RunId) -> Result<RunStatus, CallError> {
        let request = self.request(GetRunRequest { run_id: run.0.clone() });
        let answer = self.client().get(request).await;
        let answer = answer.map_err(|status| self.failed(&status))?;
        read_status(&self.connection, &answer.into_inner().status_json)
    }

    /// Every run's state, in the order of submission.
    ///
    /// # Errors
    /// Whatever keeps the coordinator from an answer.
    pub async fn list(&self) -> Result<Vec<RunStatus>, CallError> {
        let answer = self.client().list(self.request(ListRunsRequest {})).await;
        let answer = answer.map_err(|status| self.failed(&status))?.into_inner();
        let statuses = answer.status_json.iter();
        statuses.map(|text| read_status(&self.connection, text)).collect()
    }

    /// A run's state now and after each change.
    ///
    /// # Errors
    /// NOT_FOUND where there is no such run.
    pub async fn watch(&self, run: &RunId) -> Result<Watch, CallError> {
        let request = self.request(GetRunRequest { run_id: run.0.clone() });
        let answer = self.client().watch(request).await;
        Ok(Watch {
            stream: answer.map_err(|status| self.failed(&status))?.into_inner(),
            steps: Vec::new(),
            connection: self.connection.clone(),
        })
    }

    /// What the ledger holds of a run: its row first, then its events in order.
    ///
    /// # Errors
    /// NOT_FOUND where there is no such run.
    pub async fn history(&self, run: &RunId) -> Result<HistoryRows, CallError> {
        let request = Request::new(HistoryRequest { run_id: run.0.clone() });
        let answer = self.client().history(request).await;
        Ok(HistoryRows {
            stream: answer.map_err(|status| self.failed(&status))?.into_inner(),
            connection: self.connection.clone(),
        })
    }

    /// Holds a run: what is in work comes to its end, nothing more is handed out, and [`Runs::resume`] lets it go on.
    ///
    /// # Errors
    /// NOT_FOUND where there is no such run, FAILED_PRECONDITION where it has ended or is held already.
    pub async fn pause(&self, run: &RunId, reason: &str) -> Result<(), CallError> {
        let request = self.request(PauseRequest {
            run_id: run.0.clone(),
            reason: reason.to_owned(),
        });
        let answer = self.client().pause(request).await;
        answer.map(drop).map_err(|status| self.failed(&status))
    }

    /// Has a run end after so many steps: a finished one goes on, one that goes on may end earlier.
    ///
    /// # Errors
    /// NOT_FOUND where there is no such run, FAILED_PRECONDITION where more steps are committed, INVALID_ARGUMENT where it would
    /// break a rule.
    pub async fn change_steps(&self, run: &RunId, steps: u32) -> Result<(), CallError> {
        let request = self.request(ChangeStepsRequest {
            run_id: run.0.clone(),
            steps,
        });
        let answer = self.client().change_steps(request).await;
        answer.map(drop).map_err(|status| self.failed(&status))
    }

    /// Takes the steps after `step` back, and pauses the run there.
    ///
    /// # Errors
    /// NOT_FOUND where there is no such run, FAILED_PRECONDITION where there are none or the step's policy is not kept.
    pub async fn roll_back(&self, run: &RunId, step: Step) -> Result<(), CallError> {
        let request = self.request(RollBackRequest {
            run_id: run.0.clone(),
            step: step.0,
        });
        let answer = self.client().roll_back(request).await;
        answer.map(drop).map_err(|status| self.failed(&status))
    }

    /// Lets a paused, stopped or failed run go on from where it stands.
    ///
    /// # Errors
    /// NOT_FOUND where there is no such run, FAILED_PRECONDITION where it does not stand still.
    pub async fn resume(&self, run: &RunId) -> Result<(), CallError> {
        let request = self.request(ResumeRequest { run_id: run.0.clone() });
        let answer = self.client().resume(request).await;
        answer.map(drop).map_err(|status| self.failed(&status))
    }

    /// Stops a run; what is committed stays, and [`Runs::resume`] goes on from there.
    ///
    /// # Errors
    /// NOT_FOUND where there is no such run, FAILED_PRECONDITION where it has ended.
    pub async fn cancel(&self, run: &RunId, reason: &str) -> Result<(), CallError> {
        let request = self.request(CancelRequest {
            run_id: run.0.clone(),
            reason: reason.to_owned(),
        });
        let answer = self.client().cancel(request).await;
        answer.map(drop).map_err(|status| self.failed(&status))
    }

    /// The workers that are registered now, by name.
    ///
    /// # Errors
    /// Whatever keeps the coordinator from an answer.
    pub async fn workers(&self) -> Result<Vec<WorkerStatus>, CallError> {
        let answer = self.client().list_workers(self.request(ListWorkersRequest {})).await;
        let answer = answer.map_err(|status| self.failed(&status))?.into_inner();
        let workers = answer.worker_json.iter().map(|text| serde_json::from_str(text));
        workers
            .collect::<Result<_, _>>()
            .map_err(|error| self.connection.unreadable(error))
    }

    /// Tells those of the workers that are registered now to finish what they have leased and to leave; how many there were.
    ///
    /// # Errors
    /// FAILED_PRECONDITION where some are named and none of them is there.
    pub async fn drain(&self, meant: &WorkerFilter) -> Result<u32, CallError> {
        let request = self.request(DrainRequest {
            workers: meant.workers.iter().map(|worker| worker.0.clone()).collect(),
            hosts: meant.hosts.clone(),
            roles: meant.roles.iter().map(|role| v1::Role::from(*role).into()).collect(),
        });
        let answer = self.client().drain(request).await;
        let answer = answer.map_err(|status| self.failed(&status))?;
        Ok(answer.into_inner().workers)
    }

    fn read_digest(&self, text: &str) -> Result<Digest, CallError> {
        text.parse().map_err(|problem| self.connection.unreadable(problem))
    }
}

fn read_status(connection: &Connection, text: &str) -> Result<RunStatus, CallError> {
    serde_json::from_str(text).map_err(|error| connection.unreadable(error))
}

/// The states of one run as they come.
#[derive(Debug)]
pub struct Watch {
    stream: Streaming<GetRunResponse>,
    /// The committed steps so far: each message has those that are new.
    steps: Vec<StepRecord>,
    connection: Connection,
}

impl Watch {
    /// The next state, with all of its steps; `None` when the coordinator ended the stream.
    ///
    /// # Errors
    /// The stream broke, or what came is no state.
    pub async fn next(&mut self) -> Result<Option<RunStatus>, CallError> {
        let message = self.stream.message().await;
        let Some(message) = message.map_err(|status| self.connection.failed(&status))? else {
            return Ok(None);
        };
        let mut status = read_status(&self.connection, &message.status_json)?;
        let known = match status.steps.first() {
            Some(new) => new.step.0.saturating_sub(1),
            None => status.step.0,
        };
        self.steps.truncate(known as usize);
        self.steps.append(&mut status.steps);
        status.steps.clone_from(&self.steps);
        Ok(Some(status))
    }
}
