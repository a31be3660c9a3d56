//! The events, one by one: grants, leases and accepted results, with books of its own beside the run's state machine.
//!
//! The state machine is asked whether each event applies, but nothing is taken from it that the events themselves tell:
//! who holds which lease, which fence comes next, and what was accepted are counted here again. Only what is taken back when
//! an input is lost or a worker set apart follows from more than the event, and is asked of the state machine.

use std::collections::{BTreeMap, BTreeSet};

use gavel_core::ids::{Digest, Fence, Millis, WorkerId};
use gavel_core::run::{Event, Phase, Run};
use gavel_core::spec::{JudgeSpec, WriterSpec};
use gavel_core::work::{Assignment, Fault, Outcome, Role, Unit};

use super::finding::{Findings, Rule};
use crate::verify::compare;
use crate::{Error, History};

/// What the events add up to.
pub(super) struct Account {
    /// The run that the events lead to; events that do not apply are left out.
    pub(super) run: Run,
    /// The accepted result of each unit.
    pub(super) accepted: BTreeMap<Unit, Accepted>,
    /// Number of grants.
    pub(super) grants: u64,
    /// Results that were taken back, to be made again.
    pub(super) taken_back: u64,
}

/// A result that counts.
#[derive(Debug, Clone)]
pub(super) struct Accepted {
    /// The event's number.
    pub(super) sequence: u64,
    pub(super) worker: WorkerId,
    /// What the worker was given with the lease.
    pub(super) assignment: Option<Assignment>,
    pub(super) outcome: Outcome,
    /// How many steps the run was to have at the time.
    pub(super) steps: u32,
}

/// A lease as the events tell it.
struct Open {
    worker: WorkerId,
    fence: Fence,
    assignment: Option<Assignment>,
}

/// The models that a run works with. Samplers and trainers have the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Model {
    Denoiser,
    Judge,
    HeldOutJudge,
    Writer,
}

impl Model {
    fn of(unit: &Unit, judge: &JudgeSpec) -> Self {
        let has_own = || judge.writer.as_ref().is_some_and(WriterSpec::has_models);
        match (unit, unit.role()) {
            (Unit::HeldOutJudge { .. }, _) => Self::HeldOutJudge,
            (Unit::WriteRubric { .. }, _) if has_own() => Self::Writer,
            (_, Role::Judge) => Self::Judge,
            (_, Role::Sampler | Role::Trainer) => Self::Denoiser,
        }
    }
}

struct Accountant<'a> {
    account: Account,
    open: BTreeMap<Unit, Open>,
    /// Results that were taken back only because bytes were lost: made again, they must be the same.
    lost: BTreeMap<Unit, Accepted>,
    quarantined: BTreeSet<WorkerId>,
    /// The first fingerprint of each kind of model.
    models: BTreeMap<Model, Digest>,
    refused: u64,
    findings: &'a mut Findings,
}

impl Account {
    /// Reads a run's events.
    ///
    /// # Errors
    /// Spec or assets cannot be read: then there is nothing to hold the events against.
    pub(super) fn read(history: &History, findings: &mut Findings) -> Result<Self, Error> {
        let mut accountant = Accountant {
            account: Self {
                run: history.begin()?,
                accepted: BTreeMap::new(),
                grants: 0,
                taken_back: 0,
            },
            open: BTreeMap::new(),
            lost: BTreeMap::new(),
            quarantined: BTreeSet::new(),
            models: BTreeMap::new(),
            refused: 0,
            findings,
        };
        if let Err(problem) = history.record.check() {
            accountant
                .findings
                .add(Rule::Checksums, "the run's row", problem.to_string());
        }
        let mut chain = history.record.chain;
        for (expected, stored) in (1..).zip(&history.events) {
            let location = format!("event {}", stored.sequence);
            if stored.sequence != expected {
                accountant
                    .findings
                    .add(Rule::Events, &location, format!("event {expected} is missing"));
            } else if let Err(problem) = stored.check(&chain) {
                accountant.findings.add(Rule::Checksums, &location, problem.to_string());
            }
            chain = stored.chain;
            let event: Event = match serde_json::from_str(&stored.event) {
                Ok(event) => event,
                Err(error) => {
                    accountant
                        .findings
                        .add(Rule::Events, &location, format!("cannot be read: {error}"));
                    continue;
                }
            };
            let kind = serde_json::to_value(&event).ok();
            let kind = kind
                .as_ref()
                .and_then(|value| value.get("kind"))
                .and_then(|kind| kind.as_str());
            if kind != Some(stored.kind.as_str()) {
                let problem = format!(
                    "its column says `{}`, the event is `{}`",
                    stored.kind,
                    kind.unwrap_or("?")
                );
                accountant.findings.add(Rule::Events, &location, problem);
            }
            accountant.enter(&location, stored.sequence, event.clone());
            accountant.apply(&location, event, stored.at);
        }
        if accountant.refused > 1 {
            let problem = format!("{} events do not apply; the first is named above", accountant.refused);
            accountant.findings.add(Rule::Events, "the ledger", problem);
        }
        Ok(accountant.account)
    }
}

impl Accountant<'_> {
    /// Counts an event in the account, before the state machine hears of it.
    fn enter(&mut self, location: &str, sequence: u64, event: Event) {
        match event {
            Event::Granted { unit, worker, fence } => self.grant(location, unit, worker, fence),
            Event::Completed {
                unit,
                worker,
                fence,
                outcome,
            } => {
                let lease = self.close(location, &unit, fence, Some(&worker));
                if let Some(before) = self.account.accepted.get(&unit) {
                    let problem = format!("{unit} has a second result; the first is event {}", before.sequence);
                    return self.findings.add(Rule::Once, location, problem);
                }
                let accepted = Accepted {
                    sequence,
                    worker,
                    assignment: lease.and_then(|lease| lease.assignment),
                    outcome,
                    steps: self.account.run.spec().run.steps,
                };
                self.accept(location, unit, accepted);
            }
            Event::Failed {
                unit, worker, fence, ..
            }
            | Event::Released {
                unit, worker, fence, ..
            } => {
                self.close(location, &unit, fence, Some(&worker));
            }
            Event::Expired { unit, fence } => {
                self.close(location, &unit, fence, None);
            }
            Event::Quarantined { worker, .. } => drop(self.quarantined.insert(worker)),
            Event::Resumed | Event::RolledBack { .. } => self.quarantined.clear(),
            // Commits that are made again have the learning rates of the new number.
            Event::StepsChanged { .. } => self.lost.retain(|unit, _| !matches!(unit, Unit::Commit { .. })),
            Event::Cancelled { .. } | Event::GivenUp { .. } | Event::Paused { .. } | Event::Recovered { .. } => {}
        }
    }

    fn accept(&mut self, location: &str, unit: Unit, accepted: Accepted) {
        if let Some(model) = accepted.outcome.model() {
            let of = Model::of(&unit, &self.account.run.spec().judge);
            let first = *self.models.entry(of).or_insert(*model);
            if first != *model {
                let problem = format!("{unit} was done with model {model}, the run's first result with {first}");
                self.findings.add(Rule::Policy, location, problem);
            }
        }
        if let Some(before) = self.lost.remove(&unit)
            && before.assignment.as_ref().map(Assignment::encoded_anew)
                == accepted.assignment.as_ref().map(Assignment::encoded_anew)
            && let Err(difference) = compare(&unit, &before.outcome, &accepted.outcome)
        {
            let problem = format!("made again after event {} was lost: {difference}", before.sequence);
            self.findings.add(Rule::Once, location, problem);
        }
        self.account.accepted.insert(unit, accepted);
    }

    fn grant(&mut self, location: &str, unit: Unit, worker: WorkerId, fence: Fence) {
        self.account.grants += 1;
        let expected = Fence(self.account.grants);
        if fence != expected {
            let problem = format!("{unit} is granted with fence {fence}; the next is {expected}");
            self.findings.add(Rule::Leases, location, problem);
            // One number out of order is one finding, not one for each later grant.
            self.account.grants = fence.0;
        }
        if self.quarantined.contains(&worker) {
            let problem = format!("{unit} is granted to {worker}, which is in quarantine");
            self.findings.add(Rule::Leases, location, problem);
        }
        if let Some(open) = self.open.get(&unit) {
            let problem = format!("{unit} is granted to {worker} while {} holds it", open.worker);
            self.findings.add(Rule::Leases, location, problem);
        }
        if let Some(accepted) = self.account.accepted.get(&unit) {
            let problem = format!("{unit} is granted again after its result, event {}", accepted.sequence);
            self.findings.add(Rule::Once, location, problem);
        }
        let assignment = self.account.run.assignment(&unit);
        self.open.insert(
            unit,
            Open {
                worker,
                fence,
                assignment,
            },
        );
    }

    /// Ends a lease, which must be open, with this fence, and this worker's.
    fn close(&mut self, location: &str, unit: &Unit, fence: Fence, worker: Option<&WorkerId>) -> Option<Open> {
        let Some(open) = self.open.remove(unit) else {
            let problem = format!("{unit}, fence {fence}: no lease is open");
            self.findings.add(Rule::Leases, location, problem);
            return None;
        };
        if open.fence != fence {
            let problem = format!("{unit}: fence {fence} is handed in, the open lease has {}", open.fence);
            self.findings.add(Rule::Leases, location, problem);
        }
        if let Some(worker) = worker.filter(|worker| **worker != open.worker) {
            let problem = format!("{unit}: {worker} hands in what {} holds", open.worker);
            self.findings.add(Rule::Leases, location, problem);
        }
        Some(open)
    }

    /// Lets the state machine have the event, and follows it where more ends or is taken back than the event names.
    fn apply(&mut self, location: &str, event: Event, now: Millis) {
        let completed = match &event {
            Event::Completed { unit, .. } => Some(*unit),
            _ => None,
        };
        let faults = match &event {
            Event::Failed { unusable, .. } => unusable.iter().map(|input| input.fault).collect(),
            _ => Vec::new(),
        };
        let somebody = matches!(event, Event::StepsChanged { .. } | Event::RolledBack { .. });
        let takes_back = somebody || !faults.is_empty() || matches!(event, Event::Quarantined { .. });
        let run = &mut self.account.run;
        let halted_before = run.phase().is_ended();
        if let Err(refusal) = run.apply(event, now) {
            self.refused += 1;
            if self.refused == 1 {
                self.findings
                    .add(Rule::Events, location, format!("does not apply: {refusal}"));
            }
            return;
        }
        match run.phase() {
            // The same work may give something else under other settings.
            _ if somebody => self.take_back(false),
            Phase::Failed { .. } if !halted_before => {
                self.open.clear();
                // The result with which a run cannot go on is no result of its unit.
                if let Some(unit) = completed {
                    self.account.accepted.remove(&unit);
                }
            }
            Phase::Stopped { .. } => self.open.clear(),
            _ if takes_back => self.take_back(!faults.contains(&Fault::Producer)),
            _ => {}
        }
    }

    /// Forgets leases and results that the state machine has taken back. `lost`: only bytes were lost, nobody is to blame.
    fn take_back(&mut self, lost: bool) {
        let Account {
            run,
            accepted,
            taken_back,
            ..
        } = &mut self.account;
        self.open
            .retain(|unit, open| run.lease(unit).is_some_and(|lease| lease.fence == open.fence));
        let gone: Vec<Unit> = accepted.keys().filter(|unit| !run.is_accepted(unit)).copied().collect();
        for unit in gone {
            *taken_back += 1;
            if let Some(before) = accepted.remove(&unit)
                && lost
            {
                self.lost.insert(unit, before);
            }
        }
    }
}
