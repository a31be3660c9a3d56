//! A run's state as a value that can be written down, so that the next replay begins where this one stands.
//!
//! A snapshot is a kept replay and never the truth: the events are, and whoever does not like a snapshot replays them. It has
//! all that the events brought about, and nothing of what the run's row says (specification, files) or what no event says (the
//! deadlines of leases, which heartbeats move: a takeover gives every lease a fresh one).

mod rows;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::board::Board;
use super::control::Pause;
use super::results::{GroupResult, ShardResult};
use super::trouble::Trouble;
use super::{Accepted, Lease, Missing, Phase, Probe, Results, Run, StepInFlight, StepResult};
use crate::assets::{ModelFingerprints, RunAssets};
use crate::ids::{Digest, Fence, Millis, RunId, Step, WorkerId};
use crate::spec::RunSpec;
use crate::work::{Role, Spent, Unit, VerdictRecord};
use rows::{PolicyRow, RecordRow, WorkerNumbers};

/// The version of [`Snapshot`] and of what [`Run::apply`] makes of events.
///
/// Raise it whenever the snapshot has other fields, or the same events lead to another state: snapshots of other versions are
/// left alone, and their events are replayed. `a_snapshot_has_the_shape_of_its_version` shows the shape as text; whoever has to
/// change that text has to raise this number too.
pub const VERSION: u32 = 2;

/// Where a run stands after some number of its events.
///
/// Only a [lean](Run::lean) run has one, since it is to stay small however long the run is: it grows by the figures of a step, its
/// policy's hashes and who committed it, some 400 bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// `run.steps`, which events may change.
    steps_total: u32,
    halted: Option<Phase>,
    paused: Option<Pause>,
    ended: Option<Millis>,
    grants: u64,
    /// The workers that the rows below name by their index here.
    workers: Vec<WorkerId>,
    ready: BTreeSet<Unit>,
    leases: Vec<LeaseRow>,
    unattended: BTreeMap<Role, Millis>,
    /// The commits of the steps, each with its fence and its worker's index.
    commits: Vec<(Step, Fence, usize)>,
    /// Every other accepted unit, with its fence and its worker's index.
    accepted: Vec<(Unit, Fence, usize)>,
    troubles: Vec<(Unit, Trouble)>,
    flights: VecDeque<StepInFlight>,
    quarantined: BTreeMap<WorkerId, String>,
    models: ModelFingerprints,
    missing: Missing,
    matches_judged: u64,
    pairs_skipped: u32,
    pairs_skipped_lately: u32,
    kept_from: Step,
    kept_for_probes: BTreeSet<Step>,
    held_policies: BTreeSet<Step>,
    released_policies: BTreeSet<Step>,
    watched_from: Step,
    spent: Spent,
    details_from: Step,
    policies: Vec<PolicyRow>,
    records: Vec<RecordRow>,
    /// The details of the steps from `details_from` on.
    details: Vec<(Vec<GroupResult>, Vec<ShardResult>)>,
    base_images: Vec<Option<Digest>>,
    tuned_images: Vec<Option<Digest>>,
    comparisons: Vec<Option<VerdictRecord>>,
    calibration: Vec<Option<VerdictRecord>>,
    probes: Vec<Probe>,
}

/// An open lease, without its deadline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LeaseRow {
    unit: Unit,
    worker: usize,
    fence: Fence,
    granted: Millis,
}

/// Why a snapshot is not one of its run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the snapshot does not fit its run: {problem}")]
pub struct NotOfThisRun {
    problem: &'static str,
}

impl Run {
    /// The state as a value; `None` of a run that is not [lean](Run::lean).
    pub fn snapshot(&self) -> Option<Snapshot> {
        // Each field is named, so that a new one does not compile before somebody has said where it goes.
        let Self {
            id: _,
            spec,
            spec_sha256: _,
            assets: _,
            created: _,
            halted,
            paused,
            ended,
            grants,
            board,
            accepted: all_accepted,
            troubles,
            flights,
            quarantined,
            models,
            missing,
            matches_judged,
            pairs_skipped,
            pairs_skipped_lately,
            kept_from,
            kept_for_probes,
            held_policies,
            released_policies,
            watched_from,
            spent,
            is_lean,
            details_from,
            results,
        } = self;
        if !is_lean {
            return None;
        }
        let mut workers = WorkerNumbers::default();
        let leases = board.leases().map(|(unit, lease)| LeaseRow {
            unit: *unit,
            worker: workers.of(&lease.worker),
            fence: lease.fence,
            granted: lease.granted,
        });
        let leases = leases.collect();
        let (mut commits, mut accepted) = (Vec::new(), Vec::new());
        for (unit, Accepted { fence, worker }) in all_accepted {
            let worker = workers.of(worker);
            match *unit {
                Unit::Commit { step } => commits.push((step, *fence, worker)),
                unit => accepted.push((unit, *fence, worker)),
            }
        }
        let Results {
            policies,
            steps,
            base_images,
            tuned_images,
            comparisons,
            calibration,
            probes,
        } = results;
        let detailed = steps.iter().skip(self.steps_without_details());
        Some(Snapshot {
            steps_total: spec.run.steps,
            halted: halted.clone(),
            paused: paused.clone(),
            ended: *ended,
            grants: *grants,
            workers: workers.names(),
            ready: board.all_ready().collect(),
            leases,
            unattended: board.unattended().clone(),
            commits,
            accepted,
            troubles: troubles.clone().into_iter().collect(),
            flights: flights.clone(),
            quarantined: quarantined.clone(),
            models: *models,
            missing: *missing,
            matches_judged: *matches_judged,
            pairs_skipped: *pairs_skipped,
            pairs_skipped_lately: *pairs_skipped_lately,
            kept_from: *kept_from,
            kept_for_probes: kept_for_probes.clone(),
            held_policies: held_policies.clone(),
            released_policies: released_policies.clone(),
            watched_from: *watched_from,
            spent: *spent,
            details_from: *details_from,
            policies: PolicyRow::of(policies),
            records: steps.iter().map(|step| RecordRow::from(&step.record)).collect(),
            details: detailed
                .map(|step| (step.groups.clone(), step.shards.clone()))
                .collect(),
            base_images: base_images.clone(),
            tuned_images: tuned_images.clone(),
            comparisons: comparisons.clone(),
            calibration: calibration.clone(),
            probes: probes.clone(),
        })
    }

    /// The run that a snapshot was taken of, lean as it was, but for the deadlines of its leases: these are as long after the
    /// grant as the specification says. `spec`, `assets` and `created` are those of the run's row.
    ///
    /// # Errors
    /// The snapshot is one of another run.
    pub fn restore(
        id: RunId,
        spec: RunSpec,
        assets: RunAssets,
        created: Millis,
        snapshot: Snapshot,
    ) -> Result<Self, NotOfThisRun> {
        let mut spec = spec;
        spec.run.steps = snapshot.steps_total;
        let mut run = Self::new(id, spec, assets).created(created).lean();
        let fits = |fits: bool, problem| if fits { Ok(()) } else { Err(NotOfThisRun { problem }) };
        for (kept, begun) in [
            (snapshot.base_images.len(), run.results.base_images.len()),
            (snapshot.tuned_images.len(), run.results.tuned_images.len()),
            (snapshot.comparisons.len(), run.results.comparisons.len()),
        ] {
            fits(kept == begun, "it has another number of held-out prompts")?;
        }
        let labelled = run.results.calibration.len();
        fits(
            snapshot.calibration.len() == labelled,
            "it has another number of labelled pairs",
        )?;
        let without = snapshot.details_from.0.saturating_sub(1) as usize;
        let details = without + snapshot.details.len();
        fits(
            details == snapshot.records.len(),
            "its steps and their details differ in number",
        )?;
        let worker = |index: usize| {
            let worker = snapshot.workers.get(index).cloned();
            worker.ok_or(NotOfThisRun {
                problem: "it names no worker where there must be one",
            })
        };

        let mut leases = BTreeMap::new();
        for LeaseRow {
            unit,
            worker: index,
            fence,
            granted,
        } in snapshot.leases
        {
            let lease = Lease {
                worker: worker(index)?,
                fence,
                granted,
                deadline: run.deadline(granted),
            };
            leases.insert(unit, lease);
        }
        let commits = snapshot
            .commits
            .into_iter()
            .map(|(step, fence, index)| (Unit::Commit { step }, fence, index));
        for (unit, fence, index) in commits.chain(snapshot.accepted) {
            run.accepted.insert(
                unit,
                Accepted {
                    fence,
                    worker: worker(index)?,
                },
            );
        }
        let without = std::iter::repeat_with(Default::default).take(without);
        let details = without.chain(snapshot.details);
        let steps = snapshot.records.into_iter().zip(details);
        run.results = Results {
            policies: PolicyRow::policies(snapshot.policies),
            steps: steps
                .map(|(record, (groups, shards))| StepResult {
                    record: record.into(),
                    groups,
                    shards,
                })
                .collect(),
            base_images: snapshot.base_images,
            tuned_images: snapshot.tuned_images,
            comparisons: snapshot.comparisons,
            calibration: snapshot.calibration,
            probes: snapshot.probes,
        };
        run.board = Board::restored(snapshot.ready, leases, snapshot.unattended);
        run.halted = snapshot.halted;
        run.paused = snapshot.paused;
        run.ended = snapshot.ended;
        run.grants = snapshot.grants;
        run.troubles = snapshot.troubles.into_iter().collect();
        run.flights = snapshot.flights;
        run.quarantined = snapshot.quarantined;
        run.models = snapshot.models;
        run.missing = snapshot.missing;
        run.matches_judged = snapshot.matches_judged;
        run.pairs_skipped = snapshot.pairs_skipped;
        run.pairs_skipped_lately = snapshot.pairs_skipped_lately;
        run.kept_from = snapshot.kept_from;
        run.kept_for_probes = snapshot.kept_for_probes;
        run.held_policies = snapshot.held_policies;
        run.released_policies = snapshot.released_policies;
        run.watched_from = snapshot.watched_from;
        run.spent = snapshot.spent;
        run.details_from = snapshot.details_from;
        Ok(run)
    }
}
