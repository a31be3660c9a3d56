//! A run's state as a value that can be written down, so that the next replay begins where this one stands.
//!
//! A snapshot is a kept replay and never the truth: the events are, and whoever does not like a snapshot replays them. It has
//! all that the events brought about, and nothing of what the run's row says (specification, files) or what no event says (the
//! deadlines of leases, which heartbeats move: a takeover gives every lease a fresh one).

mod rows;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::board::Board;
use super::conditionings::Conditionings;
use super::control::Pause;
use super::results::{GroupResult, ShardResult};
use super::trouble::Trouble;
use super::{Lease, Missing, Phase, Probe, Results, Run, Series, StepInFlight, StepResult};
use crate::assets::{ModelFingerprints, RunAssets};
use crate::ids::{Digest, Fence, Millis, RunId, Step, WorkerId};
use crate::spec::RunSpec;
use crate::work::{AskedMatches, PictureAnswer, PromptPlace, Role, Spent, Unit, VerdictRecord};
pub(super) use rows::CommitRow;
use rows::{PolicyRow, RecordRow, WorkerNumbers};

/// The version of [`Snapshot`] and of what [`Run::apply`] makes of events.
///
/// Raise it whenever the snapshot has other fields, or the same events lead to another state: snapshots of other versions are
/// left alone, and their events are replayed. `a_snapshot_has_the_shape_of_its_version` shows the shape as text; whoever has to
/// change that text has to raise this number too.
pub const VERSION: u32 = 7;

/// Where a run stands after some number of its events.
///
/// Only a [lean](Run::lean) run has one, since it is to stay small however long the run is: of earlier steps it has the policies
/// that are kept.
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
    /// The accepted units, each with its fence and its worker's index.
    accepted: Vec<(Unit, Fence, usize)>,
    troubles: Vec<(Unit, Trouble)>,
    flights: VecDeque<StepInFlight>,
    quarantined: BTreeMap<WorkerId, String>,
    models: ModelFingerprints,
    missing: Missing,
    matches_judged: u64,
    asked: AskedMatches,
    pairs_skipped: u32,
    pairs_skipped_lately: u32,
    kept_from: Step,
    kept_for_probes: BTreeSet<Step>,
    held_policies: BTreeSet<Step>,
    released_policies: BTreeSet<Step>,
    watched_from: Step,
    spent: Spent,
    conditionings: Conditionings,
    details_from: Step,
    /// How many policies there are, with those that are not here.
    policies_total: usize,
    /// Those that the run has, with their versions.
    policies: Vec<(usize, PolicyRow)>,
    /// How many steps are committed, with those that are not here.
    committed: usize,
    /// The figures of the latest of them.
    records: Vec<RecordRow>,
    /// The details of those from `details_from` on.
    details: Vec<(Vec<GroupResult>, Vec<ShardResult>)>,
    base_images: Vec<Option<Digest>>,
    tuned_images: Vec<Option<Digest>>,
    comparisons: Vec<Option<VerdictRecord>>,
    calibration: Vec<Option<VerdictRecord>>,
    base_answers: Vec<Option<Vec<PictureAnswer>>>,
    tuned_answers: Vec<Option<Vec<PictureAnswer>>>,
    probes: Vec<Probe>,
    rubrics: Vec<(PromptPlace, Option<Digest>)>,
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
            accepted,
            troubles,
            flights,
            quarantined,
            models,
            missing,
            matches_judged,
            asked,
            pairs_skipped,
            pairs_skipped_lately,
            kept_from,
            kept_for_probes,
            held_policies,
            released_policies,
            watched_from,
            spent,
            conditionings,
            is_lean,
            details_from,
            rubrics,
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
        let accepted = accepted.iter();
        let accepted = accepted.map(|(unit, accepted)| (unit, accepted.fence, workers.of(&accepted.worker)));
        let accepted = accepted.collect();
        let Results {
            policies,
            steps,
            base_images,
            tuned_images,
            comparisons,
            calibration,
            base_answers,
            tuned_answers,
            probes,
        } = results;
        let detailed = steps.from_index(details_from.0.saturating_sub(1) as usize);
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
            accepted,
            troubles: troubles.clone().into_iter().collect(),
            flights: flights.clone(),
            quarantined: quarantined.clone(),
            models: *models,
            missing: *missing,
            matches_judged: *matches_judged,
            asked: *asked,
            pairs_skipped: *pairs_skipped,
            pairs_skipped_lately: *pairs_skipped_lately,
            kept_from: *kept_from,
            kept_for_probes: kept_for_probes.clone(),
            held_policies: held_policies.clone(),
            released_policies: released_policies.clone(),
            watched_from: *watched_from,
            spent: *spent,
            conditionings: conditionings.clone(),
            details_from: *details_from,
            policies_total: policies.len(),
            policies: PolicyRow::of(policies.numbered()),
            committed: steps.len(),
            records: steps.iter().map(|step| RecordRow::from(&step.record)).collect(),
            details: detailed
                .map(|step| (step.groups.clone(), step.shards.clone()))
                .collect(),
            base_images: base_images.clone(),
            tuned_images: tuned_images.clone(),
            comparisons: comparisons.clone(),
            calibration: calibration.clone(),
            base_answers: base_answers.clone(),
            tuned_answers: tuned_answers.clone(),
            probes: probes.clone(),
            rubrics: rubrics.written().collect(),
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
        for (kept, begun) in [
            (snapshot.base_answers.len(), run.results.base_answers.len()),
            (snapshot.tuned_answers.len(), run.results.tuned_answers.len()),
        ] {
            fits(kept == begun, "it has answers about another number of held-out prompts")?;
        }
        let (committed, present) = (snapshot.committed, snapshot.records.len());
        let without_details = snapshot.details_from.0.saturating_sub(1) as usize;
        fits(
            without_details + snapshot.details.len() == committed && snapshot.details.len() <= present,
            "its steps and their details differ in number",
        )?;
        fits(present <= committed, "it has more steps than are committed")?;
        let mut versions = snapshot.policies.iter().map(|(version, _)| *version);
        fits(
            versions.all(|version| version < snapshot.policies_total),
            "it has more policies than there are",
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
        for (unit, fence, index) in snapshot.accepted {
            run.accepted.insert(unit, fence, worker(index)?);
        }
        let without = std::iter::repeat_with(Default::default).take(present - snapshot.details.len());
        let details = without.chain(snapshot.details);
        let steps = snapshot
            .records
            .into_iter()
            .zip(details)
            .map(|(record, (groups, shards))| StepResult {
                record: record.into(),
                groups,
                shards,
            });
        run.results = Results {
            policies: Series::new(snapshot.policies_total, PolicyRow::policies(snapshot.policies)),
            steps: Series::new(committed, (committed - present..).zip(steps)),
            base_images: snapshot.base_images,
            tuned_images: snapshot.tuned_images,
            comparisons: snapshot.comparisons,
            calibration: snapshot.calibration,
            base_answers: snapshot.base_answers,
            tuned_answers: snapshot.tuned_answers,
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
        run.asked = snapshot.asked;
        run.pairs_skipped = snapshot.pairs_skipped;
        run.pairs_skipped_lately = snapshot.pairs_skipped_lately;
        run.kept_from = snapshot.kept_from;
        run.kept_for_probes = snapshot.kept_for_probes;
        run.held_policies = snapshot.held_policies;
        run.released_policies = snapshot.released_policies;
        run.watched_from = snapshot.watched_from;
        run.spent = snapshot.spent;
        run.conditionings = snapshot.conditionings;
        run.details_from = snapshot.details_from;
        run.rubrics.restore(snapshot.rubrics);
        Ok(run)
    }
}
