//! What must hold for one run, told from the ledger alone, without asking the state machine what it thinks.

use std::collections::{BTreeMap, BTreeSet};

use gavel_core::ids::{Candidate, Fence, Millis, PromptIndex, Step, WorkerId};
use gavel_core::run::{Event, Phase, Run};
use gavel_core::work::{Arm, Assignment, LeaseKey, Outcome, Unit};

use super::blobs::Blobs;

/// Grants, results and rewards as the ledger tells them.
#[derive(Default)]
pub(super) struct Invariants {
    grants: BTreeMap<Fence, (Unit, WorkerId)>,
    open: BTreeMap<Unit, Open>,
    finished: BTreeMap<Unit, Finished>,
    /// What was finished and had to be done again, as it was before.
    earlier: BTreeMap<Unit, Outcome>,
    /// The last event that gave the run another last step, or may have.
    another_end: u64,
    /// Events so far, and which of them was the last that took results back.
    events: u64,
    taken_back: u64,
    /// When the latest event happened: time does not go back.
    latest: Option<Millis>,
    /// Workers that get nothing more, until somebody resumes the run.
    quarantined: BTreeSet<WorkerId>,
    /// Grants whose results counted when they came.
    counted: BTreeSet<Fence>,
    /// Grants that ended without a result that counts.
    ended: BTreeSet<Fence>,
    sampled: BTreeSet<(Step, PromptIndex, Candidate)>,
    judged: BTreeSet<(Step, PromptIndex)>,
    /// By the held-out judge.
    watched: BTreeSet<(Step, PromptIndex)>,
    rewarded: BTreeSet<(Step, PromptIndex)>,
    committed: Vec<Step>,
    /// Grants whose results ended the run instead of counting.
    stopped: BTreeSet<Fence>,
}

/// A unit with a result that counts.
struct Finished {
    outcome: Outcome,
    /// The decided pairs that a gradient unit was given.
    pairs: Vec<PromptIndex>,
    /// The number of the event that brought the result.
    event: u64,
}

/// When an event was written: with the driver's time `at`, at the true time `now`. A lease that begins then lasts for `lease`.
#[derive(Clone, Copy)]
pub(super) struct Moment {
    pub(super) at: Millis,
    pub(super) now: u64,
    pub(super) lease: u64,
}

/// An open lease.
struct Open {
    fence: Fence,
    worker: WorkerId,
    /// Until when its holder must be heard; the true time.
    deadline: u64,
    /// The decided pairs that a gradient unit was given.
    pairs: Vec<PromptIndex>,
}

impl Invariants {
    pub(super) fn open(&self, unit: &Unit) -> Option<(Fence, &WorkerId)> {
        self.open.get(unit).map(|open| (open.fence, &open.worker))
    }

    pub(super) fn held_by(&self, worker: &WorkerId) -> Option<Unit> {
        let mut held = self.open.iter().filter(|(_, open)| open.worker == *worker);
        held.next().map(|(unit, _)| *unit)
    }

    pub(super) fn was_granted(&self, unit: &Unit, fence: Fence, worker: &WorkerId) -> bool {
        self.grants
            .get(&fence)
            .is_some_and(|(granted, holder)| granted == unit && holder == worker)
    }

    pub(super) fn was_completed(&self, fence: Fence) -> bool {
        self.counted.contains(&fence) || self.stopped.contains(&fence)
    }

    pub(super) fn has_ended(&self, fence: Fence) -> bool {
        self.ended.contains(&fence)
    }

    /// A unit whose lease should have ended before `now`.
    pub(super) fn overdue(&self, now: u64) -> Option<Unit> {
        let mut overdue = self.open.iter().filter(|(_, open)| open.deadline < now);
        overdue.next().map(|(unit, _)| *unit)
    }

    pub(super) fn keep_alive(&mut self, key: &LeaseKey, worker: &WorkerId, deadline: u64) -> Result<(), String> {
        match self.open.get_mut(&key.unit) {
            Some(open) if open.fence == key.fence && open.worker == *worker => {
                open.deadline = deadline;
                Ok(())
            }
            _ => Err(format!(
                "a heartbeat kept {worker}'s lease on {}, which it does not have",
                key.unit
            )),
        }
    }

    /// Checks an event against what the ledger told before; `run` has not taken it yet. `silent`: its worker was not heard of for too long.
    pub(super) fn before(
        &mut self,
        event: &Event,
        Moment { at, now, lease }: Moment,
        silent: bool,
        run: &Run,
    ) -> Result<(), String> {
        self.events += 1;
        if self.latest.is_some_and(|latest| at < latest) {
            return Err(format!("event {} happened before the one that it follows", self.events));
        }
        self.latest = Some(at);
        match event {
            Event::Granted { unit, worker, fence } => {
                if self.quarantined.contains(worker) {
                    return Err(format!("{unit} was granted to {worker}, which is in quarantine"));
                }
                if fence.0 != self.grants.len() as u64 + 1 {
                    return Err(format!("grant {fence} follows {} grants", self.grants.len()));
                }
                if let Some(open) = self.open.get(unit) {
                    return Err(format!("{unit} was granted to {worker} while {} holds it", open.worker));
                }
                if let Some(finished) = self.finished.remove(unit) {
                    if finished.event > self.taken_back {
                        return Err(format!("{unit} was granted although it is finished"));
                    }
                    self.take_back(unit, finished);
                }
                self.grants.insert(*fence, (*unit, worker.clone()));
                let pairs = match run.assignment(unit) {
                    None => return Err(format!("{unit} was granted without its inputs")),
                    Some(Assignment::Gradient { groups, .. }) => {
                        groups.iter().map(|group| group.prompt_index).collect()
                    }
                    Some(_) => Vec::new(),
                };
                let open = Open {
                    fence: *fence,
                    worker: worker.clone(),
                    deadline: now + lease,
                    pairs,
                };
                self.open.insert(*unit, open);
            }
            Event::Completed {
                unit, worker, fence, ..
            }
            | Event::Failed {
                unit, worker, fence, ..
            }
            | Event::Released {
                unit, worker, fence, ..
            } => self.holds(unit, *fence, Some(worker))?,
            Event::Expired { unit, fence } => {
                self.holds(unit, *fence, None)?;
                let in_time = self.open.get(unit).is_some_and(|open| open.deadline >= now);
                if in_time && !silent {
                    return Err(format!("the lease on {unit} expired although its worker kept it alive"));
                }
            }
            Event::Quarantined { worker, .. } => drop(self.quarantined.insert(worker.clone())),
            Event::Resumed | Event::RolledBack { .. } => self.quarantined.clear(),
            Event::Recovered { .. } => {
                self.open.values_mut().for_each(|open| open.deadline = now + lease);
            }
            Event::GivenUp { unit, .. } if self.open.contains_key(unit) => {
                return Err(format!("{unit} was given up while somebody holds it"));
            }
            Event::GivenUp { .. } | Event::Cancelled { .. } | Event::Paused { .. } | Event::StepsChanged { .. } => {}
        }
        Ok(())
    }

    fn holds(&self, unit: &Unit, fence: Fence, worker: Option<&WorkerId>) -> Result<(), String> {
        match self.open.get(unit) {
            Some(open) if open.fence == fence && worker.is_none_or(|worker| *worker == open.worker) => Ok(()),
            _ => Err(format!(
                "{worker:?} was heard on {unit} with fence {fence}, which is not open"
            )),
        }
    }

    /// Counts an event; `run` has taken it.
    pub(super) fn after(&mut self, event: &Event, run: &Run, blobs: &Blobs) -> Result<(), String> {
        let halted = matches!(run.phase(), Phase::Failed { .. } | Phase::Stopped { .. });
        match event {
            Event::Completed {
                unit, fence, outcome, ..
            } if run.is_accepted(unit) => {
                let pairs = self.open.remove(unit).map(|open| open.pairs).unwrap_or_default();
                self.count(unit, outcome, &pairs)?;
                if let Some(earlier) = self.earlier.remove(unit)
                    && earlier != *outcome
                    && !blobs.misleads(&earlier)
                    && !blobs.misleads(outcome)
                {
                    return Err(format!("{unit} was done again with another result"));
                }
                self.counted.insert(*fence);
                let finished = Finished {
                    outcome: outcome.clone(),
                    pairs,
                    event: self.events,
                };
                self.finished.insert(*unit, finished);
            }
            Event::Completed { fence, .. } => drop(self.stopped.insert(*fence)),
            Event::Failed {
                unit, fence, unusable, ..
            } => {
                self.close(unit, *fence);
                if !unusable.is_empty() {
                    self.taken_back = self.events;
                }
            }
            Event::Released { unit, fence, .. } | Event::Expired { unit, fence } => self.close(unit, *fence),
            Event::Quarantined { .. }
            | Event::Granted { .. }
            | Event::GivenUp { .. }
            | Event::Cancelled { .. }
            | Event::Paused { .. }
            | Event::Resumed
            | Event::Recovered { .. } => {}
            Event::StepsChanged { .. } | Event::RolledBack { .. } => {
                self.taken_back = self.events;
                self.another_end = self.events;
                self.earlier.retain(|unit, _| !is_of_the_end(unit));
            }
        }
        let takes_leases = match event {
            Event::Failed { unusable, .. } => !unusable.is_empty(),
            Event::Quarantined { .. } | Event::StepsChanged { .. } | Event::RolledBack { .. } => true,
            _ => false,
        };
        if takes_leases || halted {
            let gone = self.open.extract_if(.., |unit, open| {
                let held = run.lease(unit).is_some_and(|lease| lease.fence == open.fence);
                halted || !held
            });
            self.ended.extend(gone.map(|(_, open)| open.fence));
        }
        if let Event::Quarantined { worker, .. } = event
            && let Some(unit) = self.held_by(worker)
        {
            return Err(format!("{worker} is in quarantine and holds {unit}"));
        }
        Ok(())
    }

    fn close(&mut self, unit: &Unit, fence: Fence) {
        self.open.remove(unit);
        self.ended.insert(fence);
    }

    /// A result does not count any more: its unit is done again.
    fn take_back(&mut self, unit: &Unit, finished: Finished) {
        match (unit, &finished.outcome) {
            (Unit::Sample { step, .. }, Outcome::Sampled { samples, .. }) => {
                for sample in samples {
                    self.sampled.remove(&(*step, sample.prompt_index, sample.candidate));
                }
            }
            (Unit::Judge { step, .. }, Outcome::Judged { verdicts, .. }) => {
                for record in verdicts {
                    self.judged.remove(&(*step, record.prompt_index));
                }
            }
            (Unit::HeldOutJudge { step, .. }, Outcome::Judged { verdicts, .. }) => {
                for record in verdicts {
                    self.watched.remove(&(*step, record.prompt_index));
                }
            }
            (Unit::Gradient { step, .. }, _) => {
                for prompt in &finished.pairs {
                    self.rewarded.remove(&(*step, *prompt));
                }
            }
            (Unit::Commit { step }, _) => self.committed.retain(|committed| committed < step),
            _ => {}
        }
        // What is measured at another end is something else.
        if !is_of_the_end(unit) || finished.event > self.another_end {
            self.earlier.insert(*unit, finished.outcome);
        }
    }

    fn count(&mut self, unit: &Unit, outcome: &Outcome, pairs: &[PromptIndex]) -> Result<(), String> {
        let mut once = true;
        match (unit, outcome) {
            (Unit::Sample { step, .. }, Outcome::Sampled { samples, .. }) => {
                for sample in samples {
                    once &= self.sampled.insert((*step, sample.prompt_index, sample.candidate));
                }
            }
            (Unit::Judge { step, .. }, Outcome::Judged { verdicts, .. }) => {
                // A group has a verdict for each of its pairs, all from one result.
                let prompts: BTreeSet<_> = verdicts.iter().map(|record| record.prompt_index).collect();
                for prompt in prompts {
                    once &= self.judged.insert((*step, prompt));
                }
            }
            (Unit::HeldOutJudge { step, .. }, Outcome::Judged { verdicts, .. }) => {
                let prompts: BTreeSet<_> = verdicts.iter().map(|record| record.prompt_index).collect();
                for prompt in prompts {
                    once &= self.watched.insert((*step, prompt));
                }
            }
            (Unit::Gradient { step, .. }, _) => {
                for prompt in pairs {
                    once &= self.rewarded.insert((*step, *prompt));
                }
            }
            (Unit::Commit { step }, _) => {
                once = self.committed.len() as u32 + 1 == step.0;
                self.committed.push(*step);
            }
            _ => {}
        }
        if once {
            Ok(())
        } else {
            Err(format!("{unit} brought what was there already"))
        }
    }

    /// What a finished run must have come by.
    pub(super) fn check_end(&self, run: &Run) -> Result<(), String> {
        let spec = run.spec();
        let pairs = (spec.run.steps * spec.prompts.per_step) as usize;
        let candidates = usize::from(spec.sampling.candidates) * pairs;
        if self.sampled.len() != candidates {
            return Err(format!(
                "{} candidates of {candidates} were sampled",
                self.sampled.len()
            ));
        }
        if self.committed.len() != spec.run.steps as usize {
            return Err(format!(
                "{} steps of {} were committed",
                self.committed.len(),
                spec.run.steps
            ));
        }
        if !judged_by_failure(run) && self.judged.len() != pairs {
            return Err(format!("{} pairs of {pairs} were judged", self.judged.len()));
        }
        let each = spec.judge.held_out.as_ref();
        let each = each.map_or(0, |held_out| held_out.prompts(spec.prompts.per_step));
        let share = (spec.run.steps * each) as usize;
        if !judged_by_failure(run) && self.watched.len() != share {
            return Err(format!(
                "the held-out judge has seen {} pairs of {share}",
                self.watched.len()
            ));
        }
        let decided: u32 = run.results().steps.iter().map(|step| step.record.decided).sum();
        if self.rewarded.len() != decided as usize {
            return Err(format!(
                "{} pairs were rewarded, {decided} are decided",
                self.rewarded.len()
            ));
        }
        if !self.open.is_empty() {
            return Err("leases are open in a finished run".into());
        }
        Ok(())
    }
}

/// Whether some verdicts say that no judge could judge: these depend on what went wrong, and so does all that follows.
pub(super) fn judged_by_failure(run: &Run) -> bool {
    let results = run.results();
    let groups = results.steps.iter().flat_map(|step| &step.groups);
    let mut verdicts = groups
        .flat_map(|group| group.verdicts.iter().chain(&group.held_out))
        .chain(results.comparisons.iter().flatten())
        .chain(
            results
                .probes
                .iter()
                .flat_map(|probe| probe.comparisons.iter().flatten()),
        )
        .chain(results.calibration.iter().flatten());
    verdicts.any(|record| !record.is_judged())
}

/// Whether a unit measures the run's last policy, whichever that is.
fn is_of_the_end(unit: &Unit) -> bool {
    matches!(
        unit,
        Unit::EvaluateSample { arm: Arm::Tuned, .. }
            | Unit::EvaluateJudge { probe: None, .. }
            | Unit::AnswerQuestions { arm: Arm::Tuned, .. }
    )
}
