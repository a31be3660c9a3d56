//! Every run in short and every worker: what the first page shows, and what its stream tells.

use std::collections::BTreeMap;

use gavel_core::ids::{RunId, Step, WorkerId};
use gavel_core::measure::WinRate;
use gavel_core::run::{Phase, RunStatus};
use gavel_core::work::WorkerStatus;
use schemars::JsonSchema;
use serde::Serialize;

use crate::driver::{DriverError, DriverHandle};

/// All runs and all workers at one moment.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Overview {
    /// The moment, on the coordinator's clock.
    now_unix_ms: u64,
    /// By name.
    runs: BTreeMap<RunId, RunSummary>,
    /// By name.
    workers: BTreeMap<WorkerId, WorkerStatus>,
}

/// A run in a line.
#[derive(Debug, Serialize, JsonSchema)]
struct RunSummary {
    run: RunId,
    /// Its place in the order of submission.
    order: usize,
    phase: Phase,
    /// The latest committed step; 0 before the first.
    step: Step,
    /// Steps of the whole run.
    steps_total: u32,
    created_unix_ms: Option<u64>,
    /// What the run waits for, in words.
    waiting: String,
    /// Of the latest step, the share of pairs that were decided.
    decided: Option<f64>,
    /// Of the latest step, the mean KL estimate against the base.
    kl: Option<f64>,
    /// Over the base: of the adapter at the end, before that of the latest probe that is judged to the end.
    win_rate: Option<WinRate>,
}

impl Overview {
    pub(super) async fn of(driver: &DriverHandle) -> Result<Self, DriverError> {
        let statuses = driver.statuses().await?;
        let workers = driver.workers().await?;
        let seen = workers.iter().map(|worker| worker.seen_unix_ms);
        let now_unix_ms = statuses.iter().map(|status| status.now_unix_ms).chain(seen).max();
        Ok(Self {
            now_unix_ms: now_unix_ms.unwrap_or_default(),
            runs: statuses
                .into_iter()
                .enumerate()
                .map(|(order, status)| (status.run.clone(), RunSummary::of(order, status)))
                .collect(),
            workers: workers.into_iter().map(|worker| (worker.id.clone(), worker)).collect(),
        })
    }
}

impl RunSummary {
    fn of(order: usize, status: RunStatus) -> Self {
        let latest = status.steps.last();
        let probes = status.probes.iter().rev();
        let probed = probes
            .filter(|probe| probe.compared == probe.prompts)
            .find_map(|probe| probe.win_rate);
        Self {
            order,
            step: status.step,
            steps_total: status.steps_total,
            created_unix_ms: status.created_unix_ms,
            decided: latest.map(|step| f64::from(step.decided) / f64::from(step.pairs.max(1))),
            kl: latest.map(|step| step.kl),
            win_rate: status.evaluation.and_then(|evaluation| evaluation.win_rate).or(probed),
            run: status.run,
            phase: status.phase,
            waiting: status.waiting.text,
        }
    }
}
