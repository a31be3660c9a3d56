//! A run in figures: one document for HTTP, progress display and report.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Phase, Run, StepRecord, Waiting, WaitingFor};
use crate::bounds::cut;
use crate::ids::{Digest, Fence, Millis, RunId, Step, WorkerId};
use crate::measure::{JudgeCounts, JudgeMeasure, WinRate};
use crate::work::{AskedMatches, Policy, Spent, Unit};

/// A run's state at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// Matches of training groups that a judge has looked at so far; a group of two is one match.
    pub matches_judged: u64,
    /// How these were asked; absent in a run that asks about each in both image orders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<AskedMatches>,
    /// Groups without a finite gradient so far.
    pub pairs_skipped: u32,
    /// Committed steps, in order: all of them, or the latest where the state is one of a list or of a stream.
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
    /// The policies that were measured on the first held-out prompts, in the order of their steps; the last step's is among them
    /// once it is committed. Empty in a run without `evaluation.every`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<ProbeStatus>,
    /// Of these steps the one with the highest win rate whose policy is kept; the earlier of two that are alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<Step>,
    /// The rubrics of single prompts that were written so far; absent in a run that writes none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rubrics: Option<RubricsStatus>,
    /// What its judges have asked of servers, as far as results were accepted; absent where they asked none.
    #[serde(default, skip_serializing_if = "Spent::is_nothing")]
    pub spent: Spent,
}

impl RunStatus {
    /// Of a run that is there and cannot be read: it counts as failed, and nothing else is known of it.
    pub fn unreadable(run: RunId, reason: &str, now: Millis) -> Self {
        let reason = format!("set aside: {reason}");
        Self {
            run,
            spec_sha256: Digest([0; 32]),
            waiting: Waiting {
                cause: WaitingFor::Nothing,
                since_unix_ms: now.0,
                text: "nothing: the run is set aside".into(),
            },
            phase: Phase::Failed { reason },
            created_unix_ms: None,
            now_unix_ms: now.0,
            step: Step(0),
            steps_total: 0,
            progress: None,
            matches_judged: 0,
            asked: None,
            pairs_skipped: 0,
            steps: Vec::new(),
            leases: Vec::new(),
            policy: None,
            evaluation: None,
            judge: None,
            probes: Vec::new(),
            spent: Spent::default(),
            best: None,
            rubrics: None,
        }
    }
}

/// How far the step in flight is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    /// The step in flight.
    pub step: Step,
    /// When it began.
    pub started_unix_ms: u64,
    /// Candidates sampled.
    pub samples: u32,
    /// Candidates of the step.
    pub samples_total: u32,
    /// Groups judged: all matches of a prompt's candidates.
    pub groups_judged: u32,
    /// Groups of the step.
    pub groups_total: u32,
    /// Gradient shards done.
    pub shards: u32,
    /// Gradient shards of the step.
    pub shards_total: u32,
}

/// One open lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// Questions about single pictures; absent in a run that asks none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub questions: Option<QuestionsStatus>,
}

/// How far the questions about single held-out pictures are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QuestionsStatus {
    /// Those that were asked.
    pub asked: u32,
    /// Those of them that have no answer at all.
    pub unanswered: u32,
    /// All of them, about the base's pictures and the tuned policy's.
    pub total: u32,
}

/// A step's policy on the prompts of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProbeStatus {
    /// The step that committed the policy.
    pub step: Step,
    /// Prompts of a probe: the first of the held-out ones.
    pub prompts: u32,
    /// Those that the policy has painted.
    pub painted: u32,
    /// Those on which the judge has compared it with the base.
    pub compared: u32,
    /// The policy over the base; `None` before the first comparison.
    pub win_rate: Option<WinRate>,
}

/// How far the writing of rubrics for single prompts is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RubricsStatus {
    /// Prompts that have a rubric of their own by it.
    pub written: u32,
    /// Prompts for which none came of it: the general rubric decides.
    pub general: u32,
}

impl RunStatus {
    /// Whether nothing happens until somebody does something: the run has ended, or it is paused and nothing is in work.
    pub fn stands_still(&self) -> bool {
        self.phase.is_ended() || (matches!(self.phase, Phase::Paused { .. }) && self.leases.is_empty())
    }
}

/// A state goes to many; what an earlier version let somebody say as a reason may be of any length.
fn with_short_reason(phase: Phase) -> Phase {
    match phase {
        Phase::Paused { reason } => Phase::Paused { reason: cut(reason) },
        Phase::Stopped { reason } => Phase::Stopped { reason: cut(reason) },
        Phase::Failed { reason } => Phase::Failed { reason: cut(reason) },
        phase => phase,
    }
}

impl Run {
    /// The run's state at `now`. Of one that is [lean](Run::lean) it has the steps that the run still has.
    pub fn status(&self, now: Millis) -> RunStatus {
        self.status_since(Step(0), now)
    }

    /// The same for a list of many runs: of the committed steps only the latest.
    pub fn status_in_short(&self, now: Millis) -> RunStatus {
        self.status_since(Step(self.committed().0.saturating_sub(1)), now)
    }

    /// The same for somebody who knows the steps up to this one: of the committed steps only those after it.
    pub fn status_since(&self, known: Step, now: Millis) -> RunStatus {
        let steps = self.results.steps.from_index(known.0 as usize);
        let waiting = self.waiting_for(now);
        RunStatus {
            run: self.id.clone(),
            spec_sha256: self.spec_sha256,
            phase: with_short_reason(self.phase()),
            created_unix_ms: self.created.map(|created| created.0),
            now_unix_ms: now.0,
            step: self.committed(),
            steps_total: self.spec.run.steps,
            progress: self.progress(),
            matches_judged: self.matches_judged,
            asked: self.asked(),
            pairs_skipped: self.pairs_skipped,
            steps: steps.map(|step| step.record.clone()).collect(),
            waiting: Waiting {
                text: cut(waiting.text),
                ..waiting
            },
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
            probes: self.probes(),
            best: self.best(),
            rubrics: self.rubrics_status(),
            spent: self.spent,
        }
    }

    fn rubrics_status(&self) -> Option<RubricsStatus> {
        self.spec.judge.writer.as_ref()?;
        let written = self.written_rubrics().filter(|(_, rubric)| rubric.is_some()).count() as u32;
        Some(RubricsStatus {
            written,
            general: self.written_rubrics().len() as u32 - written,
        })
    }

    fn progress(&self) -> Option<Progress> {
        let flight = self.flights.front()?;
        let candidates = u32::from(self.spec.sampling.candidates);
        Some(Progress {
            step: flight.step,
            started_unix_ms: flight.started.0,
            samples: candidates * flight.sampled,
            samples_total: candidates * flight.count(),
            groups_judged: flight.judged,
            groups_total: flight.count(),
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
            win_rate: self.win_rate(),
            questions: self.questions_status(),
        })
    }

    /// Tuned over base as far as the judge has compared them; `None` before the first comparison.
    pub fn win_rate(&self) -> Option<WinRate> {
        WinRate::of(self.results.comparisons.iter().flatten())
    }

    fn judge_measure(&self) -> Option<JudgeMeasure> {
        let calibration = &self.results.calibration;
        let labelled = calibration.iter().zip(&self.assets.labelled);
        let judged = labelled.filter_map(|(record, labelled)| Some((record.as_ref()?, labelled.preferred)));
        (!calibration.is_empty()).then(|| JudgeMeasure::new(calibration.len(), &JudgeCounts::of(judged)))
    }
}
