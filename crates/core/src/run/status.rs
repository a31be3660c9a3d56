//! A run in figures: one document for HTTP, progress display and report.

use serde::{Deserialize, Serialize};

use super::{Phase, Run, StepRecord, Waiting};
use crate::ids::{Digest, Fence, Millis, RunId, Step, WorkerId};
use crate::work::{Policy, Unit};
use crate::work::{Side, Verdict, VerdictRecord};

/// A run's state at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunStatus {
    /// The run.
    pub run: RunId,
    /// Fingerprint of its spec.
    pub spec_sha256: Digest,
    /// Where it stands.
    pub phase: Phase,
    /// When it was submitted, if the driver said so.
    pub created_unix_ms: Option<u64>,
    /// The moment that this status describes.
    pub now_unix_ms: u64,
    /// The latest committed step; 0 before the first.
    pub step: Step,
    /// Steps of the whole run.
    pub steps_total: u32,
    /// The step in flight; `None` before the first and after the last.
    pub progress: Option<Progress>,
    /// Training pairs that a judge has looked at so far.
    pub pairs_judged: u64,
    /// Pairs without a finite gradient so far.
    pub pairs_skipped: u32,
    /// Committed steps, in order.
    pub steps: Vec<StepRecord>,
    /// What the run waits for.
    pub waiting: Waiting,
    /// Open leases, by unit.
    pub leases: Vec<LeaseStatus>,
    /// The latest committed policy.
    pub policy: Option<Policy>,
    /// Base against tuned; `None` in a run without evaluation.
    pub evaluation: Option<EvaluationStatus>,
    /// The judge on labelled pairs; `None` without such pairs.
    pub judge: Option<JudgeMeasure>,
}

/// How far the step in flight is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The step in flight.
    pub step: Step,
    /// When it began.
    pub started_unix_ms: u64,
    /// Candidates sampled.
    pub samples: u32,
    /// Candidates of the step.
    pub samples_total: u32,
    /// Pairs judged.
    pub pairs_judged: u32,
    /// Pairs of the step.
    pub pairs_total: u32,
    /// Gradient shards done.
    pub shards: u32,
    /// Gradient shards of the step.
    pub shards_total: u32,
}

/// One open lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseStatus {
    /// The holder.
    pub worker: WorkerId,
    /// What it holds.
    pub unit: Unit,
    /// The grant's number.
    pub fence: Fence,
    /// Since when.
    pub granted_unix_ms: u64,
    /// Until when, unless a heartbeat comes.
    pub deadline_unix_ms: u64,
}

/// How far the evaluation is, and what it says so far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EvaluationStatus {
    /// Held-out prompts.
    pub prompts: u32,
    /// Prompts painted by the base.
    pub base: u32,
    /// Prompts painted by the tuned policy.
    pub tuned: u32,
    /// Prompts on which the judge has compared both.
    pub compared: u32,
    /// Tuned over base; `None` before the first comparison.
    pub win_rate: Option<WinRate>,
}

/// How often the judge prefers the tuned policy's picture.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct WinRate {
    /// Prompts that were compared and judged: wins + losses + abstained.
    pub prompts: u32,
    /// Tuned preferred.
    pub wins: u32,
    /// Base preferred.
    pub losses: u32,
    /// No preference; counts as half a win.
    pub abstained: u32,
    /// Prompts that could not be judged; no part of the rate.
    pub failed: u32,
    /// (wins + abstained / 2) / prompts.
    pub value: f64,
    /// Lower end of the 95 % Wilson interval.
    pub low: f64,
    /// Upper end of the 95 % Wilson interval.
    pub high: f64,
}

/// The judge measured on pairs with a known answer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct JudgeMeasure {
    /// Labelled pairs.
    pub pairs: u32,
    /// Pairs judged so far.
    pub judged: u32,
    /// Share of the judged pairs on which the judge named the better picture; an abstention counts as wrong. 0 before the first.
    pub accuracy: f64,
    /// Share of the decided pairs on which it named the better picture. 0 before the first.
    pub accuracy_decided: f64,
    /// Share of the judged pairs whose two image orders gave the same side. 0 before the first.
    pub order_consistency: f64,
    /// Judged pairs on which it abstained.
    pub abstained: u32,
    /// Pairs that could not be judged.
    pub failed: u32,
}

impl Run {
    /// The run's state at `now`.
    pub fn status(&self, now: Millis) -> RunStatus {
        RunStatus {
            run: self.id.clone(),
            spec_sha256: self.spec_sha256,
            phase: self.phase(),
            created_unix_ms: self.created.map(|created| created.0),
            now_unix_ms: now.0,
            step: self.committed(),
            steps_total: self.spec.run.steps,
            progress: self.progress(),
            pairs_judged: self.pairs_judged,
            pairs_skipped: self.pairs_skipped,
            steps: self.results.steps.iter().map(|step| step.record.clone()).collect(),
            waiting: self.waiting_for(now),
            leases: self
                .board
                .leases()
                .map(|(unit, lease)| LeaseStatus {
                    worker: lease.worker.clone(),
                    unit: *unit,
                    fence: lease.fence,
                    granted_unix_ms: lease.granted.0,
                    deadline_unix_ms: lease.deadline.0,
                })
                .collect(),
            policy: self.policy().cloned(),
            evaluation: self.evaluation_status(),
            judge: self.judge_measure(),
        }
    }

    fn progress(&self) -> Option<Progress> {
        let flight = self.flights.front()?;
        let candidates = u32::from(self.spec.sampling.candidates);
        Some(Progress {
            step: flight.step,
            started_unix_ms: flight.started.0,
            samples: candidates * flight.sampled,
            samples_total: candidates * flight.count(),
            pairs_judged: flight.judged,
            pairs_total: flight.count(),
            shards: flight.shards_done,
            shards_total: flight.shards.len() as u32,
        })
    }

    fn evaluation_status(&self) -> Option<EvaluationStatus> {
        let results = &self.results;
        self.spec.evaluation.as_ref()?;
        Some(EvaluationStatus {
            prompts: results.base_images.len() as u32,
            base: results.base_images.iter().flatten().count() as u32,
            tuned: results.tuned_images.iter().flatten().count() as u32,
            compared: results.comparisons.iter().flatten().count() as u32,
            win_rate: WinRate::of(results.comparisons.iter().flatten()),
        })
    }

    fn judge_measure(&self) -> Option<JudgeMeasure> {
        let calibration = &self.results.calibration;
        if calibration.is_empty() {
            return None;
        }
        let (mut judged, mut decided, mut right, mut consistent, mut failed) = (0_u32, 0_u32, 0_u32, 0_u32, 0_u32);
        for (record, labelled) in calibration.iter().zip(&self.assets.labelled) {
            let Some(record) = record else { continue };
            match &record.verdict {
                Verdict::Failed { .. } => failed += 1,
                Verdict::Abstain { .. } => judged += 1,
                Verdict::Preferred { side } => {
                    judged += 1;
                    decided += 1;
                    right += u32::from(*side == labelled.preferred);
                }
            }
            consistent += u32::from(record.is_judged() && record.orders_agree());
        }
        let share = |part: u32, whole: u32| {
            if whole == 0 {
                0.0
            } else {
                f64::from(part) / f64::from(whole)
            }
        };
        Some(JudgeMeasure {
            pairs: calibration.len() as u32,
            judged,
            accuracy: share(right, judged),
            accuracy_decided: share(right, decided),
            order_consistency: share(consistent, judged),
            abstained: judged - decided,
            failed,
        })
    }
}

impl WinRate {
    /// Counts comparisons whose first image is the base's; `None` when none of them could be judged.
    pub fn of<'a>(comparisons: impl Iterator<Item = &'a VerdictRecord>) -> Option<Self> {
        let (mut wins, mut losses, mut abstained, mut failed) = (0_u32, 0_u32, 0_u32, 0_u32);
        for record in comparisons {
            match record.verdict {
                Verdict::Preferred { side: Side::Second } => wins += 1,
                Verdict::Preferred { side: Side::First } => losses += 1,
                Verdict::Abstain { .. } => abstained += 1,
                Verdict::Failed { .. } => failed += 1,
            }
        }
        let prompts = wins + losses + abstained;
        if prompts == 0 {
            return None;
        }
        let value = (f64::from(wins) + f64::from(abstained) / 2.0) / f64::from(prompts);
        let (low, high) = wilson(value, prompts);
        Some(Self {
            prompts,
            wins,
            losses,
            abstained,
            failed,
            value,
            low,
            high,
        })
    }
}

/// The 95 % score interval of a share (Wilson 1927).
fn wilson(share: f64, count: u32) -> (f64, f64) {
    const Z: f64 = 1.959_963_984_540_054;
    let n = f64::from(count);
    let centre = share + Z * Z / (2.0 * n);
    let half = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    (((centre - half) / scale).max(0.0), ((centre + half) / scale).min(1.0))
}
